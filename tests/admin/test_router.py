"""The proxy's own routes: their responses, and who may change anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ollama_cache_proxy.admin.own_route import Stream
from ollama_cache_proxy.admin.router import Access, Admin
from ollama_cache_proxy.policy.messages import Request, ResponseHead
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import ask
from tests.support.servers import Proxy, proxy_before

CHANGE = ("POST", "/api/cache/clear")


async def test_health_and_readiness(proxy: Proxy, simulator: Simulator) -> None:
    assert json.loads((await ask(proxy.url, "GET", "/healthz")).body) == {"status": "ok"}
    ready = await ask(proxy.url, "GET", "/readyz")
    assert (ready.status, json.loads(ready.body)) == (200, {"status": "ok", "upstream": "ok", "store": "ok"})
    await simulator.stop()
    degraded = await ask(proxy.url, "GET", "/readyz")
    assert (degraded.status, json.loads(degraded.body)["upstream"]) == (200, "down")
    for require, status in (("upstream", 503), ("store", 200), ("store,upstream", 503), ("gpu", 400)):
        assert (await ask(proxy.url, "GET", f"/readyz?require={require}")).status == status


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/api/cache/stats", "GET, HEAD"),
        ("GET", "/api/cache/clear", "POST"),
        ("DELETE", "/metrics", "GET, HEAD"),
    ],
)
async def test_another_method_is_a_405(method: str, path: str, allow: str, proxy: Proxy, simulator: Simulator) -> None:
    answer = await ask(proxy.url, method, path)
    assert (answer.status, answer.field("Allow")) == (405, allow)
    assert not [request for request in simulator.received if request.target == path]


async def test_head_has_no_body(proxy: Proxy) -> None:
    answer = await ask(proxy.url, "HEAD", "/healthz")
    assert (answer.status, answer.field("Content-Length")) == (200, "15")


@pytest.mark.parametrize(
    ("body", "status"),
    [(None, 200), (b"", 200), (b"{}", 200), (b"{", 400), (b'{"modell":"x"}', 400), (b"[]", 400), (b"x" * 70_000, 413)],
)
async def test_clear_refuses_an_invalid_body(body: bytes | None, status: int, proxy: Proxy) -> None:
    assert (await ask(proxy.url, *CHANGE, body=body)).status == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"Host": "my.local:1", "Origin": "http://my.local:1"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
    ],
)
async def test_who_may_clear_on_loopback(fields: dict[str, str], status: int, proxy: Proxy) -> None:
    assert (await ask(proxy.url, *CHANGE, fields=fields)).status == status


async def test_who_may_clear_on_a_listener_that_others_reach(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, listen="0.0.0.0:0", admin_token=None) as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        refused = await ask(url, *CHANGE, fields={"Authorization": "Bearer x"})
        assert (refused.status, b"OCP_ADMIN_TOKEN" in refused.body) == (403, True)
        assert (await ask(url, "GET", "/api/cache/stats", fields={"Host": "gpu.example"})).status == 200
    async with proxy_before(simulator.url, listen="0.0.0.0:0", admin_token="secret-of-the-team") as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        for token in (
            "secret-of-the-bean",
            "secret-of-the-tea",
            "secret-of-the-teams",
            "secret-o",
            "s",
            "Secret-of-the-team",
        ):
            assert (await ask(url, *CHANGE, fields={"Authorization": f"Bearer {token}"})).status == 401, token
        assert (await ask(url, *CHANGE, fields={"Authorization": "Bearer secret-of-the-team"})).status == 200
    async with proxy_before(simulator.url, listen="0.0.0.0:0", admin_token="secret") as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        for token, status in (("secret", 200), ("wrong", 401), ("", 401), ("sécret".encode().decode("latin-1"), 401)):
            fields = {"Authorization": f"Bearer {token}"}
            assert (await ask(url, *CHANGE, fields=fields)).status == status
        for value, status in (("bearer secret", 200), ("secret", 401), ("Basic secret", 401)):
            assert (await ask(url, *CHANGE, fields={"Authorization": value})).status == status
        assert (await ask(url, *CHANGE)).field("WWW-Authenticate") == 'Bearer realm="ollama-cache-proxy"'
        assert (await ask(url, *CHANGE, fields={"Authorization": "Bearer secret", "Origin": "http://x"})).status == 403


async def test_metrics_with_an_invalid_version_in_accept(proxy: Proxy) -> None:
    accept = {"Accept": "application/openmetrics-text;version=abc"}
    assert (await ask(proxy.url, "GET", "/metrics", fields=accept)).status == 200


async def test_metrics_parse_and_count_what_happened(proxy: Proxy) -> None:
    body = json.dumps({"model": "tiny", "prompt": "x", "stream": False}).encode()
    for _ in range(2):
        await ask(proxy.url, "POST", "/api/generate", body=body)
    await ask(proxy.url, "GET", "/api/tags")
    answer = await ask(proxy.url, "GET", "/metrics")
    assert answer.field("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }
    prefix = "ollama_cache_proxy_"
    generate = ("endpoint", "generate")
    assert samples[prefix + "hits_total", (generate,)] == 1
    assert samples[prefix + "misses_total", (generate,)] == 1
    assert samples[prefix + "hit_ratio", ()] == 0.5
    assert samples[prefix + "upstream_up", ()] == 1
    assert samples[prefix + "store_up", ()] == 1
    assert samples[prefix + "bypasses_total", (("detail", "endpoint"), ("endpoint", "tags"))] == 1
    for cache in ("hit", "miss"):
        assert samples[prefix + "request_duration_seconds_count", (("cache", cache), generate)] == 1
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    openmetrics = await ask(proxy.url, "GET", "/metrics", fields=accept)
    assert (openmetrics.field("Content-Type") or "").startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.body.endswith(b"# EOF\n")


class Taking:
    """A client that takes pieces, each after so many seconds."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.told: list[object] = []

    async def begin(self, head: ResponseHead, length: int | None) -> None:
        self.told += [head.status, length]

    async def write(self, chunk: bytes) -> None:
        await asyncio.sleep(self.pause)
        self.told.append(chunk)

    async def finish(self) -> None:
        self.told.append("end")

    def abort(self) -> None:
        self.told.append("reset")


