"""Several Ollamas as one: see ports.Upstream.

A request goes to the host that placement.py chooses. Another host is tried once, only where the first one refused or
lost the connection before any byte of a response, and only for known endpoints that change no model: an HTTP response
of any status is the answer. Lists of models are merged. Changes of models go to the hosts that X-Upstream names, else
to those of the setting `changes_to`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final

from ollama_cache_proxy.core.errors import ProxyError, Source, unreachable
from ollama_cache_proxy.core.facts import Health, Observer, Part, UpstreamChanged, UpstreamLevel, UpstreamState
from ollama_cache_proxy.core.lanes import waited
from ollama_cache_proxy.core.ports import Body, Clock, UpstreamResponse
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.policy import endpoints, merged_lists
from ollama_cache_proxy.policy.conversation import Wanted, wanted
from ollama_cache_proxy.policy.endpoints import Endpoint, Kind
from ollama_cache_proxy.policy.messages import Request, first, without
from ollama_cache_proxy.policy.placement import candidates
from ollama_cache_proxy.policy.record import changed
from ollama_cache_proxy.policy.steps import finish
from ollama_cache_proxy.upstream.fleet_host import FleetHost
from ollama_cache_proxy.upstream.fleet_looks import FleetLooks
from ollama_cache_proxy.upstream.fleet_responses import Everywhere, Made, body_of, merged_head
from ollama_cache_proxy.upstream.fleet_uploads import Reading, SharedUpload

X_UPSTREAM: Final = b"x-upstream"
_QUICK: Final = 1 << 18
"""Bytes of a body that is read in one turn of the event loop."""
_FIRST_LOOKS: Final = 3.0
"""Seconds that a request waits for the first looks at all hosts."""
_SEE_AGAIN: Final = 1.0
"""Seconds between two looks for a model that no host was seen to have."""
_LIST_DEADLINE: Final = 5.0
"""Seconds that a host has for a list of its models; the others' are merged without it."""
_HAVING: Final = frozenset({"copy", "delete"})
"""Changes that only hosts can do that have the model."""
_PUSH: Final = "push"
_SHOW: Final = "show"
_NOT_NAMED: Final = "no upstream has the name or the label that X-Upstream gives"


