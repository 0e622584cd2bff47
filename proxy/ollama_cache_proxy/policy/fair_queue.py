"""Requests that wait, fair between clients: deficit round robin (Shreedhar and Varghese, 1995), by bytes.

Each client in turn may send as many bytes as all others; one with large requests gets fewer of them sent.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ollama_cache_proxy.policy.tickets import Ticket

_QUANTUM: Final = 1024
"""Bytes that a client may send more in each round."""
_MOST: Final = 1 << 18
"""Bytes that a request counts for at most."""
_LEAST: Final = _QUANTUM
"""Likewise at least: a short prompt takes Ollama's time, too, and nobody sends two in one turn."""


@dataclass(slots=True)
class _Waiting:
    """The requests of one client, in the order of their arrival."""

    tickets: deque[Ticket] = field(default_factory=deque)
    deficit: int = 0
    """Bytes that it may still send in this round."""


class FairQueue:
    """The requests that wait in one lane."""

    def __init__(self) -> None:
        self._clients: dict[bytes, _Waiting] = {}
        """In the order of their turns."""
        self._size = 0

    def __len__(self) -> int:
        """Return how many requests wait."""
        return self._size

    @property
    def clients(self) -> int:
        """How many clients wait."""
        return len(self._clients)

    def add(self, ticket: Ticket) -> None:
        """Add a request, behind the others of its client; the next part of what has begun, before them."""
        tickets = self._clients.setdefault(ticket.client, _Waiting()).tickets
        if ticket.begun:
            tickets.appendleft(ticket)
        else:
            tickets.append(ticket)
        self._size += 1

    def remove(self, ticket: Ticket) -> None:
        """Take out a request that waits."""
        waiting = self._clients[ticket.client]
        waiting.tickets.remove(ticket)
        self._size -= 1
        if not waiting.tickets:
            del self._clients[ticket.client]

    def take(self) -> Ticket:
        """Take out the request whose turn it is, and return it; one has to wait."""
        missing = {client: _cost(one.tickets[0]) - one.deficit for client, one in self._clients.items()}
        rounds = max(0, min(-(-lack // _QUANTUM) for lack in missing.values()))
        if rounds:  # nobody may send any more: so many rounds later somebody may
            for one in self._clients.values():
                one.deficit += rounds * _QUANTUM
        client = next(client for client, lack in missing.items() if lack <= rounds * _QUANTUM)
        turn = self._clients[client]
        ticket = turn.tickets.popleft()
        turn.deficit -= _cost(ticket)
        self._size -= 1
        if not turn.tickets:
            del self._clients[client]  # a client that has nothing to send saves nothing
        elif turn.deficit < _cost(turn.tickets[0]):
            self._clients[client] = self._clients.pop(client)
        return ticket


def _cost(ticket: Ticket) -> int:
    return min(max(ticket.size, _LEAST), _MOST)
