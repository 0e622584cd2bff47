"""Write dashboards/ollama-cache-proxy.json: `python -m dashboards.generate`, in the root of the project.

The format is that of Grafana 10.2 to 11; 12 and 13 migrate it as they read it.
tests/e2e/prometheus/test_dashboard.py checks that the file is up to date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from dashboards.board import FIRST, ROWS, Json, Panel, Query

FILE: Final = Path(__file__).parent / "ollama-cache-proxy.json"
_SCHEMA: Final = 39
_COLUMNS: Final = 24
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> Json:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": "ollama-cache-proxy",
        "title": "Ollama cache proxy",
        "description": "What the caching proxy in front of Ollama serves, from where, how fast, and what it saves.",
        "tags": ["ollama", "cache", "gpu"],
        "schemaVersion": _SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_data_source(), _instance()]},
        "panels": list(_placed()),
    }


def _data_source() -> Json:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "regex": "",
        "current": {},
        "options": [],
        "includeAll": False,
        "multi": False,
        "hide": 0,
        "refresh": 1,
    }


def _instance() -> Json:
    query = "label_values(ollama_cache_proxy_build_info, instance)"
    return {
        "name": "instance",
        "label": "Proxy",
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "instance"},
        "regex": "",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "hide": 0,
        "refresh": 2,
        "sort": 1,
    }


def _placed() -> Iterator[Json]:
    """Yield rows and panels with their positions: from left to right, line by line."""
    number = y = 0
    for title, panels in (("", FIRST), *ROWS):
        if title:
            number += 1
            yield {
                "id": number,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1},
                "panels": [],
            }
            y += 1
        x = height = 0
        for panel in panels:
            if x + panel.width > _COLUMNS:
                x, y, height = 0, y + height, 0
            number += 1
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            x += panel.width
            height = max(height, panel.height)
        y += height


def _panel(panel: Panel) -> Json:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "targets": _targets(panel.queries),
        "fieldConfig": {"defaults": _defaults(panel), "overrides": list(panel.overrides)},
        "options": {**_OPTIONS[panel.kind], **(panel.options or {})},
        "transformations": list(panel.transformations),
    }


def _targets(queries: Sequence[Query]) -> list[Json]:
    return [
        {
            "refId": chr(ord("A") + index),
            "datasource": _SOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "format": query.form,
            "instant": query.instant,
            "range": not query.instant,
        }
        for index, query in enumerate(queries)
    ]


def _defaults(panel: Panel) -> Json:
    steps = [{"color": panel.base, "value": None}, *({"color": name, "value": at} for at, name in panel.steps)]
    defaults: Json = {"unit": panel.unit, "noValue": "–", "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.lowest is not None:
        defaults["min"] = panel.lowest
    if panel.highest is not None:
        defaults["max"] = panel.highest
    match panel.kind:
        case "timeseries":
            defaults["color"] = {"mode": "palette-classic"}
            defaults["custom"] = {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 30 if panel.stacked else 10,
                "showPoints": "auto",
                "spanNulls": False,
                "axisPlacement": "auto",
                "scaleDistribution": {"type": "log", "log": 10} if panel.logarithmic else {"type": "linear"},
                "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
                "thresholdsStyle": {"mode": "dashed" if panel.steps else "off"},
            }
        case "stat" | "bargauge":
            defaults["color"] = {"mode": "thresholds"}
    return {**defaults, **(panel.defaults or {})}


_LAST: Final = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: Final[Mapping[str, Json]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": _LAST,
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    },
    "bargauge": {
        "reduceOptions": _LAST,
        "displayMode": "basic",
        "orientation": "horizontal",
        "showUnfilled": True,
        "valueMode": "color",
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "show": True, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "unit": "s"},
    },
}


def written() -> str:
    """Return the text of the file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(written(), "utf-8")
