"""The lanes in front of each Ollama: interactive requests go before batches (policy/lane_order.py).

They stand on the way to Ollama, so that hits, and requests that join a flight, never wait. Without the setting `lanes`
nothing of this exists. What the proxy itself asks does not pass here, and what has no ticket goes straight on.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from types import TracebackType
from typing import Any

from ollama_cache_proxy.core.errors import ProxyError, Source
from ollama_cache_proxy.core.facts import LaneEnd, LaneLevel, LaneWaited, Observer
from ollama_cache_proxy.core.ports import Body, Clock, Siblings, Topic, Upstream, UpstreamResponse
from ollama_cache_proxy.policy.classify import Bypass, Candidate
from ollama_cache_proxy.policy.credentials import CredentialRules, given
from ollama_cache_proxy.policy.endpoints import Endpoint
from ollama_cache_proxy.policy.lane_order import TELLS_EVERY, LaneOrder
from ollama_cache_proxy.policy.lane_rules import LaneRules, client_of, lane_of, names_remote, texts_in, uses_lanes
from ollama_cache_proxy.policy.lane_speeds import LaneSpeeds, even_part
from ollama_cache_proxy.policy.messages import Fields, Request
from ollama_cache_proxy.policy.model_names import is_remote
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.tickets import Lane, Ticket


class Lanes:
    """The lanes of all Ollamas; one instance a process. `key` hashes clients, and is random.

    `siblings` are told while interactive requests are under way: they pause their batches, too.
    """

    def __init__(
        self, rules: LaneRules, *, key: bytes, clock: Clock, observe: Observer, siblings: Siblings | None = None
    ) -> None:
        self.rules = rules
        self.siblings = siblings
        self.clock = clock
        self.observe = observe
        self.speeds = LaneSpeeds()
        self.of_hosts: dict[str, HostLanes] = {}
        """By the name of each Ollama, which is empty where there is one."""
        self._key = key

    def at(self, upstream: Upstream, name: str = "") -> HostLanes:
        """Return an Ollama behind its lanes."""
        self.of_hosts[name] = lanes = HostLanes(self, upstream, name)
        return lanes

    def ticket(  # noqa: PLR0913 - what is known of a request when it has been read
        self,
        endpoint: Endpoint,
        fields: Fields,
        body: bytes | None,
        classified: Bypass | Candidate,
        *,
        category: str,
        address: str,
        credentials: CredentialRules,
    ) -> Ticket | None:
        """Return the ticket of a request with these fields; None for one that takes nothing of Ollama's time."""
        model = classified.model
        if not uses_lanes(endpoint) or (is_remote(model) if model else names_remote(body)):
            return None
        texts = classified.items if isinstance(classified, Candidate) else texts_in(endpoint, body)
        return Ticket(
            lane=lane_of(self.rules, endpoint, fields, category=category, texts=texts),
            client=client_of(self._key, given(credentials, fields), address),
            operation=endpoint.operation,
            model=model,
            texts=texts,
        )

    def texts_in_part(self, ticket: Ticket, texts: int) -> int:
        """Return how many of so many texts of a list to ask for now."""
        if ticket.lane is not Lane.BATCH:
            return texts
        now = self.clock.monotonic()
        parts = [lanes.order.texts_in_part(ticket, now) for lanes in self.of_hosts.values()]
        return even_part(texts, min([part for part in parts if part is not None], default=texts))

    async def sibling_is_busy(self, name: str) -> None:
        """Pause batches for an Ollama, as a sibling was told to."""
        if name in self.of_hosts:
            self.of_hosts[name].pause()

    def levels(self) -> list[LaneLevel]:
        """Return what gauges show of each lane."""
        return [
            LaneLevel(upstream=name, lane=lane, waiting=state.waiting, under_way=state.under_way)
            for name, lanes in self.of_hosts.items()
            for lane, state in lanes.order.states()
        ]

    def figures(self) -> list[dict[str, Any]]:
        """Return what the live page shows of each lane: who waits."""
        return [found for lanes in self.of_hosts.values() for found in lanes.figures()]


