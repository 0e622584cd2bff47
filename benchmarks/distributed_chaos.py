"""Past one machine, and under faults: `make stack ARGS="--cluster --chaos 10"`.

Three simulated Ollamas, two proxies with two workers each, three nodes of a Redis Cluster, and Prometheus. Under load,
parts are killed, stopped, emptied and cleared, and slots move, one after the other, drawn from a seed. Responses are
checked as `make chaos` checks them (benchmarks/chaos.py): never a wrong body, never one from before a clear, never an
error of the proxies' own, and none that no fault of an Ollama explains. Without a time it only runs, until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson

from benchmarks.chaos import BOUND, MIX, Clear, Judge, Side, Window
from benchmarks.load import TEXT_MODEL, Questions, seeded
from benchmarks.trial import Clients, Row, table, verdict
from benchmarks.watched import Secrets, Watched
from ollama_cache_proxy.stores.redis.cluster_topology import slot_of
from ollama_cache_proxy.stores.redis.key_layout import CLUSTER
from tests.support import canary
from tests.support.clusters import Cluster
from tests.support.rawhttp import ask
from tests.support.servers import free_port

OLLAMAS: Final = 3
PROXIES: Final = 2
WORKERS: Final = 2
CLIENTS: Final = 6
SHORTEST, LONGEST = 0.2, 3.0
"""Seconds that a fault lasts."""
_PAUSE: Final = 1.5
"""Seconds between two faults."""
_ELSEWHERE: Final = 0.25
"""Seconds after which a clear is known at another proxy than the one that was asked."""
_UPSTREAM_TIMEOUT: Final = 2.0
_JOINED: Final = 2.5
"""Seconds after a fault of an Ollama in which a request may still meet it."""
_END_WITHIN: Final = 30.0

Prometheus = Callable[[Path, int, Sequence[int]], Sequence[str]]


class Stack:
    """All parts, and the load."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.cluster = Cluster(replicas=False, arguments=("--cluster-require-full-coverage", "no"))
        self.ports = [free_port() for _ in range(OLLAMAS)]
        self.ollamas: list[Watched] = []
        self.proxies: list[Watched] = []
        self.urls: list[str] = []
        self.questions = Questions(seeded("distributed"), text_models={TEXT_MODEL: 24}, lists=4)

    async def open(self, stack: AsyncExitStack) -> None:
        """Start everything but Prometheus."""
        stack.callback(self.cluster.close)
        await asyncio.to_thread(lambda: self.cluster.start().wait())
        for number in range(OLLAMAS):
            self.ollamas.append(await self.start_ollama(number))
        stack.callback(self._close)
        for _ in range(PROXIES):
            self.proxies.append(self._proxy())
            self.urls.append(await self.proxies[-1].wait_for("listens on "))

    def _close(self) -> None:
        for process in (*self.proxies, *self.ollamas):
            process.close()

    async def start_ollama(self, number: int) -> Watched:
        """Start a simulator at its port."""
        arguments = ("--port", str(self.ports[number]), "--variant", "0")
        process = Watched("-m", "benchmarks.simulated", *arguments, secrets=Secrets())
        await process.wait_for("answers at ")
        return process

    def _proxy(self) -> Watched:
        upstreams = [part for port in self.ports for part in ("--upstream", f"http://127.0.0.1:{port}")]
        return Watched(
            *("-m", "ollama_cache_proxy", "serve", "--listen", f"127.0.0.1:{free_port()}", "--log", "plain"),
            *("--workers", str(WORKERS), *upstreams),
            secrets=self.judge.secrets,
            environment={
                "OCP_REDIS_URL": self.cluster.url,
                "OCP_ADMIN_TOKEN": canary.TOKEN,
                "OCP_UPSTREAM_TIMEOUT": str(_UPSTREAM_TIMEOUT),
                "OCP_CACHE_CHAT": "always",
                "OCP_CACHE_STREAMS": "true",
            },
        )

    async def load(self, number: int, seed: int, ended: asyncio.Event) -> None:
        """Ask one of the proxies as one client."""
        source = seeded(seed, "client", number)
        clients = Clients(url=self.urls[number % PROXIES], bound=BOUND, judge=self.judge)
        await clients.ask(
            lambda: MIX.draw(source, self.questions),
            goes_on=lambda: not ended.is_set(),
            pause=lambda: source.random() * 0.02,
        )

    async def clear(self, source: Random) -> None:
        """Clear everything at one of the proxies; a node that is away makes it a 503, and only then."""
        sent, fields = time.time(), {"Authorization": f"Bearer {canary.TOKEN}"}
        answer = await ask(source.choice(self.urls), "POST", "/api/cache/clear", body=b"{}", fields=fields)
        if answer.status == HTTPStatus.OK:
            self.judge.clears.append(Clear(sent=sent, answered=time.monotonic() + _ELSEWHERE))
        elif answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
            self.judge.breaks("a clear that failed", f"{answer.status} {answer.body[:200]!r}")


