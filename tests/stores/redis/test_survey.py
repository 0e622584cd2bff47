"""What is found out about a real server, by its own words and by what it refuses, and that nothing is written."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.stores.redis import survey as module
from ollama_cache_proxy.stores.redis.commands import COMMANDS
from ollama_cache_proxy.stores.redis.survey import Survey, product_of, survey
from tests.support.servers import RedisServer
from tests.support.stores import connected, permit

OF_A_CLUSTER = {name for name, _ in module._OF_A_CLUSTER}


async def surveyed(server: RedisServer, *, cluster: bool = False) -> Survey:
    async with connected(server) as connection:
        return await survey(connection, cluster=cluster)


def names(found: Survey) -> list[str]:
    return [command.name for command in found.refused]


def test_every_command_is_tried() -> None:
    tried = {name for name, _ in (*module._READING, *module._WRITING, *module._OF_A_CLUSTER)} | set(module._HOT_TIER)
    assert tried | set(module._OF_THE_CONNECTION) == set(COMMANDS)


async def test_a_server_that_refuses_nothing(redis_server: RedisServer) -> None:
    found = await surveyed(redis_server)
    assert (found.refused, found.unusable) == ((), False)
    told = product_of(redis_server.client().info())
    assert found.product.split()[1:] in (told.split()[1:], []), "HELLO, since 6.2, and INFO say the same version"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in module._OF_THE_CONNECTION])
async def test_what_the_access_list_refuses_is_found_and_nothing_is_written(name: str, server: RedisServer) -> None:
    client = server.client()
    permit(server, "default", "-" + name.lower().replace(" ", "|"))
    found = await surveyed(server, cluster=name in OF_A_CLUSTER)
    permit(server, "default", "+@all")
    assert name in names(found) or (name == "CLIENT TRACKING" and "CLIENT ID" in names(found))  # before 7.0
    assert found.unusable == (name == "SET" or name in OF_A_CLUSTER)
    assert client.execute_command("KEYS", "*") == []


async def test_without_transactions_what_would_write_is_not_tried(server: RedisServer) -> None:
    permit(server, "default", "-multi", "-set", "-scan")
    found = await surveyed(server)
    assert names(found) == ["SCAN"]
    permit(server, "default", "+@all")
    assert server.client().execute_command("DBSIZE") == 0


async def test_a_server_that_refuses_nearly_everything_is_of_no_use(server: RedisServer) -> None:
    permit(server, "default", "-@all", "+ping")
    found = await surveyed(server)
    assert {"MGET", "GET", "SCAN", "CLIENT ID"} <= set(names(found))
    assert found.unusable


@pytest.mark.parametrize("renamed", ["HELLO", "UNLINK", "GETSET", "CLIENT"])
async def test_a_renamed_command_is_found(renamed: str) -> None:
    server = RedisServer("--rename-command", renamed, "")
    server.start()
    try:
        found = await surveyed(server)
    finally:
        server.close()
    assert names(found) == ({"HELLO": [], "CLIENT": ["CLIENT ID"]}.get(renamed, [renamed]))


@pytest.mark.parametrize(
    ("about", "product"),
    [
        ({"redis_version": "7.0.15"}, "Redis 7.0.15"),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, "Valkey 9.1.2"),
        ({"redis_version": "6.3.4", "mvcc_depth": 0}, "KeyDB 6.3.4"),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.31.0", "cache_mode": "cache"}, "Dragonfly 1.31.0"),
        ({}, ""),
    ],
)
def test_a_product_is_told_by_its_info(about: dict[str, Any], product: str) -> None:
    assert product_of(about) == product
