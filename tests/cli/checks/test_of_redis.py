from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.cli.checks import of_redis
from ollama_cache_proxy.cli.checks.finding import Level


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
