"""Commands over one connection of a real Redis or Valkey: each gets its own reply, even when the connection ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from ollama_cache_proxy.stores.redis import lane as module
from ollama_cache_proxy.stores.redis.lane import RedisLane
from tests.support.servers import RedisServer
from tests.support.waiting import until


class Lane(RedisLane):
    """A lane that records the connections that it opened."""

    def __init__(self, url: str, *, spare: bool = False) -> None:
        self.pool: Any = redis.ConnectionPool.from_url(url, protocol=2, socket_connect_timeout=5, socket_timeout=5)
        self.opened = 0
        super().__init__(self.make, spare=spare)

    async def ask(self, *command: bytes | str | int, within: float = 10.0, urgent: bool = False) -> Any:
        return await super().ask(*command, within=within, urgent=urgent)

    def make(self) -> redis.Connection:
        self.opened += 1
        made: redis.Connection = self.pool.connection_class(**self.pool.connection_kwargs)
        return made


@pytest.fixture
async def lane(redis_server: RedisServer) -> AsyncIterator[Lane]:
    opened = Lane(redis_server.url)
    yield opened
    await opened.close()


async def test_replies_come_in_the_order_of_their_commands(lane: Lane) -> None:
    await lane.ask("MSET", *(text for number in range(500) for text in (f"key{number}", f"{number}" * 500)))
    for urgent in (False, True):
        asked = (lane.ask("GET", f"key{number}", urgent=urgent and number % 3 == 0) for number in range(500))
        assert await asyncio.gather(*asked) == [f"{number}".encode() * 500 for number in range(500)]
    assert await lane.ask("MGET", "key1", "none", "key2") == [b"1" * 500, None, b"2" * 500]
    assert await lane.ask("SET", b"bytes\xff", b"\x00\r\n", "EX", 60) == b"OK"
    assert await lane.ask("GET", b"bytes\xff") == b"\x00\r\n"
    assert lane.opened == 1


async def test_many_who_ask_at_once_share_one_connection(lane: Lane) -> None:
    assert len(set(await asyncio.gather(*(lane.ask("CLIENT", "ID") for _ in range(50))))) == 1
    assert lane.opened == 1


async def test_an_error_is_its_own_command_s_and_has_redis_py_s_name(lane: Lane, redis_server: RedisServer) -> None:
    await lane.ask("LPUSH", "list", "a")
    found = await asyncio.gather(
        lane.ask("PING"), lane.ask("GET", "list"), lane.ask("NONE"), lane.ask("PING"), return_exceptions=True
    )
    assert [found[0], found[3]] == [b"PONG", b"PONG"]
    assert [type(error) for error in found[1:3]] == [ResponseError, ResponseError]
    assert str(found[1]).startswith("WRONGTYPE")
    redis_server.client().config_set("maxmemory", "1")
    try:
        with pytest.raises(OutOfMemoryError):
            await lane.ask("SET", "a", "b")
    finally:
        redis_server.client().config_set("maxmemory", "0")
    assert lane.opened == 1


async def test_the_replies_to_some_commands_come_together_errors_included(lane: Lane) -> None:
    commands = [("SET", f"key{number}", number) for number in range(500)]
    assert await lane.ask_all(commands, within=10.0) == [b"OK"] * 500
    found = await lane.ask_all([("GET", "key1"), ("NONE",), ("GET", "key2"), ("INCR", "zero")], within=10.0)
    assert (found[0], type(found[1]), found[2:]) == (b"1", ResponseError, [b"2", 1])
    assert await lane.ask_all([("LPUSH", "key1", "a")], within=10.0) != [], "an error of the last one is a reply, too"
    assert lane.opened == 1


async def test_some_commands_whose_replies_are_late_or_lost_are_given_up_together(
    lane: Lane, redis_server: RedisServer
) -> None:
    await lane.ask("PING")
    redis_server.signal(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            await lane.ask_all([("PING",)] * 10, within=0.1)
    finally:
        redis_server.signal(signal.SIGCONT)
    assert await lane.ask_all([("PING",)] * 2, within=10.0) == [b"PONG"] * 2
    assert lane.opened == 2, "what did not answer in time is not asked again"
    own = await lane.ask("CLIENT", "ID")
    with pytest.raises(RedisConnectionError):
        await lane.ask_all(
            [("PING",), ("CLIENT", "KILL", "ID", own, "SKIPME", "no"), *[("BLPOP", "none", 0)] * 2], within=10
        )
    assert await lane.ask("PING") == b"PONG"


async def test_some_commands_that_nobody_waits_for_any_more_leave_the_lane_as_it_was(lane: Lane) -> None:
    await lane.ask("PING")
    waiting = asyncio.ensure_future(lane.ask_all([("PING",), ("BLPOP", "none", "0.2")], within=10.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert await lane.ask("ECHO", "a") == b"a"
    assert lane.opened == 1


async def test_a_command_that_is_given_up_leaves_the_others_their_replies(lane: Lane) -> None:
    await lane.ask("MSET", "a", "1", "b", "2")
    asked = [asyncio.ensure_future(lane.ask("GET", name)) for name in ("a", "b", "a", "b")]
    await asyncio.sleep(0)
    asked[0].cancel()
    asked[2].cancel()
    assert [await asked[1], await asked[3]] == [b"2", b"2"]
    assert await lane.ask("GET", "a") == b"1"


async def test_what_a_lost_connection_took_is_asked_once_more(lane: Lane, redis_server: RedisServer) -> None:
    own = await lane.ask("CLIENT", "ID")
    asked = [asyncio.ensure_future(lane.ask("BLPOP", f"queue{number}", 5)) for number in range(3)]
    client = redis_server.client()
    await until(lambda: client.info("clients")["blocked_clients"] == 1)
    client.client_kill_filter(_id=str(own))
    await until(lambda: client.info("clients")["blocked_clients"] == 1 and lane.opened == 2)
    for number in range(3):
        client.rpush(f"queue{number}", number)
    assert [await one for one in asked] == [[f"queue{number}".encode(), b"%d" % number] for number in range(3)]


async def test_a_server_that_is_gone_is_an_error_and_one_that_is_back_is_found(lane: Lane) -> None:
    server = RedisServer()
    server.start()
    other = Lane(server.url)
    try:
        assert await other.ask("PING") == b"PONG"
        server.kill()
        with pytest.raises((RedisConnectionError, OSError)):
            await other.ask("PING")
        server.start()
        assert await other.ask("PING") == b"PONG"
    finally:
        await other.close()
        server.close()


async def test_a_renewed_lane_asks_elsewhere_and_lets_the_old_one_end(
    monkeypatch: pytest.MonkeyPatch, lane: Lane, redis_server: RedisServer
) -> None:
    client = redis_server.client()
    own = await lane.ask("CLIENT", "ID")
    slow = asyncio.ensure_future(lane.ask("BLPOP", "slow", 30))
    never = asyncio.ensure_future(lane.ask("GET", "never"))
    await asyncio.sleep(0)
    lane.renew()
    assert await lane.ask("CLIENT", "ID") != own
    client.rpush("slow", "a")
    assert await slow == [b"slow", b"a"]
    assert await never is None
    await until(lambda: str(own) not in {row["id"] for row in client.client_list()})
    monkeypatch.setattr(module, "_CLOSE_WITHIN", 0.2)
    stuck = asyncio.ensure_future(lane.ask("BLPOP", "stuck", 30))
    await asyncio.sleep(0)
    stuck.cancel()
    lane.renew()
    await until(lambda: client.info("clients")["blocked_clients"] == 0)


async def test_a_server_that_is_stopped_keeps_nobody_for_longer_than_he_waits() -> None:
    server = RedisServer()
    server.start()
    other = Lane(server.url)
    try:
        await other.ask("PING")
        server.signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await other.ask("PING")
        server.signal(signal.SIGCONT)
        assert await other.ask("ECHO", "a") == b"a"
    finally:
        server.signal(signal.SIGCONT)
        await other.close()
        server.close()


@pytest.mark.parametrize("reply", [b"?\r\n", b"+OK\r\n+one too many\r\n", b"*1\r\n?\r\n"])
async def test_anything_but_a_reply_ends_the_connection(reply: bytes) -> None:
    ended = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(reply if b"PING" in data else b"+OK\r\n" * data.count(b"*"))
        ended += 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    other = Lane(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        if reply.startswith(b"+"):
            assert await other.ask("PING") == b"OK"
        else:
            with pytest.raises(RedisConnectionError):
                await other.ask("PING")
        await until(lambda: ended)
    finally:
        await other.close()
        server.close()


@pytest.mark.parametrize("error", [RuntimeError("closed"), AttributeError("get"), asyncio.CancelledError()])
async def test_a_connection_that_cannot_be_opened_leaves_nothing_open(error: BaseException) -> None:
    """redis-py disconnects after its own exceptions alone."""

    class Connection:
        disconnected = 0

        async def connect(self) -> None:
            raise error

        async def disconnect(self, *, nowait: bool) -> None:
            assert nowait
            self.disconnected += 1
            raise RuntimeError("the handler is closed")

    made: Any = Connection()
    with pytest.raises(type(error)):
        await module.connect(made)
    assert made.disconnected == 1


async def test_a_connection_that_can_no_longer_be_written_to_fails_its_commands(lane: Lane) -> None:
    """uvloop raises RuntimeError, and nobody waits for the write that has been put off to the end of the turn."""
    await lane.ask("PING")
    wire: Any = lane._wire
    transport = wire.transport

    class Closed:
        def write(self, data: bytes) -> None:
            raise RuntimeError("the handler is closed")

        def __getattr__(self, name: str) -> Any:
            return getattr(transport, name)

    wire.transport = Closed()
    assert await lane.ask("PING") == b"PONG", "asked once more, over another connection"
    assert lane.opened == 2


async def test_what_connecting_takes_is_waited_for_by_none_for_longer_than_for_a_reply() -> None:
    """The connection is open for those who come after."""
    may_answer = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await may_answer.wait()
            writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    other = Lane(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    loop = asyncio.get_running_loop()
    try:
        with pytest.raises(TimeoutError):
            await other.ask("PING", within=0.1)
        begun = loop.time()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        with pytest.raises(TimeoutError):
            await other.ask("PING", within=0.05)
        counting.cancel()
        assert turns < 3, "who comes later does not wait at all"
        may_answer.set()
        await other.ready()
        assert loop.time() - begun < module.CONNECT_WITHIN
        assert await other.ask("PING") == b"OK"
        assert other.opened == 1
    finally:
        await other.close()
        server.close()


async def test_a_spare_connection_takes_over_and_is_replaced(redis_server: RedisServer) -> None:
    other, client = Lane(redis_server.url, spare=True), redis_server.client()
    try:
        ids = [await other.ask("CLIENT", "ID")]
        for number in range(3):
            await until(lambda: len(other._open_wires) == 2)
            opened = other.opened
            client.client_kill_filter(_id=str(ids[-1]))
            ids.append(await other.ask("CLIENT", "ID"))
            assert opened == number + 2, "a lost one costs no command a new connection"
        assert len(set(ids)) == 4
    finally:
        await other.close()


async def test_a_lane_that_loses_its_connection_opens_another_before_it_is_asked(
    lane: Lane, redis_server: RedisServer
) -> None:
    own = await lane.ask("CLIENT", "ID")
    redis_server.client().client_kill_filter(_id=str(own))
    await until(lambda: lane.opened == 2 and lane._wire is not None)
    assert await lane.ask("CLIENT", "ID") != own


async def test_a_server_that_closes_what_it_accepts_is_not_asked_all_the_time() -> None:
    accepted = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.write(b"+OK\r\n" * (await reader.read(65536)).count(b"*"))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    other = Lane(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        for _ in range(3):
            with suppress(RedisConnectionError):
                await other.ask("PING")
        before = accepted
        await asyncio.sleep(0.5)
        assert accepted - before <= 5
    finally:
        await other.close()
        server.close()


async def test_of_many_late_replies_one_connection_is_given_up(redis_server: RedisServer) -> None:
    other, client = Lane(redis_server.url, spare=True), redis_server.client()
    try:
        await other.ask("PING")
        await until(lambda: len(other._open_wires) == 2)
        spare = other._open_wires[1]
        client.client_pause(1000)
        late = await asyncio.gather(*(other.ask("GET", "a", within=0.05) for _ in range(10)), return_exceptions=True)
        assert {type(error) for error in late} == {TimeoutError}
        assert other._wire is spare
    finally:
        with suppress(ResponseError):  # Redis 6.0 does not know it, and goes on by itself
            client.client_unpause()
        await other.close()