class HostLanes:
    """One Ollama behind its lanes. See ports.Upstream."""

    def __init__(self, lanes: Lanes, upstream: Upstream, name: str) -> None:
        self.order = LaneOrder(lanes.rules, lanes.speeds)
        self.upstream = upstream
        self._lanes = lanes
        self._name = name
        self._waiters: dict[Ticket, _Waiter] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None

    def ask(
        self, request: Request, body: Body, *, repeatable: bool = False, spent: float = 0.0, patient: bool = False
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """See ports.Upstream. The time in the lane is none of Ollama's."""
        ticket = request.ticket
        if ticket is None:
            return self.upstream.ask(request, body, repeatable=repeatable, spent=spent, patient=patient)
        ticket.size = len(body) if isinstance(body, bytes) else 0
        return _Asking(self, ticket, request, body, repeatable=repeatable, spent=spent, patient=patient)

    async def enter(self, ticket: Ticket) -> None:
        """Wait until it is the ticket's turn. Raises ProxyError where too many wait, or it has waited too long."""
        order, rules, begun = self.order, self._lanes.rules, self._lanes.clock.monotonic()
        ahead = order.ahead(ticket.lane)
        if not order.join(ticket, begun):
            self._report(ticket, LaneEnd.FULL, 0.0, ahead)
            raise _refusal(Detail.LANE_FULL, f"{rules.max_waiting} requests wait for Ollama (lanes_max_waiting)")
        ticket.on_raise = self._raised
        waiter = self._waiters[ticket] = _Waiter(begun)
        self._let_go()
        end = LaneEnd.LEFT
        try:
            if not waiter.turn.done():
                async with asyncio.timeout(rules.max_wait):
                    await waiter.turn
            end = LaneEnd.SENT
        except TimeoutError:
            end = LaneEnd.LATE
            raise _refusal(Detail.LANE_WAIT, f"Ollama was busy for {rules.max_wait:g} s (lanes_max_wait)") from None
        finally:
            ticket.waited = self._lanes.clock.monotonic() - begun
            ticket.waited_in_all += ticket.waited
            del self._waiters[ticket]
            if end is not LaneEnd.SENT:
                self.leave(ticket)
            self._report(ticket, end, ticket.waited, ahead)

    def leave(self, ticket: Ticket, *, done: bool = False) -> None:
        """Note that a ticket's response has ended, or that it waits no longer; `done`: it was a whole success."""
        ticket.on_raise = None
        self.order.leave(ticket, self._lanes.clock.monotonic(), done=done)
        self._let_go()

    def pause(self) -> None:
        """Take it that interactive requests of another process are under way, for a moment."""
        self.order.seen_elsewhere(self._lanes.clock.monotonic())
        self._let_go()

    def figures(self) -> list[dict[str, Any]]:
        """Return how each lane is, as JSON values; `seconds` is how long the first that waits has waited."""
        now = self._lanes.clock.monotonic()
        return [
            {
                **({"upstream": self._name} if self._name else {}),
                "lane": lane.value,
                "waiting": state.waiting,
                "clients": state.clients,
                "underWay": state.under_way,
                "seconds": round(now - min(self._since(lane), default=now), 1),
            }
            for lane, state in self.order.states()
        ]

    def _since(self, lane: Lane) -> list[float]:
        return [waiter.since for ticket, waiter in self._waiters.items() if ticket.waiting and ticket.lane is lane]

    def _let_go(self) -> None:
        """Send on those whose turn it is, and see to it that this is done again when the next one's is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._lanes.clock.monotonic()
        for ticket in self.order.next(now):
            turn = self._waiters[ticket].turn
            if not turn.done():
                turn.set_result(None)
        due = self.order.due(now)
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(due, self._let_go)
        if self._lanes.siblings is not None and self._telling is None:
            self._tell(self._lanes.siblings)

    def _tell(self, siblings: Siblings) -> None:
        """Tell siblings that interactive requests are here, and again while they are."""
        self._telling = None
        if self.order.is_busy_here:
            siblings.send(Topic.LANES_BUSY, self._name)
            self._telling = asyncio.get_running_loop().call_later(TELLS_EVERY, self._tell, siblings)

    def _raised(self, ticket: Ticket) -> None:
        self.order.raised(ticket, self._lanes.clock.monotonic())
        self._let_go()

    def _report(self, ticket: Ticket, end: LaneEnd, seconds: float, ahead: int) -> None:
        self._lanes.observe(
            LaneWaited(
                operation=ticket.operation,
                model=ticket.model,
                upstream=self._name,
                lane=ticket.lane,
                end=end,
                seconds=seconds,
                ahead=ahead,
            )
        )


class _Waiter:
    """A request that waits; `since` is monotonic time, in seconds."""

    __slots__ = ("since", "turn")

    def __init__(self, since: float) -> None:
        self.since = since
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Asking(AbstractAsyncContextManager[UpstreamResponse]):
    """One request, which is sent when it is its turn, and holds up others until its response has been read."""

    def __init__(self, lanes: HostLanes, ticket: Ticket, request: Request, body: Body, **how: Any) -> None:
        self._lanes = lanes
        self._ticket = ticket
        self._request = request
        self._body = body
        self._how = how
        self._asking: AbstractAsyncContextManager[UpstreamResponse]
        self._success = False

    async def __aenter__(self) -> UpstreamResponse:
        await self._lanes.enter(self._ticket)
        try:
            self._asking = self._lanes.upstream.ask(self._request, self._body, **self._how)
            response = await self._asking.__aenter__()
        except BaseException:
            self._lanes.leave(self._ticket)
            raise
        self._success = response.head.status == HTTPStatus.OK
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._asking.__aexit__(kind, error, trace)
        finally:
            self._lanes.leave(self._ticket, done=self._success and kind is None)


def waited(request: Request) -> float:
    """Return for how many seconds the latest asking of this request has waited in a lane."""
    return 0.0 if request.ticket is None else request.ticket.waited


def _refusal(detail: Detail, message: str) -> ProxyError:
    """Return the error for a request that Ollama was not asked for: 503 (RFC 9110, section 15.6.4)."""
    return ProxyError(Source.CLIENT, HTTPStatus.SERVICE_UNAVAILABLE, message, asks=0, detail=detail)
