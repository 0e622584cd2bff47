"""`ollama-cache-proxy pack-key`: make a key that signs packs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "pack-key",
        run,
        help="make a key that signs such files",
        description="Make an Ed25519 key for `export --sign-key`, which only its owner can read, and FILE.pub, its"
        " public half, for the `import --trusted-key` of others.",
        examples=("pack-key team.pem",),
    )
    parser.add_argument("file", metavar="FILE", help="the key; FILE.pub is its public half")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.jobs.pack_keys import make_pair

    name = make_pair(Path(arguments.file))
    sys.stdout.write(f"{name}: {arguments.file} signs, {arguments.file}.pub is for others\n")
    return DONE
