"""What doctor is told of a server: a real one, whose user may not do all that the proxy does."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.service.store_survey import Surveyed, product, survey_store
from tests.support.servers import RedisServer
from tests.support.stores import connected, permit


@pytest.mark.parametrize(
    ("refused", "found", "unusable"),
    [
        ((), {}, False),
        (("-unlink", "-scan"), {"UNLINK": True, "SCAN": False}, False),
        (("-mget", "-get"), {"MGET": True, "GET": True}, True),
        (("-set",), {"SET": False}, True),
    ],
)
async def test_what_is_refused_and_whether_something_replaces_it(
    refused: tuple[str, ...], found: dict[str, bool], unusable: bool
) -> None:
    server = RedisServer()
    server.start()
    try:
        permit(server, "default", *refused)
        told = await surveyed(server)
        about = server.client().info()
    finally:
        server.close()
    assert ({one.name: one.replaced for one in told.refused}, told.unusable) == (found, unusable)
    assert all(one.effect for one in told.refused)
    assert told.product.split()[1:] in (product(about).split()[1:], [])


async def surveyed(server: RedisServer) -> Surveyed:
    async with connected(server) as connection:
        return await survey_store(connection)
