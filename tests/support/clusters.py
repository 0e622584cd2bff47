"""A cluster: three primaries with a replica each, real servers on loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self

import redis
from redis.crc import key_slot

from tests.support import canary
from tests.support.servers import RedisServer, free_port

NODE_TIMEOUT: Final = 1.0
"""Seconds after which the nodes take one for gone."""
SLOTS: Final = 16_384
_WITHIN: Final = 60.0
_STARTS: Final = 5


def _started(*arguments: str) -> RedisServer:
    """Start a node. Somebody else may have taken one of its ports: then others are tried."""
    for _ in range(_STARTS):
        node = RedisServer(
            *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
            *("--cluster-node-timeout", str(int(1000 * NODE_TIMEOUT))),
            *("--masterauth", canary.PASSWORD, "--repl-diskless-sync-delay", "0", *arguments),
        )
        try:
            node.start()
        except AssertionError:
            node.close()
        else:
            return node
    raise AssertionError("no node could be started")


class Cluster:
    """Servers; `url` names three of them, of which each knows the others."""

    def __init__(self, primaries: int = 3, *, replicas: bool = True, arguments: tuple[str, ...] = ()) -> None:
        self.primaries: list[RedisServer] = []
        self.replicas: list[RedisServer] = []
        self._size = primaries
        self._replicated = replicas
        self._arguments = arguments

    @property
    def servers(self) -> list[RedisServer]:
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])
        return f"redis+cluster://:{canary.PASSWORD}@{hosts}"

    def start(self) -> Self:
        """Start all of them, and have them be a cluster."""
        for group in (self.primaries, self.replicas)[: 1 + self._replicated]:
            for _ in range(self._size):
                group.append(_started(*self._arguments))
        first: Any = self.primaries[0].client()
        for number, server in enumerate(self.servers, 1):
            client: Any = server.client()
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number)
            if server is not self.primaries[0]:
                bus = server._command[server._command.index("--cluster-port") + 1]
                first.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        for number, primary in enumerate(self.primaries):
            share = SLOTS // len(self.primaries)
            last = SLOTS if number + 1 == len(self.primaries) else (number + 1) * share
            client = primary.client()
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last - 1)
        return self

    async def ready(self) -> None:
        """See `wait`, which is done in a thread: a proxy under test may run in this loop."""
        await asyncio.to_thread(self.wait)

    def wait(self) -> None:
        """Wait until every node knows all others, and every replica has the data of its primary."""
        everybody = len(self.servers)
        _until(lambda: all(_info(server).get("cluster_known_nodes") == everybody for server in self.servers))
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            _until(partial(_replicates, primary, replica))
        _until(lambda: all(_info(server).get("cluster_state") == "ok" for server in self.servers))
        _until(lambda: all(len(owners(server)) == SLOTS for server in self.servers))
        _until(lambda: all(_replicas(server) == len(self.replicas) for server in self.servers))

    def owner(self, slot: int, asked: Sequence[RedisServer] | None = None) -> RedisServer:
        """Return the primary of a slot, as the first node that answers says."""
        for server in asked or self.servers:
            with suppress(redis.RedisError, KeyError):
                port = owners(server)[slot]
                return next(each for each in self.servers if each.port == port)
        raise AssertionError("no node answers")

    def move(self, slot: int, to: RedisServer) -> None:
        """Move a slot with all that is in it, once the cluster is in order; a node that is just coming back refuses."""
        ends = time.monotonic() + _WITHIN
        while True:
            try:
                self._move(slot, to)
            except (redis.RedisError, AssertionError):
                if time.monotonic() > ends:
                    raise
                time.sleep(0.2)
            else:
                return

    def _move(self, slot: int, to: RedisServer) -> None:
        """Move a slot as `redis-cli --cluster reshard` does."""
        origin = self.owner(slot)
        if origin is to:
            return
        self.begin_move(slot, to)
        source: Any = origin.client()
        other = node_id(to)
        while names := source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            address = ("127.0.0.1", to.port, "", 0, 5000, "AUTH", canary.PASSWORD, "KEYS")
            source.execute_command("MIGRATE", *address, *names)
        for server in (to, origin):
            client: Any = server.client()
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", other)

    def begin_move(self, slot: int, to: RedisServer) -> None:
        """Begin to move a slot, with nothing of what is in it."""
        origin = self.owner(slot)
        source: Any = origin.client()
        target: Any = to.client()
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(origin))
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(to))

    def part(self, number: int) -> None:
        """Let the replica of this primary have nothing that is written from now on."""
        replica: Any = self.replicas[number].client()
        replica.config_set("masterauth", "another")
        primary: Any = self.primaries[number].client()
        primary.client_kill_filter(_type="replica")

    def values(self, names: Sequence[str]) -> list[bytes | None]:
        """Return the values of names, each from the primary that has it; None where that one is just being replaced."""
        found: list[bytes | None] = []
        for name in names:
            client: Any = self.owner(key_slot(name.encode())).client()
            try:
                found.append(client.get(name))
            except redis.RedisError:
                found.append(None)
        return found

    def close(self) -> None:
        for server in self.servers:
            server.close()


def node_id(server: RedisServer) -> str:
    client: Any = server.client()
    told = client.execute_command("CLUSTER", "MYID")
    return str(told.decode())


def owners(server: RedisServer) -> dict[int, int]:
    """Return the port of each slot's primary, as a node says."""
    client: Any = server.client()
    told = client.execute_command("CLUSTER", "SLOTS")
    return {slot: int(row[2][1]) for row in told for slot in range(int(row[0]), int(row[1]) + 1)}


def _replicas(server: RedisServer) -> int:
    """Return how many replicas a node knows."""
    client: Any = server.client()
    return len({row[3][1] for row in client.execute_command("CLUSTER", "SLOTS") if len(row) > 3})


def _info(server: RedisServer) -> dict[str, Any]:
    with suppress(redis.RedisError):
        client: Any = server.client()
        told = client.execute_command("CLUSTER", "INFO")
        return _read(told)
    return {}


def _read(told: bytes) -> dict[str, Any]:
    pairs = (line.split(":", 1) for line in told.decode().split() if ":" in line)
    return {name: int(value) if value.isdigit() else value for name, value in pairs}


def _replicates(primary: RedisServer, replica: RedisServer) -> bool:
    with suppress(redis.RedisError):
        client: Any = replica.client()
        about = client.info("replication")
        if about["role"] == "master":
            client.execute_command("CLUSTER", "REPLICATE", node_id(primary))
            return False
        return bool(about["master_link_status"] == "up")
    return False


def _until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + _WITHIN
    while not condition():
        assert time.monotonic() < ends, "the cluster did not form"
        time.sleep(0.05)
