"""`ollama-cache-proxy doctor`: check the proxy and everything around it, and say what to fix."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE, FAILED
from ollama_cache_proxy.service.settings import Settings, secret

if TYPE_CHECKING:
    from ollama_cache_proxy.cli.checks.finding import Finding


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "doctor",
        run,
        help="find problems, and say how to fix them",
        description="Check Ollama, the proxy, Redis, clocks, GPUs and the traffic so far, and say what is wrong and how"
        " to fix it. Nothing is changed, and no model is asked anything unless --stream names one. The exit status is 1"
        " if there is a problem, and 0 if there are only warnings.",
        examples=(
            "doctor",
            "doctor --url https://cache.example --upstream http://gpu-server:11434",
            "doctor --stream llama3.2  # do streams arrive as they are written?",
            "doctor --json | jq '.findings[] | select(.level == \"problem\")'",
        ),
    )
    options.add_url(parser)
    options.add_upstream(parser, several=True)
    parser.add_argument(
        "--origin", metavar="ORIGIN", help="origin of a web page that should be allowed: https://chat.example"
    )
    parser.add_argument(
        "--stream",
        metavar="MODEL",
        help="ask this model for a few words, and check that they arrive as they are written",
    )
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.checks.finding import Level
    from ollama_cache_proxy.cli.loop import run_ending
    from ollama_cache_proxy.cli.screen import write_json

    settings = options.settings_of(arguments)
    url, upstream = options.proxy_url(arguments, settings), options.upstream_url(settings)
    found = run_ending(_examined(arguments, settings, url, upstream))
    worst = max(finding.level for _, finding in found)
    if arguments.json:
        rows = [
            {"check": title, "level": finding.level.name.lower(), "text": finding.text, "fix": finding.fix or None}
            for title, finding in found
        ]
        write_json({"worst": worst.name.lower(), "findings": rows})
    else:
        _show(found)
    return FAILED if worst is Level.PROBLEM else DONE


async def _examined(
    arguments: argparse.Namespace, settings: Settings, url: str, upstream: str
) -> list[tuple[str, Finding]]:
    from ollama_cache_proxy.cli.asking import OLLAMA_FIX, Proxy, Server, client
    from ollama_cache_proxy.cli.checks.scene import Scene
    from ollama_cache_proxy.cli.checks.seen import state_file
    from ollama_cache_proxy.cli.checks.table import examine
    from ollama_cache_proxy.cli.screen import Screen

    async with client() as session:
        scene = Scene(
            settings=settings,
            proxy=Proxy(session, url, secret(settings.admin_token)),
            ollama=Server(
                session,
                upstream,
                title="Ollama",
                fix=OLLAMA_FIX,
                authority=settings.upstream_ca,
                authorization=secret(settings.upstream_authorization),
            ),
            state=state_file(),
            stream=arguments.stream,
            origin=arguments.origin,
        )
        try:
            with Screen(stderr=True).status("Checking"):
                return await examine(scene)
        finally:
            await scene.close()


def _show(found: list[tuple[str, Finding]]) -> None:
    """Show a line for each finding, with its fix below, and a summary."""
    from collections import Counter

    from rich.table import Table
    from rich.text import Text

    from ollama_cache_proxy.cli.checks.finding import Level
    from ollama_cache_proxy.cli.screen import Screen, printable

    styles = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
    screen = Screen()
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in ("level", "title"):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    before = ""
    for title, finding in found:
        text = finding.text + (f"\nFix: {finding.fix}" if finding.fix else "")
        level = Text(finding.level.name.lower(), style=styles[finding.level])
        grid.add_row(level, Text(title if title != before else ""), Text(printable(text)))
        before = title
    screen.show(grid)
    counts = Counter(finding.level for _, finding in found)
    bad = [
        f"{counts[level]} {level.name.lower()}{'s' if counts[level] > 1 else ''}"
        for level in (Level.PROBLEM, Level.WARNING)
        if counts[level]
    ]
    screen.say(f"\n{' and '.join(bad)}: see docs/troubleshooting.md." if bad else "\nNo problems found.")
