from __future__ import annotations

import pytest
from aiohttp import web

from tests.support.rawhttp import ask
from tests.support.servers import proxy_before
from tests.support.upstream import answering, byte_upstream, whole


@pytest.mark.parametrize("size", [1, 1000])
async def test_the_parser_is_fed_what_comes_and_nothing_else(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    feed = web.RequestHandler.data_received

    def data_received(self: web.RequestHandler, data: bytes) -> None:
        fed.append(len(data))
        feed(self, data)

    monkeypatch.setattr(web.RequestHandler, "data_received", data_received)
    body = b"x" * size
    async with byte_upstream(answering(whole(b"{}"))) as upstream, proxy_before(upstream.url) as proxy:
        answer = await ask(proxy.url, "POST", "/anything", body=body)
        assert (answer.status, upstream.seen[0].body) == (200, body)
    assert sum(fed) > size
    assert 0 not in fed
