"""`ollama-cache-proxy explain FILE`: why a request is or is not answered from the cache, without sending it."""

from __future__ import annotations

import argparse
import sys
from base64 import b64encode
from datetime import UTC, datetime
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
        help="explain why a request is or is not answered from the cache",
        description="Say whether a request would be answered from the cache, and if not, why. The request is not sent"
        ' to Ollama. The file holds its body, byte for byte, or a whole request: {"path": …, "headers": …, "body": …}.'
        " If other machines can reach the proxy, it needs OCP_ADMIN_TOKEN or admin_token in the settings file.",
        examples=(
            "explain request.json  # the body of a POST /api/generate",
            "explain request.json --path /api/embed --header 'X-Cache-Namespace: docs'",
            "explain - < request.json",
            "explain upload --path /v1/audio/transcriptions --header 'Content-Type: multipart/form-data; boundary=x'",
        ),
    )
    parser.add_argument("file", metavar="FILE", help="the request; - is standard input")
    options.add_url(parser)
    parser.add_argument("--path", metavar="PATH", help="path of the request (default: /api/generate)")
    parser.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        type=_header,
        help="a field of the request; repeatable",
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
    request = _request(arguments)
    explanation = run_ending(_explain(url, settings, request))
    if arguments.json:
        write_json(explanation)
        return DONE
    screen, grid = Screen(), Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    title, *rows = described(request, explanation)
    for label, text in rows:
        grid.add_row(f"  {label:<5}", Text(printable(text)))
    screen.say(": ".join(title))
    screen.show(grid)
    return DONE


async def _explain(url: str, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    from ollama_cache_proxy.cli.asking import EXPLAIN, proxy_at

    async with proxy_at(url, secret(settings.admin_token)) as proxy:
        explanation: dict[str, Any] = await proxy.fetch(EXPLAIN, request)
    return explanation


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the request in the file; one that names its path is a whole request. Raise Failed."""
    import orjson

    try:
        read = sys.stdin.buffer.read() if arguments.file == "-" else Path(arguments.file).read_bytes()
    except OSError as error:
        raise Failed(f"{arguments.file} cannot be read: {error.strerror}", status=WRONG) from None
    try:
        found = orjson.loads(read)
    except orjson.JSONDecodeError:
        found = None
    whole = isinstance(found, dict) and isinstance(found.get("path"), str)
    request: dict[str, Any] = found if whole else {"path": "/api/generate", **_body(read)}
    if arguments.path:
        request["path"] = arguments.path
    if arguments.header and isinstance(request.setdefault("headers", {}), dict):  # else the proxy reports the error
        request["headers"] |= dict(arguments.header)
    return request


def _body(read: bytes) -> dict[str, str]:
    """Return the member with the body: one that is no text, such as an upload, in base64."""
    try:
        return {"body": read.decode().strip("\r\n")}
    except UnicodeDecodeError:
        return {"bodyBase64": b64encode(read).decode()}


def described(request: dict[str, Any], explanation: dict[str, Any]) -> list[tuple[str, str]]:
    """Return an explanation in words: the request and its result, then labels and texts."""
    title = f"{request.get('method', 'POST')} {request['path']}"
    if not explanation["candidate"]:
        reason = REASONS.get(explanation["detail"])
        rows = [(title, f"a bypass: not looked up and not stored ({explanation['detail']})")]
        rows += [("Why", f"{reason.text}.")] if reason else []
        return rows + ([("Fix", f"{reason.fix}.")] if reason and reason.fix else [])
    about = [("Model", explanation["model"]), ("Key", explanation["key"])]
    context = explanation.get("context")
    if context and context["epoch"]:
        lengths = f"from {context['before']:,} to {context['length']:,} tokens"
        since = datetime.fromtimestamp(context["since"], UTC)
        about.append(
            ("Epoch", f"{context['epoch']}: the context length changed {lengths} at {since:%Y-%m-%d %H:%M} UTC")
        )
    if "items" in explanation:
        about.append(("Texts", f"{explanation['items']['known']} of {explanation['items']['of']} are stored"))
    if explanation.get("result") == "hit":
        return [(title, f"a hit, {explanation['age']} s old, {_left(explanation)}"), *about]
    unavailable = explanation.get("detail") == "store-unavailable"
    if unavailable:
        about.append(("Note", "the store does not answer: run `ollama-cache-proxy doctor`"))
    stored = not unavailable and explanation["policy"] != "read-only"
    return [
        (title, f"a miss: Ollama would be asked, and the response {'stored' if stored else 'not stored'}"),
        *about,
        _nearest(explanation),
    ]


def _left(explanation: dict[str, Any]) -> str:
    kind = explanation.get("lifetime")  # an older proxy does not say it
    if kind == "until-evicted":
        return "fresh until the store needs its room"
    return f"fresh for {explanation['ttl']} s more" + (", which each hit renews" if kind == "idle" else "")


def _nearest(explanation: dict[str, Any]) -> tuple[str, str]:
    nearest = explanation.get("nearest")
    if nearest is not None:
        differs = ", ".join(nearest["differs"]) or "nothing but its age"
        return "Near", f"{nearest['key']}, {nearest['age']} s old, differs in: {differs}"
    if "note" in explanation:
        return "Near", "unknown: the proxy compares entries only with OCP_EXPLAIN=true"
    return "Near", f"none of {explanation['searched']:,} entries can be compared"
