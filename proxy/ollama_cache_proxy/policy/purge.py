"""Which entries a purge means, and what it does to answers that are still on their way into the store."""

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
_MAX_TEXT: Final = 512
_SHARED: Final = {row.operation: row.items for row in ENDPOINTS if row.items}
"""Operations that share their items: an item belongs to each."""


@record
class Filter:
    """What an entry must be to be meant; None means anything. `model` is canonical."""

    model: str | None = None
    operation: str | None = None
    category: str | None = None
    namespace: str | None = None
    key: str | None = None

    def matches(self, entry: Description) -> bool:
        """Return whether an entry is meant."""
        return self.matches_any((entry.key,), entry.model, entry.operation, entry.category, entry.namespace)

    def matches_any(self, keys: Iterable[str], model: str, operation: str, category: str, namespace: str) -> bool:
        """Return whether one of these keys is meant; `model` is canonical."""
        return (
            self.model in (None, model)
            and (self.operation is None or _shared(self.operation) == _shared(operation))
            and self.category in (None, category)
            and self.namespace in (None, namespace)
            and (self.key is None or self.key in keys)
        )


NAMES: Final = tuple(field.name for field in fields(Filter))


def read(document: Any) -> Filter:
    """Return the filter that a JSON object says; raises ValueError with one line for whoever sent it."""
    if not isinstance(document, dict) or not set(document) <= set(NAMES):
        raise ValueError(f"filters are any of {', '.join(NAMES)}, as a JSON object or in the query")
    if not all(isinstance(value, str) for value in document.values()):
        raise ValueError("every filter must be a text")
    read = dict(document)
    if "namespace" in read:  # entries know a long one by its hash
        read["namespace"] = namespace(read["namespace"].encode("latin-1", "replace"))
    if "model" in read:
        read["model"] = model_names.canonical(read["model"])
        if read["model"] is None:
            raise ValueError("model is no name of a model")
    if any(len(value) > _MAX_TEXT for value in read.values()):
        raise ValueError(f"no filter is longer than {_MAX_TEXT} characters")
    return Filter(**read)


def _shared(operation: str) -> str:
    return _SHARED.get(operation, operation)


class Purges:
    """The purges of this process, for answers that were asked for before one and arrive after it."""

    def __init__(self) -> None:
        self._last: deque[Filter] = deque(maxlen=_REMEMBERED)
        self.count = 0

    def add(self, purge: Filter) -> None:
        """Remember a purge that begins now."""
        self._last.append(purge)
        self.count += 1

    def since(self, count: int) -> tuple[Filter, ...]:
        """Return the purges after the first `count`; where one of them is forgotten, one that means everything."""
        missed = self.count - count
        if missed > len(self._last):
            return (Filter(),)
        return tuple(self._last)[len(self._last) - missed :]
