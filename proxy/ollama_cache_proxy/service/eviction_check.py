"""Whether embeddings may live until they are evicted: the Redis that the settings name has to evict.

A private server and memory do so by themselves.
"""

from __future__ import annotations

import asyncio
from typing import Final

from redis.exceptions import ResponseError

from ollama_cache_proxy.policy.store_eviction import unbounded
from ollama_cache_proxy.service.redis_access import client_of, redis_address, tls_for
from ollama_cache_proxy.service.settings import Settings, SettingsError, kinds_of_lifetime, named_redis, public_url

_WITHIN: Final = 2.0
"""Seconds to ask; a Redis that does not answer does not hold up the start."""


async def check_eviction(settings: Settings) -> str:
    """Ask the Redis that the settings name, where they depend on it; raise SettingsError where it would not evict.

    Return a line for the log, empty for none.
    """
    url = named_redis(settings) if "until-evicted" in kinds_of_lifetime(settings) else ""
    if not url:
        return ""
    name, address = public_url(url), redis_address(url)
    tls = tls_for(address, settings.redis_ca)
    try:
        async with asyncio.timeout(_WITHIN), client_of(address, tls, within=_WITHIN) as client:
            why = unbounded(await client.info("memory"))
    except ResponseError:
        why = "does not let this user ask what it does when it is full (permit INFO)"
    except Exception:  # noqa: BLE001 - redis-py raises anything for a server that is away or none
        return (
            f"{name} does not answer, so it is not known whether it makes room for entries that live until they are"
            " evicted: until it says so, they are kept for 90 days"
        )
    if why:
        raise SettingsError(f"lifetime: 'until-evicted' is not allowed: {name} {why}")
    return ""
