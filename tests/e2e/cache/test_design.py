"""The rules of docs/design.md, end to end, section by section: those that no other test would miss.

The clock of the proxy is set forward where time has to pass; whatever happens at once is held by a barrier.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias, cast

import pytest

from ollama_cache_proxy.simulator import Behaviour, Fault, Received, Simulator
from ollama_cache_proxy.stores.redis import generation
from ollama_cache_proxy.stores.redis.key_layout import GENERATION
from ollama_cache_proxy.upstream import digests
from tests.support import upstream as upstream_module
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.upstream import Conversation, answering, byte_upstream, whole
from tests.support.waiting import until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "why", "stream": False}
EMBED: dict[str, Any] = {"model": "all-minilm", "input": ["a", "b"]}
ROUTES: dict[str, dict[str, Any]] = {
    "/api/generate": GENERATE,
    "/api/embed": EMBED,
    "/api/embeddings": {"model": "all-minilm", "prompt": "a"},
    "/v1/embeddings": {"model": "all-minilm", "input": "a"},
}
DONE = b'{"model":"tiny","response":"x","done":true,"done_reason":"stop"}'


async def post(url: str, path: str, body: Any, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", path, body=json.dumps(body).encode(), fields=named)


async def generate(proxy: Proxy, **change: Any) -> RawAnswer:
    return await post(proxy.url, "/api/generate", GENERATE | change)


def asking(proxy: Proxy, path: str = "/api/generate", **fields: str) -> asyncio.Task[RawAnswer]:
    """Ask and do not wait for the answer."""
    return asyncio.create_task(post(proxy.url, path, ROUTES[path], **fields))


async def stats(proxy: Proxy) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
    return found


async def keys(proxy: Proxy) -> int:
    return int((await stats(proxy))["keys"])


async def eventually(proxy: Proxy, count: int) -> None:
    """Wait until there are so many entries."""
    async with asyncio.timeout(10):
        while await keys(proxy) != count:  # noqa: ASYNC110 - it shows at a socket alone
            await asyncio.sleep(0.001)


def said(answer: RawAnswer) -> str:
    """What Cache-Status says behind the proxy's name."""
    return (answer.field("Cache-Status") or "").removeprefix("ollama-cache-proxy; ")


def later(proxy: Proxy, seconds: float) -> None:
    """Set the proxy's clock forward."""
    clock: Any = proxy.running.exchanges._clock
    now, monotonic = clock.now, clock.monotonic
    clock.now, clock.monotonic = lambda: now() + seconds, lambda: monotonic() + seconds


def looks(simulator: Simulator) -> int:
    """How often the table of models was asked for."""
    return sum(request.target == "/api/tags" for request in simulator.received)


def inferences(simulator: Simulator) -> list[str]:
    return [request.target for request in simulator.received if request.target in ROUTES]


# Candidate


@pytest.mark.parametrize(
    ("path", "body", "result"),
    [
        ("/api/generate", b' { "stream":false,\n"prompt":"\\u0077hy", "model" :"tiny","keep_alive":"5m"}\n', "MISS"),
        ("/api/embed", b'{"input" :["a" ],"x":1.50,"model":"all-minilm"}', "MISS"),
        ("/api/embeddings", b'{"prompt" :"a","model":"all-minilm"} ', "MISS"),
        ("/v1/embeddings", b'{"input" :"a","encoding_format":"float","model":"all-minilm"}', "MISS"),
        ("/api/generate", b' {"model":"tiny","model":"tiny","prompt":"a","stream":false}', "BYPASS"),
        ("/api/generate", b'{"MODEL":"tiny","prompt":"a","stream":false }', "BYPASS"),
        ("/api/generate", b'{"model":"tiny","prompt":"\\ud800","stream":false}', "BYPASS"),
        ("/api/generate", b'{"model":"tiny","prompt":"a","stream":false,"x":1e400}', "BYPASS"),
        ("/api/generate", b'\xef\xbb\xbf{"model":"tiny","prompt":"a","stream":false}', "BYPASS"),
        ("/api/generate", b'{"model":"tiny","prompt":"a","stream":false}{}', "BYPASS"),
        ("/api/generate", b'{"model":"tiny", "prompt":"a", "stream":false, "keep_alive":"x"}', "BYPASS"),
        ("/api/chat", b'{"stream" :false,"messages":[],"model":"tiny"}', "BYPASS"),
    ],
    ids=range(12),
)
async def test_what_is_asked_of_ollama_is_asked_byte_for_byte_and_answered_by_it(
    path: str, body: bytes, result: str, proxy: Proxy, simulator: Simulator
) -> None:
    direct = await ask(simulator.url, "POST", path, body=body)
    answer = await ask(proxy.url, "POST", path, body=body)
    assert answer.field("X-Cache") == result
    assert [request.body for request in simulator.received if request.target == path] == [body, body]
    assert answer.status == direct.status


# Key


