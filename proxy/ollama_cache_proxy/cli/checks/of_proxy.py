"""Checks of the proxy: whether it answers, before which Ollama, what it knows, what it could reuse."""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from ollama_cache_proxy import __version__
from ollama_cache_proxy.cli.asking import EXPLAIN, Response
from ollama_cache_proxy.cli.checks.finding import Finding, note, ok, problem, warning
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.options import entries
from ollama_cache_proxy.cli.reasons import REASONS
from ollama_cache_proxy.cli.screen import printable
from ollama_cache_proxy.service.settings import host_and_port, is_loopback

_MIN_REQUESTS = 20
"""Requests that say little yet."""

_WARN_SHARE = 0.5
"""The share of passed requests from which it is worth a word."""


async def answers(scene: Scene) -> list[Finding]:
    """Whether it is the proxy that answers there, or something else."""
    proxy = scene.proxy
    try:
        response = await scene.ask(proxy, "/healthz")
    except Failed as failed:
        return [problem(failed.what, failed.fix)]
    if await scene.stats() is None:
        return [_other_program(proxy.url, response, await _front_page(scene))]
    versions = {
        sample.labels.get("version", "") for sample in await _samples(scene, "ollama_cache_proxy_build_info")
    } - {__version__}
    if versions:
        other = printable(", ".join(sorted(versions)))
        return [note(f"a proxy answers at {proxy.url}, of version {other}; this command is {__version__}")]
    return [ok(f"a proxy answers at {proxy.url}")]


async def _front_page(scene: Scene) -> bytes:
    try:
        return (await scene.ask(scene.proxy, "/")).body
    except Failed:
        return b""


def _other_program(url: str, response: Response, front: bytes) -> Finding:
    """Say what else answers there."""
    server = printable(response.headers.get("Server", ""))
    elsewhere = "choose another port: `ollama-cache-proxy serve --listen 127.0.0.1:PORT`"
    if server.startswith("AirTunes"):
        return problem(
            f"AirPlay of macOS holds the port of {url}",
            f"turn AirPlay Receiver off (System Settings, General, AirDrop & Handoff), or {elsewhere}",
        )
    if front == b"Ollama is running":
        return problem(f"{url} is Ollama itself", "name the proxy with --url; Ollama is --upstream")
    if response.status == HTTPStatus.FORBIDDEN:
        return problem(
            f"{url} refuses this Host: the proxy listens on loopback, and is asked by another name",
            "name it by localhost or an address, or let it listen on all addresses (OCP_LISTEN=0.0.0.0:11435)",
        )
    return problem(
        f"another program answers at {url}" + (f" ({server})" if server else ""),
        f"name the proxy with --url, or {elsewhere}",
    )


async def same_ollama(scene: Scene) -> list[Finding]:
    """Whether the proxy reaches the Ollama that was asked here."""
    if await scene.stats() is None:
        return []
    try:
        through = await scene.ask(scene.proxy, "/api/version")
    except Failed as failed:
        return [problem(failed.what, failed.fix)]
    if through.status >= HTTPStatus.BAD_GATEWAY:
        said = through.json()
        why = f": {printable(str(said['error']))}" if isinstance(said, dict) and "error" in said else ""
        return [problem(f"the proxy cannot ask its Ollama{why}", "start it, or name it: serve --upstream URL")]
    if through.status != HTTPStatus.OK:
        return [problem(f"Ollama answers the proxy with a {through.status}", "see what stands between the two")]
    direct, seen = [
        {row["name"]: row["digest"] for row in await scene.models(server)} for server in (scene.ollama, scene.proxy)
    ]
    if direct and direct != seen:
        return [
            warning(
                f"the proxy is in front of another Ollama than {scene.ollama.url}: their models differ",
                "name the same with --upstream here and there",
            )
        ]
    return [ok("the proxy reaches its Ollama")]


async def digests(scene: Scene) -> list[Finding]:
    """Whether the proxy knows what the name of the newest model stands for now. No model is asked anything."""
    rows = [row for row in await scene.models(scene.proxy) if not row.get("remote_host")]
    if not rows or await scene.stats() is None:
        return []
    name = max(rows, key=lambda row: str(row.get("modified_at", "")))["name"]
    body = {"model": name, "prompt": "x", "stream": False}
    try:
        told = await scene.proxy.fetch(EXPLAIN, {"path": "/api/generate", "body": body})
    except Failed as failed:
        return [note(f"not looked at: {failed.what}", failed.fix)]
    if told.get("detail") == "no-digest":
        return [
            problem(
                f"the proxy does not know what {printable(name)} stands for, so nothing of it is cached",
                "wait for a pull or create that is under way; else look into the proxy's log",
            )
        ]
    return [ok(f"the proxy knows what the names of {len(rows)} models stand for")]


