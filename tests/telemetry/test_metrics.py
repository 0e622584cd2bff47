from __future__ import annotations

import platform
from dataclasses import replace

import pytest

from ollama_cache_proxy import __version__
from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.core.facts import (
    Audited,
    Health,
    LaneEnd,
    LaneWaited,
    NotStored,
    Part,
    PromptRead,
    Repeated,
    Resident,
    Saved,
    StoreCall,
    Stored,
    Unaudited,
    Worked,
)
from ollama_cache_proxy.core.store_ports import Tier
from ollama_cache_proxy.downstream.places import Closing
from ollama_cache_proxy.policy.audit_causes import Cause
from ollama_cache_proxy.policy.audit_comparison import Kind
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.prompts.prompt_memory import Loss, LossCause, Reading
from ollama_cache_proxy.policy.prompts.prompt_places import Place, Where
from ollama_cache_proxy.policy.prompts.prompt_shapes import Shape
from ollama_cache_proxy.policy.status import CacheStatus, Detail, FwdReason, Result, bypass
from ollama_cache_proxy.policy.tickets import Lane
from ollama_cache_proxy.telemetry.metrics import Metrics
from tests.support import exchanges
from tests.support.exchanges import COLLAPSED, HIT, MISS
from tests.support.levels import LEVELS

PREFIX = "ollama_cache_proxy_"
EXCHANGE = replace(exchanges.EXCHANGE, seconds=0.003, first_byte=0.002, saved=Saved(seconds=2.5))
USAGE = Usage(prompt_tokens=3, output_tokens=8, prompt_seconds=0.25, output_seconds=1.5, load_seconds=4.0)


@pytest.fixture
def metrics():
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(PREFIX + name, labels)


def test_what_an_alert_asks_for_is_there_before_it_happens(metrics):
    """Prometheus takes no increase from a series that begins with its first event."""
    assert {value(metrics, "closed_connections_total", reason=closing) for closing in Closing} == {0}
    refusals = (Detail.WRONG_TOKEN, Detail.TOKEN_GUESSES)
    assert {value(metrics, "own_refusals_total", detail=detail.value) for detail in refusals} == {0}


def test_a_hit_counts_as_one_and_saves_what_it_saved(metrics):
    metrics(EXCHANGE)
    metrics(EXCHANGE)
    assert (metrics.hits, metrics.misses) == (2, 0)
    assert value(metrics, "hits_total", endpoint="generate") == 2
    assert value(metrics, "saved_seconds_total", endpoint="generate") == 5.0
    assert value(metrics, "collapsed_total", endpoint="generate") is None
    assert value(metrics, "misses_total", endpoint="generate") is None
    assert value(metrics, "requests_total", endpoint="generate", model="tiny:latest", cache="hit", status="200") == 2


def test_a_collapsed_request_is_a_hit_and_reported_apart(metrics):
    metrics(replace(EXCHANGE, cache=COLLAPSED, saved=Saved()))
    assert (metrics.hits, metrics.misses) == (1, 0)
    assert value(metrics, "hits_total", endpoint="generate") == 1
    assert value(metrics, "collapsed_total", endpoint="generate") == 1


def test_a_miss_counts_as_one_even_where_it_failed(metrics):
    metrics(replace(EXCHANGE, cache=MISS, saved=Saved()))
    metrics(replace(EXCHANGE, cache=MISS, saved=Saved(), status=502, error=Source.UPSTREAM))
    assert (metrics.hits, metrics.misses) == (0, 2)
    assert value(metrics, "misses_total", endpoint="generate") == 2
    assert value(metrics, "saved_seconds_total", endpoint="generate") is None
    assert value(metrics, "errors_total", source="upstream") == 1


@pytest.mark.parametrize(
    "cache",
    [
        bypass(Detail.STREAM),
        bypass(Detail.CLIENT_LEFT),
        CacheStatus(result=Result.BYPASS, detail=Detail.ONLY_IF_CACHED),
    ],
    ids=lambda cache: cache.detail.value,
)
def test_a_bypass_is_neither_hit_nor_miss_and_counted_by_its_reason(metrics, cache):
    metrics(replace(EXCHANGE, cache=cache))
    assert (metrics.hits, metrics.misses) == (0, 0)
    assert value(metrics, "bypasses_total", endpoint="generate", detail=cache.detail.value) == 1
    assert value(metrics, "hits_total", endpoint="generate") is None
    assert value(metrics, "misses_total", endpoint="generate") is None


