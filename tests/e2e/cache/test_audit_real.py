"""The audit beside real Ollamas: a healthy one is never said to be wrong, and one with another environment is found.

    pytest -m real_ollama tests/e2e/cache/test_audit_real.py --ollama URL --other-ollama URL

Both are of one release, with the same models (`OLLAMA_MODELS`). The other one has another environment, such as
`OLLAMA_CONTEXT_LENGTH=64`, `OLLAMA_GO_TEMPLATE=1` or `OLLAMA_KV_CACHE_TYPE=q8_0`: what a restart would bring.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from ollama_cache_proxy.core import audit
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check every hit, also of an entry that was just checked."""
    monkeypatch.setattr(audit, "CHECKED_FOR", 0.0)


pytestmark = [pytest.mark.real_ollama, pytest.mark.timeout(600)]
LONG = "the quick brown fox jumps over the lazy dog and finds that it is not as lazy as they say " * 12
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/api/embed", {"model": "all-minilm", "input": ["why is the sky blue", LONG]}),
    ("/api/embeddings", {"model": "all-minilm", "prompt": "why is the sky blue"}),
    ("/v1/embeddings", {"model": "all-minilm", "input": "a", "encoding_format": "base64"}),
    (
        "/api/generate",
        {"model": "tiny", "prompt": LONG, "stream": False, "options": {"temperature": 0, "num_predict": 8}},
    ),
    *(
        (
            "/api/generate",
            {"model": "tiny", "prompt": prompt, "stream": False, "options": {"seed": 7, "num_predict": 16}},
        )
        for prompt in ("how are you", "hello world", "tell me a story about")
    ),
    (
        "/api/chat",
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why"}],
            "stream": False,
            "options": {"temperature": 0, "num_predict": 8},
        },
    ),
]


class Switch:
    """A forwarder whose target changes, as an address behind which an Ollama restarts."""

    def __init__(self, target: str) -> None:
        self.url = ""
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Switch]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.to(self._target)

    def to(self, target: str) -> None:
        """Change the target, and close what is open."""
        self._target = target
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self._target)
        ahead, behind = await asyncio.open_connection(parts.hostname, parts.port)
        self._writers |= {writer, behind}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65_536):
                    sink.write(data)
                    await sink.drain()
            except (ConnectionError, RuntimeError):
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, behind), pump(ahead, writer))
        self._writers -= {writer, behind}


async def post(url: str, path: str, body: Any) -> RawAnswer:
    answer = await ask(url, "POST", path, body=json.dumps(body).encode())
    assert answer.status == 200, answer.body
    return answer


def count(proxy: Proxy, *outcomes: str) -> float:
    return sum(
        sample.value
        for family in proxy.running.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "ollama_cache_proxy_audited_total" and sample.labels["outcome"] in outcomes
    )


@dataclass(slots=True)
class Audited:
    """A proxy that has the responses of these requests; `hits` is how many entries they have."""

    proxy: Proxy
    requests: list[tuple[str, dict[str, Any]]]

    @property
    def hits(self) -> int:
        return sum(len(body["input"]) if isinstance(body.get("input"), list) else 1 for _, body in self.requests)

    async def ask_until(self, outcome: str, times: int) -> None:
        """Ask for all of them, again and again: a slow Ollama may be asked too late, or its connection just be closed."""
        async with asyncio.timeout(240):
            while count(self.proxy, outcome) < times:
                for path, body in self.requests:
                    await post(self.proxy.url, path, body)
                await asyncio.sleep(1)


@asynccontextmanager
async def audited(upstream: str) -> AsyncIterator[Audited]:
    """Run a proxy that has stored what can be: of the words of a random model some are no text, and end nothing."""
    settings = {"audit": "100%", "audit_completions": True, "cache_chat": "always"}
    async with proxy_before(upstream, **settings) as proxy:
        stored = []
        for path, body in REQUESTS:
            if "; stored" in str((await post(proxy.url, path, body)).field("Cache-Status")):
                stored.append((path, body))
            await proxy.kept()
        assert len(stored) >= len(REQUESTS) // 2
        yield Audited(proxy, stored)


async def test_a_real_ollama_still_says_what_it_said(pytestconfig: pytest.Config) -> None:
    async with audited(pytestconfig.getoption("--ollama")) as found:
        await found.ask_until("same", found.hits)
        assert count(found.proxy, "wrong", "not-reproducible") == 0
        assert "WRONG" not in found.proxy.log.getvalue()


async def first_token(url: str, number: int) -> float:
    begun = asyncio.get_running_loop().time()
    chat = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"story {number}"}],
        "options": {"num_predict": 4},
    }
    async with await RawConnection.open(url) as connection:
        connection.send("POST", "/api/chat", body=json.dumps(chat).encode())
        await connection.head()
        await connection.chunk()
        return asyncio.get_running_loop().time() - begun


async def test_a_chat_that_comes_ends_an_audit(pytestconfig: pytest.Config) -> None:
    """Prints (`-s`) its first token in milliseconds, median and worst of 12, with and without an audit, in turns."""
    body = {
        "model": "all-minilm",
        "input": [f"text {number} of sixteen that are some words long" for number in range(16)],
    }
    alone, beside = [], []
    async with proxy_before(pytestconfig.getoption("--ollama"), audit="100%") as proxy:
        await post(proxy.url, "/api/embed", body)
        await proxy.kept()
        found = proxy.running.exchanges._audit
        await first_token(proxy.url, -1)
        for number in range(12):
            alone.append(await first_token(proxy.url, 2 * number))
            assert (await post(proxy.url, "/api/embed", body)).field("X-Cache") == "HIT"
            await until(lambda: found._running is not None, 10)
            beside.append(await first_token(proxy.url, 2 * number + 1))
            found._waiting.clear()
            found._size = 0
            await until(lambda: found._work is None, 60)
        assert count(proxy, "wrong", "failed") == 0
    for name, seconds in (("without", alone), ("with", beside)):
        print(name, round(1000 * statistics.median(seconds)), round(1000 * max(seconds)))  # noqa: T201 - a figure


@pytest.mark.other_ollama
async def test_one_with_another_environment_is_found(pytestconfig: pytest.Config) -> None:
    other = pytestconfig.getoption("--other-ollama")
    for path, body in REQUESTS:  # has it load the models
        await post(other, path, body)
    async with Switch(pytestconfig.getoption("--ollama")).listening() as switch, audited(switch.url) as found:
        await found.ask_until("same", found.hits)
        switch.to(other)
        await found.ask_until("wrong", 1)
        assert "WRONG" in found.proxy.log.getvalue()
