"""`ollama-cache-proxy export`: write the stored entries of a model into a pack."""

from __future__ import annotations

import argparse
from typing import Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.filters import add_filters


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "export",
        run,
        help="write the stored entries of a model into a file",
        description="Write those stored entries of a model that could be hits now into a pack, a file that another"
        " proxy imports. It holds responses, and no prompts. It needs OCP_ADMIN_TOKEN or admin_token in the settings"
        " file, also on this machine. An export that broke off goes on when it is run again.",
        examples=(
            "export --model all-minilm vectors.pack",
            "export --model all-minilm --category docs --sign-key team.pem docs.pack",
        ),
    )
    parser.add_argument("file", metavar="FILE", help="the pack; until it is whole it is FILE.part")
    options.add_url(parser)
    add_filters(parser)
    parser.add_argument("--sign-key", metavar="FILE", help="sign it with this key (`pack-key` makes one)")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.jobs.exporting import check, export
    from ollama_cache_proxy.cli.jobs.work import work

    check(arguments)
    return work(export(arguments))
