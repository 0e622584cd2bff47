"""The routes about what the cache keeps: statistics, entries, purges, explanations. No answer holds a prompt."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs

import orjson

from proxy.policy import purge
from proxy.policy.messages import Description, Request, described
from proxy.policy.purge import Filter, Purges
from proxy.policy.replies import Reply, error, json
from proxy.ports import Clock, Route, Store

_MAX_CLEAR: Final = 65_536
_PAGE: Final = 100
_MAX_PAGE: Final = 1000
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_UNAVAILABLE: Final = "the store does not answer"

Told: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
"""Gives the statistics."""

Explain: TypeAlias = Callable[[Request, bytes], Awaitable[dict[str, Any]]]
"""Explains one request to a proxied route."""


class CacheRoutes:
    """Answers for `routes`; `store_name` says which store it is."""

    def __init__(  # noqa: PLR0913 - the composition root names each neighbour once
        self,
        *,
        store: Store,
        store_name: str,
        purges: Purges,
        told: Told,
        explain: Explain,
        clock: Clock,
    ) -> None:
        self._store = store
        self._store_name = store_name
        self._purges = purges
        self._told = told
        self._explained = explain
        self._clock = clock
        self.routes: Mapping[str, Mapping[str, Route]] = {
            "/api/cache/stats": {"GET": self._stats},
            "/api/cache/clear": {"POST": self._clear},
            "/api/cache/entries": {"GET": self._entries},
            "/api/cache/entries/": {"GET": self._entry, "DELETE": self._delete},
            "/api/cache/explain": {"POST": self._explain},
        }

    async def _stats(self, _request: Request, _body: bytes) -> Reply:
        counted, told = await self._store.count(), await self._told()
        leading = {name: told.pop(name) for name in ("hits", "misses", "hitRate")}
        stats: dict[str, Any] = leading | {"keys": counted.keys if counted is not None else 0}
        if counted is not None and counted.age > 0:
            stats["keysAge"] = round(counted.age, 1)
        store = {"name": self._store_name, "state": "ok" if counted is not None else "degraded"}
        return json(stats | told | {"store": store})

    async def _clear(self, _request: Request, body: bytes) -> Reply:
        if len(body) > _MAX_CLEAR:
            return error(413, "the body is too large")
        try:
            filters = _document(body)
            wanted = purge.read(filters)
        except ValueError as problem:
            return error(400, str(problem))
        cleared = await (self._purge(wanted) if filters else self._store.clear())
        return error(503, f"{_UNAVAILABLE}; nothing was cleared for certain") if cleared is None else _cleared(cleared)

    async def _purge(self, wanted: Filter) -> int | None:
        """Delete what is meant; what is still on its way to the store will not arrive."""
        self._purges.add(wanted)
        if wanted.key is None:
            return await self._store.purge(wanted.means)
        lookup = await self._store.get(wanted.key) if _KEY.fullmatch(wanted.key) else None
        if lookup is None or (lookup.entry is None and lookup.generation is not None):
            return 0
        if lookup.entry is None or lookup.generation is None:
            return None
        if not wanted.means(described(wanted.key, lookup.entry, len(lookup.entry.body))):
            return 0
        await self._store.delete((wanted.key,), lookup.generation)
        return 1

    async def _entries(self, request: Request, _body: bytes) -> Reply:
        """Give about `limit` entries after `cursor`, those that the filters mean."""
        given = parse_qs(request.target.partition("?")[2], keep_blank_values=True)
        query = {name: found[-1] for name, found in given.items()}
        try:
            cursor, limit = query.pop("cursor", ""), int(query.pop("limit", _PAGE))
            wanted = purge.read(query)
            page = await self._store.page(cursor, max(1, min(limit, _MAX_PAGE)))
        except ValueError as problem:
            return error(400, str(problem))
        if page is None:
            return error(503, _UNAVAILABLE)
        shown = [self._shown(entry) for entry in page.entries if wanted.means(entry)]
        return json({"entries": shown, "cursor": page.cursor})

    async def _entry(self, request: Request, _body: bytes) -> Reply:
        entry = await self._store.describe(key) if (key := _key_of(request)) else None
        return json(self._shown(entry)) if entry is not None else error(404, "no entry has this key")

    async def _delete(self, request: Request, _body: bytes) -> Reply:
        key = _key_of(request)
        cleared = await self._purge(Filter(key=key)) if key else 0
        if cleared is None:
            return error(503, _UNAVAILABLE)
        return _cleared(cleared) if cleared else error(404, "no entry has this key")

    async def _explain(self, _request: Request, body: bytes) -> Reply:
        try:
            request, asked = _asked(_document(body))
        except ValueError as problem:
            return error(400, str(problem))
        return json(await self._explained(request, asked))

    def _shown(self, entry: Description) -> dict[str, Any]:
        """Show an entry: times are seconds, `storedAt` Unix time, `size` the bytes of its body."""
        told = {name: getattr(entry, name) for name in _SHOWN}
        age = max(0, int(self._clock.now() - entry.stored_at))
        return {_camel(name): value for name, value in told.items()} | {"age": age, "ttl": entry.lifetime - age}


_SHOWN: Final = tuple(field.name for field in fields(Description) if field.name != "marks")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _cleared(count: int) -> Reply:
    return json({"cleared": count})


def _key_of(request: Request) -> str:
    """Give the key that the path names, or nothing where that is none."""
    key = request.target.partition("?")[0].rpartition("/")[2]
    return key if _KEY.fullmatch(key) else ""


def _document(body: bytes) -> Any:
    """Read a JSON body, nothing as {}; raises ValueError with one line for whoever sent it."""
    if not body.strip():
        return {}
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("the body is not JSON") from None


def _asked(document: Any) -> tuple[Request, bytes]:
    """Read what is to be explained; raises ValueError with one line for whoever sent it."""
    wrong = 'the body must be {"path": text, "headers": {name: text}, "body": text or JSON}, headers as you like'
    if not isinstance(document, dict) or not set(document) <= {"method", "path", "headers", "body"}:
        raise ValueError(wrong)
    method, path = document.get("method", "POST"), document.get("path")
    headers, body = document.get("headers", {}), document.get("body", "")
    texts = isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values())
    if not isinstance(method, str) or not isinstance(path, str) or not texts:
        raise ValueError(wrong)
    lines = tuple((name.encode(), value.encode()) for name, value in headers.items())
    asked = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return Request(method=method, target=path, fields=lines), asked