async def node_killed(stack: Stack, source: Random, seconds: float) -> None:
    """Kill a node, which comes back without its entries."""
    node = source.choice(stack.cluster.primaries)
    await asyncio.to_thread(node.kill)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(node.start)


async def node_stopped(stack: Stack, source: Random, seconds: float) -> None:
    """Have a node hang for a while."""
    node = source.choice(stack.cluster.primaries)
    node.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        node.signal(signal.SIGCONT)


async def node_emptied(stack: Stack, source: Random, seconds: float) -> None:
    """Drop all that a node has, its copies of the generation included."""
    await asyncio.to_thread(source.choice(stack.cluster.primaries).client().flushall)
    await asyncio.sleep(seconds / 4)


async def slots_moved(stack: Stack, source: Random, _: float) -> None:
    """Move the slots of some entries to another node."""
    target = source.choice(stack.cluster.primaries)
    for name in source.sample(CLUSTER.generations, 4):
        await asyncio.to_thread(stack.cluster.move, slot_of(name), target)


async def cleared(stack: Stack, source: Random, seconds: float) -> None:
    """Clear everything, at either proxy."""
    for _turn in range(source.randint(1, 3)):
        await stack.clear(source)
        await asyncio.sleep(seconds / 4)


async def cleared_while_a_node_hangs(stack: Stack, source: Random, seconds: float) -> None:
    """Clear everything while one node cannot hear of it."""
    node = source.choice(stack.cluster.primaries)
    node.signal(signal.SIGSTOP)
    try:
        await stack.clear(source)
        await asyncio.sleep(seconds)
    finally:
        node.signal(signal.SIGCONT)


async def ollama_killed(stack: Stack, source: Random, seconds: float) -> None:
    """Kill an Ollama, and start it again."""
    number = source.randrange(OLLAMAS)
    stack.ollamas[number].close()
    await asyncio.sleep(seconds)
    stack.ollamas[number] = await stack.start_ollama(number)


async def ollama_stopped(stack: Stack, source: Random, seconds: float) -> None:
    """Have an Ollama hang for a while."""
    ollama = source.choice(stack.ollamas)
    ollama.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        ollama.signal(signal.SIGCONT)


KINDS: Final[dict[str, tuple[Side, Callable[[Stack, Random, float], Awaitable[None]]]]] = {
    "node-killed": (Side.STORE, node_killed),
    "node-stopped": (Side.STORE, node_stopped),
    "node-emptied": (Side.STORE, node_emptied),
    "slots-moved": (Side.STORE, slots_moved),
    "cleared": (Side.CLIENT, cleared),
    "cleared-while-a-node-hangs": (Side.STORE, cleared_while_a_node_hangs),
    "ollama-killed": (Side.UPSTREAM, ollama_killed),
    "ollama-stopped": (Side.UPSTREAM, ollama_stopped),
}


