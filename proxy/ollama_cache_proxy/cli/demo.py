"""`ollama-cache-proxy demo`: what the proxy does, shown with a simulated Ollama."""

from __future__ import annotations

import argparse
import asyncio
import io
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from rich.console import Console
from rich.table import Table

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.loop import run_ending
from ollama_cache_proxy.service.app import running
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.simulator import NEWEST, Behaviour, Simulator
from ollama_cache_proxy.workbench.cache_status import own_member


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A request that is sent twice."""

    title: str
    path: str
    body: dict[str, Any]


_QUESTIONS = (
    _Question(
        title="Completion",
        path="/api/generate",
        body={"model": "tiny", "prompt": "Why is the sky blue?", "stream": False},
    ),
    _Question(
        title="Embedding",
        path="/api/embed",
        body={"model": "all-minilm", "input": "def add(a, b): return a + b"},
    ),
    _Question(
        title="Chat",
        path="/api/chat",
        body={"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": False},
    ),
)


def add(commands: Any) -> None:
    """Add the command to the command line."""
    options.command(
        commands,
        "demo",
        run,
        help="show what the proxy does, without an Ollama",
        description=f"Start a simulated Ollama {NEWEST} (2 s a completion, 0.3 s an embedding) and the proxy in front"
        " of it, on free ports, and send every request twice.",
        examples=("demo",),
    )


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001 - every command gets its arguments
    """Run the command."""
    run_ending(_demo(Console()))
    return 0


async def _demo(console: Console) -> None:
    settings = load(None, {"listen": "127.0.0.1:0", "log": "plain", "keep": False})
    async with Simulator(Behaviour()) as simulator:
        with bind(settings.listen) as sock:
            settings = settings.model_copy(update={"upstream": simulator.url, "upstreams": ()})
            async with running(settings, sock, stream=io.StringIO()) as proxy:
                await _show(console, proxy.url)


async def _show(console: Console, url: str) -> None:
    table = Table(title="The same request, twice")
    for column in ("", "First", "Again", "Same bytes", "Cache-Status, again"):
        table.add_column(column, justify="right" if column in ("First", "Again") else "left")
    async with aiohttp.ClientSession(url) as session:
        for question in _QUESTIONS:
            with console.status(f"Sending: {question.title}"):
                first = await _ask(session, question)
                await asyncio.sleep(0.05)
                again = await _ask(session, question)
            same = "yes" if first.body == again.body else "no"
            table.add_row(question.title, _milliseconds(first), _milliseconds(again), same, again.cache_status)
        async with session.get("/api/cache/stats") as response:
            stats = orjson.loads(await response.read())
    console.print(table)
    shown = {name: stats[name] for name in ("hits", "misses", "hitRate", "keys", "savedSeconds")}
    text = orjson.dumps(shown).decode().removesuffix("}")
    console.print(f"GET /api/cache/stats: {text},…}}", soft_wrap=True, highlight=False)
    console.print("Chats bypass the cache unless a setting caches them too.", highlight=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Response:
    """A response as the client saw it."""

    seconds: float
    """From the request to the last byte."""
    body: bytes
    cache_status: str


async def _ask(session: aiohttp.ClientSession, question: _Question) -> _Response:
    begun = time.perf_counter()
    async with session.post(question.path, data=orjson.dumps(question.body)) as response:
        body = await response.read()
    return _Response(
        seconds=time.perf_counter() - begun,
        body=body,
        cache_status=own_member(response.headers.getall("Cache-Status", ())).partition("; ")[2],
    )


def _milliseconds(seen: _Response) -> str:
    return f"{seen.seconds * 1000:,.1f} ms"
