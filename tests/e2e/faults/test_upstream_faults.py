"""A fault of Ollama is a clear error for what needs it, and nothing for what does not."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import pytest

from ollama_cache_proxy.service.settings import OPERATIONS, setting_of
from ollama_cache_proxy.simulator import Behaviour, Fault, Simulator
from ollama_cache_proxy.upstream import digests, ollama_server
from tests.e2e.faults.conftest import Measured
from tests.support import canary
from tests.support.processes import simulate
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, free_port, proxy_before
from tests.support.upstream import Conversation, byte_upstream, whole
from tests.support.waiting import until

Question: TypeAlias = tuple[str, dict[str, Any]]

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": canary.PROMPT}]}
EMBED: dict[str, Any] = {"model": "all-minilm", "input": [canary.PROMPT, "b"]}


async def post(proxy: Proxy, path: str, body: Any) -> RawAnswer:
    return await ask(proxy.url, "POST", path, body=json.dumps(body).encode())


@pytest.mark.row(12)
@pytest.mark.parametrize("restarted", [False, True], ids=["", "and the proxy is started anew"])
async def test_while_ollama_is_down_hits_go_on_and_misses_are_told_at_once(
    restarted: bool, redis_server: RedisServer, measured: Measured
) -> None:
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0)) as simulator:
        async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
            await post(proxy, "/api/generate", GENERATE)
            await post(proxy, "/api/embed", EMBED)
            if not restarted:
                await simulator.stop()
                await expect_what_is_known(proxy, measured)
        if restarted:
            await simulator.stop()
            async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
                await expect_what_is_known(proxy, measured)


async def expect_what_is_known(proxy: Proxy, measured: Measured) -> None:
    known = [("/api/generate", GENERATE), ("/api/embed", EMBED)] * 20
    hits = [(await post(proxy, path, body)).field("X-Cache") for path, body in known]
    measured(12, "lost", len(known) - hits.count("HIT"))
    missing = (
        ("/api/generate", GENERATE | {"prompt": "other"}),
        ("/api/generate", GENERATE | {"stream": True}),
        ("/api/embed", EMBED | {"input": [canary.PROMPT, "c"]}),
        ("/api/chat", CHAT),
        ("/api/show", {"model": "tiny"}),
    )
    for path, body in missing:
        begun = time.monotonic()
        answer = await post(proxy, path, body)
        measured(12, "wait", time.monotonic() - begun)
        assert (answer.status, list(json.loads(answer.body))) == (502, ["error"])
    ready = await ask(proxy.url, "GET", "/readyz")
    assert (ready.status, json.loads(ready.body)["upstream"]) == (200, "down")
    assert (await ask(proxy.url, "GET", "/readyz?require=upstream")).status == 503
    metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
    assert "ollama_cache_proxy_upstream_up 0.0" in metrics
    assert 'ollama_cache_proxy_errors_total{source="upstream"} 5.0' in metrics
    assert proxy.log.getvalue().count("cannot be reached") == 1, "one line a change, not one a request"


QUESTIONS: list[Question] = [
    ("/api/generate", GENERATE),
    ("/api/generate", GENERATE | {"stream": True}),
    ("/api/chat", CHAT),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/v1/completions", {"model": "tiny", "prompt": canary.PROMPT}),
    ("/v1/responses", {"model": "tiny", "input": canary.PROMPT, "stream": True}),
    ("/v1/messages", CHAT | {"max_tokens": 8, "stream": True}),
    ("/v1/messages", CHAT | {"max_tokens": 8}),
    ("/api/embed", EMBED),
    ("/api/embeddings", {"model": "all-minilm", "prompt": canary.PROMPT}),
    ("/v1/embeddings", {"model": "all-minilm", "input": [canary.PROMPT], "encoding_format": "base64"}),
]
EVERYTHING: dict[str, Any] = {"cache_streams": True} | {setting_of(operation): "always" for operation in OPERATIONS}
settings = pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["defaults", "everything"])


async def keys(proxy: Proxy) -> int:
    return int(json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["keys"])


@pytest.mark.row(13)
@settings
async def test_what_breaks_off_never_looks_complete_and_is_never_kept(
    settings: dict[str, Any], simulator: Simulator, redis_server: RedisServer, measured: Measured
) -> None:
    """200 answers of every kind that end in the middle: a 502 or a reset."""
    inference = {path for path, _ in QUESTIONS}
    async with proxy_before(simulator.url, redis_url=redis_server.url, **settings) as proxy:
        simulator.fault = lambda seen: Fault.RESET_MID_BODY if seen.target in inference else None
        ends: Counter[str] = Counter()
        for number in range(200):
            path, body = QUESTIONS[number % len(QUESTIONS)]
            try:
                answer = await post(proxy, path, body)
            except (ConnectionError, asyncio.IncompleteReadError):
                ends["reset"] += 1
            else:
                is_told = answer.status == 502 and list(json.loads(answer.body)) in (["error"], ["type", "error"])
                ends["502" if is_told else "complete"] += 1
        measured(13, "complete", ends["complete"])
        assert min(ends["reset"], ends["502"]) >= 50
        assert await keys(proxy) == 0
        simulator.fault = None
        for path, body in QUESTIONS:
            answer = await post(proxy, path, body)
            assert (answer.status, answer.field("X-Cache") != "HIT") == (200, True)


class Cut:
    """Lets the proxy read one piece of a long answer, and the rest when it is told to: Ollama is killed between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.go_on = asyncio.Event()
        chunks = ollama_server._Response.chunks

        async def held(answer: Any) -> AsyncIterator[bytes]:
            long = None
            async for chunk in chunks(answer):
                yield chunk
                if long is None and (long := len(chunk) > 10_000):
                    self.begun += 1
                    await self.go_on.wait()

        monkeypatch.setattr(ollama_server._Response, "chunks", held)


