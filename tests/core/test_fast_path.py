"""The fast path: its responses are those of the ordinary way, and it is taken only where that is certain."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import signal
import socket
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.core import fast_notes, fast_path
from ollama_cache_proxy.core.facts import Event, Repeated
from ollama_cache_proxy.core.store_ports import Lookup, Lookups
from ollama_cache_proxy.downstream import client_connection
from ollama_cache_proxy.downstream.client_connection import ClientConnection
from ollama_cache_proxy.downstream.gate import Gate
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.stores import tiered
from ollama_cache_proxy.upstream import digests
from tests.support.fast_paths import Watch
from tests.support.rawhttp import RawAnswer, RawConnection, ask, request_bytes
from tests.support.recordings import RECORDINGS
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

CASES = RECORDINGS["0.33"]
GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "why", "stream": False}
HIT = "HIT"
STILL = Behaviour(completion_delay=0, embedding_delay=0)
VARYING = (
    re.compile(r'"(created_at|modified_at|expires_at|\w+_duration|created|completed_at|id|completed)": ?("[^"]*"|\d+)'),
    re.compile(
        r"Date: [^\r]*|\d+\.\d+ ms|127\.0\.0\.1:[\d/]+|_(?:sum|bucket)\{.*|seconds_total.*|event_loop_lag.*|\w+_bytes\w*\{?.*|store_operation.*|process_.*|redis:[^}]*|[0-9]+ B|[\d.]+ s\b|[0-9a-f]{8}\.\.\."
    ),
    re.compile(r'"savedSeconds":[\d.]+|"averageSeconds":\{[^}]*\}|"(?:expires|at|keysAge)":[\d.]+|Version [\d.]+'),
)


def settled(text: str) -> str:
    for pattern in VARYING:
        text = pattern.sub("", text)
    return text


def fields(answer: RawAnswer) -> list[tuple[str, str]]:
    """Return the fields, without the values that differ between runs."""
    return [
        (name, "" if name in ("Date", "Content-Length", "Age") else re.sub(r"ttl=\d+", "ttl=", value))
        for name, value in answer.fields
    ]


class Client:
    """A client that keeps its connection, and sends a request in one piece, or its body in a second one."""

    def __init__(self, url: str, *, pieces: int = 1) -> None:
        self.url, self.pieces = url, pieces
        self.connection: RawConnection | None = None

    async def ask(
        self, method: str, path: str, body: bytes | None, fields: dict[str, str | None] | None = None
    ) -> RawAnswer:
        if self.connection is None:
            self.connection = await RawConnection.open(self.url)
        sent = request_bytes(method, path, host="localhost", fields=fields, body=body)
        head, _, rest = sent.partition(b"\r\n\r\n")
        parts = [sent] if self.pieces == 1 else [head + b"\r\n\r\n", rest]
        for part in parts:
            self.connection.writer.write(part)
            await asyncio.sleep(0 if part is parts[-1] else 0.002)
        answer = await self.connection.answer(method)
        if answer.closed or (answer.field("Connection") or "").lower() == "close" or answer.status == 400:
            self.close()
        return answer

    async def generate(self, prompt: str = "why", **fields: str | None) -> RawAnswer:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        return await self.ask("POST", "/api/generate", json.dumps(GENERATE | {"prompt": prompt}).encode(), named)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


STORES = ["memory", "redis", "redis without a hot tier"]


async def holding(proxy: Proxy) -> None:
    """Wait until the hot tier, where there is one, may hold entries."""
    store: Any = proxy.running.store
    await until(lambda: getattr(store, "_holding", True))


def settings_of(store: str, url: str) -> dict[str, Any]:
    if store == "memory":
        return {}
    return {"redis_url": url} | ({"hot_bytes": 0} if "without" in store else {})


@pytest.fixture(params=STORES)
async def proxy(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncIterator[Proxy]:
    """A proxy with the memory store, or in front of a real Redis with a hot tier that holds entries, or with none."""
    url = "" if request.param == "memory" else request.getfixturevalue("redis_server").url
    async with proxy_before(simulator.url, **settings_of(request.param, url)) as running:
        await holding(running)
        yield running


@pytest.fixture
def watch(proxy: Proxy) -> Watch:
    return Watch(proxy)


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    asking = Client(proxy.url)
    yield asking
    asking.close()


# Both ways.


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("store", STORES)
async def test_every_recorded_case_is_answered_counted_and_logged_alike_both_ways(
    store: str, pieces: int, redis_process: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is asked five times over a connection that is kept, through two proxies in step, before equal servers.

    No timer looks at their models: what is stored would be confirmed before a change of a model at one of them alone.
    """
    for name in ("POLL", "STALE"):
        monkeypatch.setattr(digests, name, 600.0)
    redis_process.client().flushall()
    urls = [redis_process.url[:-1] + str(number) for number in (1, 2)]
    async with AsyncExitStack() as stack:
        proxies, watches, clients = [], [], []
        for number, url in enumerate(urls):
            behind = await stack.enter_async_context(Simulator(STILL))
            proxy = await stack.enter_async_context(proxy_before(behind.url, **settings_of(store, url)))
            proxies.append(proxy)
            watches.append(Watch(proxy, off=number == 1))
            clients.append(Client(proxy.url, pieces=pieces))
            stack.callback(clients[-1].close)
            await holding(proxy)
        for name, case in CASES.items():
            asked = case["request"]
            body = None if asked["body"] is None else asked["body"].encode("latin-1")
            for _ in range(5):
                short, ordinary = [
                    await client.ask(asked["method"], asked["path"], body, asked.get("headers")) for client in clients
                ]
                for proxy in proxies:
                    await proxy.kept()
                assert short.status_line == ordinary.status_line, name
                assert fields(short) == fields(ordinary), name
                assert settled(short.body.decode("latin-1")) == settled(ordinary.body.decode("latin-1")), name
        assert watches[0].taken > 40
        assert watches[1].taken == 0
        for path in ("/api/cache/stats", "/metrics"):
            texts = [settled((await client.ask("GET", path, None)).body.decode()) for client in clients]
            assert sorted(texts[0].splitlines()) == sorted(texts[1].splitlines())  # series in any order
        logs = [
            [settled(line) for line in proxy.log.getvalue().splitlines() if "listens" not in line] for proxy in proxies
        ]
        assert sorted(logs[0]) == sorted(logs[1])