def streaming(closed: list[str], *, write_timeout: float = 60) -> Admin:
    """An Admin with one route, which answers piece by piece, and notes when it is told to end."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            yield b"two"
        finally:
            closed.append("closed")

    async def route(_request: Request, _body: bytes) -> Stream:
        return Stream(kind="text/plain", pieces=pieces(), write_timeout=write_timeout)

    unasked: Any = None
    return Admin(
        routes={"/below/": {"GET": route}},
        store_state=unasked,
        upstream=unasked,
        refusal=unasked,
        render=unasked,
        events=unasked,
        serving=unasked,
        access=Access(loopback=True, token=""),
        guard=unasked,
        clock=SystemClock(),
    )


@pytest.mark.parametrize(
    ("method", "pause", "told"),
    [
        ("GET", 0.0, [200, None, b"one", b"two", "end"]),
        ("HEAD", 0.0, [200, None, "end"]),
        ("GET", 600.0, [200, None, "reset"]),
    ],
    ids=["read", "head", "too-slow"],
)
async def test_a_stream_goes_out_piece_by_piece_to_whoever_takes_it(
    method: str, pause: float, told: list[object]
) -> None:
    closed: list[str] = []
    admin, client = streaming(closed, write_timeout=0.05 if pause else 60), Taking(pause)
    request = Request(method=method, target="/below/this?x", fields=())
    assert admin.owns(request)
    taking: Any = client
    await admin.serve(request, taking)
    assert client.told == told
    assert closed == ([] if method == "HEAD" else ["closed"]), "what was begun is ended"


@pytest.mark.parametrize(("target", "owned"), [("/below/", True), ("/below/a", True), ("/below", False), ("/", False)])
def test_a_path_with_a_slash_at_its_end_stands_for_all_below_it(target: str, owned: bool) -> None:
    assert streaming([]).owns(Request(method="GET", target=target, fields=())) is owned
