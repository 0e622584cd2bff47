"""Complete responses to requests that the proxy refuses to read; each closes its connection."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11

from ollama_cache_proxy.policy.messages import MAX_LENGTH

BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
)
"""What Go's server sends in response to invalid HTTP."""
TIMEOUT: Final = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
NOT_IMPLEMENTED: Final = b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"


def refusal(request: web.BaseRequest) -> bytes | None:
    """Return the refusal of a request that aiohttp accepts but that cannot be forwarded unchanged; None for others."""
    headers = request.headers
    if request.method == "CONNECT" or headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        return NOT_IMPLEMENTED
    sound = (
        request.version in (HttpVersion10, HttpVersion11)
        and (request.content_length or 0) <= MAX_LENGTH
        and headers.get("Host", "").isascii()
        and not (request.version == HttpVersion10 and "Transfer-Encoding" in headers)  # RFC 9112, section 6.1
    )
    return None if sound else BAD_REQUEST
