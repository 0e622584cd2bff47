"""`ollama-cache-proxy clear`: make a running proxy forget."""

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
        help="forget what is kept",
        description="Forget every entry, or those that the filters mean, in all proxies that share the store. On a"
        " terminal it asks first. Where others can reach the proxy it needs OCP_ADMIN_TOKEN or the file's admin_token.",
        examples=("clear", "clear --model llama3.2 --yes", "clear --operation embed --category docs --json"),
    )
    options.add_url(parser)
    add_filters(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.loop import run_ending
    from ollama_cache_proxy.cli.screen import write_json

    settings = options.settings_of(arguments)
    url, meant = options.proxy_url(arguments, settings), filters(arguments)
    if sys.stdin.isatty() and not arguments.yes:
        sys.stderr.write(f"Forget {run_ending(_question(url, meant))}? [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        sys.stderr.write("" if answer.endswith("\n") else "\n")
        if answer.strip().lower() not in ("y", "yes"):
            sys.stderr.write("Nothing was forgotten.\n")
            return FAILED
    cleared = run_ending(_clear(url, settings, meant))
    if arguments.json:
        write_json({"cleared": cleared}, indent=False)
    else:
        sys.stdout.write(f"{options.entries(cleared)} forgotten.\n")
    return DONE


async def _question(url: str, meant: dict[str, str]) -> str:
    """Say what is about to be forgotten."""
    from ollama_cache_proxy.cli.asking import STATS, proxy_at

    async with proxy_at(url, "") as proxy:
        keys = (await proxy.fetch(STATS))["keys"]
    which = ", ".join(f"{name} {value}" for name, value in meant.items())
    return f"every entry of {which} at {url}" if which else f"all {options.entries(keys)} at {url}"


async def _clear(url: str, settings: Settings, meant: dict[str, str]) -> int:
    from ollama_cache_proxy.cli.asking import CLEAR, proxy_at

    async with proxy_at(url, secret(settings.admin_token)) as proxy:
        cleared: int = (await proxy.fetch(CLEAR, meant))["cleared"]
    return cleared
