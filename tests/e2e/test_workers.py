"""`serve --workers N`: several processes that look like one, to clients, to Prometheus, and to whoever starts and ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from ollama_cache_proxy.service import private_store
from ollama_cache_proxy.service.seal_key_file import make_key
from ollama_cache_proxy.service.settings import SettingsError, load
from ollama_cache_proxy.service.siblings import SIBLING_TIMEOUT
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.service.workers import supervising
from ollama_cache_proxy.simulator import Behaviour, Fault, Received, Simulator
from tests.support.processes import Command, serve
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import RedisServer, free_port
from tests.support.tls import CERTIFICATE, KEY, trusting
from tests.support.waiting import until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "why", "stream": False}
CREATE = {"model": "tiny", "from": "tiny2", "system": "x", "stream": False}


@dataclass(slots=True)
class Workers:
    """A proxy with two workers."""

    command: Command
    url: str
    names: dict[RawConnection, str] = field(default_factory=dict)

    @property
    def pids(self) -> list[int]:
        """The workers' processes."""
        return [pid for pid in children(self.command.process.pid) if "ollama_cache_proxy.cli.worker" in words(pid)]

    async def connect(self, stack: AsyncExitStack) -> RawConnection:
        """Open a connection that ends with the stack, and have it served once."""
        connection = await stack.enter_async_context(await RawConnection.open(self.url))
        assert (await talk(connection, "GET", "/healthz")).status == 200
        return connection

    async def pair(self, stack: AsyncExitStack) -> tuple[RawConnection, RawConnection]:
        """Open a connection to each worker, once there are two."""
        one = await self.connect(stack)
        async with asyncio.timeout(20):
            while self.server_of(other := await self.connect(stack)) == self.server_of(one):
                other.close()
        return one, other

    def server_of(self, connection: RawConnection) -> int:
        """Give the worker that holds a connection."""
        (pid,) = [pid for pid in self.pids if self.socket_of(connection) in open_files(pid)]
        return pid

    def socket_of(self, connection: RawConnection) -> str:
        """Give what a connection is called among the files of the worker that holds it."""
        if connection not in self.names:
            ends = (int(self.url.rpartition(":")[2]), connection.writer.get_extra_info("sockname")[1])
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            found = {row[9] for row in rows if (port(row[1]), port(row[2])) == ends and row[9] != "0"}
            (self.names[connection],) = (f"socket:[{inode}]" for inode in found)
        return self.names[connection]


