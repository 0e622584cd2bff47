"""The generation: how it is read with the entries under it, replaced, and begun where there is none."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from ollama_cache_proxy.stores.redis import generation as module
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.generation import Generation
from ollama_cache_proxy.stores.redis.guard import Guard, WriteRefused
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


async def test_one_that_has_ended_and_comes_back_is_replaced_by_the_newest(
    generation: Generation, redis_server: RedisServer
) -> None:
    """As where a replica becomes the primary that has not heard of a clear."""
    old = await generation.current()
    redis_server.client().set(entry_name(old, key(1)), "cleared")
    await generation.replace()
    newest = await generation.current()
    redis_server.client().set(GENERATION, old)
    assert await generation.lookup([key(1)]) == (newest, [None])
    assert redis_server.client().get(GENERATION) == newest.encode()


async def test_what_ended_elsewhere_is_known_to_whoever_has_read_both(
    generation: Generation, reach: Reach, redis_server: RedisServer
) -> None:
    old, other = await generation.current(), of(reach(redis_server))
    await other.replace()
    newest = await generation.current()
    assert newest != old
    redis_server.client().set(GENERATION, old)
    assert await generation.current() == newest
    assert await other.current() == newest


async def test_one_that_was_begun_while_another_was_restored_ends_with_it(
    generation: Generation, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await generation.current()
    await generation.replace()
    newest, third = await generation.current(), "c" * 32
    redis_server.client().set(GENERATION, old)
    run = generation._commands.run

    async def late(*ways: Any) -> Any:
        redis_server.client().set(GENERATION, third)
        return await run(*ways)

    monkeypatch.setattr(generation._commands, "run", late)
    current = await generation.current()
    assert is_token(current)
    assert current not in (old, newest, third)
    assert redis_server.client().get(GENERATION) == current.encode()


async def test_without_the_right_to_write_one_that_comes_back_is_not_used(
    generation: Generation, redis_server: RedisServer
) -> None:
    old = await generation.current()
    redis_server.client().set(entry_name(old, key(1)), "cleared")
    await generation.replace()
    redis_server.client().set(GENERATION, old)
    generation._guard.writes.failed(0.0, decisive=True)
    with pytest.raises(WriteRefused):
        await generation.lookup([key(1)])


async def test_a_clear_elsewhere_is_not_taken_for_older_than_ones_own(
    generation: Generation, reach: Reach, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its generation is read between this one's command and its reply."""
    await generation.current()
    run = generation._commands.run

    async def slow(*ways: Any) -> Any:
        old = await run(*ways)
        await of(reach(redis_server)).replace()
        await generation.current()
        return old

    monkeypatch.setattr(generation._commands, "run", slow)
    await generation.replace()
    monkeypatch.undo()
    stored = redis_server.client().get(GENERATION)
    assert (await generation.current()).encode() == stored
    assert redis_server.client().get(GENERATION) == stored
