"""`ollama-cache-proxy warm`: ask ahead what will be asked, so that it is in the cache when it is."""

from __future__ import annotations

import argparse
from typing import Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.workbench.chunks import WAYS


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "warm",
        run,
        help="fill the cache ahead of time",
        description="Ask the proxy what will be asked: requests from files of JSON lines, each"
        ' {"path": "/api/generate", "body": {...}, "headers": {...}}, or the texts of a directory, cut into chunks and'
        " embedded. What the cache knows is not asked again, so a run that was stopped goes on where it was.",
        examples=(
            "warm requests.jsonl --rate 2",
            "warm --embed src --model all-minilm --glob '**/*.py' --chunk functions",
        ),
    )
    parser.add_argument("files", metavar="FILE", nargs="*", help="JSON lines; - is standard input")
    options.add_url(parser)
    parser.add_argument("--embed", metavar="DIR", help="embed the texts of this directory; hidden files are left out")
    parser.add_argument("--model", metavar="NAME", help="embeds them")
    parser.add_argument("--glob", metavar="PATTERN", default="**/*", help="which files (default: %(default)s)")
    parser.add_argument(
        "--chunk",
        choices=tuple(WAYS),
        default="lines",
        help="how they are cut (default: %(default)s)",
    )
    parser.add_argument("--lines", metavar="N", type=int, default=60, help="lines of a chunk, at most (%(default)d)")
    parser.add_argument("--batch", metavar="N", type=int, default=16, help="texts of a request (default: %(default)d)")
    parser.add_argument("--rate", metavar="N", type=float, help="requests a second to Ollama (default: no limit)")
    parser.add_argument("--concurrency", metavar="N", type=int, default=4, help="at once (default: %(default)d)")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.jobs.warming import warm
    from ollama_cache_proxy.cli.jobs.work import work

    return work(warm(arguments))
