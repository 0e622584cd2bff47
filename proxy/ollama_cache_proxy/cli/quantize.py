"""`ollama-cache-proxy quantize`: measure quantized models, which Ollama makes or has, against their source."""

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
        help="quantize a model, and measure what is gained and lost",
        description="Let Ollama (up to 0.34.0) quantize a model (F16, BF16 or F32), or take models that are quantized"
        " already (--with); measure the source and each result on the same prompts: size, memory, load time, speed, and"
        " how close each is to the source. The source is never changed, no model is overwritten, and new models are"
        " removed when something fails. Best on an idle Ollama.",
        examples=(
            "quantize llama3.2:3b-instruct-fp16 --to q4_K_M --to q8_0 --keep best",
            "quantize all-minilm --to q8_0 --dry-run",
            "quantize qwen3:4b-fp16 --with qwen3:4b-q4_K_M --with qwen3:4b-q8_0",
            "quantize llama3.2 --against http://127.0.0.1:11500",
            "quantize mine:f16 --to q4_K_M=mine:small --prompts my-prompts.txt --json",
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="the model to quantize, as `ollama list` names it")
    parser.add_argument(
        "--to",
        metavar="LEVEL[=NAME]",
        action="append",
        help=f"one of {', '.join(TARGETS)} (default q4_K_M); repeatable. Without NAME the result is named after"
        " the source",
    )
    parser.add_argument(
        "--keep",
        dest="kept_results",  # keep is a setting
        choices=("best", "all", "none"),
        help="which results to keep: the recommended one, all, or none (default: all)",
    )
    parser.add_argument("--prompts", metavar="FILE", help="prompts to use instead of the built-in ones, one a line")
    parser.add_argument(
        "--tokens", metavar="N", type=int, default=64, help="maximum tokens of each completion (default: %(default)d)"
    )
    parser.add_argument(
        "--with",
        dest="beside",
        metavar="NAME",
        action="append",
        help="quantize nothing: measure this installed model beside MODEL, which it is a quantization of; repeatable",
    )
    parser.add_argument(
        "--against",
        metavar="URL",
        help="quantize nothing: measure MODEL on this second Ollama too, which has other settings",
    )
    options.add_upstream(parser)
    options.add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="check everything, and show what would be done")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.jobs.quantizing import quantize
    from ollama_cache_proxy.cli.jobs.work import work

    return work(quantize(arguments))