async def test_an_answer_is_that_of_its_version_of_ollama_and_of_its_epoch(
    simulator: Simulator, redis_server: RedisServer
) -> None:
    newer = Behaviour(completion_delay=0, embedding_delay=0, version="0.25.0")
    async with (
        Simulator(newer) as updated,
        proxy_before(simulator.url, redis_url=redis_server.url) as first,
        proxy_before(simulator.url, redis_url=redis_server.url) as same,
        proxy_before(updated.url, redis_url=redis_server.url) as other,
        proxy_before(simulator.url, redis_url=redis_server.url, epoch="more context") as later_epoch,
    ):
        for path, body in ROUTES.items():
            await ask(first.url, "POST", "/api/cache/clear")
            results = []
            for proxy in (first, same, other, later_epoch):
                results.append((await post(proxy.url, path, body)).field("X-Cache"))
                await proxy.kept()
            assert results == ["MISS", "HIT", "MISS", "MISS"], path


async def test_an_origin_that_is_the_proxy_itself_counts_as_none(proxy: Proxy) -> None:
    await generate(proxy)
    own = await post(proxy.url, "/api/generate", GENERATE, Origin=proxy.url)
    assert own.field("X-Cache") == "HIT"


# Digest


def test_the_times_of_the_table_are_those_of_the_design() -> None:
    assert (digests.POLL, digests.STALE, digests.MAX_WAIT) == (5.0, 10.0, 1.0)


async def test_the_table_is_polled_while_candidates_arrive_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, simulator: Simulator
) -> None:
    monkeypatch.setattr(digests, "POLL", 0.001)
    await generate(proxy)
    await until(lambda: looks(simulator) > 3)
    later(proxy, 10.5)
    table: Any = proxy.running.exchanges._relay._models
    await until(lambda: table._timer is None)
    before = looks(simulator)
    await generate(proxy)
    await until(lambda: looks(simulator) > before + 3)


async def test_a_candidate_waits_for_a_fresh_table_where_it_is_older_than_ten_seconds(
    proxy: Proxy, simulator: Simulator
) -> None:
    before = await generate(proxy)
    simulator.models.replace("tiny")
    later(proxy, 5)
    assert (await generate(proxy)).field("X-Cache") == "HIT"
    later(proxy, 5.5)
    after = await generate(proxy)
    assert (after.field("X-Cache"), after.body == before.body) == ("MISS", False)


async def test_an_old_table_serves_on_while_ollama_cannot_be_reached(redis_server: RedisServer) -> None:
    async with Simulator(Behaviour(completion_delay=0)) as simulator:
        async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
            await generate(proxy)
            await simulator.stop()
            for _ in range(3):
                later(proxy, 60)
                assert (await generate(proxy)).field("X-Cache") == "HIT"


async def test_an_old_table_does_not_serve_on_where_ollama_answers_without_one(
    proxy: Proxy, simulator: Simulator
) -> None:
    await generate(proxy)
    simulator.fault = lambda seen: Fault.STATUS_500 if seen.target == "/api/tags" else None
    for _ in range(2):
        later(proxy, 10.5)
        assert said(await generate(proxy)) == "fwd=bypass; detail=no-digest"
    simulator.fault = None
    later(proxy, 10.5)
    assert (await generate(proxy)).field("X-Cache") == "HIT"


Change: TypeAlias = tuple[str, str, dict[str, str]]
CHANGES: list[Change] = [
    ("POST", "/api/pull", {"model": "tiny"}),
    ("POST", "/api/create", {"model": "tiny", "from": "other"}),
    ("POST", "/api/copy", {"source": "other", "destination": "TINY:latest"}),
    ("DELETE", "/api/delete", {"name": "tiny"}),
]
each_change = pytest.mark.parametrize("change", CHANGES, ids=["pull", "create", "copy", "delete"])


@each_change
async def test_while_a_change_passes_its_model_has_no_digest_and_others_have(change: Change) -> None:
    method, path, body = change
    may_end = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        if path.encode() in talk.request_line:
            await may_end.wait()
        vector = b'{"embedding":[1]}'
        await talk.write(whole(vector if b"embeddings" in talk.request_line else DONE))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        assert (await generate(proxy)).field("X-Cache") == "MISS"
        assert (await asking(proxy, "/api/embeddings")).field("X-Cache") == "MISS"
        await eventually(proxy, 2)
        models: Any = proxy.running.exchanges._relay._models
        await models._probe_after_change()  # which confirms both entries
        passing = asyncio.create_task(ask(proxy.url, method, path, body=json.dumps(body).encode()))
        await until(lambda: len(upstream.seen) == 3)
        for _ in range(2):
            assert said(await generate(proxy)) == "fwd=bypass; detail=no-digest"
        assert (await asking(proxy, "/api/embeddings")).field("X-Cache") == "HIT"
        may_end.set()
        assert (await passing).status == 200
        assert (await generate(proxy)).field("X-Cache") == "HIT", "the digest is the one that it was"


@each_change
@pytest.mark.parametrize("fault", [Fault.STATUS_500, Fault.RESET_MID_BODY, Fault.REFUSE, Fault.HANG])
async def test_a_change_that_ended_badly_is_looked_at_all_the_same(
    change: Change, fault: Fault, proxy: Proxy, simulator: Simulator
) -> None:
    """Ollama may have done what it was asked for, whatever it said; with HANG it is the client that leaves."""
    method, path, body = change

    def done_all_the_same(seen: Received) -> Fault | None:
        if seen.target != path:
            return None
        simulator.models.replace("tiny")
        return fault

    before = await generate(proxy)
    assert (await generate(proxy)).field("X-Cache") == "HIT"
    simulator.fault = done_all_the_same
    async with await RawConnection.open(proxy.url) as connection:
        connection.send(method, path, body=json.dumps(body).encode())
        if fault is Fault.HANG:
            await until(lambda: any(seen.target == path for seen in simulator.received))
            connection.close()
            await simulator.departed(1)
        else:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await connection.answer()
    after = await generate(proxy)
    assert after.field("X-Cache") != "HIT"
    assert after.body != before.body
    async with asyncio.timeout(10):
        while (await generate(proxy)).field("X-Cache") != "HIT":
            pass