async def run(*, minutes: float, seed: int, prometheus: Prometheus) -> int:
    """Run the stack, for some minutes under faults, or until Ctrl-C; return the exit status."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await _run(minutes, seed, prometheus)
    except asyncio.CancelledError:
        return 0 if not minutes else 130


async def _run(minutes: float, seed: int, prometheus: Prometheus) -> int:
    judge = Judge(Secrets())
    async with AsyncExitStack() as outer:
        stack = Stack(judge)
        await stack.open(outer)
        folder = Path(outer.enter_context(tempfile.TemporaryDirectory(prefix="ollama-cache-proxy-")))
        port = free_port()
        metrics = prometheus(folder, port, [int(url.rpartition(":")[2]) for url in stack.urls])
        watching = await asyncio.create_subprocess_exec(
            *metrics, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
        )
        outer.push_async_callback(_end, watching)
        clients = " and ".join(stack.urls)
        sys.stderr.write(f"Clients use {clients}; Prometheus is at http://127.0.0.1:{port}. Ctrl-C ends all.\n")
        if not minutes:
            await asyncio.Event().wait()
        drawn = await _loaded(stack, minutes, seed)
        scraped = await _scraped(f"http://127.0.0.1:{port}")
        statuses = [await process.end() for process in stack.proxies]
    return 0 if _report(judge, stack, drawn, scraped, statuses) else 1


async def _loaded(stack: Stack, minutes: float, seed: int) -> list[str]:
    """Ask and inject faults for so long; return the names of the faults."""
    ended, drawn = asyncio.Event(), list[str]()
    for url in stack.urls:
        await Clients(url=url, bound=BOUND, judge=stack.judge).warm(stack.questions.hot)
    clients = [asyncio.ensure_future(stack.load(number, seed, ended)) for number in range(CLIENTS)]
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        source = seeded(seed, "fault", len(drawn))
        name = source.choice(sorted(KINDS))
        side, inject = KINDS[name]
        drawn.append(name)
        window = Window(number=len(drawn), name=name, side=side, joined=_JOINED)
        stack.judge.windows.append(window)
        await inject(stack, source, source.uniform(SHORTEST, LONGEST))
        window.ended = time.monotonic()
        await asyncio.sleep(_PAUSE)
        if not all(process.alive for process in stack.proxies):
            stack.judge.breaks("a proxy ended", name)
            break
    ended.set()
    await asyncio.gather(*clients)
    return drawn


async def _scraped(url: str) -> int:
    """Return how many proxies Prometheus sees."""
    with suppress(OSError):
        answer = await ask(url, "GET", "/api/v1/targets")
        targets: list[Any] = orjson.loads(answer.body)["data"]["activeTargets"]
        return sum(target["health"] == "up" and target["labels"]["job"] == "ollama-cache-proxy" for target in targets)
    return 0


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _END_WITHIN)


def _report(judge: Judge, stack: Stack, drawn: list[str], scraped: int, statuses: list[int]) -> bool:
    """Print what was seen; return whether no invariant broke."""
    tally = judge.tally
    faults: list[Row] = [(name, drawn.count(name)) for name in sorted(KINDS)]
    sys.stdout.write("\nfaults drawn\n" + table(faults))
    sys.stdout.write(
        "\nseen\n"
        + table(
            [
                *tally.rows(),
                *((f"{what}, explained by a fault of an Ollama's", n) for what, n in sorted(tally.explained.items())),
                ("wrong bodies", tally.broken["a wrong body"] + tally.broken["a hit from before a clear"]),
                ("own errors", sum(tally.broken.values())),
                ("proxies that Prometheus sees", scraped),
                ("exit statuses after SIGTERM", sum(statuses)),
            ]
        )
    )
    traced = [f"{process.tracebacks} tracebacks" for process in stack.proxies if process.tracebacks]
    return verdict(
        {
            "broken": tally.told,
            "the log": traced,
            "secrets": sorted(judge.secrets.shown),
            "Prometheus": [] if scraped == PROXIES else [f"sees {scraped} proxies"],
            "the exit statuses": [] if not any(statuses) else [str(statuses)],
        }
    )
