"""The routes about several Ollamas: who has what and how each is, and draining one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from ollama_cache_proxy.admin.own_route import Route
from ollama_cache_proxy.core.ports import Siblings, Topic
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.replies import Reply, error, json

UPSTREAMS: Final = "/api/cache/upstreams"
_DRAINING: Final = {"drain": True, "resume": False}
"""The last segments of the routes that change something."""


class Fleet(Protocol):
    """Several Ollamas."""

    @property
    def names(self) -> Sequence[str]:
        """Their names, in the order of the settings."""

    def described(self) -> list[dict[str, Any]]:
        """Return how each is, and what it has."""

    def drain(self, name: str, *, draining: bool) -> bool:
        """Send one no more requests, or again; return False where it is the last one that takes any."""


def upstream_routes(fleet: Fleet, siblings: Siblings | None) -> Mapping[str, Mapping[str, Route]]:
    """Return the routes, by path and method."""

    async def listed(_request: Request, _body: bytes) -> Reply:
        return json({"upstreams": fleet.described()})

    def change_of(name: str) -> Route:
        async def change(request: Request, _body: bytes) -> Reply:
            draining = _DRAINING.get(request.target.partition("?")[0].rpartition("/")[2])
            if draining is None:
                return error(404, "an upstream can be told to drain, and to resume")
            if not fleet.drain(name, draining=draining):
                return error(409, "all others are drained: requests would have nowhere to go")
            if siblings is not None:
                await siblings.send_and_wait(Topic.DRAIN, [name, draining])
            return json(next(one for one in fleet.described() if one["name"] == name))

        return change

    changes: dict[str, Callable[..., Any]] = {name: change_of(name) for name in fleet.names}
    return {UPSTREAMS: {"GET": listed}} | {f"{UPSTREAMS}/{name}/": {"POST": route} for name, route in changes.items()}
