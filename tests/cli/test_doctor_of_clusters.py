"""What doctor says of a cluster: a real one, whose user may do less or just enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from ollama_cache_proxy.cli.checks import of_redis
from ollama_cache_proxy.cli.checks.finding import Level
from ollama_cache_proxy.simulator import Simulator
from tests.e2e.faults.load import generate, is_hit
from tests.support import canary
from tests.support.clusters import Cluster
from tests.support.rawhttp import ask
from tests.support.servers import proxy_before
from tests.support.waiting import until

DOCUMENTED: Final = next(
    line.split()[3:]
    for line in (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8").splitlines()
    if line.startswith("ACL SETUSER") and "cluster" in line
)
"""The rights of a user of a cluster, as the documentation gives them."""


@pytest.fixture
def url(cluster: Cluster) -> Any:
    """Name the cluster with a user that has the documented rights and no others."""
    clients: list[Any] = [server.client() for server in cluster.primaries]
    for client in clients:
        rights = [right.replace(">PASSWORD", f">{canary.PASSWORD}") for right in DOCUMENTED]
        client.execute_command("ACL", "SETUSER", "ocp", "reset", *rights)
    yield cluster.url.replace("://:", "://ocp:")
    for client in clients:
        client.acl_deluser("ocp")


async def test_a_cluster_in_order(cluster: Cluster, url: str) -> None:
    name, *nodes = await of_redis._examined(url, None, named=True)
    assert (name.level, "is a cluster, and 3 primaries have all slots" in name.text) == (Level.OK, True)
    assert len(nodes) == 3, "no command is refused"
    for node, server in zip(nodes, cluster.primaries, strict=True):
        assert node.level in (Level.OK, Level.WARNING)
        assert f"127.0.0.1:{server.port}" in node.text
    assert not any(canary.PASSWORD in finding.text + finding.fix for finding in (name, *nodes))


@pytest.mark.parametrize(
    ("right", "level", "said"),
    [
        ("-watch", Level.PROBLEM, "refuses WATCH: nothing is stored or found"),
        ("-cluster|slots", Level.PROBLEM, "does not say which node has what"),
        ("-scan", Level.WARNING, "refuses SCAN"),
    ],
)
async def test_a_user_of_a_cluster_who_may_do_less(
    right: str, level: Level, said: str, cluster: Cluster, url: str
) -> None:
    for server in cluster.primaries:
        server.client().execute_command("ACL", "SETUSER", "ocp", right)
    found = await of_redis._examined(url, None, named=True)
    assert [finding.level for finding in found if said in finding.text][:1] == [level]


async def test_a_cluster_that_is_none_and_one_that_is_not_there(redis_server: Any, tmp_path: Path) -> None:
    (finding,) = await of_redis._examined(redis_server.url.replace("redis://", "redis+cluster://"), None, named=True)
    assert (finding.level, "is no node of a cluster" in finding.text) == (Level.PROBLEM, True)
    (finding,) = await of_redis._examined("redis+cluster://127.0.0.1:1", None, named=True)
    assert finding.level is Level.PROBLEM


async def test_the_documented_rights_are_all_that_it_takes(url: str, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url=url) as proxy:
        store: Any = proxy.running.store
        await until(lambda: store._holding)
        assert not is_hit(await generate(proxy, "a"))
        await proxy.kept()
        assert is_hit(await generate(proxy, "a"))
        for body in (b'{"operation":"embed"}', b""):
            assert (await ask(proxy.url, "POST", "/api/cache/clear", body=body)).status == 200
        assert not is_hit(await generate(proxy, "a"))
        assert (await ask(proxy.url, "GET", "/api/cache/entries")).status == 200
        assert "refuses" not in proxy.log.getvalue()
