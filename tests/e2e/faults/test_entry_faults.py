"""What may be wrong with what the store holds, and with when it holds it: never an answer that is not the right one."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.stores.codecs import PlainCodec
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.e2e.faults.conftest import Measured
from tests.support import canary, entries
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": canary.PROMPT, "stream": False, "options": {"temperature": 0}}
EMBED: dict[str, Any] = {"model": "all-minilm", "input": canary.PROMPT}
row = pytest.mark.row


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own."""
    own = RedisServer()
    own.start()
    yield own
    own.close()


async def generate(proxy: Proxy, prompt: str = canary.PROMPT) -> RawAnswer:
    return await ask(proxy.url, "POST", "/api/generate", body=json.dumps(GENERATE | {"prompt": prompt}).encode())


def essence(answer: RawAnswer) -> Any:
    """What an answer says, without the times of its making."""
    found = json.loads(answer.body)
    return found.get("response") or found.get("embeddings")


FOREIGN: dict[str, Callable[[Any, bytes], object]] = {
    "list": lambda client, name: client.rpush(name, "x"),
    "hash": lambda client, name: client.hset(name, "x", "y"),
    "set": lambda client, name: client.sadd(name, "x"),
    "sorted set": lambda client, name: client.zadd(name, {"x": 1}),
    "stream": lambda client, name: client.xadd(name, {"x": "y"}),
    "empty": lambda client, name: client.set(name, b""),
    "older version": lambda client, name: client.set(name, b"OCP0" + b"x" * 100),
    "large": lambda client, name: client.set(name, b"x" * 1_000_000),
    "100 MB": lambda client, name: client.set(name, b"x" * 100_000_000),
}


