from __future__ import annotations

import asyncio
import json
import os
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.options import proxy_url
from ollama_cache_proxy.service.settings import Settings, load
from ollama_cache_proxy.simulator import Simulator
from tests.support import canary
from tests.support.neighbours import Reply, gateway, listening, look_alike, ollama
from tests.support.processes import serve
from tests.support.rawhttp import ask
from tests.support.servers import Proxy, RedisServer, free_port, proxy_before
from tests.support.terminal import COLOUR, environment, piped, terminal, widest
from tests.support.tls import AUTHORITY, CERTIFICATE, KEY

GENERATE = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
EMBED = json.dumps({"model": "all-minilm", "input": ["a", "b"]}).encode()
CHAT = json.dumps({"model": "tiny", "messages": []}).encode()


@pytest.fixture
async def used(proxy: Proxy) -> Proxy:
    """A proxy with a hit and a miss of each kind, and a chat that bypassed the cache."""
    for _ in range(2):
        await ask(proxy.url, "POST", "/api/generate", body=GENERATE)
        await ask(proxy.url, "POST", "/api/embed", body=EMBED, fields={"X-Cache-Category": "docs"})
    await ask(proxy.url, "POST", "/api/chat", body=CHAT)
    return proxy


async def test_piped_it_is_plain_columns(used: Proxy) -> None:
    done = await piped("stats", "--url", used.url)
    assert (done.status, done.err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line}
    assert rows["generate"][:4] == ["1", "1", "50.0", "%"]
    assert rows["chat"][:4] == ["0", "0", "–", "1"]
    assert rows["total"][:2] == ["2", "2"]
    assert rows["docs"][:2] == ["1", "1"]
    assert rows["tiny:latest"][:2] == ["1", "1"]
    assert "\x1b" not in done.out
    assert [line for line in done.out.splitlines() if line != line.rstrip()] == []
    assert "─" not in done.out


async def test_json_is_what_the_proxy_says(used: Proxy) -> None:
    done = await piped("stats", "--url", used.url, "--json")
    told = json.loads(done.out)
    assert (told["hits"], told["misses"], told["hitRate"]) == (2, 2, 50.0)
    assert told == json.loads((await ask(used.url, "GET", "/api/cache/stats")).body)


@pytest.mark.parametrize(("columns", "column"), [(100, "Saved tokens"), (60, "Saved time")])
async def test_on_a_terminal_it_fits(columns: int, column: str, used: Proxy) -> None:
    async with terminal("stats", "--url", used.url, columns=columns) as shown:
        assert await shown.end() == 0
    assert widest(shown.text) <= columns
    assert column in shown.text
    assert ("Saved tokens" in shown.text) == (columns == 100)
    assert "─" in shown.text
    for word in ("generate", "total", "all-minilm:latest", "docs"):
        assert word in shown.text


async def test_watching_goes_on_until_ctrl_c(used: Proxy) -> None:
    async with terminal("stats", "--url", used.url, "--watch", "0.1") as shown:
        await shown.shows("total")
        assert "\x1b[?25l" in shown.raw, "it draws in place"
        await ask(used.url, "POST", "/api/generate", body=GENERATE)
        await shown.shows("66.7 %")
        shown.type("\x03")
        assert await shown.end() == 130
    assert "Traceback" not in shown.text


async def test_watching_ends_with_sigterm_as_with_ctrl_c(used: Proxy) -> None:
    async with terminal("stats", "--url", used.url, "--watch") as shown:
        await shown.shows("total")
        shown.process.terminate()
        assert await shown.end() == 143
    assert "Traceback" not in shown.text


async def test_a_watched_proxy_may_be_away_for_a_while(simulator: Simulator) -> None:
    port = free_port()
    arguments = ("--listen", f"127.0.0.1:{port}", "--upstream", simulator.url)
    async with terminal("stats", "--url", f"http://127.0.0.1:{port}", "--watch", "0.1", columns=160) as shown:
        assert await shown.end() == 1, "it was never there"
    async with serve(*arguments) as command:
        await command.url()
        watching = terminal("stats", "--url", f"http://127.0.0.1:{port}", "--watch", "0.1", columns=160)
        shown = await watching.__aenter__()
        await shown.shows("total")
    await shown.shows("no proxy answers at")
    async with serve(*arguments) as command:
        await command.url()
        count = len(shown.text)
        for _ in range(2):
            await ask(f"http://127.0.0.1:{port}", "POST", "/api/generate", body=GENERATE)
        await shown.shows("50.0 %")
        assert "no proxy answers at" in shown.text[:count]
        shown.type("\x03")
        assert await shown.end() == 130
    await watching.__aexit__(None, None, None)


async def test_watched_json_is_a_line_each_time(used: Proxy) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", "stats", "--url", used.url, "--json", "--watch", "0.1"),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    for _ in range(3):
        assert json.loads(await asyncio.wait_for(process.stdout.readline(), 20))["hits"] == 2
    process.stdout._transport.close()  # as `head -3` does
    assert process.stderr is not None
    assert await asyncio.wait_for(process.wait(), 20) == 141
    assert await process.stderr.read() == b""


