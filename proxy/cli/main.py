"""`ollama-cache-proxy COMMAND …`. Exit statuses: 0 done, 1 failed, 2 a wrong setting or argument, 130 Ctrl-C."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from proxy import __version__
from proxy.cli import bench, demo, gpu, quantize, serve, simulate, warm


def parser() -> argparse.ArgumentParser:
    """Give the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="ollama-cache-proxy",
        description="A transparent caching reverse proxy in front of Ollama.",
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (serve, simulate, demo, gpu, bench, warm, quantize):
        command.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit status."""
    arguments = parser().parse_args(argv)
    status: int = arguments.run(arguments)
    return status
