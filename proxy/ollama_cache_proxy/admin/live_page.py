"""The live page: static files. Its content security policy allows requests to this proxy only."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from importlib.resources import files
from typing import Final

from ollama_cache_proxy.admin.own_route import Route
from ollama_cache_proxy.policy.messages import Fields, Request
from ollama_cache_proxy.policy.replies import Reply

_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FIELDS: Final[Fields] = (
    (b"Content-Security-Policy", _POLICY),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)
_FILES: Final = {
    "/cache": ("page.html", "text/html; charset=utf-8"),
    "/cache/page.css": ("page.css", "text/css; charset=utf-8"),
    "/cache/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/cache/chart.js": ("chart.js", "text/javascript; charset=utf-8"),
    "/cache/forecast.js": ("forecast.js", "text/javascript; charset=utf-8"),
    "/cache/nodes.js": ("nodes.js", "text/javascript; charset=utf-8"),
    "/cache/words.js": ("words.js", "text/javascript; charset=utf-8"),
    "/cache/icon.svg": ("icon.svg", "image/svg+xml"),
}


async def _serve(name: str, kind: str, _request: Request, _body: bytes) -> Reply:
    return Reply(body=_read(name), kind=kind, fields=_FIELDS)


@cache
def _read(name: str) -> bytes:
    return files("ollama_cache_proxy").joinpath("web", name).read_bytes()


ROUTES: Final[Mapping[str, Mapping[str, Route]]] = {
    path: {"GET": partial(_serve, name, kind)} for path, (name, kind) in _FILES.items()
}
