"""`make stack`: what compose.yml puts into containers runs as processes, is scraped, and ends together."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.prometheus import ROOT, found
from tests.support.rawhttp import ask
from tests.support.waiting import until


@asynccontextmanager
async def stack(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """Run the stack; gives the process, and the lines that it has said."""
    found("prometheus")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "docker/stack.py", *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proxy")))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    lines: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            lines.append(line.decode())  # noqa: PERF401 - they are looked at meanwhile

    reading = asyncio.create_task(read())
    try:
        yield process, lines
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 60)
        await reading


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def urls(lines: list[str]) -> list[str]:
    await until(lambda: any("Ctrl-C" in line for line in lines), 20)
    return re.findall(r"http://[\d.]+:\d+", next(line for line in lines if "Ctrl-C" in line))


async def up(prometheus: str) -> set[str]:
    try:
        answer = await ask(prometheus, "GET", "/api/v1/targets")
    except OSError:
        return set()
    if answer.status == 503:  # Prometheus 3 listens before it is ready
        return set()
    targets = json.loads(answer.body)["data"]["activeTargets"]
    return {target["labels"]["job"] for target in targets if target["health"] == "up"}


async def test_all_of_it_runs_is_scraped_and_ends_together() -> None:
    async with stack("--simulate", "--any-port") as (process, lines):
        proxy, prometheus, _ = await urls(lines)
        async with asyncio.timeout(40):
            while await up(prometheus) != {"ollama-cache-proxy", "gpu", "prometheus"}:  # noqa: ASYNC110 - it can only be asked
                await asyncio.sleep(0.2)
        ready = await ask(proxy, "GET", "/readyz?require=upstream,store")
        assert ready.status == 200
        body = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
        assert (await ask(proxy, "POST", "/api/generate", body=body)).field("X-Cache") == "MISS"
        left = children(process.pid)
        assert len(left) == 5
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    assert not alive(left)
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.distributed
async def test_past_one_machine_it_is_never_wrong_whatever_breaks() -> None:
    async with stack("--cluster", "--chaos", "0.5") as (process, lines):
        assert await asyncio.wait_for(process.wait(), 240) == 0, lines[-20:]
    shown = {text: int(number.replace(",", "")) for text, number in re.findall(r"(.+?)  +([\d,]+)", "\n".join(lines))}
    assert (shown["wrong bodies"], shown["own errors"], shown["proxies that Prometheus sees"]) == (0, 0, 2)
    assert shown["asked as hits"] > 100


async def test_when_one_ends_all_do() -> None:
    async with stack("--simulate", "--any-port") as (process, lines):
        await urls(lines)
        left = children(process.pid)
        os.kill(left[0], signal.SIGKILL)
        assert await asyncio.wait_for(process.wait(), 60) == 1
    assert any("redis ended, so everything ends" in line for line in lines)
    assert not alive(left)


async def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 9090))
            taken.listen()
        except OSError:
            pytest.skip("port 9090 belongs to somebody else")
        async with stack("--simulate") as (process, lines):
            assert await asyncio.wait_for(process.wait(), 20) == 2
    assert len(lines) == 1
    assert re.match(r"port \d+ of \w+ is in use: ", lines[0])
