"""The checks of `doctor` in the order of output; they run concurrently, each within a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ollama_cache_proxy.cli.checks import of_machine, of_ollama, of_port, of_proxy, of_redis, of_sealing, of_templates
from ollama_cache_proxy.cli.checks.finding import Finding, problem, warning
from ollama_cache_proxy.cli.checks.scene import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check."""

    title: str
    """Also a heading of docs/troubleshooting.md."""
    run: Callable[[Scene], Awaitable[list[Finding]]]
    within: float = 15.0
    """The deadline in seconds."""


CHECKS: Final = (
    Check(title="Ollama", run=of_ollama.answers),
    Check(title="Origins", run=of_ollama.origins),
    Check(title="Models", run=of_ollama.loaded),
    Check(title="Templates", run=of_templates.templates, within=60.0),
    Check(title="Proxy", run=of_proxy.answers),
    Check(title="Port", run=of_port.former),
    Check(title="Upstream", run=of_proxy.same_ollama),
    Check(title="Digests", run=of_proxy.digests),
    Check(title="Store", run=of_proxy.store),
    Check(title="Redis", run=of_redis.answers),
    Check(title="Sealing", run=of_sealing.sealing),
    Check(title="Access", run=of_proxy.access),
    Check(title="Streams", run=of_proxy.intermediaries, within=130.0),
    Check(title="Traffic", run=of_proxy.traffic),
    Check(title="Prompts", run=of_proxy.prompts),
    Check(title="Audit", run=of_proxy.audit),
    Check(title="Places", run=of_proxy.places),
    Check(title="Clock", run=of_machine.clock),
    Check(title="GPU", run=of_machine.gpus),
)


async def examine(scene: Scene, checks: tuple[Check, ...] = CHECKS) -> list[tuple[str, Finding]]:
    """Run all checks, and return titles and findings in the order of the checks."""
    found = await asyncio.gather(*(_run(check, scene) for check in checks))
    return [(check.title, finding) for check, findings in zip(checks, found, strict=True) for finding in findings]


async def _run(check: Check, scene: Scene) -> list[Finding]:
    try:
        async with asyncio.timeout(check.within):
            return await check.run(scene)
    except TimeoutError:
        return [problem(f"not finished after {check.within:.0f} s", "see whether the server that it asks hangs")]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        text = f"a response was not understood ({type(error).__name__})"
        return [warning(text, "see which server answers; if it is Ollama or the proxy, please report it")]
