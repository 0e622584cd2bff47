"""No request holds the event loop, whatever is in it: row 42. CPU time is measured, so that other work does not show."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ollama_cache_proxy.admin.pack_routes import EXPORT, IMPORT
from ollama_cache_proxy.policy.listing import go_floats
from ollama_cache_proxy.policy.pack_records import record_of, records
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.stores import entry_codec
from tests.e2e.faults.conftest import Measured
from tests.policy.test_pack_admission import VECTOR
from tests.support import canary
from tests.support import upstream as upstream_module
from tests.support.processes import Command
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import RedisServer
from tests.support.turns import TurnLog, serve_measured
from tests.support.upstream import Conversation, byte_upstream, whole

MIB = 1 << 20
EMBED, GENERATE, CHAT = "/api/embed", "/api/generate", "/api/chat"
OPERATIONS = ("chat", "v1_chat", "v1_responses", "v1_messages", "v1_transcriptions")


def written(path: str, **members: Any) -> bytes:
    model = "all-minilm" if path in (EMBED, "/v1/embeddings") else "tiny"
    body = {"model": model, "stream": False, **members} if path in (GENERATE, CHAT) else {"model": model, **members}
    return json.dumps(body, ensure_ascii=False).encode()


def beside(member: bytes) -> bytes:
    """Return a list with a member that Ollama does not know."""
    return b'{"model":"all-minilm","input":["x"],"more":%b}' % member


def prose(size: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz") -> str:
    source = Random(size)
    words = ["".join(source.choices(alphabet, k=source.randint(2, 9))) for _ in range(2000)]
    parts = [word + source.choice((" ", " ", " ", ", ", ": ", "\n", ' "')) for word in source.choices(words, k=4000)]
    text = "".join(parts)
    return (text * (size // len(text) + 1))[:size]


def texts(count: int, size: int) -> list[str]:
    text = prose(2 * size)
    return [f"{number} {text[number % size :][:size]}" for number in range(count)]


def upload(size: int) -> bytes:
    sound = Random(1).randbytes(size)
    return (
        b'--of-a-form\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
        b'--of-a-form\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + sound
        + b"\r\n--of-a-form--\r\n"
    )


def schema(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string", "description": "one, of: [these]"}
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner, "b": {"type": "string"}}, "required": ["a"]}
    return inner


TOOLS = [{"type": "function", "function": {"name": f"f{n}", "parameters": schema(12)}} for n in range(200)]

REQUESTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "numbers": (EMBED, lambda: beside(b"[" + b"123," * 1_700_000 + b"1]")),
    "fractions": (EMBED, lambda: beside(b"[" + b"0.123456789," * 690_000 + b"1]")),
    "numbers for texts": (EMBED, lambda: b'{"model":"all-minilm","input":[' + b"1," * 4_000_000 + b"1]}"),
    "empty objects": (EMBED, lambda: beside(b"[" + b"{}," * 480_000 + b"{}]")),
    "more empty objects": (EMBED, lambda: beside(b"[" + b"{}," * 2_700_000 + b"{}]")),
    "depth": (EMBED, lambda: beside(b"[" + (b"[" * 50 + b"]" * 50 + b",") * 30_000 + b"1]")),
    "names": (EMBED, lambda: beside(b"{" + b",".join(b'"k%d":1' % n for n in range(500_000)) + b"}")),
    "names of options": (
        EMBED,
        lambda: b'{"model":"all-minilm","input":["x"],"options":{%b}}' % b",".join(b'"k%d":1' % n for n in range(9000)),
    ),
    "100,000 texts": (EMBED, lambda: written(EMBED, input=[f"text {n}" for n in range(100_000)])),
    "one text very often": (EMBED, lambda: b'{"model":"all-minilm","input":[' + b'"t",' * 1_600_000 + b'"t"]}'),
    "small names that stay quick": (GENERATE, lambda: b'{"model":"tiny","stream":false,"prompt":"x","options":{%b}}'
        % b",".join(b'"%x":1' % n for n in range(3000))),
    "backslashes": (EMBED, lambda: b'{"model":"all-minilm","input":["' + b"\\\\" * 4_000_000 + b'"]}'),
    "line ends": (EMBED, lambda: b'{"model":"all-minilm","input":["' + b"\\n" * 4_000_000 + b'"]}'),
    "quotes": (EMBED, lambda: b'{"model":"all-minilm","input":["' + b'\\"' * 4_000_000 + b'"]}'),
    "minus zeros": (EMBED, lambda: b'{"model":"all-minilm","input":["' + b" -0," * 2_000_000 + b'"]}'),
    "blanks": (EMBED, lambda: b'{"model":"all-minilm",' + b" " * 8_000_000 + b'"input":["x"]}'),
    "a quote that is never closed": (EMBED, lambda: b'{"model":"all-minilm","input":["' + b"a" * 8_000_000),
    "quotes alone": (EMBED, lambda: b'{"model":"all-minilm","input":[' + b'"' * 8_000_000),
    "backslashes alone": (EMBED, lambda: b'{"model":"all-minilm","input":["' + b"\\" * 8_000_000),
    "an ill-formed list": (
        EMBED,
        lambda: b'{"model":"all-minilm","input":[%b]}' % b",".join([b'"%b"' % (b"ab, c \xff " * 200)] * 4000),
    ),
    "a list with an ill-formed end": (
        EMBED,
        lambda: b'{"model":"all-minilm","input":[%b,"\\ud800"]}' % b",".join(b'"text %d"' % n for n in range(16_000)),
    ),
    "a long ill-formed text": (
        EMBED,
        lambda: b'{"model":"all-minilm","input":["x","%b"]}' % (b"\xff" * 9_000 + b"a" * 7_000_000),
    ),
    "a prompt of 8 MB": (GENERATE, lambda: written(GENERATE, prompt=prose(8_000_000))),
    "a prompt of 8 MB, not ASCII": (GENERATE, lambda: written(GENERATE, prompt=prose(4_000_000, "абвгдежзиклмн"))),
    "images": (
        GENERATE,
        lambda: written(GENERATE, prompt="x", images=[base64.b64encode(Random(n).randbytes(1_900_000)).decode() for n in range(3)]),
    ),
    "a long chat": (CHAT, lambda: written(CHAT, messages=[{"role": "user", "content": text} for text in texts(2500, 2000)])),
    "a chat that is looked at": (
        CHAT,
        lambda: written(CHAT, messages=[{"role": "user", "content": text} for text in texts(450, 2000)]),
    ),
    "small messages that are looked at": (
        CHAT,
        lambda: written(CHAT, messages=[{"role": "user", "content": text} for text in texts(2000, 400)]),
    ),
    "a chat of small messages": (CHAT, lambda: written(CHAT, messages=[{"role": "user", "content": "x"}] * 200_000)),
    "an agent's tools": (
        "/v1/chat/completions",
        lambda: written("/v1/chat/completions", messages=[{"role": "user", "content": "x"}], tools=TOOLS),
    ),
    "an agent's many tools": (
        "/v1/chat/completions",
        lambda: written("/v1/chat/completions", messages=[{"role": "user", "content": "x"}], tools=TOOLS * 10),
    ),
    "a copy with empty objects": (
        "/api/copy",
        lambda: b'{"source":"x","destination":"tiny","more":[' + b"{}," * 2_700_000 + b"{}]}",
    ),
    "an upload": ("/v1/audio/transcriptions", lambda: upload(7 * MIB)),
}  # fmt: skip
"""Each is asked twice: the second time it may be a hit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A list of texts, and the width of its vectors."""

    path: str = EMBED
    prefix: str
    """Of each text: lists of one prefix share texts."""
    count: int
    size: int = 100
    """Characters of each text, about."""
    numbers: int
    base64: bool = False

    def body(self) -> bytes:
        more = {"encoding_format": "base64"} if self.base64 else {}
        return written(self.path, input=[self.prefix + text for text in texts(self.count, self.size)], **more)


LISTS: dict[str, Asked] = {
    "2,048 texts of 3,800 characters": Asked(prefix="a", count=2048, size=3800, numbers=384),
    "1,000 vectors of 4,096 numbers": Asked(prefix="b", count=1000, numbers=4096),
    "2,048 vectors of 4,096 numbers": Asked(prefix="c", count=2048, numbers=4096),
    "2,000 of 2,048 texts": Asked(prefix="d", count=2000, size=3800, numbers=384),
    "the rest of 2,048 texts": Asked(prefix="d", count=2048, size=3800, numbers=384),
    "16,000 texts": Asked(prefix="e", count=16_000, numbers=384),
    "OpenAI's form": Asked(path="/v1/embeddings", prefix="f", count=2048, numbers=768),
    "known, as base64": Asked(path="/v1/embeddings", prefix="f", count=2048, numbers=768, base64=True),
    "base64": Asked(path="/v1/embeddings", prefix="g", count=2048, numbers=768, base64=True),
}
UNSTORED = ("2,048 vectors of 4,096 numbers", "16,000 texts")
"""Over `max_list_bytes`."""

DETAILS = {
    "numbers": "slow-to-read",
    "empty objects": "slow-to-read",
    "depth": "slow-to-read",
    "100,000 texts": "slow-to-read",
    "an ill-formed list": "not-json",
}
HITS = ("a prompt of 8 MB", "images", "a long chat", "an agent's tools", "an upload", "small names that stay quick")


def vectors(count: int, numbers: int, *, base64_: bool) -> list[bytes]:
    """Return vectors as Ollama writes them, some with an exponent; few of them differ."""
    source = Random(numbers)
    floats = [
        [struct.unpack("<f", struct.pack("<f", source.gauss(0, 0.05)))[0] for _ in range(numbers)] for _ in range(4)
    ]
    if base64_:
        few = [b'"%b"' % base64.b64encode(struct.pack(f"<{numbers}f", *row)) for row in floats]
    else:
        few = [b"[%b]" % b",".join(go_floats.text(number).encode() for number in row) for row in floats]
    return [few[place % len(few)] for place in range(count)]


def listed(asked: Asked, count: int, *, base64_: bool) -> bytes:
    """Return Ollama's response to a request for `count` texts of a list."""
    rows = vectors(count, asked.numbers, base64_=base64_)
    if asked.path == EMBED:
        figures = b'"total_duration":5,"load_duration":1,"prompt_eval_count":%d' % (3 * count)
        return b'{"model":"all-minilm","embeddings":[%b],%b}' % (b",".join(rows), figures)
    data = b",".join(b'{"object":"embedding","embedding":%b,"index":%d}' % (row, at) for at, row in enumerate(rows))
    usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (3 * count, 3 * count)
    return b'{"object":"list","data":[%b],"model":"all-minilm","usage":%b}\n' % (data, usage)


