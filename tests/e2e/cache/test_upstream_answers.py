"""Answers of what stands before Ollama, or speaks like it: content codings, validators, lifetimes, ages."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support.nginx import nginx_before
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.upstream import Conversation, answering, byte_upstream, whole
from tests.support.waiting import until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "why", "stream": False}
STREAM: dict[str, Any] = {"model": "tiny", "prompt": "why"}
LIST: dict[str, Any] = {"model": "all-minilm", "input": ["a", "b"]}
BASE64: dict[str, Any] = {"model": "all-minilm", "input": "a", "encoding_format": "base64"}
CASES = {
    "whole": ("/api/generate", GENERATE),
    "stream": ("/api/generate", STREAM),
    "stream of events": (
        "/v1/chat/completions",
        {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stream": True},
    ),
    "list": ("/api/embed", LIST),
    "base64": ("/v1/embeddings", BASE64),
    "one vector": ("/api/embeddings", {"model": "all-minilm", "prompt": "a"}),
    "chat": ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stream": False}),
}
CACHED = {"cache_chat": "always", "cache_v1_chat": "always", "cache_streams": True}
CODINGS = "gzip, deflate, br"
DONE = b'{"done":true,"done_reason":"stop"}'
NATIVE = (
    b'{"model":"all-minilm","embeddings":[[0.5],[0.25]],"total_duration":1,"load_duration":1,"prompt_eval_count":5}'
)


async def post(url: str, path: str, body: Any, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", path, body=json.dumps(body).encode(), fields=named)


def with_fields(body: bytes, *lines: str) -> bytes:
    return whole(body).replace(b"\r\n\r\n", "".join(f"\r\n{line}" for line in lines).encode() + b"\r\n\r\n", 1)


async def keys(proxy: Proxy) -> int:
    return int(json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["keys"])


def codings_asked(simulator: Simulator, target: str) -> list[bytes]:
    return [
        value
        for seen in simulator.received
        if seen.target == target
        for name, value in seen.fields
        if name.lower() == b"accept-encoding"
    ]


def arrived(simulator: Simulator, target: str) -> int:
    return sum(seen.target == target for seen in simulator.received)


# content codings


@pytest.mark.parametrize("case", CASES)
async def test_what_may_be_stored_is_asked_without_a_coding(case: str, simulator: Simulator) -> None:
    path, body = CASES[case]
    async with proxy_before(simulator.url, **CACHED) as proxy:
        first = await post(proxy.url, path, body, Accept_Encoding=CODINGS)
        await proxy.kept()
        again = await post(proxy.url, path, body, Accept_Encoding="identity")
    assert (first.status, first.field("X-Cache"), again.field("X-Cache")) == (200, "MISS", "HIT")
    assert (arrived(simulator, path), codings_asked(simulator, path)) == (1, [])


async def test_so_is_a_list_of_which_a_part_is_known(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        await post(proxy.url, "/api/embed", LIST, Accept_Encoding=CODINGS)
        part = await post(proxy.url, "/api/embed", LIST | {"input": ["a", "c"]}, Accept_Encoding=CODINGS)
    assert "known=1; of=2" in (part.field("Cache-Status") or "")
    assert (arrived(simulator, "/api/embed"), codings_asked(simulator, "/api/embed")) == (2, [])


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [("/api/chat", CASES["chat"][1], "opt-in"), ("/api/generate", STREAM, "stream"), ("/x", {}, "endpoint")],
)
async def test_what_is_only_passed_on_is_asked_as_the_client_asks(
    path: str, body: Any, detail: str, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url) as proxy:
        answer = await post(proxy.url, path, body, Accept_Encoding=CODINGS)
    assert f"detail={detail}" in (answer.field("Cache-Status") or "")
    assert codings_asked(simulator, path) == [CODINGS.encode()]


@pytest.mark.parametrize("codings", [{}, {"Accept_Encoding": CODINGS}], ids=["not asked for", "asked for"])
async def test_a_coding_that_nobody_asked_for_is_passed_on_and_not_stored(codings: dict[str, str]) -> None:
    body = gzip.compress(DONE)
    async with byte_upstream(answering(with_fields(body, "Content-Encoding: gzip"))) as upstream:
        async with proxy_before(upstream.url) as proxy:
            for count in (1, 2):
                seen = await post(proxy.url, "/api/generate", GENERATE, **codings)
                assert "detail=response-encoding" in (seen.field("Cache-Status") or "")
                assert (seen.field("Content-Encoding"), seen.body) == ("gzip", body)
                assert (len(upstream.seen), await keys(proxy)) == (count, 0)


GZIP = """
      gzip on; gzip_vary on; gzip_proxied any; gzip_min_length 1;
      gzip_types application/json application/x-ndjson text/event-stream;
      proxy_buffering off;
