"""What can go wrong on the way, by whose fault, and what a client is told."""

from __future__ import annotations

from enum import StrEnum


class Source(StrEnum):
    """Who failed; the label of the error metrics."""

    UPSTREAM = "upstream"
    UPSTREAM_DEADLINE = "upstream-deadline"
    CLIENT = "client"


class ProxyError(Exception):
    """There is no answer of Ollama's: 502, 504 or 408 with `message` as JSON, where a head can still be sent.

    The message never holds anything of a request.
    """

    def __init__(self, source: Source, status: int, message: str) -> None:
        super().__init__(message)
        self.source = source
        self.status = status
        self.message = message


class ClientLeft(Exception):  # noqa: N818 - it is an event in a connection's life, not an error of anyone
    """The client closed, stalled or broke its request; there is no one to answer."""


def stalled(seconds: float) -> ProxyError:
    """Give the error for a client that sent no more of its request for `seconds`: 408 (RFC 9110, section 15.5.9)."""
    return ProxyError(Source.CLIENT, 408, f"no more of the request came within {seconds:g} s (body_timeout)")


def unreachable(message: str) -> ProxyError:
    """Give the error for an upstream that refuses, breaks off or talks nonsense: 502 (RFC 9110, section 15.6.3)."""
    return ProxyError(Source.UPSTREAM, 502, message)


def too_late(seconds: float) -> ProxyError:
    """Give the error for an upstream that was silent for `seconds`: 504 (RFC 9110, section 15.6.5)."""
    return ProxyError(Source.UPSTREAM_DEADLINE, 504, f"Ollama did not answer within {seconds:g} s (upstream_timeout)")
