"""`ollama-cache-proxy gpu`: metrics of NVIDIA cards under the names of dcgm-exporter, for where that cannot run."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.loop import notify, until_signalled
from ollama_cache_proxy.cli.loop import run as run_loop
from ollama_cache_proxy.service.settings import host_and_port

if TYPE_CHECKING:
    from ollama_cache_proxy.gpu.nvml import Reader

_WRONG_SETTING = 2


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "gpu",
        run,
        help="export metrics of NVIDIA cards, where dcgm-exporter cannot run",
        description="Serve /metrics for Prometheus with the names, labels and units of NVIDIA's dcgm-exporter, read"
        " through NVML, and /health. Without nvidia-ml-py, a driver or a card the page is empty until they are there.",
        examples=("gpu", "gpu --replay h100  # on a machine without a card"),
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", default="127.0.0.1:9400", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--replay", metavar="FILE", help="play a recording of NVML instead: h100, rtx4090 (bundled), or a file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    try:
        host, port = host_and_port(arguments.listen)
    except ValueError as error:
        return _wrong("listen", arguments.listen, f"is not allowed: {error}")
    try:
        reader = _reader(arguments.replay)
    except OSError as error:
        return _wrong("replay", arguments.replay, f"cannot be read: {error.strerror}")
    except ValueError as error:
        return _wrong("replay", arguments.replay, f"cannot be played: {error}")
    try:
        run_loop(_serve(reader, host, port))
    except OSError as error:
        return _wrong("listen", arguments.listen, f"cannot be used: {error.strerror}")
    return 0


def _wrong(option: str, value: str, what: str) -> int:
    sys.stderr.write(f"ollama-cache-proxy: {option}: {value!r} {what}\n")
    return _WRONG_SETTING


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _reader(name: str | None) -> Reader:
    from ollama_cache_proxy.gpu.nvml import Reader, pynvml
    from ollama_cache_proxy.gpu.replay import Replay, recording

    if name is None:
        return Reader(pynvml)
    replay: Any = Replay(recording(name))  # it has every function, by __getattr__
    return Reader(lambda: replay)


async def _serve(reader: Reader, host: str, port: int) -> None:
    from aiohttp import web

    from ollama_cache_proxy.gpu.exposition import CONTENT_TYPE, render
    from ollama_cache_proxy.gpu.readings import Nothing, gpus
    from ollama_cache_proxy.gpu.watch import Watch

    watch = Watch(reader.read, _say)
    hostname = os.environ.get("NODE_NAME") or socket.gethostname()

    async def metrics(_request: web.Request) -> web.Response:
        page = render(await watch.read(), hostname)
        return web.Response(body=page.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def health(_request: web.Request) -> web.Response:
        """Report ok with or without a card: a restart would change nothing."""
        found = await watch.read()
        why = {"why": found.why} if isinstance(found, Nothing) else {}
        return web.json_response({"status": "ok", "gpus": [asdict(gpu) for gpu in gpus(found)], **why})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/health", health)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=3.0)
    ended = asyncio.ensure_future(until_signalled())
    await runner.setup()
    try:
        await web.TCPSite(runner, host or None, port).start()
        at, bound = runner.addresses[0][:2]
        _say(f"GPU metrics are at http://{f'[{at}]' if ':' in at else at}:{bound}/metrics")
        notify("READY=1")
        await watch.read()
        await ended
    finally:
        await runner.cleanup()
