from __future__ import annotations

import asyncio
import sys


async def test_it_shows_the_main_job() -> None:
    """It takes the simulator's real delays: about seven seconds."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", "demo"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    rows = {line.split("│")[1].strip(): line for line in said.decode().splitlines() if line.startswith("│")}
    assert "yes" in rows["Completion"]
    assert "hit; ttl=3600" in rows["Completion"]
    assert "hit; ttl=86400" in rows["Embedding"]
    assert "detail=opt-in" in rows["Chat"]
    assert '"hits":2,"misses":2,"hitRate":50.0,"keys":2' in said.decode()
