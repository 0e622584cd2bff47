"""A password in a URL shows in no output, however it is written, and whatever holds the URL."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import suppress
from pathlib import Path

import pytest

from ollama_cache_proxy.service.settings import SettingsError, load, named_redis
from tests.e2e.faults.conftest import Measured
from tests.support import canary
from tests.support.processes import serve
from tests.support.rawhttp import ask
from tests.support.servers import RedisServer
from tests.support.terminal import piped

row = pytest.mark.row
SPELLINGS = [f"1234/{canary.PASSWORD}+x==", f"12?{canary.PASSWORD}", f"12#{canary.PASSWORD}", f"p@ss/{canary.PASSWORD}"]


def shown(outputs: list[str]) -> int:
    """How many of these outputs hold the password, or its end alone."""
    return sum(canary.PASSWORD in output or canary.PASSWORD[5:] in output for output in outputs)


@row(47)
@pytest.mark.parametrize("source", ["OCP_REDIS_URL", "REDIS_URL", "file"])
def test_a_url_that_cannot_be_read_is_refused_unseen(
    measured: Measured, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for spelling in SPELLINGS:
        url = f"redis://u:{spelling}@127.0.0.1:1/0"
        file = tmp_path / "settings.toml"
        file.write_text(f'redis_url = "{url}"\n' if source == "file" else "")
        if source != "file":
            monkeypatch.setenv(source, url)
        with pytest.raises(SettingsError, match=r"^redis_url|REDIS_URL: \(hidden\) is not allowed: ") as caught:
            named_redis(load(str(file), {}))
        texts.append("".join(traceback.format_exception(caught.value)))
    measured(47, "shown", shown(texts))


@row(47)
def test_a_url_that_is_used_shows_without_its_password(measured: Measured, redis_server: RedisServer) -> None:
    """With @ and : as they are; the server refuses it, which is a fault with texts of its own."""
    outputs = asyncio.run(outputs_with(f"redis://default:a@b:{canary.PASSWORD}@127.0.0.1:{redis_server.port}/0"))
    measured(47, "shown", shown(outputs))
    assert f"redis://127.0.0.1:{redis_server.port}/0" in outputs[0]
    assert len(outputs) >= 9


async def outputs_with(url: str) -> list[str]:
    """What everybody can read of a proxy with two workers and this Redis; its statistics first."""
    added = {"OCP_REDIS_URL": url, "OCP_LISTEN": "127.0.0.1:0", "OCP_UPSTREAM": "http://127.0.0.1:1"}
    async with serve("--workers", "2", environment=added) as command:
        here = await command.url()
        paths = ("/api/cache/stats", "/metrics", "/readyz", "/api/cache/system")
        outputs = [(await ask(here, "GET", path)).body.decode() for path in paths]
        doctor, config = await asyncio.gather(
            piped("doctor", "--url", here, added=added), piped("config", "--json", added=added)
        )
        outputs += [doctor.out + doctor.err, config.out, "\n".join(command.lines), *arguments_of(command.process.pid)]
    return outputs


def arguments_of(pid: int) -> list[str]:
    """The command lines of a process and its children, as everybody on the machine can read them."""
    found = [Path(f"/proc/{pid}/cmdline").read_text()]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"PPid:\t{pid}\n" in (process / "status").read_text():
                found.append((process / "cmdline").read_text())
    return found
