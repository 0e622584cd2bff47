"""`ollama-cache-proxy import`: store the entries of a pack."""

from __future__ import annotations

import argparse
from typing import Any

from ollama_cache_proxy.cli import options


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "import",
        run,
        help="store the entries of such a file",
        description="Store those entries of a pack that fit: of the digest that the model has here, and of the version"
        " of Ollama that runs here. All of the file is checked before the first entry is stored, and what is stored"
        " already stays. It needs OCP_ADMIN_TOKEN or admin_token in the settings file, also on this machine, since"
        " whoever imports chooses what others are served.",
        examples=("import --trusted-key team.pem.pub docs.pack", "import --trust own.pack", "import --check own.pack"),
    )
    parser.add_argument("file", metavar="FILE", help="the pack")
    options.add_url(parser)
    parser.add_argument(
        "--trusted-key",
        metavar="FILE",
        action="append",
        default=[],
        help="a public key: import what is signed with it; repeatable",
    )
    parser.add_argument("--trust", action="store_true", help="import it whoever made it")
    parser.add_argument(
        "--any-context",
        action="store_true",
        help="import entries also where Ollama loads the model with another context length here",
    )
    parser.add_argument("--check", action="store_true", help="only say whether it is whole, and what is in it")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.jobs.importing import import_pack
    from ollama_cache_proxy.cli.jobs.work import work

    return work(import_pack(arguments))
