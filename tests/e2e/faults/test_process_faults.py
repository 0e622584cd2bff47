"""What a fault costs the proxy as a process: its memory, its files, its end, its private store; and models that change.

The command runs on its own event loop, so most of this runs on one loop of the tests only.
"""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import hashlib
import json
import os
import random
import resource
import signal
import socket
import sys
import termios
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.upstream import digests
from tests.e2e.faults.conftest import Measured
from tests.support import canary
from tests.support.processes import Command, serve
from tests.support.rawhttp import RawAnswer, RawConnection, ask, request_bytes
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.upstream import Conversation, byte_upstream, whole
from tests.support.waiting import until

Question: TypeAlias = tuple[str, dict[str, Any]]

MIB = 1 << 20
GENERATE: dict[str, Any] = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": canary.PROMPT}]}
EMBED: dict[str, Any] = {"model": "all-minilm", "input": [canary.PROMPT]}
KNOWN: Question = ("/api/generate", GENERATE)

once = pytest.mark.asyncio(loop_factories=["uvloop"])


@asynccontextmanager
async def served(
    upstream: str, *options: str, files: tuple[int, int] | None = None, **environment: str
) -> AsyncIterator[tuple[Command, str]]:
    """Run the proxy as a process; gives it and its URL. `files` are its soft and hard limit on open files."""
    arguments = ("--listen", "127.0.0.1:0", "--upstream", upstream, *options)
    async with serve(*arguments, environment=environment, files=files) as command:
        url = await command.url()
        await command.line(lambda line: "Connected to Ollama" in line)
        yield command, url


async def post(url: str, path: str, body: Any) -> RawAnswer:
    return await ask(url, "POST", path, body=json.dumps(body).encode())


# Row 19: slow readers.

BLOCK = b"".join(b'{"model":"tiny","response":"%06d","done":false}\n' % at for at in range(700))
BLOCKS = 64 * MIB // len(BLOCK) + 1


