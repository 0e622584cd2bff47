"""The goals: figures of the proxy, mostly as ratios to another subject."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from benchmarks.interval import FEWEST, interval

Results: TypeAlias = dict[str, dict[str, list[dict[str, float]]]]
"""Runs in order, by case and subject; runs with the same index were made one after the other."""
MISSED: Final = "**missed**"
_NOT_REACHED: Final = "not reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure of a case, or its ratio to that of another subject, or to that of another case (`base`).

    `less` names a subject whose figure is subtracted first from both. An `aim` may be missed if the page explains why.
    """

    text: str
    case: str
    figure: str
    subject: str = "proxy"
    against: str = ""
    less: str = ""
    base: str = ""
    at_least: float | None = None
    at_most: float | None = None
    aim: bool = False

    def values(self, results: Results) -> list[float]:
        """Return the figure of each run."""
        runs = results[self.case]
        own = self._taken(runs, self.subject)
        if self.base:
            others = [run[self.figure] for run in results[self.base][self.subject]]
            return [value / other for value, other in zip(own, others, strict=True)]
        if self.against:
            return [value / other for value, other in zip(own, self._taken(runs, self.against), strict=True)]
        return own

    def _taken(self, runs: dict[str, list[dict[str, float]]], subject: str) -> list[float]:
        taken = [run[self.figure] for run in runs[subject]]
        if not self.less:
            return taken
        return [value - run[self.figure] for value, run in zip(taken, runs[self.less], strict=True)]

    def holds(self, results: Results) -> bool:
        """Return whether the median is within the goal; of many runs, whether its 90 % interval reaches it."""
        values = self.values(results)
        median = statistics.median(values)
        low, high = interval(values) if len(values) >= FEWEST else (median, median)
        return (self.at_least is None or high >= self.at_least) and (self.at_most is None or low <= self.at_most)