async def answered(talk: Conversation) -> None:
    """Answer as Ollama does, with few numbers."""
    await talk.read_body()
    path = talk.request_line.split()[1].decode()
    if path == EMBED:
        body = b'{"model":"all-minilm","embeddings":[[0.5,0.25]],"total_duration":5,"load_duration":1,"prompt_eval_count":3}'
    elif path == "/v1/audio/transcriptions":
        body = b'{"text":"ok"}'
    elif path.startswith("/v1/"):
        choice = b'{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}'
        body = b'{"object":"chat.completion","choices":[%b],"usage":{"prompt_tokens":1,"completion_tokens":1}}' % choice
    else:
        body = b'{"response":"ok","message":{"role":"assistant","content":"ok"},"done":true,"done_reason":"stop"}'
    await talk.write(whole(body))


class Measuring:
    """A measured proxy, and whoever asks it. What it did to start does not count."""

    def __init__(self, url: str, log: TurnLog, measured: Measured) -> None:
        self.url, self.log, self.measured = url, log, measured
        self._started = False

    async def _start(self) -> None:
        if not self._started:
            assert (await ask(self.url, "GET", "/healthz")).status == 200
            self.log.since_last()
            self._started = True

    async def ask(self, path: str, body: bytes, name: str, fields: dict[str, str] | None = None) -> RawAnswer:
        """Ask, and measure the longest turn until some moments after the response."""
        await self._start()
        kind = {"Content-Type": "multipart/form-data; boundary=of-a-form"} if body.startswith(b"--of") else fields
        async with await RawConnection.open(self.url) as connection, asyncio.timeout(60):
            connection.send("POST", path, body=body, fields=kind)
            answer = await connection.answer()
        assert (await ask(self.url, "GET", "/healthz")).status == 200
        turn = self.log.longest()
        said = answer.field("Cache-Status")
        sys.stdout.write(f"{name}: {turn.ms:.1f} ms, {turn.longest_ms:.1f} ms of them {turn.ran}; {said}\n")
        self.measured(42, "turn", turn.ms)
        return answer


