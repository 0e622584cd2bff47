"""The audit: wrong entries are found, right ones are not, and no client notices it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ollama_cache_proxy.core import audit, fast_path
from ollama_cache_proxy.core.audit_checks import MAX_ASKED
from ollama_cache_proxy.core.audit_stays import Stays
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.simulator import Behaviour, Fault, Simulator, complete, embed
from tests.support.rawhttp import RawAnswer, RawConnection, ask, request_bytes
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

STILL = Behaviour(completion_delay=0, embedding_delay=0)
OTHER = replace(STILL, seed=1)
"""Says something else to everything."""
EMBED = {"model": "all-minilm", "input": "a"}
LIST = {"model": "all-minilm", "input": ["a", "b", "c", "a"]}
EMBEDDINGS = {"model": "all-minilm", "prompt": "a"}
GREEDY = {"model": "tiny", "prompt": "why", "stream": False, "options": {"temperature": 0}}
ROUTES: dict[str, dict[str, Any]] = {
    "/api/embed": EMBED,
    "/api/embeddings": EMBEDDINGS,
    "/v1/embeddings": EMBED,
}


async def post(proxy: Proxy, path: str, body: Any, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(proxy.url, "POST", path, body=json.dumps(body).encode(), fields=named)


async def hit(proxy: Proxy, path: str, body: Any, **fields: str) -> RawAnswer:
    answer = await post(proxy, path, body, **fields)
    assert answer.field("X-Cache") == "HIT"
    return answer


async def told(proxy: Proxy) -> dict[str, int]:
    """Return the audit's figures."""
    found: dict[str, int] = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["audit"]
    return found


def outcomes(proxy: Proxy) -> dict[str, float]:
    """Return how many hits had which outcome."""
    return {
        sample.labels["outcome"]: sample.value
        for family in proxy.running.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "ollama_cache_proxy_audited_total"
    }


