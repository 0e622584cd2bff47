"""What serves requests under one set of settings, and how another takes its place.

A request is served to its end by the one that it came to, so its key, its rules and its credentials belong together.
The flights and the fast path of each are its own: nothing is answered under rules that no longer hold.
"""

from __future__ import annotations

from ollama_cache_proxy.core.exchange import Exchanges
from ollama_cache_proxy.core.explanation import Explainer
from ollama_cache_proxy.core.fast_path import Each
from ollama_cache_proxy.core.packing import Packing
from ollama_cache_proxy.core.prompt_watch import PromptWatch
from ollama_cache_proxy.core.questions import Neighbours
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.rules import Rules
from ollama_cache_proxy.stores.entry_codec import decode, encode


@record
class Service:
    """What depends on the rules of exchanges, which a reload may change."""

    exchanges: Exchanges
    explainer: Explainer
    packing: Packing
    rules: Rules
    prompts: PromptWatch | None = None
    """None where nothing of prompts is looked at."""


def service_of(neighbours: Neighbours, *, each: Each | None, before: Service | None = None) -> Service:
    """Return what serves requests by the rules of `neighbours`; `before` is the service whose place it takes.

    `each` is that of fast_path.py.
    """
    exchanges = Exchanges(neighbours, each=each, before=None if before is None else before.exchanges)
    packing = Packing(neighbours, encode=encode, decode=decode)
    return Service(
        exchanges=exchanges,
        explainer=Explainer(neighbours),
        packing=packing,
        rules=neighbours.rules,
        prompts=neighbours.prompts,
    )


class InService:
    """The current service, and those before it that have requests in progress."""

    def __init__(self, service: Service) -> None:
        self.current = service
        self._before: list[Exchanges] = []

    def replace(self, service: Service) -> None:
        """Put another service in the place of the current one."""
        self.report()
        self._before = [exchanges for exchanges in self._all() if exchanges.serving]
        self.current = service

    @property
    def serving(self) -> int:
        """How many requests are in progress."""
        return sum(exchanges.serving for exchanges in self._all())

    def report(self) -> None:
        """Report the hits of the fast path that are not reported yet."""
        for exchanges in self._all():
            exchanges.fast_path.report()

    def _all(self) -> list[Exchanges]:
        return [*self._before, self.current.exchanges]