def test_times_are_observed_apart_by_endpoint_and_result(metrics):
    metrics(EXCHANGE)
    metrics(replace(EXCHANGE, cache=MISS, seconds=7.0, first_byte=None))
    assert value(metrics, "request_duration_seconds_count", endpoint="generate", cache="hit") == 1
    assert value(metrics, "request_duration_seconds_sum", endpoint="generate", cache="hit") == 0.003
    assert value(metrics, "request_duration_seconds_sum", endpoint="generate", cache="miss") == 7.0
    assert value(metrics, "first_byte_seconds_sum", endpoint="generate", cache="hit") == 0.002
    assert value(metrics, "first_byte_seconds_count", endpoint="generate", cache="miss") is None


@pytest.mark.parametrize(
    ("hits", "misses", "ratio"),
    [(0, 0, 0.0), (1, 0, 1.0), (0, 1, 0.0), (3, 1, 0.75)],
    ids=["none", "hit", "miss", "both"],
)
def test_the_hit_ratio_is_of_hits_and_misses(metrics, hits, misses, ratio):
    for cache, count in ((HIT, hits), (MISS, misses), (bypass(Detail.STREAM), 5)):
        for _ in range(count):
            metrics(replace(EXCHANGE, cache=cache))
    assert value(metrics, "hit_ratio") == ratio


def test_stored_entries_are_counted(metrics):
    metrics(Stored(key="k", operation="embed", model="m", ttl=5, size=100))
    metrics(Stored(key="k", operation="embed", model="m", ttl=5, size=11))
    assert value(metrics, "stores_total", endpoint="embed") == 2
    assert value(metrics, "stored_bytes_total", endpoint="embed") == 111


@pytest.mark.parametrize(
    ("part", "name", "at_first"),
    [(Part.UPSTREAM, "upstream_up", 0), (Part.STORE, "store_up", 0), (Part.STORE_WRITES, "store_writes_up", 1)],
    ids=["upstream", "store", "writes"],
)
def test_health_is_a_gauge(metrics, part, name, at_first):
    others = {"upstream_up": 0.0, "store_up": 0.0, "store_writes_up": 1.0}
    assert value(metrics, name) == at_first
    for well in (True, False, True, True):
        metrics(Health(part=part, well=well, name="x", reason="secret reason"))
        assert value(metrics, name) == int(well)
        assert {other: value(metrics, other) for other in others if other != name} == {
            other: up for other, up in others.items() if other != name
        }


def test_the_models_of_a_label_are_bounded(metrics):
    for number in range(200):
        metrics(replace(EXCHANGE, model=f"m{number}"))
    metrics(replace(EXCHANGE, model="m0"))
    labels = {"endpoint": "generate", "cache": "hit", "status": "200"}
    assert value(metrics, "requests_total", model="m0:latest", **labels) == 2
    assert value(metrics, "requests_total", model="m49:latest", **labels) == 1
    assert value(metrics, "requests_total", model="m50:latest", **labels) is None
    assert value(metrics, "requests_total", model="other", **labels) == 150
    metrics(replace(EXCHANGE, model=""))
    assert value(metrics, "requests_total", model="", **labels) == 1


def test_the_version_is_a_label(metrics):
    assert value(metrics, "build_info", version=__version__, python=platform.python_version()) == 1


def test_responses_that_were_not_stored_are_counted_by_reason(metrics):
    missed = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS, detail=Detail.STATUS)
    metrics(replace(EXCHANGE, cache=missed))
    metrics(replace(EXCHANGE, cache=replace(missed, detail=Detail.RECORDING)))
    metrics(replace(EXCHANGE, cache=replace(missed, detail=Detail.ITEMS, stored=True)))
    metrics(NotStored(key="k", operation="generate", model="tiny", detail=Detail.STATUS))
    assert value(metrics, "unkept_total", endpoint="generate", detail="status") == 2.0
    for detail in ("recording", "items"):
        assert value(metrics, "unkept_total", endpoint="generate", detail=detail) is None


