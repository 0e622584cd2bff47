from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from tests.support.rawhttp import ask


@pytest.mark.parametrize(
    ("release", "version"),
    [((), b"0.33.0-rc2"), (("--ollama", "0.33"), b"0.33.0-rc2"), (("--ollama", "0.24"), b"0.24.0")],
)
async def test_it_answers_until_it_is_ended(release: tuple[str, ...], version: bytes) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", "simulate", "--listen", "127.0.0.1:0", "--completion-ms", "0"),
        *release,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    url = (await asyncio.wait_for(process.stderr.readline(), 20)).decode().split()[-1]
    answer = await ask(url, "POST", "/api/generate", body=b'{"model":"tiny","prompt":"x","stream":false}')
    assert answer.status == 200
    assert (await ask(url, "GET", "/api/version")).body == b'{"version":"%b"}' % version
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0


@pytest.mark.parametrize("listen", ["nowhere", "192.0.2.1:1"])
async def test_a_wrong_address_is_one_line(listen: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", "simulate", "--listen", listen), stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert said.decode().startswith(f"ollama-cache-proxy: listen: '{listen}' ")
    assert said.count(b"\n") == 1


async def test_a_release_that_it_does_not_know_is_refused() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", "simulate", "--ollama", "0.1"), stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert b"'0.24', '0.33'" in said
