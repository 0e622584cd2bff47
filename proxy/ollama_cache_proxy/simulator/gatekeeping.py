"""Access rules: Origin (CORS) and, on a loopback listener, Host against DNS rebinding.

Both follow server/routes.go and its list of origins in envconfig; a refused request gets an empty 403.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from ollama_cache_proxy.simulator.wire import Fields

_LOCAL_ORIGIN = re.compile(r"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0)(?::.*)?")
_APPLICATIONS = ("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")
_LOCAL_DOMAINS = (".localhost", ".local", ".internal")
_ALLOWED_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    "X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
    "X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    "X-Stainless-Runtime-Version,X-Stainless-Timeout"
)


def is_cross_origin(origin: str, host: str) -> bool:
    """Return whether an Origin differs from the server's own."""
    return bool(origin) and origin not in (f"http://{host}", f"https://{host}")


def origin_allowed(origin: str) -> bool:
    """Return whether pages of this origin are allowed."""
    return _LOCAL_ORIGIN.fullmatch(origin) is not None or origin.startswith(_APPLICATIONS)


def cors_fields(origin: str) -> Fields:
    """Return the fields that let a page read the response."""
    return (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))


def preflight(origin: str) -> Fields:
    """Return the fields that answer a preflight request."""
    return (
        ("Access-Control-Allow-Headers", _ALLOWED_HEADERS),
        ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Max-Age", "43200"),
        ("Vary", "Origin"),
        ("Vary", "Access-Control-Request-Method"),
        ("Vary", "Access-Control-Request-Headers"),
    )


def _without_port(host: str) -> str:
    bracketed = re.fullmatch(r"\[(.*)\]:\d*", host)
    if bracketed:
        return bracketed[1]
    name, colon, _ = host.rpartition(":")
    return name if colon and ":" not in name else host


def host_by_address(host: str) -> bool:
    """Return whether a Host is an address of this machine or of a private network."""
    try:
        address = ipaddress.ip_address(_without_port(host))
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def host_by_name(host: str) -> bool:
    """Return whether a Host is a name that only this machine or its network can resolve."""
    name = _without_port(host).lower()
    return name in ("", "localhost", socket.gethostname().lower()) or name.endswith(_LOCAL_DOMAINS)
