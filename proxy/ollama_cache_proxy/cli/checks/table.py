"""The checks of `doctor`, in the order in which they are shown; all run at the same time, each within a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ollama_cache_proxy.cli.checks import of_machine, of_ollama, of_proxy, of_redis
from ollama_cache_proxy.cli.checks.finding import Finding, problem, warning
from ollama_cache_proxy.cli.checks.scene import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check; `title` is also a heading of docs/troubleshooting.md. `within` is in seconds."""

    title: str
    run: Callable[[Scene], Awaitable[list[Finding]]]
    within: float = 15.0


CHECKS: Final = (
    Check(title="Ollama", run=of_ollama.answers),
    Check(title="Origins", run=of_ollama.origins),
    Check(title="Models", run=of_ollama.loaded),
    Check(title="Proxy", run=of_proxy.answers),
    Check(title="Upstream", run=of_proxy.same_ollama),
    Check(title="Digests", run=of_proxy.digests),
    Check(title="Store", run=of_proxy.store),
    Check(title="Redis", run=of_redis.answers),
    Check(title="Access", run=of_proxy.access),
    Check(title="Streams", run=of_proxy.intermediaries, within=130.0),
    Check(title="Traffic", run=of_proxy.traffic),
    Check(title="Clock", run=of_machine.clock),
    Check(title="GPU", run=of_machine.gpus),
)


async def examine(scene: Scene, checks: tuple[Check, ...] = CHECKS) -> list[tuple[str, Finding]]:
    """Run all checks; gives titles and findings in their order."""
    found = await asyncio.gather(*(_run(check, scene) for check in checks))
    return [(check.title, finding) for check, findings in zip(checks, found, strict=True) for finding in findings]


async def _run(check: Check, scene: Scene) -> list[Finding]:
    try:
        async with asyncio.timeout(check.within):
            return await check.run(scene)
    except TimeoutError:
        return [problem(f"no end within {check.within:.0f} s", "see whether what is asked here hangs")]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        text = f"what was answered is not understood ({type(error).__name__})"
        return [warning(text, "look at what answers there; if it is Ollama or the proxy, please report it")]
