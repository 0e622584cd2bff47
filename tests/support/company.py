"""Proxies with one Redis that know of each other: only then do they take leases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

from ollama_cache_proxy.stores.redis import company as module
from ollama_cache_proxy.stores.redis.company import Company
from ollama_cache_proxy.stores.redis.key_layout import PROCESSES
from tests.support.servers import Proxy, RedisServer
from tests.support.waiting import until


@asynccontextmanager
async def looking_often() -> AsyncIterator[None]:
    """Within the block, the proxies of this process look for others without leaving them time."""
    with mock.patch.object(module, "LOOK_EVERY", 0.02):
        yield


async def acquainted(proxies: Sequence[Proxy]) -> None:
    """Wait until each of these proxies of this process has seen all others, unless they ask each for itself."""
    companies = [found for proxy in proxies if (found := _company(proxy)) is not None]
    names = {company._own.encode() for company in companies}
    await until(lambda: all(names <= {company._own.encode(), *company._seen} for company in companies), 30)


def _company(proxy: Proxy) -> Company | None:
    sharing: Any = proxy.running.exchanges._collapsing._sharing
    return None if sharing is None else sharing._flights.company


async def acquainted_processes(server: RedisServer, count: int) -> None:
    """Wait until each of so many processes with this Redis, which may have begun just now, has seen all others."""
    client: Any = server.client()

    async def all_look() -> None:
        before = client.hgetall(PROCESSES)

        def looked() -> int:
            return sum(before.get(name) != number for name, number in client.hgetall(PROCESSES).items())

        await until(lambda: looked() >= count, 30)

    await all_look()  # all are there
    await all_look()
    await asyncio.sleep(0.1)  # until the last one has the reply
