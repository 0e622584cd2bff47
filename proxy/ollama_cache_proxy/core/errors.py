"""What can go wrong in an exchange, whose fault it is, and what the client is told."""

from __future__ import annotations

from enum import StrEnum

from ollama_cache_proxy.policy.status import Detail


class Source(StrEnum):
    """Who failed; the label of the error metrics."""

    UPSTREAM = "upstream"
    UPSTREAM_DEADLINE = "upstream-deadline"
    CLIENT = "client"


class ProxyError(Exception):
    """There is no response of Ollama's. The client gets 502, 504 or 408 with `message` as JSON, or a reset.

    The message never contains anything of a request. `asks` is how often the request was sent; `unanswered` tells that
    the connection was refused, or lost before any byte of a response. With a `detail` the proxy itself has refused it.
    """

    def __init__(  # noqa: PLR0913 - what those who wait, and those who ask again, want to know
        self,
        source: Source,
        status: int,
        message: str,
        *,
        asks: int = 1,
        unanswered: bool = False,
        detail: Detail | None = None,
    ) -> None:
        super().__init__(message)
        self.asks = asks
        self.detail = detail
        self.unanswered = unanswered
        self.source = source
        self.status = status
        self.message = message


class ClientLeft(Exception):  # noqa: N818 - an event in the life of a connection, not an error
    """The client closed its connection, stalled, or broke off its request: nobody is left to respond to."""


def stalled(seconds: float) -> ProxyError:
    """Return the error for a client that sent no more of its request for `seconds`: 408 (RFC 9110, section 15.5.9)."""
    return ProxyError(Source.CLIENT, 408, f"no more of the request came within {seconds:g} s (body_timeout)")


def unreachable(message: str, *, asks: int = 1, unanswered: bool = False) -> ProxyError:
    """Return the error for an upstream that refuses, breaks off or sends no HTTP: 502 (RFC 9110, section 15.6.3)."""
    return ProxyError(Source.UPSTREAM, 502, message, asks=asks, unanswered=unanswered)


def too_late(seconds: float) -> ProxyError:
    """Return the error for an upstream that was silent for `seconds`: 504 (RFC 9110, section 15.6.5)."""
    return ProxyError(Source.UPSTREAM_DEADLINE, 504, f"Ollama did not answer within {seconds:g} s (upstream_timeout)")
