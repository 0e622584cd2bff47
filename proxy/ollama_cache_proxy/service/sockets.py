"""The listening socket: binding it, its URL, and how many clients the limit on open files allows."""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from contextlib import suppress
from typing import Final

from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.port_holder import Holder, holder_of, not_permitted, way_out
from ollama_cache_proxy.service.settings import Settings, SettingsError, host_and_port, is_loopback, url_of
from ollama_cache_proxy.service.tls import for_clients, tls_from_file
from ollama_cache_proxy.telemetry.log import Log

_OWN_FILES: Final = 128
"""Files that the proxy opens besides its clients' and Ollama's sockets, mostly connections to the store."""


@record
class Address:
    """Where clients reach the proxy. `loopback`: only this machine can; `tls` is None for plain HTTP."""

    url: str
    loopback: bool
    tls: ssl.SSLContext | None


def bind(listen: str) -> socket.socket:
    """Return a socket bound to HOST:PORT; raise SettingsError if it cannot be bound, which says what has the port."""
    host, port = host_and_port(listen)
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        dual = family == socket.AF_INET6 and host in ("", "::") and socket.has_dualstack_ipv6()
        sock = socket.create_server((host, port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        why = str(error.strerror).partition(" (while ")[0]  # which create_server adds
        text = f"listen: {listen!r} cannot be bound: {why}; {_way_out(listen, error)}"
        raise SettingsError(text) from None
    _probe_silent_peers(sock)
    return sock


def _probe_silent_peers(sock: socket.socket) -> None:
    """Have the kernel find out which clients are gone without a word; connections inherit this from their listener.

    The times are those of Go's `net.ListenConfig` (15 s, 15 s, 9 probes), so those of Ollama.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPALIVE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 9)):
        with suppress(OSError, AttributeError):  # TCP_KEEPALIVE is macOS' name of the first
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _way_out(listen: str, error: OSError) -> str:
    host, port = host_and_port(listen)
    authority = f"[{host}]" if ":" in host else host
    choose = f"choose another port: --listen {authority}:PORT"
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(url_of(listen, tls=False))
        if holder is Holder.UNKNOWN:
            holder = holder_of(url_of(listen, tls=True))
        return way_out(holder, port, sys.platform, choose)
    if error.errno == errno.EACCES:
        return f"{not_permitted(port, sys.platform)}: {choose}"
    return "choose another HOST:PORT with --listen"


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """Return the listener's TLS context, None for plain HTTP; raise SettingsError if the certificate cannot be used."""
    return tls_from_file("tls_cert", settings.tls_cert, lambda path: for_clients(path, settings.tls_key))


def address_of(sock: socket.socket, settings: Settings) -> Address:
    """Return where clients reach a bound socket; raise SettingsError if the certificate cannot be used."""
    tls = tls_of(settings)
    host, port = sock.getsockname()[:2]
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Address(url=f"{'http' if tls is None else 'https'}://{authority}", loopback=is_loopback(host), tls=tls)


def raise_open_files(needed: int) -> int | None:
    """Raise the soft limit on open files to the hard one, and return it; None where there is no limit.

    Where the hard one is infinite, or the system allows less than it says, at least to `needed` if that can be.
    """
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (needed if hard == resource.RLIM_INFINITY else hard, needed):
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            break
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def fitting_connections(wanted: int, log: Log) -> int:
    """Return how many clients, `wanted` at most, the limit on open files allows; raise that limit first if possible.

    Each client may need a socket towards Ollama as well.
    """
    needed = 2 * wanted + _OWN_FILES
    soft = raise_open_files(needed)
    if soft is None or soft >= needed:
        return wanted
    fitting = max(1, (soft - _OWN_FILES) // 2)
    log.say(
        f"At most {fitting} clients at once: a process may open {soft} files here (ulimit -n)", warning=not log.quiet
    )
    return fitting
