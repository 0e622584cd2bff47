"""Metrics as Prometheus reads them: those of one process, and of several combined."""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import replace

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ollama_cache_proxy import __version__
from ollama_cache_proxy.core.facts import Health, Part, Resident, Saved, Worked
from ollama_cache_proxy.core.store_ports import Tier
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.endpoints import ENDPOINTS
from ollama_cache_proxy.policy.status import Detail, bypass
from ollama_cache_proxy.policy.sums import added, lasting
from ollama_cache_proxy.telemetry.metric_exposition import Exposition, ratio
from ollama_cache_proxy.telemetry.metric_table import PREFIX, Families
from ollama_cache_proxy.telemetry.metrics import Metrics
from tests.support import exchanges
from tests.support.exchanges import HIT, MISS
from tests.support.levels import LEVELS

EXCHANGE = replace(exchanges.EXCHANGE, seconds=0.003, first_byte=0.002, saved=Saved(seconds=2.5))
USAGE = Usage(prompt_tokens=3, output_tokens=8, prompt_seconds=0.25, output_seconds=1.5, load_seconds=4.0)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def metrics():
    return Metrics()


@pytest.mark.parametrize("read", ["registry", "snapshot", "text"])
def test_deferred_facts_are_counted_before_a_reading(read):
    families = Families()
    exposition = Exposition(families, lambda: families.hits.inc("generate"))
    match read:
        case "registry":
            assert exposition.registry.get_sample_value(PREFIX + "hits_total", {"endpoint": "generate"}) == 1
        case "snapshot":
            found = {family: samples for family, _, samples in exposition.snapshot()}
            assert found[PREFIX + "hits"] == [(PREFIX + "hits_total", {"endpoint": "generate"}, 1)]
        case _:
            assert f'{PREFIX}hits_total{{endpoint="generate"}} 1.0\n' in exposition.render("", None)[0].decode()


@pytest.mark.parametrize(("hits", "misses", "expected"), [(0, 0, 0), (3, 0, 1), (0, 3, 0), (3, 1, 0.75)])
def test_the_ratio_is_of_hits_and_misses(hits, misses, expected):
    assert ratio(hits, misses) == expected


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


def test_the_sum_of_several_processes_reads_like_one_process(metrics):
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
    assert found["build_info", platform.python_version(), __version__] == 1
    assert (found["upstream_up",], found["store_up",], found["store_writes_up",]) == (1, 0, 1)
    assert found["request_duration_seconds_count", "hit", "generate"] == 3
    assert found["request_duration_seconds_bucket", "miss", "generate", "60.0"] == 0
    assert found["request_duration_seconds_bucket", "miss", "generate", "+Inf"] == 1
    assert metrics.hits == 3, "its own figures are what they were"


def test_figures_of_a_shared_redis_are_not_added_up(metrics):
    other = Metrics()
    redis = Tier(name="redis", entries=40, size=4000, evicted=4)
    hot = Tier(name="hot", entries=2, size=200, evicted=1)
    loaded = (Resident(model="tiny:latest", size=10, vram=8),)
    metrics.level(replace(LEVELS, tiers=(hot, redis), residents=loaded, broken={"read": True}))
    other.level(replace(LEVELS, tiers=(hot, replace(redis, evicted=3)), residents=loaded, broken={"read": False}))
    snapshots = [metrics.snapshot(), other.snapshot()]
    body, _ = metrics.render("", added(snapshots))
    found = {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert [found["store_entries", tier] for tier in ("hot", "redis")] == [4, 40]
    assert [found["store_bytes", tier] for tier in ("hot", "redis")] == [400, 4000]
    assert [found["store_evictions_total", tier] for tier in ("hot", "redis")] == [2, 4]
    assert (found["model_loaded", "tiny:latest"], found["model_vram_bytes", "tiny:latest"]) == (1, 8)
    assert found["store_breaker_open", "read"] == 1
    assert [found[name,] for name in ("requests_in_flight", "connections")] == [6, 14]
    ended = {family: samples for family, _, samples in lasting(snapshots[0])}
    assert [row[1:] for row in ended[PREFIX + "store_evictions"]] == [({"tier": "hot"}, 1)]


def test_a_trace_is_an_exemplar_of_the_duration():
    metrics = Metrics(now=lambda: 1_700_000_000.5)
    metrics(replace(EXCHANGE, trace=TRACE))
    metrics(EXCHANGE)
    (line,) = [
        line for line in metrics.render("application/openmetrics-text")[0].decode().splitlines() if TRACE in line
    ]
    assert line == (
        f'{PREFIX}request_duration_seconds_bucket{{cache="hit",endpoint="generate",le="0.005"}} 2.0'
        f' # {{trace_id="{TRACE}"}} 0.003 1700000000.5'
    )
    assert TRACE.encode() not in metrics.render("text/plain")[0]


def full() -> Metrics:
    """Return the largest metrics: more models than are counted apart, at every endpoint, with every outcome."""
    metrics = Metrics()
    operations = [row.operation for row in ENDPOINTS]
    for model in [f"model-{number}" for number in range(60)]:
        for operation in operations:
            for status in (200, 400, 404, 500, 502, 504):
                for cache in (HIT, MISS, bypass(Detail.OPT_IN)):
                    metrics(
                        replace(
                            EXCHANGE, operation=operation, model=model, cache=cache, status=status, category="search"
                        )
                    )
            metrics(Worked(operation=operation, model=model, usage=USAGE))
    return metrics


def test_the_size_of_the_largest_possible_scrape_is_bounded():
    metrics = full()
    begun = time.perf_counter()
    body, _ = metrics.render("application/openmetrics-text")
    took = time.perf_counter() - begun
    samples = [line for line in body.decode().splitlines() if not line.startswith("#")]
    print(f"{len(samples)} samples, {len(body) / 1e6:.1f} MB, {took * 1000:.1f} ms")  # noqa: T201 - a figure to look at with `pytest -s`
    requests = [line for line in samples if line.startswith(f"{PREFIX}requests_total")]
    assert len(requests) == len(ENDPOINTS) * 6 * (51 + 51 + 1)
    work = [line for line in samples if line.startswith(f"{PREFIX}prompt_tokens_total")]
    assert len(work) == len(ENDPOINTS) * 51


def test_every_exposed_metric_is_described(metrics):
    described = {row.name: (row.kind, set(row.labels)) for row in metrics.described()}
    told = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in metrics.registry.collect()
    }
    if not sys.platform.startswith("linux"):
        described = {name: row for name, row in described.items() if name.startswith(PREFIX)}
    assert {name: kind for name, (kind, _) in described.items()} == told
    for family in full().registry.collect():
        for sample in family.samples:
            name = family.name + ("_total" if family.type == "counter" else "")
            assert set(sample.labels) - {"le"} == described[name][1]
