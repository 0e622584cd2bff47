"""The Redis that the settings name: where it is, what its certificate must be, and a client for a few questions."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import Final

import redis.asyncio as redis

from ollama_cache_proxy.policy.redis_url import SCHEMES, RedisAddress, redis_address
from ollama_cache_proxy.policy.store_symptoms import Symptom, of_mode
from ollama_cache_proxy.service.settings import Settings, SettingsError, named_redis
from ollama_cache_proxy.stores.redis.cluster_topology import read_view
from ollama_cache_proxy.stores.redis.redis_connections import connecting
from ollama_cache_proxy.stores.redis.store_look import look

__all__ = [
    "SCHEMES",
    "RedisAddress",
    "Symptom",
    "client_of",
    "named_address",
    "of_mode",
    "primaries_of",
    "redis_address",
    "tls_for",
    "trouble_at",
]

_CERTIFICATES: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def named_address(settings: Settings) -> RedisAddress | None:
    """Return where the Redis is that is to be the store, None if none is named; raise SettingsError."""
    url = named_redis(settings)
    return redis_address(url) if url else None


def tls_for(address: RedisAddress, authority: str | None) -> ssl.SSLContext | None:
    """Return the context for a `rediss://` address, None for others; raise SettingsError.

    `authority` is the setting `redis_ca`; without it the system's authorities are trusted, or those that the URL names.
    """
    if not address.tls:
        return None
    given = {name: str(value) for name, value in address.options.items() if name.startswith("ssl_")}
    file, folder = given.get("ssl_ca_certs"), given.get("ssl_ca_path")
    if authority is not None and (file or folder):
        text = "redis_ca: not allowed beside ssl_ca_certs or ssl_ca_path in redis_url: choose one"
        raise SettingsError(text)
    option = "ssl_ca_certs"
    try:
        context = ssl.create_default_context(cafile=authority or file, capath=folder)
        option = "ssl_certfile"
        if "ssl_certfile" in given or "ssl_keyfile" in given:
            certificate = given.get("ssl_certfile") or given["ssl_keyfile"]
            context.load_cert_chain(certificate, given.get("ssl_keyfile"), given.get("ssl_password", ""))
        option = "ssl_ciphers"
        if "ssl_ciphers" in given:
            context.set_ciphers(given["ssl_ciphers"])
    except (OSError, ValueError):
        raise SettingsError(
            f"redis_url: (hidden) is not allowed: what the option {option} names cannot be used"
        ) from None
    if address.options.get("ssl_check_hostname") is False or given.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
    context.verify_mode = _CERTIFICATES[given.get("ssl_cert_reqs", "required")]
    if "ssl_min_version" in given:
        context.minimum_version = ssl.TLSVersion(int(given["ssl_min_version"]))
    return context


async def trouble_at(address: RedisAddress, tls: ssl.SSLContext | None) -> Symptom | None:
    """Return what is wrong with what is there, None for a Redis that can be used. Takes up to six seconds."""
    return await look(address, tls)


async def primaries_of(address: RedisAddress, tls: ssl.SSLContext | None, *, within: float) -> list[RedisAddress]:
    """Return the address of each primary of a cluster. Raises what redis-py may raise."""
    arguments = connecting(address, tls)
    connection = arguments.pop("connection_class")(**arguments, socket_timeout=within, socket_connect_timeout=within)
    try:
        await connection.connect()
        told = []
        for question in ("INFO", "SLOTS"):
            await connection.send_command("CLUSTER", question)
            told.append(await connection.read_response())
        places = read_view((connection.host, connection.port), *told).primaries
    finally:
        await connection.disconnect(nowait=True)
    return [replace(address, host=host, port=port, nodes=()) for host, port in places]


def client_of(address: RedisAddress, tls: ssl.SSLContext | None, *, within: float) -> redis.Redis:
    """Return a client that waits up to `within` seconds for each reply, and reads replies as text."""
    pool = redis.ConnectionPool(
        **connecting(address, tls),
        socket_timeout=within,
        socket_connect_timeout=within,
        decode_responses=True,
        retry=None,
    )
    return redis.Redis.from_pool(pool)
