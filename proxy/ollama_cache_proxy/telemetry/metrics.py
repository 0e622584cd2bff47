"""Prometheus metrics from facts. metric_table.py is the table of metrics, metric_exposition.py renders them.

A new metric is a row of the table, and the line that counts its fact: here, or for exchanges in exchange_metrics.py.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ollama_cache_proxy import __version__
from ollama_cache_proxy.core.facts import (
    Audited,
    Event,
    Exchange,
    Health,
    LaneWaited,
    Levels,
    NotStored,
    OwnRefusal,
    Part,
    PromptRead,
    Repeated,
    StoreCall,
    Stored,
    StoreFault,
    UpstreamLevel,
    Worked,
)
from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.labels import Labels
from ollama_cache_proxy.policy.prompts.prompt_memory import Reading
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.sums import Snapshot
from ollama_cache_proxy.telemetry.exchange_metrics import ExchangeMetrics
from ollama_cache_proxy.telemetry.metric_exposition import Description, Exposition
from ollama_cache_proxy.telemetry.metric_table import Families

_MAX_MODELS: Final = 50
"""Names of models that are labels; others are `other`."""
_MAX_DEFERRED: Final = 200
"""Facts that are deferred at most."""
_CLOSINGS: Final = ("places", "keep-alive", "full")
"""Values of downstream.places.Closing."""


class Metrics:
    """An observer that counts facts, and renders the metrics. Statistics that outlive the process are in statistics.py.

    Most facts are deferred, and counted together before a reading. `now` is Unix time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._families = families = Families()
        self._exposition = Exposition(families, self._count_deferred)
        self.registry = self._exposition.registry
        self._models = Labels(_MAX_MODELS)
        self._exchanges = ExchangeMetrics(families, model=self._model, on_defer=self._defer, now=now)
        self._deferred_work: dict[tuple[str, str], list[Usage]] = {}
        self._deferred_prompts: dict[tuple[str, str], list[Reading]] = {}
        self._deferred_calls: dict[str, list[float]] = {}
        self._deferred_count = 0
        families.log_lines_dropped.inc(by=0)
        self._parts = {
            Part.UPSTREAM: families.upstream_up,
            Part.STORE: families.store_up,
            Part.STORE_WRITES: families.store_writes_up,
        }
        for part, gauge in self._parts.items():
            gauge.set(part is Part.STORE_WRITES)
        families.hit_ratio.set(0)
        for detail in (Detail.WRONG_TOKEN, Detail.TOKEN_GUESSES):
            families.own_refusals.inc(detail.value, by=0)  # so that the first one is an increase
        for reason in _CLOSINGS:
            families.closed_connections.inc(reason, by=0)
        families.build_info.set(1, __version__, platform.python_version())

    def __call__(self, event: Event) -> None:
        """Count a fact."""
        match event:
            case Exchange():
                self._exchanges.add(event)
            case StoreCall() | Stored() | NotStored() | StoreFault():  # early, since they are many
                self._store(event)
            case Repeated():
                self._exchanges.add_repeated(event)
            case Worked():
                self._deferred_work.setdefault((event.operation, event.model), []).append(event.usage)
                self._defer()
            case PromptRead():
                self._deferred_prompts.setdefault((event.operation, event.model), []).append(event.reading)
                self._defer()
            case LaneWaited():
                self._families.lane_wait_seconds.observe((event.lane.value, event.end.value), (event.seconds,))
                self._families.lane_ahead.observe((event.lane.value,), (event.ahead,))
            case Audited():
                self._audited(event)
            case Health():
                self._parts[event.part].set(event.well)
            case OwnRefusal():
                self._families.own_refusals.inc(event.detail.value)

    def _store(self, event: StoreCall | Stored | NotStored | StoreFault) -> None:
        families = self._families
        match event:
            case StoreCall():
                self._deferred_calls.setdefault(event.operation, []).append(event.seconds)
                if event.failed:
                    families.store_errors.inc(event.operation)
                self._defer()
            case Stored():
                families.stores.inc(event.operation, by=event.entries)
                families.stored_bytes.inc(event.operation, by=event.size)
            case NotStored():
                families.unkept.inc(event.operation, event.detail.value)
            case StoreFault():
                families.store_faults.inc(event.kind.value)

    def _audited(self, event: Audited) -> None:
        why = event.why.value if event.why is not None else ""
        counts = {"same": event.same, "wrong": event.wrong, "not-reproducible": event.not_reproducible}
        for outcome, count in {**counts, why: event.left_out}.items():
            if count:
                self._families.audited.inc(event.operation, outcome, by=count)
        if event.kind is not None and event.cause is not None:
            model = self._model(event.model)
            self._families.audit_wrong.inc(model, event.kind.value, event.cause.value, by=event.wrong)

    @property
    def hits(self) -> int:
        """The number of hits, collapsed requests included."""
        self._count_deferred()
        return self._exchanges.hits

    @property
    def misses(self) -> int:
        """The number of misses."""
        self._count_deferred()
        return self._exchanges.misses

    def level(self, levels: Levels) -> None:
        """Set the gauges."""
        families, tiers = self._families, levels.tiers
        families.requests_in_flight.set(levels.serving)
        families.upstream_requests_in_flight.set(levels.asking)
        families.connections.set(levels.connections)
        families.idle_connections.set(levels.idle)
        families.connection_limit.set(levels.places)
        families.store_breaker_open.replace({(name,): is_open for name, is_open in levels.broken.items()})
        families.store_entries.replace({(tier.name,): tier.entries for tier in tiers if tier.entries is not None})
        families.store_bytes.replace({(tier.name,): tier.size for tier in tiers})
        families.store_evictions.replace({(tier.name,): tier.evicted for tier in tiers})
        self._upstreams(levels.upstreams)
        families.lane_waiting.replace({(one.upstream, one.lane.value): one.waiting for one in levels.lanes})
        families.lane_under_way.replace({(one.upstream, one.lane.value): one.under_way for one in levels.lanes})
        residents = [(self._model(resident.model), resident) for resident in levels.residents]
        families.model_loaded.replace(_sums((model, 1) for model, _ in residents))
        families.model_size_bytes.replace(_sums((model, resident.size) for model, resident in residents))
        families.model_vram_bytes.replace(_sums((model, resident.vram) for model, resident in residents))

    def _upstreams(self, upstreams: Sequence[UpstreamLevel]) -> None:
        """Set what is told of each of several Ollamas."""
        families = self._families
        families.upstream_host_up.replace({(one.name,): one.up for one in upstreams})
        families.upstream_host_requests_in_flight.replace({(one.name,): one.in_flight for one in upstreams})
        counts: dict[tuple[str, ...], float] = {(one.name, "answered"): one.answered for one in upstreams}
        counts |= {(one.name, "failed"): one.failed for one in upstreams}
        families.upstream_host_requests.replace(counts)

    def connection_closed(self, reason: str) -> None:
        """Count a connection that the proxy has closed, or refused."""
        self._families.closed_connections.inc(reason)

    def log_line_dropped(self) -> None:
        """Count a line of the log that is lost, since nobody reads the log."""
        self._families.log_lines_dropped.inc()

    def loop_lag(self, seconds: float) -> None:
        """Count a look at the event loop: by how much it was late."""
        self._families.event_loop_lag_seconds.observe((), (seconds,))

    def snapshot(self) -> Snapshot:
        """Return the metrics of this process, to be added to those of its siblings."""
        return self._exposition.snapshot()

    def render(self, accept: str, together: Snapshot | None = None) -> tuple[bytes, str]:
        """Return body and Content-Type for an Accept field; see Exposition."""
        return self._exposition.render(accept, together)

    def described(self) -> Iterable[Description]:
        """Yield the rows of docs/metrics.md."""
        return self._exposition.described()

    def _defer(self) -> None:
        self._deferred_count += 1
        if self._deferred_count >= _MAX_DEFERRED:
            self._count_deferred()

    def _count_deferred(self) -> None:
        """Count the deferred facts."""
        self._deferred_count = 0
        self._exchanges.count_deferred()
        calls, self._deferred_calls = self._deferred_calls, {}
        for name, seconds in calls.items():
            self._families.store_operation_seconds.observe((name,), seconds)
        work, self._deferred_work = self._deferred_work, {}
        for (operation, model), usages in work.items():
            self._work((operation, self._model(model)), usages)
        prompts, self._deferred_prompts = self._deferred_prompts, {}
        for (operation, model), readings in prompts.items():
            self._prompts(operation, self._model(model), readings)

    def _work(self, what: tuple[str, str], usages: Sequence[Usage]) -> None:
        """Count what Ollama reports about its work; `what` is operation and model."""
        families = self._families
        for counter, amounts in (
            (families.prompt_tokens, [usage.prompt_tokens for usage in usages]),
            (families.output_tokens, [usage.output_tokens for usage in usages]),
            (families.prompt_eval_seconds, [usage.prompt_seconds for usage in usages]),
            (families.eval_seconds, [usage.output_seconds for usage in usages]),
        ):
            known = [amount for amount in amounts if amount is not None]
            if known:
                counter.inc(*what, by=sum(known))
        self._prompt_sources(what, usages)
        written = [(usage.output_seconds, usage.output_tokens) for usage in usages if usage.output_tokens]
        per_token = [seconds / tokens for seconds, tokens in written if seconds is not None]
        families.time_per_output_token_seconds.observe(what[1:], per_token)
        loads = [usage.load_seconds for usage in usages if usage.load_seconds is not None]
        families.load_duration_seconds.observe(what[1:], loads)

    def _prompt_sources(self, what: tuple[str, str], usages: Sequence[Usage]) -> None:
        """Count prompt tokens by source, and those of which both number and time of the work are known."""
        families, by_source = self._families, {"computed": 0, "prompt-cache": 0, "not-told": 0}
        computed, seconds = 0, 0.0
        for usage in usages:
            if usage.computed_tokens is None:
                by_source["not-told"] += usage.prompt_tokens or 0
                continue
            by_source["computed"] += usage.computed_tokens
            by_source["prompt-cache"] += usage.cached_tokens or 0
            if usage.prompt_seconds is not None:
                computed += usage.computed_tokens
                seconds += usage.prompt_seconds
        for source, tokens in by_source.items():
            if tokens:
                families.prompt_tokens_by_source.inc(what[0], source, by=tokens)
        if computed and seconds:
            families.prompt_computed_tokens.inc(*what, by=computed)
            families.prompt_computed_seconds.inc(*what, by=seconds)

    def _prompts(self, operation: str, model: str, readings: Sequence[Reading]) -> None:
        """Count what became of prompts."""
        families = self._families
        reused = sum(reading.reused for reading in readings)
        computed = sum(reading.tokens for reading in readings) - reused
        families.prompt_forecast_tokens.inc(operation, model, "reused", by=reused)
        families.prompt_forecast_tokens.inc(operation, model, "computed", by=computed)
        for reading in readings:
            if reading.told is not None:
                by = "told" if reading.exact else "time"
                families.prompt_forecast_checked_tokens.inc(model, by, by=reading.tokens)
                families.prompt_forecast_wrong_tokens.inc(model, by, by=abs(reading.reused - reading.told))
            for loss in reading.losses:
                what = (model, loss.cause.value, "" if loss.place is None else loss.place.where.value)
                families.prompt_lost_tokens.inc(*what, by=loss.tokens)
                if reading.seconds:
                    families.prompt_lost_seconds.inc(*what, by=loss.tokens * reading.seconds)

    def _model(self, name: str) -> str:
        """Return the label of a model, the same for each spelling of its name."""
        return self._models.of(model_names.short(name))


def _sums(values: Iterable[tuple[str, int | None]]) -> dict[tuple[str, ...], float]:
    """Return sums by label of what is not None: models above the limit share the label `other`."""
    sums: dict[tuple[str, ...], float] = {}
    for label, value in values:
        if value is not None:
            sums[label,] = sums.get((label,), 0) + value
    return sums
