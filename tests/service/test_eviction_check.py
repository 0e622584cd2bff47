"""When a Redis is asked whether it evicts, and what is said; what follows at start and reload is in tests/e2e/cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ollama_cache_proxy.service.eviction_check import check_eviction
from ollama_cache_proxy.service.settings import Settings, SettingsError, kinds_of_lifetime, load
from tests.support.servers import RedisServer, free_port
from tests.support.stores import calls, permit

UNTIL = {"lifetime": "until-evicted"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, False),
        ({"lifetime": "idle"}, False),
        (UNTIL, True),
        ({"models": {"a": UNTIL, "b": {"ttl": 5}}}, True),
        ({"categories": {"a": {}, "b": UNTIL}}, True),
        ({"models": {"a": {"lifetime": "idle"}}}, False),
    ],
)
def test_any_table_may_say_so(given: dict[str, Any], expected: bool) -> None:
    assert ("until-evicted" in kinds_of_lifetime(load(None, given))) is expected


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    own = RedisServer("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lfu")
    own.start()
    yield own
    own.close()


def settings(server: RedisServer, **given: Any) -> Settings:
    return load(None, {"redis_url": server.url, **given})


async def test_it_is_asked_only_where_something_depends_on_it(server: RedisServer) -> None:
    before = calls(server, "info")
    assert await check_eviction(settings(server, lifetime="idle")) == ""
    assert await check_eviction(settings(server, store="private", **UNTIL)) == ""
    assert await check_eviction(load(None, {"store": "memory", **UNTIL})) == ""
    assert calls(server, "info") == before + 1, "by the test"
    assert await check_eviction(settings(server, **UNTIL)) == ""
    assert calls(server, "info") == before + 3


async def test_one_that_must_not_be_asked_is_refused(server: RedisServer) -> None:
    permit(server, "default", "-info")
    try:
        with pytest.raises(SettingsError, match=r"permit INFO") as caught:
            await check_eviction(settings(server, **UNTIL))
    finally:
        permit(server, "default", "+info")
    assert "\n" not in str(caught.value)


async def test_one_that_is_away_does_not_stop_the_start() -> None:
    said = await check_eviction(load(None, {"redis_url": f"redis://:secret@127.0.0.1:{free_port()}", **UNTIL}))
    assert "does not answer" in said
    assert "secret" not in said
