"""`ollama-cache-proxy clear`: drop stored entries."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE, FAILED
from ollama_cache_proxy.cli.filters import add_filters, filters
from ollama_cache_proxy.service.settings import Settings, secret


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "clear",
        run,
        help="drop stored entries",
        description="Drop all entries, or those that match the filters, in all proxies that share the store. On a"
        " terminal it asks first. If other machines can reach the proxy, it needs OCP_ADMIN_TOKEN or admin_token in the"
        " settings file.",
        examples=("clear", "clear --model llama3.2 --yes", "clear --operation embed --category docs --json"),
    )
    options.add_url(parser)
    add_filters(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.loop import run_ending
    from ollama_cache_proxy.cli.screen import write_json

    settings = options.settings_of(arguments)
    url, wanted = options.proxy_url(arguments, settings), filters(arguments)
    if sys.stdin.isatty() and not arguments.yes:
        sys.stderr.write(f"Clear {run_ending(_question(url, wanted))}? [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        sys.stderr.write("" if answer.endswith("\n") else "\n")
        if answer.strip().lower() not in ("y", "yes"):
            sys.stderr.write("Nothing was cleared.\n")
            return FAILED
    cleared = run_ending(_clear(url, settings, wanted))
    if arguments.json:
        write_json({"cleared": cleared}, indent=False)
    else:
        sys.stdout.write(
            "Cleared; how many entries there were is not known.\n"
            if cleared is None
            else f"{options.entries(cleared)} cleared.\n"
        )
    return DONE


async def _question(url: str, wanted: dict[str, str]) -> str:
    """Return what is about to be cleared."""
    from ollama_cache_proxy.cli.asking import STATS, proxy_at

    async with proxy_at(url, "") as proxy:
        keys = (await proxy.fetch(STATS))["keys"]
    which = ", ".join(f"{name} {value}" for name, value in wanted.items())
    return f"all entries of {which} at {url}" if which else f"all {options.entries(keys)} at {url}"


async def _clear(url: str, settings: Settings, wanted: dict[str, str]) -> int | None:
    from ollama_cache_proxy.cli.asking import CLEAR, proxy_at

    async with proxy_at(url, secret(settings.admin_token)) as proxy:
        cleared: int | None = (await proxy.fetch(CLEAR, wanted))["cleared"]
    return cleared
