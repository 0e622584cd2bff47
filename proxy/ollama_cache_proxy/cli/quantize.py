"""`ollama-cache-proxy quantize`: smaller models made by Ollama, and measured against what they were made of."""

from __future__ import annotations

import argparse
from typing import Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.workbench.levels import TARGETS


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "quantize",
        run,
        help="make smaller models of one, and measure what that costs",
        description="Let Ollama quantize a model (F16, BF16 or F32), then measure the source and each result on the"
        " same prompts: size, memory, load time, speed, and how true each is to its source. The source is never"
        " changed, no model is overwritten, and what was made is removed when something fails. Best on an idle Ollama.",
        examples=(
            "quantize llama3.2:3b-instruct-fp16 --to q4_K_M --to q8_0 --keep best",
            "quantize all-minilm --to q8_0 --dry-run",
            "quantize llama3.2 --against http://127.0.0.1:11500",
            "quantize mine:f16 --to q4_K_M=mine:small --prompts my-prompts.txt --json",
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="what to quantize, as ollama list names it")
    parser.add_argument(
        "--to",
        metavar="LEVEL[=NAME]",
        action="append",
        help=f"one of {', '.join(TARGETS)} (default q4_K_M), once for each; the result is named after the"
        " source, or as said",
    )
    parser.add_argument(
        "--keep",
        choices=("best", "all", "none"),
        default="all",
        help="which results stay: the recommended one, all, or none (default: %(default)s)",
    )
    parser.add_argument("--prompts", metavar="FILE", help="ask these, one a line, instead of those that come along")
    parser.add_argument(
        "--tokens", metavar="N", type=int, default=64, help="tokens of each answer, at most (default: %(default)d)"
    )
    parser.add_argument(
        "--against", metavar="URL", help="make nothing: measure MODEL on this Ollama too, which has other settings"
    )
    options.add_upstream(parser)
    options.add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be done")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.jobs.quantizing import quantize
    from ollama_cache_proxy.cli.jobs.work import work

    return work(quantize(arguments))
