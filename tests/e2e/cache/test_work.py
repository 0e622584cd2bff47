"""What is measured of Ollama's work, end to end: all of it, once, by its own account, and nothing of what is replayed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ollama_cache_proxy.policy import endpoints, model_names
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.policy.test_usage import WORKING, chunks_of, documents, recorded
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.upstream import Conversation, Script, byte_upstream
from tests.support.waiting import until

PREFIX = "ollama_cache_proxy_"
MESSAGES = [{"role": "user", "content": "why"}]
GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "why", "stream": False}
STREAM: dict[str, Any] = {"model": "tiny", "prompt": "why"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
DONE = (
    b'"done":true,"done_reason":"stop","total_duration":6000000000,"load_duration":4000000000,"prompt_eval_count":3,'
    b'"prompt_eval_duration":250000000,"eval_count":8,"eval_duration":1500000000}\n'
)
LINE = b'{"model":"tiny","message":{"role":"assistant","content":"x"},"done":false}\n'
LAST = b'{"model":"tiny","message":{"role":"assistant","content":""},' + DONE
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def value(proxy: Proxy, name: str, **labels: str) -> float | None:
    proxy.running.exchanges.fast_path.report()
    return proxy.running.metrics.registry.get_sample_value(PREFIX + name, labels)


def work(proxy: Proxy, endpoint: str, model: str = "tiny:latest") -> dict[str, float | None]:
    """What was counted of one model's work."""
    names = ("prompt_tokens_total", "output_tokens_total", "prompt_eval_seconds_total", "eval_seconds_total")
    found = {name.removesuffix("_total"): value(proxy, name, endpoint=endpoint, model=model) for name in names}
    own = ("load_duration_seconds_sum", "time_per_output_token_seconds_sum")
    return found | {name: value(proxy, name, model=model) for name in own}


def expected(usage: Usage | None) -> dict[str, float | None]:
    if usage is None:
        return dict.fromkeys(expected(Usage()))
    timed = usage.output_seconds is not None and usage.output_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "output_tokens": usage.output_tokens,
        "prompt_eval_seconds": usage.prompt_seconds,
        "eval_seconds": usage.output_seconds,
        "load_duration_seconds_sum": usage.load_seconds,
        "time_per_output_token_seconds_sum": usage.output_seconds / usage.output_tokens if timed else None,
    }


ONCE = expected(Usage(prompt_tokens=3, output_tokens=8, prompt_seconds=0.25, output_seconds=1.5, load_seconds=4.0))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def saying(response: dict[str, Any]) -> Script:
    """Answer as it was recorded, chunk by chunk."""
    fields = "".join(f"{name}: {text}\r\n" for name, text in response["headers"])
    head = f"{response['status_line']}\r\n{fields}\r\n".encode("latin-1")

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        if response.get("chunks") is None:
            await talk.write(head + (response.get("body") or "").encode())
            return
        await talk.write(head)
        for part in response["chunks"]:
            await talk.write(chunk(part["data"].encode()))
        await talk.write(b"0\r\n\r\n")

    return script


async def post(url: str, path: str, body: Any, **fields: str) -> RawAnswer:
    return await ask(url, "POST", path, body=json.dumps(body).encode(), fields=fields)


@pytest.mark.parametrize(("release", "name"), WORKING)
async def test_what_a_recorded_answer_says_is_what_is_counted(release: str, name: str) -> None:
    case = WORKING[release, name]
    chunks, asked = chunks_of(case), case["request"]
    endpoint, _ = endpoints.find(asked["method"], asked["path"])
    body = None if asked["body"] is None else asked["body"].encode("latin-1")
    fields = {key: text for key, text in asked.get("headers", {}).items() if key != "Host"}
    async with byte_upstream(saying(case["response"])) as upstream, proxy_before(upstream.url) as proxy:
        answer = await ask(proxy.url, asked["method"], asked["path"], body=body, fields=fields)
        assert upstream.seen
        assert answer.body == b"".join(chunks)
        if answer.chunks and case["response"].get("chunks") and "X-Cache: MISS" not in str(answer.fields):
            assert list(answer.chunks) == chunks
        said = documents(chunks)
        model = model_names.short(said[0].get("model", "")) if said else ""
        assert work(proxy, endpoint.operation, model) == expected(recorded(said))


