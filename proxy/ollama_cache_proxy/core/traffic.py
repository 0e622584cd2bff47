"""Clients' requests to Ollama while hits are audited: how many are under way, and with which options models are loaded.

It stands between the exchanges and Ollama; what the proxy itself asks does not pass here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final

from ollama_cache_proxy.core.ports import Body, Clock, Upstream, UpstreamResponse
from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.audit_requests import RunnerOptions, may_have_options, options_in
from ollama_cache_proxy.policy.messages import Request

_MAX_MODELS: Final = 256
"""Models whose options are remembered."""


class Traffic:
    """See ports.Upstream. `on_request` is called before each request is sent."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self.asking = 0
        self.ended_at = float("-inf")
        """Monotonic time at which the latest request ended, in seconds."""
        self.on_request: Callable[[], None] = _nothing
        self._upstream = upstream
        self._clock = clock
        self._options: dict[str, RunnerOptions] = {}

    def ask(
        self, request: Request, body: Body, *, repeatable: bool = False, spent: float = 0.0, patient: bool = False
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """See ports.Upstream."""
        asking = self._upstream.ask(request, body, repeatable=repeatable, spent=spent, patient=patient)
        return _Asking(self, asking, body if isinstance(body, bytes) else b"")

    def options(self, model: str) -> RunnerOptions:
        """Return the options of the latest request for a model, by its canonical name."""
        return self._options.get(model, frozenset())

    def began(self, body: bytes) -> None:
        """Count a request that is about to be sent."""
        self.asking += 1
        self.on_request()
        if not (self._options or may_have_options(body)):
            return
        found = options_in(body)
        model = model_names.canonical(found[0]) if found is not None else None
        if found is None or model is None:
            return
        self._options.pop(model, None)
        if found[1]:
            self._options[model] = found[1]
            if len(self._options) > _MAX_MODELS:
                del self._options[next(iter(self._options))]

    def ended(self) -> None:
        """Count the end of a request."""
        self.asking -= 1
        self.ended_at = self._clock.monotonic()


class _Asking(AbstractAsyncContextManager[UpstreamResponse]):
    """One request, which counts from before it is sent until its response has been read."""

    def __init__(self, traffic: Traffic, asking: AbstractAsyncContextManager[UpstreamResponse], body: bytes) -> None:
        self._traffic = traffic
        self._asking = asking
        self._body = body

    async def __aenter__(self) -> UpstreamResponse:
        self._traffic.began(self._body)
        try:
            return await self._asking.__aenter__()
        except BaseException:
            self._traffic.ended()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._traffic.ended()
        return await self._asking.__aexit__(kind, error, trace)


def _nothing() -> None:
    """Do nothing."""
