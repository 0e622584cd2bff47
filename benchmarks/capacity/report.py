"""The coefficients of the model, how far it is right, and the plot: all from benchmarks/results/capacity.json."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from benchmarks.capacity.measuring import (
    CHECKED,
    DISTURBED,
    FIT,
    HITS,
    MISSED,
    MISSED_LARGE,
    NOTED,
    NOTED_LARGE,
    PARSED,
    POSED,
    RENOTED,
    SEVERAL,
    STORED,
    STORED_LARGE,
    Case,
)
from ollama_cache_proxy.core.fast_notes import NOTE_BYTES
from ollama_cache_proxy.core.fast_path import CAPACITY
from ollama_cache_proxy.service.settings import Settings
from ollama_cache_proxy.workbench.capacity import Coefficients, Cost, Costs, Mix, costs, mix_of

Results = dict[str, Any]

BEGIN: Final = "<!-- what follows is made by `python -m benchmarks.capacity --report` -->"
MODULE: Final = '''"""What `plan` computes with; made by `python -m benchmarks.capacity --report`."""

from __future__ import annotations

from typing import Final

from ollama_cache_proxy.workbench.capacity import Coefficients, Cost, Costs

MEASURED: Final = Coefficients(
{values})
'''
SCENARIOS: Final = {
    "A team": "plan --clients 20 --per-client 6 --hit-rate 0.4",
    "An office": "plan --clients 500 --per-client 4 --hit-rate 0.6 --entry-bytes 4000 --gpus 8 --parallel 4"
    " --workers 2",
    "A RAG pipeline": "plan --rate 300 --hit-rate 0.8 --entry-bytes 16000 --entries 5e6 --miss-seconds 0.05 --gpus 4"
    " --workers 2 --node-gb 128",
    "10,000 requests a second, a billion entries": "plan --rate 10000 --hit-rate 0.9 --entries 1e9 --gpus 2500"
    " --parallel 4 --hosts 4 --workers 4 --store-nodes 64 --node-gb 64",
}
"""Loads of the page, and the commands that compute them."""
_HOT_BYTES: Final = Settings.model_fields["hot_bytes"].default
_HOT_ENTRY: Final = 1100.0
"""As stores/memory.py counts it for a response with two fields."""
_DIGITS: Final = 3
_NOTHING: Final = 0.5
"""Microseconds below which an error in per cent says nothing."""
_BLUE, _GREY, _DARK = "#2563eb", "#64748b", "#334155"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure of the model beside the measured one: least, median and most of its runs."""

    least: float
    measured: float
    most: float
    model: float

    @property
    def error(self) -> float:
        """The model's deviation, as a share of what was measured."""
        return self.model / self.measured - 1


def _runs(rows: Sequence[Results], case: Case, figure: str) -> list[float]:
    (found,) = (row["runs"] for row in rows if Case(**{f.name: row[f.name] for f in fields(Case)}) == case)
    return [run[figure] for run in found]