GOALS: Final = (
    Goal(
        text="hits, 64 connections: requests a second × nginx",
        case="hits-64",
        figure="rate",
        against="nginx",
        at_least=1.0,
    ),
    Goal(
        text="hits, 64 connections: requests a second × aiohttp + dict",
        case="hits-64",
        figure="rate",
        against="aiohttp dict",
        at_least=3.0,
    ),
    *(
        goal
        for case, what in (
            ("fresh-64", "a field of its own in each request"),
            ("signed-64", "that and an Authorization"),
            ("pipelined-64", "that, eight requests at once"),
        )
        for goal in (
            Goal(
                text=f"hits, 64 connections, {what}: CPU of a request × nginx",
                case=case,
                figure="cpu",
                against="nginx",
                at_most=1.6,
            ),
            Goal(
                text=f"hits, 64 connections, {what}: requests a second × nginx",
                case=case,
                figure="rate",
                against="nginx",
                at_least=0.6,
            ),
        )
    ),
    Goal(
        text="hits, 64 connections, no hot tier, never asked in this process: requests a second × aiohttp + one GET",
        case="unseen-64",
        figure="rate",
        against="aiohttp redis",
        at_least=1.5,
    ),
    Goal(
        text="hits, 1 connection, a field of its own in each request: p50 × nginx",
        case="fresh-1",
        figure="p50",
        against="nginx",
        at_most=1.3,
    ),
    Goal(
        text="hits, 64 connections, the body in other bytes each time: CPU of a request × nginx, its body as ever",
        case="spaced-64",
        figure="cpu",
        against="nginx",
        at_most=3.5,
    ),
    Goal(
        text="hits, 64 connections, a line for each as JSON: requests a second × nginx with an access log",
        case="logged-64",
        figure="rate",
        against="nginx",
        at_least=0.5,
    ),
    Goal(
        text="hits, 64 connections, no hot tier, 10,000 keys: requests a second × aiohttp + one GET",
        case="redis-64",
        figure="rate",
        against="aiohttp redis",
        at_least=1.0,
    ),
    Goal(
        text="misses, 64 connections: requests a second of 2 workers × 1 worker",
        case="workers-64",
        figure="rate",
        subject="2 workers",
        against="1 worker",
        at_least=1.7,
        aim=True,
    ),
    Goal(
        text="misses, 64 connections: CPU of a request with 2 workers × 1 worker",
        case="workers-64",
        figure="cpu",
        subject="2 workers",
        against="1 worker",
        at_most=1.15,
    ),
    Goal(
        text="misses, 64 connections: cores in use with 2 workers, of 2, load and upstream included",
        case="workers-64",
        figure="cores",
        subject="2 workers",
        at_least=1.8,
    ),
    Goal(text="hits, 1 connection: p50 × nginx", case="hits-1", figure="p50", against="nginx", at_most=1.2),
    Goal(
        text="hits, 64 connections: p99 × nginx",
        case="hits-64",
        figure="p99",
        against="nginx",
        at_most=1.0,
        aim=True,
    ),
    Goal(text="hits, 1 connection: p99, ms", case="hits-1", figure="p99", at_most=1.0),
    Goal(
        text="forwarded, 1 connection: p50 × aiohttp pass-through",
        case="pass-1",
        figure="p50",
        against="aiohttp pass",
        at_most=1.15,
    ),
    Goal(
        text="forwarded, 16 connections: requests a second × aiohttp pass-through",
        case="pass-16",
        figure="rate",
        against="aiohttp pass",
        at_least=1.1,
        aim=True,
    ),
    Goal(
        text="misses, 16 connections: requests a second × aiohttp pass-through + one GET",
        case="miss-16",
        figure="rate",
        against="aiohttp get-pass",
        at_least=0.85,
        aim=True,
    ),
    Goal(
        text="misses, 1 connection: p50 × aiohttp pass-through + one GET",
        case="miss-1",
        figure="p50",
        against="aiohttp get-pass",
        at_most=1.05,
        aim=True,
    ),
    Goal(
        text="8 streams: later than directly, p50, ms",
        case="streams-8",
        figure="p50",
        less="direct",
        at_most=0.06,
        aim=True,
    ),
    Goal(
        text="8 streams: later than directly, p50 × a relay that only copies bytes",
        case="streams-8",
        figure="p50",
        less="direct",
        against="plain relay",
        at_most=1.25,
    ),
    Goal(
        text="8 streams: later than directly, p99, ms",
        case="streams-8",
        figure="p99",
        less="direct",
        at_most=0.3,
    ),
    Goal(
        text="64 streams: CPU for 1,000 chunks × aiohttp relay",
        case="streams-64",
        figure="cpu",
        against="aiohttp relay",
        at_most=1.0,
    ),
    Goal(
        text="64 streams: CPU for 1,000 chunks × nginx",
        case="streams-64",
        figure="cpu",
        against="nginx",
        at_most=1.3,
        aim=True,
    ),
    Goal(text="64 streams: chunks merged or lost", case="streams-64", figure="merged", at_most=0.0),
    Goal(
        text="hits of recorded streams, 200 chunks, 64 connections: CPU of a request × nginx",
        case="recorded-64",
        figure="cpu",
        against="nginx",
        at_most=1.5,
    ),
    Goal(text="64 known vectors of 768 floats, hot tier: ms", case="lists", figure="known", at_most=0.7, aim=True),
    Goal(
        text="64 known vectors of 768 floats, Redis: ms",
        case="lists",
        figure="known",
        subject="proxy, no hot tier",
        at_most=4.0,
    ),
    Goal(text="half of 64 known: later than Ollama's half, ms", case="lists", figure="added", at_most=4.0),
    Goal(
        text="1,024 known vectors, hot tier: time for each × that of 512",
        case="lists",
        figure="growth",
        at_most=1.2,
    ),
    Goal(
        text="1,024 known vectors, Redis: time for each × that of 512",
        case="lists",
        figure="growth",
        subject="proxy, no hot tier",
        at_most=1.2,
    ),
    Goal(
        text="misses beside 1,000,000 entries: p50 × beside some 1,000",
        case="entries-1000000",
        figure="p50",
        subject="proxy, misses",
        base="entries-1000",
        at_most=1.1,
    ),
    Goal(
        text="hits from Redis beside 1,000,000 entries: p50 × beside 1,000",
        case="entries-1000000",
        figure="p50",
        base="entries-1000",
        at_most=1.1,
    ),
    Goal(text="64 MiB held in the hot tier: more memory, MB", case="held", figure="memory", at_most=100.0),
    Goal(text="start to the first response, s", case="start", figure="seconds", at_most=0.6),
    Goal(text="memory after the start, MB", case="start", figure="memory", at_most=70.0),
)


