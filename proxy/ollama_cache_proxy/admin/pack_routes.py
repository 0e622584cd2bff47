"""The routes of packs: entries leave page by page, as records, and come in by requests of some megabytes each.

So nothing of a pack is in memory but one page or one request, and both ways can go on after a break. Signatures, files
and compression are the commands' (cli/jobs/): the proxy trusts whoever has the admin token, and checks each entry.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final, Protocol
from urllib.parse import parse_qs

from ollama_cache_proxy.admin.own_route import Route, Stream
from ollama_cache_proxy.core.packing import Found, Own, Taken
from ollama_cache_proxy.policy import purge
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.purge import Filter
from ollama_cache_proxy.policy.replies import Reply, error, json

EXPORT: Final = "/api/cache/export"
IMPORT: Final = "/api/cache/import"

_KIND: Final = "application/octet-stream"
_WRITE_TIMEOUT: Final = 60.0
"""Seconds that a client may take to read one entry."""
_LENGTH: Final = re.compile(r"[1-9][0-9]{0,9}")
_UNAVAILABLE: Final = "the store does not answer, or takes no writes"


class Packs(Protocol):
    """See core/packing.py."""

    async def own(self, model: str) -> Own | None: ...
    async def page(self, cursor: str) -> Found | None: ...
    def exported(self, own: Own, wanted: Filter, found: Found) -> AsyncGenerator[bytes, None]: ...
    async def take_in(self, own: Own, data: bytes, context: int | None) -> Taken | None: ...


class PackRoutes:
    """The handlers of `routes`; `packs` gives those of the current settings."""

    def __init__(self, packs: Callable[[], Packs]) -> None:
        self._packs = packs
        self.routes: Mapping[str, Mapping[str, Route]] = {
            EXPORT: {"GET": self._export},
            IMPORT: {"POST": self._import},
        }

    async def _export(self, request: Request, _body: bytes) -> Reply | Stream:
        """Send the entries of a page that match the filters, of which `model` must be one.

        A cursor of another store, or from before a clear, begins anew; the first note says so.
        """
        packs, query = self._packs(), _query(request)
        cursor = query.pop("cursor", "")
        try:
            wanted = purge.read(query)
            own = await _own(packs, wanted.model)
            found = await packs.page(cursor)
        except ValueError as problem:
            return error(400, str(problem))
        if isinstance(own, Reply):
            return own
        if found is None:
            return error(503, _UNAVAILABLE)
        return Stream(kind=_KIND, pieces=packs.exported(own, wanted, found), write_timeout=_WRITE_TIMEOUT)

    async def _import(self, request: Request, body: bytes) -> Reply:
        """Store those of some entries that fit; `context` is the context length that they were made with."""
        packs, query = self._packs(), _query(request)
        try:
            context = _length(query.pop("context", ""))
            own = await _own(packs, purge.read(query).model)
            if isinstance(own, Reply):
                return own
            taken = await packs.take_in(own, body, context)
        except ValueError as problem:
            return error(400, str(problem))
        if taken is None:
            return error(503, _UNAVAILABLE)
        counts = {"imported": taken.imported, "known": taken.known, "refused": taken.refused}
        return json(own.about() | counts | {"askedByFew": taken.asked_by_few})


def _query(request: Request) -> dict[str, str]:
    given = parse_qs(request.target.partition("?")[2], keep_blank_values=True)
    return {name: found[-1] for name, found in given.items()}


def _length(text: str) -> int | None:
    """Return a length in tokens, None for an empty text. Raise ValueError for any other."""
    if not text:
        return None
    if _LENGTH.fullmatch(text) is None:
        raise ValueError("context must be a length in tokens")
    return int(text)


async def _own(packs: Packs, model: str | None) -> Own | Reply:
    """Return what a model is here, or the error for one that Ollama does not have."""
    if model is None:
        raise ValueError("a model must be named: a pack is of one model")
    own = await packs.own(model)
    return own or error(409, "the model's digest is not known here: Ollama does not list it, or does not answer")