async def test_hits_are_reported_when_metrics_are_read_and_once_a_second_otherwise(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulator
) -> None:
    monkeypatch.setattr(fast_path, "REPORT_EVERY", 0.05)
    async with proxy_before(simulator.url, log_requests="off") as proxy:
        watch, client = Watch(proxy), Client(proxy.url)
        for _ in range(12):
            await client.generate()
        assert watch.taken == 10
        found = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert (found["hits"], found["misses"], found["byModel"]["tiny:latest"]["hits"]) == (11, 1, 11)
        text = (await ask(proxy.url, "GET", "/metrics")).body.decode()
        assert 'ollama_cache_proxy_hits_total{endpoint="generate"} 11.0' in text
        assert 'duration_seconds_count{cache="hit",endpoint="generate"} 11.0' in text
        assert 'first_byte_seconds_bucket{cache="hit",endpoint="generate",le="+Inf"} 11.0' in text
        saved = re.findall(r'saved_seconds_total\{endpoint="generate"\} (\S+)', text)
        await client.generate()
        await until(lambda: proxy.running.metrics.hits == 12)
        more = re.findall(
            r'saved_seconds_total\{endpoint="generate"\} (\S+)', proxy.running.metrics.render("")[0].decode()
        )
        assert float(more[0]) == pytest.approx(12 / 11 * float(saved[0]))
        client.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "tiny", "input": "why", "max_output_tokens": 8}),
        ("/v1/messages", {"model": "tiny", "messages": [{"role": "user", "content": "why"}], "max_tokens": 8}),
        (
            "/v1/messages?beta=true",
            {"model": "tiny", "messages": [{"role": "user", "content": "why"}], "max_tokens": 8},
        ),
    ],
)
async def test_agents_hits_are_served_by_it_too(path: str, body: Any, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, cache_v1_responses="always", cache_v1_messages="always") as proxy:
        watch, client = Watch(proxy), Client(proxy.url)
        answers = [await client.ask("POST", path, json.dumps(body).encode()) for _ in range(4)]
        assert [answer.field("X-Cache") for answer in answers] == ["MISS", HIT, HIT, HIT]
        assert len({answer.body for answer in answers}) == 1
        assert watch.taken == 2
        client.close()


# Where it is not taken.


async def noted(client: Client, watch: Watch, **fields: str | None) -> None:
    """Ask until the fast path serves it."""
    async with asyncio.timeout(10):
        while not watch.taken:
            await client.generate(**fields)
    await watch.proxy.kept()


