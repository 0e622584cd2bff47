"""Which entries a purge matches, and what it does to responses that are not stored yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Final

from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.endpoints import ENDPOINTS
from ollama_cache_proxy.policy.messages import Description
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.reuse import namespace

_REMEMBERED: Final = 1000
"""Purges."""
_MAX_TEXT: Final = 512
"""Characters of one filter."""
_SHARED: Final = {row.operation: row.items for row in ENDPOINTS if row.items}
"""The items' name of each operation that has items: one item belongs to all operations of that name."""


@record
class Filter:
    """The properties of the entries that a purge deletes; None matches anything. `model` is canonical."""

    model: str | None = None
    operation: str | None = None
    category: str | None = None
    namespace: str | None = None
    key: str | None = None

    def matches(self, entry: Description) -> bool:
        """Return whether an entry matches."""
        return self.matches_any((entry.key,), entry.model, entry.operation, entry.category, entry.namespace)

    def matches_any(self, keys: Iterable[str], model: str, operation: str, category: str, namespace: str) -> bool:
        """Return whether an entry of one of these keys matches; `model` is canonical."""
        return (
            self.model in (None, model)
            and (self.operation is None or _shared(self.operation) == _shared(operation))
            and self.category in (None, category)
            and self.namespace in (None, namespace)
            and (self.key is None or self.key in keys)
        )


NAMES: Final = tuple(field.name for field in fields(Filter))


def read(document: Any) -> Filter:
    """Return the filter in a JSON object. Raises ValueError with one line for the client."""
    if not isinstance(document, dict) or not set(document) <= set(NAMES):
        raise ValueError(f"filters are any of {', '.join(NAMES)}, as a JSON object or in the query")
    if not all(isinstance(value, str) for value in document.values()):
        raise ValueError("every filter must be a string")
    read = dict(document)
    if "namespace" in read:  # entries have the hash of a long one
        read["namespace"] = namespace(read["namespace"].encode("latin-1", "replace"))
    if "model" in read:
        read["model"] = model_names.canonical(read["model"])
        if read["model"] is None:
            raise ValueError("model is not a valid model name")
    if any(len(value) > _MAX_TEXT for value in read.values()):
        raise ValueError(f"no filter is longer than {_MAX_TEXT} characters")
    return Filter(**read)


def _shared(operation: str) -> str:
    return _SHARED.get(operation, operation)


class Purges:
    """The purges of this process, for responses that were asked for before one and arrive after it."""

    def __init__(self) -> None:
        self._last: deque[Filter] = deque(maxlen=_REMEMBERED)
        self.count = 0

    def add(self, purge: Filter) -> None:
        """Note a purge that begins now."""
        self._last.append(purge)
        self.count += 1

    def since(self, count: int) -> tuple[Filter, ...]:
        """Return the purges after the first `count`; a filter for everything where some are no longer remembered."""
        missed = self.count - count
        if missed > len(self._last):
            return (Filter(),)
        return tuple(self._last)[len(self._last) - missed :]