def coefficients(results: Results) -> Coefficients:
    """Return the coefficients: two sizes give a fixed part and one for each byte, and mixes what is hidden in them."""
    rows = results["fit"]

    def middle(case: Case, figure: str) -> float:
        return statistics.median(_runs(rows, case, figure))

    def cost(small: Case, large: Case, figure: str, less: tuple[float, float] = (0, 0)) -> Cost:
        low, high = middle(small, figure) - less[0], middle(large, figure) - less[1]
        byte = max(0.0, (high - low) / (large.body - small.body))
        return Cost(fixed=_rounded(low - byte * small.body), byte=_rounded(byte))

    def hits(case: Case, figure: str, missed: Cost) -> float:
        """Return the cost of a hit in a mix."""
        return (middle(case, figure) - (1 - case.hit) * missed.of(case.body)) / case.hit

    def share(case: Case) -> Mix:
        return mix_of(hit=case.hit, body=case.body, entries=case.entries, hot_bytes=_HOT_BYTES, known=bounds)

    def lease(figure: str) -> float:
        return _rounded(statistics.median(run[figure] for run in results["leases"]))

    bounds = replace(_NOTHING_KNOWN, notes=CAPACITY // NOTE_BYTES, hot_entry=_HOT_ENTRY)
    noted = cost(NOTED, NOTED_LARGE, "proxy")
    stored = cost(STORED, STORED_LARGE, "proxy", (middle(NOTED, "proxy"), middle(NOTED_LARGE, "proxy")))
    missed = cost(MISSED, MISSED_LARGE, "proxy")
    posed = _without_note(middle(POSED, "proxy"), share(POSED), noted, stored)
    renoted = _without_note(middle(RENOTED, "proxy"), share(RENOTED), noted, stored)
    noting = (renoted - posed) / (share(RENOTED).again - share(POSED).again)
    disturbed = max(0.0, hits(DISTURBED, "proxy", missed) - noted.of(DISTURBED.body))
    between = replace(noted, fixed=noted.fixed + disturbed)
    parsed = _without_note(hits(PARSED, "proxy", missed), share(PARSED), between, stored)
    store_found, store_missed = cost(STORED, STORED_LARGE, "store"), cost(MISSED, MISSED_LARGE, "store")
    there, mix = hits(PARSED, "store", store_missed) / (1 - share(PARSED).hot), share(PARSED)
    notices = {name: statistics.median(run[name] for run in results["notices"]) for name in ("proxy", "store")}
    every = [*rows, *results["checked"]]
    cases = (*FIT, *CHECKED)
    return replace(
        bounds,
        noted=noted,
        disturbed=_rounded(disturbed),
        posed=_rounded(posed - noting * share(POSED).again),
        noting=_rounded(noting),
        parsed=_rounded(parsed),
        stored=stored,
        missed=missed,
        lease=Costs(proxy=lease("proxy"), store=lease("store"), commands=lease("commands"), wire=lease("bytes")),
        several=_rounded(max(1.0, (middle(SEVERAL, "proxy") - notices["proxy"]) / middle(MISSED, "proxy"))),
        notice=_rounded(notices["proxy"]),
        store_found=store_found,
        store_parsed=_rounded(
            (there - mix.noted * store_found.of(mix.body)) / (1 - mix.noted) - store_found.byte * mix.body
        ),
        store_missed=store_missed,
        store_notice=_rounded(max(0.0, notices["store"])),
        commands_found=_rounded(middle(POSED, "commands") / (1 - share(POSED).hot)),
        commands_missed=_rounded(middle(MISSED, "commands")),
        wire_found=_rounded(middle(STORED, "bytes") - STORED.body),
        wire_missed=_rounded(middle(MISSED, "bytes") - MISSED.body),
        entry=_rounded(statistics.median(row["bytes"] - row["body"] for row in results["memory"])),
        bodies=(min(case.body for case in cases), max(case.body for case in cases)),
        entries=max(case.entries for case in cases),
        workers=max(case.workers for case in cases),
        store_busy=_rounded(max(run["store_busy"] for row in every for run in row["runs"])),
    )


def _without_note(hit: float, mix: Mix, noted: Cost, stored: Cost) -> float:
    """Return what a hit without a note costs in the hot tier, beside its bytes, where hits cost `hit` on average."""
    known = mix.noted * noted.of(mix.body) + (1 - mix.hot) * stored.of(mix.body)
    return (hit - known) / (1 - mix.noted) - noted.byte * mix.body


_UNKNOWN: Final[dict[str, Any]] = {
    field.name: Cost(fixed=0) if field.type == "Cost" else 0 for field in fields(Coefficients)
} | {"lease": Costs(proxy=0, store=0, commands=0, wire=0)}
_NOTHING_KNOWN: Final = Coefficients(**_UNKNOWN)


def _rounded(value: float) -> float:
    """Return a value with as many digits as are worth keeping."""
    return float(f"{value:.{_DIGITS}g}")


def module(known: Coefficients) -> str:
    """Return the module with the coefficients."""
    lines = (f"    {field.name}={_literal(getattr(known, field.name))},\n" for field in fields(known))
    return MODULE.format(values="".join(lines))


def _literal(value: Any) -> str:
    if isinstance(value, Cost | Costs):
        members = (f"{field.name}={getattr(value, field.name)!r}" for field in fields(value))
        return f"{type(value).__name__}({', '.join(members)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))})"
    return f"{value:_}" if isinstance(value, int) else repr(value)


def checks(results: Results, known: Coefficients) -> Iterator[tuple[Case, Check, Check]]:
    """Yield each case that the model is checked against: CPU of a request of the proxy, and of the store."""
    for case in CHECKED:
        model = _model(case, known)
        proxy, store = (_runs(results["checked"], case, figure) for figure in ("proxy", "store"))
        yield case, _check(proxy, model.proxy), _check(store, model.store)


def _model(case: Case, known: Coefficients) -> Costs:
    mix = mix_of(hit=case.hit, body=case.body, entries=case.entries, hot_bytes=_HOT_BYTES / case.workers, known=known)
    return costs(mix, known, processes=case.workers, several=case.workers > 1)


def _check(runs: Sequence[float], model: float) -> Check:
    return Check(least=min(runs), measured=statistics.median(runs), most=max(runs), model=model)


def page(written: str, results: Results) -> str:
    """Return the page with its generated end."""
    known = coefficients(results)
    about = [f"- {name}: {text}" for name, text in results["machine"].items()]
    made = [
        *("", "## What was measured", "", *about, "", *_coefficients(results, known)),
        *("", "## The model beside it", "", *_checked(results, known), "", *_memory(results, known)),
        *("", "## Loads", "", *_scenarios()),
    ]
    return written[: written.index(BEGIN) + len(BEGIN)] + "\n" + "\n".join(made) + "\n"


def _coefficients(results: Results, known: Coefficients) -> Iterator[str]:
    yield "| what | fixed | for each 1,000 bytes of a response |"
    yield "|---|---|---|"
    for title, cost in (
        ("proxy, a noted hit in the hot tier: µs of CPU", known.noted),
        ("more for it, where misses come between", Cost(fixed=known.disturbed)),
        ("proxy, a posed hit", Cost(fixed=known.posed, byte=known.noted.byte)),
        ("more for it, where it gets a note", Cost(fixed=known.noting)),
        ("proxy, a parsed hit", Cost(fixed=known.parsed, byte=known.noted.byte)),
        ("more for each of these, where it is in the store", known.stored),
        ("proxy, a miss", known.missed),
        ("more for it, where it takes a lease (several proxies)", Cost(fixed=known.lease.proxy)),
        ("store, a noted or posed hit: µs of CPU", known.store_found),
        ("store, a parsed hit", Cost(fixed=known.store_parsed, byte=known.store_found.byte)),
        ("store, a miss", known.store_missed),
        ("more for it, where it takes a lease", Cost(fixed=known.lease.store)),
        ("store, memory of an entry: bytes", Cost(fixed=known.entry, byte=1)),
        ("between proxy and store, a hit: bytes", Cost(fixed=known.wire_found, byte=1)),
        ("between proxy and store, a miss: bytes", Cost(fixed=known.wire_missed, byte=1)),
        ("hot tier, memory of an entry, as it counts: bytes", Cost(fixed=known.hot_entry, byte=1)),
    ):
        yield f"| {title} | {_text(cost.fixed)} | {_text(cost.byte * 1000)} |"
    heard = sorted(run["proxy"] for run in results["notices"])
    told = sorted(run["store"] for run in results["notices"])
    yield f"| each process, a notice of a write: µs of CPU ({_spread(heard)}) | {_text(known.notice)} | |"
    yield f"| store, a notice to a process: µs of CPU ({_spread(told)}) | {_text(known.store_notice)} | |"
    yield f"| notes of a process, as it bounds them | {known.notes:,} | |"
    yield f"| store, commands of a noted or posed hit | {_text(known.commands_found)} | |"
    yield f"| store, commands of a miss | {_text(known.commands_missed)} | |"
    leased = sorted(run["proxy"] for run in results["leases"])
    yield f"| store, commands of a lease ({_spread(leased)} µs of the proxy) | {_text(known.lease.commands)} | |"
    yield f"| a request with two workers on a host × with one | {_text(known.several)} | |"


def _spread(values: Sequence[float]) -> str:
    return f"{_text(values[0])} to {_text(values[-1])}"


def _checked(results: Results, known: Coefficients) -> Iterator[str]:
    found = list(checks(results, known))
    errors = sorted(abs(proxy.error) for _, proxy, _ in found)
    yield (
        f"CPU of the proxy for a request: half of the {len(errors)} errors are within {statistics.median(errors):.0%},"
        f" all within {errors[-1]:.0%}. None of these cases is one that the coefficients are made of."
    )
    yield ""
    yield "| entries | bytes | hit rate | workers | proxy, µs | model | error | store, µs | model | error |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for case, proxy, store in found:
        about = f"{case.entries:,} | {case.body:,} | {case.hit:g} | {case.workers}"
        yield f"| {about} | {_columns(proxy)} | {_columns(store)} |"


def _columns(check: Check) -> str:
    """Return the cells of a check."""
    small = max(check.measured, check.model) < _NOTHING
    error = "–" if small else f"{check.error:+.0%}"
    return f"{_text(check.measured)} ({_spread([check.least, check.most])}) | {_text(check.model)} | {error}"


def _memory(results: Results, known: Coefficients) -> Iterator[str]:
    yield "| entries | bytes of a response | store's memory for an entry | model | error |"
    yield "|---|---|---|---|---|"
    for row in results["memory"]:
        model = row["body"] + known.entry
        yield (
            f"| {row['entries']:,} | {row['body']:,} | {row['bytes']:,.0f} | {model:,.0f}"
            f" | {model / row['bytes'] - 1:+.1%} |"
        )


def _scenarios() -> Iterator[str]:
    for title, command in SCENARIOS.items():
        run = (sys.executable, "-m", "ollama_cache_proxy", *command.split())  # a process has the newest coefficients
        said = subprocess.run(run, capture_output=True, text=True, check=True).stdout  # noqa: S603 - fixed commands
        yield from (f"### {title}", "", "```console", f"$ ollama-cache-proxy {command}", *said.splitlines(), "```", "")


def _text(value: float) -> str:
    """Return a figure with three digits that count."""
    rounded = _rounded(value)
    return f"{rounded:,.0f}" if abs(rounded) >= 10**_DIGITS else f"{rounded:g}"


# The plot: two panels, both axes logarithmic.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """A panel: its place, and the powers of ten at the ends of its axes."""

    left: float
    title: str
    x: tuple[int, int]
    y: tuple[int, int]
    ticks: dict[float, str]
    levels: dict[float, str]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point."""
        right, up = (
            (math.log10(value) - least) / (most - least) for value, (least, most) in ((x, self.x), (y, self.y))
        )
        return self.left + _WIDTH * right, _TOP + _HEIGHT * (1 - up)

    def frame(self) -> Iterator[str]:
        """Yield grid and labels."""
        yield f'<text x="{self.left}" y="18" fill="{_DARK}">{self.title}</text>'
        for value, label in self.ticks.items():
            x, _ = self.at(value, 10.0 ** self.y[0])
            yield f'<path d="M{x:.1f} {_TOP}v{_HEIGHT}" stroke="#94a3b8" stroke-opacity="0.3"/>'
            yield f'<text x="{x:.1f}" y="{_TOP + _HEIGHT + 16}" text-anchor="middle" fill="{_GREY}">{label}</text>'
        for value, label in self.levels.items():
            _, y = self.at(10.0 ** self.x[0], value)
            yield f'<path d="M{self.left} {y:.1f}h{_WIDTH}" stroke="#94a3b8" stroke-opacity="0.3"/>'
            yield f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{_GREY}">{label}</text>'

    def line(self, points: Sequence[tuple[float, float]], *, dashed: bool) -> str:
        """Return a line through points."""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (self.at(*point) for point in points))
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        return f'<path d="M{path}" fill="none" stroke="{_BLUE}"{dashes}/>'

    def point(self, x: float, least: float, middle: float, most: float) -> Iterator[str]:
        """Yield a measured point with its spread."""
        (at, low), (_, high), (_, y) = (self.at(x, value) for value in (least, most, middle))
        yield f'<path d="M{at:.1f} {low:.1f}V{high:.1f}" stroke="{_DARK}"/>'
        yield f'<circle cx="{at:.1f}" cy="{y:.1f}" r="3" fill="{_DARK}"/>'

    def labels(self, x: float, texts: Mapping[float, str]) -> Iterator[str]:
        """Yield labels at the right of points, by their heights; none covers another."""
        above = 0.0
        for y in sorted(texts, reverse=True):
            at, level = self.at(x, y)
            above = max(level + 4, above + _LINE)
            yield f'<text x="{at + 5:.1f}" y="{above:.1f}" fill="{_GREY}">{texts[y]}</text>'


_WIDTH: Final = 290.0
_HEIGHT: Final = 230.0
_TOP: Final = 30.0
_LINE: Final = 13.0


def plot(results: Results) -> str:
    """Return the plot in SVG: cores of the proxy by rate, memory of the store by entries."""
    known = coefficients(results)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 312" font-family="sans-serif" font-size="12">',
        *_cores(results, known),
        *_bytes(results, known),
    ]
    foot = "points: measured, with the least and the most; lines: the model, dashed where it is extrapolated"
    return "\n".join([*parts, f'<text x="50" y="305" fill="{_GREY}">{foot}</text>', "</svg>"]) + "\n"


def _cores(results: Results, known: Coefficients) -> Iterator[str]:
    panel = _Panel(
        left=50.0,
        title="cores of the proxy, by requests a second (1 KB, 10,000 entries)",
        x=(1, 5),
        y=(-4, 2),
        ticks={10: "10", 100: "100", 1000: "1,000", 10_000: "10,000", 100_000: "100,000"},
        levels={0.0001: "0.0001", 0.001: "0.001", 0.01: "0.01", 0.1: "0.1", 1: "1", 10: "10", 100: "100"},
    )
    yield from panel.frame()
    labels: dict[float, str] = {}
    for hit in HITS:
        one, two = (Case(entries=10_000, body=1000, hit=hit, workers=workers) for workers in (1, 2))
        model = _model(one, known).proxy / 1e6
        edge = max(1.0, *_runs(results["checked"], one, "busy")) / model
        yield panel.line([(10, 10 * model), (edge, edge * model)], dashed=False)
        yield panel.line([(edge, edge * model), (1e5, 1e5 * model)], dashed=True)
        labels[1e5 * model] = f"{hit:.0%} hits"
        for case in (one, two):
            rate = statistics.median(_runs(results["checked"], case, "rate"))
            costs_ = sorted(value / 1e6 for value in _runs(results["checked"], case, "proxy"))
            yield from panel.point(rate, rate * costs_[0], rate * statistics.median(costs_), rate * costs_[-1])
    yield from panel.labels(1e5, labels)


def _bytes(results: Results, known: Coefficients) -> Iterator[str]:
    panel = _Panel(
        left=465.0,
        title="memory of the store, by entries",
        x=(3, 9),
        y=(6, 14),
        ticks={1e3: "1,000", 1e5: "100,000", 1e7: "10 million", 1e9: "10⁹"},
        levels={1e6: "1 MB", 1e8: "100 MB", 1e10: "10 GB", 1e12: "1 TB", 1e14: "100 TB"},
    )
    yield from panel.frame()
    labels: dict[float, str] = {}
    for size in sorted({row["body"] for row in results["memory"]}):
        taken = {row["entries"]: row["bytes"] for row in results["memory"] if row["body"] == size}
        each, edge = size + known.entry, max(taken)
        yield panel.line([(1e3, 1e3 * each), (edge, edge * each)], dashed=False)
        yield panel.line([(edge, edge * each), (1e9, 1e9 * each)], dashed=True)
        labels[1e9 * each] = f"{size:,} bytes"
        for entries, used in taken.items():
            yield from panel.point(entries, *[entries * used] * 3)
    yield from panel.labels(1e9, labels)