def chunked(chunks: list[bytes], kind: bytes = b"application/x-ndjson") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (kind, body)


def line(text: str, *, done: bool = False) -> bytes:
    said = {"model": "tiny", "created_at": "2026-01-01T00:00:00Z", "response": text, "done": done}
    return json.dumps(said | ({"done_reason": "stop"} if done else {})).encode() + b"\n"


RESPONSES: dict[str, tuple[str, dict[str, Any], Callable[[], bytes]]] = {
    "a vector of 30 MB": ("/api/embeddings", {"prompt": "a"}, lambda: whole(b'{"embedding":[' + b"0.1234567," * 3_000_000 + b"1]}")),
    "a list of a vector of 5 MB": (EMBED, {"input": ["a"]}, lambda: whole(b'{"embeddings":[[' + b"0.1234567," * 500_000 + b"1]]}")),
    "20 MB of brackets": (EMBED, {"input": ["b"]}, lambda: whole(b"[" * 20 * MIB)),
    "16 MB of empty vectors": (EMBED, {"input": ["c"]}, lambda: whole(b'{"embeddings":[' + b"[]," * 5 * MIB + b"[]]}")),
    "16 MB of empty objects": (EMBED, {"input": ["d"]}, lambda: whole(b'{"embeddings":[' + b"{}," * 5 * MIB + b"{}]}")),
    "1 MB of empty lists": (GENERATE, {"prompt": "a"}, lambda: whole(b'{"response":"x","context":[' + b"[]," * 300_000 + b"1]}")),
    "a context of 150,000 tokens": (
        GENERATE,
        {"prompt": "b"},
        lambda: whole(b'{"response":"x","context":[' + b"12345," * 150_000 + b'1],"done":true,"done_reason":"stop"}'),
    ),
    "30 MB of text": (GENERATE, {"prompt": "c"}, lambda: whole(line("a" * 30 * MIB, done=True))),
    "a stream of 8,000 lines": (GENERATE, {"prompt": "d", "stream": True}, lambda: chunked([line("a")] * 8000 + [line("", done=True)])),
    "a stream with a line of 30 MB": (GENERATE, {"prompt": "e", "stream": True}, lambda: chunked([line("a" * 30 * MIB), line("", done=True)])),
    "a stream of 40,000 chunks of a byte": (GENERATE, {"prompt": "f", "stream": True}, lambda: chunked([b"a"] * 40_000)),
    "a text of 40,000 chunks of a byte": (
        GENERATE,
        {"prompt": "g", "stream": True},
        lambda: chunked([b"%c" % byte for byte in line("a" * 40_000, done=True)]),
    ),
    "30 MB that are relayed": ("/api/show", {}, lambda: whole(b"x" * 30 * MIB)),
}  # fmt: skip
KEPT = ("a context of 150,000 tokens", "a stream of 8,000 lines")


