"""redis-py's connections, made from an address: what goes wrong with one is a RedisError, which redis-py expects."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from ollama_cache_proxy.policy.redis_url import Place, RedisAddress
from ollama_cache_proxy.stores.redis.commands import is_refusal
from ollama_cache_proxy.stores.redis.sentinels import Sentinels


class _Expected:
    """Raises a RedisError, whatever the server replies and whatever the event loop raises.

    redis-py takes a connection for open whose handshake ended with any other error: the pool would use it in
    database 0. And uvloop raises RuntimeError where a pooled connection has ended, which redis-py would not try again.
    """

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """See redis-py."""
        try:
            await super().on_connect_check_health(check_health)  # type: ignore[misc] # of redis-py's class
        except RedisError:
            raise
        except Exception as error:
            raise RedisConnectionError(type(error).__name__) from error

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
        """See redis-py."""
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc] # of redis-py's class
        except RuntimeError as error:
            raise RedisConnectionError(type(error).__name__) from error


class _ToPrimary:
    """Leads to the primary that the Sentinels know at the moment, and to no server that says that it is another."""

    host: str
    port: int

    def __init__(self, *, sentinels: Sentinels, **more: Any) -> None:
        super().__init__(**more)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        """See redis-py."""
        self.host, self.port = await self._sentinels.primary()
        await super()._connect()  # type: ignore[misc] # of redis-py's class

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """See redis-py. A server that does not permit the question is taken at the Sentinels' word."""
        await super().on_connect_check_health(check_health)  # type: ignore[misc] # of redis-py's class
        connection: Any = self
        await connection.send_command("ROLE")
        try:
            role = await connection.read_response()
        except ResponseError as error:
            if not is_refusal(error):
                raise
            return
        if not isinstance(role, list) or not role or role[0] not in (b"master", "master"):
            raise RedisConnectionError("not the primary")


class _ToSomeNode:
    """Leads to the first of some nodes that takes a connection: for questions that any node can answer."""

    host: str
    port: int

    def __init__(self, *, nodes: Sequence[Place], **more: Any) -> None:
        super().__init__(**more)
        self._nodes = nodes

    async def _connect(self) -> None:
        """See redis-py."""
        for place in self._nodes:
            self.host, self.port = place
            try:
                await super()._connect()  # type: ignore[misc] # of redis-py's class
            except OSError:
                if place == self._nodes[-1]:
                    raise
            else:
                return


class PlainConnection(_Expected, redis.Connection):
    """A connection over TCP."""


class SocketConnection(_Expected, redis.UnixDomainSocketConnection):
    """A connection over a Unix socket."""


class TlsConnection(_Expected, redis.SSLConnection):
    """A connection over TLS, with a context that all of them share: redis-py makes one for each, in 10 to 20 ms."""

    def __init__(self, *, tls: ssl.SSLContext, **more: Any) -> None:
        super().__init__(**more)
        context: Any = _Context(tls)
        self.ssl_context = context


class PrimaryConnection(_ToPrimary, PlainConnection):
    """A connection to the primary over TCP."""


class PrimaryTlsConnection(_ToPrimary, TlsConnection):
    """A connection to the primary over TLS."""


class NodeConnection(_ToSomeNode, PlainConnection):
    """A connection to a node of a cluster over TCP."""


class NodeTlsConnection(_ToSomeNode, TlsConnection):
    """A connection to a node of a cluster over TLS."""


class _Context:
    """In place of redis-py's RedisSSLContext."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def get(self) -> ssl.SSLContext:
        return self._context

    def __deepcopy__(self, _memo: object) -> _Context:
        return self


def connecting(address: RedisAddress, tls: ssl.SSLContext | None) -> dict[str, Any]:
    """Return the arguments of a pool whose connections lead to this address, in RESP2. `tls` is for `rediss://`."""
    arguments: dict[str, Any] = {
        "db": address.database,
        "username": address.username,
        "password": address.password,
        "client_name": address.options.get("client_name"),
        "protocol": 2,  # without HELLO, which not every server, or user, has
    }
    if address.socket:
        return arguments | {"connection_class": SocketConnection, "path": address.socket}
    if "socket_keepalive" in address.options:
        arguments["socket_keepalive"] = address.options["socket_keepalive"]
    if address.tls:
        arguments["tls"] = tls
    if address.nodes:
        arguments["connection_class"] = NodeTlsConnection if address.tls else NodeConnection
        return arguments | {"nodes": address.nodes}
    if not address.sentinels:
        arguments["connection_class"] = TlsConnection if address.tls else PlainConnection
        return arguments | {"host": address.host, "port": address.port}
    arguments["connection_class"] = PrimaryTlsConnection if address.tls else PrimaryConnection
    return arguments | {"sentinels": sentinels_of(address, tls)}


def sentinels_of(address: RedisAddress, tls: ssl.SSLContext | None) -> Sentinels:
    """Return the Sentinels of an address that has some."""
    return Sentinels(address, tls, TlsConnection if address.tls else PlainConnection)
