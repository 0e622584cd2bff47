"""Tables in Markdown and pictures in SVG of the figures, with a column or row for each repository."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from benchmarks.workloads import chunks, requests
from benchmarks.workloads.rates import Tallies
from benchmarks.workloads.requests import CATEGORIES, EMBED, EXPLAIN, FIX

Found: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Figures by repository."""

BEGIN: Final = "<!-- what follows is made by `python -m benchmarks.workloads --report` -->"
_SVG: Final = "http://www.w3.org/2000/svg"
_COLOURS: Final = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#4b5563")
_NONE: Final = "–"


def dumped(found: Mapping[str, Any]) -> str:
    """Return figures as JSON with a line for each request."""
    text = json.dumps(found, indent=1)
    rows = json.dumps(found["replayed"]["rows"], indent=None).replace("], [", "],\n   [")
    head, mark, _ = text.partition('"rows": [')
    return f"{head}{mark[:-1]}{rows}\n }}\n}}\n"


def _rate(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _both(tally: Mapping[str, Any]) -> str:
    return f"{_rate(tally['by_item'])} / {_rate(tally['by_request'])}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def tables(found: Found) -> list[str]:
    """Return all tables with their headings."""
    parts = (
        ("Histories", repositories(found)),
        ("With the usual rules", promises(found)),
        ("What gives more hits", advice(found)),
        ("Embeddings, by how files are cut", _by_rule(found, "embed", both=True)),
        ("Explanations, by what the prompt says", _by_rule(found, "explain")),
        ("Explanations, by how many readers each version has", _by_rule(found, "readers")),
        ("Fixes, by the shape of the prompt", _by_rule(found, "fix")),
        ("How much Ollama need not read again of what it is asked", _beginnings(found)),
        ("Beside a reference", beside_reference(found)),
        ("Lifetime, with the commits' times as the clock", lifetimes(found)),
        ("Embeddings, by what ends them, in percent of texts", kept(found)),
        ("The store, and `maxmemory` with `allkeys-lru`", rooms(found)),
        ("Forecasts beside replays", forecasts(found)),
        ("Through the proxy", replay_table({name: one["replayed"] for name, one in found.items()})),
        ("What Ollama works for the whole history", _work(found)),
    )
    return [line for title, lines in parts for line in (f"### {title}", "", *lines, "")]


def repositories(found: Found) -> list[str]:
    """Return the table of histories."""
    rows = [
        [
            name,
            one["language"],
            one["begun"],
            f"{one['commits']:,}",
            f"{one['from']} to {one['to']}",
            f"`{one['head'][:12]}`",
        ]
        for name, one in found.items()
    ]
    return _table(("repository", "language", "begun", "commits", "their time", "up to"), rows)


def promises(found: Found) -> list[str]:
    """Return the table of rates by the usual rules in percent, with lists text by text and as a whole."""
    head = (
        *("repository", "embed: texts", "embed: requests", "explain", "fix"),
        *("overall: texts", "overall: requests", "overall: texts, lists as a whole"),
    )
    rows = []
    for name, one in found.items():
        itemwise, whole = one["derived"]["usual"]["itemwise"], one["derived"]["usual"]["whole"]
        rows.append(
            [
                name,
                _rate(_at(itemwise, (EMBED, _TEXTS))),
                _rate(_at(itemwise, (EMBED, _REQUESTS))),
                *(_rate(_at(itemwise, (category, _REQUESTS))) for category in (EXPLAIN, FIX)),
                _rate(itemwise["overall"]["by_item"]),
                _rate(itemwise["overall"]["by_request"]),
                _rate(whole["overall"]["by_item"]),
            ]
        )
    return _table(head, rows)


_Way: TypeAlias = tuple[str, ...]
"""The path of a tally in the figures, and the name of one of its rates."""

_CUT, _SAID, _ASKED = ("derived", "embed"), ("derived", "explain"), ("derived", "fix")
_LISTS, _AGES, _ROOMS = ("derived", "usual"), ("derived", "lifetime"), ("stored", "maxmemory")
_KEPT = ("derived", "kept")
_TEXTS, _REQUESTS = "by_item", "by_request"
_ADVICE: Final[tuple[tuple[str, _Way, _Way], ...]] = (
    (
        "cut files by function or class, not every 1,000 characters",
        (*_CUT, "1,000 characters", _TEXTS),
        (*_CUT, chunks.USUAL, _TEXTS),
    ),
    ("… not every 40 lines", (*_CUT, "40 lines", _TEXTS), (*_CUT, chunks.USUAL, _TEXTS)),
    (
        "keep line numbers out of chunks",
        (*_CUT, "by function or class, path and lines on top", _TEXTS),
        (*_CUT, "by function or class, path on top", _TEXTS),
    ),
    (
        "… and paths",
        (*_CUT, "by function or class, path on top", _TEXTS),
        (*_CUT, chunks.USUAL, _TEXTS),
    ),
    (
        "embed lists through a cache that knows them text by text, as this one does",
        (*_LISTS, "whole", EMBED, _TEXTS),
        (*_LISTS, "itemwise", EMBED, _TEXTS),
    ),
    (
        "ask about a function by its text, without path and line",
        (*_SAID, "its path and line on top", _REQUESTS),
        (*_SAID, requests.USUAL_EXPLANATION, _REQUESTS),
    ),
    (
        "let all readers use one wording: two of them instead of one",
        ("derived", "readers", "1", _REQUESTS),
        ("derived", "readers", "2", _REQUESTS),
    ),
    (
        "put what varies last (the question before the function): no more hits, see below for Ollama's own cache",
        (*_SAID, "the question below", _REQUESTS),
        (*_SAID, requests.USUAL_EXPLANATION, _REQUESTS),
    ),
    (
        "say an error's message and its line, not where that line is",
        (*_ASKED, "message, line and where it is", _REQUESTS),
        (*_ASKED, "message and line", _REQUESTS),
    ),
    (
        "… and not 10 lines around it",
        (*_ASKED, "message and 10 lines around", _REQUESTS),
        (*_ASKED, "message and line", _REQUESTS),
    ),
    ("… or the message alone", (*_ASKED, "message and line", _REQUESTS), (*_ASKED, "the message", _REQUESTS)),
    (
        "keep embeddings for 7 days instead of 24 hours (`ttl_embedding`)",
        (*_AGES, "24 h", EMBED, _TEXTS),
        (*_AGES, "7 d", EMBED, _TEXTS),
    ),
    (
        "keep explanations for 24 hours instead of one (`ttl_completion`)",
        (*_AGES, "1 h", EXPLAIN, _REQUESTS),
        (*_AGES, "24 h", EXPLAIN, _REQUESTS),
    ),
    (
        "give the store 256 MB instead of 64",
        (*_ROOMS, "64 MB", "overall", _TEXTS),
        (*_ROOMS, "256 MB", "overall", _TEXTS),
    ),
)


def advice(found: Found) -> list[str]:
    """Return the table of advice: rates before and after, in percent of texts or requests."""
    rows = [
        [text, *(f"{_rate(_at(one, before))} → {_rate(_at(one, after))}" for one in found.values())]
        for text, before, after in _ADVICE
    ]
    return _table(
        ("", *found), [[text, *(_NONE if _NONE in cell else cell for cell in cells)] for text, *cells in rows]
    )


def _at(one: Mapping[str, Any], way: _Way) -> float | None:
    here: Any = one
    for name in way:
        here = here.get(name) if here is not None else None
    value: float | None = here
    return value


_REFERENCE: Final[dict[str, tuple[tuple[str, _Way, float], ...]]] = {
    name: tuple(
        (f"{way[1]}: {way[2]}", way, value)
        for way, value in zip(
            (
                (*_CUT, chunks.USUAL, _TEXTS),
                (*_CUT, "by paragraph, up to 1,500 characters", _TEXTS),
                (*_CUT, "40 lines", _TEXTS),
                (*_CUT, "1,000 characters", _TEXTS),
                (*_SAID, requests.USUAL_EXPLANATION, _REQUESTS),
                (*_ASKED, "the message", _REQUESTS),
                (*_ASKED, "message and line", _REQUESTS),
                (*_ASKED, "message and 3 lines around", _REQUESTS),
                (*_ASKED, "message and 10 lines around", _REQUESTS),
            ),
            values,
            strict=False,
        )
    )
    for name, values in {
        "flask": (92.6, 80.6, 52.1, 33.0, 39.4, 83.3, 24.8, 8.8, 5.6),
        "aiohttp": (93.8, 82.7, 49.5, 35.6, 33.2),
        "hishel": (78.6, 61.2, 41.7, 28.2, 46.8, 89.4, 63.1, 36.9, 25.5),
    }.items()
}
"""The rates of an independent derivation of the same rules: embeddings, explanations, fixes."""


def beside_reference(found: Found) -> list[str]:
    """Return the table of figures and those of the independent derivation, with the difference in points."""
    rows = [
        [name, what, _rate(value), _rate(figure), f"{figure - value:+.1f}"]
        for name, lines in _REFERENCE.items()
        if name in found
        for what, way, value in lines
        if (figure := _at(found[name], way)) is not None
    ]
    return _table(("repository", "rule", "reference", "here", "points"), rows) if rows else [_NONE]


def _by_rule(found: Found, group: str, *, both: bool = False) -> list[str]:
    rules = list(next(iter(found.values()))["derived"][group])
    rows = [
        [rule, *((_both if both else _alone)(one["derived"][group][rule]) for one in found.values())] for rule in rules
    ]
    return _table(("texts / requests" if both else "requests", *found), rows)


def _alone(tally: Mapping[str, Any]) -> str:
    return _rate(tally["by_request"])


def _beginnings(found: Found) -> list[str]:
    shapes = (requests.USUAL_EXPLANATION, "the question below")
    texts = ("the question first, then the function", "the function first, then the question")
    rows = [
        [text, *(_rate(one["derived"]["beginning"][shape]) for one in found.values())]
        for shape, text in zip(shapes, texts, strict=True)
    ]
    return _table(("percent of the characters", *found), rows)


def lifetimes(found: Found) -> list[str]:
    """Return the table of rates by lifetime: of texts for embeddings, of requests otherwise."""
    rows = []
    for name, one in found.items():
        for category in CATEGORIES:
            by_lifetime = one["derived"]["lifetime"]
            figures = [row[category]["by_item"] for row in by_lifetime.values() if category in row]
            if figures:
                rows.append([name, category, *map(_rate, figures)])
    return _table(("repository", "category", *next(iter(found.values()))["derived"]["lifetime"]), rows)


def kept(found: Found) -> list[str]:
    """Return the table of rates of embeddings by their kind of lifetime."""
    settings = next(iter(found.values()))["derived"]["kept"]
    rows = [[name, *(_rate(one["derived"]["kept"][name][_TEXTS]) for one in found.values())] for name in settings]
    bounds = next(iter(found.values()))["stored"]["maxmemory"]
    rows += [
        [
            f"until-evicted, in {name} with explanations and fixes",
            *(_rate(one["stored"]["maxmemory"][name][EMBED][_TEXTS]) for one in found.values()),
        ]
        for name in bounds
    ]
    return _table(("`lifetime`, `ttl_embedding`", *found), rows)


def forecasts(found: Found) -> list[str]:
    """Return the table of forecasts, each with the replay in brackets, and of how far off they are."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    off = dict.fromkeys(found, 0.0)
    for name, one in found.items():
        for row in one["forecasts"]:
            shown = f"{_rate(row['forecast'])} ({_rate(row['replay'])})"
            cells.setdefault((row["setting"], row["of"]), {})[name] = shown
            off[name] = max(off[name], abs(row["forecast"] - row["replay"]))
    rows = [[f"{setting}, {of}", *(row.get(name, _NONE) for name in found)] for (setting, of), row in cells.items()]
    rows.append(["points between both, at most", *(f"{value:.1f}" for value in off.values())])
    return _table(("forecast (replay)", *found), rows)


def rooms(found: Found) -> list[str]:
    """Return the table of entry sizes, and of rates of texts with a bounded store."""
    rows = []
    for name, one in found.items():
        stored = one["stored"]
        sizes = ", ".join(f"{stored['sizes'][category]:,}" for category in CATEGORIES)
        bounded = [
            f"{_rate(room['overall']['by_item'])} ({room['evicted']:,})" for room in stored["maxmemory"].values()
        ]
        half = stored["halved"]
        check = f"{_rate(half['real'])} ({half['evicted']:,}), {_rate(half['derived'])} ({half['derived_evicted']:,})"
        rows.append([name, f"{stored['entries']:,}", sizes, f"{stored['bytes'] / 1e6:,.0f} MB", *bounded, check])
    bounds = [f"{name} (evicted)" for name in next(iter(found.values()))["stored"]["maxmemory"]]
    check = "half of what the replayed requests need: real, derived"
    return _table(("repository", "entries", "bytes of one: embed, explain, fix", "all of them", *bounds, check), rows)


def replay_table(replays: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the table of measurements by category: rates in percent, latencies in milliseconds."""
    head = (
        *("repository", "category", "requests", "hits: texts / requests", "derived: texts / requests"),
        *("average without → with", "p50", "p95", "a hit: p50", "requests a second"),
        *("Ollama works", "scale"),
    )
    rows = []
    for name, one in replays.items():
        for category, group in one["groups"].items():
            plain, cached = group["without"], group["with"]
            pairs = [f"{plain[key]:,.0f} → {cached[key]:,.0f} ms" for key in ("average", "p50", "p95")]
            hit = f"{group['hit']['p50']:.1f} ms" if group["hit"] else _NONE
            rows.append(
                [
                    *(name, category, f"{group['requests']:,}", _both(group)),
                    f"{_rate(group['derived_by_item'])} / {_rate(group['derived_by_request'])}",
                    *pairs,
                    hit,
                    f"{plain['rate']:.2f} → {cached['rate']:.2f}",
                    f"{group['ollama_without']:,.0f} → {group['ollama_with']:,.0f} s",
                    f"{one['scale']:.4f}",
                ]
            )
    return _table(head, rows)


def _work(found: Found) -> list[str]:
    rows = []
    for name, one in found.items():
        pairs = [one["worked"].get(category) for category in CATEGORIES]
        every = _whole_work(one)
        shown = [f"{pair['without']:,.0f} → {pair['with']:,.0f} s" if pair else _NONE for pair in [*pairs, every]]
        saved = every["without"] - every["with"]
        count = one["derived"]["usual"]["itemwise"]["overall"]["requests"]
        average = f"{1000 * every['without'] / count:,.0f} → {1000 * every['with'] / count:,.0f} ms"
        ratio = f"{every['without'] / every['with']:.1f} ×"
        rows.append([name, *shown, f"{saved / 3600:.1f} h, {100 * saved / every['without']:.0f} %", average, ratio])
    return _table(("repository", *CATEGORIES, "all", "saved", "a request, on average", "without ÷ with"), rows)


def _whole_work(one: Mapping[str, Any]) -> dict[str, float]:
    return {key: sum(pair[key] for pair in one["worked"].values()) for key in ("without", "with")}


def summary(name: str, tallies: Tallies, measured: Mapping[str, Any]) -> str:
    """Return the main figures in one line."""
    shown = [
        f"{category} {_rate(tally.by_item)} %" for category, tally in tallies.by_category.items() if tally.requests
    ]
    every = measured["groups"]["overall"]
    times = f"{every['without']['average']:,.0f} → {every['with']['average']:,.0f} ms"
    rate = f"{every['with']['rate'] / every['without']['rate']:.1f} × the requests a second"
    return f"{name}: {', '.join(shown)}, overall {_rate(tallies.overall.by_item)} % of texts, {times}, {rate}"


def claims(found: Found) -> list[str]:
    """Return the table in the README: minimum and maximum over all repositories."""
    every = list(found.values())

    def span(*ways: _Way) -> str:
        values = [value for one in every for way in ways if (value := _at(one, way)) is not None]
        return f"{_rate(min(values))} to {_rate(max(values))} %"

    def between(values: Sequence[float]) -> str:
        return f"{min(values):.1f} to {max(values):.1f}"

    ratios = [work["without"] / work["with"] for work in map(_whole_work, every)]
    hits = [one["replayed"]["groups"]["overall"]["hit"]["p50"] for one in every]
    usual = (*_LISTS, "itemwise")
    apart = (*_CUT, "1,000 characters", _TEXTS)
    rows = (
        ("embeddings of a file that changed, by function", span((*_CUT, chunks.USUAL, _TEXTS)), "the texts"),
        ("… cut every 1,000 characters", span(apart), "the texts"),
        ("… by function, but kept for a day only", span((*_AGES, "24 h", EMBED, _TEXTS)), "the texts"),
        (
            "… by function, with a new version of Ollama each month",
            span((*_KEPT, "until-evicted, a new version of Ollama each month", _TEXTS)),
            "the texts",
        ),
        (
            "explanations of a changed function, old and new, one reader",
            span((*usual, EXPLAIN, _REQUESTS)),
            "the requests",
        ),
        ("… two readers", span(("derived", "readers", "2", _REQUESTS)), "the requests"),
        (
            "fixes (of the three in Python), asked with the message alone",
            span((*_ASKED, "the message", _REQUESTS)),
            "the requests",
        ),
        ("… with the message and its line", span((*_ASKED, "message and line", _REQUESTS)), "the requests"),
        ("… with 10 lines around it", span((*_ASKED, "message and 10 lines around", _REQUESTS)), "the requests"),
        ("all three together", span((*usual, "overall", _TEXTS)), "the texts"),
        ("… counted by requests", span((*usual, "overall", _REQUESTS)), "the requests"),
        ("requests a second, where Ollama takes the time", f"{between(ratios)} times", "what it is without"),
        ("a hit, median", f"{between(hits)} ms", ""),
    )
    return _table(("what", "known already", "of"), rows)


def page(written: str, found: Found) -> str:
    """Return the page with its generated part replaced."""
    return written[: written.index(BEGIN) + len(BEGIN)] + "\n\n" + "\n".join(tables(found)).rstrip() + "\n"


# Pictures


def rates_picture(found: Found) -> str:
    """Return a picture of the rates of each rule: a dot for each repository."""
    groups = (
        ("embed: of texts", "embed", "by_item", list(chunks.RULES)),
        ("explain, one reader", "explain", "by_request", list(requests.EXPLANATIONS)[:3]),
        ("explain, the function alone", "readers", "by_request", ["1", "2", "3"]),
        ("fix", "fix", "by_request", list(requests.FIXES)),
    )
    y, parts = 46, _legend(found)
    for title, group, figure, rules in groups:
        parts.append(f'<text x="10" y="{y}" font-weight="bold" fill="#64748b">{title}</text>')
        for rule in rules:
            y += 22
            text = f"{rule} reader{'s' * (rule != '1')}" if group == "readers" else rule
            parts.append(f'<text x="290" y="{y}" text-anchor="end" fill="#64748b">{text}</text>')
            parts.append(f'<path d="M300 {y - 4}H700" stroke="#cbd5e1"/>')
            for colour, one in zip(_COLOURS, found.values(), strict=False):
                value = one["derived"][group][rule][figure]
                if value is not None:
                    parts.append(f'<circle cx="{300 + 4 * value:.1f}" cy="{y - 4}" r="5" fill="{colour}"/>')
        y += 32
    for percent in range(0, 101, 20):
        parts.append(f'<text x="{300 + 4 * percent}" y="{y}" text-anchor="middle" fill="#64748b">{percent} %</text>')
    return _svg(740, y + 14, parts)


def latency_picture(found: Found) -> str:
    """Return a picture of the average latency of the replayed requests, without and with the cache."""
    y, parts = 20, []
    groups = {name: one["replayed"]["groups"]["overall"] for name, one in found.items()}
    top = max(group["without"]["average"] for group in groups.values())
    for name, group in groups.items():
        parts.append(f'<text x="120" y="{y + 16}" text-anchor="end" fill="#64748b">{name}</text>')
        for key, colour in (("without", "#94a3b8"), ("with", "#2563eb")):
            value = group[key]["average"]
            width = 400 * value / top
            parts.append(f'<rect x="130" y="{y}" width="{width:.1f}" height="14" rx="2" fill="{colour}"/>')
            parts.append(f'<text x="{138 + width:.1f}" y="{y + 12}" fill="#64748b">{value:,.0f} ms {key}</text>')
            y += 16
        y += 12
    parts.append(f'<text x="130" y="{y + 8}" fill="#64748b">average latency of the replayed requests</text>')
    return _svg(700, y + 20, parts)


def _legend(found: Found) -> list[str]:
    parts, x = [], 300
    for colour, name in zip(_COLOURS, found, strict=False):
        parts.append(f'<circle cx="{x}" cy="14" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{x + 9}" y="18" fill="#64748b">{name}</text>')
        x += 26 + 8 * len(name)
    return parts


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="{_SVG}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">'
    return "\n".join([head, *parts, "</svg>"]) + "\n"
