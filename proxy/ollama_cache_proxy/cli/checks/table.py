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
    look: Callable[[Scene], Awaitable[list[Finding]]]
    within: float = 15.0


CHECKS: Final = (
    Check(title="Ollama", look=of_ollama.answers),
    Check(title="Origins", look=of_ollama.origins),
    Check(title="Models", look=of_ollama.loaded),
    Check(title="Proxy", look=of_proxy.answers),
    Check(title="Upstream", look=of_proxy.same_ollama),
    Check(title="Digests", look=of_proxy.digests),
    Check(title="Store", look=of_proxy.store),
    Check(title="Redis", look=of_redis.answers),
    Check(title="Access", look=of_proxy.access),
    Check(title="Streams", look=of_proxy.between, within=130.0),
    Check(title="Traffic", look=of_proxy.traffic),
    Check(title="Clock", look=of_machine.clock),
    Check(title="GPU", look=of_machine.gpus),
)


async def examine(scene: Scene, checks: tuple[Check, ...] = CHECKS) -> list[tuple[str, Finding]]:
    """Run all checks; gives titles and findings in their order."""
    found = await asyncio.gather(*(_looked(check, scene) for check in checks))
    return [(check.title, finding) for check, findings in zip(checks, found, strict=True) for finding in findings]


async def _looked(check: Check, scene: Scene) -> list[Finding]:
    try:
        async with asyncio.timeout(check.within):
            return await check.look(scene)
    except TimeoutError:
        return [problem(f"no end within {check.within:.0f} s", "see whether what is asked here hangs")]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        text = f"what was answered is not understood ({type(error).__name__})"
        return [warning(text, "look at what answers there; if it is Ollama or the proxy, please report it")]
