"""The connections to a cluster: those to each node are as to a single server (redis_client.py).

redis-py's own cluster client is not used: it believes the first node that answers, and has no lanes
(docs/decisions/0043).

A node that cannot be reached is `away`: commands for it fail at once, until it answers a look. The others are used.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import redis.asyncio as redis
from redis.exceptions import AskError
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.policy.redis_url import Place, RedisAddress
from ollama_cache_proxy.stores.redis.cluster_lane import ClusterLane
from ollama_cache_proxy.stores.redis.cluster_pool import ClusterPool
from ollama_cache_proxy.stores.redis.cluster_topology import View, latest, owners, read_view
from ollama_cache_proxy.stores.redis.first_answers import WITHIN, first_answers
from ollama_cache_proxy.stores.redis.key_layout import CLUSTER
from ollama_cache_proxy.stores.redis.redis_client import NodeAwayError, RedisClient, is_cancelled

_LOOK_EVERY: Final = 1.0
"""Seconds between two looks at which node has which slots."""
_LOOK_SOON: Final = 0.2
"""The same, while a node is away or one has said that a slot has moved."""
_MOST_ASKED: Final = 24
"""Nodes that one look asks."""
_TIMEOUTS: Final = 3
"""Answers that do not come in time, in a row, before a node is away."""


@dataclass(slots=True, eq=False)
class Node:
    """A node: how to reach it, and how it is."""

    place: Place
    client: RedisClient
    timeouts: int = 0
    away: bool = False


class ClusterClient:
    """See redis_client.Client."""

    layout = CLUSTER

    def __init__(self, address: RedisAddress, *, tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._tls = tls
        self._nodes: dict[Place, Node] = {}
        self._view: View | None = None
        self._owners: dict[int, Node] = {}
        self._looking: asyncio.Task[None] | None = None
        self._doubted = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []
        self.pool: Any = ClusterPool(self)
        self.lane = ClusterLane(self, lambda client: client.lane)
        self.lists = ClusterLane(self, lambda client: client.lists)
        self.probes = ClusterLane(self, lambda client: client.probes)

    # Which node

    def owner(self, slot: int) -> Node:
        """Return the node that has a slot. Raises RedisConnectionError where none is known, or it is away."""
        node = self._owners.get(slot)
        if node is None or node.away:
            self.doubt()
            raise self._gone()
        return node

    async def known(self) -> None:
        """Wait until it is known which node has which slots. Raises RedisConnectionError where no node says it."""
        if self._view is None:
            await self._look()
        if self._view is None:
            raise RedisConnectionError("no node of the cluster answers")

    def redirected(self, slot: int, error: AskError, *, moved: bool, by: Node) -> Node:
        """Return the node that has a slot now, or some of its names already, as another node has said."""
        node = self._node((error.host or by.place[0], int(error.port)))
        if moved:
            self._owners[slot] = node
            self.doubt()
        return node

    def answered(self, node: Node) -> None:
        """Note that a node has answered in time."""
        node.timeouts = 0

    def failed(self, node: Node, error: BaseException) -> RedisConnectionError:
        """Note that a node has not answered, or not in time; return what to raise (see `_gone`)."""
        node.timeouts += 1
        if not isinstance(error, TimeoutError) or node.timeouts >= _TIMEOUTS:
            node.away = True
            self.doubt()
        return self._gone()

    def _gone(self) -> RedisConnectionError:
        """Return the error for a node that does not answer: one of the store as a whole, where no other is there."""
        if any(not self._node(place).away for place in self._primaries()):
            return NodeAwayError("a node of the cluster is away")
        return RedisConnectionError("no node of the cluster answers")

    def doubt(self) -> None:
        """Look again, soon."""
        self._doubted.set()

    def is_there(self, slot: int) -> bool:
        """Return whether the node that has a slot is known, and not away."""
        node = self._owners.get(slot)
        return node is not None and not node.away

    def primaries(self) -> list[Node]:
        """Return the primaries that are known, in the order of their first slots."""
        return [self._node(place) for place in self._primaries()]

    def servers(self) -> list[redis.Redis]:
        """See redis_client.Client."""
        return [node.client.pool for node in self.primaries()]

    def sources(self) -> Mapping[Place, Callable[[], redis.Connection]]:
        """See redis_client.Client."""
        return {node.place: node.client.connection for node in self.primaries()}

    async def shape(self) -> object:
        """See redis_client.Client."""
        await self._look()
        return None if self._view is None else self._view.ranges

    async def follow(self) -> None:
        """Look which node has which slots, again and again, until cancelled."""
        while not is_cancelled():
            await self._look()
            await asyncio.sleep(_LOOK_SOON)
            if not any(node.away for node in self.primaries()):
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_EVERY):
                        await self._doubted.wait()
            self._doubted.clear()

    async def close(self) -> None:
        """Close every connection."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        for node in self._nodes.values():
            await node.client.close()

    def _primaries(self) -> Sequence[Place]:
        return () if self._view is None else self._view.primaries

    def _node(self, place: Place) -> Node:
        node = self._nodes.get(place)
        if node is None:
            address = replace(self._address, host=place[0], port=place[1], nodes=())
            node = self._nodes[place] = Node(place, RedisClient(address, tls=self._tls))
        return node

    # Looking

    async def _look(self) -> None:
        """Look which node has which slots; those who come meanwhile wait for the same look."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._looked())
        await asyncio.wait((self._looking,))

    async def _looked(self) -> None:
        found = await self._asked()
        view = latest(found.values())
        if view is None:
            return
        for node, answer in found.items():
            if answer.well or not view.well:
                node.timeouts, node.away = 0, False
        await self._use(view)

    async def _asked(self) -> dict[Node, View]:
        """Ask the nodes that are known, or those of the address while none of them is; return what they say."""
        places = dict.fromkeys((*self._primaries(), *(self._view.replicas if self._view else ())))
        known = [self._node(place) for place in list(places)[:_MOST_ASKED]]
        answers = await self._answers(known) if known else {}
        return answers or await self._answers([self._node(place) for place in self._address.nodes])

    async def _answers(self, nodes: Sequence[Node]) -> dict[Node, View]:
        asked = {asyncio.ensure_future(_view_of(node)): node for node in nodes}
        ended, waiting = await first_answers(asked)
        views = {asked[task]: task.result() for task in ended if task.exception() is None}
        for task in waiting:
            task.cancel()
            if views:
                self.failed(asked[task], TimeoutError())
        return views

    async def _use(self, view: View) -> None:
        before = self._primaries()
        self._view = view
        self._owners = {slot: self._node(place) for slot, place in owners(view).items()}
        if set(before) != set(view.primaries):
            for changed in self.on_change:
                changed()
        for place in set(self._nodes) - set(view.primaries) - view.replicas - set(self._address.nodes):
            node = self._nodes.pop(place)
            await node.client.close()


async def _view_of(node: Node) -> View:
    """Ask a node. Raises what a command may raise."""
    info, slots = await node.client.probes.ask_all((("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")), within=WITHIN)
    for reply in (info, slots):
        if isinstance(reply, BaseException):
            raise reply
    return read_view(node.place, info, slots)
