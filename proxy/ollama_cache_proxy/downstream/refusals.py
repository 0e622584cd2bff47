"""Complete responses to requests that the proxy refuses to read; each closes its connection."""

from __future__ import annotations

import re
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
EXPECTATION_FAILED: Final = b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"


def expects_continue(value: str) -> bool:
    """Return whether an Expect asks for a 100 (Continue), among other tokens or alone, as Go's server reads it."""
    return _CONTINUE.search(value) is not None


_CONTINUE: Final = re.compile(r"(?:^|[ ,\t])100-continue(?:$|[ ,\t])", re.IGNORECASE | re.ASCII)


_HOST: Final = re.compile(r"[0-9A-Za-z!$%&()*+,\-.:;=\[\]'_~]*")
"""What Go's server takes for a Host (`ValidHostHeader` in `golang.org/x/net/http/httpguts`)."""


def refusal(request: web.BaseRequest) -> bytes | None:
    """Return the refusal of a request that aiohttp accepts but that cannot be forwarded unchanged; None for others."""
    headers = request.headers
    if headers.get("Expect") and not expects_continue(headers["Expect"]):
        return EXPECTATION_FAILED
    if request.method == "CONNECT" or headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        return NOT_IMPLEMENTED
    sound = (
        request.version in (HttpVersion10, HttpVersion11)
        and (request.content_length or 0) <= MAX_LENGTH
        and _HOST.fullmatch(headers.get("Host", "")) is not None
        and not (request.version == HttpVersion10 and "Transfer-Encoding" in headers)  # RFC 9112, section 6.1
    )
    return None if sound else BAD_REQUEST
