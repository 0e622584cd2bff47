"""A model's name stands for what it is now: pulled, created, copied over, deleted or replaced behind the proxy's back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ollama_cache_proxy.core import fetch
from ollama_cache_proxy.simulator import Behaviour, Fault, Simulator
from ollama_cache_proxy.upstream import digests
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

GENERATE = {"model": "tiny", "prompt": "why", "stream": False, "options": {"temperature": 0}}


async def post(url: str, path: str, body: Any) -> RawAnswer:
    return await ask(url, "POST", path, body=json.dumps(body).encode())


async def generate(proxy: Proxy, model: str = "tiny") -> RawAnswer:
    return await post(proxy.url, "/api/generate", GENERATE | {"model": model})


async def look(proxy: Proxy) -> None:
    """Let the proxy look at the models now, not when its timer does."""
    models: Any = proxy.running.exchanges._relay._models
    await models._probe_after_change()


async def eventually(store: Any, keys: int) -> None:
    """Wait until so many entries are stored."""
    async with asyncio.timeout(10):
        while (await store.count()).keys != keys:  # noqa: ASYNC110 - a store tells nobody
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/create", {"model": "tiny", "from": "tiny2", "system": "x"}),
        ("/api/create", {"model": "registry.ollama.ai/library/TINY:latest", "from": "tiny2", "stream": False}),
        ("/api/copy", {"source": "tiny2", "destination": "tiny"}),
        ("/api/create?x=1", {"name": "tiny", "from": "tiny2"}),
        ("/api/%63reate", {"model": "tiny", "MODEL": "tiny", "from": "tiny2"}),
    ],
)  # fmt: skip
async def test_a_change_through_the_proxy_is_seen_at_once(
    path: str, body: dict[str, str], proxy: Proxy, simulator: Simulator
) -> None:
    before = await generate(proxy)
    digest = simulator.models.digest("tiny")
    assert (await post(proxy.url, path, body)).status == 200
    assert simulator.models.digest("tiny") != digest
    after = await generate(proxy)
    assert after.field("X-Cache") in ("MISS", "BYPASS")
    assert json.loads(after.body)["response"] != json.loads(before.body)["response"]


async def test_a_deleted_model_is_not_answered_for(proxy: Proxy) -> None:
    await generate(proxy)
    assert (await ask(proxy.url, "DELETE", "/api/delete", body=b'{"model":"tiny"}')).status == 200
    assert (await generate(proxy)).status == 404


async def test_spellings_of_one_model_have_one_digest_and_keys_of_their_own(proxy: Proxy) -> None:
    for model in ("tiny", "TINY", "tiny:latest", "registry.ollama.ai/library/tiny:latest"):
        first, again = await generate(proxy, model), await generate(proxy, model)
        assert (first.field("X-Cache"), again.field("X-Cache")) == ("MISS", "HIT")
        assert json.loads(again.body)["model"] == model


async def test_a_copy_keeps_the_digest_and_gets_answers_of_its_own(proxy: Proxy, simulator: Simulator) -> None:
    await post(proxy.url, "/api/copy", {"source": "tiny", "destination": "twin"})
    assert simulator.models.digest("twin") == simulator.models.digest("tiny")
    await generate(proxy, "tiny")
    answer = await generate(proxy, "twin")
    assert json.loads(answer.body)["model"] == "twin"


async def test_an_answer_in_flight_over_a_change_is_not_kept(proxy: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    asking = asyncio.create_task(generate(proxy))
    await simulator.arrived(1)
    await post(proxy.url, "/api/create", {"model": "tiny", "from": "tiny2"})
    simulator.gate.open()
    answer = await asking
    assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=model-changed"


async def test_a_change_behind_the_proxys_back_is_seen_by_the_next_look(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulator
) -> None:
    monkeypatch.setattr(digests, "POLL", 0.05)
    async with proxy_before(simulator.url) as proxy:
        before = await generate(proxy)
        simulator.models.replace("tiny")
        models: Any = proxy.running.exchanges._relay._models
        edition = models.current_edition
        await until(lambda: models.current_edition > edition)
        after = await generate(proxy)
        assert after.field("X-Cache") == "MISS"
        assert after.body != before.body


async def test_an_entry_kept_under_a_digest_that_had_gone_is_removed(simulator: Simulator) -> None:
    """Replaced behind our back just before the answer, and rolled back later: the old name must not find it."""
    async with proxy_before(simulator.url) as proxy:
        await generate(proxy, "tiny2")  # the table is fresh
        simulator.models.replace("tiny")
        stale = await generate(proxy)
        await eventually(proxy.running.store, 2)
        await look(proxy)
        await eventually(proxy.running.store, 1)  # only the entry of tiny2 is left
        assert stale.field("X-Cache") == "MISS"


async def test_an_entry_kept_under_a_digest_that_the_proxy_itself_brings_back_is_removed(
    simulator: Simulator,
) -> None:
    """Replaced behind our back, and copied back through the proxy before a probe has seen either."""
    async with proxy_before(simulator.url) as proxy:
        await post(proxy.url, "/api/copy", {"source": "tiny", "destination": "original"})
        await generate(proxy, "tiny2")  # the table is fresh
        await look(proxy)
        simulator.models.replace("tiny")
        stale = await generate(proxy)
        await eventually(proxy.running.store, 2)
        await post(proxy.url, "/api/copy", {"source": "original", "destination": "tiny"})
        await eventually(proxy.running.store, 1)  # only the entry of tiny2 is left
        after = await generate(proxy)
        assert (stale.field("X-Cache"), after.field("X-Cache")) == ("MISS", "MISS")
        assert json.loads(after.body)["response"] != json.loads(stale.body)["response"]


async def test_an_entry_that_the_store_does_not_delete_is_withdrawn_later(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulator
) -> None:
    monkeypatch.setattr(fetch, "_WITHDRAW_AFTER", 0.01)
    async with proxy_before(simulator.url) as proxy:
        await generate(proxy, "tiny2")
        store, refused = proxy.running.store, 0
        delete = store.delete

        async def refuse(keys: Any, generation: str) -> int | None:
            nonlocal refused
            refused += 1
            return None if refused < 4 else await delete(keys, generation)

        monkeypatch.setattr(store, "delete", refuse)
        simulator.models.replace("tiny")
        await generate(proxy)
        await eventually(store, 2)
        await look(proxy)
        await eventually(store, 1)
        assert refused == 4


async def test_an_entry_that_is_withdrawn_while_it_is_on_its_way_to_the_store(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url) as proxy:
        await generate(proxy, "tiny2")
        await eventually(proxy.running.store, 1)
        store, comes, may_go = proxy.running.store, asyncio.Event(), asyncio.Event()
        put = store.put

        async def late(entries: Any, generation: str) -> bool:
            comes.set()
            await may_go.wait()
            return await put(entries, generation)

        monkeypatch.setattr(store, "put", late)
        simulator.models.replace("tiny")
        await generate(proxy, "tiny")
        await asyncio.wait_for(comes.wait(), 10)
        for _ in range(3):
            await look(proxy)
        may_go.set()
        await proxy.kept()
        await eventually(store, 1)  # only the entry of tiny2 is left


async def test_a_proxy_that_starts_while_ollama_is_down_has_its_hits(redis_server: RedisServer) -> None:
    async with Simulator(Behaviour(completion_delay=0)) as simulator:
        url = simulator.url
        async with proxy_before(url, redis_url=redis_server.url) as proxy:
            before = await generate(proxy)
    async with proxy_before(url, redis_url=redis_server.url) as proxy:
        after = await generate(proxy)
        assert (after.field("X-Cache"), after.body) == ("HIT", before.body)
        assert (await generate(proxy, "tiny2")).status == 502
        assert json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["keys"] == 1


@pytest.mark.parametrize("saved", [b"", b"{", b"[]", b'{"version":1}', b'{"version":"1","digests":[]}'])
async def test_saved_digests_that_are_damaged_are_none(saved: bytes, redis_server: RedisServer) -> None:
    url = "http://127.0.0.1:1"
    redis_server.client().set("ocp:1:models:127.0.0.1:1", saved)
    async with proxy_before(url, redis_url=redis_server.url) as proxy:
        assert (await generate(proxy)).status == 502


async def test_a_table_that_cannot_be_had_is_no_reason_to_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "MAX_WAIT", 0.05)
    async with Simulator(Behaviour(completion_delay=0)) as simulator:
        async with proxy_before(simulator.url) as proxy:
            simulator.fault = lambda request: Fault.HANG if request.target == "/api/tags" else None
            answer = await generate(proxy)
            assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=no-digest"
