"""One flight for all proxies, when the one that leads it dies: with real proxies, workers, and a real store."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.e2e.faults.conftest import Measured
from tests.support import canary
from tests.support.company import acquainted_processes
from tests.support.processes import Command, serve
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import RedisServer
from tests.support.waiting import until

BODY = json.dumps({"model": "tiny", "prompt": f"{canary.PROMPT} shared", "stream": False}).encode()
CLIENTS = 10
row = pytest.mark.row


@pytest.fixture
async def slow() -> AsyncIterator[Simulator]:
    """An Ollama that takes a while."""
    async with Simulator(Behaviour(completion_delay=0.3)) as running:
        yield running


@asynccontextmanager
async def served(simulator: Simulator, *arguments: str, **environment: str) -> AsyncIterator[tuple[Command, str]]:
    options = ("--listen", "127.0.0.1:0", "--upstream", simulator.url, *arguments)
    async with serve(*options, environment={"OCP_DRAIN_TIMEOUT": "1", **environment}) as command:
        yield command, await command.url()


@asynccontextmanager
async def proxies(count: int, simulator: Simulator, server: RedisServer) -> AsyncIterator[list[tuple[Command, str]]]:
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(
                served(simulator, OCP_STORE="redis", OCP_REDIS_URL=server.url, OCP_STORE_DEADLINE="5")
            )
            for _ in range(count)
        ]
        await acquainted_processes(server, count)
        yield running


def asking(url: str, count: int = CLIENTS) -> list[asyncio.Task[RawAnswer]]:
    return [asyncio.create_task(ask(url, "POST", "/api/generate", body=BODY)) for _ in range(count)]


async def outcome(tasks: list[asyncio.Task[RawAnswer]]) -> tuple[list[RawAnswer], int]:
    """Wait for all; return the answers, and how many were cut off or never came."""
    async with asyncio.timeout(60):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    answers = [answer for answer in found if isinstance(answer, RawAnswer)]
    return answers, len(found) - len(answers)


def torn(answers: list[RawAnswer]) -> int:
    """How many answers are not the one whole answer."""
    bodies = {answer.body for answer in answers if answer.status == 200}
    whole = {body for body in bodies if body.rstrip().endswith(b"}") and json.loads(body)["done"]}
    return sum(answer.status == 200 and answer.body not in whole for answer in answers)


@row(50)
@pytest.mark.parametrize("after", [0.0, 0.15, 0.31, 0.35], ids=lambda after: f"{after:g} s")
async def test_when_the_proxy_that_asks_is_killed_another_asks(
    after: float, slow: Simulator, redis_server: RedisServer, measured: Measured
) -> None:
    async with proxies(3, slow, redis_server) as ((leader, first), (_, second), (_, third)):
        gone = asking(first, 1)
        await until(lambda: slow.inferences == 1)
        tasks = [*asking(second), *asking(third)]
        await asyncio.sleep(after)
        leader.process.kill()
        answers, lost = await outcome(tasks)
        await asyncio.wait(gone)
        measured(50, "asks", slow.inferences)
        measured(50, "errors", lost + sum(answer.status != 200 for answer in answers))
        measured(50, "torn", torn(answers))


@row(50)
async def test_when_the_proxy_that_asks_stands_still_another_asks(
    slow: Simulator, redis_server: RedisServer, measured: Measured
) -> None:
    async with proxies(3, slow, redis_server) as ((leader, first), (_, second), (_, third)):
        late = asking(first, 1)
        await until(lambda: slow.inferences == 1)
        leader.process.send_signal(signal.SIGSTOP)
        answers, lost = await outcome([*asking(second), *asking(third)])
        leader.process.send_signal(signal.SIGCONT)
        others, other = await outcome([*late, *asking(first)])
        measured(50, "asks", slow.inferences)
        measured(50, "errors", lost + other + sum(answer.status != 200 for answer in [*answers, *others]))
        measured(50, "torn", torn(answers))


@row(50)
async def test_when_the_proxy_that_streams_is_killed_its_followers_are_cut_and_nobody_has_a_part_for_the_whole(
    redis_server: RedisServer, measured: Measured
) -> None:
    """Those who come afterwards are answered."""
    environment = {"OCP_STORE": "redis", "OCP_REDIS_URL": redis_server.url, "OCP_CACHE_STREAMS": "true"}
    environment["OCP_STORE_DEADLINE"] = "5"
    body = json.dumps({"model": "tiny", "prompt": "stream"}).encode()
    async with (
        Simulator(Behaviour(completion_delay=0.1, token_rate=10)) as simulator,
        served(simulator, **environment) as (leader, first),
        served(simulator, **environment) as (_, second),
        await RawConnection.open(first) as own,
        await RawConnection.open(second) as follower,
    ):
        await acquainted_processes(redis_server, 2)
        own.send("POST", "/api/generate", body=body)
        await own.head()
        follower.send("POST", "/api/generate", body=body)
        await follower.head()
        await follower.chunk()
        leader.process.kill()
        ended = False
        try:
            async with asyncio.timeout(30):
                while await follower.chunk():
                    pass
            ended = True
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        again = await ask(second, "POST", "/api/generate", body=body)
        measured(50, "asks", simulator.inferences)
        measured(50, "errors", again.status != 200)
        measured(50, "torn", ended + (not json.loads(again.chunks[-1])["done"]))


def workers_of(command: Command) -> list[int]:
    supervisor = command.process.pid
    pids = [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
    return [pid for pid in pids if b"ollama_cache_proxy.cli.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@row(50)
@pytest.mark.parametrize("killed", [0, 1])
async def test_when_a_worker_is_killed_those_of_the_other_are_answered(
    killed: int, slow: Simulator, measured: Measured
) -> None:
    async with served(slow, "--workers", "2", OCP_STORE="private") as (command, url):
        await command.line(lambda line: "2 workers serve" in line)
        tasks = asking(url, 40)
        await until(lambda: slow.inferences == 1)
        await asyncio.sleep(0.1)
        os.kill(workers_of(command)[killed], signal.SIGKILL)
        answers, lost = await outcome(tasks)
        assert 0 < lost < 40, "its own clients go with it, and no others"
        measured(50, "asks", slow.inferences)
        measured(50, "errors", sum(answer.status != 200 for answer in answers))
        measured(50, "torn", torn(answers))