@pytest.fixture
async def ollama() -> AsyncIterator[Simulator]:
    async with Simulator(STILL) as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check every hit, also of an entry that was just checked."""
    monkeypatch.setattr(audit, "CHECKED_FOR", 0.0)
    monkeypatch.setattr(audit, "QUIET", 0.1)


@pytest.fixture
async def audited(ollama: Simulator) -> AsyncIterator[Proxy]:
    async with proxy_before(ollama.url, audit="100%") as proxy:
        yield proxy


@pytest.mark.parametrize("path", ROUTES)
async def test_a_wrong_vector_is_found_counted_and_deleted(path: str, audited: Proxy, ollama: Simulator) -> None:
    await post(audited, path, ROUTES[path])
    await audited.kept()
    await hit(audited, path, ROUTES[path])
    await until(lambda: outcomes(audited).get("same"))
    ollama.behaviour = OTHER
    await hit(audited, path, ROUTES[path])
    await until(lambda: outcomes(audited).get("wrong"))
    assert (await post(audited, path, ROUTES[path])).field("X-Cache") == "MISS"
    figures = await told(audited)
    assert (figures["checked"], figures["wrong"]) == (2, 1)
    lines = [line for line in audited.log.getvalue().splitlines() if "WRONG" in line]
    assert len(lines) == 1
    assert "all-minilm" in lines[0]


async def test_of_a_list_the_wrong_texts_go_and_the_others_stay(audited: Proxy, ollama: Simulator) -> None:
    await post(audited, "/api/embed", {"model": "all-minilm", "input": ["b"]})
    ollama.behaviour = OTHER
    await post(audited, "/api/embed", LIST)
    await audited.kept()
    await until(lambda: outcomes(audited).get("wrong"))  # a part of a list is a hit as well
    await hit(audited, "/api/embed", {"model": "all-minilm", "input": ["a", "c"]})
    assert (await post(audited, "/api/embed", {"model": "all-minilm", "input": ["b"]})).field("X-Cache") == "MISS"
    assert outcomes(audited)["wrong"] == 1


async def test_completions_are_audited_by_a_setting_of_their_own(ollama: Simulator) -> None:
    for on in (False, True):
        ollama.behaviour = STILL
        async with proxy_before(ollama.url, audit="100%", audit_completions=on) as proxy:
            sampled = GREEDY | {"options": {"temperature": 0.5}}
            for body in (GREEDY, sampled):
                await post(proxy, "/api/generate", body)
                await proxy.kept()
            ollama.behaviour = OTHER
            asked = ollama.inferences
            for body in (GREEDY, sampled):
                await hit(proxy, "/api/generate", body)
            if on:
                await until(lambda: outcomes(proxy).get("wrong"))
                assert (await post(proxy, "/api/generate", GREEDY)).field("X-Cache") == "MISS"
            assert (await hit(proxy, "/api/generate", sampled)).status == 200
            assert ollama.inferences == asked + 3 * on
            assert (await told(proxy))["wrong"] == on


async def test_an_equal_completion_is_the_same_whatever_its_times_say(ollama: Simulator) -> None:
    async with proxy_before(ollama.url, audit="100%", audit_completions=True, cache_streams=True) as proxy:
        for body in (GREEDY, GREEDY | {"stream": True}):
            await post(proxy, "/api/generate", body)
            await proxy.kept()
            await hit(proxy, "/api/generate", body)
        await until(lambda: outcomes(proxy).get("same") == 2)


async def test_hits_of_the_fast_path_are_drawn_too(ollama: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy_before(ollama.url, audit="10%", log_requests="off") as proxy:
        taken = []
        real = proxy.running.exchanges.fast_path.answer
        monkeypatch.setattr(
            proxy.running.exchanges.fast_path, "answer", lambda raw: taken.append(found := real(raw)) or found
        )
        sent = request_bytes("POST", "/api/embeddings", host="localhost", body=json.dumps(EMBEDDINGS).encode())
        async with await RawConnection.open(proxy.url) as connection:
            for _ in range(400):
                connection.writer.write(sent)
                assert (await connection.answer()).status == 200
        await until(lambda: outcomes(proxy).get("same", 0) >= 1)
        drawn = 400 - sum(found is not None for found in taken)
        assert 15 < drawn < 90
        text = (await ask(proxy.url, "GET", "/metrics")).body.decode()
        assert 'ollama_cache_proxy_hits_total{endpoint="embeddings"} 399.0' in text


async def test_each_text_of_a_long_list_is_asked_for_alone(audited: Proxy, ollama: Simulator) -> None:
    """A client that comes may have to wait for what Ollama has begun: that is one text."""
    texts = [f"text {number}" for number in range(19)]
    await post(audited, "/api/embed", {"model": "all-minilm", "input": texts})
    await audited.kept()
    ollama.behaviour, asked = OTHER, len(ollama.received)
    await hit(audited, "/v1/embeddings", {"model": "all-minilm", "input": texts, "encoding_format": "base64"})
    await until(lambda: outcomes(audited).get("wrong") == len(texts))
    sent = [json.loads(one.body) for one in ollama.received[asked:] if one.target == "/v1/embeddings"]
    assert sorted(one["input"] for one in sent) == sorted([text] for text in texts for _ in range(2))
    await until(lambda: not audited.running.store._entries)


@pytest.mark.parametrize("texts", [["b" * audit.LONG], ["b" * audit.LONG, "a"]])
async def test_a_long_text_is_asked_for_after_a_longer_pause(
    texts: list[str], audited: Proxy, ollama: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short ones do not wait for it."""
    body = EMBED | {"input": texts}
    await post(audited, "/api/embed", body)
    await audited.kept()
    await hit(audited, "/api/embed", body)
    await until(lambda: outcomes(audited).get("same", 0) == len(texts) - 1)
    await asyncio.sleep(5 * audit.LOOK)
    assert len(audited.running.exchanges._audit._waiting) == 1
    monkeypatch.setattr(audit, "LONG_QUIET", 0.1)
    await until(lambda: outcomes(audited).get("same") == len(texts))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", EMBED | {"input": "b" * MAX_ASKED}),
        ("/api/embed", EMBED | {"input": ["b" * MAX_ASKED]}),
        ("/api/generate", GREEDY | {"prompt": "b" * MAX_ASKED}),
    ],
)
async def test_one_that_is_too_long_is_not_asked_for(path: str, body: dict[str, Any], ollama: Simulator) -> None:
    async with proxy_before(ollama.url, audit="100%", audit_completions=True) as proxy:
        await post(proxy, path, body)
        await proxy.kept()
        await hit(proxy, path, body)
        await until(lambda: outcomes(proxy).get("too-large") == 1)
        assert ollama.inferences == 1


