"""An Ollama behind a check: the proxy's own credentials, those of clients, and where neither may show."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support import canary
from tests.support.nginx import nginx_before
from tests.support.processes import Command, serve
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.upstream import ByteUpstream, answering, byte_upstream, whole
from tests.support.waiting import until

OURS = f"Bearer {canary.CREDENTIAL}"
GENERATE = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}
ANSWER = answering(whole(b'{"response":"x","done":true,"done_reason":"stop"}'))
EMBEDDED = answering(whole(b'{"embedding":[0.5]}'))


async def post(url: str, body: Any = GENERATE, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", "/api/generate", body=json.dumps(body).encode(), fields=named)


async def ready(url: str, query: str = "") -> tuple[int, dict[str, Any]]:
    answer = await ask(url, "GET", f"/readyz{query}")
    return answer.status, json.loads(answer.body)


async def up(url: str) -> str:
    lines = (await ask(url, "GET", "/metrics")).body.decode().splitlines()
    return next(line for line in lines if line.startswith("ollama_cache_proxy_upstream_up ")).split()[1]


def sent(upstream: ByteUpstream) -> list[list[bytes]]:
    return [talk.values(b"Authorization") for talk in upstream.seen]


# looks: what the proxy asks of itself


async def test_clients_with_credentials_are_cached_where_the_proxy_has_its_own() -> None:
    async with byte_upstream(ANSWER, authorization=OURS) as upstream, proxy_before(upstream.url) as proxy:
        first, again = [await post(proxy.url, Authorization=OURS) for _ in range(2)]
        assert [answer.field("X-Cache") for answer in (first, again)] == ["MISS", "HIT"]
        assert await ready(proxy.url) == (200, {"status": "ok", "upstream": "ok", "store": "ok"})
        without = await post(proxy.url)
        assert (without.status, without.body, without.field("X-Cache")) == (401, b"no", "MISS")
        assert sent(upstream) == [[OURS.encode()], []]
        looks = {talk.request_line.split()[1] for talk in upstream.looks}
        assert looks == {b"/api/version", b"/api/tags", b"/api/ps"}
        assert [talk for talk in upstream.looks if talk.values(b"Authorization") != [OURS.encode()]] == []


async def test_a_user_in_the_url_is_sent_with_the_proxys_own_requests_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    basic = f"Basic {canary.BASIC}"
    async with byte_upstream(ANSWER, authorization=basic) as upstream:
        named = upstream.url.replace("//", f"//{canary.USER}:{canary.CREDENTIAL}@")
        async with proxy_before(named, upstream_authorization=None) as proxy:
            assert (await post(proxy.url, Authorization=basic)).field("X-Cache") == "MISS"
            assert (await post(proxy.url)).status == 401
            assert (await ready(proxy.url))[1]["upstream"] == "ok"
    assert sent(upstream) == [[basic.encode()], []]


async def test_what_the_proxy_asks_about_templates_has_them_too() -> None:
    answer = whole(b'{"details":{},"template":"{{ .Prompt }}","response":"x","done":true,"done_reason":"stop"}')
    async with byte_upstream(answering(answer), authorization=OURS) as upstream:
        async with proxy_before(upstream.url, cache_dated_templates=False) as proxy:
            await until_known(proxy, Authorization=OURS)
    shown = [talk for talk in upstream.seen if b"/api/show" in talk.request_line]
    assert shown
    assert [talk for talk in shown if talk.values(b"Authorization") != [OURS.encode()]] == []


@pytest.mark.parametrize(
    ("refusal", "ours", "whom"),
    [
        ("401 Unauthorized", None, "the proxy, which has no credentials (401)"),
        ("401 Unauthorized", "Bearer wrong", "the proxy's credentials (401)"),
        ("403 Forbidden", "Bearer wrong", "the proxy's credentials (403)"),
    ],
)
async def test_a_refusal_is_told_in_words_once_and_so_is_its_end(refusal: str, ours: str | None, whom: str) -> None:
    reason = f"Ollama refuses {whom}: set upstream_authorization"
    async with byte_upstream(ANSWER, authorization=OURS) as upstream:
        upstream.refusal = refusal
        async with proxy_before(upstream.url, upstream_authorization=ours) as proxy:
            for _ in range(3):
                answer = await post(proxy.url, Authorization=OURS)
                assert (answer.status, answer.field("X-Cache")) == (200, "BYPASS")
                assert "detail=no-digest" in (answer.field("Cache-Status") or "")
                told = {"status": "degraded", "upstream": "refused", "store": "ok", "reason": reason}
                assert await ready(proxy.url) == (200, told)
            assert (await ready(proxy.url, "?require=upstream"))[0] == 503
            assert await up(proxy.url) == "0.0"
            page = json.loads((await ask(proxy.url, "GET", "/api/cache/system")).body)
            assert page["upstream"] == {"state": "down", "reason": reason}
            assert proxy.log.getvalue().count(reason) == 1
            upstream.authorization = ""
            await until_known(proxy)
            assert (await ready(proxy.url))[1]["upstream"] == "ok"
            assert await up(proxy.url) == "1.0"
            assert proxy.log.getvalue().count("Connected to Ollama") == 2  # before it was first refused, and now


async def until_known(proxy: Proxy, **fields: str) -> None:
    """Ask until the table of models is known: the next probe may take seconds."""
    async with asyncio.timeout(20):
        while (await post(proxy.url, **fields)).field("X-Cache") == "BYPASS":
            await ready(proxy.url)


@pytest.mark.parametrize("for_whom", ["looks", "all"])
async def test_behind_an_nginx_with_a_check(for_whom: str, simulator: Simulator, tmp_path: Path) -> None:
    guard = f'if ($http_authorization != "{OURS}") {{ return 401; }}'
    async with nginx_before(simulator.url, tmp_path, guard) as nginx:
        async with proxy_before(nginx, upstream_authorization_for=for_whom) as proxy:
            mine = [(await post(proxy.url, Authorization=OURS)).field("X-Cache") for _ in range(2)]
            others = await post(proxy.url)
    assert mine == ["MISS", "HIT"]
    assert (others.status, others.field("X-Cache")) == ((401, "MISS") if for_whom == "looks" else (200, "HIT"))


# all: also requests of clients that have none


async def test_with_all_a_request_without_credentials_goes_out_with_the_proxys() -> None:
    async with byte_upstream(ANSWER, authorization=OURS) as upstream:
        async with proxy_before(upstream.url, upstream_authorization_for="all", cache_chat="off") as proxy:
            results = [
                (await post(proxy.url)).field("X-Cache"),
                (await post(proxy.url)).field("X-Cache"),
                (await post(proxy.url, Authorization=OURS)).field("X-Cache"),  # the very same value: one entry
            ]
            other = await post(proxy.url, Authorization="Bearer mine")
            relayed = await ask(proxy.url, "POST", "/api/show", body=b"{}")
    assert results == ["MISS", "HIT", "HIT"]
    assert (other.status, other.field("X-Cache"), relayed.status) == (401, "MISS", 200)
    assert sent(upstream) == [[OURS.encode()], [b"Bearer mine"], [OURS.encode()]]


async def test_with_all_a_placeholder_is_none() -> None:
    async with byte_upstream(ANSWER, authorization=OURS) as upstream:
        settings = {"upstream_authorization_for": "all", "placeholder_credentials": ["ollama"]}
        async with proxy_before(upstream.url, **settings) as proxy:
            first, again = await post(proxy.url, Authorization="Bearer ollama"), await post(proxy.url)
    assert (first.field("X-Cache"), again.field("X-Cache")) == ("MISS", "HIT")
    assert sent(upstream) == [[OURS.encode()]]


async def test_other_credentials_of_the_proxy_find_nothing_of_the_former(redis_server: RedisServer) -> None:
    async with byte_upstream(ANSWER) as upstream:
        for ours in ("Bearer a", "Bearer b"):
            settings = {"upstream_authorization_for": "all", "upstream_authorization": ours}
            async with proxy_before(upstream.url, redis_url=redis_server.url, **settings) as proxy:
                assert (await post(proxy.url)).field("X-Cache") == "MISS"


@pytest.mark.parametrize(
    ("listen", "for_whom", "said"),
    [("127.0.0.1:0", "all", 0), ("0.0.0.0:0", "all", 1), ("0.0.0.0:0", "looks", 0)],
)
async def test_off_loopback_the_start_says_that_the_proxy_is_the_only_guard(
    listen: str, for_whom: str, said: int, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, listen=listen, upstream_authorization_for=for_whom) as proxy:
        lines = [line for line in proxy.log.getvalue().splitlines() if "only guard" in line]
    assert len(lines) == said


# where they may not show


async def test_no_entry_has_them(redis_server: RedisServer) -> None:
    async with byte_upstream(ANSWER, authorization=OURS) as upstream:
        settings = {"upstream_authorization_for": "all", "explain": True}
        async with proxy_before(upstream.url, redis_url=redis_server.url, **settings) as proxy:
            await post(proxy.url)
            await post(proxy.url, Authorization=OURS)
            await proxy.kept()
            about = await ask(proxy.url, "POST", "/api/cache/explain", body=b'{"path":"/api/generate","body":{}}')
            canary.check(about.body.decode(), "an explanation")
        client = redis_server.client()
        names = client.keys("*")
        assert names
        for name in names:
            value = client.get(name) if client.type(name) == b"string" else str(client.hgetall(name)).encode()
            canary.check(f"{name!r} {value!r}".replace(canary.PROMPT, ""), "the store")


@pytest.mark.parametrize("store", ["private", "named"])
async def test_no_worker_and_no_private_store_has_them_in_its_environment(
    store: str, simulator: Simulator, redis_server: RedisServer
) -> None:
    secrets = {
        "OCP_UPSTREAM_AUTHORIZATION": OURS,
        "OCP_ADMIN_TOKEN": canary.TOKEN,
        "ocp_no_setting": canary.CREDENTIAL,
    }
    if store == "named":
        secrets["REDIS_URL"] = redis_server.url
    arguments = ("--workers", "2", "--listen", "127.0.0.1:0", "--upstream", simulator.url)
    async with serve(*arguments, environment=secrets) as command:
        url = await command.url()
        await command.line(lambda line: "2 workers serve" in line)
        assert (await post(url)).field("X-Cache") == "MISS"
        await until(lambda: credentials_seen(simulator))
        processes = below(command)
        assert len(processes) >= (2 if store == "named" else 3)
        for pid in processes:
            canary.check(about(pid, "environ") + about(pid, "cmdline"), f"process {pid}, {about(pid, 'cmdline')}")
        canary.check(about(command.process.pid, "cmdline"), "the command line")
        if store == "named":
            assert redis_server.client().dbsize() > 0


def credentials_seen(simulator: Simulator) -> set[bytes]:
    return {value for seen in simulator.received for name, value in seen.fields if name.lower() == b"authorization"}


def about(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_bytes().decode("latin-1")


def below(command: Command) -> list[int]:
    """Give the processes that a command has started, and those that they have."""
    found, waiting = [], [command.process.pid]
    while waiting:
        pid = waiting.pop()
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            waiting += map(int, children.read_text().split())
        found.append(pid)
    return [pid for pid in found if pid not in (command.process.pid, os.getpid())]
