"""Packs of any size take the same memory, in the commands and in the proxy: processes of their own, with 100 MB."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ollama_cache_proxy.cli.jobs.pack_writing import PackWriter
from ollama_cache_proxy.policy import scope_marks
from ollama_cache_proxy.policy.key import Scope
from ollama_cache_proxy.policy.listing.items import Item, encode
from ollama_cache_proxy.policy.pack_records import record_of
from ollama_cache_proxy.stores import entry_codec
from tests.policy.test_pack_admission import VECTOR
from tests.support import canary
from tests.support.processes import serve, simulate
from tests.support.rawhttp import ask
from tests.support.servers import RedisServer
from tests.workbench.test_pack_form import ABOUT

MOST = 100.0
"""MB, of each process."""
NUMBERS = 8192
ENTRIES = 4200
FINITE = bytes(byte & 0x3F for byte in range(256))
MEASURED = """
import sys
from ollama_cache_proxy.cli.main import main
status = main(sys.argv[1:])
with open("/proc/self/status") as file:
    print(file.read().split("VmHWM:")[1].split()[0])
sys.exit(status)
"""


def made(path: Path, digest: str, version: str) -> None:
    """Write a pack of 100 MB: vectors of random numbers, which cannot be compressed much."""
    mark = scope_marks.marked(Scope(digest=digest, version=version), ())
    about = replace(ABOUT, digest=digest, version=version)
    with PackWriter(path) as writer:
        writer.begin(about)
        for number in range(ENTRIES):
            numbers = bytearray(os.urandom(4 * NUMBERS))
            numbers[3::4] = bytes(numbers[3::4]).translate(FINITE)
            vector = b'"%b"' % base64.b64encode(numbers)
            item = Item(vector=vector, numbers=NUMBERS, tokens=3, exact=True, total_duration=1, load_duration=1)
            entry = replace(VECTOR, body=encode(item), stored_at=time.time(), scope=mark)
            key = hashlib.sha256(b"%d" % number).hexdigest()
            writer.add(record_of(key, entry_codec.encode(key, entry)))
        writer.end_page({"cursor": None, "leftOut": {}, "scopes": []})
        writer.finish(None)


async def peak(*arguments: str) -> float:
    """Run a command; give the memory that it has taken at most, in MB (VmHWM of proc_pid_status(5))."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MEASURED, *arguments),
        env={**os.environ, "OCP_ADMIN_TOKEN": canary.TOKEN},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, err.decode()
    assert f"{ENTRIES:,} " in err.decode()
    return int(out) * 1024 / 1e6


@pytest.mark.timeout(300)
async def test_a_pack_of_100_mb_takes_less_than_that_on_both_sides(redis_server: RedisServer, tmp_path: Path) -> None:
    pack, again = tmp_path / "a.pack", tmp_path / "b.pack"
    environment = {"OCP_REDIS_URL": redis_server.url, "OCP_ADMIN_TOKEN": canary.TOKEN}
    async with (
        simulate() as (_, ollama),
        serve("--listen", "127.0.0.1:0", "--upstream", ollama, environment=environment) as proxy,
    ):
        url = await proxy.url()
        models = json.loads((await ask(ollama, "GET", "/api/tags")).body)["models"]
        digest = next(model["digest"] for model in models if model["name"].startswith("all-minilm"))
        version = json.loads((await ask(ollama, "GET", "/api/version")).body)["version"]
        await asyncio.to_thread(made, pack, digest, version)
        assert pack.stat().st_size > 100e6
        assert await peak("import", "--url", url, "--trust", str(pack)) < MOST
        assert await peak("export", "--url", url, "--model", "all-minilm", str(again)) < MOST
        assert proxy.peak() < MOST
        assert again.stat().st_size > 100e6
