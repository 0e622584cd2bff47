"""A real Prometheus asks a working proxy, a failing one and the GPU exporter; whatever is asked of it has an answer."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import redis

from dashboards.generate import dashboard
from ollama_cache_proxy.stores import entry_codec
from tests.support.planted import wrong
from tests.support.processes import gpu, serve, simulate
from tests.support.prometheus import ROOT, asked, compared
from tests.support.rawhttp import ask
from tests.support.servers import RedisServer, free_port
from tests.support.upstream import Conversation, byte_upstream
from tests.support.waiting import until

CONFIG = ROOT / "config" / "prometheus" / "prometheus.yml"
ANSWERS_WITHIN = 35.0
TOLD = (
    b'{"model":"tiny","message":{"role":"assistant","content":"x"},"done":true,"total_duration":9,'
    b'"prompt_eval_count":1598,"prompt_eval_cached_count":1580,"prompt_eval_duration":440000000}'
)
WORKING = ("--cache-streams", "--cache", "embeddings=read-only")


async def post(url: str, path: str, category: str = "", **body: Any) -> int:
    fields = {"X-Cache-Category": category} if category else {}
    return (await ask(url, "POST", path, fields=fields, body=json.dumps(body).encode())).status


async def a_round(url: str, number: int) -> None:
    """Ask for what is old and what is new, for two at once, streams and lists, and for what is passed on."""
    text = {"model": "tiny", "stream": False}
    await post(url, "/api/generate", **text, prompt="old")
    await post(url, "/api/generate", "docs", **text, prompt=f"new {number}")
    await post(url, "/api/generate", "docs", **text, prompt="old")
    await asyncio.gather(*(post(url, "/api/generate", **text, prompt=f"at once {number}") for _ in range(2)))
    await post(url, "/api/generate", model="tiny", prompt="old")
    await post(url, "/api/generate", model="tiny", prompt=f"new {number}")
    await post(url, "/api/chat", model="tiny", messages=[{"role": "user", "content": "why"}])
    await post(url, "/api/embed", model="all-minilm", input=["old", f"new {number}"])
    await post(url, "/api/embeddings", model="all-minilm", prompt=f"new {number}")
    assert await post(url, "/api/generate", model="nobody", prompt="why") == 404


async def in_vain(url: str) -> None:
    """Ask a proxy that has no Ollama."""
    assert await post(url, "/api/generate", model="tiny", prompt="why") == 502


async def told(talk: Conversation) -> None:
    """Answer as an Ollama that tells how much of a prompt came from its prompt cache."""
    await talk.read_body()
    await talk.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(TOLD))
    await talk.write(TOLD)


async def find_a_wrong_entry(url: str, store: redis.Redis) -> None:
    """Have the audit of a proxy find an entry that was made wrong."""
    asked = {"model": "all-minilm", "prompt": "planted"}
    await post(url, "/api/embeddings", **asked)
    await until(lambda: store.keys("ocp:1:e:*"))
    (name,) = store.keys("ocp:1:e:*")
    key = name.decode().rpartition(":")[2]
    entry = entry_codec.decode(key, store.get(name))
    assert entry is not None
    store.set(name, entry_codec.encode(key, wrong(entry)), keepttl=True)
    await post(url, "/api/embeddings", **asked)
    await until(lambda: not store.exists(name), 30)


LANES = {"OCP_LANES": "interactive-first", "OCP_LANES_INTERACTIVE_SLOTS": "1", "OCP_LANES_MAX_WAITING": "1"}


async def on_and_on(working: str, failing: str, telling: str, several: str) -> None:
    for number in itertools.count():
        await a_round(working, number)
        await in_vain(failing)
        chats = (post(several, "/api/chat", model="tiny", messages=[{"role": "user", "content": "why"}]) for _ in "abc")
        await asyncio.gather(*chats)  # one is under way, one waits, one is refused
        await post(telling, "/api/chat", model="tiny", messages=[{"role": "user", "content": "why"}])
        rules = {"role": "system", "content": f"Turn {number:06}. {'Be brief, and say what you know. ' * 50}"}
        await post(telling, "/api/chat", model="tiny", messages=[rules, {"role": "user", "content": "why"}])


@asynccontextmanager
async def watching(prometheus: str, config: str, folder: Path) -> AsyncIterator[str]:
    """Run a Prometheus of the test's own, on a port that the kernel chooses; gives its URL."""
    file = folder / "prometheus.yml"
    file.write_text(config)
    process = await asyncio.create_subprocess_exec(
        *(prometheus, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"),
        "--web.listen-address=127.0.0.1:0",
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said: list[bytes] = []
    try:
        async with asyncio.timeout(20):
            async for line in process.stderr:
                said.append(line)
                if b"Server is ready" in line:
                    break
        log = b"".join(said).decode()
        found = re.search(r'msg="Listening on".* address=(\S+)', log)  # 3 names the component in between
        assert found is not None, log
        rest = asyncio.create_task(process.stderr.read())
        yield f"http://{found[1]}"
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)
        assert b"level=error" not in (await rest).lower()  # 3 writes it in capitals
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def rewritten(proxies: tuple[str, ...], cards: str) -> str:
    """The configuration as it is, with the test's addresses, and a second where it has a quarter of a minute."""
    config = CONFIG.read_text("utf-8")
    places = {
        "15s": "1s",
        "rules/*.yml": str(CONFIG.parent / "rules" / "*.yml"),
        '"127.0.0.1:11494"': ", ".join(f'"{urlsplit(url).netloc}"' for url in proxies),
        '"127.0.0.1:9400"': f'"{urlsplit(cards).netloc}"',
    }
    for old, new in places.items():
        assert old in config
        config = config.replace(old, new)
    own = '  - job_name: prometheus\n    static_configs:\n      - targets: ["127.0.0.1:9090"]\n'
    assert own in config
    return config.replace(own, "")


async def get(url: str, path: str, **parameters: str) -> Any:
    answer = json.loads((await ask(url, "GET", f"{path}?{urlencode(parameters)}")).body)
    assert answer["status"] == "success", answer
    return answer["data"]


async def has_answer(url: str, expr: str) -> bool:
    """Whether there is a number among the answers; where something was divided by nothing, there is none."""
    found = await get(url, "/api/v1/query", query=expr)
    return any(math.isfinite(float(sample["value"][1])) for sample in found["result"])


async def questions(url: str) -> Mapping[str, str]:
    """All that is asked: by panels, by rules as Prometheus has loaded them, and of what these record."""
    rules = [rule for group in (await get(url, "/api/v1/rules"))["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    return {
        **asked(dashboard()["panels"]),
        **{f"rule {rule['name']}": compared(rule["query"]) for rule in rules},
        **{f"record {rule['name']}": rule["name"] for rule in rules if rule["type"] == "recording"},
    }


async def unanswered(url: str, load: asyncio.Task[None]) -> Mapping[str, str]:
    """Ask until everything has had an answer, and give what had none in time."""
    left = await questions(url)
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWERS_WITHIN):
            while left:
                left = {name: expr for name, expr in left.items() if not await has_answer(url, expr)}
                assert not load.done(), load.exception()
    return left


async def test_all_that_the_dashboard_and_the_rules_ask_has_an_answer(prometheus: str, tmp_path: Path) -> None:
    server = RedisServer()
    server.start()
    async with AsyncExitStack() as stack:
        stack.callback(server.close)
        enter, anywhere = stack.enter_async_context, ("--listen", "127.0.0.1:0")
        _, ollama = await enter(simulate("--completion-ms", "20"))
        working = await enter(
            serve(*anywhere, "--upstream", ollama, *WORKING, environment={"OCP_REDIS_URL": server.url})
        )
        nobody = f"http://127.0.0.1:{free_port()}"
        failing = await enter(serve(*anywhere, "--upstream", nobody, environment={"OCP_STORE": "memory"}))
        upstream = await enter(byte_upstream(told))
        telling = await enter(serve(*anywhere, "--upstream", upstream.url, environment={"OCP_STORE": "memory"}))
        both = ("--upstream", ollama, "--upstream", nobody)
        several = await enter(serve(*anywhere, *both, environment={"OCP_STORE": "memory", **LANES}))
        _, cards = await enter(gpu("--replay", "h100"))
        second = server.url[:-1] + "1"
        settings = {"OCP_REDIS_URL": second, "OCP_AUDIT": "100%"}
        audited = await enter(serve(*anywhere, "--upstream", ollama, environment=settings))
        urls = await working.url(), await failing.url(), await telling.url()
        watched = (*urls, await audited.url(), await several.url())
        url = await enter(watching(prometheus, rewritten(watched, cards), tmp_path))

        with redis.Redis.from_url(second) as store:
            await find_a_wrong_entry(await audited.url(), store)
        await a_round(urls[0], -1)
        server.kill()
        await a_round(urls[0], -2)
        server.start()
        load = asyncio.create_task(on_and_on(*urls, await several.url()))
        try:
            left = await unanswered(url, load)
        finally:
            load.cancel()
        assert left == {}
        rules = [rule for group in (await get(url, "/api/v1/rules"))["groups"] for rule in group["rules"]]
        assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
