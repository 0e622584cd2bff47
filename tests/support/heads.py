"""Heads of requests, drawn by seed: as clients write them, and as nobody should."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from random import Random
from typing import Final

from ollama_cache_proxy import core, downstream, policy
from ollama_cache_proxy.policy.credentials import CREDENTIAL_FIELDS
from ollama_cache_proxy.policy.selecting_fields import SELECTING

END: Final = b"\r\n\r\n"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_COMMON: Final = (
    *(b"accept", b"accept-language", b"baggage", b"b3", b"cf-ray", b"dnt", b"forwarded", b"from", b"idempotency-key"),
    *(
        b"priority",
        b"referer",
        b"sec-fetch-mode",
        b"tracestate",
        b"traceparent",
        b"x-amzn-trace-id",
        b"x-forwarded-for",
    ),
    *(b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"x-request-id", b"x-stainless-retry-count", b"prefer"),
)
_VALUES: Final = (
    *(b"", b"1", b"0", b"5", b"localhost", b"example.org", b"close", b"keep-alive", b"chunked", b"identity", b"gzip"),
    *(b"no-cache", b"no-store", b"max-age=0", b"only-if-cached", b"100-continue", b"websocket", b"h2c", b"trailers"),
    *(b"bytes=0-1", b"*", b'"a"', b"http://localhost", b"https://example.org", b"application/json", b"text/plain"),
    *(b"Bearer a", b"Bearer ollama", b"Basic YTpi", b"team", b"upgrade", b"x-request-id", b"1.1 ollama-cache-proxy"),
    *(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"curl/8.0", b"a, b", b"  a  ", b"\ta", b"ttl"),
)
_ODD_VALUES: Final = (b"a\x00b", b"a\x7f", b"\xe9\xff", b"a\x0bb", b"a\nb", b"a\rb", b"x" * 9000, b"y" * 33_000)
_ODD_NAMES: Final = (b"", b" ", b"x y", b"x-a ", b" x-a", b"x\xe9", b"x:y", b"(x)", b"x\x00", b"x" * 200, b"x-a\t")
_TARGETS: Final = (
    *(
        b"/api/generate",
        b"/api/generate?",
        b"/api/generate?a=1",
        b"//api/generate",
        b"/api/generate/",
        b"/API/generate",
    ),
    *(b"/api/%67enerate", b"http://localhost/api/generate", b"https://other/api/generate", b"/v1/completions", b"*"),
)
_VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b"RTSP/1.0", b"")


@cache
def read_names() -> tuple[bytes, ...]:
    """Return all texts in policy/, core/ and downstream/ that could be the name of a field."""
    found: set[bytes] = set()
    for package in (policy, core, downstream):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for node in ast.walk(ast.parse(inspect.getsource(import_module(info.name)))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                    text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
                    if _NAME.fullmatch(text.lower()):
                        found.add(text.lower().encode())
    return tuple(sorted(found))


def beside(base: bytes, line: bytes) -> bytes:
    """Return a request with one line more in its head, the last one."""
    head, _, body = base.partition(END)
    return head + b"\r\n" + line + END + body


def drawn(base: bytes, source: Random) -> bytes:
    """Return a request with some changes in its head; its body stays."""
    head, _, body = base.partition(END)
    request_line, *lines = head.split(b"\r\n")
    for _ in range(source.choice((1, 1, 2, 3))):
        kind, at = source.choice(_KINDS), source.randrange(len(lines) + 1)
        if kind == "request line":
            request_line = _request_line(source)
        elif kind == "shuffle":
            lines = source.sample(lines, len(lines))
        elif kind == "without":
            lines = lines[:at] + lines[at + 1 :]
        elif kind == "case":
            lines = [_cased(line, source) if number == at else line for number, line in enumerate(lines)]
        else:
            lines = [*lines[:at], *_more(kind, lines, source), *lines[at:]]
    return b"\r\n".join((request_line, *lines)) + END + body


def _request_line(source: Random) -> bytes:
    method = source.choice((b"POST", b"POST", b"post", b"GET", b"PUT", b"CONNECT", b""))
    parts = (method, source.choice(_TARGETS), source.choice(_VERSIONS))
    return source.choice((b" ", b" ", b" ", b"  ", b"\t")).join(parts)


def _more(kind: str, lines: list[bytes], source: Random) -> list[bytes]:
    """Return lines of a kind."""
    if kind == "many":
        count = source.choice((20, 99, 101, 130, 1100))
        return [b"x-%d: %d" % (number, number) for number in range(count)]
    if kind in _LINES:
        return [source.choice(_LINES[kind])]
    return [source.choice(lines or [b"a: b"]) if kind == "again" else _field(source, odd=kind == "odd field")]


_LINES: Final = {
    "fold": (b" a", b"\tb: c", b" ", b""),
    "no colon": (b"x-a", b"host", b"\x00", b"a b", b";"),
    "line end": (b"x-a: b\nx-c: d", b"x-a: b\rx-c: d"),
    "length": tuple(
        b"Content-Length: " + value
        for value in (b"0", b"1", b"+5", b"0x5", b"5 5", b"-1", b"5, 5", b" ", b"999999999999999999999")
    ),
}
_KINDS: Final = (
    *("request line", "shuffle", "without", "again", "case", "fold", "many", "no colon", "line end", "length"),
    *("odd field",) * 2,
    *("field",) * 10,
)


def _field(source: Random, *, odd: bool) -> bytes:
    known: Iterable[bytes] = (*SELECTING, *CREDENTIAL_FIELDS, *read_names())
    name = source.choice((*_COMMON, *known))
    value = source.choice(_VALUES)
    if odd and source.random() < 0.5:
        name = source.choice(_ODD_NAMES)
    elif odd:
        value = source.choice(_ODD_VALUES)
    name = source.choice((name, name.title(), name.upper(), name.replace(b"-", b"_")))
    return name + source.choice((b": ", b":", b":  ", b":\t", b" : ")) + value


def _cased(line: bytes, source: Random) -> bytes:
    name, colon, value = line.partition(b":")
    return source.choice((name.upper(), name.lower(), name.swapcase(), name.replace(b"-", b"_"))) + colon + value
