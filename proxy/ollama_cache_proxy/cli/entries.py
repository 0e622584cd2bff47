"""`ollama-cache-proxy entries`: list stored entries, without prompts and responses."""

from __future__ import annotations

import argparse
from typing import Any, Final

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE
from ollama_cache_proxy.cli.filters import add_filters, filters
from ollama_cache_proxy.service.settings import Settings, secret

_DEFAULT_LIMIT: Final = 20
_MAX_LIMIT: Final = 1000
_KEY_PREFIX: Final = 12
"""Characters of a key that a narrow terminal shows."""

_WIDE_COLUMNS: Final = 160
"""Columns of a terminal from which on whole keys are shown."""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "entries",
        run,
        help="list stored entries",
        description="List stored entries in no particular order, without prompts and responses. If other machines can"
        " reach the proxy, it needs OCP_ADMIN_TOKEN or admin_token in the settings file.",
        examples=("entries", "entries --model llama3.2 --limit 100", "entries --all --json | jq '.entries[].key'"),
    )
    options.add_url(parser)
    add_filters(parser)
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_limit,
        default=_DEFAULT_LIMIT,
        help="number of entries, or a few more (default: %(default)s)",
    )
    parser.add_argument("--cursor", metavar="CURSOR", default="", help="continue where an earlier list stopped")
    parser.add_argument("--all", action="store_true", help="list all entries")
    options.add_json(parser)


def _limit(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"must be from 1 to {_MAX_LIMIT}; --all has no limit")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.loop import run_ending
    from ollama_cache_proxy.cli.screen import write_json

    settings = options.settings_of(arguments)
    found = run_ending(_entries(options.proxy_url(arguments, settings), settings, arguments))
    if arguments.json:
        write_json(found)
    else:
        _show(found)
    return DONE


async def _entries(url: str, settings: Settings, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return enough entries, page by page: filters may leave few of a page."""
    from ollama_cache_proxy.cli.asking import ENTRIES, proxy_at

    limit = _MAX_LIMIT if arguments.all else arguments.limit
    query = filters(arguments) | {"limit": str(limit), "cursor": arguments.cursor}
    found: list[dict[str, Any]] = []
    async with proxy_at(url, secret(settings.admin_token)) as proxy:
        while True:
            page = await proxy.fetch(ENTRIES, query=query)
            found += page["entries"]
            if page["cursor"] is None or (len(found) >= limit and not arguments.all):
                return {"entries": found, "cursor": page["cursor"]}
            query["cursor"] = page["cursor"]


def _show(found: dict[str, Any]) -> None:
    from ollama_cache_proxy.cli.screen import Column, Screen, duration, size, table

    screen = Screen()
    whole = screen.width >= _WIDE_COLUMNS
    columns = (
        Column(title="Key"),
        Column(title="Operation"),
        Column(title="Model"),
        Column(title="Category", spare=1),
        Column(title="Size", right=True, spare=2),
        Column(title="Age", right=True),
        Column(title="Fresh for", right=True, spare=3),
    )
    rows = [
        (
            entry["key"] if whole else entry["key"][:_KEY_PREFIX] + "…",
            entry["operation"],
            entry["model"],
            entry["category"],
            size(entry["size"]),
            duration(entry["age"]),
            duration(max(0, entry["ttl"])) if entry.get("lifetimeKind") != "until-evicted" else "evicted",
        )
        for entry in found["entries"]
    ]
    if not rows:
        screen.say("No stored entry matches.")
    else:
        screen.show(table(screen, columns, rows))
    if screen.is_terminal and rows and not whole:
        screen.say("Use --json or a pipe for full keys.")
    if found["cursor"] is not None:
        Screen(stderr=True).say(f"More entries: --cursor {found['cursor']}, or --all")
