"""What is sent again after a pooled connection was lost: only what may be repeated."""

from __future__ import annotations

import json
import socket
import struct

import pytest

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.upstream.ollama_server import Ollama
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before
from tests.support.upstream import Conversation, byte_upstream, whole

RESET = struct.pack("ii", 1, 0)
CHANGE = json.dumps({"model": "tiny", "source": "tiny", "destination": "other", "from": "tiny"}).encode()


@pytest.mark.parametrize(
    ("method", "path", "again"),
    [
        ("POST", "/api/create", False),
        ("POST", "/api/copy", False),
        ("POST", "/api/pull", False),
        ("DELETE", "/api/delete", False),
        ("POST", "/api/unknown", False),
        ("PUT", "/api/chat", False),
        ("POST", "/api/blobs/sha256:0", False),
        ("POST", "/api/chat", True),
        ("POST", "/api/show", True),
    ],
)
async def test_what_ollama_may_have_begun_with_is_sent_again_only_if_it_may_be_repeated(
    method: str, path: str, again: bool
) -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        if talk.request_line.startswith(b"GET ") or len(of(path)) > 1:
            await talk.write(whole(b"{}"))
            return
        talk.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        talk.writer.transport.abort()

    def of(target: str) -> list[Conversation]:
        return [talk for talk in upstream.seen if talk.head.split()[1] == target.encode()]

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as proxy:
        assert (await ask(proxy.url, "GET", "/api/else")).status == 200  # leaves a connection in the pool
        answer = await ask(proxy.url, method, path, body=CHANGE)
        assert (answer.status, len(of(path))) == ((200, 2) if again else (502, 1))


async def test_who_watches_sees_what_is_under_way_and_what_is_sent_meanwhile() -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(whole(b"{}"))

    asked = Request(method="POST", target="/api/chat", fields=((b"Content-Length", b"1"),))
    async with byte_upstream(script) as upstream:
        ollama = Ollama(
            upstream.url,
            connect_timeout=5,
            deadline=None,
            clock=SystemClock(),
            observe=lambda _: None,
            tasks=Tasks(),
        )
        async with ollama.ask(asked, b"1"):
            with ollama.watching() as bodies, ollama.watching() as others:
                async with ollama.ask(asked, b"2"):
                    assert ollama.asking == 2
                assert bodies == others == [b"1", b"2"]
            async with ollama.ask(asked, b"3"):
                assert bodies == [b"1", b"2"]
        with ollama.watching() as bodies:
            assert (bodies, ollama.asking) == ([], 0)
        await ollama.close()
