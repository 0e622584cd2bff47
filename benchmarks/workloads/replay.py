"""The same requests directly to the simulator, and through a real proxy with a real Redis or Valkey.

One client sends one request after the other, as for one GPU. Ollama's time is scaled so that a run ends in minutes; the
proxy's is not. So the reported latency is Ollama's unscaled time plus what was measured beyond the scaled one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson
import redis

from benchmarks.watched import Secrets, Watched, proxy
from benchmarks.workloads import costs, rates
from benchmarks.workloads.requests import CATEGORIES, Asked
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import RedisServer, free_port

_LOOKS: Final = 20
"""At the memory of a server, at most."""
_BETWEEN_LOOKS: Final = 0.25
"""Seconds."""
_KNOWN: Final = re.compile(r"known=(\d+)")
_MEASURED_ENTRIES: Final = 300
_WRITE_DEADLINE: Final = 0.5
"""Seconds for a response to be stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request: its texts, how many of them were hits, and how many should have been.

    `direct` and `cached` are its seconds without and with the proxy; `ollama_direct` and `ollama_cached` are Ollama's
    part of them before scaling.
    """

    category: str
    items: int
    known: int
    expected: int
    direct: float
    cached: float
    ollama_direct: float
    ollama_cached: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run. `sizes` are bytes of an entry by category, `empty` those of an empty server, `memory` the total."""

    scale: float
    rows: tuple[Row, ...]
    keys: int
    memory: int
    empty: int
    evicted: int
    sizes: dict[str, int]


async def replay(  # noqa: PLR0913 - the parameters of a run
    before: Sequence[Asked],
    asked: Sequence[Asked],
    *,
    seed: int,
    scale: float,
    step: Callable[[], None] = lambda: None,
    maxmemory: int = 0,
) -> Measured:
    """Send all requests to Ollama, then `before` uncounted and all to the proxy; call `step` after each.

    Ollama's time is multiplied by `scale`; `maxmemory` bounds the store in bytes, 0 does not.
    """
    with ExitStack() as stack:
        server = RedisServer("--maxmemory", str(maxmemory), "--maxmemory-policy", "allkeys-lru")
        stack.callback(server.close)
        server.start()
        store = server.client()
        stack.callback(store.close)
        port = free_port()
        arguments = ("-m", "benchmarks.workloads.ollama", "--port", f"{port}", "--seed", f"{seed}")
        ollama = Watched(*arguments, secrets=Secrets())
        stack.callback(ollama.close)
        upstream = await ollama.wait_for("answers at ")
        process = proxy(upstream, server.url, secrets=Secrets())
        stack.callback(process.close)
        url = await process.wait_for("listens on ")
        empty = await _used(store)

        await ollama.send_line(f"scale {scale}")
        direct = [seconds async for seconds, _ in _ask(upstream, asked, step)]
        await ollama.send_line("scale 0")
        writes = Writes(store)
        async for _ in _ask(url, before, step, writes):
            pass
        await ollama.send_line(f"scale {scale}")
        cached = [pair async for pair in _ask(url, asked, step, writes)]
        measured = Measured(
            scale=scale,
            rows=tuple(_rows(before, asked, direct, cached, seed)),
            keys=store.dbsize(),
            memory=await _used(store),
            empty=empty,
            evicted=int(store.info("stats")["evicted_keys"]),
            sizes=await _sizes(url, store),
        )
        await process.end()
    return measured


class Writes:
    """Waits until responses are stored, since that happens after they are sent."""

    def __init__(self, store: redis.Redis) -> None:
        self._store = store
        self._cache = rates.Cache(rates.Expiring())
        self._awaited = 0

    def _changes(self) -> int:
        return int(self._store.info("persistence")["rdb_changes_since_last_save"])

    def expect(self, one: Asked) -> None:
        """Count the entries that the response to this request will add."""
        self._awaited = self._changes() + len(self._cache.ask(one))

    async def written(self) -> None:
        """Wait until the entries are stored, but not forever: missing ones show in the figures."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_WRITE_DEADLINE):
                while self._changes() < self._awaited:  # noqa: ASYNC110 - another process counts them
                    await asyncio.sleep(0.001)


async def _ask(
    url: str, asked: Iterable[Asked], step: Callable[[], None], writes: Writes | None = None
) -> AsyncIterator[tuple[float, RawAnswer]]:
    """Yield for each request the seconds to its response, and the response."""
    async with await RawConnection.open(url) as connection:
        for one in asked:
            body, fields = one.body(), {"X-Cache-Category": one.category}
            if writes is not None:
                writes.expect(one)
            begun = time.perf_counter()
            connection.send("POST", one.path, body=body, fields=fields)
            answer = await connection.answer()
            seconds = time.perf_counter() - begun
            assert answer.status == HTTPStatus.OK, answer.body[:200]
            if writes is not None:
                await writes.written()
            step()
            yield seconds, answer


def _rows(
    before: Iterable[Asked],
    asked: Iterable[Asked],
    direct: Iterable[float],
    cached: Iterable[tuple[float, RawAnswer]],
    seed: int,
) -> Iterator[Row]:
    """Yield the measurements with the expected hits if nothing expires or is evicted."""
    cache = rates.Cache(rates.Expiring())
    for one in before:
        cache.ask(one)
    for one, plain, (seconds, answer) in zip(asked, direct, cached, strict=True):
        missing = cache.ask(one)
        yield Row(
            category=one.category,
            items=len(one.texts),
            known=_known(answer, len(one.texts)),
            expected=sum(text not in missing for text in one.texts),
            direct=plain,
            cached=seconds,
            ollama_direct=costs.seconds(one.category, one.texts, seed),
            ollama_cached=costs.seconds(one.category, missing, seed),
        )


def _known(answer: RawAnswer, items: int) -> int:
    """Return how many items of a response were hits, by its fields."""
    if answer.field("X-Cache") == "HIT":
        return items
    found = _KNOWN.search(answer.field("Cache-Status") or "")
    return int(found[1]) if found else 0


async def _used(store: redis.Redis) -> int:
    """Return the memory of a server in bytes, without the buffers of its clients, which come and go.

    The server counts those a few times a second, so the figure is taken when it stays the same.
    """
    before, used = -1, 0
    for _ in range(_LOOKS):
        memory = store.info("memory")
        used = int(memory["used_memory"]) - int(memory["mem_clients_normal"])
        if used == before:
            break
        before = used
        await asyncio.sleep(_BETWEEN_LOOKS)
    return used


async def _sizes(url: str, store: redis.Redis) -> dict[str, int]:
    """Return the mean memory of some entries in the server by category, 0 without entries."""
    found: dict[str, list[int]] = {name: [] for name in CATEGORIES}
    token = store.get("ocp:1:generation") or b""
    generation = token if isinstance(token, str) else token.decode()
    cursor = "" if generation else None  # a full store may have evicted the generation too, which drops all entries
    while cursor is not None and sum(map(len, found.values())) < _MEASURED_ENTRIES:
        response = await ask(url, "GET", f"/api/cache/entries?cursor={cursor}")
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE:  # evicted since, and the full store refuses a new one
            break
        page = orjson.loads(response.body)
        for entry in page["entries"]:
            size = store.memory_usage(f"ocp:1:e:{generation}:{entry['key']}", samples=0)
            if size is not None and entry["category"] in found:
                found[entry["category"]].append(size)
        cursor = page["cursor"]
    return {name: round(sum(sizes) / len(sizes)) if sizes else 0 for name, sizes in found.items()}