async def test_a_clear_a_purge_and_a_deletion_are_obeyed_at_once(client: Client, watch: Watch, proxy: Proxy) -> None:
    key = json.loads((await ask(proxy.url, "POST", "/api/cache/explain", body=json.dumps(
        {"path": "/api/generate", "body": GENERATE}).encode())).body)["key"]  # fmt: skip
    for method, path, body in (
        ("POST", "/api/cache/clear", None),
        ("POST", "/api/cache/clear", b'{"model": "tiny"}'),
        ("DELETE", f"/api/cache/entries/{key}", None),
    ):
        watch.taken = 0
        await noted(client, watch)
        answer = await ask(proxy.url, method, path, body=body)
        assert answer.status == 200
        assert (await client.generate()).field("X-Cache") == "MISS", path


async def test_changes_by_another_process_are_invalidations(simulator: Simulator, redis_server: RedisServer) -> None:
    """Clear, deletion, an eviction, FLUSHALL: what Redis no longer has is soon no hit here."""
    async with proxy_before(simulator.url, redis_url=redis_server.url) as one:
        async with proxy_before(simulator.url, redis_url=redis_server.url) as other:
            store: Any = one.running.store
            await until(lambda: store._holding)
            watch, client, redis = Watch(one), Client(one.url), redis_server.client()
            changes = (
                lambda: ask(other.url, "POST", "/api/cache/clear"),
                lambda: ask(other.url, "POST", "/api/cache/clear", body=b'{"model": "tiny"}'),
                lambda: asyncio.to_thread(redis.flushall),
                lambda: asyncio.to_thread(redis.unlink, *redis.keys("ocp:1:e:*")),
            )
            for change in changes:
                watch.taken = 0
                await noted(client, watch)
                await change()
                await until(lambda: not store._front._entries)
                assert (await client.generate()).field("X-Cache") == "MISS"
            client.close()


@pytest.fixture
async def own(simulator: Simulator) -> AsyncIterator[tuple[RedisServer, Proxy]]:
    """A Redis for the test alone, and a proxy with a hot tier in front of it."""
    server = RedisServer("--maxmemory-policy", "allkeys-lru")
    server.start()
    try:
        async with proxy_before(simulator.url, redis_url=server.url) as proxy:
            store: Any = proxy.running.store
            await until(lambda: store._holding)
            yield server, proxy
    finally:
        server.close()


async def test_what_is_used_here_is_not_the_first_that_redis_lets_go_of(
    monkeypatch: pytest.MonkeyPatch, own: tuple[RedisServer, Proxy]
) -> None:
    """Redis saw no use of an entry that was held, and evicted it before all others."""
    monkeypatch.setattr(tiered, "TOUCH_EVERY", 0.05)
    server, proxy = own
    watch, client = Watch(proxy), Client(proxy.url)
    await noted(client, watch)
    (name,) = server.client().keys("ocp:1:e:*")
    await until(lambda: server.client().object("idletime", name) >= 1)
    async with asyncio.timeout(10):
        while server.client().object("idletime", name):
            await client.generate()
    client.close()


async def test_without_invalidations_nothing_is_served_from_memory(own: tuple[RedisServer, Proxy]) -> None:
    server, proxy = own
    store: Any = proxy.running.store
    watch, client = Watch(proxy), Client(proxy.url)
    await noted(client, watch)
    server.kill()
    await until(lambda: not store._holding)
    assert (await client.generate()).field("X-Cache") == "MISS"
    server.start()
    await until(lambda: store._holding)
    watch.taken = 0
    await noted(client, watch)
    client.close()


# Where the store has to be asked.


@pytest.fixture
async def asked(simulator: Simulator) -> AsyncIterator[tuple[RedisServer, Proxy]]:
    """A Redis to be stopped, and a proxy without a hot tier."""
    server = RedisServer()
    server.start()
    try:
        async with proxy_before(simulator.url, redis_url=server.url, hot_bytes=0) as proxy:
            yield server, proxy
    finally:
        server.signal(signal.SIGCONT)
        server.close()


KNOWN = request_bytes("POST", "/api/generate", host="localhost", body=json.dumps(GENERATE).encode())
OTHER = request_bytes("GET", "/api/version", host="localhost")


