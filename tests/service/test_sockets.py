from __future__ import annotations

import asyncio
import errno
import io
import socket
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest

from ollama_cache_proxy.service.settings import SettingsError, load
from ollama_cache_proxy.service.sockets import address_of, bind, fitting_connections
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.telemetry.log import Log, Style
from tests.support.neighbours import airplay, gateway, listening, look_alike
from tests.support.servers import Proxy, proxy_before
from tests.support.tls import CERTIFICATE, KEY


def log(stream: io.StringIO, *, quiet: bool = False) -> Log:
    return Log(stream, style=Style.PLAIN, development=False, quiet=quiet, clock=SystemClock())


def refusal(listen: str) -> str:
    with pytest.raises(SettingsError) as refused:
        bind(listen)
    return str(refused.value)


async def test_a_port_in_use_says_what_has_it_and_what_to_write(simulator: Simulator, proxy: Proxy):
    async with listening(gateway) as gate, listening(airplay) as air, listening(look_alike) as other:
        for port, said in (
            (urlsplit(proxy.url).port, "another ollama-cache-proxy listens there: use or stop that one, or "),
            (gate, "Ollama's macOS application has it for Claude Desktop, since 0.33: "),
            (urlsplit(simulator.url).port, "Ollama itself listens there: "),
            (air, "AirPlay Receiver of macOS has it: turn it off in System Settings, General, AirDrop & Handoff, or "),
            (other, "another program listens there; "),
        ):
            text = await asyncio.to_thread(refusal, f"127.0.0.1:{port}")
            assert text.startswith(f"listen: '127.0.0.1:{port}' cannot be bound: Address already in use; {said}")
            assert "choose another port: --listen 127.0.0.1:PORT" in text
            assert "\n" not in text
            everywhere = await asyncio.to_thread(refusal, f"0.0.0.0:{port}")
            assert said in everywhere, "a wildcard is asked on loopback"
            assert "--listen 0.0.0.0:PORT" in everywhere


async def test_a_port_in_use_by_a_proxy_with_a_certificate_says_so(simulator: Simulator):
    async with proxy_before(simulator.url, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
        text = await asyncio.to_thread(refusal, proxy.url.removeprefix("https://"))
        assert "; another ollama-cache-proxy listens there: " in text


def test_what_is_none_of_ours_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    assert refusal("192.0.2.1:0").endswith("; choose another HOST:PORT with --listen")
    refused = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(socket, "create_server", Mock(side_effect=refused))
    assert refusal("[::1]:80").endswith(
        "Permission denied; ports below 1024 are for root: choose another port: --listen [::1]:PORT"
    )


@pytest.mark.parametrize(
    ("listen", "host", "loopback"),
    [("127.0.0.1:0", "127.0.0.1", True), ("[::1]:0", "[::1]", True), ("0.0.0.0:0", "0.0.0.0", False)],
)
def test_the_address_is_that_of_the_bound_socket(listen: str, host: str, loopback: bool):
    with bind(listen) as sock:
        address = address_of(sock, load(None, {}))
        assert address.url == f"http://{host}:{sock.getsockname()[1]}"
        assert (address.loopback, address.tls) == (loopback, None)


@pytest.mark.skipif(sys.platform != "linux", reason="the options' names are Linux'")
def test_clients_that_are_gone_without_a_word_are_found_out_as_soon_as_by_ollama():
    with bind("127.0.0.1:0") as sock:
        with socket.create_connection(sock.getsockname()), sock.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [accepted.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [15, 15, 9]


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
        ([1024, 10_000], True, 1000, 10_000),
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
