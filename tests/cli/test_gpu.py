from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ollama_cache_proxy.gpu.replay import BUNDLED, recording
from tests.support.processes import gpu
from tests.support.rawhttp import ask


async def test_it_exports_a_recording_until_it_is_ended() -> None:
    async with gpu("--replay", "h100", NODE_NAME="box") as (command, url):
        await command.line(lambda line: line.startswith("GPU metrics of NVIDIA H100 80GB HBM3, NVIDIA H100"))
        answer = await ask(url, "GET", "/metrics")
        assert answer.status == 200
        assert answer.field("content-type") == "text/plain; version=0.0.4; charset=utf-8"
        families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
        assert [sample.labels["Hostname"] for sample in families["DCGM_FI_DEV_GPU_UTIL"].samples] == ["box", "box"]
        assert families["DCGM_FI_DEV_FB_USED"].samples[0].value >= 4
        health = json.loads((await ask(url, "GET", "/health")).body)
        assert health["status"] == "ok"
        assert [card["memory_total"] for card in health["gpus"]] == [81559 << 20] * 2
        command.process.send_signal(signal.SIGTERM)
        assert await command.end() == 0


async def test_without_a_node_name_the_host_is_named(tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    file.write_text(recording("rtx4090"), "utf-8")
    async with gpu("--replay", str(file), NODE_NAME="") as (_, url):
        body = (await ask(url, "GET", "/metrics")).body.decode()
    assert 'modelName="NVIDIA GeForce RTX 4090"' in body
    assert f'Hostname="{socket.gethostname()}"' in body


FAKES = {
    "no module": ("raise ImportError", "nvidia-ml-py is not installed"),
    "no driver": (
        "class NVMLError(Exception): pass\ndef nvmlInit(): raise NVMLError('Driver Not Loaded')",
        "no NVIDIA driver answers (NVML: Driver Not Loaded)",
    ),
    "no card": (
        "class NVMLError(Exception): pass\nnvmlInit = nvmlShutdown = str\nnvmlDeviceGetCount = int\nnvmlSystemGetDriverVersion = str",
        "the driver lists no GPU",
    ),
}


@pytest.mark.parametrize("case", FAKES)
async def test_without_a_card_it_says_why_once_and_goes_on(case: str, tmp_path: Path) -> None:
    source, why = FAKES[case]
    (tmp_path / "pynvml.py").write_text(source)
    async with gpu(PYTHONPATH=str(tmp_path)) as (command, url):
        await command.line(lambda line: line.startswith("No GPU metrics yet: "))
        for _ in range(3):
            answer = await ask(url, "GET", "/metrics")
            assert (answer.status, answer.body) == (200, b"")
        health = await ask(url, "GET", "/health")
        assert health.status == 200
        assert why in json.loads(health.body)["why"]
        command.process.send_signal(signal.SIGTERM)
        assert await command.end() == 0
        assert len(command.lines) == 2, command.lines
        assert why in command.lines[1]


async def test_a_driver_that_hangs_keeps_it_neither_from_answering_nor_from_ending(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(
        "import threading\nclass NVMLError(Exception): pass\ndef nvmlInit(): threading.Event().wait()"
    )
    async with gpu(PYTHONPATH=str(tmp_path)) as (command, url):
        answer = await ask(url, "GET", "/metrics")
        assert (answer.status, answer.body) == (200, b"")
        await command.line(lambda line: "the driver did not answer within 2 s" in line)
        command.process.send_signal(signal.SIGTERM)
        assert await command.end() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "nowhere"], "listen: 'nowhere' is not allowed: "),
        (["--listen", "192.0.2.1:1"], "listen: '192.0.2.1:1' cannot be used: "),
        (["--replay", "/nowhere.json"], "replay: '/nowhere.json' cannot be read: "),
        (["--replay", __file__], f"replay: '{__file__}' cannot be played: "),
    ],
)
async def test_a_wrong_argument_is_one_line(arguments: list[str], said: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", "gpu", *arguments), stderr=asyncio.subprocess.PIPE
    )
    _, error = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert error.decode().startswith(f"ollama-cache-proxy: {said}")
    assert error.count(b"\n") == 1


async def test_the_help_names_what_is_bundled() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", "gpu", "--help"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert f"{', '.join(BUNDLED)} (bundled)" in " ".join(out.decode().split())


async def test_serve_starts_without_it() -> None:
    code = "import sys, ollama_cache_proxy.cli.main as m; m.parser(); print([n for n in sys.modules if 'nvml' in n or n == 'ollama_cache_proxy.gpu'])"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", code), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, out) == (0, b"[]\n")
