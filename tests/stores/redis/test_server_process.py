"""A server as a child: its status, its end, and the lock that only it and its children hold."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from pathlib import Path

import pytest

from ollama_cache_proxy.stores.redis.server_process import ServerProcess, accepts, says, until_accepts
from tests.support.waiting import until

LISTENS = (
    "import signal, socket, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN if 'stays' in sys.argv else signal.SIG_DFL)\n"
    "listener = socket.socket(socket.AF_UNIX)\n"
    "listener.bind('s')\n"
    "listener.listen()\n"
    "time.sleep(60)\n"
)


def is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@pytest.mark.parametrize(
    ("code", "status"), [("", 0), ("raise SystemExit(1)", 1), ("import os; os.kill(os.getpid(), 9)", 137)]
)
async def test_its_status_is_known(code: str, status: int, tmp_path: Path) -> None:
    process = await ServerProcess.start((sys.executable, "-c", code), folder=tmp_path)
    assert await asyncio.wait_for(process.wait(), 20) == status
    assert process.ended


@pytest.mark.parametrize("how", ["ends", "stays"])
async def test_the_lock_is_held_until_it_has_ended(how: str, tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = await ServerProcess.start((sys.executable, "-c", LISTENS, how), folder=tmp_path, lock=lock)
    os.close(lock)
    async with asyncio.timeout(20):
        await until_accepts(tmp_path / "s")
    assert is_locked(tmp_path / "lock")
    await process.stop(0.2 if how == "stays" else 20)
    assert process.ended
    await until(lambda: not is_locked(tmp_path / "lock"), 20)  # what was killed is gone a little later than its shell
    assert not await accepts(tmp_path / "s")


async def test_what_it_writes_is_for_this_person_alone_and_secrets_are_not_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCP_ADMIN_TOKEN", "hush-hush")
    monkeypatch.setenv("REDIS_URL", "redis://:hush-hush@h")
    code = "import os; open('written', 'w').write(repr(dict(os.environ)))"
    process = await ServerProcess.start((sys.executable, "-c", code), folder=tmp_path)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert (tmp_path / "written").stat().st_mode & 0o077 == 0
    assert "hush-hush" not in (tmp_path / "written").read_text()


async def test_what_a_program_says(tmp_path: Path) -> None:
    assert await says("/bin/sh", "-c", "echo one; echo two >&2") == "one\n"
    assert await says(str(tmp_path / "none")) == ""
    assert await says("/bin/sh", "-c", "exec sleep 60") == "", "it takes too long"
