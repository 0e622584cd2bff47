"""Each check on real servers that are well, down or badly set up."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ollama_cache_proxy.cli import graphics
from ollama_cache_proxy.cli.asking import Proxy, Response, Server, client
from ollama_cache_proxy.cli.checks import of_port, of_proxy
from ollama_cache_proxy.cli.checks.finding import Finding, Level, ok
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.cli.checks.seen import Seen, read, write
from ollama_cache_proxy.cli.checks.table import CHECKS, examine
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.upstream.fleet import Fleet
from tests.support import canary
from tests.support.neighbours import Reply, gateway, listening, look_alike, ollama
from tests.support.odd_servers import HTTP, odd_server, says
from tests.support.rawhttp import ask
from tests.support.servers import Proxy as RunningProxy
from tests.support.servers import RedisServer, cluster_node, free_port, proxy_before
from tests.support.stores import permit
from tests.support.terminal import piped, terminal, widest
from tests.support.tls import AUTHORITY, tls_before
from tests.support.upstream import answering, byte_upstream
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
GENERATE = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()


@asynccontextmanager
async def scene(
    url: str, upstream: str, state: Path, *, stream: str | None = None, origin: str | None = None, **settings: Any
) -> AsyncIterator[Scene]:
    async with client() as session:
        made = Scene(
            settings=load(None, settings),
            proxy=Proxy(session, url, canary.TOKEN),
            ollama=Server(session, upstream, title="Ollama", fix="start it"),
            state=state / "doctor.json",
            stream=stream,
            origin=origin,
        )
        try:
            yield made
        finally:
            await made.close()


async def found(made: Scene, *titles: str) -> dict[str, list[Finding]]:
    """Return the findings of the named checks, none of which may hold a secret."""
    told: dict[str, list[Finding]] = {}
    for title, finding in await examine(made, tuple(check for check in CHECKS if not titles or check.title in titles)):
        canary.check(finding.text + finding.fix, title)
        told.setdefault(title, []).append(finding)
    return told


@asynccontextmanager
async def serving(answer: Callable[[web.Request], web.StreamResponse]) -> AsyncIterator[str]:
    """Serve every path with one function, and return the URL."""

    async def handle(request: web.Request) -> web.StreamResponse:
        made = answer(request)
        return await made if asyncio.iscoroutine(made) else made

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def former(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address in place of the former default that nobody listens on; what other tests use does not show here."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr(of_port, "FORMER_LISTEN", address)
    return address


@pytest.mark.parametrize("release", ["0.24"])  # 0.33 counts as VRAM what is none
async def test_where_all_is_well_nothing_is_wrong(
    proxy: RunningProxy, simulator: Simulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.client().config_set("maxmemory", "512mb")
    redis_server.client().config_set("maxmemory-policy", "allkeys-lru")
    for _ in range(30):
        await ask(proxy.url, "POST", "/api/generate", body=GENERATE)
    asked = simulator.inferences
    async with scene(proxy.url, simulator.url, tmp_path, redis_url=redis_server.url) as made:
        told = await found(made)
    assert [title for title in told if title != "GPU"] == [check.title for check in CHECKS if check.title != "GPU"]
    assert {
        title: [finding.text for finding in told[title] if finding.level != Level.OK]
        for title in told
        if title != "GPU"
    } == {title: [] for title in told if title != "GPU"}
    assert "with 4 models" in told["Ollama"][0].text
    assert "lost on restart" in told["Redis"][0].text
    assert told["Clock"][0].text == "agrees with Redis and Ollama and the proxy"
    assert simulator.inferences == asked, "no model was asked anything"


async def test_hits_that_were_checked_are_counted(simulator: Simulator, tmp_path: Path) -> None:
    embed = json.dumps({"model": "all-minilm", "input": "why"}).encode()
    async with proxy_before(simulator.url, audit="100%") as proxy, scene(proxy.url, simulator.url, tmp_path) as made:
        await ask(proxy.url, "POST", "/api/embed", body=embed)
        await proxy.kept()
        assert (await ask(proxy.url, "POST", "/api/embed", body=embed)).field("X-Cache") == "HIT"
        async with asyncio.timeout(30):
            while json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["audit"]["checked"] < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        told = await found(made, "Audit")
    (finding,) = told["Audit"]
    assert finding.level is Level.OK
    assert re.fullmatch(r"1 hit checked, 0 wrong, since \d{4}-\d\d-\d\d", finding.text)


async def test_with_everything_down_each_says_what_to_do(tmp_path: Path) -> None:
    url, upstream, port = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}", free_port()
    async with scene(url, upstream, tmp_path, redis_url=f"redis://:{canary.PASSWORD}@127.0.0.1:{port}") as made:
        told = await found(made)
    bad = {title: finding for title, (finding, *_) in told.items() if finding.level is Level.PROBLEM}
    assert set(bad) == {"Ollama", "Proxy", "Redis"}
    assert bad["Ollama"].text == f"no Ollama answers at {upstream}"
    assert bad["Proxy"].text == f"no proxy answers at {url}"
    assert "`ollama-cache-proxy serve`" in bad["Proxy"].fix
    assert f"redis-cli -u redis://127.0.0.1:{port} ping" in bad["Redis"].fix
    assert all(finding.fix for finding in bad.values())


async def test_an_ollama_that_is_down_is_seen_from_the_proxy_too(tmp_path: Path) -> None:
    upstream = f"http://127.0.0.1:{free_port()}"
    async with proxy_before(upstream) as proxy, scene(proxy.url, upstream, tmp_path) as made:
        told = await found(made, "Upstream", "Digests", "Models", "Proxy")
    assert told["Proxy"][0].level is Level.OK
    assert told["Upstream"][0].level is Level.PROBLEM
    assert told["Upstream"][0].text.startswith("the proxy cannot reach its Ollama: ")
    assert set(told) == {"Proxy", "Upstream"}


async def test_an_ollama_behind_tls(simulator: Simulator, tmp_path: Path) -> None:
    added = {"XDG_STATE_HOME": str(tmp_path)}
    async with tls_before(simulator.url) as port:
        arguments = ("doctor", "--upstream", f"https://localhost:{port}", "--url", "http://127.0.0.1:9", "--json")
        levels = []
        for more in ({}, {"OCP_UPSTREAM_CA": AUTHORITY}):
            told = json.loads((await piped(*arguments, added=added | more)).out)
            levels.append(next(row["level"] for row in told["findings"] if row["check"] == "Ollama"))
        assert levels == ["problem", "ok"]
        done = await piped(*arguments, added=added | {"OCP_UPSTREAM_CA": "/nowhere"})
    assert (done.status, done.err) == (2, "ollama-cache-proxy: /nowhere is not a PEM file of CA certificates\n")


async def test_an_ollama_without_models(simulator: Simulator, tmp_path: Path) -> None:
    for row in json.loads((await ask(simulator.url, "GET", "/api/tags")).body)["models"]:
        await ask(simulator.url, "DELETE", "/api/delete", body=json.dumps({"model": row["name"]}).encode())
    async with scene(simulator.url, simulator.url, tmp_path) as made:
        (finding,) = (await found(made, "Ollama"))["Ollama"]
    assert finding.level is Level.WARNING
    assert "`ollama pull " in finding.fix


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (web.Response(status=403), "refuses this Host"),
        (web.Response(text="hello"), "is not Ollama (status 200)"),
        (web.json_response({"version": 3}), "is not Ollama"),
        (web.Response(status=500), "is not Ollama (status 500)"),
    ],
)
async def test_what_is_no_ollama(answer: web.Response, said: str, tmp_path: Path) -> None:
    async with serving(lambda _: web.Response(status=answer.status, body=answer.body)) as url:
        async with scene(url, url, tmp_path) as made:
            (finding,) = (await found(made, "Ollama"))["Ollama"]
    assert finding.level is Level.PROBLEM
    assert said in finding.text


@pytest.mark.parametrize(
    ("status", "authorization", "said"),
    [
        (401, "", "refuses requests without credentials (401)"),
        (401, canary.CREDENTIAL, "refuses these credentials (401)"),
        (403, canary.CREDENTIAL, "refuses these credentials (403)"),
    ],
)
async def test_an_ollama_that_refuses_the_credentials(
    status: int, authorization: str, said: str, tmp_path: Path
) -> None:
    seen: list[str | None] = []

    def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response(status=status, text="no")

    async with serving(answer) as url, scene(url, url, tmp_path) as made:
        async with client() as session:
            made.ollama = Server(session, url, title="Ollama", fix="start it", authorization=authorization)
            told = await found(made, "Ollama", "Origins", "Models")
    assert {title: finding.level for title, (finding, *_) in told.items() if title == "Ollama"} == {
        "Ollama": Level.PROBLEM
    }
    assert (said in told["Ollama"][0].text, "OCP_UPSTREAM_AUTHORIZATION" in told["Ollama"][0].fix) == (True, True)
    assert set(seen) == {authorization or None}


@pytest.mark.parametrize(
    ("url", "authorization", "told"),
    [
        ("http://ollama.example:80", canary.CREDENTIAL, True),
        ("http://ollama.example:80", "", False),
        ("https://ollama.example:443", canary.CREDENTIAL, False),
        ("http://127.0.0.1:11434", canary.CREDENTIAL, False),
        ("http://[::1]:11434", canary.CREDENTIAL, False),
    ],
)
async def test_credentials_in_clear(url: str, authorization: str, told: bool, tmp_path: Path) -> None:
    async with scene("http://127.0.0.1:1", url, tmp_path) as made, client() as session:
        made.ollama = Server(session, url, title="Ollama", fix="", authorization=authorization)
        made._asked = {
            (url, path): asyncio.create_task(_answer(body))
            for path, body in (("/api/version", b'{"version":"1"}'), ("/api/tags", b'{"models":[{"name":"a"}]}'))
        }
        findings = (await found(made, "Ollama"))["Ollama"]
    assert [finding.level for finding in findings] == ([Level.OK, Level.WARNING] if told else [Level.OK])
    assert told == ("plain http" in findings[-1].text)


async def _answer(body: bytes) -> Response:
    return Response(status=200, headers={}, body=body, begun=0.0, ended=0.0)


@pytest.mark.parametrize(
    ("ours", "level", "said"),
    [
        (canary.CREDENTIAL, Level.NOTE, "come through the proxy without credentials (401)"),
        ("wrong", Level.PROBLEM, "the proxy says: Ollama refuses the proxy's credentials (401)"),
    ],
)
async def test_a_proxy_before_an_ollama_with_a_check(ours: str, level: Level, said: str, tmp_path: Path) -> None:
    async with byte_upstream(answering(b""), authorization=canary.CREDENTIAL) as upstream:
        async with proxy_before(upstream.url, upstream_authorization=ours) as proxy:
            async with scene(proxy.url, upstream.url, tmp_path) as made, client() as session:
                made.ollama = Server(session, upstream.url, title="Ollama", fix="", authorization=canary.CREDENTIAL)
                told = await found(made, "Ollama", "Upstream", "Digests")
    assert (told["Ollama"][0].level, told["Upstream"][0].level) == (Level.OK, level)
    assert said in told["Upstream"][0].text
    assert told["Digests"][0].level is (Level.PROBLEM if ours == "wrong" else Level.OK)


async def test_a_page_that_ollama_refuses(proxy: RunningProxy, simulator: Simulator, tmp_path: Path) -> None:
    for origin, level in (("https://chat.example", Level.PROBLEM), ("http://localhost:3000", Level.OK)):
        async with scene(proxy.url, simulator.url, tmp_path, origin=origin) as made:
            strangers, asked = (await found(made, "Origins"))["Origins"]
        assert strangers.level is Level.OK
        assert asked.level is level
        assert origin in asked.text
        assert (f"OLLAMA_ORIGINS={origin}" in asked.fix) == (level is Level.PROBLEM)


async def test_an_ollama_that_lets_every_page_in(tmp_path: Path) -> None:
    async with serving(lambda _: web.json_response({"version": "0.24.0"})) as url:
        async with scene(url, url, tmp_path) as made:
            (finding,) = (await found(made, "Origins"))["Origins"]
    assert finding.level is Level.WARNING
    assert "OLLAMA_ORIGINS" in finding.fix


@pytest.mark.parametrize(
    ("answer", "said", "fix"),
    [
        (
            web.Response(status=403, headers={"Server": "AirTunes/775.3.1"}),
            "AirPlay of macOS holds the port",
            "AirPlay Receiver",
        ),
        (web.Response(text="Ollama is running"), "is Ollama itself", "--url"),
        (web.Response(status=403), "refuses this Host", "use localhost"),
        (web.Response(status=404, headers={"Server": "nginx/1"}), "another program answers at", "--listen"),
    ],
)
async def test_what_is_no_proxy(answer: web.Response, said: str, fix: str, tmp_path: Path) -> None:
    headers = {"Server": answer.headers["Server"]} if "Server" in answer.headers else {}
    async with serving(lambda _: web.Response(status=answer.status, body=answer.body, headers=headers)) as url:
        async with scene(url, url, tmp_path) as made:
            told = await found(made, "Proxy", "Digests", "Store", "Traffic", "Upstream", "Streams")
    (finding,) = told.pop("Proxy")
    assert told == {}, "the others have nothing to say then"
    assert finding.level is Level.PROBLEM
    assert said in finding.text
    assert fix in finding.fix


async def test_the_gateway_of_the_application_is_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(gateway) as port:
        monkeypatch.setattr(of_port, "FORMER_LISTEN", f"127.0.0.1:{port}")
        async with scene(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}", tmp_path) as made:
            told = await found(made, "Proxy", "Port", "Digests", "Store", "Traffic", "Upstream", "Streams")
    (finding,) = told.pop("Proxy")
    assert finding.level is Level.PROBLEM
    assert finding.text.startswith(
        f"http://127.0.0.1:{port} is the gateway of Ollama's macOS application for Claude Desktop, not the proxy: "
    )
    assert "default 127.0.0.1:11494" in finding.fix
    (finding,) = told.pop("Port")
    assert finding.level is Level.NOTE
    assert finding.text.startswith(f"127.0.0.1:{port} is the gateway of Ollama's macOS application")
    assert finding.fix == "set such clients to http://127.0.0.1:11494"
    assert told == {}


@pytest.mark.parametrize("answer", [ollama, look_alike])
async def test_what_else_is_at_the_proxy_s_own_former_address_is_judged_as_the_proxy(
    answer: Reply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(answer) as port:
        monkeypatch.setattr(of_port, "FORMER_LISTEN", f"127.0.0.1:{port}")
        async with scene(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}", tmp_path) as made:
            told = await found(made, "Proxy", "Port")
    assert [one.level for one in told.pop("Proxy")] == [Level.PROBLEM]
    assert told == {}


async def test_a_proxy_that_kept_the_former_default(
    proxy: RunningProxy, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_port, "FORMER_LISTEN", proxy.url.removeprefix("http://"))
    async with scene(proxy.url, simulator.url, tmp_path) as made:
        assert [one.level for one in (await found(made, "Port"))["Port"]] == [Level.OK]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("answer", [ollama, look_alike])
async def test_the_proxy_s_own_ollama_at_the_former_default_is_well(
    answer: Reply, several: bool, proxy: RunningProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One behind a check does not say that it is Ollama. An OLLAMA_HOST may be there for its server."""
    async with listening(answer) as port:
        address = f"127.0.0.1:{port}"
        monkeypatch.setattr(of_port, "FORMER_LISTEN", address)
        monkeypatch.setenv("OLLAMA_HOST", address)
        urls = [f"http://{address}"] if not several else ["http://127.0.0.1:9", f"http://{address}"]
        tables: dict[str, Any] = {"upstreams": [{"url": url} for url in urls]} if several else {}
        async with scene(proxy.url, urls[0], tmp_path, **tables) as made:
            (finding,) = (await found(made, "Port"))["Port"]
    assert finding.level is Level.OK
    assert finding.text == f"{address}, the default before 0.3, is an Ollama of this proxy"


