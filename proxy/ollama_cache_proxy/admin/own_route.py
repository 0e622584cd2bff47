"""The types of the proxy's own routes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

from ollama_cache_proxy.policy.messages import Fields, Request
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.replies import Reply


@record
class Stream:
    """A streamed response of one of the proxy's own routes."""

    kind: str
    """Its Content-Type."""
    pieces: AsyncGenerator[bytes, None]
    write_timeout: float
    """Seconds that the client may take to read one piece; then the connection is reset."""
    fields: Fields = ()


Route: TypeAlias = Callable[[Request, bytes], Awaitable[Reply | Stream]]
"""The handler of one route: takes a request and its complete body, returns the response."""