def test_what_the_audit_drew_is_counted_by_what_came_of_it(metrics):
    metrics(Audited(operation="embed", model="tiny", same=3, not_reproducible=1))
    metrics(Audited(operation="embed", model="tiny", left_out=2, why=Unaudited.LATE))
    for model in ("tiny", "TINY:latest"):
        metrics(Audited(operation="embed", model=model, same=1, wrong=2, kind=Kind.SLIGHTLY, cause=Cause.CONTEXT))
    expected = {"same": 5.0, "not-reproducible": 1.0, "late": 2.0, "wrong": 4.0, "full": None}
    for outcome, count in expected.items():
        assert value(metrics, "audited_total", endpoint="embed", outcome=outcome) == count
    where = {"model": "tiny:latest", "kind": "vector-slightly", "cause": "context-length"}
    assert value(metrics, "audit_wrong_total", **where) == 4.0
    assert (metrics.hits, metrics.misses) == (0, 0)


def test_models_above_the_limit_share_a_label_of_the_audit_too(metrics):
    for number in range(60):
        fact = Audited(operation="embed", model=f"m{number}", wrong=1, kind=Kind.TEXT, cause=Cause.SAMPLER)
        metrics(fact)
    assert value(metrics, "audit_wrong_total", model="other", kind="text", cause="sampler") == 10.0


def test_a_partly_known_list_saves_too(metrics):
    metrics(replace(EXCHANGE, cache=CacheStatus(result=Result.MISS, fwd=FwdReason.MISS, stored=True)))
    assert value(metrics, "saved_seconds_total", endpoint="generate") == 2.5


def test_work_is_counted_by_model_and_endpoint(metrics):
    for model in ("tiny", "TINY:latest", "registry.ollama.ai/library/tiny"):  # one model, as Ollama resolves names
        metrics(Worked(operation="chat", model=model, usage=USAGE))
    where = {"endpoint": "chat", "model": "tiny:latest"}
    assert value(metrics, "prompt_tokens_total", **where) == 9
    assert value(metrics, "output_tokens_total", **where) == 24
    assert value(metrics, "prompt_eval_seconds_total", **where) == 0.75
    assert value(metrics, "eval_seconds_total", **where) == 4.5
    del where["endpoint"]
    assert value(metrics, "load_duration_seconds_sum", **where) == 12.0
    assert value(metrics, "load_duration_seconds_bucket", le="2.5", **where) == 0
    assert value(metrics, "load_duration_seconds_bucket", le="5.0", **where) == 3
    assert value(metrics, "time_per_output_token_seconds_sum", **where) == 3 * 1.5 / 8
    assert value(metrics, "time_per_output_token_seconds_bucket", le="0.2", **where) == 3
    assert value(metrics, "time_per_output_token_seconds_bucket", le="0.15", **where) == 0


def test_prompt_tokens_are_counted_by_source(metrics):
    for usage in (
        Usage(prompt_tokens=1598, cached_tokens=0, prompt_seconds=40.6),
        Usage(prompt_tokens=1598, cached_tokens=1580, prompt_seconds=0.44),
        Usage(prompt_tokens=1598, prompt_seconds=40.6),
        Usage(prompt_tokens=10, cached_tokens=4),
        Usage(output_tokens=8),
    ):
        metrics(Worked(operation="chat", model="tiny", usage=usage))
    metrics(replace(EXCHANGE, operation="chat", saved=Saved(prompt_tokens=7)))
    found = {
        source: value(metrics, "prompt_tokens_by_source_total", endpoint="chat", source=source)
        for source in ("computed", "prompt-cache", "not-told", "saved")
    }
    assert found == {"computed": 1598 + 18 + 6, "prompt-cache": 1580 + 4, "not-told": 1598, "saved": 7}
    where = {"endpoint": "chat", "model": "tiny:latest"}
    assert value(metrics, "prompt_tokens_total", **where) == 3 * 1598 + 10, "all of them, as before"
    assert value(metrics, "prompt_computed_tokens_total", **where) == 1598 + 18
    assert value(metrics, "prompt_computed_seconds_total", **where) == 40.6 + 0.44


