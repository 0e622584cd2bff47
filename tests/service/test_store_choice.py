"""Which store the settings choose, what the log says of it, and what is told where it cannot be had."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.core.store_ports import StoreState
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.service import private_store
from ollama_cache_proxy.service.context import Context, open_context
from ollama_cache_proxy.service.private_store import PrivateServer
from ollama_cache_proxy.service.settings import SettingsError, load
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.service.store_choice import ChosenStore, open_store, tiered_store
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.stores.memory import MemoryStore
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from ollama_cache_proxy.stores.redis.redis_entries import RedisEntries
from ollama_cache_proxy.stores.tiered import TieredStore
from tests.support import canary
from tests.support.entries import FULL_ENTRY
from tests.support.kept_servers import kept_server
from tests.support.servers import RedisServer
from tests.support.stores import fill, generation_of, key
from tests.support.tls import AUTHORITY, KEY
from tests.support.waiting import until


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., Any]]:
    """What opens a store with some settings; gives it, and the lines that the log then has."""
    async with AsyncExitStack() as stack:

        async def open_with(lent: PrivateServer | None = None, **settings: Any) -> tuple[ChosenStore, str]:
            stream = io.StringIO()
            sock = stack.enter_context(bind("127.0.0.1:0"))
            context: Context = open_context(load(None, settings), sock, stream, None)
            try:
                chosen = await open_store(context, stack, lent)
            finally:
                stack.push_async_callback(context.tasks.close, 0)  # before the store, as in open_neighbours
            await until(lambda: getattr(chosen.entries, "_awake", True))
            canary.check(stream.getvalue(), "the log")
            return chosen, stream.getvalue()

        yield open_with


WELL = StoreState(answers=True, stores=True)


def nothing_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_store, "find_server", lambda: None)


async def test_memory(opened: Callable[..., Any]) -> None:
    chosen, log = await opened(store="memory", memory_bytes=str(3 << 20))
    assert isinstance(chosen.entries, MemoryStore)
    assert (chosen.name, chosen.state(), chosen.forget()) == ("memory", WELL, None)
    assert "Store: this process's memory, 3 MiB, not shared" in log


async def test_auto_without_any_server_is_memory(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_to_start(monkeypatch)
    assert (await opened())[0].name == "memory"


async def test_a_private_one_that_cannot_be_had(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_to_start(monkeypatch)
    with pytest.raises(SettingsError, match=r"^store: 'private' is not allowed: neither"):
        await opened(store="private")


async def test_a_private_one_has_the_size_that_is_set(opened: Callable[..., Any]) -> None:
    chosen, log = await opened(store="private", private_redis_bytes=str(8 << 20))
    assert chosen.state() == WELL
    assert f"Store: {chosen.name}, 8 MiB, not shared" in log


@pytest.mark.parametrize(("hot", "kind"), [("0", RedisEntries), ("1000000", TieredStore)])
async def test_a_redis_that_is_named(
    hot: str, kind: type, opened: Callable[..., Any], redis_server: RedisServer
) -> None:
    chosen, log = await opened(redis_url=redis_server.url, hot_bytes=hot)
    assert isinstance(chosen.entries, kind)
    assert [tier for part in chosen.gauges for tier in part.breakers()] == ["read", "write", "delete"]
    assert (chosen.name, chosen.state()) == (redis_server.name, WELL)
    assert f"Store: {redis_server.name}, shared with every proxy that uses it" in log


async def test_the_environment_names_one_too(
    opened: Callable[..., Any], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    assert (await opened())[0].name == redis_server.name
    assert (await opened(store="memory"))[0].name == "memory"


async def test_one_that_is_lent_is_it_whatever_is_named(
    opened: Callable[..., Any], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    chosen, log = await opened(PrivateServer(url=redis_server.url, name="a private server", about="so large"))
    assert (chosen.name, chosen.state()) == ("a private server", WELL)
    assert "Store: a private server, so large" in log


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"store": "redis"}, "^store: 'redis' is not allowed without a redis_url"),
        (
            {"redis_url": "redis://:secret@h:port"},
            r"^redis_url: \(hidden\) is not allowed: must have one host and a port",
        ),
        (
            {"redis_url": "rediss://:secret@h?ssl_ca_certs=/ca.pem", "redis_ca": AUTHORITY},
            "^redis_ca: not allowed beside ssl_ca_certs or ssl_ca_path",
        ),
        ({"redis_url": f"rediss://:secret@h?ssl_ca_certs={KEY}"}, r"hidden.* what the option ssl_ca_certs names"),
        ({"redis_url": "rediss://:secret@h?ssl_certfile=/none"}, r"hidden.* what the option ssl_certfile names"),
        ({"redis_url": "rediss://:secret@h?ssl_ciphers=none"}, r"hidden.* what the option ssl_ciphers names"),
        ({"store": "memory", "redis_ca": KEY}, "^redis_ca: .* is not allowed: it is not a PEM file of the right kind"),
    ],
)
async def test_what_cannot_be_followed(settings: dict[str, str], told: str, opened: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        await opened(**settings)
    assert "secret" not in str(caught.value)


async def test_what_was_asked_before_another_proxys_clear_is_not_kept(tmp_path: Path) -> None:
    with kept_server(tmp_path / "kept") as server:
        await server.check_deletions()
        client, tasks = RedisClient(redis_address(server.url)), Tasks()
        async with server.store() as own, server.store() as another:
            hot = MemoryStore(1 << 20, clock=SystemClock(), name="hot")
            tiered = tiered_store(hot, own.entries, client, tasks)
            before = await generation_of(tiered)
            await fill(tiered, {key(1): FULL_ENTRY})
            await until(lambda: tiered._holding)
            await another.entries.clear()
            await until(lambda: own.entries._generation.seen != before)
            assert await tiered.put([(key(2), FULL_ENTRY)], before)
            assert not [*server.client().scan_iter(f"ocp:1:e:*:{key(2)}")]
        await tasks.close(0)
        await client.close()