async def test_a_pull_that_brought_something_new_is_seen_at_once(proxy: Proxy, simulator: Simulator) -> None:
    before = await generate(proxy)
    simulator.models.publish("tiny")
    assert (await post(proxy.url, "/api/pull", {"model": "tiny"})).status == 200
    after = await generate(proxy)
    assert (after.field("X-Cache"), after.body == before.body) == ("MISS", False)


class Held:
    """Holds looks at the models back after Ollama has answered them, so that they tell what was so before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self._may_end: list[asyncio.Event] = []
        real = digests.OllamaModels._get

        async def get(own: digests.OllamaModels, path: str) -> Any:
            answer = await real(own, path)
            if path == "/api/tags" and self.begun < len(self._may_end):
                self.begun += 1
                await self._may_end[self.begun - 1].wait()
            return answer

        monkeypatch.setattr(digests.OllamaModels, "_get", get)
        monkeypatch.setattr(digests, "MAX_WAIT", 10.0)

    def next(self) -> asyncio.Event:
        """Hold one look more; it ends when the event is set."""
        self._may_end.append(asyncio.Event())
        return self._may_end[-1]


async def test_a_look_that_began_before_a_change_ended_does_not_count(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, simulator: Simulator
) -> None:
    held = Held(monkeypatch)
    before = await generate(proxy)
    first, second = held.next(), held.next()
    looking = asyncio.create_task(generate(proxy, model="absent"))
    await until(lambda: held.begun == 1)
    await post(proxy.url, "/api/create", {"model": "tiny", "from": "tiny2", "stream": False})
    first.set()
    await until(lambda: held.begun == 2)
    task = asking(proxy)
    table: Any = proxy.running.exchanges._relay._models
    await until(lambda: task.done() or table._changed_since_probe("registry.ollama.ai/library/tiny:latest"))
    second.set()
    after = await task
    assert (after.field("X-Cache"), after.body == before.body) == ("MISS", False)
    await looking


async def test_an_entry_is_confirmed_only_by_a_look_that_began_after_its_answer(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, simulator: Simulator
) -> None:
    """The model is replaced behind the proxy's back between the table and the answer."""
    held = Held(monkeypatch)
    await generate(proxy, model="tiny2")
    early = held.next()
    looking = asyncio.create_task(generate(proxy, model="absent"))
    await until(lambda: held.begun == 1)
    simulator.models.replace("tiny")
    assert said(await generate(proxy)) == "fwd=miss; stored; ttl=3600"
    await eventually(proxy, 2)
    early.set()
    await looking  # it found the name neither in the early look nor in one of its own
    await eventually(proxy, 1)


async def test_a_name_that_is_not_in_the_table_is_looked_for_once(proxy: Proxy, simulator: Simulator) -> None:
    await generate(proxy)
    simulator.models.add("new")
    assert (await generate(proxy, model="new")).field("X-Cache") == "MISS"
    before = looks(simulator)
    assert said(await generate(proxy, model="absent")) == "fwd=bypass; detail=no-digest"
    assert looks(simulator) == before + 1


