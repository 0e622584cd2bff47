"""The work of `bench`: the same requests sent directly, through the proxy, and again."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import orjson

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.asking import CLEAR, Response, client
from ollama_cache_proxy.cli.ending import DONE, WRONG, Failed
from ollama_cache_proxy.cli.jobs.api import Api, ollama, proxy
from ollama_cache_proxy.cli.jobs.models import capabilities
from ollama_cache_proxy.cli.jobs.progress import Steps, show, steps
from ollama_cache_proxy.cli.jobs.work import say
from ollama_cache_proxy.cli.screen import write_json
from ollama_cache_proxy.service.settings import secret
from ollama_cache_proxy.workbench.bench_questions import OPERATIONS, Operation, completion
from ollama_cache_proxy.workbench.sheet import markdown
from ollama_cache_proxy.workbench.speedup import Found, Streamed, document, sheet, stream_sheet
from ollama_cache_proxy.workbench.spread import Spread, spread
from ollama_cache_proxy.workbench.told_rows import figure

HITS: Final = 20
"""Hits for each miss; they take almost no time."""

_TTL: Final = 300
"""Lifetime of the entries in seconds, so that they expire even if they cannot be cleared."""

_STORE_DEADLINE: Final = 2.0
"""Seconds for the proxy to store a response."""

_CLEAR_DEADLINE: Final = 60.0
"""Seconds for the proxy to clear the namespace."""

_DENIED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


async def bench(arguments: argparse.Namespace) -> int:
    """Measure, show the results, and clear the entries. Raise Failed."""
    for name in ("rounds", "tokens"):
        if getattr(arguments, name) < 1:
            raise Failed(f"--{name}: {getattr(arguments, name)} is not allowed: must be 1 or more", status=WRONG)
    settings = options.settings_of(arguments)
    url, upstream = options.proxy_url(arguments, settings), options.upstream_url(settings)
    async with client() as session:
        cache, direct = await proxy(session, url), ollama(session, upstream, settings)
        model = await _chosen(direct, "completion", arguments.model)
        embeds = await _chosen(direct, "embedding", arguments.embed_model)
        for name in filter(None, (model, embeds)):
            await _check_same(cache, direct, name)
        measuring = _Bench(cache=cache, direct=direct, model=model, embeds=embeds, tokens=arguments.tokens)
        try:
            with steps() as progress:
                found, streamed = await measuring.measure(arguments.rounds, progress)
        finally:
            await measuring.clear(secret(settings.admin_token))
    _show(arguments, found, streamed, {"rounds": arguments.rounds, "model": model, "embedModel": embeds})
    return DONE


def _show(
    arguments: argparse.Namespace, found: Sequence[Found], streamed: Streamed | None, facts: Mapping[str, Any]
) -> None:
    if arguments.json:
        write_json(document(found, streamed, facts))
        return
    tables = [sheet(found)] if streamed is None else [sheet(found), stream_sheet(streamed)]
    if arguments.markdown:
        sys.stdout.write("\n\n".join(map(markdown, tables)) + "\n")
        sys.stdout.flush()
    else:
        for table in tables:
            show(table)
    for one in found:
        if one.note:
            say(f"{one.operation}: {one.note}")
    say(f"Medians of {facts['rounds']} rounds, with minimum and maximum; {HITS} hits in each round")


async def _chosen(api: Api, capability: str, named: str | None) -> str | None:
    """Return the named model, or the smallest installed one with the capability, None if there is none."""
    if named is not None:
        return str((await api.row_of(named))["name"])
    for row in sorted(await api.installed(), key=lambda row: figure(row, "size") or 0):
        local = not row.get("remote_host") and not row.get("remote_model")
        if local and capability in capabilities(await api.object("/api/show", {"model": row["name"]})):
            return str(row["name"])
    return None


async def _check_same(cache: Api, direct: Api, model: str) -> None:
    one, two = [(await api.row_of(model)).get("digest") for api in (cache, direct)]
    if one != two:
        raise Failed(
            f"{model} is not the same model at {cache.url} and {direct.url}", "set --upstream to the proxy's Ollama"
        )


@dataclass(slots=True, kw_only=True)
class _Times:
    """The times of one operation in seconds."""

    direct: list[float] = field(default_factory=list)
    miss: list[float] = field(default_factory=list)
    hit: list[float] = field(default_factory=list)
    note: str = ""


class _Bench:
    """One measurement, in a namespace of its own."""

    def __init__(self, *, cache: Api, direct: Api, model: str | None, embeds: str | None, tokens: int) -> None:
        self._cache = cache
        self._direct = direct
        self._model = model
        self._embeds = embeds
        self._tokens = tokens
        self._namespace = f"bench-{secrets.token_hex(8)}"
        self._fields = {
            "X-Cache-Namespace": self._namespace,
            "X-Cache-TTL": str(_TTL),
            "X-Cache-Category": "bench",
        }

    async def measure(self, rounds: int, progress: Steps) -> tuple[list[Found], Streamed | None]:
        """Measure every operation that there is a model for; direct and cached take turns in being first."""
        operations = [(operation, model) for operation in OPERATIONS if (model := self._model_of(operation))]
        if not operations:
            raise Failed(f"Ollama at {self._direct.url} has no model that completes or embeds", "`ollama pull` one")
        times = {operation.title: _Times() for operation, _ in operations}
        progress.begin("Loading", len(operations))
        for operation, model in operations:
            await self._ok(self._direct, operation, operation.body(model, self._nonce(), 1))
            progress.advance()
        progress.begin("Measuring", rounds * len(operations))
        for turn in range(rounds):
            for operation, model in operations:
                await self._round(times[operation.title], operation, model, cached_first=turn % 2 == 1)
                progress.advance()
        streamed = await self._streams(self._model, rounds, progress) if self._model is not None else None
        found = [
            Found(
                operation=title,
                direct=spread(one.direct),
                miss=spread(one.miss),
                hit=_spread(one.hit),
                note=one.note,
            )
            for title, one in times.items()
        ]
        return found, streamed

    def _model_of(self, operation: Operation) -> str | None:
        return self._embeds if operation.embeds else self._model

    def _nonce(self) -> str:
        return secrets.token_hex(4)

    async def _ok(
        self, api: Api, operation: Operation, body: Any, headers: Mapping[str, str] | None = None
    ) -> tuple[float, Response]:
        """Return the seconds of a response, and the response. Raise Failed if its status is not 200."""
        seconds, response = await api.timed(operation.path, orjson.dumps(body), headers)
        if response.status != HTTPStatus.OK:
            raise api.refused(response.status, response.json())
        return seconds, response

    async def _round(self, times: _Times, operation: Operation, model: str, *, cached_first: bool) -> None:
        for cached in (cached_first, not cached_first):
            body = operation.body(model, self._nonce(), self._tokens)
            if cached:
                await self._through(times, operation, body)
            else:
                times.direct.append((await self._ok(self._direct, operation, body))[0])

    async def _through(self, times: _Times, operation: Operation, body: Any) -> None:
        """Send the proxy a new request, then the same one HITS times."""
        seconds, miss = await self._ok(self._cache, operation, body, self._fields)
        times.miss.append(seconds)
        status = miss.cache_status or "no Cache-Status"
        if "; stored" not in status or not await self._is_stored(operation, body):
            times.note = f"the proxy did not store it: {status}"
            return
        for _ in range(HITS):
            seconds, hit = await self._ok(self._cache, operation, body, self._fields)
            if hit.headers.get("X-Cache") == "HIT":
                times.hit.append(seconds)

    async def _is_stored(self, operation: Operation, body: Any) -> bool:
        """Wait until the proxy has stored the response, which it does after sending it; return whether it did."""
        fields = {**self._fields, "Cache-Control": "only-if-cached"}
        deadline = time.monotonic() + _STORE_DEADLINE
        while time.monotonic() < deadline:
            if (await self._cache.timed(operation.path, orjson.dumps(body), fields))[1].status == HTTPStatus.OK:
                return True
            await asyncio.sleep(0.01)
        return False

    async def _streams(self, model: str, rounds: int, progress: Steps) -> Streamed:
        """Measure streams that bypass the cache, so that only the proxy's overhead shows."""
        progress.begin("Streaming", 2 * rounds)
        first: dict[bool, list[float]] = {False: [], True: []}
        chunk: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(rounds):
            for proxied in (turn % 2 == 1, turn % 2 == 0):
                api = self._cache if proxied else self._direct
                fields = {**self._fields, "Cache-Control": "no-store"} if proxied else {}
                body = completion(model, f"[{self._nonce()}] Tell me a story.", self._tokens, stream=True)
                begun = time.perf_counter()
                rows = api.rows("/api/generate", body, fields, may_be_empty=True)
                arrived = [time.perf_counter() - begun async for _ in rows]
                first[proxied] += arrived[:1]  # Ollama 0.33 may end a stream before its first line
                if len(arrived) > 1:
                    chunk[proxied].append((arrived[-1] - arrived[0]) / (len(arrived) - 1))
                progress.advance()
        return Streamed(
            first_direct=_spread(first[False]),
            first_proxied=_spread(first[True]),
            chunk_direct=_spread(chunk[False]),
            chunk_proxied=_spread(chunk[True]),
        )

    async def clear(self, token: str) -> None:
        """Clear the namespace; if that fails, say when its entries expire."""
        expiry = f"the entries of this run expire in {_TTL} s"
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            wanted = orjson.dumps({"namespace": self._namespace})
            response = await self._cache.ask(CLEAR, method="POST", headers=headers, body=wanted, within=_CLEAR_DEADLINE)
        except Failed:
            say(f"The entries could not be cleared: {expiry}")
            return
        if response.status != HTTPStatus.OK:
            hint = "; set OCP_ADMIN_TOKEN to the proxy's token" if response.status in _DENIED else ""
            say(f"The proxy did not clear the entries (status {response.status}{hint}): {expiry}")


def _spread(values: Sequence[float]) -> Spread | None:
    return spread(values) if values else None
