"""What is asked of whom for a scrape, and for a snapshot that siblings want."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ollama_cache_proxy.core.facts import LaneLevel, Levels, Repeated, Resident, UpstreamLevel
from ollama_cache_proxy.core.store_ports import Tier
from ollama_cache_proxy.policy.sums import Snapshot, added
from ollama_cache_proxy.policy.tickets import Lane
from ollama_cache_proxy.service.scrape import Scrape
from ollama_cache_proxy.telemetry.metric_table import PREFIX
from ollama_cache_proxy.telemetry.metrics import Metrics
from tests.support.exchanges import EXCHANGE


class Gauges:
    """A store that notes whether somebody else is to be asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[bool] = []

    def tiers(self, *, asking: bool) -> list[Tier]:
        self.asked.append(asking)
        return [Tier(name=self.name, entries=1, size=10, evicted=0)]

    def breakers(self) -> dict[str, bool]:
        return {self.name: True}


UPSTREAM = UpstreamLevel(name="gpu1", up=True, in_flight=2, answered=5, failed=1)
LANE = LaneLevel(upstream="gpu1", lane=Lane.BATCH, waiting=7, under_way=1)
LISTENER: Any = SimpleNamespace(connections=4, idle=3, places=9)


class Siblings:
    async def together(self, own: Snapshot) -> Snapshot:
        return added([own, own])


class Around:
    """A scrape, and what stands around it."""

    def __init__(self, siblings: Siblings | None = None) -> None:
        self.metrics = Metrics()
        self.gauges = [Gauges("hot"), Gauges("redis")]
        self.looked = 0
        context: Any = SimpleNamespace(metrics=self.metrics, siblings=siblings)
        opened: Any = SimpleNamespace(
            chosen=SimpleNamespace(gauges=self.gauges),
            upstream=SimpleNamespace(asking=2),
            residents=SimpleNamespace(latest=self._found),
            fleet=SimpleNamespace(levels=lambda: [UPSTREAM]),
            neighbours=SimpleNamespace(lanes=SimpleNamespace(levels=lambda: [LANE])),
        )
        in_service: Any = SimpleNamespace(
            report=lambda: self.metrics(Repeated(exchange=EXCHANGE, seconds=[0.1])), serving=3
        )
        self.scrape = Scrape(context, opened, in_service, listener=lambda: LISTENER)

    def _found(self) -> tuple[Resident, ...]:
        self.looked += 1
        return (Resident(model="tiny:latest", size=10, vram=5),)


def value(text: str, name: str) -> float | None:
    """Give the value of a sample by its name and labels as they are written; None where it is not there."""
    values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{PREFIX}{name} ")]
    return float(values[0]) if values else None


@pytest.mark.parametrize(("siblings", "processes"), [(None, 1), (Siblings(), 2)], ids=["alone", "a-worker"])
async def test_a_scrape_asks_everybody_and_counts_what_was_put_off(siblings: Siblings | None, processes: int) -> None:
    around = Around(siblings)
    body, _ = await around.scrape.render("")
    text = body.decode()
    assert [gauges.asked for gauges in around.gauges] == [[True], [True]]
    assert value(text, "requests_in_flight") == 3 * processes
    assert value(text, "upstream_requests_in_flight") == 2 * processes
    assert value(text, "connections") == 4 * processes
    assert value(text, "idle_connections") == 3 * processes
    assert value(text, "connection_limit") == 9 * processes
    assert value(text, 'hits_total{endpoint="generate"}') == processes
    assert value(text, 'store_bytes{tier="hot"}') == 10 * processes
    assert value(text, 'store_bytes{tier="redis"}') == 10, "all processes tell the same of it"
    assert [value(text, f'store_breaker_open{{breaker="{name}"}}') for name in ("hot", "redis")] == [1, 1]
    assert value(text, 'model_loaded{model="tiny:latest"}') == 1
    assert value(text, 'lane_waiting{lane="batch",upstream="gpu1"}') == 7 * processes
    assert value(text, 'lane_under_way{lane="batch",upstream="gpu1"}') == processes
    assert value(text, 'upstream_host_up{upstream="gpu1"}') == 1
    assert value(text, 'upstream_host_requests_in_flight{upstream="gpu1"}') == 2 * processes
    assert value(text, 'upstream_host_requests_total{outcome="answered",upstream="gpu1"}') == 5 * processes
    assert value(text, 'upstream_host_requests_total{outcome="failed",upstream="gpu1"}') == processes


def test_a_snapshot_for_siblings_asks_nobody() -> None:
    around = Around()
    found = {family: samples for family, _, samples in around.scrape.snapshot()}
    assert ([gauges.asked for gauges in around.gauges], around.looked) == ([[False], [False]], 0)
    assert [sample[2] for sample in found[PREFIX + "hits"]] == [1]
    assert [sample[2] for sample in found[PREFIX + "connections"]] == [4]


def test_levels_have_no_field_that_a_scrape_leaves_out() -> None:
    assert {*Levels.__dataclass_fields__} == {
        "serving",
        "asking",
        "connections",
        "idle",
        "places",
        "tiers",
        "broken",
        "residents",
        "upstreams",
        "lanes",
    }