@pytest.mark.parametrize("member", ["remote_host", "remote_model"])
async def test_a_row_that_names_another_machine_has_no_digest(member: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = b'{"models":[{"name":"tiny:latest","digest":"d1","%b":"x"}]}' % member.encode()
    monkeypatch.setattr(upstream_module, "TAGS", tags)
    async with byte_upstream(answering(whole(DONE))) as upstream, proxy_before(upstream.url) as proxy:
        assert said(await generate(proxy)) == "fwd=bypass; detail=no-digest"


# Context length: test_context_length.py


# Response


@pytest.mark.parametrize("path", ["/api/generate", "/api/embed", "/api/embeddings", "/v1/embeddings"])
async def test_what_is_over_the_limit_goes_on_before_it_has_ended(path: str) -> None:
    may_end = asyncio.Event()
    body = json.dumps({"response": "x" * 3000}).encode()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        answer = whole(body)
        await talk.write(answer[:-10])
        await may_end.wait()
        await talk.write(answer[-10:])

    async with (
        byte_upstream(script) as upstream,
        proxy_before(upstream.url, max_entry_bytes=1024, max_list_bytes=2048) as proxy,
        await RawConnection.open(proxy.url) as connection,
    ):
        connection.send("POST", path, body=json.dumps(ROUTES[path]).encode())
        _, fields = await connection.head()
        assert ("Cache-Status", "ollama-cache-proxy; fwd=miss; detail=answer-too-large") in fields
        assert await connection.reader.readexactly(len(body) - 10) == body[:-10]
        may_end.set()
        assert await connection.reader.readexactly(10) == body[-10:]
        assert await keys(proxy) == 0


# Replay


async def test_a_hit_tells_its_age_and_what_is_left_of_its_life(proxy: Proxy) -> None:
    first = await generate(proxy)
    await proxy.kept()
    later(proxy, 100)
    again = await generate(proxy)
    assert (again.field("Age"), said(again)) == ("100", "hit; ttl=3500")
    assert (again.field("Date"), again.body) == (first.field("Date"), first.body)
    later(proxy, 3499)
    assert said(await generate(proxy)) == "hit; ttl=1"
    later(proxy, 1)
    assert said(await generate(proxy)) == "fwd=stale; stored; ttl=3600"


async def test_a_joined_list_is_as_old_as_its_oldest_item(proxy: Proxy) -> None:
    for text in ("a", "b"):
        await post(proxy.url, "/api/embed", EMBED | {"input": text})
        later(proxy, 50)
    answer = await post(proxy.url, "/api/embed", EMBED)
    assert (answer.field("Age"), said(answer)) == ("100", "hit; ttl=86300")


async def test_a_hit_neither_loads_nor_renews_nor_unloads_a_model(proxy: Proxy, simulator: Simulator) -> None:
    await generate(proxy, keep_alive="5m")
    before = (await ask(simulator.url, "GET", "/api/ps")).body
    assert b"tiny" in before
    assert (await generate(proxy, keep_alive="1h")).field("X-Cache") == "HIT"
    assert (await ask(simulator.url, "GET", "/api/ps")).body == before
    await post(simulator.url, "/api/generate", {"model": "tiny", "keep_alive": 0})
    assert (await generate(proxy)).field("X-Cache") == "HIT"
    assert b"tiny" not in (await ask(simulator.url, "GET", "/api/ps")).body


async def test_the_numbers_of_a_replayed_answer_are_saved_ones_only(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, log="json") as proxy:
        simulator.gate.close()
        asked = [asking(proxy) for _ in range(2)]
        await until(lambda: proxy.running.exchanges.waiting == 2)
        simulator.gate.open()
        answers = [await task for task in asked]
        body = json.loads(answers[0].body)
        await asking(proxy)
        events = [json.loads(line) for line in proxy.log.getvalue().splitlines()]
    exchanges = [event for event in events if event["event"] == "exchange"]
    tokens = (body["prompt_eval_count"], body["eval_count"])
    (missed,) = [event for event in exchanges if event["cache"]["result"] == "MISS"]
    assert (missed["prompt_tokens"], missed["output_tokens"]) == tokens
    assert missed["upstream_seconds"] > 0
    hits = [event for event in exchanges if event["cache"]["result"] == "HIT"]
    assert len(hits) == 2, "one of them collapsed"
    for hit in hits:
        assert (hit["prompt_tokens"], hit["output_tokens"], hit["upstream_seconds"]) == (None, None, None)
        assert (hit["saved"]["prompt_tokens"], hit["saved"]["output_tokens"]) == tokens


# Joined lists


async def test_the_durations_are_those_of_the_upstream_part_or_of_the_first_items_request() -> None:
    durations = {"a": 11, "b": 22, "c": 33}

    async def script(talk: Conversation) -> None:
        asked = json.loads(await talk.read_body())["input"]
        total = durations[asked if isinstance(asked, str) else asked[0]]
        told = {"total_duration": total, "load_duration": total - 10, "prompt_eval_count": 1}
        document = {"model": "all-minilm", "embeddings": [[0.5]], **told}
        await talk.write(whole(json.dumps(document, separators=(",", ":")).encode()))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        for texts, total in (("a", 11), (["a", "b"], 22), ("c", 33), (["b", "a", "c"], 22), (["c", "b"], 33)):
            seen = json.loads((await post(proxy.url, "/api/embed", EMBED | {"input": texts})).body)
            assert (seen["total_duration"], seen["load_duration"]) == (total, total - 10), texts
        assert len(upstream.seen) == 3


# Directives


async def test_what_no_cache_asked_for_takes_the_place_of_what_was_kept(redis_server: RedisServer) -> None:
    count = 0

    async def script(talk: Conversation) -> None:
        nonlocal count
        await talk.read_body()
        count += 1
        await talk.write(whole(DONE.replace(b'"x"', b'"%d"' % count)))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, redis_url=redis_server.url) as proxy:
        for fields, response in (({}, "1"), ({"Cache_Control": "no-cache"}, "2"), ({}, "2")):
            answer = await post(proxy.url, "/api/generate", GENERATE, **fields)
            assert json.loads(answer.body)["response"] == response


@pytest.mark.parametrize("path", ["/api/generate", "/api/embeddings", "/v1/embeddings"])
@pytest.mark.parametrize(("asked", "followed"), [("33", True), ("34", False), ("5s", False), ("-1", False)])
async def test_lifetimes_are_those_that_are_set_or_asked_for(
    path: str, asked: str, followed: bool, simulator: Simulator
) -> None:
    ttl = 33 if followed else 11 if path == "/api/generate" else 22
    remark = "" if followed else "; detail=ttl-ignored"
    async with proxy_before(simulator.url, ttl_completion=11, ttl_embedding=22, max_ttl=33) as proxy:
        first, again = [await asking(proxy, path, X_Cache_TTL=asked) for _ in range(2)]
        assert said(first) == f"fwd=miss; stored; ttl={ttl}{remark}"
        assert said(again) == f"hit; ttl={ttl}{remark}"


