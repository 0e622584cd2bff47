"""Every recorded request, asked through the proxy and directly: what comes back must be the same, also when asked twice.

Two equal servers are asked in step, one of them through the proxy, since many requests change what later ones answer.
With `--ollama URL` a real Ollama is asked as well, with what changes none of its models; it must hold tiny and
all-minilm.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from ollama_cache_proxy.policy.endpoints import REUSABLE
from ollama_cache_proxy.service.settings import setting_of
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import RedisServer, data, proxy_before

CASES: dict[str, Any] = json.loads(data("wire/ollama-0.24.json").read_text("utf-8"))
OWN = ("cache-status", "x-cache", "age")
VARYING = (
    (re.compile(rb'"(created_at|modified_at|expires_at)":"[^"]+"'), rb'"\1":"T"'),
    (re.compile(rb'"(created|created_at|completed_at)":\d+'), rb'"\1":0'),
    (re.compile(rb'"(\w+_duration)":\d+'), rb'"\1":1'),
    (re.compile(rb'"(chatcmpl|cmpl|resp|msg)([-_])[0-9a-f]+"'), rb'"\1\g<2>X"'),
    (re.compile(rb'"completed":\d+'), rb'"completed":0'),
)
HITS = {
    "generate_nonstream", "generate_keep_alive_str", "generate_stop", "generate_raw", "generate_format_json",
    "generate_context", "generate_logprobs", "generate_images_bad", "generate_system", "generate_option_unknown",
    "generate_unknown_field", "generate_form_content_type", "generate_no_content_type", "generate_latest_tag",
    "generate_full_name", "generate_origin_ok", "generate_copy", "embed_string", "embed_list", "embed_list_one",
    "embed_dimensions", "embed_generative_model", "embeddings", "v1_embeddings",
}  # fmt: skip


OPT_IN = {
    "generate_stream_default", "generate_stream_true", "generate_stream_null", "chat_nonstream", "chat_stream",
    "v1_chat", "v1_chat_stream", "v1_completions", "v1_completions_stream",
}  # fmt: skip


def settled(body: bytes) -> bytes:
    for pattern, replacement in VARYING:
        body = pattern.sub(replacement, body)
    return body


def own_head(answer: RawAnswer) -> list[tuple[str, str]]:
    """The fields that are not the cache's own, Date's value aside, and without those of framing."""
    kept = [(name, value) for name, value in answer.fields if name.lower() not in OWN]
    return [(name, "D" if name == "Date" else value) for name, value in kept if name not in FRAMING]


FRAMING = ("Content-Length", "Transfer-Encoding")


def framing(answer: RawAnswer) -> list[str]:
    return [name for name, _ in answer.fields if name in FRAMING]


async def send(url: str, case: dict[str, Any]) -> RawAnswer:
    request = case["request"]
    body = None if request["body"] is None else request["body"].encode("latin-1")
    return await ask(url, request["method"], request["path"], fields=request.get("headers"), body=body)


def compare(direct: RawAnswer, through: RawAnswer) -> None:
    """A whole answer from the store has a Content-Length; so has a list joined from known and asked texts.

    A stream from the store comes in the chunks that it had.
    """
    status = through.field("Cache-Status") or ""
    hit = ("; hit;" in status and not through.chunks) or "; detail=items;" in status
    assert through.status_line == direct.status_line
    assert own_head(through) == own_head(direct)
    assert settled(through.body) == settled(direct.body)
    if hit:
        assert framing(through) == ["Content-Length"]
        return
    assert framing(through) == framing(direct)
    if b'"completed"' not in direct.body:  # how often progress is told depends on timing
        assert [settled(chunk) for chunk in through.chunks] == [settled(chunk) for chunk in direct.chunks]


Pairs = dict[str, list[tuple[RawAnswer, RawAnswer]]]


EVERYTHING: dict[str, Any] = {
    "cache_streams": True,
    **{setting_of(row.operation): "always" for row in REUSABLE},
}
SETTINGS: dict[str, dict[str, Any]] = {"defaults": {}, "everything": EVERYTHING}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SETTINGS)
async def pairs(request: pytest.FixtureRequest, redis_process: RedisServer) -> Pairs:
    """For each case two pairs of answers: directly and through the proxy, for the first time and again."""
    redis_process.client().flushall()
    still = Behaviour(completion_delay=0, embedding_delay=0)
    found: Pairs = {}
    async with AsyncExitStack() as stack:
        direct = await stack.enter_async_context(Simulator(still))
        behind = await stack.enter_async_context(Simulator(still))
        settings = SETTINGS[request.param]
        proxy = await stack.enter_async_context(proxy_before(behind.url, redis_url=redis_process.url, **settings))
        for name, case in CASES.items():
            found[name] = [(await send(direct.url, case), await send(proxy.url, case)) for _ in range(2)]
    return found


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", CASES)
async def test_through_the_proxy_as_directly(name: str, pairs: Pairs) -> None:
    for direct, through in pairs[name]:
        compare(direct, through)


@pytest.mark.asyncio(loop_scope="module")
async def test_what_was_a_hit_the_second_time(pairs: Pairs, request: pytest.FixtureRequest) -> None:
    """The golden list of what is reused by default, of what may be, and nothing else is."""
    results = {name: [through.field("X-Cache") for _, through in pair] for name, pair in pairs.items()}
    expected = HITS | (OPT_IN if "everything" in request.node.name else set())
    assert {name for name, (_, again) in results.items() if again == "HIT"} == expected
    assert {name for name, (_, again) in results.items() if again == "MISS"} == {
        name for name in results if results[name] == ["MISS", "MISS"]
    }


@pytest.mark.asyncio(loop_scope="module")
async def test_a_hit_repeats_the_bytes_of_its_miss(pairs: Pairs) -> None:
    for name in pairs:
        (_, first), (_, again) = pairs[name]
        if again.field("X-Cache") != "HIT":
            continue
        listed = name.startswith(("embed_", "v1_"))  # of a joined list the durations are those of its first text
        assert again.body == first.body or (listed and settled(again.body) == settled(first.body)), name
        assert again.field("Date") == first.field("Date"), name


CHANGING = ("copy", "delete", "create", "pull", "generate_copy")


@pytest.fixture(params=SETTINGS)
async def real(request: pytest.FixtureRequest, redis_server: RedisServer) -> AsyncIterator[tuple[str, str]]:
    url = request.config.getoption("--ollama")
    async with proxy_before(url, redis_url=redis_server.url, **SETTINGS[request.param]) as proxy:
        yield url, proxy.url


@pytest.mark.real_ollama
async def test_a_real_ollama(real: tuple[str, str]) -> None:
    """Where it answers differently each time (it samples), only the heads are compared."""
    direct_url, proxy_url = real
    differing = []
    for name, case in CASES.items():
        if name.startswith(CHANGING) or name in ("ps", "ps_after"):
            continue
        sampled = len({settled((await send(direct_url, case)).body) for _ in range(8)}) > 1
        for _ in range(2):
            direct, through = await send(direct_url, case), await send(proxy_url, case)
            if sampled:
                direct = replace(direct, body=through.body, chunks=through.chunks)
            try:
                compare(direct, through)
            except AssertionError as error:
                differing.append((name, str(error)))
    assert not differing
