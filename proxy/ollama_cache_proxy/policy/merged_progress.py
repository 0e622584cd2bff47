"""The progress of one change on several Ollamas, as the lines that a client of one Ollama understands.

Lines are handed on as they come, but `success`, which is said once, when all have succeeded. How much of a layer is
there is that of the host that has least of it: a client draws one bar for each digest. What failed is said at the end,
in the form in which Ollama says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

_SUCCESS: Final = "success"


class MergedProgress:
    """The hosts by name, and what they have said so far."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._completed: dict[str, dict[str, int]] = {}
        """By digest and host, bytes."""
        self._going = set(hosts)
        self._said: set[bytes] = set()
        self._succeeded: set[str] = set()
        self._hosts = list(hosts)
        self._errors: list[str] = []
        self._last = orjson.dumps({"status": _SUCCESS})

    def add(self, host: str, line: bytes) -> bytes | None:
        """Take in a line of a host; return the line to hand on, without its end, or None."""
        told = _read(line)
        if "error" in told:
            self.fail(host, str(told["error"]))
            return None
        if told.get("status") == _SUCCESS:
            self._succeeded.add(host)
            self._last = line
            return None
        if isinstance(told.get("digest"), str) and isinstance(told.get("total"), int):
            return orjson.dumps(self._layer(host, told))
        if line in self._said:
            return None
        self._said.add(line)
        return line

    def _layer(self, host: str, told: dict[str, Any]) -> dict[str, Any]:
        completed = told.get("completed")
        by_host = self._completed.setdefault(told["digest"], {})
        by_host[host] = completed if isinstance(completed, int) else 0
        least = min(done for one, done in by_host.items() if one in self._going)
        return {**{name: value for name, value in told.items() if name != "completed"}, "completed": least}

    def fail(self, host: str, reason: str) -> None:
        """Note that a host has failed."""
        self._errors.append(f"{host}: {reason}")

    def ended(self, host: str) -> None:
        """Note that a host says no more."""
        self._going.discard(host)
        if host not in self._succeeded and not any(error.startswith(f"{host}: ") for error in self._errors):
            self.fail(host, "the response ended before it was done")

    def last(self) -> bytes:
        """Return the last line: that all have succeeded, or what has failed, and where."""
        if self._errors:
            return orjson.dumps({"error": "; ".join(self._errors)})
        return self._last


def _read(line: bytes) -> dict[str, Any]:
    """Return what a line says; a line that is no object of JSON is taken for an error."""
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        told = None
    return told if isinstance(told, dict) else {"error": "a line that is no progress"}
