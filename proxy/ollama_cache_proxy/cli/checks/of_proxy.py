"""Checks of the proxy: whether it answers, which Ollama it forwards to, what it knows, what it could reuse."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from ollama_cache_proxy import __version__
from ollama_cache_proxy.cli.asking import EXPLAIN, PROMPTS, UPSTREAMS, Response
from ollama_cache_proxy.cli.checks.finding import Finding, listed, note, ok, problem, warning
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.options import entries
from ollama_cache_proxy.cli.reasons import REASONS
from ollama_cache_proxy.cli.screen import printable
from ollama_cache_proxy.service.port_holder import QUESTIONS, Answer, Holder, recognised
from ollama_cache_proxy.service.settings import DEFAULT_LISTEN, DEFAULT_PORT, host_and_port, is_loopback

_MIN_REQUESTS = 20
"""Requests below which the share of bypasses says little."""

_CROWDED = 0.9
"""The share of places that are in use from which on it is a warning."""

_WARN_SHARE = 0.5
"""The share of bypasses from which on they are a warning."""


async def answers(scene: Scene) -> list[Finding]:
    """Check that the proxy, and not something else, answers at the URL."""
    proxy = scene.proxy
    try:
        response = await scene.ask(proxy, "/healthz")
    except Failed as failed:
        return [problem(failed.what, failed.fix)]
    if await scene.stats() is None:
        return [_other_program(proxy.url, response, await _holder(scene))]
    versions = {
        sample.labels.get("version", "") for sample in await _samples(scene, "ollama_cache_proxy_build_info")
    } - {__version__}
    if versions:
        other = printable(", ".join(sorted(versions)))
        return [note(f"a proxy answers at {proxy.url}, of version {other}; this command is {__version__}")]
    return [ok(f"a proxy answers at {proxy.url}")]


async def _holder(scene: Scene) -> Holder:
    """Return what else answers at the URL."""
    for path in QUESTIONS:
        try:
            response = await scene.ask(scene.proxy, path)
        except Failed:
            continue
        fields = {name.lower(): value for name, value in response.headers.items()}
        found = recognised(path, Answer(status=response.status, fields=fields, body=response.body))
        if found is not None:
            return found
    return Holder.UNKNOWN


def _other_program(url: str, response: Response, holder: Holder) -> Finding:
    server = printable(response.headers.get("Server", ""))
    other_port = "choose another port: `ollama-cache-proxy serve --listen 127.0.0.1:PORT`"
    if holder is Holder.AIRPLAY:
        return problem(
            f"AirPlay of macOS holds the port of {url}",
            f"turn AirPlay Receiver off (System Settings, General, AirDrop & Handoff), or {other_port}",
        )
    if holder is Holder.GATEWAY:
        return problem(
            f"{url} is {holder.value}, not the proxy: clients with this URL are not cached, and get 404 for most of"
            " Ollama's API",
            f"let the proxy listen elsewhere (default {DEFAULT_LISTEN}), and name that to clients",
        )
    if holder is Holder.OLLAMA:
        return problem(f"{url} is Ollama itself", "set --url to the proxy; --upstream is for Ollama")
    if response.status == HTTPStatus.FORBIDDEN:
        return problem(
            f"{url} refuses this Host: the proxy listens on loopback, but --url has another name",
            "use localhost or an IP address in --url, allow the name (OCP_ALLOWED_HOSTS), or let it listen on all"
            f" addresses (OCP_LISTEN=0.0.0.0:{DEFAULT_PORT})",
        )
    return problem(
        f"another program answers at {url}" + (f" ({server})" if server else ""),
        f"set --url to the proxy, or {other_port}",
    )


async def same_ollama(scene: Scene) -> list[Finding]:
    """Check that the proxy forwards to the Ollama that doctor itself has asked."""
    if await scene.stats() is None:
        return []
    try:
        through = await scene.ask(scene.proxy, "/api/version")
        ready = (await scene.ask(scene.proxy, "/readyz")).json()
    except Failed as failed:
        return [problem(failed.what, failed.fix)]
    obstacle = _obstacle(through, ready)
    if obstacle is not None:
        return [obstacle]
    if scene.settings.upstreams:
        return await _upstreams(scene)
    direct, seen = [
        {row["name"]: row.get("digest") for row in await scene.models(server)} for server in (scene.ollama, scene.proxy)
    ]
    if direct and direct != seen:
        return [
            warning(
                f"the proxy forwards to another Ollama than {scene.ollama.url}: their models differ",
                "use the same --upstream for the proxy and for doctor",
            )
        ]
    return [ok("the proxy reaches its Ollama")]


async def _upstreams(scene: Scene) -> list[Finding]:
    """Return a finding for each of several Ollamas, and one for models that they have in other versions."""
    told = await scene.fetch(scene.proxy, UPSTREAMS)
    if told is None:
        return [warning("the proxy does not run before several Ollamas, as the settings here say", _SAME_UPSTREAMS)]
    hosts = told["upstreams"]
    findings = [_upstream(host) for host in hosts]
    digests: dict[str, set[str]] = {}
    for host in hosts:
        for model in host["models"]:
            if model["digest"]:  # empty where it is not told
                digests.setdefault(str(model["name"]), set()).add(str(model["digest"]))
    differ = sorted(printable(name) for name, found in digests.items() if len(found) > 1)
    versions = {host["version"] for host in hosts if host["version"]}
    if differ:
        fix = "pull them, or make them, again with changes_to = all, so that what one has answered is a hit for all"
        findings.append(note(f"not the same on all of them: {listed(differ)}", fix))
    if len(versions) > 1:
        shown = ", ".join(sorted(map(printable, versions)))
        findings.append(
            note(f"they are of several versions of Ollama ({shown}), which share no entries", _SAME_VERSION)
        )
    return findings


def _upstream(host: dict[str, Any]) -> Finding:
    name, loaded = printable(str(host["name"])), sum(bool(model["loaded"]) for model in host["models"])
    if host["state"] == "ejected":
        return problem(f"{name} takes no requests: {printable(str(host['reason']))}", "start it, or see its log")
    text = f"{name}: {len(host['models'])} models, {loaded} loaded, {host['inFlight']} requests in flight"
    if host["state"] == "draining":
        return note(f"{text}; it is drained", "when it is to serve again: POST to its resume")
    return ok(text)


def _obstacle(through: Response, ready: Any) -> Finding | None:
    """Return what keeps the proxy from its Ollama, by a response that came `through` it and by its `/readyz`."""
    if isinstance(ready, dict) and ready.get("upstream") == "refused":
        return problem(f"the proxy says: {printable(str(ready.get('reason')))}", _REFUSED_FIX)
    if through.status == HTTPStatus.UNAUTHORIZED:
        return note(
            "Ollama refuses requests that come through the proxy without credentials (401)",
            'let clients send theirs, or set upstream_authorization_for = "all"',
        )
    if through.status >= HTTPStatus.BAD_GATEWAY:
        found = through.json()
        why = f": {printable(str(found['error']))}" if isinstance(found, dict) and "error" in found else ""
        return problem(f"the proxy cannot reach its Ollama{why}", "start it, or name it: serve --upstream URL")
    if through.status != HTTPStatus.OK:
        return problem(f"Ollama answers the proxy with status {through.status}", "check what is between the two")
    return None


_SAME_UPSTREAMS = "run doctor with the settings of the proxy"
_SAME_VERSION = "install the same one on all"
_REFUSED_FIX = "until then nothing is cached; credentials are read when the proxy starts"


async def digests(scene: Scene) -> list[Finding]:
    """Check that the proxy knows the digest of the newest model. No model is asked anything."""
    # Through the proxy a client's credentials may be needed.
    models = await scene.models(scene.proxy) or await scene.models(scene.ollama)
    rows = [row for row in models if not row.get("remote_host")]
    if not rows or await scene.stats() is None:
        return []
    name = max(rows, key=lambda row: str(row.get("modified_at", "")))["name"]
    body = {"model": name, "prompt": "x", "stream": False}
    try:
        told = await scene.proxy.fetch(EXPLAIN, {"path": "/api/generate", "body": body})
    except Failed as failed:
        return [note(f"not checked: {failed.what}", failed.fix)]
    if told.get("detail") == "no-digest":
        return [
            problem(
                f"the proxy does not know the digest of {printable(name)}, so none of its responses are cached",
                "wait for a pull or create in progress; otherwise see the proxy's log",
            )
        ]
    return [ok(f"the proxy knows the digests of {len(rows)} models")]


async def store(scene: Scene) -> list[Finding]:
    """Check the store of the proxy."""
    stats = await scene.stats()
    if stats is None:
        return []
    name, keys = printable(str(stats["store"]["name"])), stats["keys"]
    if stats["store"]["state"] == "read-only":
        return [
            problem(
                f"the proxy's store, {name}, takes no new entries; those that it has are served",
                "see the error in the proxy's log: it is full, a read-only replica, or its user may not write",
            )
        ]
    if stats["store"]["state"] != "ok":
        return [
            problem(
                f"the proxy's store, {name}, does not answer: nothing is reused",
                "check that it runs, and see its own log",
            )
        ]
    text = f"{entries(keys)} in {name}"
    if name == "memory":
        return [note(f"{text}: not shared, and lost when the proxy ends", "install Valkey, or set OCP_REDIS_URL")]
    return [ok(text)]


async def access(scene: Scene) -> list[Finding]:
    """Check that others who can use the cache need a token to clear it."""
    host, _ = host_and_port(scene.settings.listen)
    if is_loopback(host):
        return [ok("the settings let only this machine connect")]
    if scene.settings.admin_token is None:
        return [
            warning(
                f"the settings let other machines connect ({scene.settings.listen}); without a token nobody can clear",
                "set OCP_ADMIN_TOKEN for the proxy and for its administrators",
            )
        ]
    return [ok("the settings let other machines connect; clearing needs the token")]


async def places(scene: Scene) -> list[Finding]:
    """Check that there is room for new clients."""
    names = ("connections", "idle_connections", "connection_limit", "closed_connections")
    found = {name: await _samples(scene, f"ollama_cache_proxy_{name}") for name in names}
    limit = sum(sample.value for sample in found["connection_limit"])
    if not limit:
        return []
    refused = sum(sample.value for sample in found["closed_connections"] if sample.labels["reason"] == "full")
    taken, idle = (int(sum(sample.value for sample in found[name])) for name in names[:2])
    return [roomy(taken, idle, int(limit), int(refused))]


def roomy(taken: int, idle: int, limit: int, refused: int) -> Finding:
    """Judge how many clients are connected, how many of them idle, and how many were refused since the start."""
    text = f"{taken:,} of {limit:,} places for clients are taken, {idle:,} of them by idle ones"
    fix = "raise max_connections, and the limit on open files with it (`ulimit -n`, LimitNOFILE)"
    if refused:
        return warning(f"{text}; {refused:,} clients were refused since the proxy started", fix)
    if taken - idle >= _CROWDED * limit:
        return warning(text, fix)
    return ok(text)


async def audit(scene: Scene) -> list[Finding]:
    """Report what the audit of hits has found."""
    stats = await scene.stats()
    if stats is None or "audit" not in stats:
        return []
    if (found := stats["audit"]) is None:
        return [ok('off; `audit = "1%"` asks Ollama again for one hit in a hundred while it is idle')]
    return [audited(int(found["checked"]), int(found["wrong"]), float(found["since"]))]


def audited(checked: int, wrong: int, since: float) -> Finding:
    """Judge what the audit has found since this Unix time, in seconds."""
    day = datetime.fromtimestamp(since, UTC).date().isoformat()
    text = f"{checked:,} {'hit' if checked == 1 else 'hits'} checked, {wrong:,} wrong, since {day}"
    if not wrong:
        return ok(text)
    fix = "the proxy's log says what it looks like; change epoch whenever Ollama's settings or hardware change"
    return warning(text, fix)


async def traffic(scene: Scene) -> list[Finding]:
    """Check how many requests so far were bypasses, and why."""
    if await scene.stats() is None:
        return []
    bypasses: Counter[str] = Counter()
    for sample in await _samples(scene, "ollama_cache_proxy_bypasses"):
        bypasses[sample.labels["detail"]] += int(sample.value)
    cacheable = await _count(scene, "ollama_cache_proxy_hits") + await _count(scene, "ollama_cache_proxy_misses")
    return [judged(cacheable, bypasses)]


def judged(cacheable: int, bypasses: Counter[str]) -> Finding:
    """Judge the requests since the proxy started: `cacheable` is hits and misses, `bypasses` are counts by detail."""
    avoidable = {detail: count for detail, count in bypasses.items() if detail in REASONS and REASONS[detail].fix}
    whole = cacheable + sum(avoidable.values())
    if whole < _MIN_REQUESTS:
        return note(f"only {whole:,} requests so far could be cached: too few to judge")
    lost = sum(avoidable.values())
    share = f"{lost:,} of {whole:,} requests since the proxy started bypassed the cache"
    if lost / whole < _WARN_SHARE:
        return ok(f"{share}, the others could be cached")
    detail = max(avoidable, key=lambda name: avoidable[name])
    reason = REASONS[detail]
    text = f"{share}, mostly ({avoidable[detail]:,}) because {reason.text} ({detail})"
    return warning(text, reason.fix or "")


async def prompts(scene: Scene) -> list[Finding]:
    """Report what Ollama reads again of what it has read, for whom, and why."""
    if await scene.stats() is None:
        return []
    found = await scene.fetch(scene.proxy, PROMPTS)
    if found is None:
        return []  # an older proxy
    return reread(found)


def reread(found: dict[str, Any]) -> list[Finding]:
    """Judge what is known of prompts since the start."""
    if not found["watched"]:
        return [ok("not looked at (prompt_watch = false)")]
    if found["findings"]:
        return [warning(printable(one["sentence"]), printable(one["fix"])) for one in found["findings"]]
    count, share = int(found["prompts"]), found["reusedTokens"] / max(1, found["tokens"])
    prompts = "1 prompt" if count == 1 else f"{count:,} prompts"
    return [ok(f"{prompts} so far, {share:.0%} of their tokens from Ollama's prompt cache; none is read again in vain")]


async def _count(scene: Scene, name: str) -> int:
    return int(sum(sample.value for sample in await _samples(scene, name)))


async def _samples(scene: Scene, name: str) -> list[Any]:
    """Return the samples of a metric; a counter is named without `_total`."""
    try:
        response = await scene.ask(scene.proxy, "/metrics")
        families = list(text_string_to_metric_families(response.body.decode("utf-8", "replace")))
    except (Failed, ValueError):
        return []
    found = [sample for family in families if family.name == name for sample in family.samples]
    return [sample for sample in found if not sample.name.endswith("_created")]


async def intermediaries(scene: Scene) -> list[Finding]:
    """Check whether something stands in front of the proxy, and with `--stream` whether it buffers streams."""
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
                f"something stands in front of the proxy ({', '.join(names)})",
                "check with --stream MODEL whether it buffers streams; that asks the model for a few words",
            )
        ]
    return [ok("no Via or Server field shows anything in front of the proxy")]


_STREAM_DEADLINE = 120.0
"""Seconds for the whole stream."""

_MIN_WRITING = 0.05
"""Seconds that Ollama must write for the arrival of pieces to be judged."""


def judged_stream(status: int, pieces: list[tuple[float, bytes]], model: str) -> Finding:
    """Judge a stream: compare when its pieces arrived with how long Ollama wrote (`eval_duration`)."""
    lines = b"".join(piece for _, piece in pieces).splitlines()
    try:
        last = orjson.loads(lines[-1])
    except (IndexError, ValueError):
        last = {}
    if status != HTTPStatus.OK or "error" in last:
        why = printable(str(last.get("error", f"status {status}")))
        return problem(f"no stream from {printable(model)}: {why}", "use a model that `ollama list` shows")
    wrote = last.get("eval_duration", 0) / 1e9
    if wrote < _MIN_WRITING:
        return note("the stream was too short to judge", "use a larger model with --stream")
    spread = pieces[-1][0] - pieces[0][0]
    if spread < wrote / 2:
        return problem(
            f"streams are buffered: Ollama wrote for {wrote:.1f} s, and all of it arrived within {spread:.1f} s",
            "turn off buffering in the proxy or load balancer in between (nginx: `proxy_buffering off;`)",
        )
    return ok(f"streams arrive as they are written, in {len(pieces):,} pieces over {spread:.1f} s")
