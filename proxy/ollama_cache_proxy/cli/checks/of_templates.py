"""Checks of templates: which write the date, which models share a runner, and what may choose another template."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from ollama_cache_proxy.cli.checks.finding import MAX_NAMED, Finding, listed, note, ok, warning
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.cli.checks.seen import observe, read, write
from ollama_cache_proxy.cli.screen import printable
from ollama_cache_proxy.workbench import shown, told_rows
from ollama_cache_proxy.workbench.shown import Shown

_MAX_MODELS: Final = 200
"""Models that are asked about."""
_AT_ONCE: Final = 4
"""Requests at the same time."""
_VARIABLES: Final = ("LLAMA_ARG_", "OLLAMA_GO_TEMPLATE")
"""Beginnings of names in the environment of Ollama that change responses, and that Ollama does not report."""


async def templates(scene: Scene) -> list[Finding]:
    """Check the templates of all installed models."""
    rows = [row for row in await scene.models(scene.ollama) if not row.get("remote_host")]
    if not rows:
        return []
    names = [row["name"] for row in rows[:_MAX_MODELS]]
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> Shown | None:
        async with places:
            return await scene.show(name)

    models = {
        name: found
        for name, found in zip(names, await asyncio.gather(*map(one, names)), strict=True)
        if found is not None
    }
    version = told_rows.version(await scene.fetch(scene.ollama, "/api/version"))
    findings = [*_dated(models, cached=scene.settings.cache_dated_templates), *_environment()]
    findings += _changed(scene, {row["name"]: f"{row.get('digest')} {version}" for row in rows}, models)
    if shown.shares_runners(version):
        findings += _at_odds(models, {row["name"] for row in await scene.loaded() or ()})
    return findings or [ok(f"none of {len(models)} writes the date, and none has the weights of another one")]


def _dated(models: dict[str, Shown], *, cached: bool) -> list[Finding]:
    found = {name: words for name, about in models.items() if (words := shown.dates(about))}
    if not found:
        return []
    names = [f"{printable(name)} ({', '.join(words)})" for name, words in sorted(found.items())]
    text = f"templates that may write the date into prompts: {listed(names)}"
    if not cached:
        return [ok(f"{text}; these models bypass the cache")]
    return [
        note(
            f"{text}; a cached response may be of an earlier day",
            "if that matters, set cache_dated_templates = false, or a shorter ttl_completion",
        )
    ]


def _changed(scene: Scene, keys: dict[str, str], models: dict[str, Shown]) -> list[Finding]:
    """Return which models have another template in use than in the last run; `keys` are digests with the version."""
    place, settings, findings = f"{scene.ollama.url} templates", scene.settings, []
    seen = read(scene.state, place)
    for name, about in sorted(models.items()):
        number = int.from_bytes(sha256(repr(shown.rendering(about)).encode()).digest()[:6])
        before = seen.get(keys[name])
        now, stale = observe(before, number, settings.epoch, time.time(), settings.ttl_completion)
        seen[keys[name]] = now
        if stale:
            findings.append(
                warning(
                    f"{printable(name)} has another template in use than before, though neither it nor Ollama's version"
                    " has changed (OLLAMA_GO_TEMPLATE): older entries may still be served",
                    f"change the setting epoch, or `ollama-cache-proxy clear --model {printable(name)}`",
                )
            )
    if len(findings) > MAX_NAMED:
        more = warning(f"likewise {len(findings) - MAX_NAMED} more models", "change the setting epoch")
        findings[MAX_NAMED:] = [more]
    write(scene.state, place, {key: row for key, row in seen.items() if key in keys.values()})
    return findings


def _environment() -> list[Finding]:
    """Return what this command's own environment says; Ollama's may be the same where it runs on this machine."""
    names = sorted(name for name in os.environ if name.startswith(_VARIABLES))
    if not names:
        return []
    return [
        note(
            f"set in this environment: {printable(', '.join(names))}; Ollama answers differently with these, and does"
            " not say whether it has them",
            "whenever Ollama is started with other values of them, change the setting epoch",
        )
    ]


def _at_odds(models: dict[str, Shown], loaded: set[str]) -> list[Finding]:
    files = shown.at_odds(models)
    findings = [_file_at_odds(groups, loaded) for groups in files[:MAX_NAMED]]
    if len(files) > MAX_NAMED:
        findings.append(note(f"likewise models of {len(files) - MAX_NAMED} more GGUF files"))
    return findings


def _file_at_odds(groups: Sequence[Sequence[str]], loaded: set[str]) -> Finding:
    """Return the finding of one GGUF file; models of one group have the same template."""
    most = max(1, MAX_NAMED // len(groups))
    named = listed([listed(names, most) for names in groups], comma=" | ", kind=" templates")
    text = (
        f"models of one GGUF file have different templates ({printable(named)}): Ollama runs them in one runner, which"
        " one was loaded first decides how prompts are rendered, and no key can tell"
    )
    fix = "give them one TEMPLATE, or do not cache them; `ollama-cache-proxy clear --model NAME` drops what is stored"
    if sum(not loaded.isdisjoint(names) for names in groups) > 1:
        return warning(f"{text}; models of more than one template are loaded now", fix)
    return note(text, fix)