class Flood:
    """Answers 64 MiB to everything but small questions; `sent` counts the blocks that have left."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, talk: Conversation) -> None:
        body = await talk.read_body()
        if b"small" in body:
            await talk.write(whole(b'{"model":"tiny","response":"x","done":true,"done_reason":"stop"}'))
            return
        stream = b'"stream": true' in body
        kind = b"application/x-ndjson" if stream else b"application/json; charset=utf-8"
        framing = b"Transfer-Encoding: chunked" if stream else b"Content-Length: %d" % (BLOCKS * len(BLOCK))
        await talk.write(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n" % (kind, framing))
        self.sent = 0
        for _ in range(BLOCKS):
            await talk.write(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if stream else BLOCK)
            self.sent += 1
        if stream:
            await talk.write(b"0\r\n\r\n")

    async def blocked(self) -> None:
        """Return when nothing has left for half a second."""
        seen = -1
        while seen != self.sent or not seen:
            seen = self.sent
            await asyncio.sleep(0.5)
        assert seen < BLOCKS, "all of it has found a place"


SLOWLY: list[Question] = [
    ("/api/chat", CHAT | {"stream": True}),
    ("/nothing/known", {"stream": True}),
    ("/api/generate", GENERATE),
    ("/api/generate", GENERATE | {"stream": True}),
    ("/api/embed", EMBED),
]


@once
@pytest.mark.row(19)
@pytest.mark.parametrize(("path", "body"), SLOWLY, ids=["relayed", "unknown", "completion", "recorded", "list"])
async def test_64_mib_to_a_slow_reader_are_not_held_in_memory(
    path: str, body: dict[str, Any], measured: Measured
) -> None:
    flood = Flood()
    async with byte_upstream(flood) as upstream:
        async with served(upstream.url, "--cache-streams", OCP_MAX_LIST_BYTES=str(MIB)) as (command, url):
            small = GENERATE | {"prompt": "small"}
            for _ in range(3):
                await post(url, "/api/generate", small)
            before = command.peak()
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address(url))
            reader, writer = await asyncio.open_connection(sock=sock, limit=65_536)
            connection = RawConnection(reader, writer, "localhost")
            connection.send("POST", path, body=json.dumps(body).encode())
            await connection.head()
            await flood.blocked()
            assert (await post(url, "/api/generate", small)).field("X-Cache") == "HIT"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
            digest, size = hashlib.sha256(), 0
            async for data in rest(connection, chunked=bool(body.get("stream"))):
                digest.update(data)
                size += len(data)
            assert size == BLOCKS * len(BLOCK)
            assert digest.digest() == hashlib.sha256(BLOCK * BLOCKS).digest()
            measured(19, "memory", command.peak() - before)
            connection.close()


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)


async def rest(connection: RawConnection, *, chunked: bool) -> AsyncIterator[bytes]:
    """Give the body as it comes."""
    if chunked:
        while data := await connection.chunk():
            yield data
        return
    left = BLOCKS * len(BLOCK)
    while left:
        data = await connection.reader.read(65_536)
        assert data, "it was cut short"
        left -= len(data)
        yield data


# Row 21: abandoned waits.


def asking(body: dict[str, Any], prompt: str) -> bytes:
    """Give a question of any kind with another prompt."""
    if "messages" in body:
        return json.dumps(body | {"messages": [{"role": "user", "content": prompt}]}).encode()
    return json.dumps(body | ({"input": [prompt]} if "input" in body else {"prompt": prompt})).encode()


@once
@pytest.mark.row(21)
@pytest.mark.parametrize(("path", "body"), [KNOWN, ("/api/chat", CHAT | {"stream": False}), ("/api/embed", EMBED)])
async def test_200_abandoned_waits_hold_nobody_up(
    path: str, body: dict[str, Any], simulator: Simulator, redis_server: RedisServer, measured: Measured
) -> None:
    """Those of embeddings are still under way, by design."""
    settings = {"OCP_REDIS_URL": redis_server.url, "OCP_LOG_REQUESTS": "on"}
    async with served(simulator.url, **settings) as (command, url):

        async def timed(path: str, body: dict[str, Any]) -> RawAnswer:
            begun = time.monotonic()
            answer = await post(url, path, body)
            measured(21, "wait", (time.monotonic() - begun) * 1000)
            assert answer.status == 200
            return answer

        await post(url, *KNOWN)
        simulator.gate.close()
        connections = [await RawConnection.open(url) for _ in range(200)]
        for number, connection in enumerate(connections):
            connection.send("POST", path, body=asking(body, f"{canary.PROMPT} {number}"))
        await asyncio.wait_for(simulator.arrived(201), 20)
        for connection in connections:
            connection.close()
        assert (await timed(*KNOWN)).field("X-Cache") == "HIT"
        await timed("/api/show", {"model": "tiny"})
        if path != "/api/embed":
            await asyncio.wait_for(simulator.departed(200), 10)
        simulator.gate.open()
        if path == "/api/embed":
            await until(lambda: sum("Cached: " in line for line in command.lines) == 201, 30)
        for more in ({"prompt": "new"}, {"prompt": "new", "stream": True}):
            await timed("/api/generate", GENERATE | more)


# Row 22: no file descriptors.


def allow(command: Command, files: int) -> None:
    """Change how many files the process may have open."""
    _, hard = resource.prlimit(command.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(command.process.pid, resource.RLIMIT_NOFILE, (files, hard))


def taken(command: Command) -> int:
    """Give how many files the process may have open so that it can open none: up to the first number that is free."""
    numbers = {int(path.name) for path in Path(f"/proc/{command.process.pid}/fd").iterdir()}
    return min(set(range(len(numbers) + 1)) - numbers)


OF_REQUESTS = ("HIT: ", "MISS: ", "Cached: ", "502: ")


async def noted(command: Command, stop: asyncio.Event) -> float:
    """Give how many lines of one kind, those of requests aside, the process says in a second at most.

    They are counted from the beginning: a line that is read late, on a slow machine, would fall into a later second.
    """
    worst, seen, begun = 0.0, len(command.lines), time.monotonic()
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1)
        own = (line for line in command.lines[seen:] if not any(word in line for word in OF_REQUESTS))
        said = Counter(line.partition(":")[0] for line in own)
        may_be_said = 1 + int(time.monotonic() - begun)
        worst = max([worst, *(count / may_be_said for count in said.values())])
    return worst


@once
@pytest.mark.row(22)
async def test_without_files_clients_are_refused_and_the_log_says_so_once_a_second(
    simulator: Simulator, measured: Measured
) -> None:
    async with served(simulator.url) as (command, url):
        await post(url, *KNOWN)
        kept = [await RawConnection.open(url) for _ in range(5)]
        for connection in kept:
            connection.send("POST", KNOWN[0], body=json.dumps(KNOWN[1]).encode())
            assert (await connection.answer()).field("X-Cache") == "HIT"
        await ask(url, "GET", "/healthz")
        before, stop = resource.prlimit(command.process.pid, resource.RLIMIT_NOFILE)[0], asyncio.Event()
        noting = asyncio.create_task(noted(command, stop))
        async with asyncio.timeout(10):
            while await attempt(url) == "200":
                await asyncio.sleep(0.05)  # until it has closed what it had open for that
                allow(command, taken(command))
        refused: Counter[str] = Counter()
        until_then = time.monotonic() + 3
        while time.monotonic() < until_then:
            refused[await attempt(url)] += 1
            connection = kept[sum(refused.values()) % 5]
            connection.send("POST", KNOWN[0], body=json.dumps(KNOWN[1]).encode())
            assert (await connection.answer()).field("X-Cache") == "HIT", "who is connected is served"
        assert set(refused) <= {"closed", "503", "waits"}, refused
        misses = [GENERATE | {"prompt": f"{canary.PROMPT} {number}"} for number in range(5)]
        for connection, body in zip(kept, misses, strict=True):  # some may find the connection that is kept to Ollama
            connection.send("POST", "/api/generate", body=json.dumps(body).encode())
        answers = [await asyncio.wait_for(connection.answer(), 10) for connection in kept]
        statuses = Counter(answer.status for answer in answers)
        assert statuses[502] >= 1
        assert statuses[200] + statuses[502] == 5
        allow(command, before)
        async with asyncio.timeout(10):
            while await attempt(url) != "200":  # noqa: ASYNC110 - it is the process that changes
                await asyncio.sleep(0.05)
        for body in misses:
            assert (await post(url, "/api/generate", body)).status == 200
        stop.set()
        measured(22, "lines", await noting)
        assert not [line for line in command.lines if "Traceback" in line]
        for connection in kept:
            connection.close()
        command.process.terminate()
        assert await command.end() == 0


# Row 41: as many idle clients as a process may open files for.


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@once
@pytest.mark.row(41)
@pytest.mark.parametrize("workers", [1, 2])
async def test_idle_clients_for_all_files_shut_nobody_out(
    workers: int, simulator: Simulator, redis_server: RedisServer, measured: Measured
) -> None:
    """The soft limit is raised to the hard one first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    options = ("--workers", str(workers))
    async with served(
        simulator.url, *options, files=(256, 400), OCP_REDIS_URL=redis_server.url, OCP_CACHE_STREAMS="1"
    ) as (command, url):
        processes = [command.process.pid, *(children(command.process.pid) if workers > 1 else [])]
        assert {resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in processes} == {(400, 400)}
        await command.line(lambda line: "At most 136 clients at once" in line)
        await post(url, *KNOWN)
        idle: list[RawConnection] = []
        for _ in range(136 * workers):
            idle.append(await RawConnection.open(url))
            idle[-1].send("POST", KNOWN[0], body=json.dumps(KNOWN[1]).encode())
            assert (await asyncio.wait_for(idle[-1].answer(), 10)).status == 200
        questions = [KNOWN, ("/api/chat", CHAT), ("/api/generate", GENERATE | {"stream": True})] * 3
        statuses = [(await asyncio.wait_for(post(url, *question), 10)).status for question in questions]
        measured(41, "refused", len([status for status in statuses if status != 200]))
        for connection in idle:
            connection.close()
            with suppress(ConnectionError):
                await connection.writer.wait_closed()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def attempt(url: str) -> str:
    """Ask over a connection of its own, and say what came of it."""
    try:
        answer = await asyncio.wait_for(ask(url, "GET", "/healthz"), 0.2)
    except TimeoutError:
        return "waits"
    except (ConnectionError, asyncio.IncompleteReadError):
        return "closed"
    return str(answer.status)


