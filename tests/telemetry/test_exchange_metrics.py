"""Exchanges add up the same whether they are counted one by one, deferred, or many in one call."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.core.facts import Exchange, Repeated, Saved
from ollama_cache_proxy.policy.status import Detail, bypass
from ollama_cache_proxy.telemetry.exchange_metrics import ExchangeMetrics
from ollama_cache_proxy.telemetry.metric_table import Families
from tests.support.exchanges import COLLAPSED, EXCHANGE, HIT, MISS

SECONDS = [0.003, 0.0001, 7.0]
SAVED = Saved(seconds=2.5, prompt_tokens=3, output_tokens=8)


class Counted:
    """Metrics of exchanges, and how many of them were deferred."""

    def __init__(self) -> None:
        self.families = Families()
        self.deferred = 0
        self.metrics = ExchangeMetrics(self.families, model=str.upper, on_defer=self._defer, now=lambda: 1.5)

    def _defer(self) -> None:
        self.deferred += 1

    def written(self) -> list[str]:
        self.metrics.count_deferred()
        return [family.written(open_metrics=True) for family in self.families]


@pytest.mark.parametrize(
    "exchange",
    [
        replace(EXCHANGE, cache=HIT),
        replace(EXCHANGE, cache=COLLAPSED),
        replace(EXCHANGE, cache=HIT, saved=SAVED, category="search"),
        replace(EXCHANGE, cache=HIT, items=4, items_known=3, saved=SAVED),
        replace(EXCHANGE, cache=HIT, first_token=0.25, saved=SAVED),
        replace(EXCHANGE, cache=MISS),
        replace(EXCHANGE, cache=replace(MISS, detail=Detail.STATUS), status=500),
        replace(EXCHANGE, cache=MISS, error=Source.UPSTREAM, status=502),
        replace(EXCHANGE, cache=bypass(Detail.OPT_IN)),
    ],
    ids=["hit", "collapsed", "saved", "items", "stream", "miss", "unstored", "failed", "bypass"],
)
def test_exchanges_add_up_the_same_one_by_one_and_grouped(exchange: Exchange):
    single, many = Counted(), Counted()
    for second in SECONDS:
        token = None if exchange.first_token is None else second  # all of it is sent in one write
        single.metrics.add(replace(exchange, seconds=second, first_byte=second, first_token=token))
    many.metrics.add_repeated(Repeated(exchange=exchange, seconds=SECONDS))
    assert single.written() == many.written()
    assert (single.metrics.hits, single.metrics.misses) == (many.metrics.hits, many.metrics.misses)
    requests = [row.value for row in many.families.requests.rows()]
    assert requests == [3]


def test_similar_exchanges_are_deferred_and_grouped_by_their_labels():
    counted = Counted()
    for exchange in (EXCHANGE, replace(EXCHANGE, seconds=1.0), replace(EXCHANGE, status=404)):
        counted.metrics.add(exchange)
    assert counted.deferred == 3
    assert list(counted.families.requests.rows()) == []
    counted.metrics.count_deferred()
    assert {row.labels: row.value for row in counted.families.requests.rows()} == {
        ("generate", "TINY", "hit", "200"): 2,
        ("generate", "TINY", "hit", "404"): 1,
    }
    assert [row.value for row in counted.families.request_duration_seconds.rows() if row.suffix == "_sum"] == [
        pytest.approx(1 + 2 * EXCHANGE.seconds)
    ]
    counted.metrics.count_deferred()
    assert counted.metrics.hits == 3, "deferred exchanges are counted once"


@pytest.mark.parametrize("own", [{"items": 3, "items_known": 1}, {"saved": SAVED}], ids=str)
def test_what_can_be_added_up_counts_the_same_deferred_or_one_by_one(own: dict[str, object]):
    one_by_one, deferred = Counted(), Counted()
    for seconds in (1.0, 2.0):
        exchange = replace(EXCHANGE, seconds=seconds, **own)
        one_by_one.metrics.add(exchange)
        one_by_one.metrics.count_deferred()
        deferred.metrics.add(exchange)
    deferred.metrics.count_deferred()
    for name in ("requests", "items", "saved_seconds", "saved_prompt_tokens", "saved_output_tokens", "hits"):
        rows = [list(getattr(counted.families, name).rows()) for counted in (one_by_one, deferred)]
        assert rows[0] == rows[1], name
    assert next(iter(deferred.families.requests.rows())).value == 2


@pytest.mark.parametrize("own", [{"trace": "ab"}, {"first_token": 0.1}], ids=str)
def test_an_exchange_with_a_time_of_its_own_is_not_deferred(own: dict[str, object]):
    counted = Counted()
    counted.metrics.add(replace(EXCHANGE, **own))
    assert counted.deferred == 0
    assert [row.value for row in counted.families.requests.rows()] == [1]