@pytest.mark.row(42)
async def test_no_response_holds_the_loop(tmp_path: Path, measured: Measured) -> None:
    answer = b""

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(answer)

    async with byte_upstream(script) as upstream:
        arguments = ("--listen", "127.0.0.1:0", "--upstream", upstream.url, "--cache-streams")
        async with serve_measured(tmp_path / "turns", *arguments, store="memory") as (command, log):
            measuring = Measuring(await command.url(), log, measured)
            for name, (path, members, make) in RESPONSES.items():
                answer = make()
                body = json.dumps({"model": "tiny", "stream": False, **members}).encode()
                if path != GENERATE:
                    body = json.dumps({"model": "tiny", **members}).encode()
                first, second = [await measuring.ask(path, body, name) for _ in range(2)]
                assert first.body == second.body, name
                assert ("ollama-cache-proxy; hit" in str(second.field("Cache-Status"))) == (name in KEPT), name


def event(name: str, **members: Any) -> bytes:
    said = json.dumps({"type": name, **members}).encode()
    return b"event: %b\ndata: %b\n\n" % (name.encode(), said) if name else b"data: %b\n\n" % said


def choice(reason: str | None) -> bytes:
    return event("", id="chatcmpl-1", choices=[{"index": 0, "delta": {"content": "a"}, "finish_reason": reason}])


