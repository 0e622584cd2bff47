"""Checks of Ollama: whether it answers, which origins it allows, what it has loaded, what no digest shows."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from ollama_cache_proxy.cli import graphics
from ollama_cache_proxy.cli.asking import CREDENTIALS_FIX, EXPLAIN
from ollama_cache_proxy.cli.checks.finding import Finding, note, ok, problem, warning
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.cli.checks.seen import Seen, observe, read, write
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.screen import printable, size
from ollama_cache_proxy.service.settings import is_loopback, longest_lifetime
from ollama_cache_proxy.workbench import told_rows
from ollama_cache_proxy.workbench.shown import own_context
from ollama_cache_proxy.workbench.told_rows import figure, text

_FOREIGN_ORIGIN = "https://page.invalid"


async def answers(scene: Scene) -> list[Finding]:
    """Check that Ollama can be reached and has models."""
    ollama = scene.ollama
    try:
        response = await scene.ask(ollama, "/api/version")
    except Failed as failed:
        return [problem(failed.what, failed.fix)]
    # Ollama's own 403, of a Host that it does not allow, has no body.
    if response.status == HTTPStatus.UNAUTHORIZED or (response.status == HTTPStatus.FORBIDDEN and response.body):
        whom = "these credentials" if ollama.has_credentials else "requests without credentials"
        return [problem(f"Ollama at {ollama.url} refuses {whom} ({response.status})", CREDENTIALS_FIX)]
    if response.status == HTTPStatus.FORBIDDEN:
        return [
            problem(
                f"Ollama at {ollama.url} refuses this Host: it listens on loopback, but --upstream has another name",
                "use its IP address in --upstream, or let it listen on all addresses (OLLAMA_HOST=0.0.0.0)",
            )
        ]
    version = told_rows.version(response.json())
    if not version:
        return [problem(f"the server at {ollama.url} is not Ollama (status {response.status})", ollama.fix)]
    return [await _models(scene, printable(version)), *_in_clear(scene)]


async def _models(scene: Scene, version: str) -> Finding:
    """Return whether Ollama has models."""
    models = await scene.models(scene.ollama)
    text = f"Ollama {version} answers at {scene.ollama.url}"
    if not models:
        return warning(f"{text}, but has no model", "get one: `ollama pull llama3.2`")
    return ok(f"{text}, with {len(models)} model{'s' if len(models) > 1 else ''}")


def _in_clear(scene: Scene) -> list[Finding]:
    """Judge whether credentials for Ollama can be read on their way."""
    parts = urlsplit(scene.ollama.url)
    if not scene.ollama.has_credentials or parts.scheme == "https" or is_loopback(parts.hostname or ""):
        return []
    return [
        warning(
            f"the credentials for Ollama go to {parts.hostname} over plain http, where the network can read them",
            "use https:// in upstream, or a tunnel",
        )
    ]


async def origins(scene: Scene) -> list[Finding]:
    """Check which web pages may use Ollama."""
    try:
        foreign = await scene.ollama.ask("/api/version", headers={"Origin": _FOREIGN_ORIGIN})
        asked = scene.origin and await scene.proxy.ask("/api/version", headers={"Origin": scene.origin})
    except Failed:
        return []
    if foreign.status == HTTPStatus.UNAUTHORIZED:  # that of credentials comes first, and tells nothing of origins
        return []
    findings = [
        ok("pages of other origins are refused, those of this machine are allowed")
        if foreign.status == HTTPStatus.FORBIDDEN
        else warning(
            "any web page that is open in a browser may use this Ollama",
            "set OLLAMA_ORIGINS where Ollama runs to the origins that you use, and restart it",
        )
    ]
    if asked and asked.status == HTTPStatus.FORBIDDEN:
        findings.append(
            problem(
                f"pages of {scene.origin} are refused",
                f"set OLLAMA_ORIGINS={scene.origin} where Ollama runs, and restart it",
            )
        )
    elif asked:
        findings.append(ok(f"pages of {scene.origin} are allowed"))
    return findings


def _partly_in_vram(name: str, whole: int, vram: int, *, gpu: bool) -> Finding:
    """Return the finding of a model of which Ollama counts only a part as GPU memory, in bytes."""
    fix = "use a smaller quantization or context, or unload others: `ollama ps`"
    parts = f"{size(vram)} of {size(whole)}"
    if gpu:
        return warning(f"{name} does not fit into the GPU: {parts} are there, the CPU does the rest", fix)
    return note(
        f"Ollama counts {parts} of {name} as VRAM, and no NVIDIA GPU of its machine is seen from here: without a GPU"
        " that is main memory, and all is well; with one, the model does not fit into it",
        f"with a GPU: {fix}",
    )


async def _context_lowered(scene: Scene, model: str, context: int) -> list[Finding]:
    """Return the finding of a model that is loaded with a shorter context, in tokens, than its own parameters say."""
    wanted = own_context(await scene.show(model) or {})
    if wanted is None or context >= wanted:
        return []
    return [
        warning(
            f"{printable(model)} is loaded with a context of {context:,} tokens, and its own num_ctx is {wanted:,}: no"
            " digest shows that (ignore this if a request's own num_ctx changed it)",
            "see Ollama's log for lack of memory; change the setting epoch if it stays so",
        )
    ]


async def _context_known(scene: Scene, model: str) -> dict[str, Any] | None:
    """Return what the proxy knows of the context length with which Ollama loads a model, None if it knows nothing."""
    body = {"model": model, "prompt": "x", "stream": False}
    try:
        told = await scene.proxy.fetch(EXPLAIN, {"path": "/api/generate", "body": body})
    except Failed:
        return None
    context = told.get("context") if isinstance(told, dict) else None
    return context if isinstance(context, dict) else None


def _context_changed(name: str, told: dict[str, Any]) -> list[Finding]:
    """Return the finding of a model that the proxy has seen loaded with another context length than before."""
    if told["length"] == told["before"]:
        return []
    since = datetime.fromtimestamp(told["since"], UTC)
    return [
        note(
            f"context length of {name} changed from {told['before']:,} to {told['length']:,} tokens at"
            f" {since:%Y-%m-%d %H:%M} UTC, its entries of another length are not used"
        )
    ]


async def _context(scene: Scene, row: dict[str, Any], seen: dict[str, Seen]) -> list[Finding]:
    """Judge the context length of a loaded model, as far as it is told, and note it in `seen`."""
    model, context, digest = row["name"], figure(row, "context_length"), text(row, "digest")
    if not context:
        return []
    findings = await _context_lowered(scene, model, context)
    if not digest:
        return findings
    lifetime = longest_lifetime(scene.settings)
    seen[digest], stale = observe(seen.get(digest), context, scene.settings.epoch, time.time(), lifetime)
    told = await _context_known(scene, model)
    if told is not None and told["length"] == context:
        return findings + _context_changed(printable(model), told)
    if not stale:
        return findings
    return [
        *findings,
        warning(
            f"{printable(model)} has a context of {context:,} tokens and had {seen[digest].before:,} before: no digest"
            " shows that, so older entries are still served until two misses have shown it to the proxy (ignore this"
            " if a request's own num_ctx changed it; since 0.30 Ollama lowers it by itself where memory does not"
            " suffice)",
            f"change the setting epoch, or `ollama-cache-proxy clear --model {printable(model)}`",
        ),
    ]


async def loaded(scene: Scene) -> list[Finding]:
    """Check that loaded models fit into GPU memory, and have the same context length as before."""
    rows = await scene.loaded()
    if rows is None:
        return []
    if not rows:
        return [note("no model is loaded, so context lengths and GPU memory cannot be checked")]
    findings: list[Finding] = []
    seen = read(scene.state, scene.ollama.url)
    for row in rows:
        whole, vram = figure(row, "size"), figure(row, "size_vram")
        if whole is not None and vram is not None and 0 < vram < whole:
            gpu = await graphics.known_at(scene.ollama.url)
            findings.append(_partly_in_vram(printable(row["name"]), whole, vram, gpu=gpu))
        findings += await _context(scene, row, seen)
    write(scene.state, scene.ollama.url, seen)
    if findings:
        return findings
    if not all(figure(row, "context_length") and text(row, "digest") for row in rows):
        return [note(f"{len(rows)} loaded; the server does not tell the context length or digest of each")]
    return [ok(f"{len(rows)} loaded, with the same context length as before")]