# Row 23: SIGTERM.


@dataclass(slots=True)
class Ends:
    """What became of the requests of all clients."""

    whole: int = 0
    lost: list[str] = field(default_factory=list)
    announced: int = 0


async def keep_asking(url: str, number: int, ends: Ends) -> None:
    """A client that keeps its connection while it may, and asks again where nobody listens any more: never.

    What it sees closed before it sends is nobody's loss; what it has sent needs its answer.
    """
    draw = random.Random(number)
    connection: RawConnection | None = None
    while True:
        if connection is None:
            try:
                connection = await RawConnection.open(url)
            except OSError:
                return
        if number % 4 == 0:
            await asyncio.sleep(draw.uniform(0, 0.1))
        if connection.reader.at_eof():
            connection.close()
            connection = None
            continue
        kind = draw.choice(["hit", "miss", "stream"])
        path, body = KNOWN if kind != "stream" else ("/api/chat", CHAT)
        if kind == "miss":
            body = body | {"prompt": f"{canary.PROMPT} {number} {draw.random()}"}
        connection.send("POST", path, body=json.dumps(body).encode())
        try:
            answer = await connection.answer()
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            ends.lost.append(f"{kind}: {type(error).__name__}")
            connection.close()
            return
        if answer.status != 200 or json.loads(answer.body.splitlines()[-1])["done"] is not True:
            ends.lost.append(f"{kind}: {answer.status}")
        ends.whole += 1
        if answer.field("Connection") == "close":
            ends.announced += 1
            connection.close()
            connection = None


