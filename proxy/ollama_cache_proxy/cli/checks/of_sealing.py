"""Check whether entries are sealed where they are stored."""

from __future__ import annotations

from ollama_cache_proxy.cli.checks.finding import Finding, ok, problem, warning
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.service.sealing import seal_key
from ollama_cache_proxy.service.settings import SettingsError


async def sealing(scene: Scene) -> list[Finding]:
    """Check that the running proxy seals, where the settings here name a key, and that the key can be used."""
    store = (await scene.stats() or {}).get("store") or {}
    if store.get("sealed"):
        return [ok("the proxy seals entries before it stores them")]
    try:
        named = seal_key(scene.settings) is not None
    except SettingsError as error:
        return [
            problem(
                str(error),
                "name another, or make one with `ollama-cache-proxy seal-key FILE`; the proxy does not start with this",
            )
        ]
    if store.get("name") == "memory":
        return [ok("entries are in the proxy's memory alone, where they are not sealed")]
    if named and store:
        return [warning("the settings name a seal_key_file, but the proxy stores entries in the clear", "restart it")]
    if named:
        return [ok("the settings name a key to seal entries with")]
    return [ok("entries are stored in the clear; with a seal_key_file they would be sealed")]
