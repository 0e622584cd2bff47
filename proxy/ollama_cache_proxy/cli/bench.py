"""`ollama-cache-proxy bench`: how much time the cache saves on your Ollama, and what the proxy adds to streams."""

from __future__ import annotations

import argparse
from typing import Any

from ollama_cache_proxy.cli import options


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "bench",
        run,
        help="measure how much time the cache saves on your Ollama",
        description="Measure a completion, an embedding and an explanation of code: sent directly to Ollama, through"
        " the proxy for the first time, and again; and streams with and without the proxy. The entries have a namespace"
        " of their own, which is cleared at the end; nothing else in the cache is touched.",
        examples=("bench", "bench --model llama3.2 --embed-model all-minilm --rounds 10 --markdown"),
    )
    options.add_url(parser)
    options.add_upstream(parser)
    parser.add_argument("--model", metavar="NAME", help="model for completions (default: the smallest that can)")
    parser.add_argument("--embed-model", metavar="NAME", help="model for embeddings (default: the smallest that can)")
    parser.add_argument("--rounds", metavar="N", type=int, default=5, help="rounds to measure (default: %(default)d)")
    parser.add_argument(
        "--tokens", metavar="N", type=int, default=64, help="maximum tokens of a completion (default: %(default)d)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="all figures as JSON, in seconds")
    form.add_argument("--markdown", action="store_true", help="the tables as Markdown")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.jobs.benching import bench
    from ollama_cache_proxy.cli.jobs.work import work

    return work(bench(arguments))
