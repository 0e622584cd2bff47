"""`ollama-cache-proxy warm`: fill the cache with responses before they are needed."""

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
        help="fill the cache before requests come",
        description="Send requests to the proxy ahead of time: from files of JSON lines, each"
        ' {"path": "/api/generate", "body": {...}, "headers": {...}}; from a folder in which the proxy has recorded'
        " (serve --record-requests) or Ollama has logged requests (OLLAMA_DEBUG_LOG_REQUESTS); or from the texts of a"
        " directory, cut into chunks and embedded. Requests whose responses are stored, or never would be, are not sent"
        " to Ollama, so a run that was stopped can be continued by running it again.",
        examples=(
            "warm requests.jsonl --rate 2",
            "warm /tmp/ollama-request-logs-*",
            "warm --embed src --model all-minilm --glob '**/*.py' --chunk functions",
        ),
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="JSON lines, or a folder of requests; - is standard input"
    )
    options.add_url(parser)
    parser.add_argument("--embed", metavar="DIR", help="embed the texts of this directory, without hidden files")
    parser.add_argument("--model", metavar="NAME", help="the model for --embed")
    parser.add_argument("--glob", metavar="PATTERN", default="**/*", help="which files (default: %(default)s)")
    parser.add_argument(
        "--chunk",
        choices=tuple(WAYS),
        default="lines",
        help="how to cut them (default: %(default)s)",
    )
    parser.add_argument(
        "--lines", metavar="N", type=int, default=60, help="maximum lines of a chunk (default: %(default)d)"
    )
    parser.add_argument(
        "--batch", metavar="N", type=int, default=16, help="texts in one request (default: %(default)d)"
    )
    parser.add_argument(
        "--rate", metavar="N", type=float, help="maximum requests a second to Ollama (default: no limit)"
    )
    parser.add_argument(
        "--concurrency", metavar="N", type=int, default=4, help="concurrent requests (default: %(default)d)"
    )
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.jobs.warming import warm
    from ollama_cache_proxy.cli.jobs.work import work

    return work(warm(arguments))
