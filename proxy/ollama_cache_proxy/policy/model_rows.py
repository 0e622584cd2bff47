"""The rows of `/api/tags` and `/api/ps`, and other objects that Ollama tells of itself, read member by member.

Servers that only speak Ollama's API leave members out, send null, or another type. What one row does not tell is not
known of that model; it says nothing of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ollama_cache_proxy.policy.dialects.dialect import as_object, count

_NAMES: Final = ("name", "model")
"""Ollama's rows have both, with the same value (`ListModelResponse` in api/types.go)."""


def rows(document: Any) -> list[dict[str, Any]]:
    """Return the rows that name a model, each with it as `name`; empty for what is no such list."""
    return list(each(document["models"])) if isinstance(document, dict) and "models" in document else []


def each(listed: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a list that name a model, each with it as `name`."""
    for row in listed if isinstance(listed, list) else ():
        name = named(row)
        if name:
            yield row if row.get("name") == name else {**row, "name": name}


def named(row: Any) -> str:
    """Return the name of the model that a row is about; empty where it has none."""
    return next(filter(None, (text(row, member) for member in _NAMES)), "") if isinstance(row, dict) else ""


def text(row: Mapping[str, Any], member: str) -> str:
    """Return a text; empty where it is not told."""
    value = row.get(member)
    return value if isinstance(value, str) else ""


def figure(row: Mapping[str, Any], member: str) -> int | None:
    """Return a figure; None where it is not told."""
    return count(row, member)


def part(row: Mapping[str, Any], member: str) -> Mapping[str, Any]:
    """Return an object in another one; empty where it is not told."""
    return as_object(row.get(member))


def version(document: Any) -> str:
    """Return the version that `/api/version` tells; empty where it tells none."""
    return text(document, "version") if isinstance(document, dict) else ""
