"""The fault matrix: what may go wrong, and the figure that it may cost at most. `make faults` prints it as a table.

A test measures its row with the fixture `measured`. It fails when a figure is exceeded; a time, which other work on the
machine can stretch, when it is exceeded five times. In the table a row is judged by the figure itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SLACK = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured, in which unit, and what it may be at most. What is no time is held exactly."""

    at_most: float
    unit: str
    what: str

    @property
    def is_time(self) -> bool:
        """Whether other work on the machine can stretch it."""
        return self.unit in ("ms", "s", "x")


@dataclass(frozen=True, slots=True)
class Row:
    """One fault, and its figures by name."""

    fault: str
    figures: dict[str, Figure]


MATRIX: dict[int, Row] = {
    1: Row("Redis refuses", {"added": Figure(20, "ms", "added to a miss")}),
    2: Row("Redis is killed under load", {"errors": Figure(0, "", "errors in 1,000")}),
    3: Row("Redis is stopped", {"slow": Figure(5, "", "slow requests"), "wait": Figure(0.3, "s", "the slowest")}),
    4: Row("Redis goes on", {"back": Figure(2, "s", "until it hits again")}),
    5: Row("Redis is loading", {"added": Figure(0.2, "s", "added to a miss")}),
    6: Row("Redis is full, or a read-only replica", {"errors": Figure(0, "", "errors")}),
    7: Row("wrong password for Redis", {"lines": Figure(1, "", "log lines a minute")}),
    8: Row("Redis takes no more clients, or pauses", {"wait": Figure(0.3, "s", "the slowest")}),
    9: Row("Redis is emptied, or restarted", {"errors": Figure(0, "", "errors")}),
    10: Row("entries are damaged", {"wrong": Figure(0, "", "wrong answers")}),
    11: Row("requests are cancelled at random points", {"wrong": Figure(0, "", "wrong in 36,000")}),
    12: Row("Ollama refuses", {"wait": Figure(1, "s", "until a 502"), "lost": Figure(0, "", "hits lost")}),
    13: Row("Ollama is killed in the middle of a body", {"complete": Figure(0, "", "of 200 look complete")}),
    14: Row("Ollama restarts, 30 times", {"lost": Figure(0, "", "of 150 lost")}),
    15: Row("Ollama is stopped, upstream_timeout 1 s", {"late": Figure(0.5, "s", "504 after the deadline")}),
    16: Row("Ollama answers errors and junk", {"stored": Figure(0, "", "stored")}),
    17: Row(
        "a client leaves during a miss or a stream",
        {"cancel": Figure(100, "ms", "until Ollama is told"), "leaked": Figure(0, "", "connections leaked")},
    ),
    18: Row("the first of several equal misses leaves", {"errors": Figure(0, "", "errors")}),
    19: Row("64 MiB to a slow reader", {"memory": Figure(20, "MB", "more memory")}),
    20: Row(
        "300 slow heads",
        {"p99": Figure(50, "ms", "p99 of hits"), "late": Figure(1, "s", "closed after the deadline")},
    ),
    21: Row("200 abandoned waits", {"wait": Figure(50, "ms", "the next request")}),
    22: Row("out of file descriptors", {"lines": Figure(1, "", "log lines a second")}),
    23: Row("SIGTERM under load", {"lost": Figure(0, "", "lost")}),
    24: Row("the proxy is killed", {"gone": Figure(2, "s", "until its private store is gone")}),
    25: Row("models are pulled and created anew", {"stale": Figure(0, "", "stale answers")}),
    26: Row("clear while stores are in flight", {"stale": Figure(0, "", "stale answers")}),
    27: Row("a gzip bomb of 1 GiB", {"memory": Figure(20, "MB", "more memory")}),
    28: Row("20 bodies of 99 MiB at once", {"memory": Figure(268, "MB", "more memory, bound 256 MiB")}),
    29: Row("everything is evicted", {"revived": Figure(0, "", "cleared entries that came back")}),
    30: Row(
        "TLS asked of a plain Redis, or the reverse",
        {"errors": Figure(0, "", "errors in 200"), "lines": Figure(1, "", "lines that say so")},
    ),
    31: Row(
        "Redis resets, breaks off or is none",
        {
            "errors": Figure(0, "", "errors in 200"),
            "starts": Figure(0, "", "of 12 starts fail"),
            "back": Figure(2, "s", "until the hot tier works again"),
        },
    ),
    39: Row(
        "Sentinels make another server the primary",
        {"errors": Figure(0, "", "errors"), "back": Figure(5, "s", "hits back, after down-after")},
    ),
    40: Row(
        "a cluster loses a node, or slots move",
        {
            "errors": Figure(0, "", "errors"),
            "back": Figure(2, "s", "hits back, after node timeout"),
            "misses": Figure(0.05, "", "known requests missed, by moves"),
            "revived": Figure(0, "", "cleared entries that came back"),
        },
    ),
    38: Row("a node of a cluster, a Sentinel", {"errors": Figure(0, "", "errors"), "lines": Figure(1, "", "lines")}),
    32: Row("Redis is stopped, the breaker open", {"waiting": Figure(0, "", "lookups")}),
    33: Row(
        "Redis is slow, or far away",
        {
            "misses": Figure(0, "", "known requests that missed"),
            "unavailable": Figure(0, "", "lookups in vain"),
            "slower": Figure(20, "ms", "hit slower than a miss"),
        },
    ),
    34: Row(
        "Redis drops 1 of 20 connections",
        {
            "errors": Figure(0, "", "errors"),
            "misses": Figure(0, "", "known requests that missed"),
            "p99": Figure(2, "x", "p99 of hits"),
        },
    ),
    35: Row(
        "Redis is full, and evicts nothing",
        {"uncleared": Figure(0, "", "not cleared"), "said": Figure(0, "", "wrongly said to be stored")},
    ),
    36: Row(
        "a read-only replica, or no right to write",
        {"misses": Figure(0, "", "known requests that missed"), "said": Figure(0, "", "wrongly said to be stored")},
    ),
    37: Row(
        "Redis refuses a command, or is an old one",
        {"wrong": Figure(0, "", "wrong or failed answers"), "lines": Figure(1, "", "log lines a command")},
    ),
    41: Row(
        "as many idle clients as there are places",
        {"refused": Figure(0, "", "refused"), "cut": Figure(0, "", "cut while under way")},
    ),
    43: Row(
        "50 equal requests, Ollama fails",
        {"asks": Figure(3, "", "asks"), "unanswered": Figure(0, "", "without an answer")},
    ),
    44: Row(
        "SIGHUP with streams under way",
        {"cut": Figure(0, "", "of 20 streams cut"), "wrong": Figure(0, "", "wrong or failed answers")},
    ),
    45: Row("a change of a model in another form of target", {"stale": Figure(0, "", "stale answers")}),
    47: Row("a Redis URL with an odd password", {"shown": Figure(0, "", "outputs that show it")}),
    42: Row("one request of 8 MiB, or a response of 64 MiB", {"turn": Figure(20, "ms", "CPU time of a turn")}),
    46: Row("requests in odd forms", {"otherwise": Figure(0, "", "read otherwise than by Ollama")}),
    48: Row(
        "wrong admin tokens",
        {
            "at once": Figure(5, "", "answered at once"),
            "lines": Figure(1, "", "log lines a minute"),
            "right": Figure(50, "ms", "the right one, median"),
        },
    ),
    49: Row(
        "wrong entries are planted, audit on",
        {
            "missed": Figure(0, "", "of 57 not found at 100 %"),
            "late": Figure(0, "%", "of seeds over 199 hits at 1 %"),
            "token": Figure(1.25, "times", "first token of a chat"),
        },
    ),
    50: Row(
        "the holder of a shared flight is killed",
        {
            "asks": Figure(2, "", "asks"),
            "errors": Figure(0, "", "clients of others without a 200"),
            "torn": Figure(0, "", "torn answers"),
        },
    ),
    51: Row(
        "a kept store is killed, or its files cut",
        {
            "wrong": Figure(0, "", "wrong answers"),
            "revived": Figure(0, "", "cleared entries that came back"),
            "lost": Figure(0, "", "lost, answered 2 s before"),
            "in files": Figure(10, "s", "cleared or expired, in files"),
        },
    ),
    52: Row(
        "one of several Ollamas is lost",
        {
            "errors": Figure(0, "", "errors before the first byte"),
            "ejected": Figure(2, "s", "until it is ejected"),
            "back": Figure(10, "s", "until it is back"),
        },
    ),
}


