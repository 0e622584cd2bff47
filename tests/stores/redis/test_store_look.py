"""Looks at real servers and at what is none."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.policy.store_symptoms import Symptom
from ollama_cache_proxy.service.redis_access import tls_for
from ollama_cache_proxy.stores.redis import store_look
from ollama_cache_proxy.stores.redis.store_look import look
from tests.support import canary, odd_servers
from tests.support.clusters import Cluster
from tests.support.odd_servers import Behaviour, odd_server
from tests.support.servers import RedisServer, free_port
from tests.support.tls import AUTHORITY, EXPIRED, OTHER_HOST, tls_before


async def seen(url: str, authority: str | None = AUTHORITY) -> Symptom | None:
    address = redis_address(url)
    return await look(address, tls_for(address, authority))


async def test_a_redis_is_no_trouble(redis_server: RedisServer) -> None:
    assert await seen(redis_server.url) is None
    async with tls_before(redis_server.url) as port:
        assert await seen(f"rediss://:{canary.PASSWORD}@localhost:{port}") is None


async def test_it_writes_nothing_and_leaves_no_connection(redis_server: RedisServer) -> None:
    await seen(redis_server.url)
    client = redis_server.client()
    assert client.dbsize() == 0
    assert [row["name"] for row in client.client_list()] == [""], "this one"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://{place}/0", Symptom.PASSWORD),
        ("redis://:wrong@{place}/0", Symptom.PASSWORD),
        ("redis://:{password}@{place}/99", Symptom.DATABASE),
        ("redis://127.0.0.1:1", Symptom.REFUSES),
        ("rediss://127.0.0.1:1", Symptom.REFUSES),
        ("unix:///nowhere/redis.sock", Symptom.REFUSES),
        ("redis://nowhere.invalid", Symptom.UNKNOWN_HOST),
    ],
)
async def test_a_redis_that_refuses_or_is_not_there(url: str, expected: Symptom, redis_server: RedisServer) -> None:
    place = f"127.0.0.1:{redis_server.port}"
    assert await seen(url.format(place=place, password=canary.PASSWORD)) is expected


async def test_a_cluster(cluster: Cluster, redis_server: RedisServer) -> None:
    assert await seen(cluster.url) is None
    first = cluster.primaries[0].port
    assert await seen(f"redis://:{canary.PASSWORD}@127.0.0.1:{first}") is Symptom.CLUSTER
    assert await seen(f"redis+cluster://127.0.0.1:{first}") is Symptom.PASSWORD
    assert await seen(f"rediss+cluster://127.0.0.1:{first}") is Symptom.SPEAKS_PLAIN
    assert await seen(f"redis+cluster://:{canary.PASSWORD}@127.0.0.1:{redis_server.port}") is Symptom.NO_CLUSTER
    nobody = free_port()
    assert await seen(f"redis+cluster://127.0.0.1:{nobody}") is Symptom.REFUSES
    assert await seen(f"redis+cluster://:{canary.PASSWORD}@127.0.0.1:{nobody},127.0.0.1:{first}") is None


async def test_a_cluster_without_some_of_its_slots() -> None:
    node = Cluster(1, replicas=False)
    try:
        node.start().wait()
        client: Any = node.primaries[0].client()
        client.execute_command("CLUSTER", "DELSLOTS", 7)
        assert await seen(node.url) is Symptom.CLUSTER_FAILS
    finally:
        node.close()


async def test_tls_at_a_plain_port_and_the_reverse(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_look, "WITHIN", 0.5)  # a Redis waits for the end of a line in what is TLS
    assert await seen(f"rediss://127.0.0.1:{redis_server.port}") is Symptom.SPEAKS_PLAIN
    async with tls_before(redis_server.url) as port:
        assert await seen(f"redis://127.0.0.1:{port}") is Symptom.SPEAKS_TLS


@pytest.mark.parametrize(
    ("certificate", "authority", "expected"),
    [
        (None, None, Symptom.AUTHORITY),
        (EXPIRED, EXPIRED, Symptom.EXPIRED),
        (OTHER_HOST, OTHER_HOST, Symptom.HOST),
    ],
)
async def test_a_certificate_that_is_not_verified(
    certificate: str | None, authority: str | None, expected: Symptom, redis_server: RedisServer
) -> None:
    named = () if certificate is None else (certificate,)
    async with tls_before(redis_server.url, *named) as port:
        assert await seen(f"rediss://127.0.0.1:{port}", authority) is expected


async def test_a_server_that_wants_a_certificate(redis_server: RedisServer) -> None:
    async with tls_before(redis_server.url, mutual=True) as port:
        assert await seen(f"rediss://127.0.0.1:{port}") is Symptom.WANTS_CERTIFICATE


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (odd_servers.resets, Symptom.BREAKS_OFF),
        (odd_servers.resets_after_the_first_bytes, Symptom.BREAKS_OFF),
        (odd_servers.closes, Symptom.BREAKS_OFF),
        (odd_servers.is_silent, Symptom.SILENT),
        (odd_servers.says(odd_servers.HTTP), Symptom.SPEAKS_HTTP),
        (odd_servers.says(b"+OK\r\n"), Symptom.SPEAKS_OTHER),
        (odd_servers.says(b"\x00\xffjunk\r\n"), Symptom.SPEAKS_OTHER),
    ],
)
async def test_what_is_no_redis(
    behaviour: Behaviour, expected: Symptom, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_look, "WITHIN", 0.5)
    with odd_server(behaviour) as port:
        assert await seen(f"{scheme}://:{canary.PASSWORD}@127.0.0.1:{port}/0") is expected
