"""What a model's name stands for where there are several Ollamas; see ports.Models.

Hosts that have it with equal digest, version, epoch and context length have one identity, and so one key. Where they
differ, the identity is that of the host to which a request would go, and the others' are looked up after it. What is
stored belongs to the host that has answered: it is confirmed there, and not stored where a host outside of the identity
has answered. A change of a model on one host counts as one on all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ollama_cache_proxy.core.ports import Clock, Identity, Siblings, Stability, Topic
from ollama_cache_proxy.policy import context_lengths, model_names
from ollama_cache_proxy.policy.hosts import Hosts
from ollama_cache_proxy.upstream.digests import OllamaModels
from ollama_cache_proxy.upstream.fleet import Fleet
from ollama_cache_proxy.upstream.fleet_host import FleetHost
from ollama_cache_proxy.upstream.loaded_contexts import LoadedContexts


class OfHost:
    """See ports.Siblings: messages about one host, which is named after their values."""

    def __init__(self, siblings: Siblings, host: str) -> None:
        self._siblings = siblings
        self._host = host

    def send(self, topic: Topic, value: Any = None) -> None:
        """See ports.Siblings."""
        self._siblings.send(topic, [*value, self._host])

    async def send_and_wait(self, topic: Topic, value: Any = None) -> None:
        """See ports.Siblings."""
        await self._siblings.send_and_wait(topic, [*value, self._host])


class FleetContexts:
    """With which context length each host loads models."""

    def __init__(self, contexts: Mapping[str, LoadedContexts]) -> None:
        self._contexts = contexts

    async def sibling_saw(self, told: tuple[str, str, str]) -> None:
        """Take over what a sibling has seen."""
        digest, contexts, host = told
        if (own := self._contexts.get(host)) is not None:
            await own.sibling_saw((digest, contexts))


@dataclass(frozen=True, slots=True, eq=False)
class _Together:
    """See ports.Stability: that of every host of an identity, and that none but these has answered."""

    parts: tuple[Stability, ...]
    hosts: Hosts

    def unchanged(self) -> bool:
        return self.hosts.kept_to and all(part.unchanged() for part in self.parts)


class FleetModels:
    """See ports.Models. `models` are those of each host, by name; the first one tells siblings of changes."""

    def __init__(self, fleet: Fleet, models: Mapping[str, OllamaModels], *, clock: Clock) -> None:
        self._fleet = fleet
        self._models = models
        self._clock = clock

    async def identify(self, name: str) -> Identity | None:
        """See ports.Models."""
        model = model_names.canonical(name)
        if model is None:
            return None
        hosts = await self._fleet.having(model)
        identities = await self._identities(hosts, name)
        groups: dict[tuple[str, ...], list[tuple[FleetHost, Identity]]] = {}
        for host, identity in zip(hosts, identities, strict=True):
            if identity is not None:
                groups.setdefault(_what(host, identity), []).append((host, identity))
        found = [_together(model, group) for group in groups.values()]
        return replace(found[0], others=tuple(found[1:])) if found else None

    async def _identities(self, hosts: Sequence[FleetHost], name: str) -> list[Identity | None]:
        """Return what the name stands for on each host; one after the other where none has to be asked."""
        now = self._clock.monotonic()
        if all(self._models[host.name].edition(now) is not None for host in hosts):
            return [await self._models[host.name].identify(name) for host in hosts]
        return await asyncio.gather(*(self._models[host.name].identify(name) for host in hosts))

    async def is_current(self, identity: Identity) -> bool:
        """See ports.Models."""
        found = await asyncio.gather(*(models.is_current(identity) for models in self._of(identity)))
        return all(found)

    def edition(self, moment: float) -> int | None:
        """See ports.Models. Hosts that take no requests do not count, but for what was known of them."""
        for host in self._fleet.hosts:
            if self._models[host.name].edition(moment) is None and host.takes_requests:
                return None
        return self._fleet.edition + sum(models.current_edition for models in self._models.values())

    def begin_change(self, name: str | None) -> object:
        """See ports.Models."""
        return {host: models.begin_change(name) for host, models in self._models.items()}

    async def change_known(self, token: object) -> None:
        """See ports.Models."""
        changes = _changes(token)
        host, models = next(iter(self._models.items()))
        await models.change_known(changes[host])

    def end_change(self, token: object) -> None:
        """See ports.Models."""
        for host, change in _changes(token).items():
            self._models[host].end_change(change)
        self._fleet.models_changed()

    async def sibling_change_began(self, change: tuple[str, str]) -> None:
        """Note a change that passes through a sibling: its token and model."""
        for models in self._models.values():
            await models.sibling_change_began(change)

    async def sibling_change_ended(self, token: str) -> None:
        """Note the end of a sibling's change."""
        for models in self._models.values():
            await models.sibling_change_ended(token)
        self._fleet.models_changed()

    def confirm(self, identity: Identity, withdraw: Callable[[], None], *, keys: int, plain: bool) -> None:
        """See ports.Models. Which context length it was made with shows at the host that has answered alone."""
        known = identity.hosts is not None and bool(identity.hosts.answered)
        for models in self._of(identity):
            models.confirm(identity, withdraw, keys=keys, plain=plain and known)

    def close(self) -> None:
        """Stop probing."""
        for models in self._models.values():
            models.close()

    def _of(self, identity: Identity) -> list[OllamaModels]:
        """Return the models of the host that has answered, or of all that have this identity."""
        hosts = identity.hosts
        if hosts is None:
            return [*self._models.values()]
        names = [hosts.answered] if hosts.answered else sorted(hosts.names)
        return [self._models[name] for name in names]


def _what(host: FleetHost, identity: Identity) -> tuple[str, ...]:
    """Return what makes two hosts answer alike."""
    part = context_lengths.part(identity.contexts)
    epoch = host.about.epoch
    return (identity.digest, identity.version, part, "" if epoch is None else f"={epoch}")


def _together(model: str, group: Sequence[tuple[FleetHost, Identity]]) -> Identity:
    """Return the identity of hosts that answer alike."""
    hosts = Hosts(frozenset(host.name for host, _ in group), model)
    first, identity = group[0]
    stability = _Together(tuple(one.stability for _, one in group), hosts)
    return replace(identity, stability=stability, hosts=hosts, epoch=first.about.epoch)


def _changes(token: object) -> dict[str, object]:
    assert isinstance(token, dict)  # noqa: S101 - for the type checker; it came from begin_change
    return token