async def test_the_categories_of_entries_are_bounded(proxy: Proxy) -> None:
    for number in range(40):
        await post(proxy.url, "/api/generate", GENERATE | {"prompt": str(number)}, X_Cache_Category=f"c{number}")
    listed = json.loads((await ask(proxy.url, "GET", "/api/cache/entries?limit=1000")).body)["entries"]
    categories = [entry["category"] for entry in listed]
    assert (len(set(categories)), categories.count("other")) == (33, 8)


# Collapsed forwarding


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(whole(b'{"error":"x"}', status="400 Bad Request"), id="400"),
        pytest.param(whole(b'{"error":"x"}', status="404 Not Found"), id="404"),
        pytest.param(whole(b'{"response":"%b"}' % (b"x" * 5000)), id="over-large"),
        pytest.param(whole(b'{"done":false}'), id="not kept"),
    ],
)
async def test_a_complete_answer_goes_to_all_who_wait(answer: bytes) -> None:
    may_answer = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await may_answer.wait()
        await talk.write(answer)

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, max_entry_bytes=1024) as proxy:
        tasks = [asking(proxy) for _ in range(3)]
        await until(lambda: proxy.running.exchanges.waiting == 3)
        may_answer.set()
        answers = [await task for task in tasks]
        assert {seen.body for seen in answers} == {answer.partition(b"\r\n\r\n")[2]}
        assert {seen.status_line.encode() for seen in answers} == {answer.split(b"\r\n")[0]}
        assert sorted(seen.field("X-Cache") or "" for seen in answers) == ["HIT", "HIT", "MISS"]
        assert len(upstream.seen) == 1
        assert await keys(proxy) == 0


async def answer_500(talk: Conversation) -> None:
    await talk.write(whole(b'{"error":"x"}', status="500 Internal Server Error"))


async def reset(talk: Conversation) -> None:
    await talk.write(whole(DONE)[:-5])
    raise ConnectionResetError


FAILURES = pytest.mark.parametrize(("fail", "status"), [(answer_500, 500), (reset, 502)], ids=["500", "reset"])


class Failing:
    """An upstream whose first answers are failures, each as soon as the test lets it; then it answers."""

    def __init__(self, fail: Callable[[Conversation], Any], times: int) -> None:
        self.asked = 0
        self.steps = asyncio.Semaphore(0)
        self._fail = fail
        self._times = times

    async def __call__(self, talk: Conversation) -> None:
        self.asked += 1
        fails = self.asked <= self._times
        await talk.read_body()
        await self.steps.acquire()
        await (self._fail(talk) if fails else talk.write(whole(DONE)))


@FAILURES
async def test_after_a_failure_one_follower_asks_and_all_others_have_its_answer(
    fail: Callable[[Conversation], Any], status: int
) -> None:
    failing = Failing(fail, times=1)
    async with byte_upstream(failing) as upstream, proxy_before(upstream.url) as proxy:
        tasks = [asking(proxy) for _ in range(5)]
        await until(lambda: proxy.running.exchanges.waiting == 5 and failing.asked == 1)
        failing.steps.release()
        await until(lambda: failing.asked == 2)
        tasks.append(asking(proxy))
        await until(lambda: proxy.running.exchanges.waiting == 5)
        failing.steps.release()
        answers = [await task for task in tasks]
        assert sorted(answer.status for answer in answers) == [200] * 5 + [status]
        assert sorted(answer.field("X-Cache") or "" for answer in answers) == ["HIT"] * 4 + ["MISS"] * 2
        assert failing.asked == 2


@FAILURES
async def test_after_three_failures_all_have_the_last_one(fail: Callable[[Conversation], Any], status: int) -> None:
    failing = Failing(fail, times=4)
    async with byte_upstream(failing) as upstream, proxy_before(upstream.url) as proxy:
        tasks = [asking(proxy) for _ in range(9)]
        for attempt in range(3):
            await until(lambda attempt=attempt: (failing.asked, proxy.running.exchanges.waiting) == (attempt + 1, 9 - attempt))  # type: ignore[misc] # fmt: skip
            failing.steps.release()
        answers = [await task for task in tasks]
        assert [answer.status for answer in answers] == [status] * 9
        shared = [answer for answer in answers if "collapsed" in (answer.field("Cache-Status") or "")]
        assert len(shared) == 6
        assert {(answer.field("X-Cache"), answer.body) for answer in shared} == {("MISS", answers[0].body)}
        assert failing.asked == 3
        assert ((await stats(proxy))["misses"], (await stats(proxy))["collapsed"]) == (9, 0)


async def test_a_follower_of_a_flight_that_is_cancelled_asks_for_all() -> None:
    failing = Failing(reset, times=0)
    async with byte_upstream(failing) as upstream, proxy_before(upstream.url) as proxy:
        tasks = [asking(proxy) for _ in range(3)]
        await until(lambda: proxy.running.exchanges.waiting == 3 and failing.asked == 1)
        flights: Any = proxy.running.exchanges._collapsing._flights
        (flight,) = flights._current.values()
        flight._cancel()
        await until(lambda: failing.asked == 2)
        for _ in range(2):
            failing.steps.release()
        assert sorted([(await task).status for task in tasks]) == [200, 200, 502]


