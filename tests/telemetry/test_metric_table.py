from __future__ import annotations

import re

import pytest

from ollama_cache_proxy.policy.sums import Across
from ollama_cache_proxy.telemetry.metric_families import Counter, Family, Gauge, Histogram
from ollama_cache_proxy.telemetry.metric_table import ACROSS, PREFIX, Families

each = pytest.mark.parametrize("family", list(Families()), ids=lambda family: family.name.removeprefix(PREFIX))


@each
def test_every_row_is_a_family_of_its_name_and_has_a_meaning(family: Family):
    assert re.fullmatch(PREFIX + "[a-z_]+", family.name)
    assert not family.name.endswith("_total"), "a counter adds that itself"
    assert getattr(Families(), family.name.removeprefix(PREFIX)).name == family.name
    assert family.text.endswith(".")
    assert "\n" not in family.text
    assert len({*family.labels}) == len(family.labels)


@each
def test_histograms_have_ascending_bounds_and_no_other_has_any(family: Family):
    if isinstance(family, Histogram):
        assert list(family._bounds) == sorted({*family._bounds})
        assert family._bounds
    else:
        assert isinstance(family, Counter | Gauge)


def test_there_is_one_of_each_and_two_tables_share_none():
    names = [family.name for family in Families()]
    assert sorted({*names}) == sorted(names)
    one, other = Families(), Families()
    one.hits.inc("generate")
    assert [list(other.hits.rows()), len(list(one.hits.rows()))] == [[], 1]


@each
def test_totals_outlive_their_process_and_gauges_do_not(family: Family):
    across = ACROSS[family.name]
    assert (across is Across.TOTAL) is not isinstance(family, Gauge)


@pytest.mark.parametrize(
    ("name", "across"),
    [
        ("connections", Across.SUM),
        ("store_entries", Across.SUM),
        ("upstream_up", Across.LEAST),
        ("store_breaker_open", Across.MOST),
        ("model_loaded", Across.MOST),
        ("build_info", Across.MOST),
    ],
)
def test_how_gauges_of_several_processes_are_combined(name: str, across: Across):
    assert ACROSS[PREFIX + name] is across