async def test_what_comes_behind_a_request_that_is_looked_up_waits_for_it(asked: tuple[RedisServer, Proxy]) -> None:
    server, proxy = asked
    watch, client = Watch(proxy), Client(proxy.url)
    await noted(client, watch)
    taken = watch.taken
    async with await RawConnection.open(proxy.url) as connection:
        server.signal(signal.SIGSTOP)
        connection.writer.write(KNOWN)
        await until(lambda: proxy.running.listener._in_progress)
        for more in (OTHER, KNOWN + OTHER):
            connection.writer.write(more)
            await asyncio.sleep(0.01)
        server.signal(signal.SIGCONT)
        answers = [await connection.answer() for _ in range(4)]
    assert [b"version" in answer.body for answer in answers] == [False, True, False, True]
    assert [answer.field("X-Cache") for answer in answers] == [HIT, "BYPASS", HIT, "BYPASS"]
    assert watch.taken > taken
    client.close()


async def test_a_client_that_floods_during_a_lookup_is_not_read(asked: tuple[RedisServer, Proxy]) -> None:
    server, proxy = asked
    watch, client = Watch(proxy), Client(proxy.url)
    await noted(client, watch)
    async with await RawConnection.open(proxy.url) as connection:
        server.signal(signal.SIGSTOP)
        connection.writer.write(KNOWN)
        await until(lambda: proxy.running.listener._in_progress)
        (waiting,) = proxy.running.listener._in_progress
        assert isinstance(waiting, ClientConnection)
        for _ in range(200):
            connection.writer.write(OTHER * 2000)
            await asyncio.sleep(0)
        assert 0 < waiting.gate.queued < 2_000_000
        connection.writer.transport.abort()
    client.close()


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_store_that_does_not_answer_lets_the_ordinary_way_begin(
    asked: tuple[RedisServer, Proxy], leaves: bool
) -> None:
    server, proxy = asked
    watch, client = Watch(proxy), Client(proxy.url)
    await noted(client, watch)
    connection = await RawConnection.open(proxy.url)
    server.signal(signal.SIGSTOP)
    connection.writer.write(KNOWN)
    await until(lambda: proxy.running.listener._in_progress)
    if leaves:
        connection.writer.transport.abort()
    else:
        answer = await connection.answer()
        assert (answer.status, answer.field("X-Cache")) == (200, "MISS")
    await until(lambda: not proxy.running.listener._in_progress)
    assert watch.real._notes == {} or leaves
    connection.close()
    client.close()


async def test_draining_waits_for_what_is_looked_up(simulator: Simulator) -> None:
    server = RedisServer()
    server.start()
    try:
        async with proxy_before(simulator.url, redis_url=server.url, hot_bytes=0) as proxy:
            watch, client = Watch(proxy), Client(proxy.url)
            await noted(client, watch)
            connection = await RawConnection.open(proxy.url)
            server.signal(signal.SIGSTOP)
            connection.writer.write(KNOWN)
            await until(lambda: proxy.running.listener._in_progress)
            drained = asyncio.ensure_future(proxy.running.listener.drain(5, grace=0))
            await until(lambda: proxy.running.listener.draining)
            server.signal(signal.SIGCONT)
            answer = await connection.answer()
            assert (answer.field("X-Cache"), answer.field("Connection")) == (HIT, "close")
            await drained
            connection.close()
            client.close()
    finally:
        server.signal(signal.SIGCONT)
        server.close()