class Fleet:
    """The hosts, in the order of the settings: "the first" is the first of them that takes requests."""

    def __init__(  # noqa: PLR0913 - a setting, and neighbours
        self,
        hosts: Sequence[FleetHost],
        *,
        changes_to_all: bool,
        clock: Clock,
        observe: Observer,
        tasks: Tasks,
        turns: Turns,
    ) -> None:
        self.hosts = list(hosts)
        self.name = ", ".join(host.ollama.name for host in hosts)
        self.edition = 0
        """Changes whenever other hosts take requests."""
        self.looks = FleetLooks(self.hosts, clock=clock, tasks=tasks, changed=self._health_changed)
        self._all = changes_to_all
        self.clock = clock
        self._observe = observe
        self._turns = turns
        self._by_name = {host.name: host for host in self.hosts}
        self._well: bool | None = None
        self._seen_at = float("-inf")
        self._seeing: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self.tasks = tasks

    def start(self) -> asyncio.Task[None]:
        """Begin to look at the hosts, once; return the task of the first looks, for which requests wait a moment."""
        if self._starting is None:
            self._starting = self.tasks.spawn(self._start(), "look at the upstreams", endless=True)
        return self._starting

    async def _start(self) -> None:
        await self.looks.start()
        self._report()

    async def close(self) -> None:
        """Close every connection."""
        self.looks.close()
        for host in self.hosts:
            await host.ollama.close()

    @property
    def over_tls(self) -> bool:
        """Whether any of them is spoken to over TLS."""
        return any(host.ollama.over_tls for host in self.hosts)

    def use_tls(self, tls: ssl.SSLContext) -> None:
        """Check certificates by another context from now on."""
        for host in self.hosts:
            host.ollama.use_tls(tls)

    @property
    def asking(self) -> int:
        """How many requests are under way."""
        return sum(host.ollama.asking for host in self.hosts)

    @property
    def is_unresponsive(self) -> bool:
        """Whether no host takes requests."""
        return not any(host.takes_requests for host in self.hosts)

    @property
    def refusal(self) -> str:
        """Why one of them refuses what the proxy itself asks; empty where none does."""
        return next((host.ollama.refusal for host in self.hosts if host.ollama.refusal), "")

    def note_refusal(self, reason: str) -> None:
        """See probes.py: each host notes its own."""

    @property
    def names(self) -> list[str]:
        """The names of the hosts."""
        return [host.name for host in self.hosts]

    def described(self) -> list[dict[str, Any]]:
        """Return how each host is, and what it has, as JSON values."""
        return [host.described() for host in self.hosts]

    def figures(self) -> list[dict[str, Any]]:
        """Return what the live page shows of each host."""
        return [
            {"name": host.name, "state": host.state, "inFlight": host.in_flight, "loaded": len(host.loaded)}
            for host in self.hosts
        ]

    def levels(self) -> list[UpstreamLevel]:
        """Return what gauges show of each host."""
        return [
            UpstreamLevel(
                name=host.name,
                up=host.takes_requests,
                in_flight=host.in_flight,
                answered=host.answered,
                failed=host.failed,
            )
            for host in self.hosts
        ]

    async def sibling_drained(self, told: tuple[str, bool]) -> None:
        """Drain a host, or take it back, as a sibling was told to."""
        name, draining = told
        self.drain(name, draining=draining)

    def drain(self, name: str, *, draining: bool) -> bool:
        """Send a host no more requests, or again; return False where it is the last one that takes any."""
        host = self._by_name[name]
        others = [other for other in self.hosts if other is not host and not other.draining]
        if draining and not others:
            return False
        if host.draining is not draining:
            host.draining = draining
            self.edition += 1
            state = UpstreamState.DRAINED if draining else UpstreamState.RESUMED
            self._observe(UpstreamChanged(name=host.name, state=state))
            self._report()
        return True

    def ask(
        self, request: Request, body: Body, *, repeatable: bool = False, spent: float = 0.0, patient: bool = False
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """See ports.Upstream."""
        return _Asking(self, request, body, repeatable=repeatable, spent=spent, patient=patient)

    # Choosing.

    @property
    def first(self) -> FleetHost:
        """The first host that takes requests, or of all where none does."""
        return next((host for host in self.hosts if host.takes_requests), self.hosts[0])

    def named(self, text: bytes) -> list[FleetHost]:
        """Return the host of a name, or those of a label; raise ProxyError where there is none."""
        name = text.decode("latin-1").strip()
        found = [host for host in self.hosts if name == host.name or name in host.about.labels]
        if not found:
            raise ProxyError(Source.CLIENT, HTTPStatus.BAD_REQUEST, _NOT_NAMED)
        return found

    async def having(self, model: str, conversation: bytes = b"") -> list[FleetHost]:
        """Return the hosts that a request for a model may be sent to, the best one first."""
        if not (starting := self.start()).done():
            await asyncio.wait({starting}, timeout=_FIRST_LOOKS)
        if not any(host.seen_for(model).present for host in self.hosts if host.takes_requests):
            await self._see_anew()
        names = candidates([host.seen_for(model) for host in self.hosts], model, conversation)
        return [self._by_name[name] for name in names]

    async def for_request(self, request: Request, endpoint: Endpoint, body: Body) -> tuple[list[FleetHost], str]:
        """Return the hosts that a request may be sent to, the best one first, and its model's canonical name."""
        asked = await self._asked(request, endpoint, body)
        model = asked.model
        if not model:
            return sorted(self.hosts, key=lambda host: not host.takes_requests), ""
        found = await self.having(model, asked.conversation)
        if request.hosts is None:
            return found, model
        own = [host for host in found if host.name in request.hosts.names]
        if not own:
            names = [host.seen_for(model) for host in self.hosts if host.name in request.hosts.names]
            own = [self._by_name[name] for name in candidates(names, model, asked.conversation)]
        others = [host for host in found if host not in own and host.seen_for(model).present]
        return (own + others if any(host.takes_requests for host in own) or not others else others + own), model

    async def _asked(self, request: Request, endpoint: Endpoint, body: Body) -> Wanted:
        """Return what a request asks for; its body is read only where that matters."""
        known = Wanted(model="" if request.hosts is None else request.hosts.model)
        if endpoint.kind in (Kind.CHAT, Kind.COMPLETION):
            asked = await self.wanted(request, endpoint, body)
            return replace(asked, model=known.model or asked.model)
        if known.model or (endpoint.policy is None and endpoint.operation not in (_SHOW, _PUSH)):
            return known
        return await self.wanted(request, endpoint, body)

    async def wanted(self, request: Request, endpoint: Endpoint, body: Body) -> Wanted:
        """Return what a request asks for."""
        if not isinstance(body, bytes):
            return Wanted()
        steps = wanted(endpoint, request.fields, body)
        return finish(steps) if len(body) <= _QUICK else await self._turns.run(steps)

    async def for_change(self, request: Request, endpoint: Endpoint, body: Body) -> list[FleetHost]:
        """Return the hosts that a change goes to."""
        asked = await self.wanted(request, endpoint, body)
        if asked.files:
            return self.for_upload()
        having = [host for host in self.hosts if host.digests is None or asked.model in host.digests]
        if self._all:
            return having or [self.first] if endpoint.operation in _HAVING else self.hosts
        if not having and asked.origin:
            having = [host for host in self.hosts if host.digests is None or asked.origin in host.digests]
        return [next((host for host in having if host.takes_requests), self.first)]

    def for_upload(self) -> list[FleetHost]:
        """Return the hosts that an upload goes to, and so what is made of it."""
        return self.hosts if self._all else [self.first]

    def listing(self) -> list[FleetHost]:
        """Return the hosts whose lists are merged."""
        return [host for host in self.hosts if not host.health.ejected] or self.hosts

    async def _see_anew(self) -> None:
        """Look at what the hosts have, unless that was done a moment ago."""
        if self._seeing is None or self._seeing.done():
            if self.clock.monotonic() - self._seen_at < _SEE_AGAIN:
                return
            self._seeing = self.tasks.spawn(self.looks.see_tags(), "look for a model")
        await asyncio.shield(self._seeing)
        self._seen_at = self.clock.monotonic()

    def models_changed(self) -> None:
        """Look soon at what the hosts have."""
        for host in self.hosts:
            host.tags_wanted = True
            host.look.set()

    # Health.

    def lost(self, host: FleetHost) -> None:
        """Note a connection that a host refused or lost, and look at it."""
        if host.health.request_failed(self.clock.monotonic()):
            self._health_changed(host)
            host.look.set()

    def _health_changed(self, host: FleetHost) -> None:
        self.edition += 1
        ejected = host.health.ejected
        state = UpstreamState.EJECTED if ejected else UpstreamState.BACK
        self._observe(UpstreamChanged(name=host.name, state=state, reason=host.why() if ejected else ""))
        self._report()

    def _report(self) -> None:
        """Report the health of all together, once for each change."""
        well = not self.is_unresponsive
        if well is not self._well:
            self._well = well
            if well and self.refusal:  # which its host has reported
                return
            reason = "" if well else f"Ollama at {self.name} does not answer"
            self._observe(Health(part=Part.UPSTREAM, well=well, name=f"Ollama at {self.name}", reason=reason))


class _Asking(AbstractAsyncContextManager[UpstreamResponse]):
    """One request, and the response of the host that answers it."""

    def __init__(  # noqa: PLR0913 - what `ask` takes
        self, fleet: Fleet, request: Request, body: Body, *, repeatable: bool, spent: float, patient: bool
    ) -> None:
        self._fleet = fleet
        self._named = first(request.fields, X_UPSTREAM)
        if self._named is not None:
            request = changed(request, fields=without(request.fields, X_UPSTREAM))
        self._request = request
        self._body = body
        self._repeatable = repeatable
        self._spent = spent
        self._patient = patient
        self._open: AsyncExitStack

    async def __aenter__(self) -> UpstreamResponse:
        async with AsyncExitStack() as stack:
            response = await self._begin(stack)
            self._open = stack.pop_all()
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._open.__aexit__(kind, error, trace)

    async def _begin(self, stack: AsyncExitStack) -> UpstreamResponse:
        fleet, request = self._fleet, self._request
        endpoint, _ = endpoints.find(request.method, request.target)
        named = None
        if self._named is not None and endpoint.policy is None:
            named = fleet.named(self._named)
        if merged_lists.is_list(endpoint) and named is None:
            return await self._merged(endpoint, fleet.listing())
        if endpoint.changes:
            return await self._at(stack, named or await fleet.for_change(request, endpoint, self._body))
        if endpoints.is_blob(request.target):
            return await self._at(stack, named or fleet.for_upload())
        if named is not None:
            return await self._sent(stack, named[0], "")
        return await self._answered(stack, endpoint)

    async def _at(self, stack: AsyncExitStack, hosts: Sequence[FleetHost]) -> UpstreamResponse:
        """Return what one host responds, or several together."""
        return await (self._everywhere(stack, hosts) if len(hosts) > 1 else self._sent(stack, hosts[0], ""))

    async def _answered(self, stack: AsyncExitStack, endpoint: Endpoint) -> UpstreamResponse:
        """Return the response of the best host, or of the next one where that has given none."""
        fleet, begun = self._fleet, self._fleet.clock.monotonic()
        hosts, model = await fleet.for_request(self._request, endpoint, self._body)
        whole = self._body is None or isinstance(self._body, bytes)
        movable = self._repeatable and whole and endpoint.operation != _PUSH and len(hosts) > 1
        try:
            return await self._sent(stack, hosts[0], model, movable=movable)
        except ProxyError as error:
            if not (movable and error.unanswered):
                raise
            asks = error.asks
        self._spent += fleet.clock.monotonic() - begun - waited(self._request)
        again, _ = await fleet.for_request(self._request, endpoint, self._body)
        other = next((host for host in again if host is not hosts[0]), hosts[1])
        try:
            return await self._sent(stack, other, model)
        except ProxyError as error:
            error.asks += asks
            raise

    async def _sent(
        self,
        stack: AsyncExitStack,
        host: FleetHost,
        model: str,
        *,
        movable: bool = False,
        reading: Reading | None = None,
    ) -> UpstreamResponse:
        """Send the request to a host, and return its response; `stack` ends both.

        `reading` is its part in a body that several get.
        """
        body = self._body if reading is None else reading
        async with AsyncExitStack() as own:
            host.begin(model)
            own.callback(host.end, model)
            asking = host.upstream.ask(
                self._request, body, repeatable=self._repeatable, spent=self._spent, patient=self._patient
            )
            try:
                with host.waited_for(movable=movable) as scope:
                    response = await _entered(own, asking, scope, host)
            except ProxyError as error:
                host.failed += error.detail is None
                if error.unanswered:
                    self._fleet.lost(host)
                raise
            finally:
                if reading is not None:
                    reading.close()
            stack.push_async_exit(own.pop_all())
        host.answered += 1
        response.host = host.name
        if self._request.hosts is not None:
            self._request.hosts.answered = host.name
        return response

    async def _merged(self, endpoint: Endpoint, hosts: Sequence[FleetHost]) -> UpstreamResponse:
        """Return the lists of hosts as one; where none has given one, the first response, or error."""
        found = await asyncio.gather(*map(self._whole, hosts), return_exceptions=True)
        lists = [one for one in found if isinstance(one, Made) and one.head.status == HTTPStatus.OK]
        if len({one.body for one in lists}) > 1:
            try:
                body = merged_lists.merged(endpoint, [one.body for one in lists])
            except ValueError:
                return lists[0]
            return Made(merged_head(lists[0].head, len(body)), body)
        made = lists or [one for one in found if isinstance(one, Made)]
        if made:
            return made[0]
        raise next(one for one in found if isinstance(one, BaseException))

    async def _whole(self, host: FleetHost) -> Made:
        try:
            async with asyncio.timeout(_LIST_DEADLINE), AsyncExitStack() as stack:
                response = await self._sent(stack, host, "")
                body = await body_of(response)
                return Made(merged_head(response.head, len(body)), body)
        except TimeoutError:
            raise unreachable(f"Ollama at {host.ollama.name} does not answer") from None

    async def _everywhere(self, stack: AsyncExitStack, hosts: Sequence[FleetHost]) -> UpstreamResponse:
        """Send a change to several hosts, and return their responses as one."""
        fleet = self._fleet
        asked = [host for host in hosts if not host.health.ejected] or hosts
        failed = {host.name: host.why() for host in hosts if host not in asked}
        begun: dict[str, UpstreamResponse] = {}
        readings = self._readings(stack, len(asked))
        sent = [
            self._sent(stack, host, "", movable=True, reading=reading)
            for host, reading in zip(asked, readings, strict=True)
        ]
        found = await asyncio.gather(*sent, return_exceptions=True)
        for host, one in zip(asked, found, strict=True):
            if isinstance(one, ProxyError):
                failed[host.name] = one.message
            elif isinstance(one, BaseException):
                raise one
            else:
                begun[host.name] = one
        if not begun:
            raise next(one for one in found if isinstance(one, BaseException))
        return await stack.enter_async_context(Everywhere(begun, failed, fleet.tasks))

    def _readings(self, stack: AsyncExitStack, hosts: int) -> Sequence[Reading | None]:
        """Return the part of each host in a body that is still arriving, None where it is there as a whole."""
        if self._body is None or isinstance(self._body, bytes):
            return [None] * hosts
        upload = SharedUpload(self._body, hosts)
        task = self._fleet.tasks.spawn(upload.hand_out(), "hand out an upload", endless=True)

        async def stop() -> None:
            task.cancel()
            await asyncio.wait({task})

        stack.push_async_callback(stop)
        return upload.readings


async def _entered(
    stack: AsyncExitStack,
    asking: AbstractAsyncContextManager[UpstreamResponse],
    scope: asyncio.Timeout,
    host: FleetHost,
) -> UpstreamResponse:
    """Return the response; raise ProxyError where the host is found to hang before it begins."""
    try:
        async with scope:
            return await stack.enter_async_context(asking)
    except TimeoutError as error:
        if scope.expired():
            raise host.lost() from error
        raise
