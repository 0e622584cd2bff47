"""Small commands to a cluster: each goes over the lane to the node that has its name, and follows where that has moved.

A command's first argument is its name; several names of one command are in one slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.stores.redis.cluster_topology import slot_of
from ollama_cache_proxy.stores.redis.lane import Command, RedisLane
from ollama_cache_proxy.stores.redis.redis_client import RedisClient

_TRIES: Final = 5
"""Nodes that one command is sent to at most."""


class _Node(Protocol):
    """See cluster_client.Node."""

    client: RedisClient


class Nodes(Protocol):
    """See cluster_client.ClusterClient."""

    def owner(self, slot: int) -> Any: ...
    async def known(self) -> None: ...
    def redirected(self, slot: int, error: AskError, *, moved: bool, by: Any) -> Any: ...
    def answered(self, node: Any) -> None: ...
    def failed(self, node: Any, error: BaseException) -> Exception: ...
    def primaries(self) -> Sequence[Any]: ...


class ClusterLane:
    """See lane.Lane. `of` returns a node's own lane."""

    def __init__(self, nodes: Nodes, of: Callable[[RedisClient], RedisLane]) -> None:
        self._nodes = nodes
        self._of = of

    async def ask(self, *command: bytes | str | int, within: float, urgent: bool = False) -> Any:
        """See lane.Lane. A node that has the name no more says which one has it."""
        until = asyncio.get_running_loop().time() + within
        slot = slot_of(command[1])
        node = await self._owner(slot, within)
        asking = False
        for _ in range(_TRIES):
            try:
                reply = await self._sent(node, command, until=until, urgent=urgent, asking=asking)
            except MovedError as error:
                node, asking = self._nodes.redirected(slot, error, moved=True, by=node), False
            except AskError as error:
                node, asking = self._nodes.redirected(slot, error, moved=False, by=node), True
            else:
                self._nodes.answered(node)
                return reply
        raise RedisConnectionError("too many redirections")

    async def _owner(self, slot: int, within: float) -> Any:
        if not self._nodes.primaries():
            async with asyncio.timeout(within):
                await self._nodes.known()
        return self._nodes.owner(slot)

    async def _sent(self, node: _Node, command: Command, *, until: float, urgent: bool, asking: bool) -> Any:
        """Return a node's reply, which is asked for a name that it has not quite yet if `asking`."""
        lane, within = self._of(node.client), until - asyncio.get_running_loop().time()
        try:
            if not asking:
                return await lane.ask(*command, within=within, urgent=urgent)
            _, reply = await lane.ask_all((("ASKING",), command), within=within)
        except ClusterDownError as error:
            raise self._nodes.failed(node, error) from error
        except ResponseError:
            raise
        except Exception as error:
            raise self._nodes.failed(node, error) from error
        if isinstance(reply, RedisError):
            raise reply
        return reply

    async def ask_all(self, commands: Sequence[Command], within: float) -> list[Any]:
        """See lane.Lane. A reply is the error of a node that is away, too; raises it where that is so of all."""
        asked = (self.ask(*command, within=within) for command in commands)
        replies: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException) and not isinstance(reply, Exception):
                raise reply
        failed = [reply for reply in replies if isinstance(reply, Exception) and not isinstance(reply, ResponseError)]
        if failed and len(failed) == len(replies):
            raise failed[0]
        return replies

    async def ready(self) -> None:
        """See lane.Lane. One node is enough."""
        await self._nodes.known()
        lanes = [self._of(node.client) for node in self._nodes.primaries()]
        opened = await asyncio.gather(*(lane.ready() for lane in lanes), return_exceptions=True)
        failed = [error for error in opened if error is not None]
        if len(failed) == len(opened):
            raise failed[0] if failed else RedisConnectionError("no node of the cluster answers")

    def renew(self) -> None:
        """See lane.Lane."""
        for node in self._nodes.primaries():
            self._of(node.client).renew()
