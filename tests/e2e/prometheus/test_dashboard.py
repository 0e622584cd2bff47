"""The dashboard is what its script writes, and keeps the rules by which Grafana shows it well."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from dashboards import generate
from ollama_cache_proxy.gpu.exposition import METRICS as GPU_METRICS
from ollama_cache_proxy.telemetry.metrics import Metrics
from tests.support.prometheus import ROOT, names

BOARD: dict[str, Any] = json.loads(generate.FILE.read_text("utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
FIRST_ROW = [
    "GPU Utilization (%)",
    "GPU Memory (GB)",
    "GPU Temperature (°C)",
    "Inference Latency (ms)",
    "Throughput (Tokens/sec)",
    "Cache Hit Rate (%)",
]
UNITS = {
    *("percent", "decgbytes", "celsius", "ms", "s", "suffix:tok/s", "reqps", "ops", "short", "none", "bytes"),
    *("watth", "watt", "Bps"),
}
"""Of the identifiers that Grafana knows; any other would be shown as text behind the number."""


def test_the_file_is_what_the_script_writes() -> None:
    assert generate.FILE.read_text("utf-8") == generate.written(), "make generate"


def test_the_first_row() -> None:
    top = [panel for panel in BOARD["panels"] if panel["gridPos"]["y"] == 0]
    assert [panel["title"] for panel in sorted(top, key=lambda panel: panel["gridPos"]["x"])] == FIRST_ROW
    assert {(panel["gridPos"]["w"], panel["gridPos"]["h"]) for panel in top} == {(4, 8)}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_is_explained_and_of_a_kind_that_grafana_has(panel: dict[str, Any]) -> None:
    assert panel["type"] in ("timeseries", "stat", "gauge", "table", "bargauge", "heatmap")
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    overridden = [each for over in panel["fieldConfig"]["overrides"] for each in over["properties"]]
    assert {each["value"] for each in overridden if each["id"] == "unit"} <= UNITS
    assert panel["targets"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[0]["value"] is None
    assert [step["value"] for step in steps[1:]] == sorted(step["value"] for step in steps[1:])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_the_data_source_that_the_person_chose(panel: dict[str, Any]) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [source] * (
        1 + len(panel["targets"])
    )
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == sorted(set(letters))
    assert {(target["instant"], target["range"]) for target in panel["targets"]} <= {(True, False), (False, True)}


def test_numbers_are_unique_and_so_are_titles() -> None:
    numbers = [panel["id"] for panel in BOARD["panels"]]
    titles = [panel["title"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert len(set(titles)) == len(titles)


def test_no_panel_covers_another_or_leaves_the_grid() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in BOARD["panels"])
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24)), "a line is not full, or one is too long"


def test_the_form_is_one_that_grafana_10_to_13_take() -> None:
    """Grafana 10.2 reads up to its own version, 13 migrates any from 13 on to 42 by itself."""
    assert 38 <= BOARD["schemaVersion"] <= 40
    assert isinstance(BOARD["refresh"], str), "as version 40 has it"
    assert "time_options" not in BOARD.get("timepicker", {}), "which version 41 takes away"
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", BOARD["uid"]), "a name in the unified storage of 13"
    assert "__inputs" not in BOARD, "a variable chooses the data source, so that an import asks for nothing"
    assert "id" not in BOARD, "Grafana numbers it"
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "instance"], "what others need comes first"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD["panels"])))
    assert used - {"1"} == {"datasource", "instance", "__rate_interval", "__range"}


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_an_expression_reads_what_there_is_as_it_should_be_read(expr: str) -> None:
    described = list(Metrics().described())
    known = {metric.name for metric in described} | {metric.name for metric in GPU_METRICS}
    known |= {f"{metric.name}_bucket" for metric in described if metric.kind == "histogram"}
    assert names(expr) <= known, "no record either: the dashboard works without the rules"
    for name in names(expr):
        if name.endswith(("_total", "_bucket")):
            assert re.findall(rf"(\w+)\({name}\b", expr) in (
                ["rate"] * expr.count(name),
                ["increase"] * expr.count(name),
            )
    for labels in re.findall(r"histogram_quantile\([\d.]+, sum by \(([^)]*)\)", expr):
        assert "le" in labels.split(", ")
    assert expr.count("histogram_quantile") == len(re.findall(r"histogram_quantile\([\d.]+, sum by", expr))
    for name in set(re.findall(r"DCGM_\w+", expr)) - {"DCGM_FI_DEV_POWER_USAGE"}:
        assert re.search(rf'label_replace\([^"]*{name}[^"]*, "hostname", "\$1", "Hostname", "\(\.\+\)"\)', expr)
    for selector in re.findall(r"(?:ollama_cache_proxy|process)_\w+(\S*)", expr):
        assert selector.startswith('{instance=~"$instance"'), "the variable has no effect"


def test_provisioning_names_the_data_source_and_where_dashboards_lie() -> None:
    folder = ROOT / "config" / "grafana" / "provisioning"
    assert "type: prometheus" in (folder / "datasources" / "prometheus.yml").read_text("utf-8")
    provider = (folder / "dashboards" / "ollama-cache-proxy.yml").read_text("utf-8")
    assert "path: /var/lib/grafana/dashboards" in provider
    assert "/var/lib/grafana/dashboards" in (ROOT / "dashboards" / "README.md").read_text("utf-8")
