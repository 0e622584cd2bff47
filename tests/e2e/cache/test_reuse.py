"""What is answered from the cache, end to end: the simulator, a real Redis or Valkey, real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ollama_cache_proxy.core.store_ports import Entries
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.upstream import Conversation, answering, byte_upstream, whole
from tests.support.waiting import until

ROUTES: dict[str, dict[str, Any]] = {
    "/api/generate": {"model": "tiny", "prompt": "why", "stream": False},
    "/api/embed": {"model": "all-minilm", "input": ["a", "b", "a"]},
    "/api/embeddings": {"model": "all-minilm", "prompt": "a"},
    "/v1/embeddings": {"model": "all-minilm", "input": "a"},
}
GENERATE = ROUTES["/api/generate"]


async def post(url: str, path: str, body: Any, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", path, body=json.dumps(body).encode(), fields=named)


async def stats(proxy: Proxy) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
    return found


def inferences(simulator: Simulator) -> int:
    return sum(request.target in ROUTES for request in simulator.received)


@pytest.mark.parametrize("path", ROUTES)
async def test_the_second_equal_request_is_a_hit(path: str, proxy: Proxy, simulator: Simulator) -> None:
    first, again = [await post(proxy.url, path, ROUTES[path]) for _ in range(2)]
    assert (first.field("X-Cache"), again.field("X-Cache")) == ("MISS", "HIT")
    ttl = 3600 if path == "/api/generate" else 86_400
    estimated = "; detail=estimated-usage" if path == "/api/embed" else ""  # a list, of which Ollama gave one count
    assert first.field("Cache-Status") == f"ollama-cache-proxy; fwd=miss; stored; ttl={ttl}"
    assert again.field("Cache-Status") == f"ollama-cache-proxy; hit; ttl={ttl}{estimated}"
    assert again.body == first.body
    assert again.field("Age") == "0"
    assert again.field("Content-Length") == str(len(first.body))
    assert inferences(simulator) == 1


async def test_order_and_inert_fields_do_not_matter_but_everything_else_does(proxy: Proxy) -> None:
    base = GENERATE | {"options": {"seed": 1, "temperature": 0}}
    assert (await post(proxy.url, "/api/generate", base)).field("X-Cache") == "MISS"
    same = {"keep_alive": "3m", "options": {"temperature": 0, "seed": 1}, **dict(reversed(base.items()))}
    same["options"] = {"temperature": 0, "seed": 1}
    assert (await post(proxy.url, "/api/generate", same)).field("X-Cache") == "HIT"
    for change in (
        {"prompt": "why "},
        {"model": "tiny:latest"},
        {"system": "x"},
        {"unknown": 1},
        {"options": {"seed": 1}},
    ):
        assert (await post(proxy.url, "/api/generate", base | change)).field("X-Cache") == "MISS"
    for change in ({"Authorization": "Bearer x"}, {"Origin": "http://localhost"}, {"X_Cache_Namespace": "team"}):
        assert (await post(proxy.url, "/api/generate", base, **change)).field("X-Cache") == "MISS"


async def test_the_order_in_a_schema_matters(proxy: Proxy) -> None:
    schemas = [{"type": "object", "properties": {name: {"type": "string"} for name in names}} for names in ("ab", "ba")]
    for schema in schemas:
        assert (await post(proxy.url, "/api/generate", GENERATE | {"format": schema})).field("X-Cache") == "MISS"


@pytest.mark.parametrize(
    ("path", "change", "detail"),
    [
        ("/api/generate", {"stream": True}, "stream"),
        ("/api/generate", {"stream": None}, "stream"),
        ("/api/generate", {"prompt": ""}, "no-prompt"),
        ("/api/generate", {"keep_alive": 0}, "keep-alive"),
        ("/api/generate", {"keep_alive": "banana"}, "keep-alive"),
        ("/api/generate", {"model": "gpt-oss:120b-cloud"}, "remote-model"),
        ("/api/generate", {"model": "no such name"}, "no-digest"),
        ("/api/generate", {"model": "nope"}, "no-digest"),
        ("/api/generate", {"STREAM": False}, "ambiguous-name"),
        ("/api/embed", {"input": []}, "no-prompt"),
        ("/v1/embeddings", {"encoding_format": "banana"}, "encoding-format"),
        ("/api/generate?x=1", {}, "target-spelling"),
        ("/api/%67enerate", {}, "target-spelling"),
    ],
)  # fmt: skip
async def test_what_is_passed_on_says_why(
    path: str, change: dict[str, Any], detail: str, proxy: Proxy, simulator: Simulator
) -> None:
    body = (ROUTES.get(path) or GENERATE) | change
    for count in (1, 2):
        answer = await post(proxy.url, path, body)
        assert answer.field("X-Cache") == "BYPASS"
        assert answer.field("Cache-Status") == f"ollama-cache-proxy; fwd=bypass; detail={detail}"
        asked = [request for request in simulator.received if request.method == "POST"]
        assert [json.loads(request.body) for request in asked] == [body] * count


async def test_chat_goes_straight_through(proxy: Proxy) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    for _ in range(2):
        answer = await post(proxy.url, "/api/chat", body)
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=opt-in"


async def test_directives(proxy: Proxy, simulator: Simulator) -> None:
    async def with_control(value: str) -> RawAnswer:
        return await post(proxy.url, "/api/generate", GENERATE, Cache_Control=value)

    missing = await with_control("only-if-cached")
    assert (missing.status, missing.field("Cache-Status")) == (504, "ollama-cache-proxy; detail=only-if-cached")
    assert (await with_control("no-store")).field("X-Cache") == "BYPASS"
    assert (await with_control("max-age=60")).field("X-Cache") == "MISS"
    assert (await with_control("only-if-cached")).field("X-Cache") == "HIT"
    assert (await with_control("max-age=60")).field("X-Cache") == "HIT"
    assert (await with_control("min-fresh=4000")).field(
        "Cache-Status"
    ) == "ollama-cache-proxy; fwd=request; stored; ttl=3600"
    assert (await with_control("no-cache")).field("Cache-Status") == "ollama-cache-proxy; fwd=request; stored; ttl=3600"
    short = await post(proxy.url, "/api/generate", GENERATE, Cache_Control="no-cache", X_Cache_TTL="7")
    assert short.field("Cache-Status") == "ollama-cache-proxy; fwd=request; stored; ttl=7"
    for name in (b"x-cache-ttl", b"x-cache-namespace"):
        assert all(line[0].lower() != name for request in simulator.received for line in request.fields)


async def test_who_would_not_have_what_is_known_does_not_get_an_answer_that_has_just_been_given(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy_before(simulator.url) as proxy:
        await post(proxy.url, "/api/generate", GENERATE)
        put, written = proxy.running.store.put, asyncio.Event()

        async def slowly(entries: Entries, generation: str) -> bool:
            await written.wait()
            return await put(entries, generation)

        monkeypatch.setattr(proxy.running.store, "put", slowly)
        for _ in range(2):
            answer = await post(proxy.url, "/api/generate", GENERATE, Cache_Control="min-fresh=4000")
            assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=request; stored; ttl=3600"
        written.set()


async def test_only_if_cached_asks_nobody_about_a_model_that_is_not_known(proxy: Proxy, simulator: Simulator) -> None:
    answer = await post(proxy.url, "/api/generate", GENERATE | {"model": "nope"}, Cache_Control="only-if-cached")
    assert (answer.status, answer.field("Cache-Status")) == (504, "ollama-cache-proxy; detail=no-digest")
    assert inferences(simulator) == 0


@pytest.mark.parametrize(
    "answer",
    [
        whole(b'{"model":"tiny","response":"x","done":false}'),
        whole(b'{"model":"tiny","response":"x","done":true,"done_reason":"load"}'),
        whole(b'{"error":"x","done":true,"done_reason":"stop"}'),
        whole(b'{"model":"tiny","done":true,"done_reason":"stop"'),
        whole(b'{"done":true,"done_reason":"stop"}', kind="text/plain"),
        whole(b'{"done":true,"done_reason":"stop"}', status="201 Created"),
        whole(b'{"error":"x"}', status="400 Bad Request"),
        whole(b'{"error":"x"}', status="500 Internal Server Error"),
        whole(b'{"done":true,"done_reason":"stop"}').replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n"),
        whole(b'{"done":true,"done_reason":"stop"}').replace(b"\r\n\r\n", b"\r\nCache-Control: private\r\n\r\n"),
        whole(b'{"done":true,"done_reason":"stop"}').replace(b"\r\n\r\n", b"\r\nVary: Accept\r\n\r\n"),
        whole(b'{"done":true,"done_reason":"stop","response":"%b"}' % (b"x" * 2000)),
    ],
    ids=range(12),
)  # fmt: skip
async def test_what_must_not_be_kept_is_relayed_and_not_kept(answer: bytes, redis_server: RedisServer) -> None:
    async with byte_upstream(answering(answer)) as upstream:
        async with proxy_before(upstream.url, redis_url=redis_server.url, max_entry_bytes=1024) as proxy:
            for count in (1, 2):
                seen = await post(proxy.url, "/api/generate", GENERATE)
                assert seen.field("X-Cache") == "MISS"
                assert seen.status_line.encode() == answer.split(b"\r\n")[0]
                assert seen.body == answer.partition(b"\r\n\r\n")[2]
                assert len(upstream.seen) == count
            assert (await stats(proxy))["keys"] == 0


async def test_a_request_over_the_limit_is_streamed_on(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, max_request_bytes=1024) as proxy:
        for _ in range(2):
            answer = await post(proxy.url, "/api/generate", GENERATE | {"prompt": "x" * 2000})
            assert answer.status == 200
            assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=request-too-large"


async def test_both_at_once_are_one_request_upstream(proxy: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    asking = [asyncio.create_task(post(proxy.url, "/api/generate", GENERATE)) for _ in range(5)]
    await simulator.arrived(1)
    await until(lambda: proxy.running.exchanges.waiting == 5)
    simulator.gate.open()
    answers = [await task for task in asking]
    assert inferences(simulator) == 1
    assert len({answer.body for answer in answers}) == 1
    assert sorted(answer.field("X-Cache") or "" for answer in answers) == ["HIT"] * 4 + ["MISS"]
    joined = {answer.field("Cache-Status") for answer in answers if answer.field("X-Cache") == "HIT"}
    assert joined == {"ollama-cache-proxy; fwd=miss; collapsed"}
    assert ((await stats(proxy))["hits"], (await stats(proxy))["misses"]) == (4, 1)


async def test_the_first_may_leave_and_the_others_are_answered(proxy: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    first = await RawConnection.open(proxy.url)
    first.send("POST", "/api/generate", body=json.dumps(GENERATE).encode())
    await simulator.arrived(1)
    second = asyncio.create_task(post(proxy.url, "/api/generate", GENERATE))
    await until(lambda: proxy.running.exchanges.waiting == 2)
    first.close()
    await until(lambda: proxy.running.exchanges.waiting == 1)
    simulator.gate.open()
    assert (await second).status == 200
    assert (inferences(simulator), simulator.cancelled) == (1, 0)


async def test_the_last_to_leave_a_completion_ends_it(proxy: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    async with await RawConnection.open(proxy.url) as connection:
        connection.send("POST", "/api/generate", body=json.dumps(GENERATE).encode())
        await simulator.arrived(1)
    await asyncio.wait_for(simulator.departed(1), 5)


async def test_embeddings_go_on_for_the_client_that_will_ask_again(proxy: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    body = ROUTES["/api/embed"]
    async with await RawConnection.open(proxy.url) as connection:
        connection.send("POST", "/api/embed", body=json.dumps(body).encode())
        await simulator.arrived(1)
    again = asyncio.create_task(post(proxy.url, "/api/embed", body))
    simulator.gate.open()
    assert (await again).field("X-Cache") == "HIT"
    assert (inferences(simulator), simulator.cancelled) == (1, 0)


async def test_after_a_5xx_those_who_waited_ask_for_themselves(redis_server: RedisServer) -> None:
    may_fail = asyncio.Event()
    count = 0

    async def script(talk: Conversation) -> None:
        nonlocal count
        await talk.read_body()
        count += 1
        if count == 1:
            await may_fail.wait()
            await talk.write(whole(b'{"error":"x"}', status="500 Internal Server Error"))
        else:
            await talk.write(whole(b'{"done":true,"done_reason":"stop"}'))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, redis_url=redis_server.url) as proxy:
        asking = [asyncio.create_task(post(proxy.url, "/api/generate", GENERATE)) for _ in range(3)]
        await until(lambda: proxy.running.exchanges.waiting == 3 and count)
        may_fail.set()
        assert sorted([(await task).status for task in asking]) == [200, 200, 500]


async def test_stats_have_their_four_fields_at_once(proxy: Proxy) -> None:
    assert (await stats(proxy))["hitRate"] == 0.0
    for _ in range(4):
        await post(proxy.url, "/api/generate", GENERATE)
    found = await stats(proxy)
    assert list(found.items())[:4] == [("hits", 3), ("misses", 1), ("hitRate", 75.0), ("keys", 1)]


async def test_clear_forgets_everything_and_says_how_much(proxy: Proxy, redis_server: RedisServer) -> None:
    redis_server.client().set("of someone else", "stays")
    for path, body in ROUTES.items():
        await post(proxy.url, path, body)
    assert json.loads((await ask(proxy.url, "POST", "/api/cache/clear")).body) == {"cleared": 4}
    assert (await stats(proxy))["keys"] == 0
    for path, body in ROUTES.items():
        assert (await post(proxy.url, path, body)).field("X-Cache") == "MISS"
    assert redis_server.client().get("of someone else") == b"stays"


async def test_what_was_asked_before_a_clear_is_not_found_after_it(proxy: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    asking = asyncio.create_task(post(proxy.url, "/api/generate", GENERATE))
    await simulator.arrived(1)
    await ask(proxy.url, "POST", "/api/cache/clear")
    simulator.gate.open()
    await asking
    assert (await post(proxy.url, "/api/generate", GENERATE)).field("X-Cache") == "MISS"


async def test_a_flight_that_a_clear_has_ended_is_not_joined(proxy: Proxy, simulator: Simulator) -> None:
    simulator.gate.close()
    before = asyncio.create_task(post(proxy.url, "/api/generate", GENERATE))
    await simulator.arrived(1)
    await ask(proxy.url, "POST", "/api/cache/clear")
    after = asyncio.create_task(post(proxy.url, "/api/generate", GENERATE))
    await simulator.arrived(2)
    simulator.gate.open()
    assert [(await task).field("X-Cache") for task in (before, after)] == ["MISS", "MISS"]


async def test_a_lifetime_of_nothing_is_not_kept(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, ttl_completion=0) as proxy:
        answer = await post(proxy.url, "/api/generate", GENERATE)
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=no-store"


async def test_a_reason_phrase_of_any_bytes_is_kept(redis_server: RedisServer) -> None:
    answer = whole(b'{"done":true,"done_reason":"stop"}', status="200 Gr\xfcn").decode().encode("latin-1")
    async with byte_upstream(answering(answer)) as upstream:
        async with proxy_before(upstream.url, redis_url=redis_server.url) as proxy:
            for result in ("MISS", "HIT"):
                seen = await post(proxy.url, "/api/generate", GENERATE)
                assert (seen.status_line, seen.field("X-Cache")) == ("HTTP/1.1 200 Gr\xfcn", result)


async def test_counts_are_those_of_the_generation_that_another_proxy_began(
    simulator: Simulator, redis_server: RedisServer
) -> None:
    async with (
        proxy_before(simulator.url, redis_url=redis_server.url) as one,
        proxy_before(simulator.url, redis_url=redis_server.url) as other,
    ):
        await post(other.url, "/api/generate", GENERATE)
        await other.kept()
        await ask(one.url, "POST", "/api/cache/clear")
        await post(one.url, "/api/generate", GENERATE)
        await one.kept()
        assert (await stats(other))["keys"] == 1
        assert json.loads((await ask(other.url, "POST", "/api/cache/clear")).body) == {"cleared": 1}
        await until(lambda: not redis_server.client().keys("ocp:1:e:*"))


async def test_two_proxies_share_one_redis(simulator: Simulator, redis_server: RedisServer) -> None:
    async with (
        proxy_before(simulator.url, redis_url=redis_server.url) as one,
        proxy_before(simulator.url, redis_url=redis_server.url) as other,
    ):
        assert (await post(one.url, "/api/generate", GENERATE)).field("X-Cache") == "MISS"
        await one.kept()
        assert (await post(other.url, "/api/generate", GENERATE)).field("X-Cache") == "HIT"
        await ask(one.url, "POST", "/api/cache/clear")
        assert (await post(other.url, "/api/generate", GENERATE)).field("X-Cache") == "MISS"


async def test_hits_go_on_while_ollama_is_down(redis_server: RedisServer) -> None:
    async with Simulator(Behaviour(completion_delay=0)) as simulator:
        url = simulator.url
        async with proxy_before(url, redis_url=redis_server.url) as proxy:
            await post(proxy.url, "/api/generate", GENERATE)
            await simulator.stop()
            assert (await post(proxy.url, "/api/generate", GENERATE)).field("X-Cache") == "HIT"
            missed = await post(proxy.url, "/api/generate", GENERATE | {"prompt": "other"})
            assert (missed.status, missed.field("X-Cache")) == (502, "MISS")


async def test_the_name_of_a_model_does_not_fill_log_and_metrics(proxy: Proxy) -> None:
    await post(proxy.url, "/api/generate", GENERATE | {"model": "m" * 100_000})
    assert len(proxy.log.getvalue()) < 2000
    assert len((await ask(proxy.url, "GET", "/metrics")).body) < 50_000


@pytest.mark.parametrize("fields", [{"Origin": "http://evil.example"}, {"Authorization": "Bearer x"}], ids=str)
async def test_a_field_that_connection_takes_off_is_not_in_the_key(
    fields: dict[str, str], proxy: Proxy, simulator: Simulator
) -> None:
    """Ollama does not see it, so the answer is the one for requests without it, and for those alone."""
    (name,) = fields
    plain = await post(proxy.url, "/api/generate", GENERATE)
    taken_off = await post(proxy.url, "/api/generate", GENERATE, Connection=name, **fields)
    assert taken_off.body == plain.body
    asked = [request for request in simulator.received if request.method == "POST"]  # a GET is the proxy's own
    assert all(line[0] != name.encode() for request in asked for line in request.fields)
    with_it = await post(proxy.url, "/api/generate", GENERATE, **fields)
    assert with_it.field("X-Cache") == "MISS"
    assert with_it.status == (403 if "Origin" in fields else 200)


async def test_log_lines(proxy: Proxy) -> None:
    for _ in range(2):
        await post(
            proxy.url, "/api/generate", GENERATE | {"prompt": "canary-prompt"}, Authorization="Bearer canary-token"
        )
    await proxy.kept()
    lines = proxy.log.getvalue().splitlines()
    assert "[AI Cache] ✅ Connected to Redis" in lines
    key = next(line for line in lines if "MISS" in line).split("MISS: ")[1][:8]
    starts = (
        f"❌ MISS: {key}...  tiny  generate  ",
        f"💾 Cached: {key}... (TTL: 3600s)  tiny  generate",
        f"✅ HIT: {key}...  tiny  generate  ",
    )
    for start in starts:
        assert any(line.startswith("[AI Cache] " + start) for line in lines), start
    assert "canary" not in proxy.log.getvalue()
    assert b"canary" not in (await ask(proxy.url, "GET", "/metrics")).body
