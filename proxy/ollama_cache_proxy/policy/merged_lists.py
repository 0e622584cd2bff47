"""The lists of several Ollamas as one: `/api/tags`, `/api/ps` and `/v1/models`, one entry for each name and digest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from ollama_cache_proxy.policy import model_rows
from ollama_cache_proxy.policy.endpoints import Endpoint


def is_list(endpoint: Endpoint) -> bool:
    """Return whether the responses of this endpoint are merged."""
    return bool(endpoint.rows)


def merged(endpoint: Endpoint, bodies: Sequence[bytes]) -> bytes:
    """Return the lists of several hosts as one, in the order of the hosts; raise ValueError if one is no such list."""
    member = endpoint.rows
    whole: dict[str, Any] | None = None
    rows: dict[tuple[str, str], Any] = {}
    for body in bodies:
        found = orjson.loads(body)
        if not isinstance(found, dict) or not isinstance(found.get(member), list | None):
            raise ValueError("no list of models")  # noqa: TRY004 - of what has arrived
        whole = whole or found
        for row in found.get(member) or ():
            rows.setdefault(_identity(row), row)
    if whole is None:
        raise ValueError("no list")
    return orjson.dumps(whole | {member: list(rows.values())})


def _identity(row: Any) -> tuple[str, str]:
    """Return the name and digest of a model; OpenAI's form has its name as `id`, and no digest.

    A row without a name is only the same as an equal one.
    """
    if not isinstance(row, dict):
        raise ValueError("no model")  # noqa: TRY004 - of what has arrived
    name = model_rows.named(row) or model_rows.text(row, "id")
    return (name, model_rows.text(row, "digest")) if name else ("", orjson.dumps(row).decode())
