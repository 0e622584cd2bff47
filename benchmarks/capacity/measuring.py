"""What a request costs the proxy and the store, by hit rate, size and number of entries, and number of workers.

A store is filled with real entries of known questions; wrk draws from these at random, and sends new questions between
them. What counts is the CPU time of a request, which other work on the machine disturbs less than a rate. The cases of
a store take turns.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson
import redis

from benchmarks.speed.load import cpu, wrk
from benchmarks.speed.questions import TAGS, VERSION, answer, question
from benchmarks.speed.subjects import BOTH_CORES, LOAD_CORE, SERVER_CORE, Subject, Subjects
from ollama_cache_proxy.policy.classify import Candidate, by_body
from ollama_cache_proxy.policy.endpoints import Policy, find
from ollama_cache_proxy.policy.key import Scope, cache_key
from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.stores.codecs import PlainCodec
from ollama_cache_proxy.stores.redis.key_layout import GENERATION, entry_name
from tests.support.rawhttp import ask

_STUB: Final = """
  default_type "application/json; charset=utf-8";
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    set $kilo '{kilo}';
    location /api/tags {{ return 200 '{tags}'; }}
    location /api/version {{ return 200 '{version}'; }}
    location / {{ return 200 '{answer}'; }}
  }}
"""
"""nginx as an Ollama that answers at once; a word of its configuration has at most 4096 bytes."""
_KILO: Final = 1000
_CONNECTIONS: Final = 64
_BATCH: Final = 1000
_PIPELINED: Final = 1
"""Writes that reach the store together while the notices of them are measured."""
_WRITES: Final = 5000
_LIFETIME: Final = 3600
_ALONE: Final = {"OCP_COLLAPSE_ACROSS_PROXIES": "false"}
"""A miss takes no lease: the model counts none."""
_QUIET: Final = 0.2
"""Seconds without a write after which none is waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is asked of a proxy: `hit` of the requests are known, of `entries` responses of `body` bytes."""

    entries: int
    body: int
    hit: float
    workers: int = 1
    hot: bool = True
    """Whether there is a hot tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One run. Per request: microseconds of CPU of the proxy and of the store, commands, bytes to and from the store.

    `rate` is in requests a second, `busy` and `store_busy` are cores.
    """

    proxy: float
    store: float
    commands: float
    bytes: float
    rate: float
    busy: float
    store_busy: float


HITS: Final = (0.0, 0.5, 0.9, 1.0)
NOTED: Final = Case(entries=1500, body=1000, hit=1.0)
"""All are noted, and in the hot tier."""
NOTED_LARGE: Final = replace(NOTED, body=32_000)
STORED: Final = replace(NOTED, hot=False)
STORED_LARGE: Final = replace(NOTED_LARGE, hot=False)
DISTURBED: Final = Case(entries=5000, body=1000, hit=0.9)
"""All known ones are noted, and misses come between."""
RENOTED: Final = Case(entries=15_000, body=1000, hit=1.0)
"""More than there are notes, and yet so few that what has no note gets one."""
POSED: Final = Case(entries=60_000, body=1000, hit=1.0)
"""Far more than there are notes, and no misses before."""
MISSED: Final = Case(entries=50_000, body=1000, hit=0.0)
PARSED: Final = replace(MISSED, hit=0.5)
MISSED_LARGE: Final = Case(entries=10_000, body=32_000, hit=0.0)
SEVERAL: Final = replace(MISSED, workers=2)
FIT: Final = (
    *(NOTED, NOTED_LARGE, STORED, STORED_LARGE, DISTURBED, RENOTED),
    *(MISSED, PARSED, POSED, MISSED_LARGE, SEVERAL),
)
"""The cases that the coefficients are made of."""
CHECKED: Final = (
    *(Case(entries=entries, body=1000, hit=hit) for entries in (1000, 10_000, 100_000) for hit in HITS),
    *(Case(entries=1_000_000, body=400, hit=hit) for hit in HITS),
    Case(entries=100_000, body=1000, hit=0.98),
    *(Case(entries=10_000, body=body, hit=hit) for body in (4000, 16_000) for hit in HITS),
    *(Case(entries=10_000, body=1000, hit=hit, workers=2) for hit in HITS),
    *(Case(entries=100_000, body=1000, hit=hit, workers=2) for hit in (0.5, 0.9)),
)
"""The cases that the model is checked against."""
MEMORY: Final = {
    400: (1000, 10_000, 100_000, 1_000_000),
    1000: (1000, 10_000, 100_000),
    4000: (1000, 10_000, 100_000),
    16_000: (1000, 10_000),
    64_000: (1000, 10_000),
}
"""Numbers of entries by the bytes of a response."""


async def stub(subjects: Subjects, size: int) -> str:
    """Start an upstream whose responses have `size` bytes, and return its URL."""
    said = orjson.loads(answer())
    whole, rest = divmod(size - len(orjson.dumps(said | {"response": ""})), _KILO)
    text = orjson.dumps(said | {"response": "${kilo}" * whole + "x" * rest}).decode()
    values = {"tags": TAGS.decode(), "version": VERSION.decode(), "answer": text, "kilo": "x" * _KILO}
    subject = await subjects.nginx("stub", LOAD_CORE, _STUB, **values)
    subjects.upstream = subject.url
    return subject.url


class Filler:
    """Writes entries as the proxy writes them: real keys of known questions, and a response that it has stored."""

    def __init__(self, client: Any, generation: str, entry: StoredResponse) -> None:
        self._client, self._generation, self._entry = client, generation, entry
        self._codec = PlainCodec()

    @classmethod
    async def after(cls, url: str, client: Any) -> Filler:
        """Ask a proxy one question, and take what it has stored for a pattern; raise RuntimeError without one."""
        await ask(url, "POST", "/api/generate", body=question(0))
        key = key_of(0)
        for _ in range(100):
            generation = (client.get(GENERATION) or b"").decode()
            found = PlainCodec().decode(generation, key, client.get(entry_name(generation, key)) or b"")
            if found is not None:
                return cls(client, generation, found)
            await asyncio.sleep(0.05)
        raise RuntimeError("the proxy has stored nothing under the key of its first question")

    def fill(self, numbers: range, size: int | None = None) -> None:
        """Write the entries of these questions; with a size, those of other responses under names of no question."""
        entry = self._entry if size is None else replace(self._entry, body=b"x" * size)
        for begin in range(numbers.start, numbers.stop, _BATCH):
            pipeline = self._client.pipeline(transaction=False)
            for number in range(begin, min(begin + _BATCH, numbers.stop)):
                key = key_of(number) if size is None else f"{number:064x}"
                value = self._codec.encode(self._generation, key, entry)
                pipeline.set(entry_name(self._generation, key), value, ex=_LIFETIME)
            pipeline.execute()

    def write(self, count: int) -> None:
        """Write new entries, some at a time."""
        for begin in range(0, count, _PIPELINED):
            self.fill(range((1 << 40) + begin, (1 << 40) + begin + _PIPELINED), len(self._entry.body))


def key_of(number: int) -> str:
    """Return the key of a question."""
    (endpoint, *_) = find("POST", "/api/generate")
    found = by_body(endpoint, question(number), policy_of=lambda _: Policy.ALWAYS, streams=True)
    assert isinstance(found, Candidate)
    return cache_key(found, Scope(digest="d1", version="0.24.0"), ())


class Measuring:
    """Runs groups of cases, each in front of a store and an upstream of its own."""

    def __init__(self, folder: Path, rounds: int, seconds: int) -> None:
        self._folder, self._rounds, self._seconds = folder, rounds, seconds
        self._stores = 0

    async def cases(self, cases: Sequence[Case]) -> list[dict[str, Any]]:
        """Return the cases, each with its runs."""
        os.sched_setaffinity(0, {LOAD_CORE})
        found = []
        for group in _grouped(cases):
            found += await self._group(group)
        return found

    async def _group(self, cases: Sequence[Case]) -> list[dict[str, Any]]:
        """Measure cases of one store in turns: equal entries, sizes, workers and tiers."""
        first = cases[0]
        async with self._subjects() as subjects:
            client = redis.Redis.from_url(await subjects.redis())
            await stub(subjects, first.body)
            more = _ALONE if first.hot else _ALONE | {"OCP_HOT_BYTES": "0"}
            cores = str(SERVER_CORE) if first.workers == 1 else BOTH_CORES
            proxy = await subjects.proxy("proxy", cores=cores, OCP_WORKERS=f"{first.workers}", **more)
            filler = await Filler.after(proxy.url, client)
            filler.fill(range(first.entries))
            bodies = self._folder / "bodies"
            bodies.write_bytes(question(0).replace(b"000000", b"NUMBER"))
            await self._warm(proxy, bodies, first)
            runs: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
            for _ in range(self._rounds):
                for case in cases:
                    runs[case].append(asdict(await self._taken(proxy, client, subjects.helpers[0], bodies, case)))
            sys.stderr.write(f"{first.entries:,} entries of {first.body:,} bytes, {first.workers} worker(s)\n")
        return [asdict(case) | {"runs": taken} for case, taken in runs.items()]

    def _subjects(self) -> Subjects:
        self._stores += 1
        return Subjects(self._folder / f"{self._stores}")

    async def _warm(self, proxy: Subject, bodies: Path, case: Case) -> None:
        """Ask for what the hot tier has room for, some times over."""
        seconds = 2 * self._seconds + (case.entries > _BATCH) * 2 * self._seconds * case.workers
        await wrk(proxy, bodies, connections=_CONNECTIONS, seconds=seconds, mode=f"drawn-1-{case.entries}")

    async def _taken(self, proxy: Subject, client: Any, store: int, bodies: Path, case: Case) -> Taken:
        before, begun = client.info("stats"), (cpu(proxy.pid), cpu(store))
        mode = f"drawn-{case.hit}-{case.entries}"
        run = await wrk(proxy, bodies, connections=_CONNECTIONS, seconds=self._seconds, mode=mode)
        if run.errors:
            raise RuntimeError(f"{case}: {run.errors} errors")
        await _written(client)
        used, used_by_store = cpu(proxy.pid) - begun[0], cpu(store) - begun[1]
        after, count = client.info("stats"), run.rate * self._seconds

        def grown(name: str) -> float:
            return float(after[name] - before[name]) / count

        return Taken(
            proxy=used / count * 1e6,
            store=used_by_store / count * 1e6,
            commands=grown("total_commands_processed"),
            bytes=grown("total_net_input_bytes") + grown("total_net_output_bytes"),
            rate=run.rate,
            busy=used / self._seconds,
            store_busy=used_by_store / self._seconds,
        )

    async def notices(self) -> list[dict[str, float]]:
        """Return what a write by others costs a proxy that is told of it, and what telling it costs the store.

        Microseconds of a write; each round writes with no proxy, and with one.
        """
        os.sched_setaffinity(0, {LOAD_CORE})
        async with self._subjects() as subjects:
            client = redis.Redis.from_url(await subjects.redis())
            await stub(subjects, _KILO)
            store = subjects.helpers[0]
            found = []
            for number in range(self._rounds):
                async with Subjects(self._folder / f"told-{number}") as told:
                    told.store, told.upstream = subjects.store, subjects.upstream
                    proxy = await told.proxy("proxy")
                    filler = await Filler.after(proxy.url, client)
                    begun = cpu(proxy.pid), cpu(store)
                    await asyncio.to_thread(filler.write, _WRITES)
                    await asyncio.sleep(0.2)
                    heard, with_one = cpu(proxy.pid) - begun[0], cpu(store) - begun[1]
                alone = cpu(store)
                await asyncio.to_thread(filler.write, _WRITES)
                with_none = cpu(store) - alone
                found.append({"proxy": heard / _WRITES * 1e6, "store": (with_one - with_none) / _WRITES * 1e6})
        return found

    async def leases(self) -> list[dict[str, float]]:
        """Return what a miss costs more where it takes a lease: two proxies before one store take turns."""
        os.sched_setaffinity(0, {LOAD_CORE})
        async with self._subjects() as subjects:
            client = redis.Redis.from_url(await subjects.redis())
            await stub(subjects, _KILO)
            settings: tuple[dict[str, str], ...] = (_ALONE, {})
            pair = [await subjects.proxy("proxy", OCP_HOT_BYTES="0", **each) for each in settings]
            bodies = self._folder / "bodies"
            bodies.write_bytes(question(0).replace(b"000000", b"NUMBER"))
            case, found = Case(entries=1000, body=_KILO, hit=0.0, hot=False), []
            for number in range(-1, self._rounds):
                runs = [await self._taken(proxy, client, subjects.helpers[0], bodies, case) for proxy in pair]
                if number >= 0:  # the first ones warm up
                    alone, leased = map(asdict, runs)
                    found.append({name: leased[name] - alone[name] for name in ("proxy", "store", "commands", "bytes")})
        return found

    async def memory(self) -> list[dict[str, float]]:
        """Return the store's memory for an entry, in bytes, by number and size."""
        os.sched_setaffinity(0, {LOAD_CORE})
        found: list[dict[str, float]] = []
        for size, counts in MEMORY.items():
            async with self._subjects() as subjects:
                client: Any = redis.Redis.from_url(await subjects.redis())
                await stub(subjects, _KILO)
                async with Subjects(self._folder / f"first-{size}") as first:  # its notices would take memory, too
                    first.store, first.upstream = subjects.store, subjects.upstream
                    filler = await Filler.after((await first.proxy("proxy")).url, client)
                before, there = client.info("memory")["used_memory"], 0
                for count in counts:
                    filler.fill(range(there, count), size)
                    used = client.info("memory")["used_memory"] - before
                    found.append({"entries": count, "body": size, "bytes": used / count})
                    there = count
            sys.stderr.write(f"memory of entries of {size:,} bytes\n")
        return found


async def _written(client: Any) -> None:
    """Wait until the proxy has written what it was asked last: while it has no core left, writes wait."""
    there = -1
    while (now := client.dbsize()) != there:
        there = now
        await asyncio.sleep(_QUIET)


def _grouped(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Yield the cases that one store and one proxy serve."""
    groups: dict[tuple[Any, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.entries, case.body, case.workers, case.hot), []).append(case)
    yield from groups.values()