@once
@pytest.mark.row(23)
@pytest.mark.parametrize("number", range(3))
async def test_sigterm_under_load_loses_nothing(number: int, measured: Measured) -> None:
    async with Simulator(Behaviour(completion_delay=0.02, embedding_delay=0)) as simulator:
        async with served(simulator.url) as (command, url):
            await post(url, *KNOWN)
            ends = Ends()
            clients = [asyncio.create_task(keep_asking(url, 20 * number + at, ends)) for at in range(20)]
            await until(lambda: ends.whole >= 300 + 17 * number)
            command.process.terminate()
            await asyncio.wait_for(asyncio.gather(*clients), 15)
            assert await command.end() == 0
            assert not ends.lost, ends.lost
            assert ends.announced >= 10
            measured(23, "lost", len(ends.lost))


@once
@pytest.mark.row(23)
async def test_what_takes_longer_than_the_drain_time_ends_in_a_reset() -> None:
    async def script(talk: Conversation) -> None:
        if b'"stream": true' not in await talk.read_body():
            await talk.reader.read()
            return
        await talk.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await talk.write(b"3\r\n{}\n\r\n")
            await asyncio.sleep(0.02)

    async with byte_upstream(script) as upstream:
        async with served(upstream.url, OCP_DRAIN_TIMEOUT="1") as (command, url):
            stream, miss = await RawConnection.open(url), await RawConnection.open(url)
            miss.send("POST", "/api/generate", body=json.dumps(GENERATE).encode())
            stream.send("POST", "/api/chat", body=json.dumps(CHAT | {"stream": True}).encode())
            await stream.head()
            await until(lambda: len(upstream.seen) == 2)
            command.process.terminate()
            begun = last = time.monotonic()

            async def read_on() -> None:
                nonlocal last
                while await stream.chunk():
                    last = time.monotonic()

            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(read_on(), 10)
            assert 0.9 < last - begun < 6, "it goes on up to the drain time"
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(miss.answer(), 10)
            assert await command.end() == 0
            stream.close()
            miss.close()


# Row 24: SIGKILL.


