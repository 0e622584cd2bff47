"""Requests that a setting names: those of an operation, or those of clients by the beginning of their User-Agent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ollama_cache_proxy.policy.endpoints import REUSABLE, Endpoint
from ollama_cache_proxy.policy.messages import Fields, first, values
from ollama_cache_proxy.policy.record import record

_AGENT: Final = "agent:"
_STREAMED: Final = tuple(row.operation for row in REUSABLE if row.stream_default is not None)


@record
class Callers:
    """A set of requests; `callers` makes it."""

    operations: frozenset[str] = frozenset()
    agents: tuple[bytes, ...] = ()
    """How a User-Agent begins."""

    def include(self, endpoint: Endpoint, fields: Fields) -> bool:
        """Return whether a request to this endpoint, with these fields, is one of them."""
        if endpoint.operation in self.operations:
            return True
        return sent_by(self.agents, fields)


def sent_by(agents: tuple[bytes, ...], fields: Fields) -> bool:
    """Return whether a User-Agent of a request begins as one of these; not where there are none."""
    return bool(agents) and any(value.startswith(agents) for value in values(fields, b"user-agent"))


_PRODUCT: Final = re.compile(rb"[A-Za-z0-9._-]{1,40}")


def agent_of(fields: Fields) -> str:
    """Return the class of a client: its first product in User-Agent, without a version; empty where there is none."""
    found = _PRODUCT.match(first(fields, b"user-agent") or b"")
    return "" if found is None else found[0].decode()


def callers(texts: Iterable[str]) -> Callers:
    """Return the requests that a setting names; raise ValueError for a text that names none.

    A text is an operation whose responses may be streams, or `agent:` and the beginning of a User-Agent.
    """
    operations: set[str] = set()
    agents: list[bytes] = []
    for text in texts:
        agent = text.removeprefix(_AGENT)
        if text in _STREAMED:
            operations.add(text)
        elif agent != text and agent.strip():
            agents.append(agent.encode("utf-8", "surrogateescape"))
        else:
            message = f"must name operations ({', '.join(_STREAMED)}) or clients, as in agent:python-httpx/"
            raise ValueError(message)
    return Callers(operations=frozenset(operations), agents=tuple(agents))