@pytest.mark.parametrize(
    ("path", "body", "endpoint", "streamed"),
    [
        pytest.param("/api/generate", STREAM, "generate", True, id="generate"),
        pytest.param("/api/chat", {"model": "tiny", "messages": MESSAGES}, "chat", True, id="chat"),
        pytest.param(
            "/api/chat", {"model": "tiny", "messages": MESSAGES, "stream": False}, "chat", False, id="chat-whole"
        ),
        pytest.param(
            "/v1/chat/completions",
            {
                "model": "tiny",
                "messages": MESSAGES,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
            "v1-chat",
            True,
            id="v1-chat",
        ),
        pytest.param(
            "/v1/completions",
            {"model": "tiny", "prompt": "why", "stream": True, "stream_options": {"include_usage": True}},
            "v1-completions",
            True,
            id="v1-completions",
        ),
        pytest.param(
            "/v1/responses",
            {"model": "tiny", "input": "why", "stream": True, "instructions": "be brief"},
            "v1-responses",
            True,
            id="v1-responses",
        ),
        pytest.param(
            "/v1/messages",
            {"model": "tiny", "messages": MESSAGES, "max_tokens": 9, "stream": True},
            "v1-messages",
            True,
            id="v1-messages",
        ),
    ],
)
async def test_every_form_tells_its_tokens_and_a_stream_its_first_one(
    path: str, body: dict[str, Any], endpoint: str, streamed: bool, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url) as proxy:
        answer = await post(proxy.url, path, body)
        assert answer.status == 200
        for tokens in ("prompt_tokens", "output_tokens"):
            assert (work(proxy, endpoint)[tokens] or 0) > 0
            assert json.dumps(work(proxy, endpoint)[tokens]).encode().removesuffix(b".0") in answer.body
        told = value(proxy, "time_to_first_token_seconds_count", endpoint=endpoint, cache="bypass")
        assert told == (1 if streamed else None)


LONG = "Tell me at length and in your own words " * 20
TOLD = {
    "/api/chat": ("chat", {"messages": [{"role": "user", "content": LONG}], "stream": False}),
    "/v1/chat/completions": ("v1-chat", {"messages": [{"role": "user", "content": LONG}]}),
    "/v1/responses": ("v1-responses", {"input": LONG}),
    "/v1/messages": ("v1-messages", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 9}),
}


def by_source(proxy: Proxy, endpoint: str) -> dict[str, float]:
    sources = ("computed", "prompt-cache", "not-told", "saved")
    found = {name: value(proxy, "prompt_tokens_by_source_total", endpoint=endpoint, source=name) for name in sources}
    return {name: tokens for name, tokens in found.items() if tokens}


@pytest.mark.parametrize("path", TOLD)
@pytest.mark.parametrize("tells", [True, False], ids=["told", "not-told"])
async def test_tokens_of_ollamas_prompt_cache_are_told_apart_where_it_tells(path: str, tells: bool) -> None:
    endpoint, body = TOLD[path]
    behaviour = Behaviour(completion_delay=0.01, prompt_cache=True, tells_cached=tells)
    async with Simulator(behaviour) as ollama, proxy_before(ollama.url) as proxy:
        for _ in range(2):
            await post(proxy.url, path, {"model": "tiny", **body})
        every = work(proxy, endpoint)["prompt_tokens"] or 0
        found = by_source(proxy, endpoint)
        measured = value(proxy, "prompt_computed_tokens_total", endpoint=endpoint, model="tiny:latest")
    assert sum(found.values()) == every > 0
    if not tells:
        assert (found, measured) == ({"not-told": every}, None)
        return
    first = every / 2
    assert found["prompt-cache"] == first - 1, "all of the second prompt but its last token"
    says_none = path != "/v1/responses"  # there 0 is always said
    assert found["computed"] == 1 + (first if says_none else 0)
    assert measured == (1 + first if path == "/api/chat" else None), "only Ollama's own form has a duration"


async def test_saved_prompt_tokens_are_a_source_too(proxy: Proxy) -> None:
    for _ in range(3):
        await post(proxy.url, "/api/generate", GENERATE)
    await proxy.kept()
    tokens = work(proxy, "generate")["prompt_tokens"] or 0
    assert by_source(proxy, "generate") == {"not-told": tokens, "saved": 2 * tokens}


async def test_first_token_is_between_first_byte_and_last() -> None:
    """The head and a chunk without text come first; the test lets the text come after it has seen those."""
    go_on = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD + chunk(LINE.replace(b'"x"', b'""')))
        await go_on.wait()
        await talk.write(chunk(LINE) + chunk(LAST) + b"0\r\n\r\n")

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as client:
            client.send("POST", "/api/chat", body=b'{"model":"tiny","messages":[{"role":"user"}]}')
            await client.head()
            await client.chunk()
            go_on.set()
            while await client.chunk():
                pass
        where = {"endpoint": "chat", "cache": "bypass"}
        await until(lambda: value(proxy, "requests_total", model="", status="200", **where))
        byte, token, end = [
            value(proxy, f"{name}_sum", **where) or 0.0
            for name in ("first_byte_seconds", "time_to_first_token_seconds", "request_duration_seconds")
        ]
        assert 0 < byte < token < end