@pytest.mark.parametrize(
    "case", [(there, host) for there in (False, True) for host in ("", "{address}", "http://localhost:{port}/")]
)
async def test_an_ollama_at_the_former_default_has_to_be_named(
    case: tuple[bool, str], proxy: RunningProxy, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case is whether Ollama is where it is expected too, and an OLLAMA_HOST."""
    there, host = case
    async with listening(ollama) as port:
        address = f"127.0.0.1:{port}"
        monkeypatch.setattr(of_port, "FORMER_LISTEN", address)
        monkeypatch.setenv("OLLAMA_HOST", host.format(address=address, port=port))
        upstream = simulator.url if there else f"http://127.0.0.1:{free_port()}"
        async with scene(proxy.url, upstream, tmp_path) as made:
            (finding,) = (await found(made, "Port"))["Port"]
    if there and not host:
        assert (finding.level, finding.fix) == (Level.NOTE, f"set clients to {proxy.url}")
        return
    assert (finding.level, finding.fix) == (Level.WARNING, f"name it: `--upstream http://{address}` (OCP_UPSTREAM)")
    assert finding.text.startswith(f"Ollama answers at {address}, and ")
    assert (upstream in finding.text, "OLLAMA_HOST names" in finding.text) == (True, bool(host))


async def test_an_ollama_host_beside_a_named_upstream_is_for_clients(
    proxy: RunningProxy, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(ollama) as port:
        monkeypatch.setattr(of_port, "FORMER_LISTEN", f"127.0.0.1:{port}")
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
        async with scene(proxy.url, simulator.url, tmp_path) as made:
            made.settings = load(None, {"upstream": simulator.url})
            findings = (await found(made, "Port"))["Port"]
    assert [one.level for one in findings] == [Level.NOTE, Level.NOTE]
    assert all(proxy.url in one.fix for one in findings)


async def test_a_former_default_that_nobody_has(proxy: RunningProxy, former: str, tmp_path: Path) -> None:
    async with scene(proxy.url, proxy.url, tmp_path) as made:
        (finding,) = (await found(made, "Port"))["Port"]
    assert (finding.level, finding.text) == (Level.OK, f"nothing sends clients to {former}, the default before 0.3")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (gateway, "is the gateway of Ollama's macOS application for Claude Desktop: a client with this address is not"),
        (ollama, "Ollama answers at "),
        (look_alike, "another program answers at "),
    ],
)
async def test_what_a_client_reaches_at_the_former_default(
    answer: Reply, said: str, proxy: RunningProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(answer) as port, scene(proxy.url, proxy.url, tmp_path) as made:
        monkeypatch.setattr(of_port, "FORMER_LISTEN", f"127.0.0.1:{port}")
        (finding,) = (await found(made, "Port"))["Port"]
    assert finding.level is Level.NOTE
    assert said in finding.text
    assert f"127.0.0.1:{port}" in finding.text
    assert finding.fix.endswith(f"clients to {proxy.url}")


async def test_another_proxy_at_the_former_default(
    proxy: RunningProxy, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy_before(simulator.url) as older, scene(proxy.url, simulator.url, tmp_path) as made:
        monkeypatch.setattr(of_port, "FORMER_LISTEN", older.url.removeprefix("http://"))
        (finding,) = (await found(made, "Port"))["Port"]
    assert (finding.level, finding.text.partition(" at ")[0]) == (Level.NOTE, "another ollama-cache-proxy answers")


async def test_a_proxy_on_every_address_behind_the_gateway_on_loopback(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS both can listen on one port: clients of this machine then reach the gateway, others the proxy."""
    async with listening(gateway) as port, proxy_before(simulator.url, listen=f"127.0.0.2:{port}") as running:
        monkeypatch.setattr(of_port, "FORMER_LISTEN", f"127.0.0.1:{port}")
        async with scene(running.url, simulator.url, tmp_path) as made:
            told = await found(made, "Proxy", "Port")
    assert told["Proxy"][0].level is Level.OK
    assert told["Port"][0].level is Level.WARNING
    assert told["Port"][0].fix == f"set such clients to {running.url}, or let the proxy listen on another port"


@pytest.mark.parametrize("value", ["127.0.0.1:{port}", "http://0.0.0.0:{port}", "localhost:{port}", "gpu:{port}"])
async def test_an_ollama_host_that_the_application_refuses(
    value: str, proxy: RunningProxy, former: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", value.format(port=former.rpartition(":")[2]))
    async with scene(proxy.url, proxy.url, tmp_path) as made:
        (finding,) = (await found(made, "Port"))["Port"]
    assert finding.level is Level.NOTE
    assert finding.text.startswith("OLLAMA_HOST in this environment names port ")
    assert f"do not reach the proxy at {proxy.url}" in finding.text
    assert "launchctl unsetenv OLLAMA_HOST" in finding.fix


@pytest.mark.parametrize("value", ["127.0.0.1:11434", "", "1:2:3", "http://u:p@h:1"])
async def test_an_ollama_host_that_names_another_port(
    value: str, proxy: RunningProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", value)
    async with scene(proxy.url, proxy.url, tmp_path) as made:
        assert [one.level for one in (await found(made, "Port"))["Port"]] == [Level.OK]


@pytest.mark.parametrize("script", ["echo 127.0.0.1:{port}", "echo", "exit 1", "exec sleep 60", None])
async def test_on_macos_the_environment_of_applications_is_asked_too(
    script: str | None, proxy: RunningProxy, former: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_port.sys, "platform", "darwin")
    monkeypatch.setattr(of_port, "_LAUNCHCTL_DEADLINE", 0.3)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}" if script else str(tmp_path))
    if script is not None:
        command = tmp_path / "launchctl"
        wanted = '[ "$*" = "getenv OLLAMA_HOST" ] || exit 9'
        command.write_text(f"#!/bin/sh\n{wanted}\n{script.format(port=former.rpartition(':')[2])}\n")
        command.chmod(0o755)
    async with scene(proxy.url, proxy.url, tmp_path) as made:
        (finding,) = (await found(made, "Port"))["Port"]
    if script is not None and "{port}" in script:
        assert finding.level is Level.NOTE
        assert finding.text.startswith("OLLAMA_HOST for macOS applications names port ")
    else:
        assert finding.level is Level.OK


async def test_a_host_that_the_proxy_does_not_know(
    proxy: RunningProxy, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Proxy, "ask", _as("foreign.example"))
    async with scene(proxy.url, simulator.url, tmp_path) as made:
        (finding,) = (await found(made, "Proxy"))["Proxy"]
    assert "refuses this Host" in finding.text


def _as(host: str) -> Any:
    async def asked(self: Proxy, path: str, **more: Any) -> Response:
        headers = {**(more.pop("headers", None) or {}), "Host": host}
        return await Server.ask(self, path, headers=headers, **more)

    return asked


async def test_a_proxy_of_another_version(
    proxy: RunningProxy, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_proxy, "__version__", "9.9.9")
    async with scene(proxy.url, simulator.url, tmp_path) as made:
        (finding,) = (await found(made, "Proxy"))["Proxy"]
    assert (finding.level, "this command is 9.9.9" in finding.text) == (Level.NOTE, True)


async def test_a_proxy_before_another_ollama(proxy: RunningProxy, tmp_path: Path) -> None:
    async with Simulator(Behaviour()) as other:
        await ask(other.url, "DELETE", "/api/delete", body=b'{"model": "tiny"}')
        async with scene(proxy.url, other.url, tmp_path) as made:
            (finding,) = (await found(made, "Upstream"))["Upstream"]
    assert finding.level is Level.WARNING
    assert "another Ollama" in finding.text


async def test_a_model_that_the_proxy_does_not_know(
    proxy: RunningProxy, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(proxy.url, simulator.url, tmp_path) as made:

        async def models(_self: Scene, _server: Server) -> list[dict[str, Any]]:
            return [{"name": "gone:latest", "modified_at": "2030"}, {"name": "tiny:latest", "modified_at": "2020"}]

        monkeypatch.setattr(Scene, "models", models)
        (finding,) = (await found(made, "Digests"))["Digests"]
    assert finding.level is Level.PROBLEM
    assert "gone:latest" in finding.text


async def test_digests_without_the_token_are_not_looked_at(simulator: Simulator, tmp_path: Path) -> None:
    async with proxy_before(simulator.url, listen="0.0.0.0:0", admin_token="another") as proxy:
        async with scene(proxy.url.replace("0.0.0.0", "127.0.0.1"), simulator.url, tmp_path) as made:
            (finding,) = (await found(made, "Digests"))["Digests"]
    assert finding.level is Level.NOTE
    assert "OCP_ADMIN_TOKEN" in finding.fix


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        ({}, Level.OK),
        ({"listen": "0.0.0.0:1"}, Level.WARNING),
        ({"listen": "0.0.0.0:1", "admin_token": canary.TOKEN}, Level.OK),
    ],
)
async def test_who_may_clear(settings: dict[str, str], level: Level, tmp_path: Path) -> None:
    async with scene("http://127.0.0.1:9", "http://127.0.0.1:9", tmp_path, **settings) as made:
        (finding,) = (await found(made, "Access"))["Access"]
    assert finding.level is level


async def test_a_store_that_is_down_or_in_memory(
    simulator: Simulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    async with proxy_before(simulator.url) as proxy, scene(proxy.url, simulator.url, tmp_path) as made:
        (finding,) = (await found(made, "Store"))["Store"]
    assert (finding.level, "lost when the proxy ends" in finding.text) == (Level.NOTE, True)
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        redis_server.kill()
        try:
            async with scene(proxy.url, simulator.url, tmp_path) as made:
                (finding,) = (await found(made, "Store"))["Store"]
        finally:
            redis_server.start()
    assert (finding.level, "does not answer" in finding.text) == (Level.PROBLEM, True)


async def test_a_store_that_takes_no_new_entries(
    simulator: Simulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        redis_server.client().config_set("maxmemory", "1")
        try:
            await ask(proxy.url, "POST", "/api/generate", body=b'{"model":"tiny","prompt":"new","stream":false}')
            await proxy.kept()
            async with scene(proxy.url, simulator.url, tmp_path) as made:
                (finding,) = (await found(made, "Store"))["Store"]
        finally:
            redis_server.client().config_set("maxmemory", "0")
    assert (finding.level, "takes no new entries" in finding.text) == (Level.PROBLEM, True)


@pytest.mark.parametrize(
    ("configured", "level", "said"),
    [
        ({}, Level.WARNING, "has no memory limit"),
        ({"maxmemory": "512mb"}, Level.WARNING, "evicts nothing when it is full"),
        ({"maxmemory": "512mb", "maxmemory-policy": "allkeys-lru"}, Level.OK, "lost on restart"),
        (
            {"maxmemory": "512mb", "maxmemory-policy": "volatile-ttl", "save": "60 1"},
            Level.OK,
            "kept on restart",
        ),
        ({"maxmemory": "100kb"}, Level.PROBLEM, "is full"),
    ],
)
async def test_a_redis_and_its_settings(configured: dict[str, str], level: Level, said: str, tmp_path: Path) -> None:
    server = RedisServer()
    server.start()
    try:
        for name, value in configured.items():
            server.client().config_set(name, value)
        async with scene("http://127.0.0.1:9", "http://127.0.0.1:9", tmp_path, redis_url=server.url) as made:
            (finding,) = (await found(made, "Redis"))["Redis"]
    finally:
        server.close()
    assert (finding.level, said in finding.text) == (level, True), finding


async def test_a_redis_that_refuses(redis_server: RedisServer, tmp_path: Path) -> None:
    bare = redis_server.url.replace(canary.PASSWORD, "wrong")
    client_ = redis_server.client()
    client_.acl_setuser("poor", enabled=True, nopass=True, commands=["+ping", "+hello", "+client"])
    port = redis_server.port
    cases = {
        bare: (Level.PROBLEM, "password"),
        f"redis://127.0.0.1:{port}": (Level.PROBLEM, "password"),
        f"redis://poor:x@127.0.0.1:{port}": (Level.NOTE, "may not run INFO"),
    }
    for url, (level, said) in cases.items():
        async with scene("http://127.0.0.1:9", "http://127.0.0.1:9", tmp_path, redis_url=url) as made:
            (finding, *more) = (await found(made, "Redis"))["Redis"]
        assert (finding.level, said in finding.text) == (level, True), (url, finding)
        assert [one.level for one in more] == ([Level.PROBLEM] if "poor" in url else []), "nothing can be stored"
    client_.acl_deluser("poor")


async def test_what_is_no_redis_that_can_be_used_is_named(redis_server: RedisServer, tmp_path: Path) -> None:
    node = cluster_node()
    try:
        with odd_server(says(HTTP)) as port:
            cases = {
                f"rediss://127.0.0.1:{redis_server.port}": ("seems to speak no TLS", "write redis://"),
                f"redis://127.0.0.1:{port}": ("speaks HTTP and is no Redis", "write the host and port of a Redis"),
                node.url: ("is one node of a cluster", "write redis+cluster://, and where some of its nodes are"),
                redis_server.url[:-1] + "99": ("has no database of that number", "write a smaller one"),
            }
            for url, (what, fix) in cases.items():
                async with scene("http://127.0.0.1:9", "http://127.0.0.1:9", tmp_path, redis_url=url) as made:
                    (finding,) = (await found(made, "Redis"))["Redis"]
                assert (finding.level, what in finding.text) == (Level.PROBLEM, True), (url, finding)
                assert finding.fix.startswith(fix), finding
    finally:
        node.close()


async def test_a_redis_without_some_commands(tmp_path: Path) -> None:
    server = RedisServer("--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru")
    server.start()
    try:
        permit(server, "default", "-unlink", "-scan", "-client|tracking")
        async with scene("http://127.0.0.1:9", "http://127.0.0.1:9", tmp_path, redis_url=server.url) as made:
            told = (await found(made, "Redis"))["Redis"]
    finally:
        server.close()
    assert [one.level for one in told] == [Level.OK, Level.NOTE, Level.WARNING, Level.WARNING]
    product = re.search(r"\((.+)\): 0 keys in .*, allkeys-lru, lost on restart$", told[0].text)
    assert product is not None, told[0].text
    for one, name in zip(told[1:], ("UNLINK", "SCAN", "CLIENT "), strict=True):
        assert f" ({product[1]}) refuses {name}" in one.text


async def test_a_redis_that_only_the_running_proxy_names(
    simulator: Simulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        async with scene(proxy.url, simulator.url, tmp_path) as made:
            (finding,) = (await found(made, "Redis"))["Redis"]
        assert (finding.level, finding.text) == (
            Level.NOTE,
            f"the proxy uses {redis_server.name}, which needs a password",
        )
        client = redis_server.client()  # one connection for both: without a password, none can be given
        client.config_set("requirepass", "")
        try:
            async with scene(proxy.url, simulator.url, tmp_path) as made:
                (finding,) = (await found(made, "Redis"))["Redis"]
        finally:
            client.config_set("requirepass", canary.PASSWORD)
    assert "has no memory limit" in finding.text, "it is looked at where it can be"


async def test_a_store_that_is_to_be_redis_without_a_url(tmp_path: Path) -> None:
    async with scene("http://127.0.0.1:9", "http://127.0.0.1:9", tmp_path, store="redis") as made:
        told = await found(made, "Redis", "Clock")
    assert told["Redis"][0].level is Level.PROBLEM
    assert "without a redis_url" in told["Redis"][0].text


async def test_traffic_is_counted_by_the_proxys_own_metrics(
    proxy: RunningProxy, simulator: Simulator, tmp_path: Path
) -> None:
    for _ in range(25):
        await ask(proxy.url, "POST", "/api/generate", body=b'{"model": "tiny", "prompt": "x"}')
    async with scene(proxy.url, simulator.url, tmp_path) as made:
        (finding,) = (await found(made, "Traffic"))["Traffic"]
    assert finding.level is Level.WARNING
    assert "25 of 25 requests" in finding.text
    assert "--cache-streams" in finding.fix


@pytest.mark.parametrize("held", [False, True])
async def test_streams_that_are_held_back(held: bool, tmp_path: Path) -> None:
    async with Simulator(Behaviour(token_rate=60)) as simulator, proxy_before(simulator.url) as proxy:
        async with serving(intermediaries(proxy.url)) as url:
            async with scene(url if held else proxy.url, simulator.url, tmp_path, stream="tiny") as made:
                (finding,) = (await found(made, "Streams"))["Streams"]
            assert finding.level is (Level.PROBLEM if held else Level.OK), finding
            assert ("proxy_buffering off" in finding.fix) == held


def intermediaries(url: str) -> Any:
    """Stand in front of a server as a proxy that buffers."""

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        async with aiohttp.ClientSession() as session:
            async with session.request(request.method, url + request.path, data=body) as answer:
                kind = answer.headers["Content-Type"].partition(";")[0]
                return web.Response(
                    status=answer.status, body=await answer.read(), content_type=kind, headers={"Server": "nginx/1"}
                )

    return handle


async def test_what_stands_before_the_proxy_is_named(proxy: RunningProxy, simulator: Simulator, tmp_path: Path) -> None:
    asked = simulator.inferences
    async with serving(intermediaries(proxy.url)) as url, scene(url, simulator.url, tmp_path) as made:
        (finding,) = (await found(made, "Streams"))["Streams"]
    assert finding.level is Level.NOTE
    assert "nginx/1" in finding.text
    assert "--stream MODEL" in finding.fix
    assert simulator.inferences == asked


async def test_a_wrong_name_of_a_model_to_stream(proxy: RunningProxy, simulator: Simulator, tmp_path: Path) -> None:
    async with scene(proxy.url, simulator.url, tmp_path, stream="no-such-model") as made:
        (finding,) = (await found(made, "Streams"))["Streams"]
    assert finding.level is Level.PROBLEM
    assert "no-such-model" in finding.text
    assert "not found" in finding.text


async def test_clocks_that_differ(tmp_path: Path) -> None:
    late = formatdate(time.time() - 3600, usegmt=True)
    async with serving(lambda _: web.json_response({"version": "0.24.0"}, headers={"Date": late})) as url:
        async with scene(url, "http://127.0.0.1:9", tmp_path) as made:
            (finding,) = (await found(made, "Clock"))["Clock"]
    assert finding.level is Level.WARNING
    assert "s behind this machine's" in finding.text


@pytest.mark.parametrize("release", ["0.24"])  # 0.33 counts as VRAM what is none
async def test_a_context_that_changed_between_two_looks(simulator: Simulator, tmp_path: Path) -> None:
    await ask(simulator.url, "POST", "/api/generate", body=GENERATE)
    levels = []
    for before in (None, 2048):
        if before is not None:
            seen = read(tmp_path / "doctor.json", simulator.url)
            (digest,) = seen
            write(
                tmp_path / "doctor.json",
                simulator.url,
                {digest: Seen(context=before, epoch="", since=0, before=before)},
            )
        async with scene("http://127.0.0.1:9", simulator.url, tmp_path) as made:
            (finding,) = (await found(made, "Models"))["Models"]
        levels.append(finding.level)
    assert levels == [Level.OK, Level.WARNING]
    assert "had 2,048 before" in finding.text
    assert "clear --model tiny:latest" in finding.fix


CONTEXT = {"length": 512, "first": 512, "before": 512, "since": 1.8e9, "epoch": ""}
CHANGED = "context length of tiny:latest changed from 2,048 to 512 tokens at 2027-01-15 08:00 UTC, its entries"


@pytest.mark.parametrize("release", ["0.24"])
@pytest.mark.parametrize(
    ("context", "level", "text"),
    [
        (CONTEXT | {"first": 2048, "before": 2048, "epoch": "ctx=512"}, Level.NOTE, CHANGED),
        (CONTEXT | {"before": 2048}, Level.NOTE, CHANGED),
        (CONTEXT, Level.OK, "1 loaded"),
        (CONTEXT | {"length": 2048}, Level.WARNING, "had 2,048 before"),
        (None, Level.WARNING, "had 2,048 before"),
    ],
    ids=["changed", "back at the first", "not changed", "not seen yet", "not known"],
)
async def test_a_context_that_the_proxy_has_seen_change_is_no_warning(
    context: Any, level: Level, text: str, simulator: Simulator, tmp_path: Path
) -> None:
    await ask(simulator.url, "POST", "/api/generate", body=GENERATE)
    told = {"candidate": True, "operation": "generate"} | ({} if context is None else {"context": context})
    async with serving(lambda _: web.json_response(told)) as url:
        for _ in range(2):
            async with scene(url, simulator.url, tmp_path) as made:
                (finding,) = (await found(made, "Models"))["Models"]
            seen = read(tmp_path / "doctor.json", simulator.url)
            write(
                tmp_path / "doctor.json",
                simulator.url,
                {digest: Seen(context=2048, epoch="", since=0, before=2048) for digest in seen},
            )
    assert finding.level is level
    assert text in finding.text


@pytest.mark.parametrize("known", [True, False], ids=["gpu", "no-gpu-known"])
async def test_a_model_that_is_partly_on_the_cpu(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, Ollama 0.33 counts buffers of a CPU with AMX as VRAM, and nothing is amiss."""
    row = {"name": "big:latest", "digest": "d", "size": 10 * 10**9, "size_vram": 4 * 10**9, "context_length": 1}
    cards = web.Response(text="DCGM_FI_DEV_GPU_UTIL{} 1") if known else web.Response(status=404)
    async with serving(lambda _: web.json_response({"models": [row]})) as url, serving(lambda _: cards) as exporter:
        monkeypatch.setattr(graphics, "EXPORTER", exporter)
        async with scene("http://127.0.0.1:9", url, tmp_path) as made:
            (finding,) = (await found(made, "Models"))["Models"]
    assert finding.level is (Level.WARNING if known else Level.NOTE)
    assert "4.0 GB of 10.0 GB" in finding.text
    assert ("does not fit into the GPU" in finding.text) is known
    assert ("no NVIDIA GPU of its machine is seen" in finding.text) is not known


async def test_gpus_are_looked_for_in_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene("http://127.0.0.1:9", "http://127.0.0.1:9", tmp_path) as made:
        async with serving(lambda _: web.Response(text="DCGM_FI_DEV_GPU_UTIL{} 1")) as url:
            monkeypatch.setattr(graphics, "EXPORTER", url)
            assert (await found(made, "GPU"))["GPU"] == [ok("dcgm-exporter answers on port 9400")]
        (finding,) = (await found(made, "GPU"))["GPU"]
    assert finding.level is Level.NOTE
    assert "nvidia-ml-py is not installed" in finding.text
    assert finding.fix == "pip install 'ollama-cache-proxy[gpu]'"


async def test_as_a_command(proxy: RunningProxy, simulator: Simulator, tmp_path: Path) -> None:
    added = {"XDG_STATE_HOME": str(tmp_path)}
    arguments = ("doctor", "--url", proxy.url, "--upstream", simulator.url)
    done = await piped(*arguments, added=added)
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("\nNo problems found.\n")
    told = json.loads((await piped(*arguments, "--json", added=added)).out)
    assert told["worst"] == "note"
    assert {"check": "Proxy", "level": "ok", "text": f"a proxy answers at {proxy.url}", "fix": None} in told["findings"]
    async with terminal(*arguments, columns=60, added=added) as shown:
        assert await shown.end() == 0
    assert widest(shown.text.rpartition("Looking")[2]) <= 60


async def test_a_problem_is_status_1(simulator: Simulator, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = await piped("doctor", "--url", url, "--upstream", simulator.url, added={"XDG_STATE_HOME": str(tmp_path)})
    assert done.status == 1
    assert done.out.endswith("\n1 problem: see docs/troubleshooting.md.\n")
    assert "Fix: start one with `ollama-cache-proxy serve`" in done.out


async def test_each_of_several_ollamas_has_a_line(tmp_path: Path) -> None:
    async with Simulator() as one, Simulator(Behaviour(release="0.24")) as other, Simulator() as third:
        other.models.replace("tiny")
        rows = [{"url": each.url, "name": name} for name, each in (("a", one), ("b", other), ("c", third))]
        async with proxy_before(one.url, upstreams=rows) as proxy:
            await third.stop()
            await ask(proxy.url, "POST", "/api/cache/upstreams/b/drain", body=b"")
            fleet = proxy.running.exchanges._relay._upstream
            assert isinstance(fleet, Fleet)
            await until(lambda: fleet.hosts[2].health.ejected)
            async with scene(proxy.url, one.url, tmp_path, upstreams=rows) as made:
                findings = (await found(made, "Upstream"))["Upstream"]
        levels = [finding.level for finding in findings]
        assert levels == [Level.OK, Level.NOTE, Level.PROBLEM, Level.NOTE, Level.NOTE]
        assert [text in finding.text for text, finding in zip(SAID, findings, strict=True)] == [True] * 5
        async with proxy_before(one.url) as proxy, scene(proxy.url, one.url, tmp_path, upstreams=rows) as made:
            (finding,) = (await found(made, "Upstream"))["Upstream"]
            assert "does not run before several Ollamas" in finding.text


SAID = ("a: ", "it is drained", "c takes no requests: ", "not the same on all of them: ", "several versions of Ollama")