STREAMS = 40
TEXTS = [f"{canary.PROMPT} {number}" for number in range(2200)]
LONG: Question = ("/api/embed", EMBED | {"input": TEXTS})
"""Its answer of 10 MB is more than the sockets between hold."""


def stream(number: int) -> Question:
    prompt = f"{canary.PROMPT} {number}"
    rows: list[Question] = [
        ("/api/generate", GENERATE | {"prompt": prompt, "stream": True}),
        ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": prompt}]}),
        ("/v1/completions", {"model": "tiny", "prompt": prompt, "stream": True}),
    ]
    return rows[number % len(rows)]


OVER_LIMITS: dict[str, Any] = EVERYTHING | {"max_list_bytes": 1 << 20, "max_entry_bytes": 1024}


@pytest.mark.row(13)
@pytest.mark.parametrize("settings", [{}, EVERYTHING, OVER_LIMITS], ids=["defaults", "everything", "over limits"])
async def test_a_killed_ollama_leaves_nothing_that_looks_complete_and_nothing_that_is_kept(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, measured: Measured
) -> None:
    """A process that is killed while 40 streams and a long answer are under way."""
    port, cut, seen = free_port(), Cut(monkeypatch), Counter[int]()
    async with proxy_before(f"http://127.0.0.1:{port}", redis_url=redis_server.url, **settings) as proxy:
        async with simulate("--token-rate", "4", port=port) as (command, _):
            rows = enumerate([*map(stream, range(STREAMS)), LONG])
            asking = [asyncio.create_task(torn(proxy, path, body, at, seen)) for at, (path, body) in rows]
            await until(lambda: cut.begun and all(seen[at] >= 2 for at in range(STREAMS)), 20)
            command.process.kill()
            await command.process.wait()
            cut.go_on.set()
            ends = Counter(await asyncio.wait_for(asyncio.gather(*asking), 10))
        measured(13, "complete", ends["complete"])
        told = 0 if settings is OVER_LIMITS else 1
        assert (ends["502"], ends["reset"]) == (told, STREAMS + 1 - told)
        assert await keys(proxy) == 0
        async with simulate(port=port):
            for path, body in [("/api/embed", EMBED | {"input": TEXTS[:3]}), *map(stream, range(STREAMS))]:
                answer = await post(proxy, path, body)
                assert (answer.status, answer.field("X-Cache") != "HIT") == (200, True)


async def torn(proxy: Proxy, path: str, body: dict[str, Any], at: int, seen: Counter[int]) -> str:
    """Ask, count the chunks that come, and say how it ended."""
    try:
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("POST", path, body=json.dumps(body).encode())
            status_line, fields = await connection.head()
            if " 502 " in status_line:
                return "502"
            assert ("Transfer-Encoding", "chunked") in fields
            while await connection.chunk():
                seen[at] += 1
    except (ConnectionError, asyncio.IncompleteReadError):
        return "reset"
    return "complete"


