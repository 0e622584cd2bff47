"""`--record-requests`: what a proxy has recorded fills the store of another, and nothing else is written or said."""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.service.settings import SettingsError, load
from ollama_cache_proxy.simulator import Simulator
from tests.support import canary
from tests.support.processes import serve
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.terminal import piped
from tests.support.waiting import until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}
EMBED: dict[str, Any] = {"model": "all-minilm", "input": [canary.PROMPT, "b"]}
MEMORY = {"OCP_STORE": "memory"}


def recorded(folder: Path) -> list[dict[str, Any]]:
    lines = [line for file in sorted(folder.glob("*")) for line in file.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]


async def post(url: str, path: str, body: dict[str, Any], **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", path, body=json.dumps(body).encode(), fields=named)


async def test_what_one_proxy_records_fills_the_store_of_the_next(simulator: Simulator, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    how = ("--listen", "127.0.0.1:0", "--upstream", simulator.url)
    secret = f"Bearer {canary.CREDENTIAL}"
    async with serve(*how, "--record-requests", str(folder), environment=MEMORY) as proxy:
        url = await proxy.url()
        said = await proxy.line(lambda line: "RECORDING" in line)
        assert f"are written to {folder}, where this user alone can read them, 64 MiB at most" in said
        for _ in range(3):
            await post(url, "/api/generate", GENERATE)
        await post(url, "/api/embed", EMBED, X_Cache_Namespace="mine", Origin="http://localhost")
        await post(url, "/api/generate", GENERATE | {"prompt": "with a secret"}, Authorization=secret)
        await post(url, "/api/generate", GENERATE | {"prompt": "not stored"}, Cache_Control="no-store")
        await post(url, "/api/generate", GENERATE | {"prompt": "unknown", "model": "nosuch"})
        await post(url, "/api/generate", {"model": "tiny", "prompt": "a stream"})
        await post(
            url, "/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": False}
        )
        proxy.process.send_signal(signal.SIGTERM)
        assert await proxy.end() == 0
    assert [(line["path"], json.loads(line["body"]), line["headers"]) for line in recorded(folder)] == [
        ("/api/generate", GENERATE, {}),
        ("/api/embed", EMBED, {"X-Cache-Namespace": "mine", "Origin": "http://localhost"}),
    ]
    (file,) = folder.iterdir()
    assert canary.CREDENTIAL not in file.read_text("utf-8")
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(file.stat().st_mode)) == (0o700, 0o600)
    async with serve(*how, environment=MEMORY) as proxy:
        url = await proxy.url()
        done = await piped("warm", str(folder), "--url", url)
        assert done.status == 0
        assert "Of 3: 3 sent and stored, 0 already stored, 0 failed" in done.err
        canary.check(done.err, "what warm says")
        inferences = simulator.inferences
        first = await post(url, "/api/generate", GENERATE)
        second = await post(url, "/api/embed", EMBED, X_Cache_Namespace="mine", Origin="http://localhost")
        assert [first.field("X-Cache"), second.field("X-Cache")] == ["HIT", "HIT"]
        assert simulator.inferences == inferences
        assert not any("RECORDING" in line for line in proxy.lines)


async def test_workers_record_into_one_folder(simulator: Simulator, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    how = ("--listen", "127.0.0.1:0", "--upstream", simulator.url, "--workers", "2")
    async with serve(*how, "--record-requests", str(folder), "--log", "plain") as proxy:
        url = await proxy.url()
        await proxy.line(lambda line: "workers serve" in line)
        for number in range(20):
            await post(url, "/api/generate", GENERATE | {"prompt": f"{number}"})
        proxy.process.send_signal(signal.SIGTERM)
        assert await proxy.end() == 0
        assert sum("RECORDING" in line for line in proxy.lines) == 1
    assert sorted(json.loads(line["body"])["prompt"] for line in recorded(folder)) == sorted(map(str, range(20)))
    assert len(list(folder.iterdir())) == 2, "one of each worker"


async def test_a_folder_of_others_stops_the_start_with_one_line(simulator: Simulator, tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o755)
    (public / "notes").touch()
    for workers in ("1", "2"):
        how = ("--listen", "127.0.0.1:0", "--upstream", simulator.url, "--workers", workers)
        async with serve(*how, "--record-requests", str(public)) as proxy:
            assert await proxy.end() == 2
            assert "is not allowed: others can enter it, and it is not empty: chmod 700" in proxy.lines[-1]
            assert "Traceback" not in "".join(proxy.lines)


async def reload(proxy: Proxy, **given: Any) -> None:
    await proxy.running.reload(load(None, proxy.running.settings.model_dump() | given))


async def test_a_reload_begins_moves_and_ends_it(simulator: Simulator, tmp_path: Path) -> None:
    one, other, public = tmp_path / "one", tmp_path / "other", tmp_path / "public"
    public.mkdir()
    public.chmod(0o755)
    (public / "notes").touch()
    async with proxy_before(simulator.url) as proxy:
        await post(proxy.url, "/api/generate", GENERATE)
        await reload(proxy, record_requests=str(one))
        await post(proxy.url, "/api/generate", GENERATE)
        await until(lambda: recorded(one))
        with pytest.raises(SettingsError, match="others can enter it"):
            await reload(proxy, record_requests=str(public))
        await post(proxy.url, "/api/generate", GENERATE | {"prompt": "2"})
        await until(lambda: len(recorded(one)) == 2)
        await reload(proxy, record_requests=str(other))
        await post(proxy.url, "/api/generate", GENERATE | {"prompt": "3"})
        await until(lambda: recorded(other))
        await reload(proxy, record_requests=None)
        await post(proxy.url, "/api/generate", GENERATE | {"prompt": "4"})
    assert [len(recorded(folder)) for folder in (one, other)] == [2, 1]
    assert "Requests are no longer recorded" in proxy.log.getvalue()


async def test_placeholders_are_no_credentials_and_ones_own_are_not_recorded(
    simulator: Simulator, tmp_path: Path
) -> None:
    """What the proxy itself shows to Ollama is not the client's, and is added again when `warm` asks."""
    folder = tmp_path / "recordings"
    settings = {"placeholder_credentials": "ollama", "upstream_authorization_for": "all"}
    async with proxy_before(simulator.url, record_requests=str(folder), **settings) as proxy:
        await post(proxy.url, "/api/generate", GENERATE, Authorization="Bearer ollama")
        await until(lambda: recorded(folder))
    assert [line["headers"] for line in recorded(folder)] == [{}]
    async with proxy_before(simulator.url, **settings) as proxy:
        assert (await piped("warm", str(folder), "--url", proxy.url)).status == 0
        assert (await post(proxy.url, "/api/generate", GENERATE, Authorization="Bearer ollama")).field(
            "X-Cache"
        ) == "HIT"


async def test_no_request_fails_where_nothing_can_be_written(simulator: Simulator, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    async with proxy_before(simulator.url, record_requests=str(folder)) as proxy:
        folder.rmdir()
        for number in range(3):
            answer = await post(proxy.url, "/api/generate", GENERATE | {"prompt": f"{number}"})
            assert (answer.status, answer.field("X-Cache")) == (200, "MISS")
        await until(lambda: "no longer recorded" in proxy.log.getvalue())
        assert (await post(proxy.url, "/api/generate", GENERATE | {"prompt": "0"})).field("X-Cache") == "HIT"
    assert proxy.log.getvalue().count("no longer recorded") == 1