@pytest.mark.parametrize("lines", ["on", "off"])
async def test_an_entry_that_was_just_checked_is_drawn_again_a_while_later(
    lines: str, ollama: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the fast path serves it meanwhile, and whether or not each hit has a line in the log."""
    monkeypatch.setattr(audit, "CHECKED_FOR", 0.3)
    monkeypatch.setattr(fast_path, "REPORT_EVERY", 0.05)
    async with proxy_before(ollama.url, audit="100%", log_requests=lines) as proxy:
        await post(proxy, "/api/embeddings", EMBEDDINGS)
        await proxy.kept()
        sent = request_bytes("POST", "/api/embeddings", host="localhost", body=json.dumps(EMBEDDINGS).encode())
        async with asyncio.timeout(10), await RawConnection.open(proxy.url) as connection:
            while outcomes(proxy).get("same", 0) < 3:
                connection.writer.write(sent)
                assert (await connection.answer()).field("X-Cache") == "HIT"
                await asyncio.sleep(0.001)


async def test_what_an_ollama_with_another_context_says_looks_like_that(
    audited: Proxy, ollama: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await post(audited, "/api/embed", EMBED)
    await audited.kept()
    await hit(audited, "/api/embed", EMBED)
    await until(lambda: outcomes(audited).get("same"))
    for module in (complete, embed):  # it restarts
        monkeypatch.setattr(module, "context_length", lambda *_: 64)
    ollama.behaviour = OTHER
    ollama.residence.unload(ollama.residence.loaded()[0].model)
    assert (await ask(ollama.url, "POST", "/api/embed", body=json.dumps(EMBED).encode())).status == 200
    await hit(audited, "/api/embed", EMBED)
    await until(lambda: outcomes(audited).get("wrong"))
    assert "it looks like another context length (OLLAMA_CONTEXT_LENGTH)" in audited.log.getvalue()


# What is no difference.


async def test_what_ollama_says_otherwise_each_time_is_not_reproducible_and_stays(
    audited: Proxy, ollama: Simulator
) -> None:
    await post(audited, "/api/embed", EMBED)
    await audited.kept()

    def differ(_: object) -> None:
        ollama.behaviour = replace(STILL, seed=ollama.inferences + 5)

    ollama.fault = differ
    await hit(audited, "/api/embed", EMBED)
    await until(lambda: outcomes(audited).get("not-reproducible"))
    await hit(audited, "/api/embed", EMBED)
    assert (await told(audited))["wrong"] == 0


async def test_a_model_that_was_replaced_meanwhile_is_no_difference(audited: Proxy, ollama: Simulator) -> None:
    await post(audited, "/api/embed", EMBED)
    await audited.kept()
    ollama.gate.close()
    other = asyncio.ensure_future(post(audited, "/api/generate", GREEDY))  # the audit has to wait for it
    await ollama.arrived(2)
    await hit(audited, "/api/embed", EMBED)
    source = {"source": "tiny", "destination": "all-minilm"}
    assert (await ask(ollama.url, "POST", "/api/copy", body=json.dumps(source).encode())).status == 200
    ollama.gate.open()
    assert (await other).status == 200
    await post(audited, "/api/embed", EMBED)
    await until(lambda: not audited.running.exchanges._audit._waiting)
    assert (await told(audited))["wrong"] == 0


@pytest.mark.parametrize("fault", [Fault.STATUS_500, Fault.JUNK, Fault.REFUSE, Fault.RESET_MID_BODY])
async def test_an_error_of_ollama_is_no_difference(fault: Fault, audited: Proxy, ollama: Simulator) -> None:
    await post(audited, "/api/embed", EMBED)
    await audited.kept()
    ollama.fault = lambda received: fault if received.target == "/api/embed" else None
    await hit(audited, "/api/embed", EMBED)
    await until(lambda: outcomes(audited).get("failed"))
    ollama.fault = None
    await hit(audited, "/api/embed", EMBED)
    assert (await told(audited))["wrong"] == 0


# What nobody notices.


async def test_the_audit_waits_until_no_request_is_under_way(audited: Proxy, ollama: Simulator) -> None:
    await post(audited, "/api/embed", EMBED)
    await audited.kept()
    ollama.gate.close()
    chat = asyncio.ensure_future(post(audited, "/api/generate", GREEDY))
    await ollama.arrived(2)
    await hit(audited, "/api/embed", EMBED)
    await asyncio.sleep(3 * audit.LOOK)
    assert ollama.inferences == 2
    ollama.gate.open()
    await chat
    await until(lambda: outcomes(audited).get("same"))
    assert ollama.inferences == 3


async def test_a_request_that_comes_cancels_it_and_it_is_done_later(audited: Proxy, ollama: Simulator) -> None:
    await post(audited, "/api/embed", EMBED)
    await audited.kept()
    ollama.gate.close()
    await hit(audited, "/api/embed", EMBED)
    await ollama.arrived(2)  # the audit's
    chat = asyncio.ensure_future(post(audited, "/api/generate", GREEDY))
    await ollama.departed(1)
    ollama.gate.open()
    assert (await chat).status == 200
    await until(lambda: outcomes(audited).get("same"))
    assert ollama.cancelled == 1


async def test_a_model_that_is_not_loaded_is_not_asked(
    audited: Proxy, ollama: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await post(audited, "/api/embed", EMBED)
    await audited.kept()
    ollama.residence.unload(ollama.residence.loaded()[0].model)
    await hit(audited, "/api/embed", EMBED)
    await until(lambda: any(request.target == "/api/ps" for request in ollama.received))
    assert ollama.inferences == 1
    monkeypatch.setattr(audit, "KEPT", 0.01)
    await until(lambda: outcomes(audited).get("late"))
    assert not audited.running.exchanges._audit._waiting
    assert ollama.inferences == 1


async def test_one_that_would_have_to_be_loaded_anew_is_not_asked(audited: Proxy, ollama: Simulator) -> None:
    await post(audited, "/api/embed", EMBED)
    await post(audited, "/api/embed", EMBED | {"input": "b", "options": {"num_ctx": 64}})
    await audited.kept()
    await hit(audited, "/api/embed", EMBED)
    await until(lambda: len(audited.running.exchanges._audit._waiting) == 1)
    await asyncio.sleep(5 * audit.LOOK)
    assert ollama.inferences == 2
    await post(audited, "/api/embed", EMBED | {"input": "c"})
    await until(lambda: outcomes(audited).get("same"))


async def test_there_is_no_hit_miss_or_saving_in_it_and_no_entry_is_used(ollama: Simulator) -> None:
    async with proxy_before(ollama.url, audit="100%") as proxy:
        for text in ("a", "b"):
            await post(proxy, "/api/embed", EMBED | {"input": text})
        await proxy.kept()
        await hit(proxy, "/api/embed", EMBED)
        order = list(proxy.running.store._entries)
        before = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        await until(lambda: outcomes(proxy).get("same"))
        after = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert list(proxy.running.store._entries) == order
        assert {name: before[name] for name in ("hits", "misses", "savedSeconds", "byModel")} == {
            name: after[name] for name in ("hits", "misses", "savedSeconds", "byModel")
        }
        assert (proxy.running.metrics.hits, proxy.running.metrics.misses) == (1, 2)
        assert after["audit"]["checked"] == 1


async def test_ollama_gets_the_clients_credentials_and_no_keep_alive(audited: Proxy, ollama: Simulator) -> None:
    body = EMBEDDINGS | {"keep_alive": "7m"}
    await post(audited, "/api/embeddings", body, Authorization="Bearer one")
    await audited.kept()
    await hit(audited, "/api/embeddings", body, Authorization="Bearer one", Accept_Encoding="gzip")
    await until(lambda: outcomes(audited).get("same"))
    sent = [request for request in ollama.received if request.target == "/api/embeddings"][-1]
    named = {name.lower(): value for name, value in sent.fields}
    assert named[b"authorization"] == b"Bearer one"
    assert b"accept-encoding" not in named
    assert json.loads(sent.body) == EMBEDDINGS
    assert "Bearer one" not in repr(audited.running.exchanges._audit.__dict__)


async def test_what_is_kept_is_bounded_and_dropped_in_time(
    audited: Proxy, ollama: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_CHECKS", 3)
    bodies = [EMBEDDINGS | {"prompt": f"text {number}"} for number in range(6)]
    for body in bodies:
        await post(audited, "/api/embeddings", body)
    await audited.kept()
    ollama.gate.close()
    other = asyncio.ensure_future(post(audited, "/api/generate", GREEDY))
    await ollama.arrived(7)
    for body in bodies:
        await hit(audited, "/api/embeddings", body)
    assert outcomes(audited)["full"] == 3
    assert 0 < audited.running.exchanges._audit._size < 3 * 16 * 1024
    monkeypatch.setattr(audit, "KEPT", 0.0)
    await until(lambda: outcomes(audited).get("late") == 3)
    assert audited.running.exchanges._audit._size == 0
    assert not audited.running.exchanges._audit._waiting
    ollama.gate.open()
    await other


# What goes, and what stays.


async def test_only_the_entry_of_its_namespace_goes(audited: Proxy, ollama: Simulator) -> None:
    await post(audited, "/api/embed", EMBED, X_Cache_Namespace="one")
    ollama.behaviour = OTHER
    await post(audited, "/api/embed", EMBED, X_Cache_Namespace="two")
    await audited.kept()
    await hit(audited, "/api/embed", EMBED, X_Cache_Namespace="one")
    await until(lambda: outcomes(audited).get("wrong"))
    await hit(audited, "/api/embed", EMBED, X_Cache_Namespace="two")
    assert (await post(audited, "/api/embed", EMBED, X_Cache_Namespace="one")).field("X-Cache") == "MISS"


async def test_what_was_cleared_meanwhile_stays_cleared_and_what_is_newer_stays(
    audited: Proxy, ollama: Simulator
) -> None:
    await post(audited, "/api/embed", EMBED)
    await audited.kept()
    ollama.behaviour = OTHER
    ollama.gate.close()
    await hit(audited, "/api/embed", EMBED)
    await ollama.arrived(2)
    assert (await ask(audited.url, "POST", "/api/cache/clear")).status == 200
    again = asyncio.ensure_future(post(audited, "/api/embed", EMBED))
    await ollama.arrived(3)
    ollama.gate.open()
    assert (await again).field("X-Cache") == "MISS"
    await until(lambda: outcomes(audited).get("wrong"))
    await hit(audited, "/api/embed", EMBED)


@pytest.mark.parametrize("path", ["/api/embed", "/api/generate"])
async def test_a_newer_entry_under_the_key_of_a_wrong_one_stays(path: str, ollama: Simulator) -> None:
    body = EMBED if path == "/api/embed" else GREEDY
    async with proxy_before(ollama.url, audit="100%", audit_completions=True) as proxy:
        await post(proxy, path, body)
        await proxy.kept()
        ollama.behaviour = OTHER
        ollama.gate.close()
        await hit(proxy, path, body)
        await ollama.arrived(2)
        again = asyncio.ensure_future(post(proxy, path, body, Cache_Control="no-cache"))
        await ollama.arrived(3)
        ollama.gate.open()
        assert (await again).field("X-Cache") != "HIT"
        await proxy.kept()
        await until(lambda: outcomes(proxy).get("wrong"))
        await hit(proxy, path, body)


async def test_no_store_and_other_bypasses_are_not_audited(audited: Proxy, ollama: Simulator) -> None:
    for _ in range(2):
        await post(audited, "/api/embed", EMBED, Cache_Control="no-store")
    assert audited.running.exchanges._audit._work is None
    assert ollama.inferences == 2


async def test_an_entry_goes_from_redis_and_from_every_hot_tier(ollama: Simulator, redis_server: RedisServer) -> None:
    settings = {"redis_url": redis_server.url, "audit": "100%", "audit_completions": True}
    async with (
        proxy_before(ollama.url, **settings) as proxy,
        proxy_before(ollama.url, **settings | {"audit": "off"}) as other,
    ):
        await post(proxy, "/api/generate", GREEDY)
        await proxy.kept()
        for one in (proxy, other, other):
            await hit(one, "/api/generate", GREEDY)
        await until(lambda: outcomes(proxy).get("same"))
        ollama.behaviour = OTHER
        await hit(proxy, "/api/generate", GREEDY)
        await until(lambda: outcomes(proxy).get("wrong"))
        fresh = await post(other, "/api/generate", GREEDY)
        assert fresh.field("X-Cache") == "MISS"
        await other.kept()
        assert (await hit(proxy, "/api/generate", GREEDY)).body == fresh.body


async def test_without_the_setting_nothing_is_audited_or_told(ollama: Simulator) -> None:
    async with proxy_before(ollama.url) as proxy:
        await post(proxy, "/api/embed", EMBED)
        await proxy.kept()
        await hit(proxy, "/api/embed", EMBED)
        assert await told(proxy) is None
        assert ollama.inferences == 1


# How long a model stays loaded.


async def test_a_model_leaves_when_it_would_have_without_the_audit(audited: Proxy, ollama: Simulator) -> None:
    body = EMBED | {"keep_alive": "3s"}
    await post(audited, "/api/embed", body)
    await audited.kept()
    (resident,) = ollama.residence.loaded()
    natural, keep_alive = resident.expires, resident.keep_alive
    await asyncio.sleep(1)  # a slow machine has that much longer to unload it before Ollama does
    await hit(audited, "/api/embed", body)
    await until(lambda: outcomes(audited).get("same"))
    assert resident.expires > natural
    assert resident.keep_alive == keep_alive
    await until(lambda: not ollama.residence.loaded(), 30)
    assert natural <= time.time_ns()
    unloads = [request for request in ollama.received if request.target == "/api/generate"]
    assert [json.loads(request.body)["keep_alive"] for request in unloads] == [0]


async def test_a_time_of_expiry_that_is_set_after_the_response_is_waited_for() -> None:
    clock, tasks, unloaded = SystemClock(), Tasks(), []
    identity: Any = SimpleNamespace(digest="sha256:0")
    natural = clock.now() + 0.3
    told = [natural, natural, natural + 600, natural + 600.01]

    class Loaded:
        async def loaded(self, _: object) -> Any:
            return SimpleNamespace(expires=told.pop(0) if len(told) > 1 else told[0])

        async def unload(self, _: object) -> None:
            unloaded.append(clock.now())

    async def quiet() -> bool:
        return True

    runners: Any = Loaded()
    stays = Stays(runners, quiet, clock=clock, tasks=tasks)
    assert stays.may_ask(identity, await runners.loaded(identity))
    await stays.asked(identity)
    await until(lambda: unloaded)
    assert unloaded[0] >= natural
    await tasks.close(0)


async def test_one_that_somebody_has_used_since_stays(audited: Proxy, ollama: Simulator) -> None:
    body = EMBED | {"keep_alive": "3s"}
    await post(audited, "/api/embed", body)
    await audited.kept()
    (resident,) = ollama.residence.loaded()
    natural = resident.expires
    await hit(audited, "/api/embed", body)
    await until(lambda: outcomes(audited).get("same"))
    used = await ask(ollama.url, "POST", "/api/embed", body=json.dumps(EMBED | {"keep_alive": "9m"}).encode())
    assert used.status == 200
    await until(lambda: time.time_ns() > natural + 300_000_000)
    assert ollama.residence.loaded() == [resident]
    assert not [request for request in ollama.received if request.target == "/api/generate"]