def living(folder: Path) -> list[str]:
    """Give the processes that have something of `folder` on their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


@once
@pytest.mark.row(24)
async def test_a_killed_proxy_leaves_no_store_behind_and_starts_again(
    simulator: Simulator, tmp_path: Path, measured: Measured
) -> None:
    for _ in range(3):
        async with served(simulator.url, TMPDIR=str(tmp_path), OCP_STORE="private") as (command, url):
            answers = [await post(url, *KNOWN) for _ in range(2)]
            assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT"], "nothing is left of the last one"
            assert living(tmp_path)
            async with await RawConnection.open(url) as connection:
                simulator.gate.close()
                connection.send("POST", "/api/generate", body=json.dumps(GENERATE | {"prompt": "new"}).encode())
                await until(lambda: simulator.received[-1].target == "/api/generate")
                begun = time.monotonic()
                command.process.kill()
                await until(lambda: not living(tmp_path))
                measured(24, "gone", time.monotonic() - begun)
                simulator.gate.open()
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await connection.answer()


# Row 25: models that change.


@dataclass(slots=True)
class Version:
    """What a name stood for, from when on at the earliest and until when at the latest."""

    text: Any
    begun: float
    ended: float = float("inf")


@dataclass(slots=True)
class Changing:
    """A model that changes while it is asked; every answer has to be of a version that it can have been."""

    simulator: Simulator
    proxy: Proxy
    path: str
    body: dict[str, Any]
    versions: list[Version] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    results: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return str(self.body["model"])

    async def own(self) -> Any:
        """Give what Ollama itself says now."""
        return text_of(await post(self.simulator.url, self.path, self.body))

    async def change(self, how: Callable[[], Any], seen: Callable[[], Any]) -> None:
        """Let it become something else; `seen` waits until nobody can take it for what it was."""
        begun = time.monotonic()
        before = self.versions[-1] if self.versions else None
        upcoming = Version(None, begun)
        self.versions.append(upcoming)
        await how()
        upcoming.text = await self.own()
        await seen()
        if before is not None:
            before.ended = time.monotonic()

    async def keep_asking(self, stop: asyncio.Event) -> None:
        asked: list[tuple[Any, str, float, float]] = []
        while not stop.is_set():
            begun = time.monotonic()
            answer = await post(self.proxy.url, self.path, self.body)
            assert answer.status == 200
            asked.append((text_of(answer), answer.field("Cache-Status") or "", begun, time.monotonic()))
            self.results[answer.field("X-Cache") or ""] += 1
        for text, status, begun, ended in asked:
            might = [row.text for row in self.versions if row.begun <= ended and begun <= row.ended]
            if text not in might:
                self.stale.append(status)


def text_of(answer: RawAnswer) -> Any:
    """Give what a model said."""
    document = json.loads(answer.body)
    return document["embeddings"] if "embeddings" in document else document["response"]


CHANGED = pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", GENERATE | {"model": "changing", "options": {"temperature": 0}}),
        ("/api/embed", EMBED | {"model": "changing"}),
    ],
)


async def nothing() -> None:
    """Nothing has to be waited for."""


@pytest.mark.row(25)
@CHANGED
async def test_nobody_gets_the_answer_of_another_digest_while_models_change(
    path: str, body: dict[str, Any], simulator: Simulator, redis_server: RedisServer, measured: Measured
) -> None:
    """Copied over, created anew, pulled and rolled back through the proxy, 40 times, while eight clients ask."""
    embedding = path == "/api/embed"
    for name in ("one", "two", "changing"):
        simulator.models.add(name, embedding=embedding)
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        model, stop = Changing(simulator, proxy, path, body), asyncio.Event()

        async def through(path: str, body: dict[str, Any]) -> None:
            assert (await post(proxy.url, path, body)).status == 200

        async def pulled() -> None:
            simulator.models.publish("changing")
            await through("/api/pull", {"model": "changing", "stream": False})

        def copied(source: str) -> Callable[[], Any]:
            return lambda: through("/api/copy", {"source": source, "destination": "changing"})

        await model.change(copied("one"), nothing)
        asking = [asyncio.create_task(model.keep_asking(stop)) for _ in range(8)]
        ways = [copied("two"), copied("one"), pulled, copied("one")]
        if not embedding:
            ways.append(lambda: through("/api/create", {"model": "changing", "from": "two", "stream": False}))
        for number in range(40):
            await model.change(ways[number % len(ways)], nothing)
            hits = model.results["HIT"]
            await until(lambda: model.results["HIT"] > hits + 20)  # noqa: B023 - called at once
        stop.set()
        await asyncio.gather(*asking)
        measured(25, "stale", len(model.stale))


@pytest.mark.row(25)
@CHANGED
async def test_what_was_kept_before_a_change_behind_our_back_is_not_found_after_a_roll_back(
    path: str,
    body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    simulator: Simulator,
    measured: Measured,
) -> None:
    """20 changes that nobody told us of: each is seen by the second look after it, and undone by a later one."""
    monkeypatch.setattr(digests, "POLL", 0.02)
    monkeypatch.setattr(digests, "STALE", 0.04)
    one = simulator.models.add("changing", embedding=path == "/api/embed")
    first = simulator.models.get("changing")
    simulator.models.replace("changing")
    other = simulator.models.get("changing")
    assert other.digest != one
    async with proxy_before(simulator.url) as proxy:
        model, stop = Changing(simulator, proxy, path, body), asyncio.Event()

        async def looked() -> None:
            before = looks()
            await until(lambda: looks() >= before + 4)

        def looks() -> int:
            return sum(request.target == "/api/tags" for request in simulator.received)

        async def put(installed: Any) -> None:
            simulator.models.put(installed)

        await model.change(lambda: put(first), nothing)
        asking = [asyncio.create_task(model.keep_asking(stop)) for _ in range(4)]
        for number in range(20):
            installed = first if number % 2 else other
            await model.change(lambda: put(installed), looked)  # noqa: B023 - called at once
            hits = model.results["HIT"]
            await until(lambda: model.results["HIT"] > hits + 5)  # noqa: B023
        stop.set()
        await asyncio.gather(*asking)
        measured(25, "stale", len(model.stale))


@pytest.mark.row(25)
async def test_an_answer_of_another_digest_is_not_kept_when_the_old_one_is_back_before_it_comes(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulator, measured: Measured
) -> None:
    """Replaced and rolled back behind our back while Ollama works: looks in between have seen another digest."""
    monkeypatch.setattr(digests, "POLL", 0.02)
    monkeypatch.setattr(digests, "STALE", 0.04)

    def looks() -> int:
        return sum(request.target == "/api/tags" for request in simulator.received)

    async def looked() -> None:
        before = looks()
        await until(lambda: looks() >= before + 4)

    async with proxy_before(simulator.url) as proxy:
        first = simulator.models.get("tiny")
        right = text_of(await post(simulator.url, *KNOWN))
        await post(proxy.url, "/api/generate", GENERATE | {"prompt": "x"})  # the table is fresh
        simulator.gate.close()
        simulator.models.replace("tiny")
        asking = asyncio.create_task(post(proxy.url, *KNOWN))
        await simulator.arrived(3)
        await looked()
        simulator.models.put(first)
        await looked()
        simulator.gate.open()
        await asking
        again = await post(proxy.url, *KNOWN)
        measured(25, "stale", text_of(again) != right)


# Rows 27 and 28: large requests.


def bomb() -> bytes:
    """1 GiB of zeros in a megabyte: one deflated block of 16 MiB, repeated."""
    zeros = bytes(16 * MIB)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = deflate.compress(zeros) + deflate.flush(zlib.Z_FULL_FLUSH)
    check = 0
    for _ in range(64):
        check = zlib.crc32(zeros, check)
    return (
        gzip.compress(b"")[:10]
        + block * 64
        + b"\x03\x00"
        + check.to_bytes(4, "little")
        + (1 << 30).to_bytes(4, "little")
    )


@once
@pytest.mark.row(27)
async def test_a_gzip_bomb_is_passed_on_as_it_is_or_refused(measured: Measured) -> None:
    data = bomb()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    assert 500_000 < len(data) < 2 * MIB
    assert len(zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MIB)) == MIB, "or it is none"

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(whole(b'{"error":"no"}', status="400 Bad Request"))

    async with byte_upstream(script) as upstream:
        async with served(upstream.url) as (command, url):
            await post(url, *KNOWN)
            before = command.peak()
            for path in ("/api/generate", "/api/chat", "/api/embed", "/v1/embeddings", "/nothing/known"):
                for framing, body in (({}, data), ({"Transfer-Encoding": "chunked"}, chunked)):
                    fields = {"Content-Encoding": "gzip"} | framing
                    assert (await ask(url, "POST", path, fields=fields, body=body)).status == 400
                    talk = upstream.seen[-1]
                    assert (talk.body == data, talk.values(b"Content-Encoding")) == (True, [b"gzip"])
            assert len(upstream.seen) == 11
            measured(27, "memory", command.peak() - before)


PIECE = b"canary-of-a-prompt " * 3449
SIZE = 99 * MIB


def large(path: str) -> tuple[bytes, bytes]:
    """Give what comes before and after the long text of a question."""
    if path == "/api/chat":
        return b'{"model":"tiny","stream":false,"messages":[{"role":"user","content":"', b'"}]}'
    if path == "/api/embed":
        return b'{"model":"all-minilm","input":["', b'"]}'
    return b'{"model":"tiny","stream":false,"prompt":"', b'"}'


def pieces(path: str) -> list[bytes]:
    """Give a body of 99 MiB, mostly the same piece many times over, so that it takes no room here."""
    before, after = large(path)
    count, left = divmod(SIZE - len(before) - len(after), len(PIECE))
    return [before, *[PIECE] * count, PIECE[:left], after]


def checksum(parts: list[bytes]) -> int:
    check = 0
    for part in parts:
        check = zlib.crc32(part, check)
    return check


ANSWERS = {
    b"/api/generate": b'{"model":"tiny","response":"x","done":true}',
    b"/api/chat": b'{"model":"tiny","message":{"role":"assistant","content":"x"},"done":true}',
    b"/api/embed": b'{"model":"all-minilm","embeddings":[[1,0]],"total_duration":1,"load_duration":1,"prompt_eval_count":1}',
}


class Weighing:
    """Reads bodies of any size and keeps of each large one where it went, how long it was, and its checksum."""

    def __init__(self) -> None:
        self.came: Counter[tuple[bytes, int, int]] = Counter()

    async def __call__(self, talk: Conversation) -> None:
        path = talk.request_line.split()[1]
        size = check = 0
        async for data in chunked_body(talk) if talk.values(b"Transfer-Encoding") else plain_body(talk):
            size += len(data)
            check = zlib.crc32(data, check)
        if size > MIB:
            self.came[path, size, check] += 1
        await talk.write(whole(ANSWERS[path]))


async def plain_body(talk: Conversation) -> AsyncIterator[bytes]:
    left = int(talk.values(b"Content-Length")[0])
    while left:
        data = await talk.reader.read(min(left, MIB))
        if not data:
            raise ConnectionResetError
        left -= len(data)
        yield data


async def chunked_body(talk: Conversation) -> AsyncIterator[bytes]:
    while length := int(await talk.reader.readline(), 16):
        while length:
            data = await talk.reader.read(min(length, MIB))
            if not data:
                raise ConnectionResetError
            length -= len(data)
            yield data
        await talk.reader.readexactly(2)
    await talk.reader.readline()


async def send_large(url: str, path: str) -> RawAnswer:
    async with await RawConnection.open(url) as connection:
        fields = {"Content-Type": "application/json", "Content-Length": str(SIZE)}
        connection.writer.write(request_bytes("POST", path, host=connection.host, fields=fields))
        for piece in pieces(path):
            connection.writer.write(piece)
            await connection.writer.drain()
        return await connection.answer()


@once
@pytest.mark.row(28)
@pytest.mark.parametrize("limit", [None, 100 * MIB], ids=["by default", "read for the cache"])
async def test_20_bodies_of_99_mib_at_once_are_all_answered(limit: int | None, measured: Measured) -> None:
    """Those that find no room in memory are streamed on, uncached."""
    environment = {} if limit is None else {"OCP_MAX_REQUEST_BYTES": str(limit)}
    paths = ([path.decode() for path in ANSWERS] * 7)[:20]
    weighing = Weighing()
    async with byte_upstream(weighing) as upstream:
        async with served(upstream.url, "--cache", "chat=always", **environment) as (command, url):
            for path, body in ((KNOWN[0], GENERATE), ("/api/chat", CHAT), ("/api/embed", EMBED)):
                await post(url, path, body)
            before = command.peak()
            answers = await asyncio.wait_for(asyncio.gather(*(send_large(url, path) for path in paths)), 60)
            measured(28, "memory", command.peak() - before)
            assert [answer.status for answer in answers] == [200] * 20
            assert weighing.came == Counter((path.encode(), SIZE, checksum(pieces(path))) for path in paths)


# Row 44: SIGHUP, while streams are under way.

STREAMING = 20


async def stream(url: str, number: int, begun: asyncio.Semaphore) -> bytes:
    """Read a stream to its end; gives its text, or nothing where it is cut."""
    async with await RawConnection.open(url) as connection:
        body = {"model": "tiny", "messages": [{"role": "user", "content": f"{canary.PROMPT} {number}"}]}
        connection.send("POST", "/api/chat", body=json.dumps(body).encode())
        read = b""
        try:
            await connection.head()
            while chunk := await asyncio.wait_for(connection.chunk(), 20):
                read += chunk
                if read == chunk:
                    begun.release()
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        return read if json.loads(read.splitlines()[-1])["done"] else b""


@once
@pytest.mark.row(44)
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_hang_up_reads_settings_anew_and_cuts_no_stream(
    workers: int, redis_server: RedisServer, tmp_path: Path, measured: Measured
) -> None:
    """A file that is wrong changes nothing; what takes a restart is named, and stays."""
    config = tmp_path / "proxy.toml"

    async def hang_up(text: str, *expected: str) -> None:
        config.write_text(text)
        before = len(command.lines)
        command.process.send_signal(signal.SIGHUP)
        for part in expected:
            await until(lambda part=part: any(part in line for line in command.lines[before:]))  # type: ignore[misc]

    async def ask_on() -> None:
        while not stop.is_set():
            try:
                answer = await asyncio.wait_for(post(url, *KNOWN), 10)
            except (OSError, asyncio.IncompleteReadError):
                wrong.append("reset")
                return
            if (answer.status, answer.body) != (200, right):
                wrong.append(str(answer.status))

    config.write_text("ttl_completion = 100\n")
    stop, wrong = asyncio.Event(), list[str]()
    behaviour = Behaviour(completion_delay=0, embedding_delay=0, token_rate=20)
    async with Simulator(behaviour) as simulator:
        options = ("--config", str(config), "--workers", str(workers))
        async with served(simulator.url, *options, OCP_REDIS_URL=redis_server.url) as (command, url):
            right = (await post(url, *KNOWN)).body
            begun = asyncio.Semaphore(0)
            streams = [asyncio.create_task(stream(url, number, begun)) for number in range(STREAMING)]
            load = [asyncio.create_task(ask_on()) for _ in range(2)]
            for _ in streams:
                await asyncio.wait_for(begun.acquire(), 20)
            await hang_up(
                'ttl_completion = 50\ncache_chat = "always"\n', "Reloaded: ttl_completion, cache_chat changed"
            )
            answer = await post(url, "/api/generate", GENERATE | {"prompt": "new"})
            assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; stored; ttl=50"
            await hang_up("ttl_completion = [", "Not reloaded, everything stays as it was: config: ")
            await hang_up(
                'ttl_completion = 50\ntls_cert = "/no"\n', "Not changed, since that takes a restart: tls_cert"
            )
            await hang_up(
                'hot_bytes = 0\nlog = "json"\n', "restart: hot_bytes, log", "Reloaded: ttl_completion changed"
            )
            stop.set()
            await asyncio.gather(*load)
            texts = await asyncio.gather(*streams)
            measured(44, "cut", texts.count(b""))
            measured(44, "wrong", len(wrong))
            assert command.process.returncode is None
            assert not [line for line in command.lines if "Traceback" in line]
            command.process.terminate()
            assert await command.end() == 0


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return [*found, *(below for child in found for below in descendants(child))]


@once
@pytest.mark.row(44)
async def test_a_hang_up_of_every_process_ends_none(simulator: Simulator) -> None:
    """`systemctl kill --signal HUP` reaches workers and the private store, too."""
    async with served(simulator.url, "--workers", "2", OCP_STORE="private") as (command, url):
        await command.line(lambda line: "2 workers serve" in line)
        assert [(await post(url, *KNOWN)).field("X-Cache") for _ in range(2)] == ["MISS", "HIT"]
        before = descendants(command.process.pid)
        assert len(before) >= 5, "two workers, the shell, what watches it, and the server"
        for pid in (*before, command.process.pid):
            os.kill(pid, signal.SIGHUP)
        await command.line(lambda line: "Reloaded" in line)
        assert (await post(url, *KNOWN)).field("X-Cache") == "HIT"
        assert descendants(command.process.pid) == before
        command.process.terminate()
        assert await command.end() == 0


@once
@pytest.mark.row(44)
@pytest.mark.parametrize("survives", [False, True], ids=["", "nohup"])
async def test_a_terminal_that_is_closed_ends_the_proxy_unless_it_is_to_survive_that(
    survives: bool, simulator: Simulator
) -> None:
    """It ends as by SIGTERM: what is in progress finishes."""
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    arguments = ("--listen", "127.0.0.1:0", "--upstream", simulator.url)
    first = ("/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "nohup") if survives else ()
    process = await asyncio.create_subprocess_exec(
        *(*first, sys.executable, "-m", "ollama_cache_proxy", "serve", *arguments),
        env={**os.environ, "OCP_STORE": "memory"},
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=take_terminal,
    )
    command = Command(process)
    try:
        url = await command.url()
        simulator.gate.close()
        asking = asyncio.create_task(post(url, *KNOWN))
        await simulator.arrived(1)
        os.close(theirs)
        os.close(ours)
        await command.line(lambda line: ("Reloaded" if survives else "Ending") in line)
        simulator.gate.open()
        assert (await asyncio.wait_for(asking, 10)).status == 200
        if survives:
            assert (await post(url, *KNOWN)).status == 200
            process.terminate()
        assert await command.end() == 0
    finally:
        if process.returncode is None:
            process.kill()
