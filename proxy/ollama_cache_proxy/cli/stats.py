"""`ollama-cache-proxy stats`: statistics of the cache, as a table, live or as JSON."""

from __future__ import annotations

import argparse
import asyncio
import math
from contextlib import nullcontext
from typing import Any, Final

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE, Failed

_WATCH_INTERVAL: Final = 2.0
"""Seconds between two updates of --watch without a number."""

_MIN_INTERVAL: Final = 0.1
"""The least number of seconds for --watch."""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "stats",
        run,
        help="show statistics of the cache",
        description="Show hits, misses and what was saved, by operation, category and model, since the store was first"
        " used and over all proxies that share it.",
        examples=("stats", "stats --watch  # until Ctrl-C", "stats --json | jq .hitRate"),
    )
    options.add_url(parser)
    options.add_json(parser)
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_seconds,
        const=_WATCH_INTERVAL,
        help=f"update until Ctrl-C (default: every {_WATCH_INTERVAL:g} s); with --json a line each time",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not _MIN_INTERVAL <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least {_MIN_INTERVAL:g}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.loop import run_ending

    url = options.proxy_url(arguments, options.settings_of(arguments))
    return run_ending(_watch(url, arguments) if arguments.watch else _once(url, arguments))


async def _once(url: str, arguments: argparse.Namespace) -> int:
    from ollama_cache_proxy.cli.asking import STATS, proxy_at
    from ollama_cache_proxy.cli.screen import Screen, write_json

    async with proxy_at(url, "") as proxy:
        stats = await proxy.fetch(STATS)
    if arguments.json:
        write_json(stats)
    else:
        screen = Screen()
        screen.show(_shown(screen, url, stats))
    return DONE


async def _watch(url: str, arguments: argparse.Namespace) -> int:
    """Update until Ctrl-C; wait for a proxy that goes away, but fail if it does not answer at first."""
    from rich.live import Live

    from ollama_cache_proxy.cli.asking import STATS, proxy_at
    from ollama_cache_proxy.cli.screen import Screen, write_json

    screen = Screen()
    live = screen.is_terminal and not arguments.json
    async with proxy_at(url, "") as proxy:
        stats = await proxy.fetch(STATS)
        with Live(console=screen, auto_refresh=False, vertical_overflow="crop") if live else nullcontext() as shown:
            while True:
                problem = ""
                try:
                    stats = await proxy.fetch(STATS)
                except Failed as failed:
                    problem = str(failed)
                if arguments.json:
                    write_json(stats if not problem else {"error": problem}, indent=False)
                elif shown is not None:
                    shown.update(_shown(screen, url, stats, problem), refresh=True)
                else:
                    screen.show(_shown(screen, url, stats, problem))
                    screen.print()
                await asyncio.sleep(arguments.watch)


def _shown(screen: Any, url: str, stats: dict[str, Any], problem: str = "") -> Any:
    """Return a line about the store, and the tables that have rows."""
    from rich.console import Group
    from rich.text import Text

    from ollama_cache_proxy.cli.screen import printable

    store = stats.get("store", {})
    trouble = {"ok": "", "read-only": "; the store takes no new entries, see `ollama-cache-proxy doctor`"}
    state = trouble.get(str(store.get("state")), "; the store does not answer, see `ollama-cache-proxy doctor`")
    head = f"{url} stores {options.entries(stats['keys'])} in {store.get('name', '?')}{state}"
    lines: list[Any] = [Text(printable(head)), Text("")]
    lines.append(_table(screen, "Operation", stats["byOperation"], stats))
    for title, name in (("Model", "byModel"), ("Category", "byCategory")):
        if stats[name]:
            lines += [Text(""), _table(screen, title, stats[name])]
    if problem:
        lines += [Text(""), Text(printable(problem), style="bold red")]
    return Group(*lines)


def _table(screen: Any, title: str, rows: dict[str, dict[str, Any]], whole: dict[str, Any] | None = None) -> Any:
    """Return a table, most requests first. With `whole`, which becomes its last row, it also shows bypasses."""
    from ollama_cache_proxy.cli.screen import Column, table

    bypasses = [Column(title="Bypasses", right=True, spare=1)] if whole else []
    columns = [
        Column(title=title),
        *(Column(title=name, right=True) for name in ("Hits", "Misses", "Hit rate")),
        *bypasses,
        Column(title="Saved time", right=True),
        Column(title="Saved tokens", right=True, spare=2),
    ]
    used = sorted(rows.items(), key=lambda item: -item[1]["hits"] - item[1]["misses"])
    lines = [_row(name, found) for name, found in used]
    lines += [_row("total", whole)] if whole else []
    shown = [line if whole else (*line[:4], *line[5:]) for line in lines]
    return table(screen, columns, shown, total=bool(whole))


def _row(title: str, found: dict[str, Any]) -> tuple[str, ...]:
    """Return one row, including bypasses."""
    from ollama_cache_proxy.cli.screen import duration

    tokens = found["savedTokens"]
    return (
        title,
        f"{found['hits']:,}",
        f"{found['misses']:,}",
        f"{found['hitRate']:.1f} %" if found["hits"] + found["misses"] else "–",
        f"{found['bypasses']:,}" if "bypasses" in found else "",
        duration(found["savedSeconds"]),
        f"{tokens['prompt'] + tokens['output']:,}",
    )
