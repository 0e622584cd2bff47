"""`ollama-cache-proxy advise`: what other settings would have given, and which one to change."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE

_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "advise",
        run,
        help="say which settings would give more hits",
        description="Show what the hit rate would have been with other lifetimes and sizes of the store, with chats and"
        " streams cached, and with texts or clients more alike, judged by a sample of the requests since the proxy"
        " started; and name the one change that is worth the most of Ollama's time.",
        examples=("advise", "advise --json | jq .advice"),
    )
    options.add_url(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.loop import run_ending

    return run_ending(_once(options.proxy_url(arguments, options.settings_of(arguments)), arguments))


async def _once(url: str, arguments: argparse.Namespace) -> int:
    from ollama_cache_proxy.cli.asking import FORECAST, PROMPTS, proxy_at
    from ollama_cache_proxy.cli.screen import Screen, write_json

    async with proxy_at(url, "") as proxy:
        found = await proxy.fetch(FORECAST)
        prompts = await proxy.fetch(PROMPTS)
    if arguments.json:
        write_json({**found, "prompts": prompts})
        return DONE
    screen = Screen()
    screen.say(found["advice"]["sentence"])
    for shown in _shown(screen, found):
        screen.print()
        screen.show(shown)
    for text in _of_prompts(prompts):
        screen.print()
        screen.say(text)
    return DONE


def _of_prompts(prompts: dict[str, Any]) -> Iterator[str]:
    """Yield what is said of prompts that Ollama reads again: one sentence, and for each client what to do."""
    if prompts["sentence"]:
        yield prompts["sentence"]
    for finding in prompts["findings"]:
        yield f"{finding['sentence']}.\nTo do: {finding['fix']}."


def _shown(screen: Any, found: dict[str, Any]) -> Iterator[Any]:
    """Yield a line about the sample, and the tables that have rows."""
    from rich.text import Text

    since = datetime.fromtimestamp(found["since"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    requests = "1 request" if found["requests"] == 1 else f"{found['requests']:,} requests"
    counted = f"{requests}, and {found['bypasses']:,} that a setting would let in, since {since}"
    yield Text(counted + (f"; those of one of {found['workers']} workers." if found["workers"] > 1 else "."))
    for name in ("embeddings", "completions"):
        kind = found[name]
        if kind["enough"]:
            yield _table(screen, name, kind, found["store"]["bytes"])
        elif kind["requests"]:
            yield Text(f"{name.capitalize()}: too little traffic yet ({kind['texts']:,} of {kind['needed']:,}).")
    if found["whatIf"]:
        yield _bypasses(screen, found["whatIf"])


def _table(screen: Any, name: str, kind: dict[str, Any], room: int | None) -> Any:
    from ollama_cache_proxy.cli.screen import Column, table

    lists = name == "embeddings"
    columns = [
        Column(title=name.capitalize()),
        Column(title="Texts known" if lists else "Hits", right=True),
        *([Column(title="Whole requests", right=True, spare=1)] if lists else []),
        Column(title="Ollama's time", right=True),
    ]
    return table(screen, columns, [_row(title, figures, lists=lists) for title, figures in _rows(kind, room)])


def _rows(kind: dict[str, Any], room: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what is shown of a kind of requests: a title, and its figures."""
    yield "as it is", {**kind["now"], "seconds": 0.0}
    for row in kind["lifetimes"]:
        title = row["lifetime"] if row["ttl"] is None else f"{row['lifetime']}, {_time(row['ttl'])}"
        yield f"{title} (in force)" if row["inForce"] else title, row
    for row in kind["sizes"]:
        if room is None or row["bytes"] <= 2 * room:
            yield f"a store of {row['bytes'] >> 20:,} MiB{' (in force)' if row['inForce'] else ''}", row
    yield "texts without line numbers", kind["withoutLineNumbers"]
    yield "one Authorization for all", kind["sharedAuthorization"]


def _row(title: str, figures: dict[str, Any], *, lists: bool) -> tuple[str, ...]:
    from ollama_cache_proxy.cli.screen import duration

    least = "≥ " if figures.get("atLeast") else ""
    whole = "–" if figures["requests"] is None else f"{figures['requests']:.1f} %"
    seconds = figures["seconds"]
    saved = f"{'-' if seconds > 0 else '+'}{duration(abs(seconds))}" if abs(seconds) >= 1 else "–"
    return (title, f"{least}{figures['texts']:.1f} %", *([whole] if lists else []), saved)


def _bypasses(screen: Any, rows: list[dict[str, Any]]) -> Any:
    """Return the table of requests that bypassed the cache."""
    from ollama_cache_proxy.cli.screen import Column, duration, table

    columns = [
        Column(title="Now bypassed"),
        Column(title="With"),
        Column(title="Requests", right=True, spare=1),
        Column(title="Hits", right=True),
        Column(title="Ollama's time", right=True),
    ]
    lines = [
        (
            row["operation"],
            ", ".join(f"{name} = {str(value).lower()}" for name, value in row["settings"].items()),
            f"{row['requests']:,}",
            f"{row['hits']:.1f} %" if row["enough"] else "too few yet",
            f"-{duration(row['seconds'])}" if row["enough"] and row["seconds"] >= 1 else "–",
        )
        for row in rows
    ]
    return table(screen, columns, lines)


def _time(seconds: int) -> str:
    """Return a lifetime as it is said."""
    return f"{seconds // _DAY} d" if seconds > _DAY and not seconds % _DAY else f"{seconds // _HOUR} h"