"""


@pytest.mark.parametrize("case", CASES)
async def test_behind_an_nginx_that_compresses_a_response_is_stored(
    case: str, simulator: Simulator, tmp_path: Path
) -> None:
    path, body = CASES[case]
    async with nginx_before(simulator.url, tmp_path, GZIP) as nginx:
        direct = await post(nginx, path, body, Accept_Encoding=CODINGS)
        assert (direct.field("Content-Encoding"), direct.field("Vary")) == ("gzip", "Accept-Encoding")
        asked = arrived(simulator, path)
        async with proxy_before(nginx, **CACHED) as proxy:
            first = await post(proxy.url, path, body, Accept_Encoding=CODINGS)
            await proxy.kept()
            again = await post(proxy.url, path, body, Accept_Encoding=CODINGS)
    assert [(seen.status, seen.field("X-Cache")) for seen in (first, again)] == [(200, "MISS"), (200, "HIT")]
    assert (first.field("Content-Encoding"), again.field("Content-Encoding")) == (None, None)
    assert (first.field("Vary"), again.field("Vary")) == ("Accept-Encoding", "Accept-Encoding")
    assert again.body == first.body
    assert arrived(simulator, path) - asked == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_behind_it_what_is_passed_on_stays_compressed(method: str, simulator: Simulator, tmp_path: Path) -> None:
    async with nginx_before(simulator.url, tmp_path, GZIP) as nginx, proxy_before(nginx) as proxy:
        seen = await ask(proxy.url, method, "/api/tags", fields={"Accept-Encoding": CODINGS})
        assert (seen.status, seen.field("Content-Encoding")) == (200, "gzip")
        if method == "GET":
            assert "models" in json.loads(gzip.decompress(seen.body))


# validators, and what is for one client


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("Set-Cookie: a=b", "set-cookie"),
        ("Cache-Control: private", "cache-control"),
        ("Cache-Control: no-store", "cache-control"),
        ("Cache-Control: no-cache", "cache-control"),
        ("Vary: *", "vary"),
        ("Vary: Accept", "vary"),
        ("Cache-Control: max-age=0", "expired"),
        ("Cache-Control: s-maxage=0, max-age=60", "expired"),
        ("Expires: 0", "expired"),
        ("Age: 86400", "expired"),
    ],
)
@pytest.mark.parametrize(("path", "body"), [("/api/generate", GENERATE), ("/api/embed", LIST)])
async def test_a_response_that_may_not_be_stored_is_asked_once_for_each_request(
    line: str, detail: str, path: str, body: Any
) -> None:
    answer = with_fields(DONE if path == "/api/generate" else NATIVE, line)
    async with byte_upstream(answering(answer)) as upstream, proxy_before(upstream.url) as proxy:
        for count in (1, 2):
            seen = await post(proxy.url, path, body)
            assert seen.field("Cache-Status") == f"ollama-cache-proxy; fwd=miss; detail={detail}"
            assert seen.body == answer.partition(b"\r\n\r\n")[2]
            assert line.split(": ")[1] in (seen.field(line.split(":", maxsplit=1)[0]) or "")
            assert (len(upstream.seen), await keys(proxy)) == (count, 0)


@pytest.mark.parametrize(
    "line", ["Set-Cookie: a=b", "Cache-Control: private", "Vary: *", 'ETag: "a"', "Cache-Control: max-age=0"]
)
@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_a_list_of_which_a_part_is_known_is_asked_once_too(line: str, encoding: str) -> None:
    rows = {"float": b"[0.5]", "base64": b'"AAAAPw=="'}
    asked: list[Any] = []

    async def script(talk: Conversation) -> None:
        document = json.loads(await talk.read_body())
        asked.append(document["input"])
        row = rows[document.get("encoding_format", "float")]
        body = b'{"object":"list","data":[{"object":"embedding","embedding":%b,"index":0}],"model":"all-minilm",' % row
        body += b'"usage":{"prompt_tokens":1,"total_tokens":1}}\n'
        await talk.write(with_fields(body, *([line] if len(asked) > 1 else [])))

    stored = line.startswith("ETag")
    body = {"model": "all-minilm", "encoding_format": encoding}
    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        await post(proxy.url, "/v1/embeddings", body | {"input": "a"})
        await proxy.kept()
        joined = await post(proxy.url, "/v1/embeddings", body | {"input": ["a", "b"]})
        await proxy.kept()
        assert (joined.status, len(json.loads(joined.body)["data"]), len(asked)) == (200, 2, 2)
        assert ("stored" in (joined.field("Cache-Status") or ""), await keys(proxy)) == (stored, 2 if stored else 1)


@pytest.mark.parametrize("line", ["Set-Cookie: a=b", "Cache-Control: private", "Vary: *"])
async def test_what_is_for_one_client_is_not_given_to_those_who_wait(line: str) -> None:
    go = asyncio.Event()
    count = 0

    async def script(talk: Conversation) -> None:
        nonlocal count
        await talk.read_body()
        count += 1
        mine = count
        await go.wait()
        await talk.write(with_fields(DONE[:-1] + b',"response":"%d"}' % mine, line))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        asking = [asyncio.create_task(post(proxy.url, "/api/generate", GENERATE)) for _ in range(3)]
        await until(lambda: proxy.running.exchanges.waiting == 3)
        go.set()
        answers = [await task for task in asking]
    assert {json.loads(answer.body)["response"] for answer in answers} == {"1", "2", "3"}
    assert [answer.field("X-Cache") for answer in answers] == ["MISS"] * 3


async def test_a_validator_is_no_reason_not_to_store_and_is_not_replayed() -> None:
    answer = with_fields(DONE, 'ETag: W/"a"', "Last-Modified: Sun, 09 Sep 2001 01:46:40 GMT", "Vary: Accept-Encoding")
    async with byte_upstream(answering(answer)) as upstream, proxy_before(upstream.url) as proxy:
        first, again = [await post(proxy.url, "/api/generate", GENERATE) for _ in range(2)]
    assert (first.field("ETag"), again.field("ETag")) == ('W/"a"', None)
    assert (again.field("X-Cache"), again.field("Last-Modified"), again.field("Vary")) == (
        "HIT",
        None,
        "Accept-Encoding",
    )


@pytest.mark.parametrize("name", ["If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since"])
async def test_a_condition_is_for_ollama_to_judge(name: str) -> None:
    failed = whole(b"", status="412 Precondition Failed")
    async with byte_upstream(answering(failed)) as upstream, proxy_before(upstream.url) as proxy:
        seen = await post(proxy.url, "/api/generate", GENERATE, **{name: "x"})
        assert (seen.status, len(upstream.seen)) == (412, 1)
        assert upstream.seen[0].values(name.encode()) == [b"x"]
    assert seen.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=conditional"


# lifetimes and ages


@pytest.mark.parametrize(
    ("lines", "ttl", "age"),
    [
        pytest.param([], 3600, 0, id="tells nothing"),
        pytest.param(["Cache-Control: max-age=60"], 60, 0, id="max-age"),
        pytest.param(["Cache-Control: max-age=90, s-maxage=60"], 60, 0, id="the shorter one"),
        pytest.param(["Age: 3000"], 600, 3000, id="Age"),
        pytest.param(["Cache-Control: max-age=60", "Age: 50"], 10, 50, id="both"),
        pytest.param(["Cache-Control: max-age=100000"], 3600, 0, id="longer than the setting"),
    ],
)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_a_response_is_fresh_for_what_is_left_of_its_lifetime(
    lines: list[str], ttl: int, age: int, streams: bool, redis_server: RedisServer
) -> None:
    answer = with_fields(DONE, *lines)
    if streams:
        answer = answer.replace(b"application/json; charset=utf-8", b"application/x-ndjson").replace(DONE, DONE + b"\n")
        answer = answer.replace(b"Content-Length: 34", b"Content-Length: 35")
    body = STREAM if streams else GENERATE
    async with byte_upstream(answering(answer)) as upstream:
        async with proxy_before(upstream.url, redis_url=redis_server.url, cache_streams=True) as proxy:
            await post(proxy.url, "/api/generate", body)
            await proxy.kept()
            again = await post(proxy.url, "/api/generate", body)
            told = json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)["entries"]
    left, seconds = ttl - int(again.field("Age") or 0) + age, int(again.field("Age") or 0) - age
    assert (again.field("X-Cache"), 0 <= seconds < 10) == ("HIT", True)
    assert again.field("Cache-Status") == f"ollama-cache-proxy; hit; ttl={left}"
    assert [value for name, value in again.fields if name == "Cache-Control"] == [
        line.split(": ")[1] for line in lines if line.startswith("Cache-Control")
    ]
    assert told[0]["age"] - age in (0, 1, 2)


async def test_a_client_s_own_lifetime_is_less_by_the_age_too() -> None:
    async with byte_upstream(answering(with_fields(DONE, "Age: 50"))) as upstream, proxy_before(upstream.url) as proxy:
        for ttl, stored in (("40", False), ("70", True)):
            seen = await post(proxy.url, "/api/generate", GENERATE, X_Cache_TTL=ttl)
            status = "stored; ttl=20" if stored else "detail=expired"
            assert seen.field("Cache-Status") == f"ollama-cache-proxy; fwd=miss; {status}"
        young = await post(proxy.url, "/api/generate", GENERATE, Cache_Control="max-age=30")
        assert young.field("Cache-Status") == "ollama-cache-proxy; fwd=request; stored; ttl=3550"


async def test_who_wants_a_younger_response_than_the_one_in_flight_asks_for_itself() -> None:
    go = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await go.wait()
        await talk.write(with_fields(DONE, "Age: 50"))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        asking = [asyncio.create_task(post(proxy.url, "/api/generate", GENERATE))]
        await until(lambda: proxy.running.exchanges.waiting == 1)
        asking += [
            asyncio.create_task(post(proxy.url, "/api/generate", GENERATE, Cache_Control=wish))
            for wish in ("max-age=100", "max-age=30", "min-fresh=3000", "min-fresh=3590")
        ]
        await until(lambda: proxy.running.exchanges.waiting == 5)
        go.set()
        answers = [await task for task in asking]
    assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT", "MISS", "HIT", "MISS"]
    assert len(upstream.seen) == 3


@pytest.mark.parametrize("body", [GENERATE, STREAM], ids=["whole", "stream"])
async def test_two_proxies_in_a_row_do_not_add_up_their_lifetimes(body: Any) -> None:
    """What the first of them holds since long is not new to the second."""
    answer = with_fields(DONE + b"\n", "Age: 3000")
    if body is STREAM:
        answer = answer.replace(b"application/json; charset=utf-8", b"application/x-ndjson")
    async with byte_upstream(answering(answer)) as upstream:
        async with proxy_before(upstream.url, cache_streams=True) as first:
            async with proxy_before(first.url, cache_streams=True) as second:
                await post(first.url, "/api/generate", body)
                await first.kept()
                asked, again = [await kept(second, body) for _ in range(2)]
    assert len(upstream.seen) == 1
    assert [(seen.status, seen.field("X-Cache")) for seen in (asked, again)] == [(200, "MISS"), (200, "HIT")]
    assert all(3000 <= int(seen.field("Age") or 0) <= 3010 for seen in (asked, again))
    *_, ours = [value for name, value in again.fields if name == "Cache-Status"]
    assert 590 <= int(ours.removeprefix("ollama-cache-proxy; hit; ttl=")) <= 600


async def kept(proxy: Proxy, body: Any) -> RawAnswer:
    answer = await post(proxy.url, "/api/generate", body)
    await proxy.kept()
    return answer


async def test_the_items_of_a_list_are_as_old_as_the_list() -> None:
    async with byte_upstream(answering(with_fields(NATIVE, "Age: 86000"))) as upstream:
        async with proxy_before(upstream.url) as proxy:
            first = await post(proxy.url, "/api/embed", LIST)
            await proxy.kept()
            again = await post(proxy.url, "/api/embed", LIST | {"input": ["b", "a"]})
    assert first.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; stored; ttl=400"
    assert (again.field("X-Cache"), int(again.field("Age") or 0) - 86_000 in (0, 1)) == ("HIT", True)


async def test_a_list_of_which_a_part_is_known_is_as_old_as_that_part() -> None:
    """A second proxy before this one must not take what is known here for new."""
    one = NATIVE.replace(b"[[0.5],[0.25]]", b"[[0.5]]")
    ages = iter([b"300", b"7"])

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(with_fields(one, f"Age: {next(ages).decode()}", 'ETag: "a"'))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        await post(proxy.url, "/api/embed", LIST | {"input": "a"})
        await proxy.kept()
        joined = await post(proxy.url, "/api/embed", LIST)
    assert joined.field("X-Cache") == "MISS"
    assert int(joined.field("Age") or 0) - 300 in (0, 1)
    assert joined.field("ETag") is None
    assert sum(name == "Age" for name, _ in joined.fields) == 1