@pytest.mark.parametrize(
    "usage",
    [
        Usage(prompt_tokens=9, prompt_seconds=1.0),
        Usage(prompt_tokens=9, cached_tokens=0),
        Usage(prompt_tokens=9, cached_tokens=9, prompt_seconds=1.0),
    ],
    ids=["cached-not-told", "no-time", "nothing-computed"],
)
def test_the_speed_of_prompts_needs_tokens_and_time_of_the_work(metrics, usage):
    metrics(Worked(operation="chat", model="tiny", usage=usage))
    for name in ("prompt_computed_tokens_total", "prompt_computed_seconds_total"):
        assert value(metrics, name, endpoint="chat", model="tiny:latest") is None


@pytest.mark.parametrize(
    "usage",
    [Usage(output_tokens=8), Usage(output_seconds=1.0), Usage(output_tokens=0, output_seconds=1.0)],
    ids=["no-time", "no-tokens", "zero-tokens"],
)
def test_the_time_of_a_token_needs_both(metrics, usage):
    metrics(Worked(operation="chat", model="tiny", usage=usage))
    for name in ("time_per_output_token_seconds_count", "load_duration_seconds_count"):
        assert value(metrics, name, model="tiny:latest") is None
    assert value(metrics, "output_tokens_total", endpoint="chat", model="tiny:latest") == usage.output_tokens


def test_an_operation_of_the_store_is_timed_and_its_failure_counted(metrics):
    metrics(StoreCall(operation="get", seconds=0.002, failed=False))
    metrics(StoreCall(operation="get", seconds=0.25, failed=True))
    metrics(StoreCall(operation="set", seconds=0.0001, failed=False))
    assert value(metrics, "store_operation_seconds_count", operation="get") == 2
    assert value(metrics, "store_operation_seconds_bucket", operation="set", le="0.0001") == 1
    assert value(metrics, "store_errors_total", operation="get") == 1
    assert value(metrics, "store_errors_total", operation="set") is None


def test_gauges_have_the_latest_values(metrics):
    tiers = (Tier(name="hot", entries=5, size=500, evicted=2), Tier(name="redis", entries=None, size=9000, evicted=0))
    residents = (Resident(model="tiny:latest", size=10, vram=4), Resident(model="big:7b", size=30, vram=30))
    metrics.level(replace(LEVELS, tiers=tiers, broken={"read": True, "write": False}, residents=residents))
    assert value(metrics, "requests_in_flight") == 3
    assert value(metrics, "upstream_requests_in_flight") == 2
    assert value(metrics, "connections") == 7
    assert value(metrics, "idle_connections") == 5
    assert value(metrics, "connection_limit") == 9
    assert value(metrics, "store_entries", tier="hot") == 5
    assert value(metrics, "store_entries", tier="redis") is None  # not known yet
    assert value(metrics, "store_bytes", tier="redis") == 9000
    assert value(metrics, "store_evictions_total", tier="hot") == 2
    assert [value(metrics, "store_breaker_open", breaker=name) for name in ("read", "write")] == [1, 0]
    assert value(metrics, "model_loaded", model="big:7b") == 1
    assert value(metrics, "model_vram_bytes", model="tiny:latest") == 4
    assert value(metrics, "model_size_bytes", model="tiny:latest") == 10
    metrics.level(LEVELS)
    for name, labels in (("store_bytes", {"tier": "redis"}), ("model_loaded", {"model": "big:7b"})):
        assert value(metrics, name, **labels) is None


def test_what_is_not_told_of_a_loaded_model_has_no_value(metrics):
    residents = (Resident(model="odd", size=5, vram=None), Resident(model="whole", size=9, vram=3))
    metrics.level(replace(LEVELS, residents=residents))
    assert [value(metrics, "model_loaded", model=f"{name}:latest") for name in ("odd", "whole")] == [1, 1]
    assert [value(metrics, "model_size_bytes", model=f"{name}:latest") for name in ("odd", "whole")] == [5, 9]
    assert [value(metrics, "model_vram_bytes", model=f"{name}:latest") for name in ("odd", "whole")] == [None, 3]


def test_loaded_models_beyond_the_bound_are_one(metrics):
    residents = tuple(Resident(model=f"m{number}", size=2, vram=1) for number in range(60))
    metrics.level(replace(LEVELS, residents=residents))
    assert value(metrics, "model_loaded", model="m49:latest") == 1
    assert value(metrics, "model_loaded", model="other") == 10
    assert value(metrics, "model_size_bytes", model="other") == 20
    assert value(metrics, "model_vram_bytes", model="other") == 10


