"""Checks of this machine: its clock compared with others, its GPUs."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from ollama_cache_proxy.cli import graphics
from ollama_cache_proxy.cli.asking import Response
from ollama_cache_proxy.cli.checks import of_redis
from ollama_cache_proxy.cli.checks.finding import Finding, note, ok, warning
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.screen import printable

_MAX_SKEW = 2.0
"""Seconds that two clocks may differ."""


async def clock(scene: Scene) -> list[Finding]:
    """Check that clocks agree: ages and lifetimes are computed from them."""
    skews = {"Redis": await of_redis.skew(scene)}
    for name, server, path in (("Ollama", scene.ollama, "/api/version"), ("the proxy", scene.proxy, "/healthz")):
        try:
            skews[name] = ahead(await scene.ask(server, path))
        except Failed:
            skews[name] = None
    known = {name: skew for name, skew in skews.items() if skew is not None}
    wrong = [
        warning(
            f"the clock of {name} is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's: entries"
            " that several proxies share would expire too early or too late",
            "let NTP set both clocks: `timedatectl set-ntp true`; on macOS System Settings, General, Date & Time",
        )
        for name, skew in known.items()
        if abs(skew) > _MAX_SKEW
    ]
    return wrong or ([ok(f"agrees with {' and '.join(known)}")] if known else [])


def ahead(response: Response) -> float | None:
    """Return by how many seconds at least the Date of a response is ahead; Date has whole seconds. None without one."""
    try:
        date = parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return None
    if date > response.ended:
        return date - response.ended
    return min(0.0, date + 1 - response.begun)


async def gpus(_scene: Scene) -> list[Finding]:
    """Check that NVIDIA cards are visible through NVML or dcgm-exporter."""
    from ollama_cache_proxy.gpu.readings import Nothing

    found = await graphics.readings()
    if not isinstance(found, Nothing):
        names = ", ".join(printable(reading.card.name) for reading in found.readings)
        return [ok(f"NVML shows {names} (driver {printable(found.driver)}): `ollama-cache-proxy gpu` exports them")]
    if await graphics.exported():
        return [ok("dcgm-exporter answers on port 9400")]
    why, _, fix = found.why.partition("; ")
    return [note(f"no NVIDIA GPU is visible: {why}", fix)]