async def test_another_entry_under_the_same_key_is_found_anew(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxy_before(simulator.url, redis_url=redis_server.url, hot_bytes=0) as one:
        async with proxy_before(simulator.url, redis_url=redis_server.url, hot_bytes=0) as other:
            watch, client, elsewhere = Watch(one), Client(one.url), Client(other.url)
            await noted(client, watch)
            before = await client.generate()
            redis = redis_server.client()
            redis.unlink(*redis.keys("ocp:1:e:*"))
            await elsewhere.generate(Cache_Control="no-cache")
            await until(lambda: redis.keys("ocp:1:e:*"))
            taken = watch.taken
            after = await client.generate()
            assert watch.taken == taken
            assert after.body != before.body
            assert after.body == (await elsewhere.generate()).body
            watch.taken = 0
            await noted(client, watch)
            client.close()
            elsewhere.close()


# What changes.


async def test_a_model_that_changes_takes_its_responses_along(client: Client, watch: Watch, proxy: Proxy) -> None:
    await noted(client, watch)
    body = json.dumps({"source": "tiny2", "destination": "tiny"}).encode()
    changed = await ask(proxy.url, "POST", "/api/copy", body=body)
    assert changed.status == 200
    assert (await client.generate()).field("X-Cache") in ("MISS", "BYPASS")


async def test_while_the_models_have_not_been_looked_at_for_long_the_ordinary_way_decides(
    monkeypatch: pytest.MonkeyPatch, client: Client, watch: Watch
) -> None:
    await noted(client, watch)
    monkeypatch.setattr(digests, "STALE", 0.0)
    taken = watch.taken
    assert (await client.generate()).field("X-Cache") == HIT
    assert watch.taken == taken


async def test_age_and_ttl_go_on_and_what_is_no_longer_fresh_is_no_hit(
    monkeypatch: pytest.MonkeyPatch, client: Client, watch: Watch, proxy: Proxy
) -> None:
    await noted(client, watch)
    clock: Any = proxy.running.exchanges.fast_path._clock
    shift = 0
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + shift)
    for shift in (7, 100, 3500):
        answer = await client.generate()
        age = int(answer.field("Age") or "")
        assert shift <= age < shift + 60
        assert answer.field("Cache-Status") == f"ollama-cache-proxy; hit; ttl={3600 - age}"
    taken = watch.taken
    shift = 3601
    assert (await client.generate()).field("X-Cache") == "MISS"
    assert watch.taken == taken


@pytest.mark.parametrize(
    "fields",
    [
        {"Cache-Control": "max-age=60"},
        {"Cache-Control": "min-fresh=1"},
        {"Connection": "close"},
        {"Expect": "100-continue"},
    ],
)
async def test_what_depends_on_more_than_the_bytes_is_never_noted(
    fields: dict[str, str | None], client: Client, watch: Watch
) -> None:
    body = json.dumps(GENERATE).encode()
    for _ in range(4):
        client.close()
        client.connection = await RawConnection.open(client.url)
        client.connection.writer.write(
            request_bytes("POST", "/api/generate", host="localhost", fields=fields, body=body)
        )
        if "Expect" in fields:
            assert (await client.connection.head())[0] == "HTTP/1.1 100 Continue"
        assert (await client.connection.answer()).status == 200
    assert (watch.taken, watch.real._notes) == (0, {})


async def test_a_foreign_host_is_refused_beside_a_noted_one(client: Client, watch: Watch) -> None:
    await noted(client, watch)
    taken = watch.taken
    assert (await client.generate(Host="evil.example")).status == 403
    assert watch.taken == taken


async def test_bytes_of_a_known_request_inside_another_one_are_not_taken_for_it(client: Client, watch: Watch) -> None:
    """After the end of one request and a part of the next, in the middle of a body, behind a chunk."""
    body = json.dumps(GENERATE).encode()
    known = request_bytes("POST", "/api/generate", host="localhost", body=body)
    await noted(client, watch)
    client.close()
    plain = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\n"
    for before in (
        known + b"GET /api/tags HTTP/1.1\r\nX-A: ",
        b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nX-A: ",
        plain + b"Content-Length: %d\r\n\r\n" % len(known),
        plain + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(known),
        b"\r\n" + plain + b"Content-Length: %d\r\n\r\n" % (len(known) + 20),
        b"\r\n\r\n" + plain + b"Content-Length: %d\r\n\r\n" % len(known),
    ):
        taken = watch.taken
        async with await RawConnection.open(client.url) as connection:
            connection.writer.write(before)
            await asyncio.sleep(0.05)
            connection.writer.write(known)
            await asyncio.sleep(0.05)
            assert watch.taken == taken + before.startswith(known), before


async def test_answers_stay_in_order_where_requests_are_pipelined(client: Client, watch: Watch, proxy: Proxy) -> None:
    """A known request that comes while another one is being answered has to wait for its turn."""
    body = json.dumps(GENERATE).encode()
    known = request_bytes("POST", "/api/generate", host="localhost", body=body)
    await noted(client, watch)
    other = request_bytes("GET", "/api/version", host="localhost")
    async with await RawConnection.open(proxy.url) as connection:
        for _ in range(20):
            connection.writer.write(other)
            await asyncio.sleep(0)
            connection.writer.write(known)
            await asyncio.sleep(0.001)
            connection.writer.write(known + other)
        answers = [await connection.answer() for _ in range(80)]
    assert [b"version" in answer.body for answer in answers] == [True, False, False, True] * 20


