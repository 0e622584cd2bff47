"""Which product a server is, and which of the commands that the proxy sends it refuses. Nothing is written.

Reading commands are sent for a name that does not exist. What would write is queued in a transaction, for which the
server checks permissions as it would for the command itself, and the transaction is discarded. Subscriptions end with
the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import redis.asyncio as redis
from redis.exceptions import ResponseError

from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.stores.redis.commands import COMMANDS, Command, Without, is_refusal
from ollama_cache_proxy.stores.redis.key_layout import FLIGHTS, value_name

_NAME: Final = value_name("doctor")
"""A name within what the proxy's user may access; nothing is ever stored under it."""
_READING: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("PING", ()),
    ("MGET", (_NAME,)),
    ("GET", (_NAME,)),
    ("SCAN", ("0", "COUNT", "1")),
    ("GETRANGE", (_NAME, "0", "0")),
    ("STRLEN", (_NAME,)),
    ("DBSIZE", ()),
    ("TOUCH", (_NAME,)),
    ("EXPIRE", (_NAME, "1")),
    ("UNLINK", (_NAME,)),
    ("DEL", (_NAME,)),
    ("HGETALL", (_NAME,)),
    ("PUBLISH", (FLIGHTS + "doctor", "")),
    ("INFO", ("server",)),
)
_WRITING: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("SET", (_NAME, "", "EX", "1")),
    ("GETSET", (_NAME, "")),
    ("HINCRBY", (_NAME, "total", "1")),
    ("HSETNX", (_NAME, "total", "1")),
)
_OF_A_CLUSTER: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("CLUSTER SLOTS", ()),
    ("CLUSTER INFO", ()),
    ("WATCH", (_NAME,)),
)
_HOT_TIER: Final = ("CLIENT ID", "CLIENT TRACKING", "SUBSCRIBE")
_OF_THE_CONNECTION: Final = ("AUTH", "SELECT", "CLIENT SETINFO", "ROLE", "ASKING")
"""Sent, or not needed, when the connection was opened."""


@record
class Survey:
    """What was found. `refused` is in the order of COMMANDS."""

    product: str
    """Name and version, such as "Valkey 9.1.2"; "" where the server does not say."""
    refused: tuple[Command, ...]

    @property
    def unusable(self) -> bool:
        """Whether the store is of no use: nothing can be looked up, or nothing stored."""
        names = {command.name for command in self.refused}
        return (
            {"MGET", "GET"} <= names
            or any(command.without is Without.NO_WRITES for command in self.refused)
            or any(name.startswith("CLUSTER") for name in names)
        )


async def survey(connection: redis.Connection, *, cluster: bool = False) -> Survey:
    """Ask a server over a connection of its own, which is of no use afterwards. Raises what a command may raise."""
    refused = {name for name, arguments in _READING if await _is_refused(connection, name, *arguments)}
    if cluster:
        refused |= {name for name, arguments in _OF_A_CLUSTER if await _is_refused(connection, name, *arguments)}
    if not await _is_refused(connection, "MULTI"):
        refused |= {name for name, arguments in _WRITING if await _is_refused(connection, name, *arguments)}
        await _is_refused(connection, "DISCARD")
    product = await _greeting(connection)
    refused |= await _refused_of_hot_tier(connection)
    return Survey(product=product, refused=tuple(command for name, command in COMMANDS.items() if name in refused))


def product_of(about: Mapping[str, Any]) -> str:
    """Return the product's name and version from its INFO, such as "KeyDB 6.3.4"; "" where INFO does not say."""
    if "dragonfly_version" in about:
        return f"Dragonfly {str(about['dragonfly_version']).removeprefix('df-').removeprefix('v')}"
    if "valkey_version" in about:
        return f"Valkey {about['valkey_version']}"
    version = about.get("redis_version")
    if version is None:
        return ""
    return f"{'KeyDB' if 'mvcc_depth' in about else 'Redis'} {version}"


async def _greeting(connection: redis.Connection) -> str:
    """Return the product's name and version by HELLO, "" where the server refuses it as it is, before 6.2."""
    try:
        reply = await _ask(connection, "HELLO")
    except ResponseError:
        return ""
    told = {_text(name): _text(value) for name, value in zip(reply[::2], reply[1::2], strict=False)}
    return f"{told['server'].capitalize()} {told['version']}" if {"server", "version"} <= set(told) else ""


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


async def _refused_of_hot_tier(connection: redis.Connection) -> set[str]:
    """Return the first command that stands in the way of the hot tier, as RedisWatch sends them."""
    name = _HOT_TIER[0]
    try:
        own = await _ask(connection, "CLIENT", "ID")
        name = _HOT_TIER[1]
        await _ask(connection, "CLIENT", "TRACKING", "ON", "REDIRECT", own, "BCAST", "PREFIX", _NAME)
        name = _HOT_TIER[2]
        await _ask(connection, "SUBSCRIBE", "__redis__:invalidate")
    except ResponseError:
        return {name}
    return set()


async def _is_refused(connection: redis.Connection, name: str, *arguments: str) -> bool:
    try:
        await _ask(connection, *name.split(), *arguments)
    except ResponseError as error:
        return is_refusal(error)
    return False


async def _ask(connection: redis.Connection, *command: Any) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()
