"""Finds the primary that Sentinels watch.

All of them are asked at once, and the answer of the latest configuration counts (`config-epoch`): one that is cut off
from the others may still name a primary that was replaced. Whether it is one, the server itself is asked when a
connection is opened (redis_connections.py).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from ollama_cache_proxy.policy.redis_url import Place, RedisAddress
from ollama_cache_proxy.stores.redis.first_answers import WITHIN, first_answers

_Asked: TypeAlias = asyncio.Future[tuple[int, Place]]


class UnknownPrimaryError(RedisConnectionError):
    """The Sentinels that answer know no primary of this name."""


class Sentinels:
    """The Sentinels of an address, each asked over a connection of its own, which `make` makes."""

    def __init__(self, address: RedisAddress, tls: ssl.SSLContext | None, make: Any) -> None:
        self._places = address.sentinels
        self._primary = address.primary
        self._make = make
        self._arguments: dict[str, Any] = {
            "username": address.sentinel_username,
            "password": address.sentinel_password,
            "protocol": 2,
            "socket_connect_timeout": WITHIN,
            "socket_timeout": WITHIN,
            "retry": None,
        } | ({} if tls is None else {"tls": tls})

    async def primary(self) -> Place:
        """Return where the primary is.

        Raises UnknownPrimaryError, and RedisConnectionError where no Sentinel answers.
        """
        asked: set[_Asked] = {asyncio.ensure_future(self._ask(place)) for place in self._places}
        try:
            return await _latest(asked)
        finally:
            for task in asked:
                task.cancel()

    async def _ask(self, place: Place) -> tuple[int, Place]:
        """Return the epoch of a Sentinel's configuration, and where the primary is by that."""
        host, port = place
        connection: redis.Connection = self._make(host=host, port=port, **self._arguments)
        try:
            async with asyncio.timeout(WITHIN):
                await connection.connect()  # type: ignore[no-untyped-call] # redis-py says no type
                await connection.send_command("SENTINEL", "MASTER", self._primary)
                told = await connection.read_response()
        finally:
            with suppress(Exception):
                await connection.disconnect(nowait=True)
        return _read(told)


async def _latest(asked: set[_Asked]) -> Place:
    """Return the answer of the latest configuration; those that take long after the first answer do not count."""
    ended, _ = await first_answers(asked)
    failures = [error for task in ended if (error := task.exception()) is not None]
    answers = [task.result() for task in ended if task.exception() is None]
    if answers:
        return max(answers)[1]
    if any(map(_is_unknown, failures)):
        raise UnknownPrimaryError("")
    raise RedisConnectionError("no Sentinel answers")


def _is_unknown(error: BaseException) -> bool:
    return isinstance(error, ResponseError) and "No such master" in str(error)


def _read(told: Any) -> tuple[int, Place]:
    """Return what `SENTINEL MASTER` says; raise InvalidResponse for what it cannot have said."""
    try:
        found: Mapping[bytes, bytes] = dict(zip(told[::2], told[1::2], strict=True))
        return int(found[b"config-epoch"]), (found[b"ip"].decode(), int(found[b"port"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidResponse from error
