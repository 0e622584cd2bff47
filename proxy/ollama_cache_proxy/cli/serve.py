"""`ollama-cache-proxy serve`: run the proxy."""

from __future__ import annotations

import argparse
from typing import Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE, WRONG, Failed
from ollama_cache_proxy.cli.loop import notify, tune_garbage_collector, until_signalled
from ollama_cache_proxy.cli.loop import run as run_loop
from ollama_cache_proxy.service.app import running
from ollama_cache_proxy.service.settings import DEFAULT_PORT, Settings, SettingsError
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.service.workers import supervising

_ENDING = "Ending: requests in progress finish first (a second signal ends immediately)"


def add(commands: Any) -> None:
    """Add the command to the command line."""
    options.add_settings(
        options.command(
            commands,
            "serve",
            run,
            help="run the proxy",
            description="Run the proxy until SIGINT or SIGTERM. Every option is also a setting in the environment and"
            " in the TOML file. The command line overrides the environment, and the environment overrides the file.",
            examples=(
                f"serve  # on port {DEFAULT_PORT}, in front of the Ollama of this machine",
                "serve --listen 127.0.0.1:5000 --upstream http://gpu-server:11434",
                "serve --cache chat=always --cache-streams",
            ),
        )
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    settings = options.settings_of(arguments)
    try:
        run_loop(_serve(settings) if settings.workers == 1 else _supervise(settings))
    except SettingsError as error:
        raise Failed(str(error), status=WRONG) from None
    return DONE


async def _serve(settings: Settings) -> None:
    with bind(settings.listen) as sock:
        async with running(settings, sock) as proxy:
            tune_garbage_collector()
            notify("READY=1")
            await until_signalled()
            notify("STOPPING=1")
            proxy.log.say(_ENDING)


async def _supervise(settings: Settings) -> None:
    with bind(settings.listen) as sock:
        async with supervising(settings, sock) as log:
            notify("READY=1")
            await until_signalled()
            notify("STOPPING=1")
            log.say(_ENDING)
