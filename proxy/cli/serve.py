"""`ollama-cache-proxy serve`: run the proxy."""

from __future__ import annotations

import argparse
import gc
import sys
from typing import Any

from proxy.app import running
from proxy.cli.loop import notify, until_signalled
from proxy.cli.loop import run as run_loop
from proxy.opening import bind
from proxy.settings import OPERATIONS, POLICIES, Settings, SettingsError, load, setting_of
from proxy.workers import supervising

_WRONG_SETTING = 2
_ENDING = "Ending: what is in progress is finished first (a second signal ends at once)"


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="run the proxy",
        description="Run the proxy until SIGINT or SIGTERM. Every option is also a setting of the environment and of"
        " the TOML file; the command line wins over the environment, and that over the file.",
        epilog="example: ollama-cache-proxy serve --listen 127.0.0.1:5000 --upstream http://gpu-server:11434",
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="address to listen on (default 127.0.0.1:11435; OCP_LISTEN)"
    )
    parser.add_argument(
        "--upstream", metavar="URL", help="Ollama (default OLLAMA_HOST or port 11434 here; OCP_UPSTREAM)"
    )
    parser.add_argument("--workers", metavar="N", help="processes that serve, with one Redis (default 1; OCP_WORKERS)")
    parser.add_argument("--redis-url", metavar="URL", help="Redis or Valkey (default: a private one; OCP_REDIS_URL)")
    parser.add_argument(
        "--cache",
        metavar="ROUTE=POLICY",
        action="append",
        type=_policy,
        help=f"what the cache does for a route, once for each: {', '.join(OPERATIONS)};"
        f" {', '.join(POLICIES)} (OCP_CACHE_CHAT=always and so on)",
    )
    parser.add_argument(
        "--cache-streams",
        action=argparse.BooleanOptionalAction,
        help="record streams of cached routes too (OCP_CACHE_STREAMS)",
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings (OCP_CONFIG)")
    parser.add_argument("--log", choices=("auto", "plain", "colour", "json"), help="how the log looks (OCP_LOG)")
    parser.add_argument(
        "--development", action=argparse.BooleanOptionalAction, help="log every request, and why it was passed on"
    )
    parser.set_defaults(run=run)


def _policy(text: str) -> tuple[str, str]:
    """Read ROUTE=POLICY as a setting's name and value; what policies there are is the setting's to say."""
    route, _, policy = text.partition("=")
    if route not in OPERATIONS:
        raise argparse.ArgumentTypeError(f"{route!r} is no route; choose from the list in --help")
    return setting_of(route), policy


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    names = ("listen", "upstream", "workers", "redis_url", "cache_streams", "log", "development")
    given = {name: getattr(arguments, name) for name in names} | dict(arguments.cache or ())
    try:
        _keep_off_the_command_line(arguments.redis_url)
        settings = load(arguments.config, given)
        run_loop(_serve(settings) if settings.workers == 1 else _supervise(settings))
    except SettingsError as error:
        sys.stderr.write(f"ollama-cache-proxy: {error}\n")
        return _WRONG_SETTING
    except KeyboardInterrupt:
        return 130
    return 0


def _keep_off_the_command_line(url: str | None) -> None:
    """Refuse a password there: everyone on the machine can read it for as long as the proxy runs."""
    if url is not None and ("@" in url or "password=" in url):
        raise SettingsError(
            "redis_url: (hidden) is not allowed on the command line, where others read it: OCP_REDIS_URL"
        )


async def _serve(settings: Settings) -> None:
    with bind(settings.listen) as sock:
        async with running(settings, sock) as proxy:
            gc.collect()
            gc.freeze()  # what is there now stays: no collection looks at it again
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