def table(results: Results) -> list[str]:
    """Return the lines of a table in Markdown: medians, minimum and maximum of all runs."""
    lines = ["| what | median | runs | goal | |", "|---|---|---|---|---|"]
    for goal in GOALS:
        if goal.case not in results:
            continue
        values = goal.values(results)
        bound = "aim " * goal.aim
        bound += f"≥ {goal.at_least:g}" if goal.at_least is not None else f"≤ {goal.at_most:g}"
        spread = f"{min(values):.3g} to {max(values):.3g}"
        verdict = "holds" if goal.holds(results) else _NOT_REACHED if goal.aim else MISSED
        lines.append(f"| {goal.text} | {statistics.median(values):.3g} | {spread} | {bound} | {verdict} |")
    return lines


def absolute(results: Results) -> list[str]:
    """Return the lines of a table of the absolute figures behind the ratios."""
    lines = ["| case | subject | figures: median (least to most) |", "|---|---|---|"]
    for case, subjects in results.items():
        for subject, runs in subjects.items():
            texts = []
            for name in _SHOWN.get(case.partition("-")[0], ()):
                values = [run[name] for run in runs]
                texts.append(f"{name} {statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})")
            lines.append(f"| {case} | {subject} | {', '.join(texts)} |")
    return lines


_WRK: Final = ("rate", "p50", "p99", "load_busy")
_FRESH: Final = ("rate", "cpu", "p50", "p99", "load_busy")
_SHOWN: Final[dict[str, tuple[str, ...]]] = {
    "hits": _WRK,
    **dict.fromkeys(("fresh", "signed", "pipelined", "spaced", "unseen", "logged", "recorded"), _FRESH),
    "redis": _WRK,
    "workers": ("rate", "cpu", "cores"),
    "pass": _WRK,
    "miss": _WRK,
    "streams": ("p50", "p99", "cpu"),
    "lists": ("known", "half", "stub", "long"),
    "entries": _WRK,
    "held": ("memory",),
    "start": ("seconds", "memory"),
}


def plot(results: Results) -> str:
    """Return a plot in SVG: hits a second over 64 connections, medians with their spread."""
    runs = results["hits-64"]
    rates = {name: sorted(run["rate"] for run in subject) for name, subject in runs.items()}
    top = max(values[-1] for values in rates.values())
    parts = [f'<svg xmlns="{_SVG}" viewBox="0 0 640 {40 * len(rates) + 30}" font-family="sans-serif" font-size="13">']
    for at, (name, values) in enumerate(sorted(rates.items(), key=_median, reverse=True)):
        y, middle = 10 + 40 * at, statistics.median(values)
        scale = 380 / top
        colour = "#2563eb" if name == "proxy" else "#94a3b8"
        parts += [
            f'<text x="120" y="{y + 19}" text-anchor="end" fill="#64748b">{name}</text>',
            f'<rect x="130" y="{y}" width="{middle * scale:.1f}" height="28" rx="3" fill="{colour}"/>',
            f'<path d="M{130 + values[0] * scale:.1f} {y + 14}H{130 + values[-1] * scale:.1f}" stroke="#334155"/>',
            f'<text x="{140 + values[-1] * scale:.1f}" y="{y + 19}" fill="#64748b">{middle:,.0f} /s</text>',
        ]
    foot = "hits a second on one core, 64 connections: medians, lines from the least to the most"
    parts.append(f'<text x="130" y="{40 * len(rates) + 22}" fill="#64748b">{foot}</text></svg>')
    return "\n".join(parts) + "\n"


_SVG: Final = "http://www.w3.org/2000/svg"


def _median(item: tuple[str, Any]) -> float:
    return float(statistics.median(item[1]))