@pytest.mark.parametrize("line", [b"Set-Cookie: a=1", b"Cache-Control: private"])
async def test_a_failure_that_is_for_one_client_alone_is_given_to_no_other(line: bytes) -> None:
    """After the third, each asks for itself: what may not be shared may not be shared when it is an error either."""

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await may_fail.wait()
        body = b'{"error":"%d"}' % len(upstream.seen)
        await talk.write(whole(body, status="503 Service Unavailable").replace(b"\r\n", b"\r\n%b\r\n" % line, 1))

    may_fail = asyncio.Event()
    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        tasks = [asking(proxy) for _ in range(5)]
        await until(lambda: proxy.running.exchanges.waiting == 5)
        may_fail.set()
        answers = [await task for task in tasks]
        assert {answer.status for answer in answers} == {503}
        assert not [answer for answer in answers if "collapsed" in (answer.field("Cache-Status") or "")]
        assert len(upstream.seen) == 5


async def test_the_first_to_ask_again_may_leave_and_the_others_have_their_answer() -> None:
    failing = Failing(answer_500, times=1)
    async with byte_upstream(failing) as upstream, proxy_before(upstream.url) as proxy:
        tasks = []
        for number in range(1, 5):
            tasks.append(asking(proxy))
            await until(lambda number=number: proxy.running.exchanges.waiting == number)  # type: ignore[misc]
        await until(lambda: failing.asked == 1)
        failing.steps.release()
        await until(lambda: failing.asked == 2 and proxy.running.exchanges.waiting == 3)
        flights: Any = proxy.running.exchanges._collapsing._flights
        (second,) = flights._current.values()
        assert second.attempt == 2
        left = tasks[1]
        left.cancel()
        await until(lambda: proxy.running.exchanges.waiting == 2)
        failing.steps.release()
        kept = [await task for task in tasks if task is not left]
        assert sorted(answer.status for answer in kept) == [200, 200, 500]
        assert failing.asked == 2


@pytest.mark.parametrize(("control", "result"), [("no-cache", "MISS"), ("no-store", "BYPASS")])
@pytest.mark.parametrize("path", ROUTES)
async def test_no_cache_and_no_store_join_no_flight(
    path: str, control: str, result: str, proxy: Proxy, simulator: Simulator
) -> None:
    simulator.gate.close()
    first = asking(proxy, path)
    await simulator.arrived(1)
    second = asking(proxy, path, Cache_Control=control)
    await simulator.arrived(2)
    simulator.gate.open()
    assert [(await task).field("X-Cache") for task in (first, second)] == ["MISS", result]


