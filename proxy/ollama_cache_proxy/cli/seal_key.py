"""`ollama-cache-proxy seal-key FILE`: make the key that entries are sealed with."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE, unwritten


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "seal-key",
        run,
        help="make a key that stored entries are sealed with",
        description="Write a new key to a file that only you can read, for the setting seal_key_file. A file that is"
        " there already is left alone. All proxies that share a Redis need the same key. Without the key nobody can"
        " read what it has sealed: Ollama is asked again.",
        examples=("seal-key ~/.config/ollama-cache-proxy.key",),
    )
    parser.add_argument("file", metavar="FILE", help="the file to make")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.service.seal_key_file import make_key

    path = arguments.file
    try:
        make_key(path)
    except OSError as error:
        raise unwritten(path, error) from None
    sys.stdout.write(f"A new key is in {path}. Name it to the proxy: seal_key_file, or OCP_SEAL_KEY_FILE\n")
    return DONE