def test_two_sets_of_metrics_do_not_share(metrics):
    metrics(EXCHANGE)
    assert Metrics().hits == 0
    assert value(Metrics(), "hits_total", endpoint="generate") is None


def test_repeated_exchanges_count_like_single_ones():
    one, many = Metrics(), Metrics()
    hit = replace(
        EXCHANGE, category="search", items=2, items_known=2, saved=Saved(seconds=2.5, prompt_tokens=3, output_tokens=8)
    )
    seconds = [0.003, 0.0001, 7.0]
    for second in seconds:
        one(replace(hit, seconds=second, first_byte=second))
    many(Repeated(exchange=hit, seconds=seconds))
    written = [metrics.render("")[0].decode().partition("# HELP process_")[0] for metrics in (one, many)]
    assert written[0] == written[1]
    assert value(many, "saved_output_tokens_total", endpoint="generate") == 24
    assert value(many, "lookups_total", endpoint="generate", category="search", cache="hit") == 3


def test_the_lag_of_the_loop_is_a_histogram_without_labels(metrics):
    metrics.loop_lag(0.0004)
    metrics.loop_lag(0.3)
    assert value(metrics, "event_loop_lag_seconds_bucket", le="0.001") == 1
    assert value(metrics, "event_loop_lag_seconds_count") == 2
    body, _ = metrics.render("")
    name = f"{PREFIX}event_loop_lag_seconds"
    assert f'{name}_bucket{{le="0.5"}} 2.0\n'.encode() in body
    assert f"{name}_count 2.0\n{name}_sum 0.3004\n".encode() in body


def test_what_became_of_prompts_is_counted(metrics):
    place = Place(Where.SYSTEM, "system[0].text", 192)
    changed = Loss(LossCause.CHANGED, 800, place, Shape.ID)
    displaced = Loss(LossCause.DISPLACED, 60)
    for reading in (
        Reading(4000, 0, 1000, 0, None, exact=False, seconds=0.0),
        Reading(4000, 200, 1000, 50, 40, exact=True, seconds=0.01, losses=(changed,)),
        Reading(4000, 200, 1000, 50, 70, exact=False, seconds=0.01, losses=(changed, displaced)),
    ):
        metrics(PromptRead(operation="chat", model="tiny", reading=reading))
    where = {"endpoint": "chat", "model": "tiny:latest"}
    assert value(metrics, "prompt_forecast_tokens_total", **where, source="reused") == 100
    assert value(metrics, "prompt_forecast_tokens_total", **where, source="computed") == 2900
    del where["endpoint"]
    for by, wrong in (("told", 10), ("time", 20)):
        assert value(metrics, "prompt_forecast_checked_tokens_total", **where, by=by) == 1000
        assert value(metrics, "prompt_forecast_wrong_tokens_total", **where, by=by) == wrong
    assert value(metrics, "prompt_lost_tokens_total", **where, cause="changed", where="system") == 1600
    assert value(metrics, "prompt_lost_seconds_total", **where, cause="changed", where="system") == 16
    assert value(metrics, "prompt_lost_tokens_total", **where, cause="displaced", where="") == 60


def test_waiting_in_lanes_is_timed_by_what_ended_it(metrics):
    for end, seconds in ((LaneEnd.SENT, 0.0), (LaneEnd.SENT, 2.0), (LaneEnd.LEFT, 1.0), (LaneEnd.FULL, 0.0)):
        metrics(
            LaneWaited(operation="embed", model="tiny", upstream="", lane=Lane.BATCH, end=end, seconds=seconds, ahead=1)
        )
    counts = {end.value: value(metrics, "lane_wait_seconds_count", lane="batch", end=end.value) for end in LaneEnd}
    assert counts == {"sent": 2, "left": 1, "lane-full": 1, "lane-wait": None}
    assert value(metrics, "lane_wait_seconds_sum", lane="batch", end="sent") == 2.0
    assert value(metrics, "lane_wait_seconds_count", lane="interactive", end="sent") is None
    assert value(metrics, "lane_ahead_sum", lane="batch") == 4
    assert value(metrics, "lane_ahead_bucket", lane="batch", le="0.0") == 0
