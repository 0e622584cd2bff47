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
from typing import Any, Final, TypeAlias

import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from ollama_cache_proxy.policy.redis_url import Place, RedisAddress

_WITHIN: Final = 1.0
"""Seconds to connect to a Sentinel, and to have its answer."""
_OTHERS_WITHIN: Final = 0.2
"""Seconds that others have after the first answer: one that is away is not waited for."""


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
            "socket_connect_timeout": _WITHIN,
            "socket_timeout": _WITHIN,
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
            async with asyncio.timeout(_WITHIN):
                await connection.connect()  # type: ignore[no-untyped-call] # redis-py says no type
                await connection.send_command("SENTINEL", "MASTER", self._primary)
                told = await connection.read_response()
        finally:
            with suppress(Exception):
                await connection.disconnect(nowait=True)
        return _read(told)


async def _latest(asked: set[_Asked]) -> Place:
    """Return the answer of the latest configuration; those that take long after the first answer do not count."""
    loop = asyncio.get_running_loop()
    waiting, answers, until = set(asked), [], loop.time() + _WITHIN
    error: BaseException | None = None
    while waiting and (left := until - loop.time()) > 0:
        done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            failed = task.exception()
            if failed is None:
                answers.append(task.result())
                until = min(until, loop.time() + _OTHERS_WITHIN)
            elif not isinstance(error, UnknownPrimaryError):
                error = UnknownPrimaryError("") if _is_unknown(failed) else failed
    if answers:
        return max(answers)[1]
    if isinstance(error, UnknownPrimaryError):
        raise error
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