async def test_a_stream_in_which_the_model_says_nothing_has_no_first_token() -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD + chunk(LINE.replace(b'"x"', b'""')) + chunk(LAST) + b"0\r\n\r\n")

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        await post(proxy.url, "/api/chat", {"model": "tiny", "messages": MESSAGES})
        assert work(proxy, "chat") == ONCE
        assert value(proxy, "first_byte_seconds_count", endpoint="chat", cache="bypass") == 1
        assert value(proxy, "time_to_first_token_seconds_count", endpoint="chat", cache="bypass") is None


async def test_a_hit_is_no_work_and_saves_its_tokens(proxy: Proxy) -> None:
    for _ in range(3):
        await post(proxy.url, "/api/generate", GENERATE)
    await proxy.kept()
    done = work(proxy, "generate")
    assert value(proxy, "load_duration_seconds_count", model="tiny:latest") == 1
    assert value(proxy, "saved_prompt_tokens_total", endpoint="generate") == 2 * (done["prompt_tokens"] or 0) > 0
    assert value(proxy, "saved_output_tokens_total", endpoint="generate") == 2 * (done["output_tokens"] or 0) > 0
    assert value(proxy, "time_to_first_token_seconds_count", endpoint="generate", cache="hit") is None


async def test_a_replayed_stream_is_no_work_but_has_a_first_token(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, cache_streams=True) as proxy:
        await post(proxy.url, "/api/generate", STREAM)
        await until(lambda: value(proxy, "stores_total", endpoint="generate"))
        done = work(proxy, "generate")
        assert done["output_tokens"]
        again = await post(proxy.url, "/api/generate", STREAM)
        assert again.field("X-Cache") == "HIT"
        assert work(proxy, "generate") == done
        for cache in ("hit", "miss"):
            assert value(proxy, "time_to_first_token_seconds_count", endpoint="generate", cache=cache) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_many_share_is_worked_once(stream: bool) -> None:
    go_on = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await go_on.wait()
        body = b'{"model":"tiny","response":"x",' + DONE
        head = HEAD if stream else HEAD.replace(b"x-ndjson", b"json")
        await talk.write(head + chunk(body) + b"0\r\n\r\n")

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, cache_streams=True) as proxy:
        asking = [
            asyncio.create_task(post(proxy.url, "/api/generate", GENERATE | {"stream": stream})) for _ in range(5)
        ]
        await until(lambda: proxy.running.exchanges.waiting == 5)
        go_on.set()
        await asyncio.gather(*asking)
        assert len(upstream.seen) == 1
        await until(lambda: value(proxy, "collapsed_total", endpoint="generate") == 4)
        assert work(proxy, "generate") == ONCE


async def test_an_answer_over_the_limit_is_counted_too() -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        body = b'{"model":"tiny","response":"' + b"x" * 100_000 + b'","context":[' + b"1," * 20_000 + b"1]," + DONE
        await talk.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        await talk.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, max_entry_bytes=1024) as proxy:
        answer = await post(proxy.url, "/api/generate", GENERATE)
        assert "answer-too-large" in (answer.field("Cache-Status") or "")
        await until(lambda: work(proxy, "generate")["output_tokens"])
        assert work(proxy, "generate") == ONCE


async def test_of_a_list_only_what_was_asked_for_is_work(proxy: Proxy) -> None:
    for texts in (["a", "b"], ["b", "c"], ["a", "c"]):
        await post(proxy.url, "/api/embed", {"model": "all-minilm", "input": texts})
    await proxy.kept()
    done = work(proxy, "embed", "all-minilm:latest")
    saved = value(proxy, "saved_prompt_tokens_total", endpoint="embed") or 0
    assert value(proxy, "load_duration_seconds_count", model="all-minilm:latest") == 2
    assert done["prompt_tokens"] == saved > 0  # each text was read once, and spared once


@pytest.mark.parametrize("at_the_end", [False, True], ids=["in-the-middle", "at-the-end"])
async def test_a_client_that_leaves(at_the_end: bool) -> None:
    """What Ollama did not account for is not counted; some clients leave as soon as they have read its account."""

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD + chunk(LINE) + (chunk(LAST) if at_the_end else b""))
        await talk.reader.read()
        upstream.left.set()

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        async with await RawConnection.open(proxy.url) as client:
            client.send("POST", "/api/chat", body=b'{"model":"tiny","messages":[{"role":"user"}]}')
            await client.head()
            for _ in range(1 + at_the_end):
                await client.chunk()
        await upstream.left.wait()
        await until(lambda: value(proxy, "errors_total", source="client"))
        assert work(proxy, "chat") == (ONCE if at_the_end else expected(None))


