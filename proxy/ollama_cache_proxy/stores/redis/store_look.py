"""Looks at what is at the other end of a Redis URL, by two connections of its own and a lookup.

store_symptoms.py decides what it looks like.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import redis.asyncio as redis

from ollama_cache_proxy.policy.redis_url import RedisAddress
from ollama_cache_proxy.policy.store_symptoms import Heard, Sight, Symptom, heard, heard_in, of_mode, refused, symptom
from ollama_cache_proxy.stores.redis.commands import is_refusal
from ollama_cache_proxy.stores.redis.key_layout import PROBED
from ollama_cache_proxy.stores.redis.redis_connections import connecting, sentinels_of
from ollama_cache_proxy.stores.redis.sentinels import UnknownPrimaryError

WITHIN: Final = 1.0
"""Seconds for each step: to connect, and to reply. There are six at most, for each server that is looked at."""
_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_MOST_NODES: Final = 3
"""Nodes of a cluster that are looked at."""
_FIRST: Final = 64
"""Bytes of a reply that are looked at."""


async def look(address: RedisAddress, tls: ssl.SSLContext | None) -> Symptom | None:
    """Return what is wrong there, None where it is a Redis that answers a lookup, or for what nobody can change."""
    if address.sentinels:
        try:
            host, port = await sentinels_of(address, tls).primary()
        except UnknownPrimaryError:
            return Symptom.NO_SUCH_PRIMARY
        except Exception:  # noqa: BLE001 - whatever it is, none of them answers as a Sentinel
            return Symptom.NO_SENTINEL
        address = replace(address, host=host, port=port, sentinels=())
    elif address.nodes:
        return await _cluster(address, tls)
    return await _seen(address, tls) or await _refusal(address, tls)


async def _cluster(address: RedisAddress, tls: ssl.SSLContext | None) -> Symptom | None:
    """Return what is wrong with the first node that can be spoken to, or with the last of those that cannot."""
    found: Symptom | None = None
    for host, port in address.nodes[:_MOST_NODES]:
        node = replace(address, host=host, port=port, nodes=())
        found = await _seen(node, tls)
        if found is None:
            return await _state(node, tls)
    return found


async def _seen(address: RedisAddress, tls: ssl.SSLContext | None) -> Symptom | None:
    """Return what a server looks like to two connections, None for a Redis."""
    plain = await _sight(address, None)
    secure = None
    if tls is not None:
        secure = await _sight(address, tls)
    elif not address.socket and plain.heard in (Heard.CLOSED, Heard.SILENT, Heard.OTHER):
        secure = await _sight(address, _any_certificate())
    return symptom(tls=address.tls, plain=plain, secure=secure)


def _any_certificate() -> ssl.SSLContext:
    """Return a context that only finds out whether there is TLS: nothing secret is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _sight(address: RedisAddress, tls: ssl.SSLContext | None) -> Sight:
    """Connect, send PING without any password, and return what came."""
    try:
        async with asyncio.timeout(WITHIN):
            if address.socket:
                reader, writer = await asyncio.open_unix_connection(address.socket)
            else:
                name = address.host if tls is not None else None
                reader, writer = await asyncio.open_connection(
                    address.host, address.port, ssl=tls, server_hostname=name
                )
    except Exception as error:  # noqa: BLE001 - uvloop raises more than OSError
        silent = tls is not None and isinstance(error, TimeoutError)
        return Sight(heard=Heard.SILENT if silent else heard_in(error))
    try:
        async with asyncio.timeout(WITHIN):
            writer.write(_PING)
            return Sight(heard=heard(await reader.read(_FIRST)), handshake=tls is not None)
    except TimeoutError:
        return Sight(heard=Heard.SILENT, handshake=tls is not None)
    except Exception as error:  # noqa: BLE001 - as above
        return Sight(heard=heard_in(error), handshake=tls is not None)
    finally:
        with suppress(Exception):
            writer.transport.abort()


async def _refusal(address: RedisAddress, tls: ssl.SSLContext | None) -> Symptom | None:
    """Log in and look up two names of different slots, as a lookup does."""
    try:
        async with _client(address, tls) as client, asyncio.timeout(WITHIN):
            await client.mget(PROBED)
    except Exception as error:  # noqa: BLE001 - it says what the server is, or nothing
        return await _mode(address, tls) if is_refusal(error) else refused(error)
    return None


async def _state(address: RedisAddress, tls: ssl.SSLContext | None) -> Symptom | None:
    """Log in, and return what a node says of its cluster."""
    try:
        async with _client(address, tls) as client, asyncio.timeout(WITHIN):
            told: bytes = await client.execute_command("CLUSTER", "INFO")
    except Exception as error:  # noqa: BLE001 - it says what the server is, or nothing
        return Symptom.NO_CLUSTER if "cluster support disabled" in str(error) else refused(error)
    return None if b"cluster_state:ok" in told else Symptom.CLUSTER_FAILS


async def _mode(address: RedisAddress, tls: ssl.SSLContext | None) -> Symptom | None:
    """Return what the server says of itself. A Sentinel has no databases, so no other than 0 is asked for."""
    with suppress(Exception):
        async with _client(replace(address, database=0), tls) as client, asyncio.timeout(WITHIN):
            return of_mode(await client.info("server"))
    return None


def _client(address: RedisAddress, tls: ssl.SSLContext | None) -> Any:
    pool = redis.ConnectionPool(
        **connecting(address, tls), socket_timeout=WITHIN, socket_connect_timeout=WITHIN, retry=None
    )
    return redis.Redis.from_pool(pool)