async def test_a_head_whose_body_does_not_arrive_goes_the_ordinary_way(
    monkeypatch: pytest.MonkeyPatch, client: Client, watch: Watch, proxy: Proxy
) -> None:
    body = json.dumps(GENERATE).encode()
    known = request_bytes("POST", "/api/generate", host="localhost", body=body)
    head, rest = known[: -len(body)], body
    await noted(client, watch)
    assert watch.knows_head(head)
    for seconds in (600, 0.001):
        monkeypatch.setattr(client_connection, "_HOLD_SECONDS", seconds)
        taken, heads = watch.taken, watch.heads
        async with await RawConnection.open(proxy.url) as connection:
            connection.writer.write(head)
            await until(lambda: watch.heads > heads)  # noqa: B023 - called at once
            if seconds < 1:
                await asyncio.sleep(0.1)
            connection.writer.write(rest)
            assert (await connection.answer()).field("X-Cache") == HIT
            assert (watch.taken > taken) == (seconds > 1)
            heads = watch.heads
            connection.writer.write(head)
            await until(lambda: watch.heads > heads)  # noqa: B023
            connection.writer.write(rest.replace(b"why", b"abc"))
            assert (await connection.answer()).field("X-Cache") in ("MISS", HIT)
            connection.writer.write(head)  # and leaves


