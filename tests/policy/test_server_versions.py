"""Which servers can keep what they hold."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.server_versions import can_keep


@pytest.mark.parametrize(
    ("said", "can"),
    [
        ("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1536df31c0395150", True),
        ("Valkey server v=7.2.5 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=0", True),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=0", True),
        ("Redis server v=10.0.0 sha=00000000:0", True),
        ("Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64 build=0", False),
        ("KeyDB server v=6.3.4 sha=00000000:0", False),
        ("", False),
        ("Redis", False),
    ],
)
def test_by_what_it_says(said: str, can: bool) -> None:
    assert can_keep(said) is can
