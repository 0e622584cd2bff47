"""The names as they are in stores in use: a change of one loses all that is stored under it."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.stores.redis.cluster_topology import SLOTS, slot_of
from ollama_cache_proxy.stores.redis.key_layout import (
    CLUSTER,
    GENERATION,
    ONE_SERVER,
    TAGS,
    WATCHED,
    entry_name,
    value_name,
)

KEY = "ab" * 32
OWN = "0" * 32


def test_names_are_what_they_have_always_been():
    assert GENERATION == "ocp:1:generation"
    assert entry_name(OWN, KEY) == f"ocp:1:e:{OWN}:{KEY}"
    assert ONE_SERVER.entry_name(OWN, KEY) == entry_name(OWN, KEY)
    assert ONE_SERVER.generations == (GENERATION,)
    assert ONE_SERVER.probe_name("probe") == "ocp:1:probe"
    assert value_name("statistics") == "ocp:1:statistics"
    assert CLUSTER.entry_name(OWN, KEY) == f"{{ocp:lg}}:1:e:{OWN}:{KEY}"
    assert CLUSTER.generation_beside(KEY) == "{ocp:lg}:1:generation"
    assert CLUSTER.probe_name(KEY) == "{ocp:lg}:1:probe"


def test_what_is_watched_are_entries_and_the_generation_and_nothing_else():
    assert entry_name(OWN, KEY).startswith(WATCHED)
    assert GENERATION.startswith(WATCHED)
    assert not value_name("statistics").startswith(WATCHED)
    assert not value_name("models:http://127.0.0.1:11434").startswith(WATCHED)


def test_keys_are_what_stands_behind_the_generation():
    names = [entry_name(OWN, KEY), entry_name(OWN, f"more:{KEY}"), entry_name(OWN, ""), entry_name(OWN, "\xff")]
    assert ONE_SERVER.keys_of(OWN, [name.encode("latin-1") for name in names]) == [KEY, f"more:{KEY}", "", "\xff"]


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        pytest.param([], [], id="none"),
        pytest.param([entry_name(OWN, KEY).encode(), entry_name("1" * 32, "cd").encode()], [KEY, "cd"], id="entries"),
        pytest.param([entry_name(OWN, KEY).encode(), GENERATION.encode()], None, id="the generation among them"),
        pytest.param(None, None, id="all"),
    ],
)
def test_a_change_of_the_generation_means_every_key(names, keys):
    assert ONE_SERVER.changed_keys(names) == keys


def test_an_entry_of_a_cluster_is_in_the_slot_of_its_copy_of_the_generation():
    for number in range(1000):
        key = f"{number:064x}"
        assert slot_of(CLUSTER.entry_name(OWN, key)) == slot_of(CLUSTER.generation_beside(key))
        assert slot_of(CLUSTER.probe_name(key)) == slot_of(CLUSTER.generation_beside(key))


def test_the_tags_of_a_cluster_lie_in_equal_parts_of_the_slots():
    part = SLOTS // len(TAGS)
    assert [slot_of(name) // part for name in CLUSTER.generations] == list(range(len(TAGS)))


@pytest.mark.parametrize("primaries", range(2, 13))
def test_no_primary_of_a_cluster_has_much_more_than_its_share_of_the_tags(primaries):
    share = SLOTS / primaries
    held = [int(slot_of(name) // share) for name in CLUSTER.generations]
    assert max(map(held.count, range(primaries))) <= len(TAGS) / primaries + 1


def test_names_of_a_cluster_are_watched_listed_and_told_apart():
    names = [CLUSTER.entry_name(OWN, KEY).encode(), CLUSTER.entry_name("1" * 32, "cd").encode()]
    assert all(name.startswith(b"{ocp:") for name in names)
    assert CLUSTER.watched == ("{ocp:",)
    assert CLUSTER.own(OWN, names) == names[:1]
    assert CLUSTER.keys_of(OWN, names[:1]) == [KEY]
    assert CLUSTER.changed_keys(names) == [KEY, "cd"]
    assert CLUSTER.changed_keys([*names, CLUSTER.generation_beside(KEY).encode()]) is None
    assert CLUSTER.entries_of(OWN) == f"{{ocp:*}}:1:e:{OWN}:*"
