"""What the sample for forecasts takes of the CPU of hits: `python -m benchmarks.forecasting`.

A proxy, in the main thread, answers a client in another one; only the main thread's CPU counts. The time within the
forecaster is measured at each call, less what measuring takes, and divided by that of all.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Final
from urllib.parse import urlsplit

import uvloop

from ollama_cache_proxy.service.app import running
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.telemetry.forecaster import TrafficForecaster

_TEXT: Final = "def total(prices):\n    return sum(prices)  # a line of code\n" * 8
_BOUND: Final = 3.0
"""Percent."""


def _lists(count: int, length: int) -> list[tuple[str, bytes]]:
    """Return requests for lists of texts, none of which is in two of them."""
    texts = iter(f"{_TEXT}{number}" for number in range(count * length))
    return [_embed([*islice(texts, length)]) for _ in range(count)]


def _embed(texts: list[str]) -> tuple[str, bytes]:
    return "/api/embed", json.dumps({"model": "all-minilm", "input": texts}).encode()


def _generate(number: int) -> tuple[str, bytes]:
    return "/api/generate", json.dumps({"model": "tiny", "prompt": f"{_TEXT}{number}", "stream": False}).encode()


CASES: Final[dict[str, tuple[list[tuple[str, bytes]], int, bool]]] = {
    "one text": (_lists(200, 1), 1000, False),
    "a list of 10": (_lists(100, 10), 400, False),
    "a list of 100": (_lists(1, 100), 100, False),
    "a list of 100, one of 50": (_lists(50, 100), 150, False),
    "a completion": ([_generate(number) for number in range(20)], 1000, False),
    "a completion, by the fast path": ([_generate(number) for number in range(20)], 10_000, True),
}
"""Requests that are repeated, how many are asked in a round, and whether their bytes are always the same."""


@dataclass(slots=True)
class Spent:
    """Seconds of CPU within the forecaster, and calls of it."""

    seconds: float = 0.0
    calls: int = 0


@contextmanager
def watched(spent: Spent) -> Iterator[None]:
    """Measure all calls of the forecaster that requests make."""
    names = ("asked", "again")
    before = {name: getattr(TrafficForecaster, name) for name in names}

    def timed(call: Callable[..., None]) -> Callable[..., None]:
        def measured(*given: Any) -> None:
            time.thread_time()  # so that it is in the CPU's caches
            begun = time.thread_time()
            call(*given)
            spent.seconds += time.thread_time() - begun
            spent.calls += 1

        return measured

    for name, call in before.items():
        setattr(TrafficForecaster, name, timed(call))
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(TrafficForecaster, name, call)


def overhead() -> tuple[float, float]:
    """Return what measuring a call takes: seconds that count as the forecaster's, and seconds in all."""
    calls, inside, begun = 20_000, 0.0, time.thread_time()
    for _ in range(calls):
        time.thread_time()
        start = time.thread_time()
        inside += time.thread_time() - start
    return inside / calls, (time.thread_time() - begun) / calls


def ask(url: str, requests: list[tuple[str, bytes]], count: int, *, same: bool) -> None:
    """Send that many requests over one connection; unless `same`, each has a header of its own."""
    split = urlsplit(url)
    connection = http.client.HTTPConnection(str(split.hostname), split.port, timeout=60)
    for number, (path, body) in enumerate(islice(cycle(requests), count)):
        fields = {"Content-Type": "application/json"}
        if not same:
            fields["traceparent"] = f"00-{number + 1:032x}-{number + 1:016x}-01"
        connection.request("POST", path, body=body, headers=fields)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{path}: {answer.status}")
    connection.close()


async def measure(name: str, url: str, rounds: int) -> bool:
    """Print the median share of some rounds; return whether it is within the bound."""
    requests, count, same = CASES[name]
    await asyncio.to_thread(ask, url, requests, 2 * len(requests), same=same)
    inside, whole = overhead()
    shares, hits = [], []
    for _ in range(rounds):
        spent, begun = Spent(), time.thread_time()
        with watched(spent):
            await asyncio.to_thread(ask, url, requests, count, same=same)
            await asyncio.sleep(1.1)  # until those of the fast path are reported
        everything = time.thread_time() - begun - whole * spent.calls
        shares.append(100 * (spent.seconds - inside * spent.calls) / everything)
        hits.append(everything / count * 1e6)
    share = statistics.median(shares)
    sys.stdout.write(
        f"{name:<32}{share:5.2f} % of {statistics.median(hits):7.1f} us, {spent.calls / count:.2f} calls a hit\n"
    )
    sys.stdout.flush()
    return share <= _BOUND


async def bench(rounds: int, only: str) -> bool:
    """Measure each case; return whether all are within the bound."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(Behaviour(completion_delay=0.0, embedding_delay=0.0)))
        given = {"upstream": simulator.url, "store": "memory", "listen": "127.0.0.1:0", "log_requests": "off"}
        settings = load(None, given)
        sock = stack.enter_context(bind(settings.listen))
        proxy = await stack.enter_async_context(running(settings, sock, stream=io.StringIO()))
        return all([await measure(name, proxy.url, rounds) for name in CASES if name.startswith(only)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="CASE", help="only cases that begin so")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    arguments = parser.parse_args()
    sys.exit(0 if uvloop.run(bench(arguments.rounds, arguments.only)) else 1)