USED = {"input_tokens": 7, "output_tokens": 3}
STREAMS: dict[str, tuple[dict[str, Any], bytes, bytes]] = {
    GENERATE: ({"prompt": "a"}, line("a"), line("", done=True)),
    "/v1/chat/completions": ({}, choice(None), choice("stop") + b"data: [DONE]\n\n"),
    "/v1/responses": (
        {"input": "a"},
        event("response.output_text.delta", delta="a"),
        event("response.completed", response={"object": "response", "status": "completed", "usage": USED}),
    ),
    "/v1/messages": (
        {"max_tokens": 9},
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"}),
        event("message_delta", delta={"stop_reason": "max_tokens"}, usage=USED) + event("message_stop"),
    ),
}
"""The request's own members, a part of the stream, and its end."""


@pytest.mark.row(42)
@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_no_stored_stream_holds_the_loop(
    store: str, redis_server: RedisServer, tmp_path: Path, measured: Measured
) -> None:
    """Of nearly 1 MiB, the most that is stored by default: recorded, read, stored, looked up and replayed."""
    answer = b""

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(answer)

    settings = {"store": "memory"} if store == "memory" else {"redis_url": redis_server.url}
    settings |= {f"cache_{operation}": "always" for operation in OPERATIONS}
    async with byte_upstream(script) as upstream:
        arguments = ("--listen", "127.0.0.1:0", "--upstream", upstream.url, "--cache-streams")
        async with serve_measured(tmp_path / "turns", *arguments, **settings) as (command, log):
            measuring = Measuring(await command.url(), log, measured)
            for path, (members, part, end) in STREAMS.items():
                parts = [part] * ((MIB - 2000) // len(part)) + [end]
                answer = chunked(parts, b"application/x-ndjson" if path == GENERATE else b"text/event-stream")
                asked = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "x"}], **members}
                for _ in range(20):
                    seen = await measuring.ask(path, json.dumps(asked).encode(), f"{path} as a stream")
                    assert seen.body == b"".join(parts), path
                    status = str(seen.field("Cache-Status"))
                    if "; hit" in status and "collapsed" not in status:
                        break
                else:
                    raise AssertionError(status)


