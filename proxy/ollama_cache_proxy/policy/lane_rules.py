"""Which lane a request belongs to: interactive where a person may wait for its response, else batch.

Lists of texts are batches, and what a setting names: operations, categories, clients. Everything else is interactive.
A request may lower itself by its `Priority`; only where that is trusted it may raise itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import orjson

from ollama_cache_proxy.policy.callers import sent_by
from ollama_cache_proxy.policy.endpoints import REUSABLE, Endpoint, Kind
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.tickets import Lane
from ollama_cache_proxy.policy.urgency import USUAL, urgency

_AGENT: Final = "agent:"
_CATEGORY: Final = "category:"
_OPERATIONS: Final = tuple(row.operation for row in REUSABLE)
_READ: Final = 1 << 18
"""Bytes of a body up to which its texts are counted; a larger one is no query."""


@record
class Batches:
    """The requests that a setting puts among the batches; `batches` makes it."""

    operations: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    agents: tuple[bytes, ...] = ()
    """How a User-Agent begins."""

    def include(self, endpoint: Endpoint, fields: Fields, category: str) -> bool:
        """Return whether a request to this endpoint, with these fields and of this category, is one of them."""
        if endpoint.operation in self.operations or category in self.categories:
            return True
        return sent_by(self.agents, fields)


def batches(texts: Iterable[str]) -> Batches:
    """Return the requests that a setting names; raise ValueError for a text that names none.

    A text is an operation, `category:` and a category, or `agent:` and the beginning of a User-Agent.
    """
    operations: set[str] = set()
    categories: set[str] = set()
    agents: list[bytes] = []
    for text in texts:
        if text in _OPERATIONS:
            operations.add(text)
        elif text.startswith(_CATEGORY) and text != _CATEGORY:
            categories.add(text.removeprefix(_CATEGORY))
        elif text.startswith(_AGENT) and text != _AGENT:
            agents.append(text.removeprefix(_AGENT).encode("utf-8", "surrogateescape"))
        else:
            names = ", ".join(_OPERATIONS)
            message = f"must name operations ({names}), categories (category:docs) or clients (agent:python-httpx/)"
            raise ValueError(message)
    return Batches(operations=frozenset(operations), categories=frozenset(categories), agents=tuple(agents))


@record
class LaneRules:
    """The rules of lanes. Times are seconds. Defaults are those of service/settings.py."""

    batches: Batches
    trusts_priority: bool = False
    """Whether a `Priority` may raise a request."""
    interactive_slots: int = 8
    """Interactive requests that Ollama has at a time."""
    batch_slots: int = 2
    """Batches that Ollama has at a time while nobody else is about."""
    batch_share: float = 0.1
    """The share of the time that batches get while interactive requests leave them none."""
    max_waiting: int = 256
    """Requests that may wait in one lane."""
    max_wait: float = 600.0
    """How long one may wait."""
    part_seconds: float = 0.02
    """How long a part of a list may take while people are about."""


def uses_lanes(endpoint: Endpoint) -> bool:
    """Return whether requests to an endpoint take Ollama's time; others never wait."""
    return endpoint.kind is not Kind.NONE


def lane_of(rules: LaneRules, endpoint: Endpoint, fields: Fields, *, category: str, texts: int) -> Lane:
    """Return the lane of a request with these fields, and so many texts."""
    lane = Lane.INTERACTIVE
    if texts > 1 or rules.batches.include(endpoint, fields, category):
        lane = Lane.BATCH
    asked = urgency(fields)
    if asked > USUAL:
        return Lane.BATCH
    return Lane.INTERACTIVE if asked < USUAL and rules.trusts_priority else lane


def texts_in(endpoint: Endpoint, body: bytes | None) -> int:
    """Return how many texts a request has that was not read any further; a list that cannot be counted has two."""
    if not endpoint.items:
        return 1
    if body is None or len(body) > _READ:
        return 2
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return 1
    texts = read.get(endpoint.prompt) if isinstance(read, dict) else None
    return len(texts) if isinstance(texts, list) and texts else 1


_REMOTE: Final = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*"[^"\\]{0,600}[:-]cloud"', re.IGNORECASE)


def names_remote(body: bytes | None) -> bool:
    """Return whether a request that was not read any further names a model that runs on another machine."""
    return body is not None and _REMOTE.search(body) is not None


def client_of(key: bytes, credentials: bytes, address: str) -> bytes:
    """Return what stands for a client: a hash, by this key, of its credentials, without any of its address."""
    told = b"c" + credentials if credentials else b"a" + address.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(told, digest_size=8, key=key).digest()
