from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ollama_cache_proxy.cli.checks import of_redis
from ollama_cache_proxy.cli.checks.finding import Level
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.service.store_survey import Refused, Surveyed
from tests.support.servers import RedisServer


@pytest.mark.parametrize(
    ("about", "said", "fix"),
    [
        ({"redis_version": "4.0.14"}, "is Redis 4.0.14", "Redis 5"),
        ({"role": "slave", "master_host": "m", "master_port": 1}, "is a replica", "m:1"),
        ({"rdb_last_bgsave_status": "err"}, "cannot save to disk", "disk"),
        ({"aof_last_write_status": "err"}, "cannot save to disk", "disk"),
    ],
)
def test_what_redis_says_of_itself(about: dict[str, Any], said: str, fix: str) -> None:
    well = {"redis_version": "7.2.0", "maxmemory": 1 << 30, "maxmemory_policy": "allkeys-lru", "used_memory": 1}
    assert [finding.level for finding in of_redis.judged("redis://h", well, None)] == [Level.OK]
    (finding,) = of_redis.judged("redis://h", well | about, None)
    assert finding.level is Level.PROBLEM
    assert said in finding.text
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("mode", "levels", "said"),
    [("cache", [Level.OK], "(Dragonfly 1.31.0): 0 keys in 1 B, cache"), ("store", [Level.WARNING], "cache_mode store")],
)
def test_whether_dragonfly_evicts(mode: str, levels: list[Level], said: str) -> None:
    """Its INFO names no policy of Redis."""
    about = {"redis_version": "7.4.0", "dragonfly_version": "df-v1.31.0", "cache_mode": mode, "used_memory": 1}
    policy = "eviction" if mode == "cache" else "noeviction"
    found = of_redis.judged("redis://h", about | {"maxmemory": 1 << 30, "maxmemory_policy": policy}, None)
    assert [finding.level for finding in found] == levels
    assert said in found[0].text


@pytest.mark.parametrize("kind", ["fixed", "idle", "until-evicted"])
async def test_what_lives_until_it_is_evicted_needs_a_redis_that_evicts(kind: str, redis_server: RedisServer) -> None:
    settings = load(None, {"redis_url": redis_server.url, "categories": {"docs": {"lifetime": kind}}})
    scene: Any = SimpleNamespace(settings=settings)
    problems = [one for one in await of_redis.answers(scene) if one.level is Level.PROBLEM]
    assert [one.text for one in problems] == (
        [f"lifetime: 'until-evicted' is not allowed: {redis_server.name} evicts nothing when it is full (noeviction)"]
        if kind == "until-evicted"
        else []
    )
    assert all("maxmemory-policy allkeys-lru" in one.fix for one in problems)


SCAN = Refused(name="SCAN", effect="entries are not counted", replaced=False)
UNLINK = Refused(name="UNLINK", effect="DEL does it", replaced=True)
SET = Refused(name="SET", effect="nothing is stored", replaced=False)


def test_what_a_server_refuses_is_said_with_what_happens_then() -> None:
    found = of_redis.refusals(
        "redis://h", Surveyed(product="Redis 6.3.4", refused=(UNLINK, SCAN), unusable=False), "KeyDB 6.3.4"
    )
    assert [(one.level, one.text) for one in found] == [
        (Level.NOTE, "redis://h (KeyDB 6.3.4) refuses UNLINK: DEL does it"),
        (Level.WARNING, "redis://h (KeyDB 6.3.4) refuses SCAN: entries are not counted"),
    ]
    assert (found[0].fix, "+scan" in found[1].fix) == ("", True)


def test_where_nothing_can_be_stored_that_is_the_one_finding() -> None:
    (found,) = of_redis.refusals("redis://h", Surveyed(product="", refused=(SET, SCAN), unusable=True), "")
    assert (found.level, found.text) == (
        Level.PROBLEM,
        "redis://h refuses SET, SCAN: nothing is stored or found",
    )