@row(10)
@pytest.mark.parametrize("kind", FOREIGN)
async def test_what_is_no_entry_is_a_miss_and_replaced(
    kind: str, measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        right = essence(await generate(proxy))
        await proxy.kept()
        client = server.client()
        (name,) = client.keys("ocp:1:e:*")
        client.delete(name)
        FOREIGN[kind](client, name)
        again = await generate(proxy)
        assert (again.status, again.field("X-Cache")) == (200, "MISS")
        async with asyncio.timeout(60):
            while (answer := await generate(proxy)).field("X-Cache") != "HIT":
                measured(10, "wrong", int(essence(answer) != right))
        measured(10, "wrong", int(essence(answer) != right))


@row(10)
@pytest.mark.parametrize(("path", "body", "step"), [("/api/generate", GENERATE, 3), ("/api/embed", EMBED, 11)])
async def test_an_entry_with_any_byte_changed_or_cut_off_is_a_miss(  # noqa: PLR0917 - fixtures
    path: str, body: dict[str, Any], step: int, measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    """Places a step apart, in another order each time, and every one of the first hundred."""
    draw = random.Random(10)
    async with proxy_before(simulator.url, redis_url=server.url) as proxy, await RawConnection.open(proxy.url) as one:

        async def asked() -> RawAnswer:
            one.send("POST", path, body=json.dumps(body).encode())
            answer = await one.answer()
            await proxy.kept()
            return answer

        right = essence(await asked())
        client = server.client()
        (name,) = client.keys("ocp:1:e:*")
        value = bytes(client.get(name))
        places = sorted({*range(100), *range(draw.randrange(step), len(value), step), len(value) - 1})
        wrong = 0
        for place in places:
            flipped = value[:place] + bytes([value[place] ^ 1 << draw.randrange(8)]) + value[place + 1 :]
            for damaged in (flipped, value[:place]):
                client.set(name, damaged)
                answer = await asked()
                wrong += (answer.status, answer.field("X-Cache"), essence(answer)) != (200, "MISS", right)
        measured(10, "wrong", wrong)
        metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
        assert f'ollama_cache_proxy_store_faults_total{{kind="damaged"}} {2.0 * len(places)}' in metrics


@row(10)
@pytest.mark.parametrize("kind", ["list", "hash", "set", "sorted set", "stream"])
async def test_a_generation_of_a_foreign_type_is_begun_anew(
    kind: str, server: RedisServer, simulator: Simulator
) -> None:
    """Nothing ended it once, not even a clear."""
    client = server.client()
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        for clears in (False, True):
            await generate(proxy)
            client.delete("ocp:1:generation")
            FOREIGN[kind](client, "ocp:1:generation")
            if clears:
                assert (await ask(proxy.url, "POST", "/api/cache/clear")).status == 200
            answers = [await generate(proxy) for _ in range(2)]
            assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT"]


@row(10, 29)
@pytest.mark.parametrize("value", [b"", b"x", b"\xff\x00:*\r\n" * 100], ids=["empty", "text", "bytes"])
async def test_a_generation_that_is_none_of_ours_revives_nothing(
    value: bytes, measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    """Kept as it was, it once brought back what had been kept under it before a clear."""
    client = server.client()
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        found = []
        for _ in range(2):
            client.set("ocp:1:generation", value)
            found += [(await generate(proxy)).field("X-Cache") for _ in range(2)]
            assert (await ask(proxy.url, "POST", "/api/cache/clear")).status == 200
        measured(29, "revived", int(found[2] == "HIT"))
        assert found == ["MISS", "HIT"] * 2


@row(10)
async def test_an_entry_under_anothers_name_is_no_answer(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        await generate(proxy, "one")
        await proxy.kept()
        (one,) = server.client().keys("ocp:1:e:*")
        right = essence(await generate(proxy, "other"))
        await proxy.kept()
        (other,) = set(server.client().keys("ocp:1:e:*")) - {one}
        server.client().set(other, server.client().get(one))
        answer = await generate(proxy, "other")
        assert answer.field("X-Cache") == "MISS"
        measured(10, "wrong", int(essence(answer) != right))


ENTRY = replace(entries.ENTRY, fields=((b"Content-Type", b"application/json"),), body=b"", lifetime=3600)


@row(11)
async def test_lookups_that_are_cancelled_leave_nothing_for_the_next(measured: Measured, server: RedisServer) -> None:
    """36,000 lookups over shared connections, many of them cancelled at some point: a reply that stays unread there
    would be the next one's answer.
    """
    draw = random.Random(11)
    clock, tasks = SystemClock(), Tasks()
    reached = RedisClient(redis_address(server.url))
    store = RedisStore(
        reached, name="Redis", clock=clock, observe=lambda _: None, tasks=tasks, codec=PlainCodec()
    ).entries
    keys = [f"{number:064x}" for number in range(100)]
    generation = (await store.get(keys[0])).generation or ""
    await store.put([(key, replace(ENTRY, body=key.encode(), stored_at=clock.now())) for key in keys], generation)
    wrong = ended = cancelled = 0

    async def client() -> None:
        nonlocal wrong, ended, cancelled
        for _ in range(720):
            wanted = draw.sample(keys, draw.choice((1, 1, 5)))
            looking = asyncio.create_task(store.get_many(wanted))
            if draw.random() < 0.4:
                for _ in range(draw.randrange(4)):  # turns of the loop
                    await asyncio.sleep(0)
                looking.cancel()
            await asyncio.wait([looking])
            if looking.cancelled():
                cancelled += 1
                continue
            ended += 1
            found = looking.result()
            bodies = [entry.body.decode() if entry else None for entry in found.entries]
            wrong += any(body not in (key, None) for body, key in zip(bodies, wanted, strict=True))

    try:
        await asyncio.gather(*(client() for _ in range(50)))
    finally:
        await tasks.close(1)
        await reached.close()
    measured(11, "wrong", wrong)
    assert ended + cancelled == 36_000
    assert min(ended, cancelled) > 1000


@row(11)
async def test_clients_that_leave_at_some_point_leave_nothing_for_the_next(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    """Half of 2,000 leave; every answer that comes has to be that of its own question."""
    draw = random.Random(12)
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        right = {prompt: essence(await generate(proxy, prompt)) for prompt in map(str, range(40))}
        wrong = left = 0

        async def client() -> None:
            nonlocal wrong, left
            for _ in range(100):
                prompt = draw.choice(list(right))
                body = json.dumps(GENERATE | {"prompt": prompt, "x": draw.randrange(3)}).encode()
                async with await RawConnection.open(proxy.url) as connection:
                    connection.send("POST", "/api/generate", body=body)
                    if draw.random() < 0.5:
                        left += 1
                        await asyncio.sleep(draw.random() * 0.02)
                        connection.writer.transport.abort()
                        continue
                    wrong += essence(await connection.answer()) != right[prompt]

        await asyncio.gather(*(client() for _ in range(20)))
        measured(11, "wrong", wrong)
        assert 500 < left < 1500


@row(26)
async def test_what_was_under_way_at_a_clear_is_not_found_after_it(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    stale = 0
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        for turn in range(20):
            prompts = [f"{canary.PROMPT} {turn} {number}" for number in range(10)]
            for prompt in prompts[:5]:
                await generate(proxy, prompt)
            simulator.gate.close()
            asking = [asyncio.create_task(generate(proxy, prompt)) for prompt in prompts[5:]]
            await until(lambda: proxy.running.exchanges.waiting == 5)
            clearing = asyncio.create_task(ask(proxy.url, "POST", "/api/cache/clear"))
            if turn % 2:
                await clearing
            simulator.gate.open()
            cleared = await clearing
            if turn % 2:  # else a clear and answers race: what is kept after the clear is no staleness
                await asyncio.gather(*asking)
            assert cleared.status == 200
            known = prompts if turn % 2 else prompts[:5]
            stale += sum([(await generate(proxy, prompt)).field("X-Cache") == "HIT" for prompt in known])
            await asyncio.gather(*asking)
        measured(26, "stale", stale)


@row(29)
async def test_when_everything_is_evicted_nothing_that_was_cleared_comes_back(
    measured: Measured, simulator: Simulator
) -> None:
    own = RedisServer("--maxmemory", "6mb", "--maxmemory-policy", "allkeys-lru")
    own.start()
    try:
        async with proxy_before(simulator.url, redis_url=own.url) as proxy:
            client = own.client()
            prompts = [f"{canary.PROMPT} {number}" for number in range(20)]
            for prompt in prompts * 2:
                await generate(proxy, prompt)
            cleared = {name: client.dump(name) for name in client.keys("ocp:1:e:*")}
            assert (await ask(proxy.url, "POST", "/api/cache/clear")).status == 200
            before = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
            number = 0
            while client.keys("ocp:1:*"):
                client.set(f"other {number}", "x" * 100_000)
                number += 1
            for name, value in cleared.items():  # as if the eviction had spared them
                client.restore(name, 0, value, replace=True)
            answers = [await generate(proxy, prompt) for prompt in prompts]
            measured(29, "revived", sum(answer.field("X-Cache") == "HIT" for answer in answers))
            assert {answer.status for answer in answers} == {200}
            after = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
            assert (after["hits"], after["misses"]) == (before["hits"], before["misses"] + 20)
    finally:
        own.close()