@pytest.mark.row(42)
async def test_no_table_of_ten_thousand_models_holds_the_loop(
    upstream_url: str, tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    details = {"format": "gguf", "family": "llama", "families": ["llama"], "embedding_length": 4096}
    models = [{"name": f"m{n}:latest", "digest": f"{n:064}", "size": n, "details": details} for n in range(10_000)]
    monkeypatch.setattr(upstream_module, "TAGS", json.dumps({"models": models}).encode())
    arguments = ("--listen", "127.0.0.1:0", "--upstream", upstream_url)
    async with serve_measured(tmp_path / "turns", *arguments, store="memory") as (command, log):
        measuring = Measuring(await command.url(), log, measured)
        body = json.dumps({"model": "m9999", "stream": False, "prompt": "a"}).encode()
        first, second = [await measuring.ask(GENERATE, body, "a table of 10,000 models") for _ in range(2)]
        assert "stored" in str(first.field("Cache-Status"))
        assert "; hit" in str(second.field("Cache-Status"))


@pytest.mark.row(42)
async def test_no_request_in_chunks_of_a_byte_holds_the_loop(
    upstream_url: str, tmp_path: Path, measured: Measured
) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--upstream", upstream_url)
    async with serve_measured(tmp_path / "turns", *arguments, store="memory") as (command, log):
        measuring = Measuring(await command.url(), log, measured)
        body = json.dumps({"model": "tiny", "stream": False, "prompt": "a" * 200_000}).encode()
        data = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        answer = await measuring.ask(GENERATE, data, "chunks of a byte", {"Transfer-Encoding": "chunked"})
        assert "stored" in str(answer.field("Cache-Status"))


@pytest.fixture
async def upstream_url() -> AsyncIterator[str]:
    async with byte_upstream(answered) as upstream:
        yield upstream.url


@pytest.mark.row(42)
async def test_no_request_holds_the_loop(upstream_url: str, tmp_path: Path, measured: Measured) -> None:
    settings = {"store": "memory"} | {f"cache_{operation}": "always" for operation in OPERATIONS}
    arguments = ("--listen", "127.0.0.1:0", "--upstream", upstream_url)
    command: Command
    async with serve_measured(tmp_path / "turns", *arguments, **settings) as (command, log):
        measuring = Measuring(await command.url(), log, measured)
        for name, (path, make) in REQUESTS.items():
            body = make()
            first, second = [await measuring.ask(path, body, name) for _ in range(2)]
            status = str(second.field("Cache-Status"))
            assert first.status == second.status == 200, name
            assert f"detail={DETAILS.get(name, '')}" in status or name not in DETAILS, (name, status)
            assert "; hit" in status or name not in HITS, (name, status)


@pytest.mark.row(42)
@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_no_list_holds_the_loop(
    store: str, redis_server: RedisServer, tmp_path: Path, measured: Measured
) -> None:
    """Large responses are cut, checked, stored, found and joined piece by piece."""
    under_way: Asked | None = None

    async def script(talk: Conversation) -> None:
        body = json.loads(await talk.read_body())
        assert under_way is not None
        made = listed(under_way, len(body["input"]), base64_=body.get("encoding_format") == "base64")
        kind = "application/json; charset=utf-8" if under_way.path == EMBED else "application/json"
        await talk.write(whole(made, kind=kind))

    settings = (
        {"store": "memory", "memory_bytes": str(1 << 30)} if store == "memory" else {"redis_url": redis_server.url}
    )
    async with byte_upstream(script) as upstream:
        arguments = ("--listen", "127.0.0.1:0", "--upstream", upstream.url)
        async with serve_measured(tmp_path / "turns", *arguments, **settings) as (command, log):
            measuring = Measuring(await command.url(), log, measured)
            for name, asked in islice(LISTS.items(), 3 if store == "memory" else None):
                if store == "redis" and name in UNSTORED:
                    continue
                under_way, body = asked, asked.body()
                first = await measuring.ask(asked.path, body, name)
                assert first.status == 200, name
                assert len(first.body) > asked.count * asked.numbers * 5, name
                for _ in range(0 if name in UNSTORED else 20):
                    again = await measuring.ask(asked.path, body, name)
                    if str(again.field("Cache-Status")).startswith("ollama-cache-proxy; hit"):
                        break  # before, it is collapsed: the entries are being made
                else:
                    assert name in UNSTORED, name


def packed_entry(number: int, mark: str, **changes: Any) -> bytes:
    key = hashlib.sha256(b"%d" % number).hexdigest()
    entry = replace(VECTOR, stored_at=time.time() - 1, scope=mark, **changes)
    return record_of(key, entry_codec.encode(key, entry))


def completion(size: int) -> dict[str, Any]:
    body = b'{"model":"tiny","response":"%b","done":true,"done_reason":"stop"}' % (b"a" * size)
    return {"operation": "generate", "body": body}


PACKS: dict[str, Callable[[str], bytes]] = {
    "records that are no entries": lambda _: (b"\1" * 32 + bytes(4)) * (8 * MIB // 36),
    "many small entries": lambda mark: b"".join(packed_entry(number, mark) for number in range(16_000)),
    "entries with many fields": lambda mark: b"".join(
        packed_entry(number, mark, fields=tuple((b"X-%d" % line, b"x") for line in range(10_000)))
        for number in range(30)
    ),
    "large completions": lambda mark: b"".join(packed_entry(number, mark, **completion(MIB)) for number in range(8)),
    "a completion of 8 MB": lambda mark: packed_entry(0, mark, **completion(8 * MIB - 4096)),
}


@pytest.mark.row(42)
@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_no_pack_holds_the_loop(
    store: str, redis_server: RedisServer, tmp_path: Path, measured: Measured
) -> None:
    """Entries that come in, those that are known already, and those that leave."""
    settings = {"store": "memory"} if store == "memory" else {"redis_url": redis_server.url}
    settings |= {"admin_token": canary.TOKEN, "max_entry_bytes": str(16 * MIB)}
    token = {"Authorization": f"Bearer {canary.TOKEN}"}
    async with Simulator(Behaviour(embedding_delay=0.0)) as simulator:
        arguments = ("--listen", "127.0.0.1:0", "--upstream", simulator.url)
        async with serve_measured(tmp_path / "turns", *arguments, **settings) as (command, log):
            measuring = Measuring(await command.url(), log, measured)
            body = json.dumps({"model": "all-minilm", "input": ["x"]}).encode()
            await measuring.ask(EMBED, body, "a text")
            page = await ask(measuring.url, "GET", f"{EXPORT}?model=all-minilm", fields=token)
            mark = next(
                entry.scope
                for key, value in records(page.body)
                if (entry := entry_codec.decode(key, value)) is not None
            )
            for name, make in PACKS.items():
                data = make(mark)
                for _ in range(2):
                    answer = await measuring.ask(f"{IMPORT}?model=all-minilm", data, name, token)
                    assert answer.status == 200, answer.body
            cursor: str | None = ""
            log.since_last()
            while cursor is not None:
                page = await ask(measuring.url, "GET", f"{EXPORT}?model=all-minilm&cursor={cursor}", fields=token)
                cursor = json.loads(page.body[page.body.rindex(b'{"cursor"') :])["cursor"]
            assert (await ask(measuring.url, "GET", "/healthz")).status == 200
            turn = log.longest()
            sys.stdout.write(f"export: {turn.ms:.1f} ms, {turn.longest_ms:.1f} ms of them {turn.ran}\n")
            measured(42, "turn", turn.ms)


BUSY = """
import asyncio, sys, time
from pathlib import Path
from tests.support.turns import measure

async def busy():
    await asyncio.sleep(0)
    ends = time.thread_time() + 0.05
    while time.thread_time() < ends:
        pass
    await asyncio.sleep(0)
    time.sleep(0.05)

with Path(sys.argv[1]).open("a") as file:
    measure(file)
    asyncio.run(busy())
"""


async def test_a_long_turn_is_seen_and_waiting_is_none(tmp_path: Path) -> None:
    """What the tests of this file rest on."""
    log = TurnLog(tmp_path / "turns")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", BUSY, str(log.path))
    assert await process.wait() == 0
    (turn,) = [turn for turn in log.since_last() if turn.ran.startswith("busy ")]
    assert turn.ms >= turn.longest_ms >= 50
    assert log.since_last() == []
