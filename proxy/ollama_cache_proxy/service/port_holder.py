"""What holds a port: asked over HTTP within a deadline, and what to do about it in words.

Several neighbours of Ollama like the same ports (docs/decisions/0028-default-port.md). Each is known by an answer that
no other gives.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping
from enum import Enum
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import orjson

from ollama_cache_proxy.policy.record import record

_DEADLINE: Final = 2.0
"""Seconds for all questions together."""

_MAX_BYTES: Final = 1024 * 1024
"""Bytes of an answer."""

_STATS: Final = "/api/cache/stats"
_GATEWAY_HEALTH: Final = "/_ollama/health"
QUESTIONS: Final = (_STATS, _GATEWAY_HEALTH, "/")
"""The paths to ask, the most telling first: this proxy forwards the others to Ollama."""


class Holder(Enum):
    """A program that listens on a port."""

    PROXY = "another ollama-cache-proxy"
    GATEWAY = "the gateway of Ollama's macOS application for Claude Desktop"
    """Since 0.33, on 127.0.0.1:11435: /v1/messages, its token count and /v1/models, nothing else of Ollama's API."""
    OLLAMA = "Ollama"
    AIRPLAY = "AirPlay Receiver of macOS"
    UNKNOWN = "another program"


@record
class Answer:
    """The response to one question; names of fields are in lower case."""

    status: int
    fields: Mapping[str, str]
    body: bytes


def recognised(path: str, answer: Answer) -> Holder | None:
    """Return who gives this answer to a GET of `path`, None if it says nothing.

    The gateway's own probe is `ProbeClaudeDesktop` (Ollama 0.33, internal/proxy/claude_desktop.go).
    """
    if answer.fields.get("server", "").startswith("AirTunes"):
        return Holder.AIRPLAY
    if path == _STATS and answer.status == HTTPStatus.OK and {"hitRate", "store"} <= _names(answer.body):
        return Holder.PROXY
    told = answer.fields.get("x-ollama-claude-gateway")
    if path == _GATEWAY_HEALTH and answer.status == HTTPStatus.NO_CONTENT and told == "1":
        return Holder.GATEWAY
    return Holder.OLLAMA if path == "/" and answer.body == b"Ollama is running" else None


def _names(body: bytes) -> set[str]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return set()
    return set(found) if isinstance(found, dict) else set()


def holder_of(url: str, *, within: float = _DEADLINE) -> Holder | None:
    """Return who listens at a URL of host and port, None if nobody does. Takes `within` seconds at most.

    A certificate is not checked: nothing secret is sent, and nothing that is told is believed but who tells it.
    """
    deadline = time.monotonic() + within
    for path in QUESTIONS:
        try:
            answer = _asked(url, path, deadline)
        except ConnectionRefusedError:
            return None
        except (OSError, ValueError):
            return Holder.UNKNOWN
        holder = recognised(path, answer)
        if holder is not None:
            return holder
    return Holder.UNKNOWN


def _asked(url: str, path: str, deadline: float) -> Answer:
    """Return the response to a GET; raise OSError or ValueError if there is none in time."""
    parts = urlsplit(url)
    fields = f"Host: {parts.netloc}\r\nUser-Agent: ollama-cache-proxy-cli\r\nConnection: close\r\n"
    head = f"GET {path} HTTP/1.1\r\n{fields}\r\n"
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=_left(deadline)) as plain:
        if parts.scheme != "https":
            return _read(plain, head.encode("ascii"), deadline)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(plain) as secure:
            return _read(secure, head.encode("ascii"), deadline)


def _read(sock: socket.socket, request: bytes, deadline: float) -> Answer:
    sock.settimeout(_left(deadline))
    sock.sendall(request)
    read = b""
    while len(read) < _MAX_BYTES:
        sock.settimeout(_left(deadline))
        piece = sock.recv(65_536)
        read += piece
        if not piece or _complete(read):
            break
    return _parsed(read)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _complete(read: bytes) -> bool:
    """Return whether all of a response is there, as far as a length tells."""
    if b"\r\n\r\n" not in read:
        return False
    answer = _parsed(read)
    length = answer.fields.get("content-length", "")
    return answer.status == HTTPStatus.NO_CONTENT or (length.isdecimal() and len(answer.body) >= int(length))


def _parsed(read: bytes) -> Answer:
    """Return status, fields and body; raise ValueError if it is no HTTP."""
    head, _, body = read.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    pairs = (line.partition(":") for line in lines)
    return Answer(status=int(status[:3]), fields={name.lower(): value.strip() for name, _, value in pairs}, body=body)


def way_out(holder: Holder | None, port: int, platform: str, choose: str) -> str:
    """Return who holds a port and what to do; `platform` is `sys.platform`, `choose` says how to take another port."""
    match holder:
        case Holder.PROXY:
            return f"another ollama-cache-proxy listens there: use or stop that one, or {choose}"
        case Holder.GATEWAY:
            return f"Ollama's macOS application has it for Claude Desktop, since 0.33: {choose}"
        case Holder.OLLAMA:
            return f"Ollama itself listens there: {choose}, and name Ollama with --upstream"
        case Holder.AIRPLAY:
            return f"AirPlay Receiver of macOS has it: {_AIRPLAY_OFF}, or {choose}"
        case _:
            likely = _LIKELY.get((platform, port)) or _LIKELY.get(("", port))
            shown = f"`{_SHOWN.get(platform, _SHOWN['linux'])(port)}` shows what has it"
            return f"{f'probably {likely}' if likely else 'another program listens there'}; {shown}: {choose}"


def not_permitted(port: int, platform: str) -> str:
    """Return why a port may not be bound."""
    if platform == "win32":
        return "Windows keeps some ports for itself (`netsh interface ipv4 show excludedportrange protocol=tcp`)"
    return "ports below 1024 are for root" if port < _FIRST_UNPRIVILEGED else "this user may not"


_FIRST_UNPRIVILEGED: Final = 1024

_AIRPLAY_OFF: Final = "turn it off in System Settings, General, AirDrop & Handoff"

_AIRPLAY: Final = f"AirPlay Receiver ({_AIRPLAY_OFF})"

_LIKELY: Final[Mapping[tuple[str, int], str]] = {
    ("darwin", 5000): _AIRPLAY,
    ("darwin", 7000): _AIRPLAY,
    ("darwin", 11435): "Ollama's macOS application, which has it for Claude Desktop since 0.33",
    ("", 11434): "Ollama itself",
    ("", 11435): "a second Ollama, or a proxy in front of one, such as NemoClaw's",
    ("", 11436): "a third Ollama, or an adapter of NemoClaw's",
}
"""Who has a port that answers nothing known, by `sys.platform` (empty: any) and port."""

_SHOWN: Final[Mapping[str, Callable[[int], str]]] = {
    "linux": "ss -ltnp sport = :{}".format,
    "darwin": "lsof -nP -iTCP:{} -sTCP:LISTEN".format,
    "win32": "netstat -ano | findstr :{}".format,
}
"""The command that shows what listens on a port, by `sys.platform`."""
