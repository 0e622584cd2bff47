from __future__ import annotations

import json
from pathlib import Path

import pytest

from ollama_cache_proxy.cli.explain import described
from ollama_cache_proxy.cli.reasons import REASONS
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.simulator import Simulator
from tests.support import canary
from tests.support.rawhttp import ask
from tests.support.servers import Proxy, proxy_before
from tests.support.terminal import piped, terminal, widest
from tests.support.uploads import BOUNDARY, upload

BODY = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}

UNKEPT = {
    *("status", "content-type", "response-encoding", "set-cookie", "cache-control", "expired", "vary"),
    *(
        "incomplete",
        "answer-error",
        "answer-count",
        "answer-form",
        "answer-too-large",
        "model-changed",
        "store-unavailable",
        "read-only",
        "purged",
    ),
    *("recording", "write-only", "ttl-ignored", "directives-ignored", "items", "imported", "estimated-usage"),
}
"""Details of misses, which are not reasons for a bypass."""


def test_every_reason_for_passing_on_says_what_to_do() -> None:
    assert set(REASONS) | UNKEPT == {detail.value for detail in Detail}
    assert not set(REASONS) & UNKEPT


async def test_a_miss_then_a_hit(proxy: Proxy) -> None:
    body = json.dumps(BODY).encode()
    done = await piped("explain", "-", "--url", proxy.url, given=body)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("POST /api/generate: a miss: Ollama would be asked, and the response stored\n")
    assert "  Model tiny:latest\n" in done.out
    assert "OCP_EXPLAIN=true" in done.out
    await ask(proxy.url, "POST", "/api/generate", body=body)
    done = await piped("explain", "-", "--url", proxy.url, given=body)
    assert done.out.startswith("POST /api/generate: a hit, ")
    told = json.loads((await piped("explain", "-", "--url", proxy.url, "--json", given=body)).out)
    assert told["result"] == "hit"
    assert told["key"] in done.out


async def test_a_miss_names_the_nearest_entry(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, explain=True) as proxy:
        near = {**BODY, "options": {"seed": 1}}
        assert (
            "none of 0 entries"
            in (await piped("explain", "-", "--url", proxy.url, given=json.dumps(near).encode())).out
        )
        await ask(proxy.url, "POST", "/api/generate", body=json.dumps(BODY).encode())
        done = await piped("explain", "-", "--url", proxy.url, given=json.dumps(near).encode())
        assert "differs in: options" in done.out


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ([], '{"model": "tiny", "prompt": "x"}', "stream"),
        (["--path", "/api/chat"], '{"model": "tiny", "messages": []}', "opt-in"),
        ([], '{"model": "no-such-model", "prompt": "x", "stream": false}', "no-digest"),
        ([], '{"model": "a", "model": "tiny", "prompt": "x", "stream": false}', "duplicate-name"),
        (["--path", "/api/tags"], "", "endpoint"),
        (["--header", "Cookie: a=b"], '{"model": "tiny", "prompt": "x", "stream": false}', "cookie"),
        ([], "no json", "not-json"),
    ],
)
async def test_what_is_passed_on_says_why_and_what_to_do(
    path: list[str], body: str, detail: str, proxy: Proxy, tmp_path: Path
) -> None:
    file = tmp_path / "request.json"
    file.write_text(body)
    done = await piped("explain", str(file), "--url", proxy.url, *path)
    assert done.status == 0
    first, *rest = done.out.splitlines()
    assert first.endswith(f": a bypass: not looked up and not stored ({detail})")
    assert rest[0] == f"  Why   {REASONS[detail].text}."
    assert (len(rest) == 2) == bool(REASONS[detail].fix)


async def test_a_whole_request_names_its_path_and_fields(proxy: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    whole = {"path": "/api/embed", "headers": {"Cookie": "a=b"}, "body": {"model": "all-minilm", "input": "x"}}
    file.write_text(json.dumps(whole))
    assert (
        "POST /api/embed: a bypass: not looked up and not stored (cookie)"
        in (await piped("explain", str(file), "--url", proxy.url)).out
    )


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "the response stored"),
        ({"policy": "read-only"}, "the response not stored"),
        ({"detail": "store-unavailable"}, "the response not stored"),
        ({"result": "hit", "age": 3, "ttl": 4}, "a hit, 3 s old, fresh for 4 s more"),
    ],
)
def test_what_becomes_of_a_request(told: dict[str, object], said: str) -> None:
    whole = {"candidate": True, "policy": "always", "model": "m", "key": "k", "note": "", "result": "miss"} | told
    title, *_ = described({"path": "/api/generate"}, whole)
    assert title[0] == "POST /api/generate"
    assert said in title[1]


async def test_lists_say_how_many_texts_are_kept(proxy: Proxy) -> None:
    await ask(proxy.url, "POST", "/api/embed", body=b'{"model": "all-minilm", "input": "a"}')
    body = b'{"model": "all-minilm", "input": ["a", "b", "c"]}'
    assert (
        "  Texts 1 of 3 are stored\n"
        in (await piped("explain", "-", "--url", proxy.url, "--path", "/api/embed", given=body)).out
    )


async def test_on_a_terminal_it_reads_what_is_typed(proxy: Proxy) -> None:
    async with terminal("explain", "-", "--url", proxy.url, columns=60) as shown:
        shown.type('{"model": "tiny", "prompt": "x"}\n\x04')
        assert await shown.end() == 0
    assert "not stored (stream)" in " ".join(shown.text.split())
    assert widest(shown.text) <= 60


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["/nowhere.json"], "/nowhere.json cannot be read: No such file or directory"),
        (["-", "--header", "no colon"], "must be 'Name: value'"),
    ],
)
async def test_a_wrong_argument_is_said(given: list[str], said: str) -> None:
    done = await piped("explain", *given)
    assert done.status == 2
    assert said in done.err


async def test_what_is_not_text_is_explained_too(proxy: Proxy) -> None:
    """An upload is not text; for other endpoints such a body is no JSON."""
    done = await piped("explain", "-", "--url", proxy.url, given=b"\xff\xfe")
    assert (done.status, done.err) == (0, "")
    assert "not-json" in done.out
    kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
    about = ("--path", "/v1/audio/transcriptions", "--header", kind)
    done = await piped("explain", "-", "--url", proxy.url, *about, given=upload("tiny"))
    assert (done.status, done.err) == (0, "")
    assert "POST /v1/audio/transcriptions" in done.out
    assert "opt-in" in done.out


@pytest.mark.parametrize("changed", [True, False])
def test_a_changed_context_length_is_told_with_the_epoch_that_it_makes(changed: bool) -> None:
    length = 8192 if changed else 4096
    context = {"length": length, "first": 4096, "before": 4096, "since": 1.8e9, "epoch": "ctx=8192" if changed else ""}
    about = {"candidate": True, "model": "tiny:latest", "key": "k", "policy": "always", "context": context}
    _, *rows = described({"path": "/api/generate"}, {**about, "result": "miss", "nearest": None, "note": "x"})
    told = "ctx=8192: the context length changed from 4,096 to 8,192 tokens at 2027-01-15 08:00 UTC"
    assert [text for label, text in rows if label == "Epoch"] == ([told] if changed else [])
