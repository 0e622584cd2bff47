"""`ollama-cache-proxy explain FILE`: why a request is or is not answered from the cache; Ollama is not asked it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE, WRONG, Failed
from ollama_cache_proxy.cli.reasons import REASONS
from ollama_cache_proxy.service.settings import Settings, secret


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "explain",
        run,
        help="say why a request is or is not answered from the cache",
        description="Say of a request whether it would be answered from the cache, and if not why not. Ollama is not"
        ' asked it. The file holds its body, byte for byte, or a whole request: {"path": …, "headers": {…}, "body": …}.'
        " Where others can reach the proxy it needs OCP_ADMIN_TOKEN, or the file's admin_token.",
        examples=(
            "explain request.json  # the body of a POST /api/generate",
            "explain request.json --path /api/embed --header 'X-Cache-Namespace: docs'",
            "explain - < request.json",
        ),
    )
    parser.add_argument("file", metavar="FILE", help="the request; - is standard input")
    options.add_url(parser)
    parser.add_argument("--path", metavar="PATH", help="where the body goes to; default: /api/generate")
    parser.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", type=_header, help="a field of the request, once for each"
    )
    options.add_json(parser)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("must be 'Name: value'")
    return name.strip(), value.strip()


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from rich.table import Table
    from rich.text import Text

    from ollama_cache_proxy.cli.loop import run_ending
    from ollama_cache_proxy.cli.screen import Screen, printable, write_json

    settings = options.settings_of(arguments)
    url = options.proxy_url(arguments, settings)
    asked = _request(arguments)
    told = run_ending(_explain(url, settings, asked))
    if arguments.json:
        write_json(told)
        return DONE
    screen, grid = Screen(), Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    title, *rows = described(asked, told)
    for label, text in rows:
        grid.add_row(f"  {label:<5}", Text(printable(text)))
    screen.say(": ".join(title))
    screen.show(grid)
    return DONE


async def _explain(url: str, settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    from ollama_cache_proxy.cli.asking import EXPLAIN, proxy_at

    async with proxy_at(url, secret(settings.admin_token)) as proxy:
        told: dict[str, Any] = await proxy.fetch(EXPLAIN, asked)
    return told


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read the file: a whole request is one that names its path. Raises Failed."""
    import orjson

    try:
        read = sys.stdin.buffer.read() if arguments.file == "-" else Path(arguments.file).read_bytes()
        text = read.decode()
    except OSError as error:
        raise Failed(f"{arguments.file} cannot be read: {error.strerror}", status=WRONG) from None
    except UnicodeDecodeError:
        raise Failed(f"{arguments.file} is not UTF-8, and so no request that could be cached", status=WRONG) from None
    try:
        found = orjson.loads(read)
    except orjson.JSONDecodeError:
        found = None
    whole = isinstance(found, dict) and isinstance(found.get("path"), str)
    asked: dict[str, Any] = found if whole else {"path": "/api/generate", "body": text.strip("\r\n")}
    if arguments.path:
        asked["path"] = arguments.path
    if arguments.header and isinstance(asked.setdefault("headers", {}), dict):  # else the proxy says what is wrong
        asked["headers"] |= dict(arguments.header)
    return asked


def described(asked: dict[str, Any], told: dict[str, Any]) -> list[tuple[str, str]]:
    """Say what the proxy told: the request and what becomes of it, then labels and texts."""
    title = f"{asked.get('method', 'POST')} {asked['path']}"
    if not told["candidate"]:
        reason = REASONS.get(told["detail"])
        rows = [(title, f"passed on, never cached ({told['detail']})")]
        rows += [("Why", f"{reason.text}.")] if reason else []
        return rows + ([("Fix", f"{reason.fix}.")] if reason and reason.fix else [])
    about = [("Model", told["model"]), ("Key", told["key"])]
    if "items" in told:
        about.append(("Texts", f"{told['items']['known']} of {told['items']['of']} are kept"))
    if told.get("result") == "hit":
        return [(title, f"a hit, {told['age']} s old, fresh for {told['ttl']} s more"), *about]
    lost = told.get("detail") == "store-unavailable"
    if lost:
        about.append(("Note", "the store does not answer: `ollama-cache-proxy doctor` says why"))
    kept = not lost and told["policy"] != "read-only"
    return [
        (title, f"a miss: Ollama would be asked, and the answer {'kept' if kept else 'not kept'}"),
        *about,
        _nearest(told),
    ]


def _nearest(told: dict[str, Any]) -> tuple[str, str]:
    nearest = told.get("nearest")
    if nearest is not None:
        differs = ", ".join(nearest["differs"]) or "nothing but its age"
        return "Near", f"{nearest['key']}, {nearest['age']} s old, differs in: {differs}"
    if "note" in told:
        return "Near", "unknown: the proxy compares entries only where it runs with OCP_EXPLAIN=true"
    return "Near", f"none of {told['searched']:,} entries can be compared"