@pytest.mark.row(16)
@settings
@pytest.mark.parametrize("fault", [Fault.STATUS_500, Fault.JUNK, Fault.TWO_LENGTHS, Fault.REFUSE, Fault.ERROR_LINE])
async def test_what_is_no_good_answer_is_passed_on_or_a_502_and_never_kept(
    fault: Fault, settings: dict[str, Any], simulator: Simulator, redis_server: RedisServer, measured: Measured
) -> None:
    inference = {path for path, _ in QUESTIONS}
    async with proxy_before(simulator.url, redis_url=redis_server.url, **settings) as proxy:
        simulator.fault = lambda seen: fault if seen.target in inference else None
        asked = [row for row in QUESTIONS if fault is not Fault.ERROR_LINE or "embed" not in row[0]]
        for path, body in asked * 2:
            answer = await post(proxy, path, body)
            if fault is Fault.ERROR_LINE and answer.status == 200:
                assert b"[DONE]" not in answer.body
                assert b'"done":true' not in answer.body
            else:
                assert answer.status == (500 if fault in (Fault.STATUS_500, Fault.ERROR_LINE) else 502)
            assert answer.field("X-Cache") != "HIT"
        measured(16, "stored", await keys(proxy))


@pytest.mark.row(14)
async def test_no_request_is_lost_over_restarts_of_ollama(redis_server: RedisServer, measured: Measured) -> None:
    """30 restarts, five requests after each: its pooled connections are gone, and nobody notices."""
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0)) as simulator:
        async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
            statuses: list[int] = []
            for number in range(30):
                await simulator.stop()
                await simulator.start(port=simulator.port)
                prompts = [GENERATE | {"prompt": f"{canary.PROMPT} {number} {at}", "stream": at > 2} for at in range(5)]
                answers = await asyncio.gather(*(post(proxy, "/api/generate", body) for body in prompts))
                statuses += [answer.status for answer in answers]
            measured(14, "lost", 150 - statuses.count(200))


@pytest.mark.row(16)
@settings
async def test_a_4xx_is_passed_on_as_it_is_and_never_kept(
    settings: dict[str, Any], simulator: Simulator, redis_server: RedisServer, measured: Measured
) -> None:
    async with proxy_before(simulator.url, redis_url=redis_server.url, **settings) as proxy:
        for path, body in QUESTIONS * 2:
            wrong = json.dumps(body | {"model": "nowhere"}).encode()
            answer, own = (
                await ask(proxy.url, "POST", path, body=wrong),
                await ask(simulator.url, "POST", path, body=wrong),
            )
            assert (answer.status, without_id(answer.body)) == (own.status, without_id(own.body))
            assert (answer.status, answer.field("X-Cache") != "HIT") == (404, True)
        measured(16, "stored", await keys(proxy))


def without_id(body: bytes) -> bytes:
    """An error without the id that Ollama makes up for each."""
    return re.sub(rb'"request_id":"req_[0-9a-f]+"', b"", body)


STOPPED: list[Question] = [
    ("/api/generate", GENERATE | {"prompt": f"{canary.PROMPT} other"}),
    ("/api/generate", GENERATE | {"model": "tiny2"}),
    ("/api/generate", GENERATE | {"prompt": f"{canary.PROMPT} other", "stream": True}),
    ("/api/embed", EMBED | {"input": [canary.PROMPT, "c"]}),
    ("/api/chat", CHAT),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/api/show", {"model": "tiny"}),
    ("/api/nothing", {"model": "tiny"}),
]


@pytest.mark.row(15)
async def test_a_stopped_ollama_is_a_504_at_the_deadline_and_costs_others_nothing(
    redis_server: RedisServer, measured: Measured
) -> None:
    async with simulate("--token-rate", "50") as (stopped, url):
        async with proxy_before(url, redis_url=redis_server.url, upstream_timeout=1) as proxy:
            for path, body in (("/api/generate", GENERATE), ("/api/embed", EMBED)):
                await post(proxy, path, body)
            async with await RawConnection.open(proxy.url) as streaming:
                streaming.send("POST", "/api/chat", body=json.dumps(CHAT).encode())
                await streaming.head()
                chunks = [await streaming.chunk(), await streaming.chunk()]
                stopped.process.send_signal(signal.SIGSTOP)
                try:
                    waiting = [asyncio.create_task(late(proxy, path, body)) for path, body in STOPPED * 3]
                    hits = []
                    while not all(task.done() for task in waiting):
                        for path, body in (("/api/generate", GENERATE), ("/api/embed", EMBED)):
                            begun = time.monotonic()
                            assert (await post(proxy, path, body)).field("X-Cache") == "HIT"
                            hits.append(time.monotonic() - begun)
                    assert len(hits) > 20
                    assert statistics.median(hits) < 0.5, "before the deadline"
                    for seconds in await asyncio.gather(*waiting):
                        measured(15, "late", seconds)
                finally:
                    stopped.process.send_signal(signal.SIGCONT)
                while chunk := await asyncio.wait_for(streaming.chunk(), 10):
                    chunks.append(chunk)
                assert json.loads(chunks[-1])["done"] is True
            for path, body in STOPPED[:-1]:
                assert (await post(proxy, path, body)).status == 200


