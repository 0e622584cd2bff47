"""Wrong entries that were planted in the store, and the clients that come while they are looked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from ollama_cache_proxy.core import audit, fast_path
from ollama_cache_proxy.policy.audit_sampling import Rate, Sampler
from ollama_cache_proxy.service import neighbours
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.e2e.faults.conftest import Measured
from tests.support.planted import wrong
from tests.support.rawhttp import RawConnection, ask, request_bytes
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

pytestmark = pytest.mark.row(49)
SEEDS = 20_000
WITHIN = 199
"""Hits of a wrong entry."""
TRIES = 3
GREEDY = {"model": "tiny", "stream": False, "options": {"temperature": 0}}
EMBEDDINGS = {"model": "all-minilm", "prompt": "planted"}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    *(("/api/embeddings", {"model": "all-minilm", "prompt": f"text {number}"}) for number in range(8)),
    *(("/api/generate", GREEDY | {"prompt": f"text {number}"}) for number in range(8)),
    ("/api/embed", {"model": "all-minilm", "input": [f"text {number}" for number in range(40)]}),
    ("/v1/embeddings", {"model": "all-minilm", "input": "alone"}),
]
"""56 entries."""


async def plant(proxy: Proxy) -> int:
    """Make every entry of the store a wrong one; return how many there are."""
    store = proxy.running.store
    page = await store.page("", 1000)
    assert page is not None
    for row in page.entries:
        found = await store.get(row.key)
        assert found.entry is not None
        assert await store.put(((row.key, wrong(found.entry)),), found.generation or "")
    return len(page.entries)


def count(proxy: Proxy, outcome: str) -> float:
    return sum(
        sample.value
        for family in proxy.running.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "ollama_cache_proxy_audited_total" and sample.labels["outcome"] == outcome
    )


@pytest.fixture
async def ollama() -> AsyncIterator[Simulator]:
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0)) as simulator:
        yield simulator


async def post(proxy: Proxy, path: str, body: Any) -> str | None:
    return (await ask(proxy.url, "POST", path, body=json.dumps(body).encode())).field("X-Cache")


async def test_every_planted_entry_is_found_at_a_hundred_percent(
    ollama: Simulator, redis_server: RedisServer, measured: Measured
) -> None:
    async with proxy_before(ollama.url, redis_url=redis_server.url, audit="100%", audit_completions=True) as proxy:
        for path, body in REQUESTS:
            assert await post(proxy, path, body) == "MISS"
            await proxy.kept()
        planted = await plant(proxy)
        assert planted == 56 + 1
        asked = ollama.inferences
        for path, body in REQUESTS:
            assert await post(proxy, path, body) == "HIT"
        await until(lambda: not proxy.running.exchanges._audit._work, 30)
        measured(49, "missed", planted - count(proxy, "wrong"))
        assert ollama.inferences > asked
        assert count(proxy, "same") == count(proxy, "not-reproducible") == 0
        page = await proxy.running.store.page("", 1000)
        assert page is not None
        assert page.entries == ()
        for path, body in REQUESTS:
            assert await post(proxy, path, body) == "MISS"


def drawn_at(seed: int) -> int:
    """Give which hit of an entry is drawn at 1 %: the first is counted by itself, as it is served the ordinary way."""
    sampler = Sampler(Rate(share=0.01), seed=seed)
    return 1 if sampler.take("one", 0) else 1 + sampler.gap("one", 0)


async def test_at_one_percent_one_is_found_within_199_hits_in_every_seed(
    ollama: Simulator, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = sum(drawn_at(seed) > WITHIN for seed in range(SEEDS))
    measured(49, "late", 100 * late / SEEDS)
    monkeypatch.setattr(fast_path, "REPORT_EVERY", 0.005)  # reports in between change nothing
    sent = request_bytes("POST", "/api/embeddings", host="localhost", body=json.dumps(EMBEDDINGS).encode())
    for seed in range(TRIES):
        monkeypatch.setattr(neighbours, "secrets", SimpleNamespace(randbits=lambda _bits, seed=seed: seed))
        async with proxy_before(ollama.url, audit="1%", log_requests="off") as proxy:
            await post(proxy, "/api/embeddings", EMBEDDINGS)
            await proxy.kept()
            await plant(proxy)
            async with await RawConnection.open(proxy.url) as connection:
                for _ in range(drawn_at(seed)):
                    assert count(proxy, "wrong") == 0
                    connection.writer.write(sent)
                    assert (await connection.answer()).field("X-Cache") == "HIT"
            await until(lambda proxy=proxy: count(proxy, "wrong") == 1)  # type: ignore[misc] # a default binds it
            assert await post(proxy, "/api/embeddings", EMBEDDINGS) == "MISS"


async def test_a_chat_that_comes_in_an_audit_gets_its_first_token_as_soon(
    ollama: Simulator, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit has Ollama work for as long as it takes; each chat ends that at once."""
    monkeypatch.setattr(audit, "CHECKED_FOR", 0.0)
    chat = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()

    async def first_token(proxy: Proxy) -> float:
        begun = asyncio.get_running_loop().time()
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("POST", "/api/chat", body=chat)
            await connection.head()
            await connection.chunk()
            return asyncio.get_running_loop().time() - begun

    async with proxy_before(ollama.url, audit="100%") as proxy:
        await post(proxy, "/api/embed", EMBEDDINGS | {"input": "a"})
        await proxy.kept()
        ollama.behaviour = Behaviour(completion_delay=0.2, embedding_delay=30)
        alone = min([await first_token(proxy) for _ in range(TRIES)])
        beside = []
        for _ in range(TRIES):
            left, arrived = ollama.cancelled, ollama.inferences
            await post(proxy, "/api/embed", EMBEDDINGS | {"input": "a"})
            async with asyncio.timeout(10):
                await ollama.arrived(arrived + 1)
            beside.append(await first_token(proxy))
            async with asyncio.timeout(10):
                await ollama.departed(left + 1)
        measured(49, "token", min(beside) / alone)
        assert count(proxy, "wrong") == count(proxy, "failed") == 0
