"""What a route of the proxy's own is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

from ollama_cache_proxy.policy.messages import Fields, Request
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.replies import Reply


@record
class Stream:
    """What a route of the proxy's own answers piece by piece, for as long as somebody takes it.

    `kind` is its Content-Type. Whoever takes nothing of a piece for `write_timeout` seconds is cut off.
    """

    kind: str
    pieces: AsyncGenerator[bytes, None]
    write_timeout: float
    fields: Fields = ()


Route: TypeAlias = Callable[[Request, bytes], Awaitable[Reply | Stream]]
"""One route of the proxy's own: a request and its whole body to what it answers."""