def measures_time(number: int) -> bool:
    """Whether a figure of a row is a time, or a ratio of two: other work on the machine must not stretch it."""
    return any(figure.is_time or figure.unit in ("times", "x") for figure in MATRIX[number].figures.values())


LATER: dict[int, str] = {}
"""Rows of what the proxy does not do yet; they are named, and neither hold nor fail."""


@dataclass(slots=True)
class Table:
    """The worst that was measured for each figure, and how often it was."""

    worst: dict[tuple[int, str], float] = field(default_factory=dict)
    times: dict[tuple[int, str], int] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    def measured(self, row: int, name: str, value: float) -> None:
        """Take a measurement in; fails when it is out of all bounds."""
        figure = MATRIX[row].figures[name]
        place = (row, name)
        self.worst[place] = max(value, self.worst.get(place, value))
        self.times[place] = self.times.get(place, 0) + 1
        limit = figure.at_most * (SLACK if figure.is_time else 1)
        assert value <= limit, f"row {row}: {figure.what}: {value:g} {figure.unit}, at most {limit:g}"

    def lines(self) -> tuple[list[str], bool]:
        """Give the table as text, and whether every row of it holds."""
        lines = [f"{'#':>2}  {'fault':<43} {'measured':<32} {'worst':>12} {'figure':>10}  times"]
        well = True
        for number in sorted(MATRIX | LATER):
            if number in LATER:
                lines.append(f"{number:>2}  {LATER[number]:<43} later")
                continue
            row = MATRIX[number]
            for name, figure in row.figures.items():
                place = (number, name)
                worst = self.worst.get(place)
                holds = worst is not None and worst <= figure.at_most and number not in self.failed
                well &= holds
                value = "not run" if worst is None else f"{worst:.3g} {figure.unit}"
                limit, times = f"{figure.at_most:g} {figure.unit}", self.times.get(place, 0)
                verdict = "holds" if holds else "FAILS"
                lines.append(
                    f"{number:>2}  {row.fault:<43} {figure.what:<32} {value:>12} {limit:>10} {times:>6}  {verdict}"
                )
        return lines, well
