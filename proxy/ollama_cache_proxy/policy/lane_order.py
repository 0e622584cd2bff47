"""Who goes next to one Ollama: interactive requests before batches, and batches never starved.

A batch goes while no interactive request waits or is under way: several at a time where nobody was about for a minute,
else one, so that a person waits for one part at most. Else it has to be owed: while interactive requests leave batches
no time, they earn their share of it, and what they use of Ollama's time is taken from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ollama_cache_proxy.policy.fair_queue import FairQueue
from ollama_cache_proxy.policy.lane_rules import LaneRules
from ollama_cache_proxy.policy.lane_speeds import LaneSpeeds
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.tickets import Lane, Ticket

ABOUT: Final = 60.0
"""Seconds after an interactive request in which the next one is expected."""
QUIET_PART: Final = 0.5
"""Seconds that a part of a list may take while nobody is about."""
_LEAST_CREDIT: Final = -0.5
"""Seconds of work that batches have to earn before the first of them goes beside interactive requests."""


@dataclass(slots=True)
class _Run:
    """What is under way."""

    begun: float
    shared: int
    """How many batches were under way when it began, itself included."""
    disturbed: bool
    """Whether an interactive request was under way meanwhile: then nobody knows how long its own work took."""


@record
class LaneState:
    """How one lane is."""

    waiting: int
    clients: int
    """How many clients wait."""
    under_way: int


class LaneOrder:
    """The two lanes of one Ollama. `now` is monotonic time, in seconds."""

    def __init__(self, rules: LaneRules, speeds: LaneSpeeds) -> None:
        self._rules = rules
        self._speeds = speeds
        self._queues = {lane: FairQueue() for lane in Lane}
        self._under_way: dict[Lane, dict[Ticket, _Run]] = {lane: {} for lane in Lane}
        self._credit = _LEAST_CREDIT
        """Seconds of Ollama's time that batches are owed."""
        self._credit_at = 0.0
        self._seen = float("-inf")
        """When an interactive request was last seen."""
        self._elsewhere_until = float("-inf")
        """Until when interactive requests of other processes are taken to be under way."""

    def state(self, lane: Lane) -> LaneState:
        """Return how a lane is."""
        queue = self._queues[lane]
        return LaneState(waiting=len(queue), clients=queue.clients, under_way=len(self._under_way[lane]))

    def states(self) -> list[tuple[Lane, LaneState]]:
        """Return how each lane is."""
        return [(lane, self.state(lane)) for lane in Lane]

    def ahead(self, lane: Lane) -> int:
        """Return how many requests wait that go before, or may go before, one that comes to a lane now."""
        queues = self._queues
        return len(queues[Lane.INTERACTIVE]) + (len(queues[Lane.BATCH]) if lane is Lane.BATCH else 0)

    def join(self, ticket: Ticket, now: float) -> bool:
        """Let a request wait; return False where too many wait. What has begun is never turned away."""
        self._pass_time(now)
        queue = self._queues[ticket.lane]
        if len(queue) >= self._rules.max_waiting and not ticket.begun:
            return False
        queue.add(ticket)
        ticket.waiting = True
        return True

    def leave(self, ticket: Ticket, now: float, *, done: bool = False) -> None:
        """Take back a request that waits, or note the end of one that is under way; `done`: with a whole response."""
        self._pass_time(now)
        if ticket.waiting:
            self._queues[ticket.lane].remove(ticket)
            ticket.waiting = False
            return
        run = self._under_way[ticket.lane].pop(ticket)
        if done and ticket.lane is Lane.BATCH and not run.disturbed:
            self._speeds.note(ticket, (now - run.begun) / run.shared)

    def raised(self, ticket: Ticket, now: float) -> None:
        """Note that a request has become interactive."""
        self._pass_time(now)
        if ticket.waiting:
            self._queues[Lane.BATCH].remove(ticket)
            self._queues[Lane.INTERACTIVE].add(ticket)
        else:
            self._under_way[Lane.INTERACTIVE][ticket] = self._under_way[Lane.BATCH].pop(ticket)
            self._disturb()

    def next(self, now: float) -> list[Ticket]:
        """Return the requests that are to go now; they are under way from now on."""
        self._pass_time(now)
        people, batches = self._queues[Lane.INTERACTIVE], self._queues[Lane.BATCH]
        going: list[Ticket] = []
        while people and len(self._under_way[Lane.INTERACTIVE]) < self._rules.interactive_slots:
            going.append(self._begin(people.take(), now))
        while batches and self._may_go(now):
            ticket = self._begin(batches.take(), now)
            cost = self._speeds.seconds(ticket)
            self._credit = self._credit - cost if self._is_busy(now) else max(_LEAST_CREDIT, self._credit - cost)
            going.append(ticket)
        return going

    def due(self, now: float) -> float | None:
        """Return in how many seconds a batch that waits may go; None where something else has to happen first."""
        if not self._queues[Lane.BATCH] or not self._is_busy(now):
            return None
        owed = max(0.0, -self._credit) / self._rules.batch_share + _A_MOMENT
        return owed if self.is_busy_here else min(owed, self._elsewhere_until - now)

    def texts_in_part(self, ticket: Ticket, now: float) -> int | None:
        """Return how many texts of a list to ask for at a time; None for all of them."""
        self._pass_time(now)
        about = self._is_about(now)
        if about and not self._speeds.is_known(ticket):
            return 1
        return self._speeds.texts_within(ticket, max(self._rules.part_seconds, self._credit) if about else QUIET_PART)

    def _may_go(self, now: float) -> bool:
        if self._is_busy(now):
            return self._credit > 0
        slots = 1 if self._is_about(now) else self._rules.batch_slots
        return len(self._under_way[Lane.BATCH]) < slots

    @property
    def is_busy_here(self) -> bool:
        """Whether interactive requests of this process wait or are under way."""
        return bool(self._queues[Lane.INTERACTIVE] or self._under_way[Lane.INTERACTIVE])

    def seen_elsewhere(self, now: float) -> None:
        """Note that interactive requests of another process are under way; it says so again while they are."""
        self._pass_time(now)
        self._elsewhere_until = now + _LASTS
        self._disturb()

    def _is_busy(self, now: float) -> bool:
        return self.is_busy_here or now < self._elsewhere_until

    def _is_about(self, now: float) -> bool:
        return self._is_busy(now) or now - self._seen < ABOUT

    def _begin(self, ticket: Ticket, now: float) -> Ticket:
        ticket.waiting, ticket.begun = False, True
        shared, busy = len(self._under_way[Lane.BATCH]) + 1, self._is_busy(now)
        self._under_way[ticket.lane][ticket] = _Run(begun=now, shared=shared, disturbed=busy)
        if ticket.lane is Lane.INTERACTIVE:
            self._disturb()
        return ticket

    def _disturb(self) -> None:
        for run in self._under_way[Lane.BATCH].values():
            run.disturbed = True

    def _pass_time(self, now: float) -> None:
        """Let batches earn what they are owed; while there are none they lose it again, but not what they owe."""
        passed, self._credit_at = now - self._credit_at, now
        there_are = bool(self._queues[Lane.BATCH] or self._under_way[Lane.BATCH])
        if there_are or self._credit < _LEAST_CREDIT:
            most = _MOST_CREDIT if there_are else _LEAST_CREDIT
            self._credit = min(self._credit + self._rules.batch_share * passed, most)
        else:
            self._credit = max(self._credit - passed, _LEAST_CREDIT)
        if self._is_busy(now):
            self._seen = now


TELLS_EVERY: Final = 0.1
"""Seconds after which a process tells others again that interactive requests are under way."""
_LASTS: Final = 2.5 * TELLS_EVERY
"""For how many seconds others believe that."""
_MOST_CREDIT: Final = 2.0
"""Seconds that batches are owed at most."""
_A_MOMENT: Final = 0.001
"""Seconds, after which what is owed is more than nothing."""