async def late(proxy: Proxy, path: str, body: dict[str, Any]) -> float:
    """Ask for what is a 504 after a second; gives by how many seconds it came later."""
    begun = time.monotonic()
    answer = await post(proxy, path, body)
    seconds = time.monotonic() - begun
    assert (answer.status, list(json.loads(answer.body))) == (504, ["error"]), path
    return seconds - 1


@pytest.mark.row(15)
@pytest.mark.parametrize("deadline", [0.5, 2, None])
async def test_hits_go_on_when_ollama_stays_stopped_for_longer_than_its_table_is_fresh(
    deadline: float | None, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    monkeypatch.setattr(digests, "POLL", 0.1)
    monkeypatch.setattr(digests, "STALE", 0.2)
    async with simulate() as (stopped, url):
        async with proxy_before(url, redis_url=redis_server.url, upstream_timeout=deadline) as proxy:
            for path, body in (("/api/generate", GENERATE), ("/api/embed", EMBED)):
                await post(proxy, path, body)
            stopped.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.3)  # the table is old now
            for _ in range(2):
                for path, body in (("/api/generate", GENERATE), ("/api/embed", EMBED)):
                    assert (await post(proxy, path, body)).field("X-Cache") == "HIT"


# Row 43: Ollama fails a request for which many wait.

FAILED: dict[str, bytes] = {
    "500": whole(b'{"error":"x"}', status="500 Internal Server Error"),
    "503": whole(b'{"error":"server busy"}', status="503 Service Unavailable"),
    "no HTTP": b"nonsense\r\n\r\n",
}
WAITED_FOR: list[Question] = [
    ("/api/generate", GENERATE),
    ("/api/chat", CHAT),
    ("/api/embed", EMBED),
    ("/v1/embeddings", EMBED),
]


@pytest.mark.row(43)
@pytest.mark.parametrize(("path", "body"), WAITED_FOR)
async def test_what_is_sent_again_over_a_new_connection_counts_as_asked_twice(
    path: str, body: dict[str, Any], measured: Measured
) -> None:
    """Ollama takes each request and closes, also over each of several connections that were idle."""
    gate = asyncio.Event()
    asked = 0

    async def script(talk: Conversation) -> None:
        nonlocal asked
        await talk.read_body()
        if talk.request_line.startswith(b"GET "):
            await asyncio.sleep(0.1)  # so that none waits for another's connection
            await talk.write(whole(b"{}"))
            return
        asked += 1
        await gate.wait()
        talk.writer.transport.abort()

    settings = {"cache_streams": True} | {setting_of(operation): "always" for operation in OPERATIONS}
    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **settings) as proxy:
        await asyncio.gather(*(ask(proxy.url, "GET", "/api/else") for _ in range(5)))
        tasks = [asyncio.create_task(post(proxy, path, body)) for _ in range(50)]
        await until(lambda: proxy.running.exchanges.waiting == 50)
        gate.set()
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 30)
        measured(43, "asks", asked)
        assert {seen.status for seen in answers} == {502}


@pytest.mark.row(43)
@pytest.mark.parametrize("answer", FAILED.values(), ids=FAILED)
@pytest.mark.parametrize(("path", "body"), WAITED_FOR)
async def test_50_equal_requests_whose_flight_fails_ask_three_times_at_most(
    path: str, body: dict[str, Any], answer: bytes, measured: Measured
) -> None:
    may_fail = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await may_fail.wait()
        await talk.write(answer)

    settings = {"cache_streams": True} | {setting_of(operation): "always" for operation in OPERATIONS}
    async with byte_upstream(script) as upstream, proxy_before(upstream.url, **settings) as proxy:
        tasks = [asyncio.create_task(post(proxy, path, body)) for _ in range(50)]
        await until(lambda: proxy.running.exchanges.waiting == 50)
        may_fail.set()
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        told = [seen for seen in answers if isinstance(seen, RawAnswer)]
        measured(43, "unanswered", len(answers) - len(told))
        measured(43, "asks", len(upstream.seen))
        assert {seen.status for seen in told} == {int(answer.split()[1]) if answer.startswith(b"HTTP") else 502}
        may_fail.clear()
        again = asyncio.create_task(post(proxy, path, body))  # a later request asks again
        await until(lambda: len(upstream.seen) == 4)
        may_fail.set()
        await again
