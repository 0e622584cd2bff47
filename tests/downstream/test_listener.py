"""The listener's last resort: what happens where serving a request raises what nobody expected."""

from __future__ import annotations

import asyncio
import socket

import pytest

from ollama_cache_proxy.core.ports import Client
from ollama_cache_proxy.downstream.listener import Listener
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.service.system_clock import SystemClock

SECRET = "the prompt of a request"


class NothingKnown:
    """A fast path that knows no request."""

    def answer(self, raw: bytes) -> None:
        return None

    def first(self, data: bytes) -> tuple[int, bool]:
        return 0, False

    def knows_head(self, data: bytes) -> bool:
        return False


@pytest.mark.parametrize("error", [RuntimeError(SECRET), KeyError(SECRET), OSError(5, SECRET), ValueError(SECRET)])
async def test_only_the_type_of_an_unexpected_error_is_reported_and_the_connection_is_reset(error: Exception) -> None:
    reported: list[str] = []

    async def fail(_request: Request, _client: Client) -> None:
        raise error

    listener = Listener(
        fail,
        fast_path=NothingKnown(),
        clock=SystemClock(),
        head_timeout=10,
        body_timeout=10,
        max_connections=10,
        evicted=lambda _: None,
        failed=reported.append,
    )
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await listener.start(sock)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()
    finally:
        await listener.drain(0, 0)
    assert reported == [type(error).__name__]
