"""What tests of other parts rely on: repeatable responses, digests, barriers, faults, and details of HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Behaviour, Fault, Simulator
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.uploads import BOUNDARY, audio, body, upload, value
from tests.support.waiting import until

QUICK = Behaviour(completion_delay=0, embedding_delay=0)
LARGE = 300 << 10


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(QUICK) as running:
        yield running


async def post(simulator: Simulator, path: str, **body: Any) -> RawAnswer:
    return await ask(simulator.url, "POST", path, body=json.dumps(body).encode())


async def text_of(simulator: Simulator, **body: Any) -> str:
    answer = await post(simulator, "/api/generate", **{"model": "tiny", "prompt": "once", "stream": False, **body})
    assert answer.status == 200, answer
    return str(json.loads(answer.body)["response"])


async def test_equal_requests_get_equal_texts(simulator: Simulator) -> None:
    first = await text_of(simulator, options={"temperature": 0})
    assert first
    assert await text_of(simulator, model="TINY:latest", options={"temperature": 0}) == first
    assert await text_of(simulator, options={"temperature": 0, "num_ctx": 64, "seed": 7}) == first
    assert await text_of(simulator, prompt="twice", options={"temperature": 0}) != first
    assert await text_of(simulator, options={"seed": 1}) != await text_of(simulator, options={"seed": 2})


async def test_another_server_seed_another_text(simulator: Simulator) -> None:
    async with Simulator(Behaviour(seed=1, completion_delay=0)) as other:
        assert await text_of(other) != await text_of(simulator)


async def test_who_tests_can_say_how_long_an_answer_takes(simulator: Simulator) -> None:
    simulator.behaviour = Behaviour(completion_delay=3_600, embedding_delay=3_600)
    simulator.pace = lambda received: 0.0 if b"quick" in received.body else 3_600
    await text_of(simulator, prompt="quick")
    for path, text in (("/api/embed", "input"), ("/api/embeddings", "prompt")):
        assert (await post(simulator, path, model="all-minilm", **{text: "quick"})).status == 200
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await text_of(simulator, prompt="slow")


async def test_a_stream_is_the_same_text(simulator: Simulator) -> None:
    answer = await post(simulator, "/api/generate", model="tiny", prompt="once", options={"temperature": 0})
    rows = [json.loads(chunk) for chunk in answer.chunks]
    assert "".join(row["response"] for row in rows) == await text_of(simulator, options={"temperature": 0})
    assert [row["done"] for row in rows] == [False] * (len(rows) - 1) + [True]


async def test_limit_and_stop_cut_the_same_text(simulator: Simulator) -> None:
    whole = await text_of(simulator, options={"temperature": 0, "num_predict": 12})
    short = await text_of(simulator, options={"temperature": 0, "num_predict": 3})
    assert whole.startswith(short)
    stop = whole.split(" ")[3]
    assert await text_of(simulator, options={"temperature": 0, "stop": [stop]}) == whole[: whole.index(stop)]


async def test_digests(simulator: Simulator) -> None:
    models = simulator.models
    before = models.digest("tiny")
    text = await text_of(simulator)
    assert (await post(simulator, "/api/copy", source="tiny", destination="other")).status == 200
    assert models.digest("other") == before
    assert models.replace("tiny") == models.digest("library/tiny") != before
    assert await text_of(simulator) != text
    assert await text_of(simulator, model="other") == text
    answer = await post(
        simulator, "/api/create", model="other", **{"from": "tiny", "system": "be brief", "stream": False}
    )
    assert answer.body == b'{"status":"success"}'
    assert len({models.digest("other"), models.digest("tiny"), before}) == 3
    assert (await post(simulator, "/api/pull", model="tiny")).chunks[-1] == b'{"status":"success"}\n'
    assert models.digest("tiny") == before


async def test_added_and_removed(simulator: Simulator) -> None:
    digest = simulator.models.add("mine:7b", parameters={"num_predict": 2})
    tags = json.loads((await ask(simulator.url, "GET", "/api/tags")).body)["models"]
    assert digest in {row["digest"] for row in tags}
    assert len((await text_of(simulator, model="mine:7b")).split()) == 2
    assert simulator.models.remove("mine:7b")
    assert (await post(simulator, "/api/generate", model="mine:7b", prompt="x")).status == 404


async def test_vectors(simulator: Simulator) -> None:
    def body(answer: RawAnswer) -> Any:
        return json.loads(answer.body)

    alone = body(await post(simulator, "/api/embed", model="all-minilm", input="some text"))
    both = body(await post(simulator, "/api/embed", model="all-minilm", input=["other", "some text"]))
    assert both["embeddings"][1] == alone["embeddings"][0]
    assert sum(value * value for value in alone["embeddings"][0]) == pytest.approx(1)
    packed = body(
        await post(simulator, "/v1/embeddings", model="all-minilm", input="some text", encoding_format="base64")
    )
    data = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(data) // 4}f", data)) == pytest.approx(alone["embeddings"][0])
    bad = await post(simulator, "/v1/embeddings", model="all-minilm", input="x", encoding_format="banana")
    assert (bad.status, "encoding_format" in bad.body.decode()) == (400, True)
    assert (
        await post(simulator, "/api/embed", model="all-minilm", input=["x", 1])
    ).body == b'{"error":"invalid input type"}'


async def test_the_gate_holds_answers_back(simulator: Simulator) -> None:
    simulator.gate.close()
    paths = ("/api/generate", "/api/chat", "/api/embed", "/v1/embeddings")
    bodies: tuple[dict[str, Any], ...] = (
        {"prompt": "x"},
        {"messages": [{"role": "user", "content": "x"}]},
        {"input": "x"},
        {"input": "x"},
    )
    asking = [
        asyncio.create_task(post(simulator, path, model="all-minilm" if "input" in body else "tiny", **body))
        for path, body in zip(paths, bodies, strict=True)
    ]
    await simulator.arrived(4)
    assert (await ask(simulator.url, "GET", "/api/version")).status == 200
    assert not any(task.done() for task in asking)
    simulator.gate.open()
    assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 4


async def test_a_client_that_leaves_is_counted(simulator: Simulator) -> None:
    simulator.gate.close()
    connection = await RawConnection.open(simulator.url)
    connection.send("POST", "/api/generate", body=b'{"model":"tiny","prompt":"x"}')
    await simulator.arrived(1)
    connection.close()
    async with asyncio.timeout(5):
        await simulator.departed(1)
    simulator.gate.open()
    assert await text_of(simulator)
    assert simulator.cancelled == 1


async def test_leaving_in_mid_stream_is_counted() -> None:
    async with Simulator(Behaviour(token_rate=1000)) as simulator:
        connection = await RawConnection.open(simulator.url)
        connection.send("POST", "/api/generate", body=b'{"model":"small","prompt":"x","options":{"num_predict":64}}')
        await connection.head()
        await connection.chunk()
        connection.close()
        async with asyncio.timeout(5):
            await simulator.departed(1)


async def test_received_requests_are_kept_raw(simulator: Simulator) -> None:
    await ask(simulator.url, "POST", "/api/%67enerate?x=1", fields={"X-Odd": "a"}, body=b'{"model":"tiny"}')
    received = simulator.received[-1]
    assert (received.method, received.target, received.body) == ("POST", "/api/%67enerate?x=1", b'{"model":"tiny"}')
    assert (b"X-Odd", b"a") in received.fields


async def test_http10_streams_end_with_the_connection(simulator: Simulator) -> None:
    body = b'{"model":"tiny","prompt":"def foo","options":{"num_predict":2,"temperature":0}}'
    answer = await ask(simulator.url, "POST", "/api/generate", body=body, version="1.0")
    assert answer.status_line == "HTTP/1.0 200 OK"
    assert [name for name, _ in answer.fields] == ["Content-Type", "Date"]
    assert answer.closed
    assert answer.body.count(b"\n") == 3


async def test_connections_are_kept_unless_told(simulator: Simulator) -> None:
    async with await RawConnection.open(simulator.url) as connection:
        for _ in range(2):
            connection.send("GET", "/api/version")
            assert (await connection.answer()).field("Connection") is None
        connection.send("GET", "/api/version", fields={"Connection": "close"})
        assert (await connection.answer()).field("Connection") == "close"
        assert await connection.reader.read() == b""


@pytest.mark.parametrize(
    ("method", "target", "status", "field"),
    [
        ("POST", "/api/generate/", 307, ("Location", "/api/generate")),
        ("GET", "/api/version/?a=b", 301, ("Location", "/api/version?a=b")),
        ("POST", "/api/tags", 405, ("Allow", "HEAD, GET")),
        ("GET", "/v1/models/a/b", 404, ("Content-Type", "text/plain")),
    ],
)
async def test_paths(simulator: Simulator, method: str, target: str, status: int, field: tuple[str, str]) -> None:
    answer = await ask(simulator.url, method, target, body=b"{}" if method == "POST" else None)
    assert (answer.status, answer.field(field[0])) == (status, field[1])


@pytest.mark.parametrize(
    ("host", "status"), [("proxy:11494", 403), ("localhost:1", 200), ("[::1]:5", 200), ("10.0.0.7", 200)]
)
async def test_hosts(simulator: Simulator, host: str, status: int) -> None:
    assert (await ask(simulator.url, "GET", "/api/version", fields={"Host": host})).status == status


async def test_compressed_bodies_are_not_unpacked(simulator: Simulator) -> None:
    answer = await ask(
        simulator.url, "POST", "/api/generate", fields={"Content-Encoding": "gzip"}, body=b"\x1f\x8b\x08\x00"
    )
    assert answer.status == 400
    assert json.loads(answer.body)["error"] == "invalid character '\\x1f' looking for beginning of value"


async def test_blobs(simulator: Simulator) -> None:
    data = b"b" * 100
    path = f"/api/blobs/sha256:{hashlib.sha256(data).hexdigest()}"
    assert (await ask(simulator.url, "HEAD", path)).status == 404
    assert (await ask(simulator.url, "POST", path, body=b"wrong")).status == 400
    assert (await ask(simulator.url, "POST", path, body=data)).status == 201
    assert (await ask(simulator.url, "HEAD", path)).status == 200
    assert (await ask(simulator.url, "POST", path, body=data)).field("Connection") is None


async def test_a_known_blob_is_answered_before_its_upload(simulator: Simulator) -> None:
    path = f"/api/blobs/sha256:{simulator.models.get('tiny').weights.digest}"
    async with await RawConnection.open(simulator.url) as connection:
        connection.send("POST", path, fields={"Content-Length": str(LARGE)}, body=b"only the beginning")
        answer = await connection.answer()
        assert (answer.status, answer.field("Connection")) == (200, "close")
        assert await connection.reader.read() == b""


async def test_expected_continue_comes_when_the_body_is_read(simulator: Simulator) -> None:
    async with await RawConnection.open(simulator.url) as connection:
        connection.send("POST", "/api/show", fields={"Expect": "100-continue", "Content-Length": "16"}, body=b"")
        assert (await connection.head())[0] == "HTTP/1.1 100 Continue"
        connection.writer.write(b'{"model":"tiny"}')
        assert (await connection.answer()).status == 200


async def test_loading_and_unloading(simulator: Simulator) -> None:
    async def loaded() -> list[str]:
        rows = json.loads((await ask(simulator.url, "GET", "/api/ps")).body)["models"]
        return [row["name"] for row in rows]

    assert await loaded() == []
    await post(simulator, "/api/generate", model="tiny")
    assert await loaded() == ["tiny:latest"]
    await post(simulator, "/api/generate", model="tiny", keep_alive=0)
    assert await loaded() == []


async def test_a_pull_of_something_new(simulator: Simulator) -> None:
    digest = simulator.models.publish("fresh")
    rows = [json.loads(chunk) for chunk in (await post(simulator, "/api/pull", model="fresh")).chunks]
    assert [row["status"].split(" ")[0] for row in rows][0::6] == ["pulling", "success"] or rows[-1][
        "status"
    ] == "success"
    assert simulator.models.digest("fresh") == digest


@pytest.mark.parametrize(
    ("release", "sent", "status", "said"),
    [
        ("0.24", upload("tiny"), 200, b'{"text":"'),
        ("0.24", upload("tiny", response_format="verbose_json", language="de"), 200, b'{"text":"'),
        ("0.24", upload("tiny", response_format="text"), 200, None),
        ("0.24", upload("missing"), 404, b"not found"),
        ("0.24", upload(""), 400, b"model is required"),
        ("0.24", body(value("model", "tiny")), 400, b"file is required"),
        ("0.24", body(audio(b""), value("model", "tiny")), 400, b"audio file is empty"),
        ("0.24", b"no form", 400, b"failed to parse multipart form"),
        ("0.33", upload("tiny"), 400, b"does not support multimodal requests"),
    ],
)
async def test_transcriptions(release: str, sent: bytes, status: int, said: bytes | None) -> None:
    """The head is sent with the first token, before the form is known. Since 0.33 a model without ears refuses audio."""
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    async with Simulator(Behaviour(completion_delay=0, release=release)) as simulator:
        answer = await ask(simulator.url, "POST", "/v1/audio/transcriptions", body=sent, fields=kind)
    assert answer.status == status
    assert (answer.field("Content-Type") or "").startswith(
        "application/x-ndjson" if status == 200 else "application/json"
    )
    assert len(answer.chunks or ()) <= 1
    assert answer.body if said is None else said in answer.body


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/chat/completions"])
async def test_streams_of_the_compatible_routes(simulator: Simulator, path: str) -> None:
    given = {"input": "hi"} if path.endswith("responses") else {"messages": [{"role": "user", "content": "hi"}]}
    answer = await post(simulator, path, model="tiny", max_tokens=3, stream=True, **given)
    assert answer.field("Content-Type") == "text/event-stream"
    lines = answer.body.decode().splitlines()
    rows = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert rows
    assert answer.body.endswith(b"\n\n")


@pytest.mark.parametrize(
    ("fault", "body"), [(Fault.STATUS_500, b"llama runner"), (Fault.ERROR_LINE, b'{"error":"an error was encountered')]
)
async def test_faults_that_are_answers(simulator: Simulator, fault: Fault, body: bytes) -> None:
    simulator.fault = lambda received: fault if received.target == "/api/generate" else None
    assert body in (await post(simulator, "/api/generate", model="tiny", prompt="x")).body


async def test_faults_of_the_connection(simulator: Simulator) -> None:
    async def seen(fault: Fault) -> bytes:
        simulator.fault = lambda _: fault
        async with await RawConnection.open(simulator.url) as connection:
            connection.send("GET", "/api/version")
            return await connection.reader.read()

    assert await seen(Fault.REFUSE) == b""
    assert not (await seen(Fault.JUNK)).startswith(b"HTTP")
    assert (await seen(Fault.TWO_LENGTHS)).count(b"Content-Length") == 2
    simulator.fault = lambda _: Fault.RESET_MID_BODY
    async with await RawConnection.open(simulator.url) as connection:
        connection.send("GET", "/api/version")
        assert (await connection.head())[0] == "HTTP/1.1 200 OK"
        with pytest.raises(ConnectionResetError):
            await connection.reader.read()


async def test_a_hanging_request_ends_with_its_client(simulator: Simulator) -> None:
    simulator.fault = lambda _: Fault.HANG
    connection = await RawConnection.open(simulator.url)
    connection.send("POST", "/api/embed", body=b'{"model":"tiny"}')
    await simulator.arrived(1)
    connection.close()
    async with asyncio.timeout(5):
        await simulator.departed(1)


@pytest.mark.parametrize("image", ["é", "aé==", "a", "====", "a b="])
async def test_an_image_that_is_no_base64_is_a_400(image: str, simulator: Simulator) -> None:
    answer = await post(simulator, "/api/generate", model="tiny", prompt="x", images=[image])
    assert (answer.status, b"illegal base64 data at input byte" in answer.body) == (400, True)


@pytest.mark.parametrize(("name", "known"), [("ſtream", True), ("STREAM", True), ("ﬆream", False), ("ﬅream", False)])
async def test_names_fold_letter_by_letter(name: str, known: bool, simulator: Simulator) -> None:
    answer = await post(simulator, "/api/generate", model="tiny", prompt="x", **{name: False})
    assert (answer.field("Content-Type") == "application/json; charset=utf-8") is known


async def quantized(simulator: Simulator, model: str, level: str) -> str:
    made = await post(
        simulator, "/api/create", model=f"{model}:{level}", **{"from": model}, quantize=level, stream=False
    )
    assert json.loads(made.body) == {"status": "success"}
    return f"{model}:{level}"


async def test_a_quantized_model_speaks_nearly_as_its_source(simulator: Simulator) -> None:
    asked = {"prompt": "again", "stream": False, "logprobs": True, "top_logprobs": 20, "options": {"temperature": 0}}
    models = ["tiny", *[await quantized(simulator, "tiny", level) for level in ("q8_0", "q4_K_M")]]
    answers = [await post(simulator, "/api/generate", model=model, **asked) for model in models]
    rows = [json.loads(answer.body)["logprobs"][0] for answer in answers]
    for row in rows:
        ranked = [one["logprob"] for one in row["top_logprobs"]]
        assert len(ranked) == 20
        assert ranked == sorted(ranked, reverse=True)
        assert sum(map(math.exp, ranked)) <= 1
        assert (row["token"], row["logprob"]) == (row["top_logprobs"][0]["token"], ranked[0])
    assert len({row["token"] for row in rows}) == 1
    source, fine, coarse = (row["logprob"] for row in rows)
    assert 0 < source - fine < source - coarse < 0.1


async def test_a_quantized_model_s_vectors_are_near_its_source_s(simulator: Simulator) -> None:
    models = ["all-minilm", *[await quantized(simulator, "all-minilm", level) for level in ("q8_0", "q4_K_M")]]
    source, fine, coarse = [
        json.loads((await post(simulator, "/api/embed", model=model, input="a text")).body)["embeddings"][0]
        for model in models
    ]
    cosines = [sum(a * b for a, b in zip(source, other, strict=True)) for other in (fine, coarse)]
    assert 1 > cosines[0] > 0.999 > cosines[1] > 0.98


async def test_what_is_being_quantized_can_be_held_in_the_middle(simulator: Simulator) -> None:
    simulator.making.close()
    making = asyncio.create_task(quantized(simulator, "tiny", "q8_0"))
    await until(lambda: simulator.received)
    assert (await post(simulator, "/api/show", model="tiny:q8_0")).status == 404
    simulator.making.open()
    await making
    assert (await post(simulator, "/api/show", model="tiny:q8_0")).status == 200
