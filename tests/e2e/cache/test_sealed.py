"""`seal_key_file`, end to end: what is in Redis tells nothing of requests and responses, and hits are hits as before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.service.seal_key_file import make_key
from ollama_cache_proxy.simulator import Simulator
from tests.support.keeping import place_of_a_person
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

PLANTED = {"X-Cache-Namespace": "planted-namespace", "X-Cache-Category": "planted-category"}
GENERATE: dict[str, Any] = {"model": "planted-model", "prompt": "planted-prompt", "stream": False}
EMBED: dict[str, Any] = {"model": "all-minilm", "input": ["planted-one", "planted-two"]}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "planted-chat"}]}
REQUESTS = (("/api/generate", GENERATE), ("/api/embed", EMBED), ("/api/chat", CHAT))
SHOWN = ("planted", "tiny", "all-minilm", "generate", "embed", "response", "Content-Type", "application/")
"""What a value in the clear shows."""


async def post(proxy: Proxy, path: str, body: Any) -> RawAnswer:
    return await ask(proxy.url, "POST", path, body=json.dumps(body).encode(), fields=PLANTED)


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    make_key(str(tmp_path / "key"))
    return str(tmp_path / "key")


@pytest.fixture
async def planted(simulator: Simulator) -> Simulator:
    body = json.dumps({"source": "tiny", "destination": "planted-model"}).encode()
    assert (await ask(simulator.url, "POST", "/api/copy", body=body)).status == 200
    return simulator


def values(server: RedisServer) -> dict[bytes, bytes]:
    """The entries in Redis."""
    client: Any = server.client()
    return {name: client.get(name) for name in client.keys("ocp:1:e:*")}


def result(answer: RawAnswer) -> str:
    """The member of Cache-Status that says how it was served."""
    return (answer.field("Cache-Status") or "").split("; ")[1]


@pytest.mark.parametrize("hot", [0, 1 << 20])
async def test_what_is_in_redis_shows_nothing_of_requests_and_responses(
    hot: int, planted: Simulator, redis_server: RedisServer, key_file: str
) -> None:
    settings = {"redis_url": redis_server.url, "hot_bytes": hot, "cache_chat": "always", "cache_streams": True}
    async with proxy_before(planted.url, explain=True, seal_key_file=key_file, **settings) as proxy:
        first = [await post(proxy, path, body) for path, body in REQUESTS]
        await until(lambda: len(values(redis_server)) == 4)
        again = [await post(proxy, path, body) for path, body in REQUESTS]
        stored = values(redis_server)
        page = json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)
        stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert "Entries are sealed before they are stored (seal_key_file)" in proxy.log.getvalue()
    assert [result(answer) for answer in first] == ["fwd=miss"] * 3
    assert [result(answer) for answer in again] == ["hit"] * 3
    assert [answer.body for answer in again[:1]] == [answer.body for answer in first[:1]]
    for name, value in stored.items():
        assert value.startswith(b"OCS1")
        assert not [text for text in SHOWN if text.encode() in value + name]
    assert redis_server.client().get("ocp:1:marks-key") is None
    assert {entry["category"] for entry in page["entries"]} == {"planted-category"}
    assert len(page["entries"]) == 4
    assert stats["store"]["sealed"] is True


async def test_the_same_requests_in_the_clear_show_all_of_it(planted: Simulator, redis_server: RedisServer) -> None:
    """Else the test before this one could not fail."""
    settings = {"redis_url": redis_server.url, "cache_chat": "always", "cache_streams": True}
    async with proxy_before(planted.url, **settings) as proxy:
        for path, body in REQUESTS:
            await post(proxy, path, body)
        await until(lambda: len(values(redis_server)) == 4)
        stored = b"".join(values(redis_server).values())
        stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
    shown = {text for text in SHOWN if text.encode() in stored}
    assert shown == set(SHOWN)
    assert stats["store"]["sealed"] is False


async def test_another_proxy_with_the_key_finds_what_was_sealed_and_one_without_it_does_not(
    simulator: Simulator, redis_server: RedisServer, key_file: str, tmp_path: Path
) -> None:
    make_key(str(tmp_path / "other"))
    body = {**GENERATE, "model": "tiny"}
    settings = {"redis_url": redis_server.url}
    async with proxy_before(simulator.url, seal_key_file=key_file, **settings) as proxy:
        await post(proxy, "/api/generate", body)
        await until(lambda: values(redis_server))
    found = []
    for sealed in ({"seal_key_file": key_file}, {"seal_key_file": str(tmp_path / "other")}, {}, {}):
        async with proxy_before(simulator.url, **settings, **sealed) as proxy:
            before = values(redis_server)
            found.append(result(await post(proxy, "/api/generate", body)))
            assert ("of another seal key" in proxy.log.getvalue()) == (found[-1] != "hit")
            if found[-1] != "hit":
                await until(lambda before=before: values(redis_server) != before)
    assert found == ["hit", "fwd=miss", "fwd=miss", "hit"]


async def test_fingerprints_need_no_key_in_the_store(
    simulator: Simulator, redis_server: RedisServer, key_file: str
) -> None:
    settings = {"redis_url": redis_server.url, "explain": True, "seal_key_file": key_file}
    near = {**GENERATE, "model": "tiny"}
    async with proxy_before(simulator.url, **settings) as proxy:
        await post(proxy, "/api/generate", near)
        await until(lambda: values(redis_server))
    async with proxy_before(simulator.url, **settings) as proxy:
        asked = {"path": "/api/generate", "headers": PLANTED, "body": {**near, "options": {"seed": 5}}}
        answer = await ask(proxy.url, "POST", "/api/cache/explain", body=json.dumps(asked).encode())
    assert json.loads(answer.body)["nearest"]["differs"] == ["options.seed"]


async def test_a_memory_store_says_that_it_does_not_seal(simulator: Simulator, key_file: str) -> None:
    async with proxy_before(simulator.url, seal_key_file=key_file) as proxy:
        stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert "seal_key_file has no effect: entries are in memory alone" in proxy.log.getvalue()
    assert stats["store"]["sealed"] is False


async def test_a_private_store_that_is_kept_is_known_with_the_key_and_its_files_show_nothing(
    simulator: Simulator, key_file: str, tmp_path: Path
) -> None:
    make_key(str(tmp_path / "other"))
    body = json.dumps({**GENERATE, "model": "tiny"}).encode()
    answers = []
    with place_of_a_person(simulator.url, tmp_path) as place:
        for key in (key_file, key_file, str(tmp_path / "other")):
            async with place.serve(OCP_SEAL_KEY_FILE=key) as serving, asyncio.timeout(30):
                fields = PLANTED | ({"Cache-Control": "only-if-cached"} if len(answers) == 1 else {})
                answers.append(await ask(serving.url, "POST", "/api/generate", body=body, fields=fields))
                while answers[-1].status == 504:  # the server is still loading
                    answers[-1] = await ask(serving.url, "POST", "/api/generate", body=body, fields=fields)
                await serving.end()
        kept = b"".join(path.read_bytes() for path in place.folder.rglob("*") if path.is_file())
    assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT", "MISS"]
    assert answers[1].body == answers[0].body
    assert b"OCS1" in kept
    assert not [text for text in ("planted-prompt", "planted-namespace", "response", "OCP1") if text.encode() in kept]
