from __future__ import annotations

import io
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ollama_cache_proxy.service.settings import SettingsError, load
from ollama_cache_proxy.service.sockets import address_of, bind, fitting_connections
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.telemetry.log import Log, Style
from tests.support.tls import CERTIFICATE, KEY


def log(stream: io.StringIO, *, quiet: bool = False) -> Log:
    return Log(stream, style=Style.PLAIN, development=False, quiet=quiet, clock=SystemClock())


def test_what_is_in_use_or_is_none_of_ours_says_what_to_do():
    with bind("127.0.0.1:0") as sock:
        listen = f"127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(SettingsError, match=rf"^listen: '{listen}' cannot .*--listen$"):
            bind(listen)
    with pytest.raises(SettingsError, match="cannot be bound"):
        bind("192.0.2.1:0")


@pytest.mark.parametrize(
    ("listen", "host", "loopback"),
    [("127.0.0.1:0", "127.0.0.1", True), ("[::1]:0", "[::1]", True), ("0.0.0.0:0", "0.0.0.0", False)],
)
def test_the_address_is_that_of_the_bound_socket(listen: str, host: str, loopback: bool):
    with bind(listen) as sock:
        address = address_of(sock, load(None, {}))
        assert address.url == f"http://{host}:{sock.getsockname()[1]}"
        assert (address.loopback, address.tls) == (loopback, None)


def test_every_address_is_both_of_ipv4_and_ipv6():
    with bind("[::]:0") as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
        assert address_of(sock, load(None, {})).loopback is False


def test_with_a_certificate_it_is_https():
    with bind("127.0.0.1:0") as sock:
        address = address_of(sock, load(None, {"tls_cert": CERTIFICATE, "tls_key": KEY}))
        assert address.url.startswith("https://127.0.0.1:")
        assert address.tls is not None
        with pytest.raises(SettingsError, match=r"^tls_cert: '/nowhere' is not allowed: "):
            address_of(sock, load(None, {"tls_cert": "/nowhere"}))


@pytest.mark.parametrize(
    ("limits", "may_raise", "expected", "left"),
    [
        ([10_000, 10_000], True, 1000, 10_000),
        ([1024, 10_000], True, 1000, 2128),
        ([1024, 2000], True, 936, 2000),
        ([1024, 10_000], False, 448, 1024),
        ([100, 100], True, 1, 100),
        ([-1, -1], True, 1000, -1),
        ([1024, -1], True, 1000, 2128),
    ],
)
def test_as_many_clients_as_files_allow(
    monkeypatch: pytest.MonkeyPatch, limits: list[int], may_raise: bool, expected: int, left: int
):
    now = [*limits]

    def setrlimit(_: int, wanted: tuple[int, int]) -> None:
        if not may_raise:
            raise OSError
        now[:] = wanted

    stand_in: Any = SimpleNamespace(
        RLIMIT_NOFILE=7, RLIM_INFINITY=-1, getrlimit=lambda _: tuple(now), setrlimit=setrlimit
    )
    monkeypatch.setitem(sys.modules, "resource", stand_in)
    stream = io.StringIO()
    assert fitting_connections(1000, log(stream)) == expected
    assert now[0] == left
    assert (f"At most {expected} clients at once" in stream.getvalue()) == (expected < 1000)


def test_where_files_have_no_limit_all_clients_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert fitting_connections(1000, log(io.StringIO())) == 1000
