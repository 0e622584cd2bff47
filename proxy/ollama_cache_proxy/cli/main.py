"""`ollama-cache-proxy COMMAND …`. ending.py has the exit statuses.

Only the module of the named command is imported, so that no command waits for the imports of another.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence

from ollama_cache_proxy import __version__
from ollama_cache_proxy.cli.ending import INTERRUPTED, STATUSES, UNREAD, Failed

COMMANDS = (
    *("serve", "stats", "advise", "clear", "entries", "explain", "doctor", "config", "seal-key"),
    *("bench", "plan", "warm", "quantize"),
    *("export", "import", "pack-key"),
    *("simulate", "demo", "gpu", "completion"),
)
"""Modules beside this one, with `add` and `run`, in the order of the help; a module has `_` for `-`."""
_MODULES = {"export": "export_pack", "import": "import_pack"}
"""Those that are called otherwise: `import` can be the name of none."""


def parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser with these commands."""
    statuses = "; ".join(f"{status} {meaning}" for status, meaning in STATUSES.items())
    top = argparse.ArgumentParser(
        prog="ollama-cache-proxy",
        description="A transparent caching reverse proxy in front of Ollama.",
        epilog=f"`ollama-cache-proxy COMMAND --help` shows examples. Exit statuses: {statuses}.",
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in names:
        module = _MODULES.get(name, name.replace("-", "_"))
        importlib.import_module(f"ollama_cache_proxy.cli.{module}").add(commands)
    return top


def _parsed(given: list[str]) -> argparse.Namespace:
    """Parse the command line, without garbage collection: all objects that imports create stay alive."""
    gc.disable()
    try:
        return parser(given[:1] if given[:1] and given[0] in COMMANDS else COMMANDS).parse_args(given)
    finally:
        gc.enable()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = _parsed(given)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except Failed as failed:
        sys.stderr.write(f"ollama-cache-proxy: {failed}\n")
        return failed.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter can flush at exit
        return UNREAD
    return status
