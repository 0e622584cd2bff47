"""`ollama-cache-proxy serve`: run the proxy."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE, WRONG, Failed
from ollama_cache_proxy.cli.loop import HangUp, notify, tune_garbage_collector, until_signalled
from ollama_cache_proxy.cli.loop import run as run_loop
from ollama_cache_proxy.service.app import Running, running
from ollama_cache_proxy.service.reloading import Reloads
from ollama_cache_proxy.service.settings import DEFAULT_PORT, Settings, SettingsError, load
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.service.workers import Supervising, supervising

_ENDING = "Ending: requests in progress finish first (a second signal ends immediately)"


def add(commands: Any) -> None:
    """Add the command to the command line."""
    options.add_settings(
        options.command(
            commands,
            "serve",
            run,
            help="run the proxy",
            description="Run the proxy until SIGINT or SIGTERM; SIGHUP reads settings, certificates and credentials"
            " anew. Every option is also a setting in the environment and in the TOML file. The command line overrides"
            " the environment, and the environment overrides the file.",
            examples=(
                f"serve  # on port {DEFAULT_PORT}, in front of the Ollama of this machine",
                "serve --listen 127.0.0.1:5000 --upstream http://gpu-server:11434",
                "serve --cache chat=always --cache-streams",
            ),
        )
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    hang_up = HangUp()  # before the settings are read: what changes from now on may be asked for
    settings = options.settings_of(arguments)
    read = partial(_read, arguments)
    try:
        run_loop(_serve(settings, read, hang_up) if settings.workers == 1 else _supervise(settings, read, hang_up))
    except SettingsError as error:
        raise Failed(str(error), status=WRONG) from None
    return DONE


def _read(arguments: argparse.Namespace) -> Settings:
    """Return the settings as they are now; raise SettingsError."""
    return load(arguments.config, options.given(arguments))


async def _serve(settings: Settings, read: Callable[[], Settings], hang_up: HangUp) -> None:
    with bind(settings.listen) as sock:
        async with running(settings, sock) as proxy:
            tune_garbage_collector()
            notify("READY=1")
            await until_signalled(hang_up, _reloads(settings, read, proxy))
            notify("STOPPING=1")
            proxy.log.say(_ENDING)


async def _supervise(settings: Settings, read: Callable[[], Settings], hang_up: HangUp) -> None:
    with bind(settings.listen) as sock:
        async with supervising(settings, sock) as proxy:
            notify("READY=1")
            await until_signalled(hang_up, _reloads(settings, read, proxy))
            notify("STOPPING=1")
            proxy.log.say(_ENDING)


def _reloads(settings: Settings, read: Callable[[], Settings], proxy: Running | Supervising) -> Reloads:
    """Return what a SIGHUP calls. systemd is told when a reload begins and ends (sd_notify(3), RELOADING)."""

    def busy(begins: bool) -> None:  # noqa: FBT001 - see Reloads
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notify(f"RELOADING=1\nMONOTONIC_USEC={now}" if begins else "READY=1")

    return Reloads(
        settings,
        read=read,
        apply=proxy.reload,
        say=lambda text, warning: proxy.log.say(text, warning=warning),
        busy=busy,
        tasks=proxy.tasks,
    )
