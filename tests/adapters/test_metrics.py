from __future__ import annotations

import platform
from dataclasses import replace

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy import __version__
from proxy.adapters.metrics import Metrics
from proxy.errors import Source
from proxy.policy.status import CacheStatus, Detail, FwdReason, Result, bypass
from proxy.policy.sums import added
from proxy.ports import Exchange, Health, Part, Saved, Stored, Unkept

PREFIX = "ollama_cache_proxy_"
HIT = CacheStatus(result=Result.HIT, ttl=5)
COLLAPSED = CacheStatus(result=Result.HIT, fwd=FwdReason.MISS, collapsed=True)
MISS = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS)
EXCHANGE = Exchange(
    method="POST",
    operation="generate",
    model="tiny",
    cache=HIT,
    status=200,
    key="ab" * 32,
    seconds=0.003,
    first_byte=0.002,
    saved=Saved(seconds=2.5),
    bytes_sent=42,
)


@pytest.fixture
def metrics():
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(PREFIX + name, labels)


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


def test_what_reached_the_store_is_counted(metrics):
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


def test_two_sets_of_metrics_do_not_share(metrics):
    metrics(EXCHANGE)
    assert Metrics().hits == 0
    assert value(Metrics(), "hits_total", endpoint="generate") is None


def test_every_name_has_the_prefix_and_a_meaning(metrics):
    families = list(metrics.registry.collect())
    assert len(families) > 10
    for family in families:
        assert family.name.startswith((PREFIX, "process_"))
        assert family.documentation.endswith(".")


def test_the_version_is_a_label(metrics):
    assert value(metrics, "build_info", version=__version__, python=platform.python_version()) == 1


def test_it_renders_as_prometheus_reads_it(metrics):
    metrics(replace(EXCHANGE, model='a"b\\c\nd'))
    body, content_type = metrics.render("text/plain")
    assert content_type.startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families[PREFIX + "hits"].samples[0].value == 1
    labels = [sample.labels for sample in families[PREFIX + "requests"].samples if sample.name.endswith("_total")]
    assert labels == [{"endpoint": "generate", "model": 'a"b\\c\nd', "cache": "hit", "status": "200"}]


@pytest.mark.parametrize(
    ("accept", "open_metrics"),
    [
        ("application/openmetrics-text; version=1.0.0", True),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", True),
        ("text/plain", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_it_renders_as_openmetrics_when_asked(metrics, accept, open_metrics):
    body, content_type = metrics.render(accept)
    assert content_type.startswith("application/openmetrics-text") is open_metrics
    assert body.endswith(b"# EOF\n") is open_metrics


def test_what_was_not_kept_is_counted_by_its_reason(metrics):
    missed = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS, detail=Detail.STATUS)
    metrics(replace(EXCHANGE, cache=missed))
    metrics(replace(EXCHANGE, cache=replace(missed, detail=Detail.RECORDING)))
    metrics(replace(EXCHANGE, cache=replace(missed, detail=Detail.ITEMS, stored=True)))
    metrics(Unkept(key="k", operation="generate", model="tiny", detail=Detail.STATUS))
    assert value(metrics, "unkept_total", endpoint="generate", detail="status") == 2.0
    for detail in ("recording", "items"):
        assert value(metrics, "unkept_total", endpoint="generate", detail=detail) is None


def test_a_partly_known_list_saves_too(metrics):
    metrics(replace(EXCHANGE, cache=CacheStatus(result=Result.MISS, fwd=FwdReason.MISS, stored=True)))
    assert value(metrics, "saved_seconds_total", endpoint="generate") == 2.5


def test_what_several_processes_counted_reads_as_if_one_had(metrics):
    other = Metrics()
    for _ in range(3):
        metrics(EXCHANGE)
    other(replace(EXCHANGE, cache=MISS, saved=Saved(), seconds=100.0))
    for part in Part:
        metrics(Health(part=part, well=True, name="x"))
    other(Health(part=Part.UPSTREAM, well=True, name="x"))
    other(Health(part=Part.STORE, well=False, name="x"))
    body, kind = metrics.render("", added([metrics.snapshot(), orjson.loads(orjson.dumps(other.snapshot()))]))
    assert kind == metrics.render("")[1]
    found = {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert found["hits_total", "generate"] == 3
    assert found["misses_total", "generate"] == 1
    assert found["hit_ratio",] == 0.75
    assert found["build_info", __version__] == 1
    assert (found["upstream_up",], found["store_up",], found["store_writes_up",]) == (1, 0, 1)
    assert found["request_duration_seconds_count", "hit", "generate"] == 3
    assert found["request_duration_seconds_bucket", "miss", "generate", "60.0"] == 0
    assert found["request_duration_seconds_bucket", "miss", "generate", "+Inf"] == 1
    assert metrics.hits == 3, "its own figures are what they were"