async def test_while_draining_the_connection_s_end_is_announced(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        watch, client = Watch(proxy), Client(proxy.url)
        await noted(client, watch)
        taken = watch.taken
        proxy.running.listener.draining = True
        answer = await client.generate()
        assert (answer.field("X-Cache"), answer.field("Connection")) == (HIT, "close")
        assert watch.taken == taken
        proxy.running.listener.draining = False


async def test_a_client_that_does_not_read_is_sent_no_more(client: Client, watch: Watch, proxy: Proxy) -> None:
    """Requests that are not read stay in the client's kernel, all but a few."""
    await noted(client, watch)
    known = request_bytes("POST", "/api/generate", host="localhost", body=json.dumps(GENERATE).encode())
    async with await RawConnection.open(proxy.url) as connection:
        connection.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.writer.transport.pause_reading()
        taken = begun = watch.taken
        while watch.taken - begun < 50_000:
            taken = watch.taken
            connection.writer.write(known)
            with suppress(TimeoutError):
                await until(lambda: watch.taken > taken, 0.3)  # noqa: B023 - called at once
            if watch.taken == taken:
                break
        assert begun < watch.taken < begun + 50_000
        connection.writer.transport.abort()


async def test_an_idle_connection_holds_nothing_of_its_last_request(
    monkeypatch: pytest.MonkeyPatch, client: Client, watch: Watch
) -> None:
    gates: dict[Gate, list[int]] = {}
    monkeypatch.setattr(
        Gate,
        "drop_raw",
        lambda gate, number: (gates.setdefault(gate, []).append(kept(gate)), drop_raw(gate, number))[1],
    )
    for number in range(3):
        await client.generate(f"{number}" * 10_000)
        await client.ask("GET", "/api/version", None)
    ((gate, sizes),) = gates.items()
    assert len(sizes) == 6
    assert all(size > 10_000 for size in sizes[::2])
    await until(lambda: gate._parts is None)


def kept(gate: Gate) -> int:
    return sum(map(len, gate._parts or ()))


drop_raw = Gate.drop_raw


async def test_a_note_takes_about_as_many_bytes_as_it_is_counted_with(client: Client, watch: Watch) -> None:
    async def ask(numbers: range, times: int) -> None:
        for number in numbers:
            for _ in range(times):
                await client.generate(f"question {number:04}")

    await ask(range(100), 3)
    await ask(range(100, 400), 1)  # stored, and not noted yet
    noted = len(watch.real._all)
    own = [tracemalloc.Filter(inclusive=True, filename_pattern=f"*/{room}/*.py") for room in ("core", "policy")]
    gc.collect()
    tracemalloc.start()
    try:
        await ask(range(100, 400), 3)
        gc.collect()
        lines = tracemalloc.take_snapshot().filter_traces(own).statistics("lineno")
    finally:
        tracemalloc.stop()
    each = sum(line.size for line in lines) / (len(watch.real._all) - noted)
    assert 0.5 * fast_notes.NOTE_BYTES < each < 1.25 * fast_notes.NOTE_BYTES


async def test_heads_that_are_equal_are_held_once(client: Client, watch: Watch) -> None:
    for number in range(5):
        for _ in range(3):
            await client.generate(f"question {number}")
    notes = list(watch.real._all)
    assert len({id(note.heads[0]) for note in notes}) == 1
    assert all(note.place[0] is note.heads[0].text for note in notes)


async def test_notes_are_bounded(monkeypatch: pytest.MonkeyPatch, client: Client, watch: Watch) -> None:
    monkeypatch.setattr(fast_path, "CAPACITY", 14_000)
    for number in range(30):
        for _ in range(3):
            await client.generate(f"question {number}")
    real = watch.real
    assert len(real._all) == 7
    assert set(real._notes.values()) == set(real._all)
    assert set(real._heads) == {head.text for note in real._all for head in note.heads}
    names = set(real._notes)
    long = "x" * (fast_path.MAX_BYTES + 1)
    for _ in range(3):
        await client.generate(long)
    assert set(real._notes) == names


async def test_a_note_names_what_the_ordinary_way_told(watch: Watch, client: Client) -> None:
    await noted(client, watch, X_Cache_Category="batch", X_Cache_Namespace="team")
    (note,) = watch.real._all
    told = replace(note.exchange, seconds=0, first_byte=None, bytes_sent=0, key="", saved=None, cache=None)
    assert (told.operation, told.model, told.category, told.status) == ("generate", "tiny", "batch", 200)


async def test_a_store_that_does_not_answer_is_asked_once_for_a_request(
    monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, simulator: Simulator
) -> None:
    """The request was looked up again when it had been parsed, and waited for the deadline twice."""
    async with proxy_before(simulator.url, redis_url=redis_server.url, hot_bytes=0) as proxy:
        client, store = Client(proxy.url), proxy.running.store
        for expected in ("MISS", "HIT", "HIT"):
            assert (await client.generate()).field("X-Cache") == expected
            await proxy.kept()
        asked: list[str] = []

        async def silent(key: str) -> Lookup:
            asked.append(key)
            return Lookup(entry=None, generation=None)

        async def all_silent(keys: Sequence[str]) -> Lookups:
            asked.extend(keys)
            return Lookups(entries=(None,) * len(keys), generation=None)

        with monkeypatch.context() as patch:
            patch.setattr(store, "get", silent)
            patch.setattr(store, "get_many", all_silent)
            for number in (1, 2):
                assert (await client.generate()).field("X-Cache") == "MISS"
                assert len(asked) == number
        assert (await client.generate()).field("X-Cache") == "HIT"
        client.close()


async def test_many_hits_are_reported_in_several_turns_and_each_once(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulator
) -> None:
    monkeypatch.setattr(fast_path, "_REPORTED_AT_ONCE", 3)
    async with proxy_before(simulator.url) as proxy:
        client, notes = Client(proxy.url), proxy.running.exchanges.fast_path
        told: list[int] = []
        observe = notes._observe
        turn = 0

        def note(event: Event) -> None:
            if isinstance(event, Repeated):
                told.append(turn)
            observe(event)

        monkeypatch.setattr(notes, "_observe", note)
        for number in range(6):
            for _ in range(4):
                await client.generate(f"question {number}")
                await proxy.kept()
        notes._timer.cancel()
        notes._report_in_turns()
        while notes._due:
            turn += 1
            await asyncio.sleep(0)
        before = [*told]
        notes.report()
        client.close()
        hits = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["hits"]
    assert [before.count(one) for one in sorted(set(before))] == [2, 2, 2]
    assert (len(told), hits) == (6, 18)


@pytest.mark.parametrize("before", [0, 15, 16, 17, 63, 64, 65])
async def test_what_is_known_stays_so_after_many_that_are_known_otherwise(before: int, simulator: Simulator) -> None:
    """After some that were known by what selects, all bytes are seldom looked at; no request is missed for that."""
    async with proxy_before(simulator.url) as proxy:
        watch, client = Watch(proxy), Client(proxy.url)
        odd = {"X-Odd": "\x80"}  # a head that is known by all its bytes alone
        for named in (odd, {}):
            for _ in range(3):
                await client.generate(**named)
                await proxy.kept()
        for number in range(before):
            await client.generate(X_Request_Id=str(number))
        taken = watch.taken
        for named in (odd, {}, odd, {"X-Request-Id": "new"}, {}):
            assert (await client.generate(**named)).field("X-Cache") == HIT
        assert watch.taken == taken + 5
        client.close()
