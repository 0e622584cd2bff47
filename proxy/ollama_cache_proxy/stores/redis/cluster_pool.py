"""Larger commands to a cluster, over redis-py's pools: those of a pipeline, and those with names of many slots."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.stores.redis.cluster_lane import Nodes
from ollama_cache_proxy.stores.redis.cluster_topology import slot_of

_TRIES: Final = 5
"""Nodes that one command is sent to at most."""
_NAMES: Final = 64
"""Names in one command that removes them."""


@record
class _Call:
    """A command of a pipeline, as a method of redis-py's; its first argument is a name."""

    method: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    @property
    def slot(self) -> int:
        return slot_of(self.arguments[0])


class ClusterPool:
    """What this project uses of redis-py's client, for names in a cluster."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def pipeline(self, *, transaction: bool) -> ClusterPipeline:  # noqa: ARG002 - as redis-py's
        """Return a pipeline, without a transaction."""
        return ClusterPipeline(self._nodes)

    async def set(self, name: str, value: Any, **options: Any) -> Any:
        """See redis-py."""
        return await self._one("set", name, value, **options)

    async def unlink(self, *names: Any) -> int:
        """See redis-py."""
        return await self._sum("unlink", names)

    async def delete(self, *names: Any) -> int:
        """See redis-py."""
        return await self._sum("delete", names)

    async def touch(self, *names: Any) -> int:
        """See redis-py."""
        return await self._sum("touch", names)

    async def _one(self, method: str, *arguments: Any, **options: Any) -> Any:
        pipeline = ClusterPipeline(self._nodes)
        pipeline.add(method, *arguments, **options)
        (reply,) = await pipeline.execute()
        return reply

    async def _sum(self, method: str, names: Sequence[Any]) -> int:
        """Send a command for these names, one for each slot; return the sum of the replies."""
        by_slot: dict[int, list[Any]] = defaultdict(list)
        for name in names:
            by_slot[slot_of(name)].append(name)
        pipeline = ClusterPipeline(self._nodes)
        for own in by_slot.values():
            for start in range(0, len(own), _NAMES):
                pipeline.add(method, *own[start : start + _NAMES])
        return sum(await pipeline.execute())


class ClusterPipeline:
    """Commands that are sent together to the nodes that have their names."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._calls: list[_Call] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._calls = []

    def add(self, method: str, *arguments: Any, **options: Any) -> None:
        """Add a command."""
        self._calls.append(_Call(method=method, arguments=arguments, options=options))

    def set(self, name: str, value: Any, **options: Any) -> None:
        """See redis-py."""
        self.add("set", name, value, **options)

    def getrange(self, name: str, start: int, end: int) -> None:
        """See redis-py."""
        self.add("getrange", name, start, end)

    def strlen(self, name: str) -> None:
        """See redis-py."""
        self.add("strlen", name)

    def hsetnx(self, name: str, field: str, value: Any) -> None:
        """See redis-py."""
        self.add("hsetnx", name, field, value)

    def hincrby(self, name: str, field: str, delta: int) -> None:
        """See redis-py."""
        self.add("hincrby", name, field, delta)

    def hgetall(self, name: str) -> None:
        """See redis-py."""
        self.add("hgetall", name)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - as redis-py's
        """Return the replies, errors included unless they are to be raised; that of a node that is away is raised."""
        replies: dict[int, Any] = {}
        asking: dict[int, Any] = {}
        waiting = list(range(len(self._calls)))
        await self._nodes.known()
        for _ in range(_TRIES):
            nodes = {number: asking.get(number) or self._nodes.owner(self._calls[number].slot) for number in waiting}
            replies |= await self._sent(nodes, asking)
            waiting, asking = self._redirected(replies, nodes)
            if not waiting:
                break
        else:
            raise RedisConnectionError("too many redirections")
        found = [replies[number] for number in range(len(self._calls))]
        for reply in found if raise_on_error else ():
            if isinstance(reply, Exception):
                raise reply
        return found

    def _redirected(self, replies: Mapping[int, Any], nodes: Mapping[int, Any]) -> tuple[list[int], dict[int, Any]]:
        """Return the numbers of the commands that are to be sent again, and the nodes for those that have a new one."""
        again: list[int] = []
        asking: dict[int, Any] = {}
        for number, node in nodes.items():
            reply = replies[number]
            if isinstance(reply, MovedError):
                self._nodes.redirected(self._calls[number].slot, reply, moved=True, by=node)
            elif isinstance(reply, AskError):
                asking[number] = self._nodes.redirected(self._calls[number].slot, reply, moved=False, by=node)
            elif isinstance(reply, ClusterDownError):
                raise self._nodes.failed(node, reply)
            elif not isinstance(reply, TryAgainError):
                continue
            again.append(number)
        return again, asking

    async def _sent(self, nodes: Mapping[int, Any], asking: Mapping[int, Any]) -> dict[int, Any]:
        """Send each command to its node; return the replies by their numbers."""
        by_node: dict[Any, list[int]] = defaultdict(list)
        for number, node in nodes.items():
            by_node[node].append(number)
        sending = [self._sent_to(node, numbers, asking) for node, numbers in by_node.items()]
        return {number: reply for replies in await asyncio.gather(*sending) for number, reply in replies.items()}

    async def _sent_to(self, node: Any, numbers: Sequence[int], asking: Mapping[int, Any]) -> dict[int, Any]:
        try:
            async with node.client.pool.pipeline(transaction=False) as pipeline:
                places = []
                for number in numbers:
                    call = self._calls[number]
                    if number in asking:
                        pipeline.execute_command("ASKING")
                    places.append(len(pipeline))
                    getattr(pipeline, call.method)(*call.arguments, **call.options)
                replies = await pipeline.execute(raise_on_error=False)
        except ResponseError:
            raise
        except Exception as error:
            raise self._nodes.failed(node, error) from error
        self._nodes.answered(node)
        found = {number: replies[place] for number, place in zip(numbers, places, strict=True)}
        for reply in found.values():
            if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
                raise self._nodes.failed(node, reply)
        return found
