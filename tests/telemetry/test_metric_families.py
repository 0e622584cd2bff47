from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from ollama_cache_proxy.telemetry.metric_families import Counter, Family, Gauge, Histogram, wants_open_metrics

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def counter() -> Counter:
    family = Counter("asked", "What was asked.", ("who", "how"))
    family.inc("b", 'a"b\\c\nd')
    family.inc("b", 'a"b\\c\nd', by=2.5)
    family.inc("a", "")
    return family


def gauge() -> Gauge:
    family = Gauge("level", "How high it stands.")
    family.set(3)
    family.set(4)
    return family


def histogram() -> Histogram:
    family = Histogram("took_seconds", "How long it took.", ("who",), (0.1, 1.0, 10.0))
    family.observe(("a",), (0.05, 0.1, 0.5, 11.0))
    family.observe(("b",), ())
    family.set_exemplar(("a",), 0.5, TRACE, 1700000000.25)
    return family


@pytest.mark.parametrize("family", [counter(), gauge(), histogram()], ids=lambda family: family.kind)
@pytest.mark.parametrize("open_metrics", [False, True], ids=["text", "openmetrics"])
def test_the_text_parses_to_what_is_collected(family: Family, open_metrics: bool) -> None:
    text = family.written(open_metrics=open_metrics)
    read = list(open_metrics_families(text + "# EOF\n") if open_metrics else text_families(text))
    (collected,) = family.collect()
    assert [(one.name, one.type, one.documentation) for one in read] == [
        (collected.name, collected.type, collected.documentation)
    ]
    assert [(one.name, one.labels, one.value) for one in read[0].samples] == [
        (one.name, one.labels, one.value) for one in collected.samples
    ]
    assert read[0].samples


def test_a_counter_adds_up_by_its_labels() -> None:
    registry = CollectorRegistry()
    registry.register(counter())
    assert registry.get_sample_value("asked_total", {"who": "b", "how": 'a"b\\c\nd'}) == 3.5
    assert registry.get_sample_value("asked_total", {"who": "a", "how": ""}) == 1


def test_a_bucket_holds_what_is_not_above_its_bound() -> None:
    samples = {(row.suffix, row.bound): row.value for row in histogram().rows()}
    assert samples == {
        ("_bucket", "0.1"): 2,
        ("_bucket", "1.0"): 3,
        ("_bucket", "10.0"): 3,
        ("_bucket", "+Inf"): 4,
        ("_count", ""): 4,
        ("_sum", ""): pytest.approx(11.65),
    }


@given(values=st.lists(st.floats(0, 20) | st.sampled_from((0.1, 1.0, 10.0)), min_size=1, max_size=60))
def test_many_values_are_counted_as_one_by_one(values: list[float]) -> None:
    together, one_by_one = histogram(), histogram()
    together.observe(("c",), values)
    for value in values:
        one_by_one.observe(("c",), [value])
    rows = [[(row.suffix, row.labels, row.bound) for row in one.rows()] for one in (together, one_by_one)]
    assert rows[0] == rows[1]
    assert [row.value for row in together.rows()] == pytest.approx([row.value for row in one_by_one.rows()])


def test_an_exemplar_stands_in_its_bucket_and_only_in_openmetrics() -> None:
    lines = [line for line in histogram().written(open_metrics=True).splitlines() if TRACE in line]
    assert lines == [f'took_seconds_bucket{{who="a",le="1.0"}} 3.0 # {{trace_id="{TRACE}"}} 0.5 1700000000.25']
    assert TRACE not in histogram().written(open_metrics=False)


def test_replaced_samples_are_gone() -> None:
    family = gauge()
    family.replace({})
    assert list(family.rows()) == []


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ("text/plain;q=0.5, Application/OpenMetrics-Text;version=1.0.0;q=0.75", True),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4", True),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=abc", False),
        ("application/openmetrics-text;q=0,text/plain", False),
        ("application/openmetrics-text-not", False),
        ("text/plain", False),
        ("*/*", False),
        (";;,", False),
        ("", False),
    ],
)
def test_openmetrics_is_used_if_accept_asks_for_it(accept: str, wanted: bool) -> None:
    assert wants_open_metrics(accept) is wanted