async def test_nobody_joins_what_no_store_has_asked_for(proxy: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    first = asking(proxy, Cache_Control="no-store")
    await simulator.arrived(1)
    second = asking(proxy)
    await simulator.arrived(2)
    simulator.gate.open()
    assert [(await task).field("X-Cache") for task in (first, second)] == ["BYPASS", "MISS"]


async def test_lists_collapse_as_whole_requests_only(proxy: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    inputs: list[Any] = [["a", "b"], ["b", "a"], ["a"], "a", ["a", "b", "b"]]
    tasks = [asyncio.create_task(post(proxy.url, "/api/embed", EMBED | {"input": texts})) for texts in inputs]
    await simulator.arrived(len(inputs))
    simulator.gate.open()
    for texts, task in zip(inputs, tasks, strict=True):
        answer = await task
        direct = await post(simulator.url, "/api/embed", EMBED | {"input": texts})
        assert answer.field("X-Cache") == "MISS"
        assert json.loads(answer.body)["embeddings"] == json.loads(direct.body)["embeddings"]


async def left_alone(proxy: Proxy, simulator: Simulator, path: str) -> None:
    """Ask, and leave while Ollama is at work."""
    simulator.gate.close()
    async with await RawConnection.open(proxy.url) as connection:
        connection.send("POST", path, body=json.dumps(ROUTES[path]).encode())
        await simulator.arrived(1)
        await until(lambda: proxy.running.exchanges.waiting == 1)
    await until(lambda: proxy.running.exchanges.waiting == 0)


@pytest.mark.parametrize("path", list(ROUTES)[1:])
async def test_embeddings_that_everyone_has_left_are_finished_and_stored(
    path: str, proxy: Proxy, simulator: Simulator
) -> None:
    await left_alone(proxy, simulator, path)
    simulator.gate.open()
    await eventually(proxy, 2 if path == "/api/embed" else 1)
    assert said(await asking(proxy, path)).startswith("hit; ")
    assert (inferences(simulator), simulator.cancelled) == ([path], 0)


@pytest.mark.parametrize("path", list(ROUTES)[1:])
async def test_embeddings_that_everyone_has_left_go_on_for_as_long_as_is_set(path: str, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, linger=0.01) as proxy:
        await left_alone(proxy, simulator, path)
        await asyncio.wait_for(simulator.departed(1), 10)


# Store


@pytest.mark.parametrize("path", ROUTES)
async def test_a_write_to_the_store_delays_no_client(path: str, monkeypatch: pytest.MonkeyPatch, proxy: Proxy) -> None:
    store, may_go = proxy.running.store, asyncio.Event()
    put = store.put

    async def late(entries: Any, generation: str) -> bool:
        await may_go.wait()
        return await put(entries, generation)

    monkeypatch.setattr(store, "put", late)
    assert (await asking(proxy, path)).field("X-Cache") == "MISS"
    assert await keys(proxy) == 0
    may_go.set()
    await eventually(proxy, 2 if path == "/api/embed" else 1)


async def test_a_write_of_what_was_missing_in_a_list_delays_no_client(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy
) -> None:
    await post(proxy.url, "/api/embed", EMBED | {"input": "a"})
    await eventually(proxy, 1)
    may_go = asyncio.Event()

    async def late(entries: Any, generation: str) -> bool:
        await may_go.wait()
        return False

    monkeypatch.setattr(proxy.running.store, "put", late)
    answer = await asking(proxy, "/api/embed")
    assert "known=1; of=2" in said(answer)
    may_go.set()


@pytest.mark.parametrize(("path", "ttl"), [("/api/generate", 3600), *((path, 86_400) for path in list(ROUTES)[1:])])
async def test_entries_leave_redis_by_themselves(path: str, ttl: int, proxy: Proxy, redis_server: RedisServer) -> None:
    client = redis_server.client()
    for fields, expected in (({}, ttl), ({"X_Cache_TTL": "50", "X_Cache_Namespace": "n"}, 50)):
        before = set(client.keys("ocp:1:e:*"))
        await asking(proxy, path, **fields)
        await until(lambda: set(client.keys("ocp:1:e:*")) - before)  # noqa: B023
        new = set(client.keys("ocp:1:e:*")) - before
        assert all(expected - 30 < client.ttl(name) <= expected for name in new)


async def test_a_generation_that_was_evicted_costs_misses_and_revives_nothing(
    proxy: Proxy, redis_server: RedisServer
) -> None:
    client = redis_server.client()
    await generate(proxy)
    await eventually(proxy, 1)
    first = client.get(GENERATION)
    (name,) = client.keys("ocp:1:e:*")
    value = client.get(name)
    await ask(proxy.url, "POST", "/api/cache/clear")
    await until(lambda: not client.exists(name))
    seen = [first, client.get(GENERATION)]
    for _ in range(3):
        client.delete(GENERATION)
        client.set(name, value)  # what was cleared is back, as if it had been on its way
        assert (await generate(proxy)).field("X-Cache") == "MISS"
        seen.append(client.get(GENERATION))
        assert (await generate(proxy)).field("X-Cache") == "HIT"
    assert len(set(seen)) == len(seen)
    assert all(re.fullmatch(rb"[0-9a-f]{32}", token) for token in seen)


async def test_of_two_who_find_no_generation_the_first_one_names_it(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, redis_server: RedisServer
) -> None:
    client, others = redis_server.client(), b"b" * 32
    real = generation.secrets.token_hex

    def after_another(size: int) -> str:
        client.set(GENERATION, others, nx=True)
        return real(size)

    monkeypatch.setattr(generation.secrets, "token_hex", after_another)
    client.delete(GENERATION)
    assert (await generate(proxy)).field("X-Cache") == "MISS"
    assert (await generate(proxy)).field("X-Cache") == "HIT"
    assert client.get(GENERATION) == others


async def test_a_clear_unlinks_in_the_background_and_only_what_is_ours(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, redis_server: RedisServer
) -> None:
    client, store, may_go = redis_server.client(), cast("Any", proxy.running.store)._back, asyncio.Event()
    unlink = store._pool.unlink

    async def late(*names: bytes) -> int:
        await may_go.wait()
        return int(await unlink(*names))

    monkeypatch.setattr(store._pool, "unlink", late)
    client.set("of someone else", "stays")
    for path, body in ROUTES.items():
        await post(proxy.url, path, body)
    await eventually(proxy, 4)
    assert {name.startswith(b"ocp:1:") for name in client.keys("*") if name != b"of someone else"} == {True}
    assert json.loads((await ask(proxy.url, "POST", "/api/cache/clear")).body) == {"cleared": 4}
    assert await keys(proxy) == 0
    assert len(client.keys("ocp:1:e:*")) == 4
    may_go.set()
    await until(lambda: not client.keys("ocp:1:e:*"))
    assert client.get("of someone else") == b"stays"


@pytest.mark.parametrize("path", ROUTES)
async def test_a_lookup_reads_the_generation_and_the_entries_in_one_command(
    path: str, proxy: Proxy, redis_server: RedisServer
) -> None:
    def read() -> list[int]:
        told = redis_server.client().info("commandstats")
        return [told.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("mget", "get")]

    await asking(proxy, path)
    await eventually(proxy, 2 if path == "/api/embed" else 1)
    (many, one) = read()
    assert (await asking(proxy, path)).field("X-Cache") == "HIT"
    assert read() == [many + 1, one]


CONNECTED = "Connected to Redis"


async def test_the_configured_redis_comes_before_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulator, redis_server: RedisServer
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    async with proxy_before(simulator.url, redis_url=redis_server.url, store="auto") as proxy:
        assert (await stats(proxy))["store"] == {"name": redis_server.name, "state": "ok", "sealed": False}
        assert f"Store: {redis_server.name}, shared with every proxy that uses it" in proxy.log.getvalue()
        assert CONNECTED in proxy.log.getvalue()


async def test_the_redis_of_the_environment_comes_before_a_private_one(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulator, redis_server: RedisServer
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    async with proxy_before(simulator.url, store="auto") as proxy:
        assert (await stats(proxy))["store"] == {"name": redis_server.name, "state": "ok", "sealed": False}


async def test_a_private_store_is_bounded_forgets_the_oldest_and_keeps_nothing_on_disk(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, store="auto", private_redis_bytes=20 << 20) as proxy:
        assert "Store: private " in proxy.log.getvalue()
        wanted = {
            "port": "0",
            "maxmemory": str(20 << 20),
            "maxmemory-policy": "allkeys-lru",
            "save": "",
            "appendonly": "no",
        }
        store: Any = proxy.running.store
        assert await store._back._pool.config_get(*wanted) == wanted


async def test_where_no_server_can_be_had_it_is_memory_and_no_word_of_redis(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulator
) -> None:
    monkeypatch.setattr("ollama_cache_proxy.service.private_store.find_server", lambda: None)
    async with proxy_before(simulator.url, store="auto") as proxy:
        assert [(await generate(proxy)).field("X-Cache") for _ in range(2)] == ["MISS", "HIT"]
        assert (await stats(proxy))["store"] == {"name": "memory", "state": "ok", "sealed": False}
        assert "memory, 256 MiB, not shared, forgotten when the proxy ends" in proxy.log.getvalue()
        assert CONNECTED not in proxy.log.getvalue()


async def test_a_redis_that_is_not_there_is_not_said_to_be(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url="redis://127.0.0.1:1/0") as proxy:
        assert CONNECTED not in proxy.log.getvalue()


# Counting


async def test_hits_of_others_flights_are_reported_apart_and_failures_are_misses(
    proxy: Proxy, simulator: Simulator
) -> None:
    simulator.gate.close()
    tasks = [asking(proxy) for _ in range(3)]
    await until(lambda: proxy.running.exchanges.waiting == 3)
    simulator.gate.open()
    for task in tasks:
        await task
    await asking(proxy)
    simulator.fault = lambda seen: Fault.REFUSE if seen.target == "/api/generate" else None
    assert (await generate(proxy, prompt="other")).status == 502
    found = await stats(proxy)
    assert (found["hits"], found["collapsed"], found["misses"], found["hitRate"]) == (3, 2, 2, 60.0)


async def test_a_partly_known_list_is_a_miss_that_says_how_much_was_known(proxy: Proxy) -> None:
    for text in "abc":
        await post(proxy.url, "/api/embed", EMBED | {"input": text})
    answer = await post(proxy.url, "/api/embed", EMBED | {"input": list("adbcd")})
    assert answer.field("X-Cache") == "MISS"
    assert said(answer) == "fwd=miss; stored; ttl=86400; detail=items; known=3; of=5"
    again = await post(proxy.url, "/api/embed", EMBED | {"input": list("adbcd")})
    assert again.field("X-Cache") == "HIT"
    found = await stats(proxy)
    assert (found["hits"], found["misses"]) == (1, 4)
    assert found["items"] == {"hits": 8, "misses": 5, "hitRate": 61.5}


# Admin routes


READING = ("/api/cache/stats", "/healthz", "/readyz", "/metrics")


async def test_reading_follows_the_rule_of_hosts_and_nothing_more(simulator: Simulator) -> None:
    async with (
        proxy_before(simulator.url) as near,
        proxy_before(simulator.url, listen="0.0.0.0:0", admin_token=None) as open_to_all,
    ):
        for path in READING:
            answer = await ask(near.url, "GET", path, fields={"Origin": "http://evil.example"})
            assert answer.status == 200, path
            url = open_to_all.url.replace("0.0.0.0", "127.0.0.1")
            for fields in ({"Host": "gpu.example"}, {"Host": "evil.example", "Origin": "http://other.example"}):
                assert (await ask(url, "GET", path, fields=fields)).status == 200, path


CHANGING = [
    ("POST", "/api/cache/clear", b"", 200),
    ("DELETE", f"/api/cache/entries/{'0' * 64}", None, 404),
    ("POST", "/api/cache/explain", b'{"path":"/api/tags"}', 200),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), CHANGING, ids=["clear", "delete", "explain"])
async def test_changing_takes_the_token_on_a_listener_that_others_reach(
    method: str, path: str, body: bytes | None, status: int, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, listen="0.0.0.0:0", admin_token=None) as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        refused = await ask(url, method, path, body=body, fields={"Authorization": "Bearer "})
        assert (refused.status, b"OCP_ADMIN_TOKEN" in refused.body) == (403, True)
    async with proxy_before(simulator.url, listen="0.0.0.0:0", admin_token="secret") as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        assert (await ask(url, method, path, body=body)).status == 401
        assert (await ask(url, method, path, body=body, fields={"Authorization": "Bearer wrong"})).status == 401
        right = {"Authorization": "Bearer secret"}
        assert (await ask(url, method, path, body=body, fields=right)).status == status
        assert (await ask(url, method, path, body=body, fields=right | {"Origin": "http://x"})).status == 403


async def test_while_it_drains_it_is_not_ready_and_lives(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        connections = [await RawConnection.open(proxy.url) for _ in range(2)]
        for connection in connections:
            connection.send("GET", "/readyz")
            assert (await connection.answer()).status == 200
        draining = asyncio.create_task(proxy.running.listener.drain(5))
        await until(lambda: proxy.running.listener.draining)
        for connection, path in zip(connections, ("/readyz", "/healthz"), strict=True):
            connection.send("GET", path)
        ready, lives = [await connection.answer() for connection in connections]
        assert (ready.status, json.loads(ready.body)["status"]) == (503, "draining")
        assert lives.status == 200
        await draining
        for connection in connections:
            connection.close()
