from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy.store_eviction import unbounded


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        pytest.param({"maxmemory": 5, "maxmemory_policy": "allkeys-lru"}, "", id="lru"),
        pytest.param({"maxmemory": "5", "maxmemory_policy": "allkeys-random"}, "", id="random, as text"),
        pytest.param(
            {"maxmemory": 0, "maxmemory_policy": "allkeys-lru"}, "has no memory limit (maxmemory 0)", id="no limit"
        ),
        pytest.param(
            {"maxmemory": 5, "maxmemory_policy": "noeviction"},
            "evicts nothing when it is full (noeviction)",
            id="noeviction",
        ),
        pytest.param(
            {"maxmemory": 0, "maxmemory_policy": "noeviction"},
            "evicts nothing when it is full (noeviction)",
            id="neither",
        ),
        pytest.param(
            {"maxmemory": 5, "maxmemory_policy": "volatile-lru"},
            "evicts only what expires (volatile-lru)",
            id="only what expires",
        ),
        pytest.param({"maxmemory_policy": "allkeys-lru"}, "has no memory limit (maxmemory 0)", id="of no limit"),
        pytest.param({"maxmemory": 5, "cache_mode": "cache"}, "", id="Dragonfly as a cache"),
        pytest.param({"maxmemory": 0, "cache_mode": "cache"}, "has no memory limit (maxmemory 0)", id="Dragonfly"),
        pytest.param(
            {"maxmemory": 5, "cache_mode": "store", "maxmemory_policy": "eviction"},
            "evicts nothing when it is full (cache_mode store)",
            id="Dragonfly as a store",
        ),
        pytest.param({}, "does not say what it does when it is full", id="silent"),
    ],
)
def test_only_a_bounded_server_that_drops_any_entry_is_bounded(about: dict[str, Any], expected: str) -> None:
    assert unbounded(about) == expected