def port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def words(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def open_files(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.add(str(link.readlink()))
    return found


async def talk(connection: RawConnection, method: str, path: str, body: Any = None) -> RawAnswer:
    connection.send(method, path, body=None if body is None else json.dumps(body).encode())
    return await asyncio.wait_for(connection.answer(), 20)


async def found(connection: RawConnection) -> dict[str, Any]:
    """Give the statistics; to count, a worker writes first what it has on its way."""
    stats: dict[str, Any] = json.loads((await talk(connection, "GET", "/api/cache/stats")).body)
    return stats


async def generate(connection: RawConnection, **more: Any) -> RawAnswer:
    return await talk(connection, "POST", "/api/generate", GENERATE | more)


@asynccontextmanager
async def workers(simulator: Simulator, *options: str, **environment: str) -> AsyncIterator[Workers]:
    arguments = ("--workers", "2", "--listen", "127.0.0.1:0", "--upstream", simulator.url, *options)
    async with serve(*arguments, environment=environment) as command:
        url = await command.url()
        await command.line(lambda line: "2 workers serve" in line)
        running = Workers(command, url)
        pids = running.pids
        yield running
        pids += running.pids if command.process.returncode is None else []
        if command.process.returncode is None:
            command.process.kill()
        await command.end()
        await until(lambda: not any(map(lives, pids)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(redis_process: RedisServer) -> AsyncIterator[tuple[Workers, Simulator]]:
    """Two workers with a real Redis, that outlive what is done to them."""
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0)) as simulator:
        async with workers(simulator, OCP_REDIS_URL=redis_process.url) as running:
            yield running, simulator


@pytest.fixture
def ollama(started: tuple[Workers, Simulator]) -> Simulator:
    """Give what stands behind the two workers, as it was at first."""
    _, simulator = started
    simulator.fault = None
    simulator.gate.open()
    return simulator


@pytest.fixture
def two(started: tuple[Workers, Simulator], redis_server: RedisServer, ollama: Simulator) -> Workers:
    """Two workers, or soon again two, with an empty Redis."""
    return started[0]


together = pytest.mark.asyncio(loop_scope="module")


async def figures(connection: RawConnection) -> dict[tuple[str, ...], float]:
    """Give every sample that only grows."""
    answer = await talk(connection, "GET", "/metrics")
    return {
        (sample.name, *map(str, sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
        if family.type in ("counter", "histogram")
    }


def requests(found: dict[tuple[str, ...], float]) -> float:
    return sum(value for name, value in found.items() if name[0] == "ollama_cache_proxy_requests_total")


# Connections.


@together
async def test_connections_are_spread_evenly_and_the_start_is_told_once(two: Workers) -> None:
    async with AsyncExitStack() as stack:
        served = [two.server_of(await two.connect(stack)) for _ in range(10)]
        assert sorted(map(served.count, set(served))) == [5, 5]
        await generate(await two.connect(stack))
        await until_hit(await two.connect(stack))
    for text in ("listens on http", "Connected to Redis", "Connected to Ollama", "Store: "):
        assert len([line for line in two.command.lines if text in line]) == 1, text


@together
async def test_a_connection_goes_where_there_are_fewest(two: Workers) -> None:
    async with AsyncExitStack() as stack:
        kept, gone = await two.pair(stack)
        emptied = two.server_of(gone)
        assert emptied != two.server_of(kept)
        for _ in range(5):
            await ended(gone, two.socket_of(gone), emptied)
            await figures(kept)  # all that a worker has said is heard before its figures
            gone = await two.connect(stack)
            assert two.server_of(gone) == emptied


async def via(connection: RawConnection, ollama: Simulator, path: str) -> bytes:
    """Give what the worker behind a connection calls itself in Via."""
    await talk(connection, "GET", path)
    request = next(one for one in ollama.received if one.target == path)
    return dict(request.fields)[b"Via"]


@together
async def test_all_workers_have_one_name_in_via_a_new_one_too(two: Workers, ollama: Simulator) -> None:
    """A request that comes back to another worker of this proxy is a loop too."""
    async with AsyncExitStack() as stack:
        one, other = await two.pair(stack)
        names = {await via(one, ollama, "/one"), await via(other, ollama, "/other")}
        pid = two.server_of(one)
        os.kill(pid, signal.SIGKILL)
        await two.command.line(lambda line: f"(process {pid}) was ended by signal 9" in line)
        one, other = await two.pair(stack)
        names |= {await via(one, ollama, "/third"), await via(other, ollama, "/fourth")}
        assert len(names) == 1
        looped = await ask(two.url, "GET", "/x", fields={"Via": names.pop().decode()})
        assert looped.status == 508


async def ended(connection: RawConnection, name: str, pid: int) -> None:
    """Close a connection, and wait until its worker has."""
    connection.close()
    await until(lambda: name not in open_files(pid))


@together
async def test_a_worker_that_is_killed_under_load_costs_nobody_else_anything(two: Workers) -> None:
    async with AsyncExitStack() as stack:
        doomed, steady = await two.pair(stack)
        for _ in range(5):
            await generate(doomed)
            await until_hit(steady)
        before = await figures(steady)
        pid, left = two.server_of(doomed), two.server_of(steady)
        ended = asyncio.Event()
        asked = 0

        async def load() -> None:
            nonlocal asked
            seen = before
            while not ended.is_set():
                assert (await generate(steady)).field("X-Cache") == "HIT"
                async with await RawConnection.open(two.url) as fresh:
                    assert (await generate(fresh)).field("X-Cache") == "HIT"
                asked += 2
                now = await figures(steady)
                assert not [name for name, value in seen.items() if now.get(name, -1) < value]
                seen = now

        loading = asyncio.create_task(load())
        await until(lambda: asked > 10 or loading.done())
        os.kill(pid, signal.SIGKILL)
        await until(lambda: loading.done() or len(set(two.pids) - {pid, left}) == 1)
        again = asked
        await until(lambda: loading.done() or asked > again + 10)
        ended.set()
        await loading
        assert await doomed.reader.read() == b""
        assert any(
            f"(process {pid}) was ended by signal 9; another takes its place" in line for line in two.command.lines
        )
        one, other = await two.pair(stack)
        assert pid not in (two.server_of(one), two.server_of(other))


@together
async def test_what_a_worker_had_counted_stays_when_it_has_ended(two: Workers) -> None:
    async with AsyncExitStack() as stack:
        doomed, steady = await two.pair(stack)
        before = requests(await figures(doomed))
        for _ in range(7):
            await generate(doomed)
        await generate(steady)
        assert requests(await figures(steady)) == before + 8, "the last that is seen of the doomed"
        pid = two.server_of(doomed)
        os.kill(pid, signal.SIGKILL)
        await two.command.line(lambda line: f"(process {pid}) was ended by signal 9" in line)
        for count in range(9, 12):
            await generate(steady)
            assert requests(await figures(steady)) == before + count


@together
async def test_a_worker_that_is_told_to_end_lets_its_clients_finish(two: Workers, ollama: Simulator) -> None:
    async with AsyncExitStack() as stack:
        leaving, other = await two.pair(stack)
        before = requests(await figures(other))
        ollama.gate.close()
        arrived = ollama.inferences
        leaving.send("POST", "/api/generate", body=json.dumps(GENERATE).encode())
        await ollama.arrived(arrived + 1)
        pid = two.server_of(leaving)
        os.kill(pid, signal.SIGTERM)
        for _ in range(10):
            await two.connect(stack)
        ollama.gate.open()
        answer = await asyncio.wait_for(leaving.answer(), 20)
        assert (answer.status, answer.field("Connection")) == (200, "close")
        await two.command.line(lambda line: f"(process {pid}) ended with status 0; another takes its place" in line)
        assert requests(await figures(other)) == before + 1


# What workers have to know of each other.


@together
async def test_a_model_replaced_through_one_worker_is_never_answered_stale_by_the_other(two: Workers) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two.pair(stack)
        for number in range(5):
            await until_hit(one)
            before = await until_hit(other)
            assert (await talk(one, "POST", "/api/create", CREATE | {"system": str(number)})).status == 200
            after = await generate(other)
            assert after.field("X-Cache") in ("MISS", "BYPASS")
            assert json.loads(after.body)["response"] != json.loads(before.body)["response"]


async def test_a_context_length_that_one_worker_sees_change_makes_other_keys_in_all(
    simulator: Simulator, redis_server: RedisServer
) -> None:
    async with workers(simulator, OCP_REDIS_URL=redis_server.url) as two, AsyncExitStack() as stack:
        one, other = await two.pair(stack)
        await until_seen(one, 4096)
        await until_hit(other)
        simulator.behaviour = replace(simulator.behaviour, context_length=2048)
        simulator.residence.unload(simulator.residence.loaded()[0].model)
        await until_seen(one, 2048)
        await until(lambda: [line for line in two.command.lines if "from 4,096 to 2,048 tokens" in line])
        assert (await generate(other)).field("X-Cache") == "MISS"
        assert len([line for line in two.command.lines if "Context length changed" in line]) == 1


async def until_seen(connection: RawConnection, length: int) -> None:
    """Have Ollama asked until a worker knows with which context length it loads the model."""
    asked = {"path": "/api/generate", "body": GENERATE}
    async with asyncio.timeout(30):
        for number in count():
            await generate(connection, prompt=f"{length} {number}")
            told = json.loads((await talk(connection, "POST", "/api/cache/explain", asked)).body)
            if told.get("context", {}).get("length") == length:
                return
            await asyncio.sleep(0.1)


async def until_hit(connection: RawConnection) -> RawAnswer:
    """Ask until it is a hit, and twice more: by the short way too."""
    async with asyncio.timeout(20):
        while (await generate(connection)).field("X-Cache") != "HIT":
            pass
    await generate(connection)
    return await generate(connection)


@together
async def test_while_a_model_changes_no_worker_answers_for_it_not_even_a_new_one(
    two: Workers, ollama: Simulator
) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two.pair(stack)
        await until_hit(one)
        await until_hit(other)
        creating = asyncio.Event()

        def fault(received: Received) -> Fault | None:
            if received.target != "/api/create":
                return None
            creating.set()
            return Fault.HANG

        ollama.fault = fault
        one.send("POST", "/api/create", body=json.dumps(CREATE).encode())
        await creating.wait()
        assert (await generate(other)).field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=no-digest"
        pid, steady = two.server_of(other), two.server_of(one)
        os.kill(pid, signal.SIGKILL)
        new, _ = await two.pair(stack)
        while two.server_of(new) in (pid, steady):
            new = await two.connect(stack)
        assert (await generate(new)).field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=no-digest"
        os.kill(steady, signal.SIGKILL)  # with it ends the change
        await until_hit(new)


@together
@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
async def test_a_worker_that_is_stalled_holds_up_no_change_and_no_other_client(
    then: signal.Signals, two: Workers
) -> None:
    """What it was handed and has not taken is answered in the end, by itself or by another."""
    async with AsyncExitStack() as stack:
        one, other = await two.pair(stack)
        await until_hit(other)
        stalled = two.server_of(other)
        os.kill(stalled, signal.SIGSTOP)
        try:
            assert (await talk(one, "POST", "/api/create", CREATE)).status == 200
            for method, path in (("POST", "/api/cache/clear"), ("GET", "/api/cache/stats"), ("GET", "/metrics")):
                assert (await talk(one, method, path)).status == 200
            handed = [await stack.enter_async_context(await RawConnection.open(two.url)) for _ in range(3)]
            for connection in handed:
                connection.send("GET", "/healthz")
            answers = [asyncio.create_task(connection.answer()) for connection in handed]
            await asyncio.wait(answers, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            await figures(one)  # that takes the time in which a worker counts as stalled
            assert not all(answer.done() for answer in answers)
            for _ in range(5):
                await two.connect(stack)
        finally:
            os.kill(stalled, then)
        for answer in answers:
            assert (await asyncio.wait_for(answer, 20)).status == 200


@together
async def test_a_supervisor_that_is_stalled_holds_up_no_client_that_a_worker_has(two: Workers) -> None:
    """Figures of one worker alone would look like a new start, so there are none."""
    async with AsyncExitStack() as stack:
        connection = await two.connect(stack)
        await until_hit(connection)
        os.kill(two.command.process.pid, signal.SIGSTOP)
        try:
            assert (await generate(connection)).field("X-Cache") == "HIT"
            assert (await talk(connection, "POST", "/api/create", CREATE)).status == 200
            assert (await talk(connection, "GET", "/api/cache/stats")).status == 200
            assert (await talk(connection, "GET", "/metrics")).status == 503
        finally:
            os.kill(two.command.process.pid, signal.SIGCONT)
        assert (await talk(connection, "GET", "/metrics")).status == 200


@together
async def test_a_purge_through_one_worker_reaches_a_flight_of_the_other(two: Workers, ollama: Simulator) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two.pair(stack)
        ollama.gate.close()
        arrived = ollama.inferences
        asking = asyncio.create_task(generate(other, prompt="purged"))
        await ollama.arrived(arrived + 1)
        await talk(one, "POST", "/api/cache/clear", {"model": "tiny"})
        ollama.gate.open()
        assert (await asking).field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=purged"
        assert (await generate(other, prompt="purged")).field("X-Cache") == "MISS"


@together
@pytest.mark.parametrize("filters", [{}, {"operation": "generate"}])
async def test_what_one_worker_clears_the_other_has_forgotten_at_once(filters: dict[str, str], two: Workers) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two.pair(stack)
        for _ in range(20):
            await until_hit(other)
            assert (await found(other))["keys"] == 1
            assert (await talk(one, "POST", "/api/cache/clear", filters)).body == b'{"cleared":1}'
            assert (await generate(other)).field("X-Cache") == "MISS"


@together
async def test_statistics_add_up_at_once(two: Workers) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two.pair(stack)
        await until_hit(other)
        before = await hits(one)
        for count in range(1, 10):
            await generate(other)
            assert await hits(one) == before + count


async def hits(connection: RawConnection) -> int:
    hits: int = (await found(connection))["hits"]
    return hits


@together
async def test_what_the_store_loses_goes_on_from_what_any_worker_knew(two: Workers, redis_server: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        idle, busy = await two.pair(stack)
        await until_hit(idle)
        before = await hits(idle)
        await until_hit(busy)
        known = await hits(busy)
        assert known > before
        redis_server.client().flushall()
        assert await hits(idle) == known


# The start and the end.


async def test_a_request_of_one_worker_stops_the_audit_of_the_other(redis_server: RedisServer) -> None:
    body = {"model": "all-minilm", "input": "a"}
    settings = {"OCP_REDIS_URL": redis_server.url, "OCP_AUDIT": "100%"}
    async with (
        asyncio.timeout(60),
        Simulator(Behaviour(completion_delay=0, embedding_delay=0)) as ollama,
        workers(ollama, **settings) as two,
        AsyncExitStack() as stack,
    ):
        one, other = await two.pair(stack)
        await talk(one, "POST", "/api/embed", body)
        while not (await found(other))["keys"]:  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.01)
        ollama.gate.close()
        assert (await talk(one, "POST", "/api/embed", body)).field("X-Cache") == "HIT"
        await ollama.arrived(2)  # the audit's
        chat = asyncio.create_task(generate(other))
        await ollama.departed(1)
        assert not chat.done()
        await ollama.arrived(3)
        assert ollama.inferences == 3, "no audit while the other worker has a request"
        ollama.gate.open()
        assert (await chat).status == 200
        while not (await found(other))["audit"]["checked"]:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
        assert (await found(other))["audit"]["wrong"] == 0


async def test_streams_of_all_workers_are_finished_after_a_signal(
    simulator: Simulator, redis_server: RedisServer
) -> None:
    async with workers(simulator, OCP_REDIS_URL=redis_server.url) as two, AsyncExitStack() as stack:
        pair = await two.pair(stack)
        simulator.gate.close()
        for connection in pair:
            connection.send("POST", "/api/generate", body=json.dumps(GENERATE | {"stream": True}).encode())
        await simulator.arrived(2)
        pids = two.pids
        two.command.process.send_signal(signal.SIGTERM)
        await two.command.line(lambda line: "Ending" in line)
        simulator.gate.open()
        for connection in pair:
            answer = await asyncio.wait_for(connection.answer(), 20)
            assert b'"done":true' in answer.chunks[-1]
        assert await two.command.end() == 0
        assert not any(map(lives, pids))


async def test_a_second_signal_ends_all_of_them_at_once(simulator: Simulator, redis_server: RedisServer) -> None:
    async with workers(simulator, OCP_REDIS_URL=redis_server.url) as two, AsyncExitStack() as stack:
        pair = await two.pair(stack)
        simulator.gate.close()
        for number, connection in enumerate(pair):
            connection.send("POST", "/api/generate", body=json.dumps(GENERATE | {"prompt": str(number)}).encode())
        await simulator.arrived(2)
        pids = two.pids
        two.command.process.send_signal(signal.SIGINT)
        await two.command.line(lambda line: "Ending" in line)
        two.command.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(two.command.process.wait(), 20) == 128 + signal.SIGINT
        await until(lambda: not any(map(lives, pids)))


async def test_nothing_is_left_of_a_supervisor_that_is_killed(simulator: Simulator, tmp_path: Path) -> None:
    """The private store goes with it, too."""
    async with workers(simulator, TMPDIR=str(tmp_path)) as running, AsyncExitStack() as stack:
        for connection in await running.pair(stack):
            assert (await generate(connection)).status == 200
            assert (await found(connection))["keys"] == 1
        (store,) = tmp_path.glob("ocp-*/redis.sock")  # noqa: ASYNC240 - nothing else is waiting
        reader, writer = await asyncio.open_unix_connection(str(store))
        stats = json.loads((await ask(running.url, "GET", "/api/cache/stats")).body)
        assert (stats["hits"], stats["store"]["name"]) == (1, "private valkey-server")
        pids = running.pids
        running.command.process.kill()
        await until(lambda: not any(map(lives, pids)))
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


CERTIFICATE_AND_KEY = Path(CERTIFICATE).read_text() + Path(KEY).read_text()


async def test_a_certificate_that_has_gone_is_why_a_worker_cannot_be_started_anew(
    simulator: Simulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    certificate = tmp_path / "both.pem"
    certificate.write_text(CERTIFICATE_AND_KEY)
    environment = {"OCP_REDIS_URL": redis_server.url, "OCP_TLS_CERT": str(certificate)}
    async with workers(simulator, **environment) as two:
        assert two.url.startswith("https://")
        certificate.unlink()
        os.kill(two.pids[0], signal.SIGKILL)
        await two.command.line(lambda line: "cannot serve (tls_cert: " in line)
        for _ in range(4):
            reader, writer = await asyncio.open_connection(*address(two.url), ssl=trusting())
            connection = RawConnection(reader, writer, "localhost")
            assert (await generate(connection)).status == 200
            connection.close()
        certificate.write_text(CERTIFICATE_AND_KEY)
        await until(lambda: len(two.pids) == 2)


async def test_all_workers_seal_with_the_key_of_the_start_whatever_becomes_of_its_file(
    simulator: Simulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    key, settings = tmp_path / "key", tmp_path / "settings.toml"
    make_key(str(key))
    settings.write_text(f'seal_key_file = "{key}"\nhot_bytes = 0\n')
    async with (
        workers(simulator, "--config", str(settings), OCP_REDIS_URL=redis_server.url) as two,
        AsyncExitStack() as stack,
    ):
        one, other = await two.pair(stack)
        await generate(one)
        await until(lambda: redis_server.client().keys("ocp:1:e:*"))
        (name,) = redis_server.client().keys("ocp:1:e:*")
        assert redis_server.client().getrange(name, 0, 3) == b"OCS1"
        assert (await generate(other)).field("X-Cache") == "HIT"
        key.unlink()
        settings.write_text("hot_bytes = 0\n")
        two.command.process.send_signal(signal.SIGHUP)
        await two.command.line(lambda line: "Not changed, since that takes a restart: seal_key_file" in line)
        gone = two.server_of(one)
        os.kill(gone, signal.SIGKILL)
        await until(lambda: gone not in two.pids and len(two.pids) == 2)
        fresh = await two.pair(stack)
        assert [(await generate(connection)).field("X-Cache") for connection in fresh] == ["HIT", "HIT"]


def address(url: str) -> tuple[str, int]:
    host, _, port = url.partition("://")[2].rpartition(":")
    return host, int(port)


async def test_every_line_of_the_log_comes_whole(simulator: Simulator, redis_server: RedisServer) -> None:
    more = {"OCP_REDIS_URL": redis_server.url, "OCP_LOG_REQUESTS": "on", "OCP_LOG": "json"}
    async with workers(simulator, **more) as running, AsyncExitStack() as stack:
        connections = [await running.connect(stack) for _ in range(8)]

        async def many(connection: RawConnection) -> None:
            for _ in range(50):
                await generate(connection)

        await asyncio.gather(*map(many, connections))
        running.command.process.send_signal(signal.SIGTERM)
        assert await running.command.end() == 0
        told = [json.loads(line)["event"] for line in running.command.lines]
        assert told.count("exchange") == 400


WRONG = [
    (["--workers", "0"], {}, "workers: '0' is not allowed: "),
    (["--workers", "2"], {"OCP_STORE": "memory"}, "workers: 2 is not allowed with store 'memory'"),
    (["--workers", "2", "--listen", "127.0.0.1:{port}", "--upstream", "http://localhost:{port}"], {}, "upstream: "),
    (["--workers", "2", "--listen", "127.0.0.1:0"], {"OCP_TLS_CERT": "/nowhere"}, "tls_cert: "),
]


@pytest.mark.parametrize(("arguments", "environment", "told"), WRONG)
async def test_what_cannot_be_stops_the_start_with_one_line(
    arguments: list[str], environment: dict[str, str], told: str
) -> None:
    port = str(free_port())
    async with serve(*(word.replace("{port}", port) for word in arguments), environment=environment) as command:
        assert await command.end() == 2
        (line,) = [line for line in command.lines if line.startswith("ollama-cache-proxy: ")]
        assert line.startswith(f"ollama-cache-proxy: {told}")
        assert not [line for line in command.lines if "Traceback" in line]


async def test_a_port_in_use_stops_the_start_with_one_line(redis_server: RedisServer, simulator: Simulator) -> None:
    async with serve("--workers", "2", "--listen", f"127.0.0.1:{redis_server.port}") as command:
        assert await command.end() == 2
        assert len(command.lines) == 1
        assert "in use" in command.lines[0]


async def test_workers_refuse_to_let_entries_live_until_a_redis_evicts_them_that_never_does(
    redis_server: RedisServer, simulator: Simulator, tmp_path: Path
) -> None:
    """At the start, and by a reload, after which all workers serve as before."""
    file = tmp_path / "proxy.toml"
    file.write_text('[models."all-minilm"]\nlifetime = "until-evicted"\n', "utf-8")
    environment = {"OCP_LISTEN": "127.0.0.1:0", "OCP_REDIS_URL": redis_server.url, "OCP_UPSTREAM": simulator.url}
    environment["OCP_CONFIG"] = str(file)
    why = f"lifetime: 'until-evicted' is not allowed: {redis_server.name} evicts nothing when it is full (noeviction)"
    async with serve("--workers", "2", environment=environment) as command:
        assert await command.end() == 2
        assert why in command.lines[-1]
    file.write_text('[models."all-minilm"]\nttl = "1h"\n', "utf-8")
    body = json.dumps({"model": "all-minilm", "prompt": "a"}).encode()
    async with serve("--workers", "2", environment=environment) as command:
        url = await command.url()
        file.write_text('[models."all-minilm"]\nlifetime = "until-evicted"\n', "utf-8")
        command.process.send_signal(signal.SIGHUP)
        await command.line(lambda line: f"Not reloaded, everything stays as it was: {why}" in line)
        answer = await ask(url, "POST", "/api/embeddings", body=body)
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; stored; ttl=3600"


async def test_without_any_redis_the_start_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_store, "find_server", lambda: None)
    settings = load(None, {"listen": "127.0.0.1:0", "workers": "2"})
    with bind(settings.listen) as sock, pytest.raises(SettingsError, match="--redis-url"):
        async with supervising(settings, sock):
            pass


def test_what_holds_up_a_change_has_a_bound() -> None:
    assert SIBLING_TIMEOUT <= 0.25
