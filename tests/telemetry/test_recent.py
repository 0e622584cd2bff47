"""The last requests and the last minutes of one process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.core.facts import Exchange, Health, Part, Repeated, Worked
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.status import CacheStatus, Detail, FwdReason, Result, bypass
from ollama_cache_proxy.telemetry.recent import SPAN, Recent
from tests.support.exchanges import EXCHANGE

HIT = CacheStatus(result=Result.HIT, ttl=60)
MISS = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS, stored=True, ttl=60)


def exchange(cache: CacheStatus = HIT, **more: Any) -> Exchange:
    return replace(EXCHANGE, cache=cache, **{"key": "", "seconds": 0.25, "first_byte": None, "bytes_sent": 1} | more)


class Now:
    """A clock that the test moves; it starts at the beginning of a span."""

    def __init__(self) -> None:
        self.at = 1000.0 * SPAN

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def recent(now: Now) -> Recent:
    return Recent(now)


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (exchange(), {"result": "hit", "reason": "", "times": 1, "milliseconds": 250.0, "model": "tiny:latest"}),
        (exchange(MISS), {"result": "miss", "reason": "stored"}),
        (
            exchange(CacheStatus(result=Result.HIT, fwd=FwdReason.MISS, collapsed=True)),
            {"result": "hit", "reason": "collapsed"},
        ),
        (exchange(bypass(Detail.OPT_IN)), {"result": "bypass", "reason": "opt-in"}),
        (
            exchange(CacheStatus(result=Result.MISS), status=502, error=Source.UPSTREAM),
            {"result": "miss", "reason": "error: upstream", "status": 502},
        ),
        (Repeated(exchange=exchange(key="k"), seconds=[0.001, 0.003]), {"times": 2, "milliseconds": 2.0}),
    ],
)
def test_what_a_request_shows(event: Exchange | Repeated, shown: dict[str, Any], recent: Recent) -> None:
    recent(event)
    (row,) = recent.requests()
    assert {name: row[name] for name in shown} == shown
    assert row["time"] == 1000.0 * SPAN


def test_the_newest_come_first_and_are_bounded(recent: Recent) -> None:
    for number in range(1000):
        recent(exchange(operation=str(number)))
    assert [row["operation"] for row in recent.requests()] == [str(number) for number in range(999, 969, -1)]


def test_repeated_hits_of_one_key_are_one_row_at_their_last_time(now: Now, recent: Recent) -> None:
    recent(Repeated(exchange=exchange(key="a"), seconds=[0.001] * 3))
    recent(Repeated(exchange=exchange(key="b"), seconds=[0.001]))
    now.at += 1
    recent(Repeated(exchange=exchange(key="a"), seconds=[0.005]))
    recent(exchange(key="a"))
    assert [(row["times"], row["milliseconds"]) for row in recent.requests()] == [(1, 250.0), (4, 2.0), (1, 1.0)]
    assert recent.requests()[1]["time"] == now.at


def test_spans_count_by_result_and_are_forgotten_after_ten_minutes(now: Now, recent: Recent) -> None:
    begun = int(now.at)
    recent(exchange())
    recent(Repeated(exchange=exchange(key="a"), seconds=[0.001] * 3))
    now.at += SPAN - 0.001
    recent(exchange(MISS))
    now.at += 0.001
    recent(exchange(bypass(Detail.ENDPOINT)))
    assert recent.history() == [[begun, 4, 1, 0], [begun + SPAN, 0, 0, 1]]
    now.at = begun + 600.0
    assert recent.history() == [[begun + SPAN, 0, 0, 1]]
    for _ in range(500):
        recent(exchange())
        now.at += SPAN
    assert len(recent._spans) == 120


@pytest.mark.parametrize(
    ("after", "rate"),
    [(0.0, 12.0), (0.5, 12.0), (4.0, 3.0), (60.0, 0.2), (64.9, 0.2), (65.0, 0.0), (1e6, 0.0)],
)
def test_the_rate_is_that_of_the_last_minute_or_since_the_start(
    after: float, rate: float, now: Now, recent: Recent
) -> None:
    for _ in range(12):
        recent(exchange())
    now.at += after
    assert recent.rate() == pytest.approx(rate)


def test_ollamas_own_speed_is_that_of_all_answers_of_the_last_minutes(now: Now, recent: Recent) -> None:
    assert recent.tokens_per_second() is None
    for usage in (
        Usage(output_tokens=90, output_seconds=1.0),
        Usage(output_tokens=10, output_seconds=1.0),
        Usage(prompt_tokens=5),
        Usage(output_tokens=7),
        Usage(output_tokens=0, output_seconds=0.0),
    ):
        recent(Worked(operation="generate", model="tiny", usage=usage))
    assert recent.tokens_per_second() == 50.0
    assert recent.history() == [], "work alone is no request"
    now.at += 601
    assert recent.tokens_per_second() is None


def test_how_neighbours_are(recent: Recent) -> None:
    assert (recent.state(Part.STORE), recent.state(Part.UPSTREAM)) == ({"state": "ok"}, {"state": "unknown"})
    recent(Health(part=Part.UPSTREAM, well=False, name="Ollama", reason="refused"))
    assert recent.state(Part.UPSTREAM) == {"state": "down", "reason": "refused"}
    recent(Health(part=Part.UPSTREAM, well=True, name="Ollama"))
    assert recent.state(Part.UPSTREAM) == {"state": "ok"}