async def store(scene: Scene) -> list[Finding]:
    """Where the proxy keeps entries, and whether that works."""
    stats = await scene.stats()
    if stats is None:
        return []
    name, keys = printable(str(stats["store"]["name"])), int(stats["keys"])
    if stats["store"]["state"] != "ok":
        return [
            problem(
                f"the proxy's store, {name}, does not answer: nothing is reused",
                "see whether it runs, and what its own log says",
            )
        ]
    said = f"{entries(keys)} in {name}"
    if name == "memory":
        return [note(f"{said}: not shared, and forgotten when the proxy ends", "install Valkey, or name a Redis")]
    return [ok(said)]


async def access(scene: Scene) -> list[Finding]:
    """Whether whoever may use the cache can clear it."""
    host, _ = host_and_port(scene.settings.listen)
    if is_loopback(host):
        return [ok("the settings let only this machine in")]
    if scene.settings.admin_token is None:
        return [
            warning(
                f"the settings let others in ({scene.settings.listen}), and without a token nobody may clear",
                "set OCP_ADMIN_TOKEN for the proxy, and for whoever may clear",
            )
        ]
    return [ok("the settings let others in; clearing needs the token")]


async def traffic(scene: Scene) -> list[Finding]:
    """Whether what was asked so far can be cached, from the reasons why it was not."""
    if await scene.stats() is None:
        return []
    passed: Counter[str] = Counter()
    for sample in await _samples(scene, "ollama_cache_proxy_bypasses"):
        passed[sample.labels["detail"]] += int(sample.value)
    kept = await _count(scene, "ollama_cache_proxy_hits") + await _count(scene, "ollama_cache_proxy_misses")
    return [judged(kept, passed)]


def judged(kept: int, passed: Counter[str]) -> Finding:
    """Judge requests since the start of the proxy: `kept` could be cached, the others were passed on for a reason."""
    meant = {detail: count for detail, count in passed.items() if detail in REASONS and REASONS[detail].fix}
    whole = kept + sum(meant.values())
    if whole < _MIN_REQUESTS:
        return note(f"{whole:,} requests that could be cached so far: too few to say more")
    lost = sum(meant.values())
    share = f"{lost:,} of {whole:,} requests since the proxy started were passed on"
    if lost / whole < _WARN_SHARE:
        return ok(f"{share}, the others could be cached")
    detail = max(meant, key=lambda name: meant[name])
    reason = REASONS[detail]
    text = f"{share}, mostly ({meant[detail]:,}) because {reason.text} ({detail})"
    return warning(text, reason.fix or "")


async def _count(scene: Scene, name: str) -> int:
    return int(sum(sample.value for sample in await _samples(scene, name)))


async def _samples(scene: Scene, name: str) -> list[Any]:
    """Give the samples of a metric; a counter is named without its ending."""
    try:
        response = await scene.ask(scene.proxy, "/metrics")
        families = list(text_string_to_metric_families(response.body.decode("utf-8", "replace")))
    except (Failed, ValueError):
        return []
    found = [sample for family in families if family.name == name for sample in family.samples]
    return [sample for sample in found if not sample.name.endswith("_created")]


async def intermediaries(scene: Scene) -> list[Finding]:
    """Whether something stands before the proxy, and with `--stream` whether it holds streams back."""
    if await scene.stats() is None:
        return []
    headers = (await scene.ask(scene.proxy, "/healthz")).headers
    names = [printable(headers[name]) for name in ("Via", "Server") if name in headers]
    if scene.stream is not None:
        body = {"model": scene.stream, "prompt": "Count from 1 to 40.", "options": {"num_predict": 48}}
        try:
            status, pieces = await scene.proxy.stream("/api/generate", orjson.dumps(body), within=_STREAM_DEADLINE)
        except Failed as failed:
            return [problem(failed.what, failed.fix)]
        return [judged_stream(status, pieces, scene.stream)]
    if names:
        return [
            note(
                f"something stands before the proxy ({', '.join(names)})",
                "whether it holds streams back is seen with --stream MODEL, which asks that model for a few words",
            )
        ]
    return [ok("nothing stands before the proxy that says so")]


_STREAM_DEADLINE = 120.0
_MIN_WRITING = 0.05
"""Seconds of writing that are too short to see how they come."""


def judged_stream(status: int, pieces: list[tuple[float, bytes]], model: str) -> Finding:
    """Judge a stream by when its pieces arrived, beside how long Ollama says that it wrote (`eval_duration`)."""
    lines = b"".join(piece for _, piece in pieces).splitlines()
    try:
        last = orjson.loads(lines[-1])
    except (IndexError, ValueError):
        last = {}
    if status != HTTPStatus.OK or "error" in last:
        why = printable(str(last.get("error", f"status {status}")))
        return problem(f"no stream of {printable(model)}: {why}", "name a model of `ollama list`")
    wrote = last.get("eval_duration", 0) / 1e9
    if wrote < _MIN_WRITING:
        return note("the stream was too short to see how it comes", "name a larger model with --stream")
    spread = pieces[-1][0] - pieces[0][0]
    if spread < wrote / 2:
        return problem(
            f"streams are held back: Ollama wrote for {wrote:.1f} s, and all came within {spread:.1f} s",
            "switch buffering off in what stands in between (nginx: `proxy_buffering off;`)",
        )
    return ok(f"streams come as they are written, in {len(pieces):,} pieces over {spread:.1f} s")
