"""The generation: how it is read with the entries under it, replaced, and begun where there is none."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from ollama_cache_proxy.stores.redis import generation as module
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.generation import Generation
from ollama_cache_proxy.stores.redis.guard import Guard
from ollama_cache_proxy.stores.redis.key_layout import GENERATION, entry_name
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from tests.support.clocks import Clock
from tests.support.servers import RedisServer
from tests.support.stores import calls, key

Reach = Callable[[RedisServer], RedisClient]


def of(client: RedisClient) -> Generation:
    """Return the generation as a process of its own sees it; its deadlines are for a busy machine."""
    guard = Guard(name="Redis", clock=Clock(), observe=lambda _: None, longest=10.0)
    guard.wait.begin(5.0)
    return Generation(client, guard, Commands(clock=Clock(), observe=lambda _: None))


@pytest.fixture
def generation(client: RedisClient) -> Generation:
    return of(client)


def is_token(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


async def test_it_is_begun_where_there_is_none_and_is_the_same_for_all(
    generation: Generation, reach: Reach, redis_server: RedisServer
) -> None:
    found = await generation.current()
    assert is_token(found)
    assert redis_server.client().get(GENERATION) == found.encode()
    assert await of(reach(redis_server)).current() == found
    assert generation.seen == found


async def test_a_lookup_is_one_command_once_the_generation_is_known(
    generation: Generation, redis_server: RedisServer
) -> None:
    current = await generation.current()
    redis_server.client().mset({entry_name(current, key(number)): str(number) for number in (1, 3)})
    before = {name: calls(redis_server, name) for name in ("mget", "get")}
    assert await generation.lookup([key(1), key(2), key(3)]) == (current, [b"1", None, b"3"])
    assert {name: calls(redis_server, name) - before[name] for name in before} == {"mget": 1, "get": 0}


@pytest.mark.parametrize(("count", "commands"), [(64, 1), (65, 2), (128, 2), (129, 3), (1000, 16)])
async def test_a_long_list_takes_a_command_for_64_entries(
    count: int, commands: int, generation: Generation, redis_server: RedisServer
) -> None:
    current = await generation.current()
    redis_server.client().mset({entry_name(current, key(number)): str(number) for number in range(count)})
    before = calls(redis_server, "mget")
    assert await generation.lookup([key(number) for number in range(count)], 5) == (
        current,
        [str(number).encode() for number in range(count)],
    )
    assert calls(redis_server, "mget") - before == commands


@pytest.mark.parametrize("count", [1, 100])
async def test_a_generation_that_another_process_replaced_is_found_by_a_second_lookup(
    count: int, generation: Generation, reach: Reach, redis_server: RedisServer
) -> None:
    await generation.current()
    other = of(reach(redis_server))
    await other.replace()
    redis_server.client().set(entry_name(other.seen, key(0)), "new")
    found, values = await generation.lookup([key(number) for number in range(count)], 5)
    assert (found, values[0], set(values[1:])) == (other.seen, b"new", {None} if count > 1 else set())


async def test_a_new_one_gives_the_one_before(generation: Generation) -> None:
    assert await generation.replace() == ""
    first = generation.seen
    assert await generation.replace() == first
    assert first != await generation.current() == generation.seen


@pytest.mark.parametrize("token", [b"", b"x", b"0" * 31, b"0" * 33, b"A" * 32, b"\xff" * 32])
async def test_no_token_of_ours_is_replaced(token: bytes, generation: Generation, redis_server: RedisServer) -> None:
    redis_server.client().set(GENERATION, token)
    found = await generation.current()
    assert is_token(found)
    assert redis_server.client().get(GENERATION) == found.encode()


async def test_what_is_of_another_type_is_replaced(generation: Generation, redis_server: RedisServer) -> None:
    client = redis_server.client()
    client.rpush(GENERATION, "x")
    assert is_token(await generation.current())
    client.delete(GENERATION)
    client.rpush(GENERATION, "x")
    assert await generation.replace() == ""
    assert client.get(GENERATION) == generation.seen.encode()


async def test_of_two_who_find_none_the_first_one_names_it(
    monkeypatch: pytest.MonkeyPatch, generation: Generation, redis_server: RedisServer
) -> None:
    client, others, real = redis_server.client(), b"b" * 32, module.secrets.token_hex

    def after_another(size: int) -> str:
        client.set(GENERATION, others, nx=True)
        return real(size)

    monkeypatch.setattr(module.secrets, "token_hex", after_another)
    assert await generation.current() == others.decode()
    assert client.get(GENERATION) == others


async def test_one_that_never_stays_is_given_up_without_an_entry(
    monkeypatch: pytest.MonkeyPatch, generation: Generation, redis_server: RedisServer
) -> None:
    """Another process replaces it between each two lookups."""
    client, looks = redis_server.client(), generation._lane.ask

    async def ask(*command: object, **how: object) -> object:
        reply = await looks(*command, **how)
        client.set(GENERATION, f"{int(client.get(GENERATION), 16) + 1:032x}")
        return reply

    client.set(GENERATION, "1" * 32)
    monkeypatch.setattr(generation._lane, "ask", ask)
    assert await generation.lookup([key(1), key(2)]) == (generation.seen, [None, None])


async def test_of_many_lookups_at_once_under_an_invalid_one_all_find_the_same_new_one(
    generation: Generation, redis_server: RedisServer
) -> None:
    """One that removed what another had just begun would make entries of its own time unfindable."""
    for _ in range(20):
        redis_server.client().set(GENERATION, "x")
        found = await asyncio.gather(*(generation.current() for _ in range(8)))
        assert set(found) == {redis_server.client().get(GENERATION).decode()}
