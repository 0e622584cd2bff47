"""Metrics of exchanges. Exchanges with the same values of all labels are counted together, many in one call.

So `_count` takes what such exchanges have in common (`_Alike`) and their totals (`_Amounts`). A metric that adds up
something of exchanges, such as bytes, is a sum in `_Amounts`; its `add` is told how many exchanges one stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.core.facts import NOTHING, Exchange, Repeated
from ollama_cache_proxy.policy.status import Detail, Result
from ollama_cache_proxy.telemetry.metric_exposition import ratio
from ollama_cache_proxy.telemetry.metric_table import Families

_WORDS: Final = {result: result.value.lower() for result in Result}
"""The values of the label `cache`."""
_HIT, _BYPASS = Result.HIT, Result.BYPASS
"""Read once: on Python 3.11 accessing a member of an enum costs as much as adding to a counter."""


class _Alike(NamedTuple):
    """What exchanges that are counted together have in common."""

    operation: str
    model: str
    category: str
    status: int
    error: Source | None
    result: Result
    detail: Detail | None
    collapsed: bool
    stored: bool


@dataclass(slots=True, eq=False)
class _Amounts:
    """The totals of exchanges that are counted together: the times of each in seconds, and sums of all else."""

    seconds: list[float]
    first_bytes: list[float]
    """Fewer than `seconds` where some had none."""
    first_tokens: Sequence[float] = ()
    items: int = 0
    items_known: int = 0
    saved_seconds: float = 0.0
    saved_prompt_tokens: int = 0
    saved_output_tokens: int = 0

    def add(self, exchange: Exchange, times: int) -> None:
        """Add as many exchanges as `times` that equal this one except for their times, which are added elsewhere."""
        if exchange.items:
            self.items += times * exchange.items
            self.items_known += times * exchange.items_known
        saved = exchange.saved
        if saved is not NOTHING:
            self.saved_seconds += times * saved.seconds
            self.saved_prompt_tokens += times * saved.prompt_tokens
            self.saved_output_tokens += times * saved.output_tokens


class ExchangeMetrics:
    """Counts exchanges. Most are deferred and counted in groups by `count_deferred`: a fifth of the cost of one by one.

    `on_defer` is called for each deferred exchange. `model` returns the label of a model, `now` Unix time in seconds.
    """

    def __init__(
        self, families: Families, *, model: Callable[[str], str], on_defer: Callable[[], None], now: Callable[[], float]
    ) -> None:
        self.hits = 0
        self.misses = 0
        self._families = families
        self._model = model
        self._on_defer = on_defer
        self._now = now
        self._deferred: dict[tuple[Any, ...], _Amounts] = {}

    def add(self, event: Exchange) -> None:
        """Count an exchange: now if it has a trace or a first token; others are deferred."""
        if event.trace or event.first_token is not None:
            first_bytes, first_tokens = ([] if at is None else [at] for at in (event.first_byte, event.first_token))
            self._count_now(event, _Amounts([event.seconds], first_bytes, first_tokens))
            return
        alike = _alike(event)
        amounts = self._deferred.get(alike)
        if amounts is None:
            amounts = self._deferred[alike] = _Amounts([], [])
        amounts.seconds.append(event.seconds)
        if event.first_byte is not None:
            amounts.first_bytes.append(event.first_byte)
        amounts.add(event, 1)
        self._on_defer()

    def add_repeated(self, event: Repeated) -> None:
        """Count hits of the fast path; the first byte and token of each were sent together with the last."""
        seconds = [*event.seconds]
        self._count_now(
            event.exchange, _Amounts(seconds, seconds, () if event.exchange.first_token is None else seconds)
        )

    def count_deferred(self) -> None:
        """Count the deferred exchanges."""
        deferred, self._deferred = self._deferred, {}
        for alike, amounts in deferred.items():
            self._count(_Alike(*alike), amounts)
        self._families.hit_ratio.set(ratio(self.hits, self.misses))

    def _count_now(self, exchange: Exchange, amounts: _Amounts) -> None:
        """Count exchanges that equal this one except for their times, which are already in `amounts`."""
        amounts.add(exchange, len(amounts.seconds))
        alike = _Alike(*_alike(exchange))
        self._count(alike, amounts)
        if exchange.trace:
            how, last = (alike.operation, _WORDS[alike.result]), amounts.seconds[-1]
            self._families.request_duration_seconds.set_exemplar(how, last, exchange.trace, self._now())

    def _count(self, alike: _Alike, amounts: _Amounts) -> None:
        """Count exchanges with the same labels; every metric of exchanges is counted from here."""
        families, times, operation, word = self._families, len(amounts.seconds), alike.operation, _WORDS[alike.result]
        how = (operation, word)
        model = "" if alike.result is _BYPASS else self._model(alike.model)  # a bypass may name anything
        families.requests.inc(operation, model, word, str(alike.status), by=times)
        families.request_duration_seconds.observe(how, amounts.seconds)
        families.first_byte_seconds.observe(how, amounts.first_bytes)
        if amounts.first_tokens:
            families.time_to_first_token_seconds.observe(how, amounts.first_tokens)
        if amounts.items:
            families.items.inc(operation, "hit", by=amounts.items_known)
            families.items.inc(operation, "miss", by=amounts.items - amounts.items_known)
        if alike.error is not None:
            families.errors.inc(alike.error.value, by=times)
        if alike.result is _BYPASS:
            families.bypasses.inc(operation, alike.detail.value if alike.detail is not None else "", by=times)
        else:
            families.lookups.inc(operation, alike.category, word, by=times)
            self._count_lookups(alike, amounts)
        self._count_saved(operation, amounts)

    def _count_lookups(self, alike: _Alike, amounts: _Amounts) -> None:
        """Count hits or misses."""
        families, operation, times = self._families, alike.operation, len(amounts.seconds)
        if alike.result is _HIT:
            self.hits += times
            families.hits.inc(operation, by=times)
            if alike.collapsed:
                families.collapsed.inc(operation, by=times)
        else:
            self.misses += times
            families.misses.inc(operation, by=times)
            if not alike.stored and alike.detail not in (None, Detail.RECORDING):
                families.unkept.inc(operation, alike.detail.value, by=times)

    def _count_saved(self, operation: str, amounts: _Amounts) -> None:
        """Count what Ollama did not have to do again."""
        families = self._families
        if amounts.saved_seconds:
            families.saved_seconds.inc(operation, by=amounts.saved_seconds)
        if amounts.saved_prompt_tokens:
            families.saved_prompt_tokens.inc(operation, by=amounts.saved_prompt_tokens)
            families.prompt_tokens_by_source.inc(operation, "saved", by=amounts.saved_prompt_tokens)
        if amounts.saved_output_tokens:
            families.saved_output_tokens.inc(operation, by=amounts.saved_output_tokens)


def _alike(exchange: Exchange) -> tuple[Any, ...]:
    """Return the fields of `_Alike` as a plain tuple, which is faster to make."""
    cache = exchange.cache
    how = (exchange.operation, exchange.model, exchange.category, exchange.status, exchange.error)
    return (*how, cache.result, cache.detail, cache.collapsed, cache.stored)
