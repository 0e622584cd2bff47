"""The names as they are in stores in use: a change of one loses all that is stored under it."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.stores.redis.key_layout import (
    GENERATION,
    WATCHED,
    changed_keys,
    entry_name,
    keys_of,
    value_name,
)

KEY = "ab" * 32
OWN = "0" * 32


def test_names_are_what_they_have_always_been():
    assert GENERATION == "ocp:1:generation"
    assert entry_name(OWN, KEY) == f"ocp:1:e:{OWN}:{KEY}"
    assert value_name("statistics") == "ocp:1:statistics"


def test_what_is_watched_are_entries_and_the_generation_and_nothing_else():
    assert entry_name(OWN, KEY).startswith(WATCHED)
    assert GENERATION.startswith(WATCHED)
    assert not value_name("statistics").startswith(WATCHED)
    assert not value_name("models:http://127.0.0.1:11434").startswith(WATCHED)


def test_keys_are_what_stands_behind_the_generation():
    names = [entry_name(OWN, KEY), entry_name(OWN, f"more:{KEY}"), entry_name(OWN, ""), entry_name(OWN, "\xff")]
    assert keys_of(OWN, [name.encode("latin-1") for name in names]) == [KEY, f"more:{KEY}", "", "\xff"]


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
    assert changed_keys(names) == keys