async def test_an_error_is_no_work() -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(HEAD.replace(b"200 OK", b"500 Oops") + chunk(LAST) + b"0\r\n\r\n")

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        for path, body in (("/api/chat", {"model": "tiny", "messages": MESSAGES}), ("/api/generate", GENERATE)):
            assert (await post(proxy.url, path, body)).status == 500
        assert work(proxy, "chat") == work(proxy, "generate") == expected(None)


async def test_a_trace_is_an_exemplar_in_openmetrics_alone(proxy: Proxy) -> None:
    await post(proxy.url, "/api/generate", GENERATE, **PARENT)
    await post(proxy.url, "/api/generate", GENERATE, traceparent="00-nonsense")
    plain = await ask(proxy.url, "GET", "/metrics")
    asked = {"Accept": "application/openmetrics-text;version=1.0.0"}
    told = (await ask(proxy.url, "GET", "/metrics", fields=asked)).body.decode()
    assert TRACE not in plain.body.decode()
    assert TRACE not in proxy.log.getvalue()
    found = [
        (sample.name, sample.labels["cache"], sample.exemplar)
        for family in text_string_to_metric_families(told)
        for sample in family.samples
        if sample.exemplar is not None
    ]
    ((name, cache, exemplar),) = found
    assert (name, cache, exemplar.labels) == (PREFIX + "request_duration_seconds_bucket", "miss", {"trace_id": TRACE})
    assert exemplar.value == value(proxy, "request_duration_seconds_sum", endpoint="generate", cache="miss")
    assert exemplar.timestamp is not None


async def test_a_category_is_a_label_of_lookups(proxy: Proxy) -> None:
    for category in ("search", "search", ""):
        await post(proxy.url, "/api/generate", GENERATE, **({"X-Cache-Category": category} if category else {}))
    found = {
        (category, cache): value(proxy, "lookups_total", endpoint="generate", category=category, cache=cache)
        for category in ("", "search")
        for cache in ("hit", "miss")
    }
    assert found == {("search", "miss"): 1, ("search", "hit"): 1, ("", "hit"): 1, ("", "miss"): None}


async def test_a_scrape_tells_how_things_stand(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        await post(proxy.url, "/api/generate", GENERATE)
        await until(lambda: value(proxy, "stores_total", endpoint="generate"))
        await ask(proxy.url, "GET", "/metrics")
        assert value(proxy, "store_bytes", tier="redis") is None  # nobody waits for it
        wanted = ("model_loaded", {"model": "tiny:latest"}), ("store_bytes", {"tier": "redis"})
        for name, labels in wanted:
            async with asyncio.timeout(10):
                while value(proxy, name, **labels) is None:
                    await ask(proxy.url, "GET", "/metrics")
        assert (value(proxy, "store_bytes", tier="redis") or 0) > 100_000
        assert value(proxy, "store_evictions_total", tier="redis") == 0
        assert value(proxy, "store_entries", tier="hot") is not None
        assert [value(proxy, "store_breaker_open", breaker=name) for name in ("read", "write")] == [0, 0]
        assert value(proxy, "model_loaded", model="tiny:latest") == 1
        assert (value(proxy, "model_size_bytes", model="tiny:latest") or 0) > 0
        assert value(proxy, "model_vram_bytes", model="tiny:latest") is not None
        assert value(proxy, "connections") == 1  # the scrape's own
        assert value(proxy, "requests_in_flight") == 0
        for operation in ("get", "set", "add"):
            assert value(proxy, "store_operation_seconds_count", operation=operation)


async def test_what_is_under_way_is_a_gauge() -> None:
    async with (
        Simulator(Behaviour(completion_delay=60, embedding_delay=0)) as slow,
        proxy_before(slow.url) as proxy,
        await RawConnection.open(proxy.url) as client,
    ):
        client.send("POST", "/api/generate", body=json.dumps(GENERATE).encode())
        await until(lambda: proxy.running.exchanges.waiting == 1)
        await ask(proxy.url, "GET", "/metrics")
        assert value(proxy, "requests_in_flight") == 1
        assert (value(proxy, "upstream_requests_in_flight") or 0) >= 1
        client.close()
        await until(lambda: proxy.running.exchanges.serving == 0)
        await ask(proxy.url, "GET", "/metrics")
        assert value(proxy, "requests_in_flight") == 0
