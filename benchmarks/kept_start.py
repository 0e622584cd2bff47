"""How much later a proxy answers that has kept entries to load: `python -m benchmarks.kept_start --entries 100000`.

A proxy with an empty folder and one with a full one are started in turn, before a simulated Ollama without delays.
Measured from the start of the process: the first response, to a text that is not known, and when all of a sample of the
kept texts are hits. The folder is filled with copies of real entries, padded to 4 KB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks.watched import Secrets, Watched, run
from ollama_cache_proxy.stores.redis.kept_folder import KeptFolder
from tests.support.rawhttp import ask
from tests.support.servers import free_port

_SAMPLE: Final = 50
"""Texts that are asked for again."""
_BYTES: Final = 4096
_PER_PIPELINE: Final = 256
_WITHIN: Final = 60.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the start of a process until its first response, and until the sample was hits."""

    first: float
    hits: float


async def _embed(url: str, text: str) -> str | None:
    body = json.dumps({"model": "all-minilm", "input": text}).encode()
    return (await ask(url, "POST", "/api/embed", body=body)).field("X-Cache")


def _proxy(upstream: str, port: int, folder: Path) -> Watched:
    environment = {
        "OCP_KEEP": "true",
        "OCP_STORE_DIR": str(folder),
        "OCP_PRIVATE_REDIS_BYTES": str(4 << 30),
        "OCP_HOT_BYTES": "0",
    }
    arguments = ("--listen", f"127.0.0.1:{port}", "--upstream", upstream, "--log", "plain")
    return Watched("-m", "ollama_cache_proxy", "serve", *arguments, secrets=Secrets(), environment=environment)


async def _started(upstream: str, folder: Path, known: int) -> Start:
    """Start a proxy, measure it, and end it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    begun = time.perf_counter()
    process = _proxy(upstream, port, folder)
    try:
        first = 0.0
        while not first:
            try:
                await _embed(url, secrets.token_hex(8))
                first = time.perf_counter() - begun
            except OSError:
                await asyncio.sleep(0.002)
        for number in range(known):
            while await _embed(url, f"known {number}") != "HIT":
                if time.perf_counter() - begun > _WITHIN:
                    sys.exit(f"a kept text is no hit: {process.first}")
                await asyncio.sleep(0.01)
        hits = time.perf_counter() - begun
        await process.end()
    finally:
        process.close()
    return Start(first, hits)


def _fill(folder: Path, entries: int) -> None:
    """Write copies of the entries that are there, until there are so many."""
    client: Any = redis.Redis(unix_socket_path=str(KeptFolder(folder).socket()))
    names = list(client.scan_iter("ocp:1:e:*"))
    prefix, value = names[0].rpartition(b":")[0], client.get(names[0])
    for at in range(len(names), entries, _PER_PIPELINE):
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(min(_PER_PIPELINE, entries - at)):
                body = value + secrets.token_bytes(max(0, _BYTES - len(value)))
                pipeline.set(prefix + b":" + secrets.token_hex(32).encode(), body, ex=86_400)
            pipeline.execute()


async def _prepared(upstream: str, folder: Path, entries: int) -> None:
    port = free_port()
    process = _proxy(upstream, port, folder)
    try:
        await process.wait_for("listens on ")
        await process.wait_for("Connected to Ollama")
        for number in range(_SAMPLE):
            await _embed(f"http://127.0.0.1:{port}", f"known {number}")
        await asyncio.to_thread(_fill, folder, entries)
        await process.end()
    finally:
        process.close()


async def _main(entries: int, rounds: int) -> None:
    port = free_port()
    simulator = Watched(
        *("-m", "ollama_cache_proxy", "simulate", "--listen", f"127.0.0.1:{port}", "--embedding-ms", "0"),
        secrets=Secrets(),
    )
    empty, full = [], []
    try:
        await simulator.wait_for("answers at ")
        upstream = f"http://127.0.0.1:{port}"
        with tempfile.TemporaryDirectory(prefix="ocp-") as folder:
            await _prepared(upstream, Path(folder) / "full", entries)
            for number in range(rounds):
                empty.append(await _started(upstream, Path(folder) / f"empty-{number}", 0))
                full.append(await _started(upstream, Path(folder) / "full", _SAMPLE))
    finally:
        simulator.close()
    later = statistics.median(one.first - other.first for one, other in zip(full, empty, strict=True))
    print(f"{entries:,} entries of {_BYTES} bytes, {rounds} rounds in turn, medians (all)")  # noqa: T201
    for name, starts in (("empty", empty), ("full", full)):
        firsts = [start.first for start in starts]
        print(f"first response, {name}: {statistics.median(firsts):.2f} s ({_all(firsts)})")  # noqa: T201
    print(f"first response later by: {later:.3f} s")  # noqa: T201
    hits = [start.hits for start in full]
    print(f"all of {_SAMPLE} kept texts are hits after: {statistics.median(hits):.2f} s ({_all(hits)})")  # noqa: T201


def _all(figures: list[float]) -> str:
    return ", ".join(f"{figure:.2f}" for figure in sorted(figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    run(_main(given.entries, given.rounds))
