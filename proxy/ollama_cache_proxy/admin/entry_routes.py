"""The routes for statistics, entries, purges and explanations. No response contains a prompt."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs

import orjson

from ollama_cache_proxy.admin.own_route import Route
from ollama_cache_proxy.core.ports import Clock, Siblings, Topic
from ollama_cache_proxy.core.store_ports import UNCOUNTED, EntryStore, Lookup, SharedFlights, StoreState, Uncounted
from ollama_cache_proxy.policy import model_names, purge, reuse
from ollama_cache_proxy.policy.fields import with_host
from ollama_cache_proxy.policy.lifetimes import kind_of
from ollama_cache_proxy.policy.messages import Description, Fields, Request, StoredResponse, described, first
from ollama_cache_proxy.policy.purge import Filter, Purges
from ollama_cache_proxy.policy.replies import Reply, error, json
from ollama_cache_proxy.policy.target import split

_MAX_CLEAR: Final = 65_536
"""Bytes of the body of a clear."""
_PAGE: Final = 100
_MAX_PAGE: Final = 1000
"""Entries of one page."""
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_LIMIT: Final = re.compile(r"[0-9]{1,9}")
_UNAVAILABLE: Final = "the store does not answer, or refuses a command that this takes"
_NONE: Final = error(404, "no entry has this key")

ReadStatistics: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
"""Returns the statistics."""

Explain: TypeAlias = Callable[[Request, bytes], Awaitable[dict[str, Any]]]
"""Explains one request to Ollama: whether it would be served from the cache."""


class CacheRoutes:
    """The handlers of `routes`. `store_name` and `sealed` are shown with the statistics."""

    def __init__(  # noqa: PLR0913 - the composition root names each neighbour once
        self,
        *,
        store: EntryStore,
        store_name: str,
        sealed: bool,
        store_state: Callable[[], StoreState],
        purges: Purges,
        statistics: ReadStatistics,
        explain: Explain,
        clock: Clock,
        siblings: Siblings | None = None,
        flights: SharedFlights | None = None,
    ) -> None:
        self._store = store
        self._store_name = store_name
        self._sealed = sealed
        self._store_state = store_state
        self._purges = purges
        self._flights = flights
        self._statistics = statistics
        self._explain_request = explain
        self._clock = clock
        self._siblings = siblings
        self.routes: Mapping[str, Mapping[str, Route]] = {
            "/api/cache/stats": {"GET": self._stats},
            "/api/cache/clear": {"POST": self._clear},
            "/api/cache/entries": {"GET": self._entries},
            "/api/cache/entries/": {"GET": self._entry, "DELETE": self._delete},
            "/api/cache/explain": {"POST": self._explain},
        }

    async def _stats(self, _request: Request, _body: bytes) -> Reply:
        counted, statistics = await self._store.count(), await self._statistics()
        leading = {name: statistics.pop(name) for name in ("hits", "misses", "hitRate")}
        stats: dict[str, Any] = leading | {"keys": counted.keys if counted is not None else None}
        if counted is not None and counted.age > 0:
            stats["keysAge"] = round(counted.age, 1)
        state = self._store_state()
        well = "ok" if state.stores else "read-only"
        word = well if state.answers and counted is not None else "degraded"
        return json(stats | statistics | {"store": {"name": self._store_name, "state": word, "sealed": self._sealed}})

    async def _clear(self, _request: Request, body: bytes) -> Reply:
        if len(body) > _MAX_CLEAR:
            return error(413, "the body is too large")
        try:
            filters = _document(body)
            wanted = purge.read(filters)
        except ValueError as problem:
            return error(400, str(problem))
        cleared = await (self._purge(wanted) if filters else self._clear_all())
        if cleared is None:
            return error(503, f"{_UNAVAILABLE}; some entries may not have been cleared")
        return _cleared(cleared)

    async def _clear_all(self) -> int | Uncounted | None:
        """Clear the store, and what siblings hold of it; return the number of entries, None if the store failed."""
        cleared = await self._store.clear()
        if self._siblings is not None:
            await self._siblings.send_and_wait(Topic.DISCARD)
        return cleared

    async def _purge(self, wanted: Filter) -> int | None:
        """Delete matching entries, those still being stored included; return how many, None if the store failed."""
        self._purges.add(wanted)
        if self._flights is not None:
            await self._flights.purge_begins()
        if self._siblings is None:
            return await self._delete_matching(wanted)
        await self._siblings.send_and_wait(Topic.PURGE, asdict(wanted))
        purged = await self._delete_matching(wanted)
        await self._siblings.send_and_wait(Topic.DISCARD)
        return purged

    async def _delete_matching(self, wanted: Filter) -> int | None:
        if wanted.key is None:
            return await self._store.purge(wanted.matches)
        lookup = await self._look_up(wanted.key)
        if lookup.generation is None:
            return None
        if lookup.entry is None or not wanted.matches(_described(wanted.key, lookup.entry)):
            return 0
        return await self._store.delete((wanted.key,), lookup.generation)

    async def _look_up(self, key: str) -> Lookup:
        """Look up an entry; text that is not a key finds none."""
        return await self._store.get(key) if _KEY.fullmatch(key) else Lookup(entry=None, generation="")

    async def _entries(self, request: Request, _body: bytes) -> Reply:
        """Return about `limit` entries after `cursor`, of these the ones that match the filters."""
        given = parse_qs(request.target.partition("?")[2], keep_blank_values=True)
        query = {name: found[-1] for name, found in given.items()}
        cursor, limit = query.pop("cursor", ""), query.pop("limit", str(_PAGE))
        if not _LIMIT.fullmatch(limit):
            return error(400, f"limit must be a number from 1 to {_MAX_PAGE}")
        try:
            wanted = purge.read(query)
            page = await self._store.page(cursor, max(1, min(int(limit), _MAX_PAGE)))
        except ValueError as problem:
            return error(400, str(problem))
        if page is None:
            return error(503, _UNAVAILABLE)
        shown = [self._as_json(entry) for entry in page.entries if wanted.matches(entry)]
        return json({"entries": shown, "cursor": page.cursor})

    async def _entry(self, request: Request, _body: bytes) -> Reply:
        key = _key_of(request)
        lookup = await self._look_up(key)
        if lookup.generation is None:
            return error(503, _UNAVAILABLE)
        return _NONE if lookup.entry is None else json(self._as_json(_described(key, lookup.entry)))

    async def _delete(self, request: Request, _body: bytes) -> Reply:
        cleared = await self._purge(Filter(key=_key_of(request)))
        if cleared is None:
            return error(503, _UNAVAILABLE)
        return _cleared(cleared) if cleared else _NONE

    async def _explain(self, own: Request, body: bytes) -> Reply:
        try:
            request, asked = _request_to_explain(_document(body), first(own.fields, b"host"))
        except ValueError as problem:
            return error(400, str(problem))
        return json(await self._explain_request(request, asked))

    def _as_json(self, entry: Description) -> dict[str, Any]:
        """Return an entry as JSON values: times are seconds, `storedAt` is Unix time, `size` the bytes of its body."""
        shown = {name: getattr(entry, name) for name in _SHOWN} | {"model": model_names.short(entry.model)}
        now = self._clock.now()
        kind = {"lifetimeKind": kind_of(entry.lifetime, entry.idle).value}
        left = {"age": reuse.age(entry, now), "ttl": reuse.ttl(entry, now)}
        return {_camel(name): value for name, value in shown.items()} | kind | left


_SHOWN: Final = tuple(field.name for field in fields(Description) if field.name not in {"fingerprints", "scope"})


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _cleared(count: int | Uncounted) -> Reply:
    return json({"cleared": None if count is UNCOUNTED else count})


def _described(key: str, entry: StoredResponse) -> Description:
    return described(key, entry, len(entry.body))


def _key_of(request: Request) -> str:
    """Return the last segment of the path."""
    return request.target.partition("?")[0].rpartition("/")[2]


def _document(body: bytes) -> Any:
    """Return the value of a JSON body, {} for an empty one; raise ValueError with one line for the client."""
    if not body.strip():
        return {}
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("the body is not JSON") from None


def _request_to_explain(document: Any, host: bytes | None) -> tuple[Request, bytes]:
    """Return the request that is to be explained, and its body; raise ValueError with one line for the client.

    A body that is a string is used as it is; other JSON is serialised. `bodyBase64` holds one that is no text. `host`
    is the Host if none is given.
    """
    wrong = 'the body must be {"path": string, "headers": {name: string}, "body": string or JSON}; headers are optional'
    if not isinstance(document, dict) or not set(document) <= {"method", "path", "headers", "body", "bodyBase64"}:
        raise ValueError(wrong)
    method, path = document.get("method", "POST"), document.get("path")
    headers, body = document.get("headers", {}), document.get("body", "")
    encoded = document.get("bodyBase64")
    texts = isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values())
    if not isinstance(method, str) or not isinstance(path, str) or not texts:
        raise ValueError(wrong)
    lines: Fields = tuple((name.encode(), value.encode()) for name, value in headers.items())
    read = split(path)
    if read is None:
        raise ValueError("the path must begin with a slash, or be a URL")
    target, authority = read
    if authority is not None:
        lines = with_host(lines, authority)
    elif host is not None and first(lines, b"host") is None:
        lines = ((b"Host", host), *lines)
    asked = _asked(body) if encoded is None else _decoded(encoded)
    return Request(method=method, target=target, fields=lines), asked


def _asked(body: Any) -> bytes:
    try:
        return body.encode() if isinstance(body, str) else orjson.dumps(body)
    except TypeError:
        raise ValueError("the body is nested too deep to be serialised: send it as a string") from None


def _decoded(text: Any) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise ValueError("bodyBase64 must be a string in base64") from None
