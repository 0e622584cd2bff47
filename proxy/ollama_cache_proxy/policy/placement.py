"""Which of several Ollamas a request goes to: pure, from what is known of each host at this moment.

A host that has the model loaded comes before one that only has it, unless it has so much more in flight that a load
would be sooner; among equals the least busy one, by requests in flight divided by weight. A conversation goes back to
the same host, where its beginning is in the prompt cache: the one that wins a rendezvous of the hosts for its hash
(Thaler and Ravishankar, 1998; weighted as by Schindelhauer and Schomaker, 2005), unless that one is busier by a bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from ollama_cache_proxy.policy.record import record

STAY: Final = 2.0
"""Requests in flight, for a weight of 1, by which a conversation's own host may be busier than the least busy one."""
LOAD: Final = 8.0
"""Likewise by which hosts with the model loaded may be busier than one that would have to load it."""


@record
class Host:
    """One Ollama as it is now, as far as a request for one model is concerned."""

    name: str
    weight: float = 1.0
    serves: bool = True
    """Whether the settings let it serve this model."""
    present: bool = True
    """Whether it has the model; true where that is not known."""
    loaded: bool = False
    in_flight: int = 0
    models: int = 0
    """How many models it has loaded."""
    well: bool = True
    """Whether it is not ejected."""
    draining: bool = False

    @property
    def busy(self) -> float:
        """Requests in flight with one more, for a weight of 1."""
        return (self.in_flight + 1) / self.weight


def candidates(hosts: Sequence[Host], model: str, conversation: bytes = b"") -> list[str]:
    """Return the names of the hosts that a request may be sent to, the best one first.

    `conversation` stands for the beginning of the prompt; empty where there is none. A model that no host has goes to
    the first host alone, whose 404 is Ollama's own. Hosts that are ejected are tried where all are.
    """
    usable = _usable([host for host in hosts if host.serves] or hosts)
    having = [host for host in usable if host.present]
    if not having:
        return [host.name for host in usable[:1]]
    loaded = [host for host in having if host.loaded]
    others = sorted((host for host in having if not host.loaded), key=lambda host: _order(host, model))
    if not loaded:
        return [host.name for host in others]
    ready = _in_turn(loaded, model, conversation)
    if others and others[0].busy + LOAD < ready[0].busy:
        return [host.name for host in (others[0], *ready, *others[1:])]
    return [host.name for host in (*ready, *others)]


def _usable(hosts: Sequence[Host]) -> Sequence[Host]:
    """Return the hosts that take requests; those that are ejected, or draining, only where there are no others."""
    staying = [host for host in hosts if not host.draining] or hosts
    return [host for host in staying if host.well] or staying


def _order(host: Host, model: str) -> tuple[float, float, float]:
    """Return what hosts without the model are sorted by: the fewest requests, then the fewest other models."""
    return (host.busy, host.models / host.weight, -score(host, model.encode()))


def _in_turn(hosts: Sequence[Host], model: str, conversation: bytes) -> list[Host]:
    """Return the hosts that have the model loaded: the conversation's own first, or else the least busy one."""
    turn = sorted(hosts, key=lambda host: (host.busy, -score(host, model.encode())))
    if not conversation:
        return turn
    own = max(hosts, key=lambda host: score(host, model.encode() + b"\0" + conversation))
    if own.busy > turn[0].busy + STAY:
        return turn
    return [own, *(host for host in turn if host is not own)]


def score(host: Host, what: bytes) -> float:
    """Return a host's score in the rendezvous for `what`; the highest one wins, in proportion to the weights."""
    digest = blake2b(what, key=blake2b(host.name.encode(), digest_size=32).digest(), digest_size=8).digest()
    chance = (int.from_bytes(digest) + 1) / (_ALL + 2)
    return -host.weight / math.log(chance)


_ALL: Final = 2**64 - 1