@pytest.mark.parametrize(("added", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
async def test_colour_is_for_those_who_want_it(added: dict[str, str], coloured: bool, used: Proxy) -> None:
    async with terminal("doctor", "--url", used.url, added={"XDG_STATE_HOME": "/nowhere", **added}) as shown:
        await shown.end()
    assert bool(COLOUR.search(shown.raw)) == coloured


async def test_without_a_proxy_it_says_so_in_one_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = await piped("stats", "--url", url)
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        f"ollama-cache-proxy: no proxy answers at {url}; start one with `ollama-cache-proxy serve`, or name it with --url\n"
    )


async def test_ollama_itself_is_no_proxy(simulator: Simulator) -> None:
    done = await piped("stats", "--url", simulator.url)
    assert done.status == 1
    assert f"the server at {simulator.url} is not ollama-cache-proxy (status 404)" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", [("stats",), ("clear",), ("entries",), ("explain", os.devnull)])
async def test_what_says_something_else_is_no_proxy(command: tuple[str, ...]) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n" + b'{"hits":1}')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        done = await piped(*command, "--url", url)
    assert (done.status, done.out) == (1, "")
    assert f"the server at {url} is not ollama-cache-proxy (status 200)" in done.err


async def test_what_speaks_no_http_is_no_proxy(redis_server: RedisServer) -> None:
    port = redis_server.port
    done = await piped("stats", "--url", f"http://127.0.0.1:{port}")
    assert done.status == 1
    assert done.err.startswith(
        f"ollama-cache-proxy: the server at http://127.0.0.1:{port} is not the proxy, or closed the connection early; "
    )


@pytest.mark.parametrize(
    "command", [("stats",), ("entries",), ("clear", "--yes"), ("doctor",), ("explain", os.devnull)]
)
async def test_ctrl_c_ends_what_waits_for_an_answer(command: tuple[str, ...]) -> None:
    async with silent() as (url, asked):
        arguments = ("--url", url, *(("--upstream", url) if command == ("doctor",) else ()))
        async with terminal(*command, *arguments) as shown:
            await asyncio.wait_for(asked.wait(), 20)
            shown.type("\x03")
            assert await shown.end() == 130
        assert "Traceback" not in shown.text


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Listen, take a request, and send nothing; the event is set when a request has come."""
    asked = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.readline()
            asked.set()
            await reader.read()
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@pytest.mark.parametrize("url", ["ftp://x", "http://user:canary-of-a-password@127.0.0.1:1", "http://", "nowhere"])
async def test_a_wrong_url_is_a_wrong_argument(url: str) -> None:
    for done in (await piped("stats", "--url", url), await piped("stats", added={"OCP_URL": url})):
        assert done.status == 2
        assert done.err.count("\n") == 1
        assert "is not allowed: must be an http:// or https:// URL" in done.err


async def test_it_finds_the_proxy_that_the_settings_describe(simulator: Simulator) -> None:
    port = free_port()
    async with proxy_before(simulator.url, listen=f"127.0.0.1:{port}"):
        for added in (
            {"OCP_URL": f"http://127.0.0.1:{port}", "OCP_LISTEN": "127.0.0.1:1"},
            {"OCP_LISTEN": f"127.0.0.1:{port}"},
            {"OCP_LISTEN": f"0.0.0.0:{port}"},
        ):
            assert (await piped("stats", added=added)).status == 0


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("0.0.0.0:1", "http://127.0.0.1:1"),
        (":1", "http://127.0.0.1:1"),
        ("[::]:1", "http://[::1]:1"),
        ("box.example:1", "http://box.example:1"),
    ],
)
def test_where_a_proxy_listens_is_where_it_is_asked(listen: str, url: str) -> None:
    assert proxy_url(Namespace(url=None), load(None, {"listen": listen})) == url
    assert proxy_url(Namespace(url=None), load(None, {"listen": listen, "tls_cert": "x"})) == url.replace(
        "http", "https"
    )
    assert proxy_url(Namespace(url="http://a:2/"), load(None, {"listen": listen})) == "http://a:2"


def at_the_default(listen: str, **settings: str) -> Settings:
    """Settings as they are where nothing names an address, with another default."""
    made = load(None, settings).model_copy(update={"listen": listen})
    made.model_fields_set.discard("listen")
    return made


async def test_a_proxy_at_the_former_default_alone_is_found_for_now(
    proxy: Proxy, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, former = f"127.0.0.1:{free_port()}", proxy.url.removeprefix("http://")
    monkeypatch.setattr(options, "FORMER_LISTEN", former)
    found = await asyncio.to_thread(proxy_url, Namespace(url=None), at_the_default(nowhere))
    told = (
        f"ollama-cache-proxy: the proxy at {proxy.url} answers, the default before 0.3 (now 11494);"
        " from 0.4 on it has to be named: --url or OCP_URL\n"
    )
    assert (found, capsys.readouterr().err) == (proxy.url, told)
    async with proxy_before(simulator.url) as newer:
        for named in (newer.url, nowhere):  # one at the new default, and an address that somebody has chosen
            settings = at_the_default(named.removeprefix("http://"))
            if named == nowhere:
                settings.model_fields_set.add("listen")
            found = await asyncio.to_thread(proxy_url, Namespace(url=None), settings)
            assert (found.removeprefix("http://"), capsys.readouterr().err) == (named.removeprefix("http://"), "")


@pytest.mark.parametrize("answer", [gateway, ollama, look_alike, lambda _path: b""])
async def test_what_is_no_proxy_at_the_former_default_is_not_taken_for_one(
    answer: Reply, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    async with listening(answer) as port:
        monkeypatch.setattr(options, "FORMER_LISTEN", f"127.0.0.1:{port}")
        found = await asyncio.to_thread(proxy_url, Namespace(url=None), at_the_default(nowhere))
    assert (found, capsys.readouterr().err) == (f"http://{nowhere}", "")


async def test_a_proxy_at_the_former_default_is_found_past_another_program_at_the_new_one(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "FORMER_LISTEN", proxy.url.removeprefix("http://"))
    async with listening(look_alike) as port:
        found = await asyncio.to_thread(proxy_url, Namespace(url=None), at_the_default(f"127.0.0.1:{port}"))
    assert found == proxy.url


async def test_a_proxy_with_a_certificate_is_found_at_the_former_default(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy_before(simulator.url, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
        monkeypatch.setattr(options, "FORMER_LISTEN", proxy.url.removeprefix("https://"))
        settings = at_the_default(f"127.0.0.1:{free_port()}", tls_cert=CERTIFICATE)
        assert await asyncio.to_thread(proxy_url, Namespace(url=None), settings) == proxy.url


WITH_OTHER_DEFAULTS = """
import sys
from ollama_cache_proxy.cli import main, options
options.FORMER_LISTEN, default = sys.argv[1:3]
loaded = options.settings_of
def settings_of(arguments):
    settings = loaded(arguments).model_copy(update={"listen": default})
    settings.model_fields_set.discard("listen")
    return settings
options.settings_of = settings_of
sys.exit(main.main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    "words",
    [
        ("stats", "--json"),
        ("clear", "--yes", "--json"),
        ("entries", "--json"),
        ("explain", "{request}", "--json"),
        ("doctor", "--json"),
        ("warm", "{request}", "--json"),
        ("bench", "--rounds", "1", "--json"),
    ],
    ids=lambda words: words[0],
)
async def test_every_command_finds_it_and_its_output_stays_as_it_is(
    words: tuple[str, ...], proxy: Proxy, simulator: Simulator, tmp_path: Path
) -> None:
    request = tmp_path / "request.json"
    request.write_bytes(json.dumps({"path": "/api/generate", "body": json.loads(GENERATE)}).encode())
    defaults = (proxy.url.removeprefix("http://"), f"127.0.0.1:{free_port()}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WITH_OTHER_DEFAULTS, *defaults),
        *(word.replace("{request}", str(request)) for word in words),
        env=environment(
            {"OCP_ADMIN_TOKEN": canary.TOKEN, "OCP_UPSTREAM": simulator.url, "XDG_STATE_HOME": str(tmp_path)}
        ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert isinstance(json.loads(out), dict)
    (told,) = [line for line in err.decode().splitlines() if "the default before 0.3" in line]
    assert proxy.url in told
    canary.check(out.decode() + err.decode(), "the output")


async def test_https_with_an_authority_that_the_system_does_not_know(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
        url = proxy.url.replace("127.0.0.1", "localhost")
        done = await piped("stats", "--url", url)
        assert done.status == 1
        assert (
            "has a certificate that is not trusted; set SSL_CERT_FILE to a file with its CA certificate\n" in done.err
        )
        assert (await piped("stats", "--url", url, added={"SSL_CERT_FILE": AUTHORITY})).status == 0


async def test_a_store_that_takes_nothing_new_shows(simulator: Simulator, redis_server: RedisServer) -> None:
    client = redis_server.client()
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        await ask(proxy.url, "POST", "/api/generate", body=b'{"model":"tiny","prompt":"known","stream":false}')
        await proxy.kept()
        client.config_set("maxmemory", "1")
        try:
            await ask(proxy.url, "POST", "/api/generate", body=b'{"model":"tiny","prompt":"new","stream":false}')
            await proxy.kept()
            done = await piped("stats", "--url", proxy.url)
        finally:
            client.config_set("maxmemory", "0")
        assert done.status == 0
        assert "stores 1 entry in" in done.out.splitlines()[0]
        assert "the store takes no new entries" in done.out.splitlines()[0]


async def test_a_store_that_is_down_shows(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        redis_server.kill()
        try:
            done = await piped("stats", "--url", proxy.url)
            assert done.status == 0
            assert "the store does not answer" in done.out.splitlines()[0]
            for command in (("clear",), ("entries",)):
                done = await piped(*command, "--url", proxy.url)
                assert done.status == 1
                assert "the store does not answer" in done.err
                assert "run `ollama-cache-proxy doctor`" in done.err
                assert done.err.count("\n") == 1
        finally:
            redis_server.start()
