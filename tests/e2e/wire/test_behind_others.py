"""The proxy behind a tunnel or an nginx: other names, and a path before every other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support import canary
from tests.support.nginx import nginx_before
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before
from tests.support.upstream import answering, byte_upstream, whole

GENERATE = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
HOSTS = ["box.example", "*.ts.net"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("box.example", 200),
        ("BOX.example:443", 200),
        ("laptop.tail1.ts.net", 200),
        ("localhost", 200),
        ("ts.net", 403),
        ("evil.example", 403),
        ("box.example.evil.example", 403),
    ],
)
async def test_a_host_that_is_named_is_allowed_for_every_route_and_for_hits(
    host: str, status: int, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, allowed_hosts=HOSTS) as proxy:
        await ask(proxy.url, "POST", "/api/generate", body=GENERATE)
        await proxy.kept()
        for path in ("/api/version", "/api/cache/stats", "/cache", "/metrics"):
            assert (await ask(proxy.url, "GET", path, fields={"Host": host})).status == status
        for _ in range(3):
            answer = await ask(proxy.url, "POST", "/api/generate", body=GENERATE, fields={"Host": host})
            assert (answer.status, answer.field("X-Cache")) == (status, "HIT" if status == 200 else "BYPASS")


async def test_a_page_behind_a_tunnel_is_of_the_proxys_own_origin(simulator: Simulator) -> None:
    own = {"Host": "laptop.tail1.ts.net", "Origin": "https://laptop.tail1.ts.net"}
    async with proxy_before(simulator.url, allowed_hosts=HOSTS) as proxy:
        assert (await ask(proxy.url, "GET", "/api/version", fields=own)).status == 200
        assert (await ask(proxy.url, "POST", "/api/cache/clear", fields=own)).status == 200
        foreign = own | {"Origin": "https://evil.ts.net"}
        assert (await ask(proxy.url, "POST", "/api/cache/clear", fields=foreign)).status == 403


PATHS = [
    "/api/version",
    "/api/tags",
    "/",
    "/v1/models",
    "/healthz",
    "/readyz",
    "/metrics",
    "/cache",
    "/cache/page.js",
    "/nowhere",
]


@pytest.mark.parametrize("path", PATHS)
async def test_under_the_prefix_everything_is_as_without_it(path: str, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, path_prefix="/ollama") as proxy:
        for method in ("GET", "HEAD"):
            inside, outside = [await ask(proxy.url, method, target) for target in ("/ollama" + path, path)]
            assert (inside.status, inside.field("Content-Type")) == (outside.status, outside.field("Content-Type"))
            assert inside.body == outside.body or path == "/metrics"


async def test_what_goes_to_ollama_has_no_prefix_and_hits_are_shared(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, path_prefix="/a/b/") as proxy:
        answers = []
        for target in ("/a/b/api/generate", "/api/generate", "/a/b/api/generate", "/a/b/api/generate"):
            answers.append((await ask(proxy.url, "POST", target, body=GENERATE)).field("X-Cache"))
            await proxy.kept()
        assert answers == ["MISS", "HIT", "HIT", "HIT"]
        await ask(proxy.url, "GET", "/a/b")
        await ask(proxy.url, "GET", "/a/b?x")
        await ask(proxy.url, "GET", "/a/bc")
        targets = [
            one.target for one in simulator.received if one.target not in ("/api/tags", "/api/version", "/api/ps")
        ]
        assert targets == ["/api/generate", "/", "/?x", "/a/bc"]


async def test_only_a_request_under_the_prefix_gets_a_redirect_under_it() -> None:
    said = whole(b"{}", status="307 Temporary Redirect").replace(b"\r\n\r\n", b"\r\nLocation: /api/tags\r\n\r\n")
    async with byte_upstream(answering(said)) as upstream, proxy_before(upstream.url, path_prefix="/ollama") as proxy:
        for target, location in (("/ollama/api/tags/", "/ollama/api/tags"), ("/api/tags/", "/api/tags")):
            answer = await ask(proxy.url, "GET", target)
            assert (answer.status, answer.field("Location")) == (307, location)


async def test_listing_under_the_prefix_needs_the_token_too(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, path_prefix="/ollama", listen="0.0.0.0:0") as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        token = {"Authorization": f"Bearer {canary.TOKEN}"}
        for target in ("/ollama/api/cache/entries", "/api/cache/entries"):
            assert (await ask(url, "GET", target)).status == 401
            assert (await ask(url, "GET", target, fields=token)).status == 200


async def test_behind_nginx_without_rewriting(simulator: Simulator, tmp_path: Path) -> None:
    async with proxy_before(simulator.url, path_prefix="/ollama") as proxy:
        async with nginx_before(proxy.url, tmp_path, "") as url:
            answer = await asyncio.wait_for(ask(url, "POST", "/ollama/api/generate", body=GENERATE), 10)
            assert (answer.status, answer.field("X-Cache")) == (200, "MISS")
            page = (await ask(url, "GET", "/ollama/cache")).body.decode()
            for link in ("cache/page.css", "cache/page.js", "cache/icon.svg"):
                assert f'"{link}"' in page, "relative to the page, so under the prefix"
                assert (await ask(url, "GET", f"/ollama/{link}")).status == 200
