"""Uploads to `/v1/audio/transcriptions`, end to end: known by their parts, and forwarded byte for byte."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from ollama_cache_proxy.simulator import Behaviour, Fault, Simulator
from tests.core.test_fast_path import Client, Watch
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.uploads import AUDIO, BOUNDARY, audio, body, part, upload, value
from tests.support.upstream import answering, byte_upstream, whole

PATH = "/v1/audio/transcriptions"
CACHED: dict[str, Any] = {"cache_v1_transcriptions": "deterministic"}
TINY = upload("tiny", language="de")


@pytest.fixture
async def hearing() -> AsyncIterator[Simulator]:
    """A release whose models without ears take audio all the same; 0.33 refuses it."""
    async with Simulator(Behaviour(completion_delay=0, release="0.24")) as running:
        yield running


@pytest.fixture
async def cached(hearing: Simulator) -> AsyncIterator[Proxy]:
    async with proxy_before(hearing.url, **CACHED) as proxy:
        yield proxy


async def send(url: str, sent: bytes = TINY, boundary: str = BOUNDARY, **fields: str) -> RawAnswer:
    kind = f"multipart/form-data; boundary={boundary}"
    return await ask(url, "POST", PATH, body=sent, fields={"Content-Type": kind, **fields})


def asked(simulator: Simulator) -> list[bytes]:
    return [request.body for request in simulator.received if request.target == PATH]


async def test_the_same_parts_are_the_same_question_whatever_the_boundary(hearing: Simulator, cached: Proxy) -> None:
    direct = await send(hearing.url)
    first = await send(cached.url)
    again = [
        await send(cached.url),
        await send(cached.url, upload("tiny", "----other", language="de"), "----other"),
        await send(cached.url, body(value("language", "de"), audio(), value("model", "tiny"))),
    ]
    assert first.field("X-Cache") == "MISS"
    assert [answer.field("X-Cache") for answer in again] == ["HIT"] * 3
    assert {answer.body for answer in (first, *again)} == {direct.body}
    assert {answer.field("Content-Type") for answer in (first, *again)} == {"application/x-ndjson"}, "as Ollama says"
    assert asked(hearing) == [TINY, TINY]


async def test_another_part_is_another_question(hearing: Simulator, cached: Proxy) -> None:
    bodies = [
        TINY,
        upload("tiny"),
        upload("tiny", language="en"),
        upload("tiny", prompt="x"),
        body(audio(AUDIO[:-1] + b"x"), value("model", "tiny"), value("language", "de")),
        body(audio(filename="b.wav"), value("model", "tiny"), value("language", "de")),
    ]
    for expected in ("MISS", "HIT"):
        for sent in bodies:
            assert (await send(cached.url, sent)).field("X-Cache") == expected
    assert asked(hearing) == bodies


async def test_plain_text_is_kept(hearing: Simulator, cached: Proxy) -> None:
    plain = upload("tiny", response_format="text")
    first, again = [await send(cached.url, plain) for _ in range(2)]
    assert (first.field("X-Cache"), again.field("X-Cache")) == ("MISS", "HIT")
    assert first.field("Content-Type") == again.field("Content-Type") == "application/x-ndjson"
    assert first.body == again.body
    assert first.body
    whole_text = json.loads((await send(cached.url, upload("tiny", response_format="json"))).body)["text"]
    assert first.body.decode() == whole_text


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(body(audio(), value("model", "tiny"), value("model", "tiny")), id="a part twice"),
        pytest.param(upload("tiny", stream="true"), id="a stream"),
        pytest.param(upload("tiny", temperature="0"), id="an unknown part"),
        pytest.param(
            body(audio(), value("model", "tiny"), part('name="prompt"', b"x", "Content-Transfer-Encoding: binary")),
            id="an encoding",
        ),
        pytest.param(b"preamble\r\n" + TINY, id="a preamble"),
        pytest.param(TINY + b"epilogue", id="an epilogue"),
        pytest.param(TINY[:-8], id="cut off"),
        pytest.param(b"", id="nothing"),
    ],
)
async def test_what_is_in_doubt_is_passed_on_as_it_came(sent: bytes, hearing: Simulator, cached: Proxy) -> None:
    for count in (1, 2):
        answer, direct = await send(cached.url, sent), await send(hearing.url, sent)
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=multipart"
        assert (answer.status, answer.body) == (direct.status, direct.body)
        assert asked(hearing) == [sent] * (2 * count)


async def test_off_by_default(hearing: Simulator) -> None:
    async with proxy_before(hearing.url) as proxy:
        for _ in range(2):
            answer = await send(proxy.url)
            assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=opt-in"
    assert asked(hearing) == [TINY, TINY]


async def test_an_upload_over_the_limit_is_forwarded_whole(hearing: Simulator) -> None:
    async with proxy_before(hearing.url, max_request_bytes=1024, **CACHED) as proxy:
        large = body(audio(AUDIO * 1000), value("model", "tiny"))
        answer = await send(proxy.url, large)
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=request-too-large"
        assert answer.status == 200
    assert asked(hearing) == [large]


async def test_an_error_is_not_kept(hearing: Simulator, cached: Proxy) -> None:
    for sent in (upload("missing"), body(audio(b""), value("model", "tiny"))):
        answers = [await send(cached.url, sent) for _ in range(2)]
        assert {answer.field("X-Cache") for answer in answers} <= {"MISS", "BYPASS"}
        assert {answer.status for answer in answers} <= {400, 404}
        assert all("message" in json.loads(answer.body)["error"] for answer in answers)


async def test_plain_text_is_kept_with_its_type() -> None:
    plain = upload("tiny", response_format="text")
    async with byte_upstream(answering(whole(b"hello", kind="text/plain"))) as upstream:
        async with proxy_before(upstream.url, **CACHED) as proxy:
            first, again = [await send(proxy.url, plain) for _ in range(2)]
        assert (first.field("X-Cache"), again.field("X-Cache")) == ("MISS", "HIT")
        assert (again.body, again.field("Content-Type")) == (b"hello", "text/plain")
        assert len(upstream.seen) == 1


@pytest.mark.parametrize("form", ["json", "text"])
async def test_a_model_that_crashes_leaves_nothing(form: str, hearing: Simulator, cached: Proxy) -> None:
    hearing.fault = lambda seen: Fault.ERROR_LINE if seen.target == PATH else None
    for _ in range(2):
        answer = await send(cached.url, upload("tiny", response_format=form))
        assert (answer.status, answer.body) == (200, b"")
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=incomplete"


async def test_a_text_of_nothing_is_not_kept() -> None:
    """Ollama sends nothing, with status 200, where the model fails halfway."""
    plain = upload("tiny", response_format="text")
    async with byte_upstream(answering(whole(b"", kind="text/plain"))) as upstream:
        async with proxy_before(upstream.url, **CACHED) as proxy:
            for _ in range(2):
                answer = await send(proxy.url, plain)
                assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=incomplete"
        assert len(upstream.seen) == 2


async def test_the_fast_path_serves_uploads_too(cached: Proxy) -> None:
    watch, client = Watch(cached), Client(cached.url)
    kind: dict[str, str | None] = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answers = [await client.ask("POST", PATH, TINY, kind) for _ in range(4)]
    assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT", "HIT", "HIT"]
    assert watch.taken == 2
    client.close()


async def test_explain_reads_uploads_in_base64_and_names_the_part_that_differs(
    hearing: Simulator, redis_server: RedisServer
) -> None:
    kind = f"multipart/form-data; boundary={BOUNDARY}"

    async def explain(sent: bytes) -> dict[str, Any]:
        asking = {"path": PATH, "headers": {"Content-Type": kind}, "bodyBase64": b64encode(sent).decode()}
        answer = await ask(proxy.url, "POST", "/api/cache/explain", body=json.dumps(asking).encode())
        found: dict[str, Any] = json.loads(answer.body)
        return found

    async with proxy_before(hearing.url, redis_url=redis_server.url, explain=True, **CACHED) as proxy:
        await send(proxy.url)
        await proxy.kept()
        assert (await explain(TINY))["result"] == "hit"
        assert (await explain(upload("tiny", language="en")))["nearest"]["differs"] == ["language"]
        assert (await explain(upload("tiny", stream="true")))["detail"] == "multipart"


async def test_openais_sdk_hits_on_its_second_call(cached: Proxy) -> None:
    """It makes up a boundary for each request."""
    async with openai.AsyncOpenAI(base_url=f"{cached.url}/v1", api_key="unused") as client:
        for form in ("json", "text"):
            answers = [
                await client.audio.transcriptions.with_raw_response.create(
                    file=("a.wav", AUDIO), model="tiny", language="de", response_format=form
                )
                for _ in range(2)
            ]
            assert [answer.headers["x-cache"] for answer in answers] == ["MISS", "HIT"]
            assert answers[0].content == answers[1].content


@pytest.mark.real_ollama
@pytest.mark.parametrize("form", ["json", "text", "verbose_json"])
async def test_a_real_ollama(form: str, request: pytest.FixtureRequest) -> None:
    """Up to 0.24 a model without ears says something all the same; later ones refuse, which is not stored."""
    url = request.config.getoption("--ollama")
    sent = upload("tiny", response_format=form)
    async with proxy_before(url, **CACHED) as proxy:
        direct, first, again = await send(url, sent), await send(proxy.url, sent), await send(proxy.url, sent)
    assert first.status == direct.status
    assert (again.body, again.field("Content-Type")) == (first.body, first.field("Content-Type"))
    assert (first.field("X-Cache"), again.field("X-Cache")) == ("MISS", "HIT" if direct.status == 200 else "MISS")
