"""Builds the proxy's own routes: figures, events, the live page, and those about entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ollama_cache_proxy.admin.entry_routes import CacheRoutes, ReadStatistics
from ollama_cache_proxy.admin.forecast_route import forecast_routes
from ollama_cache_proxy.admin.gpu_cards import Cards
from ollama_cache_proxy.admin.live_events import Events
from ollama_cache_proxy.admin.live_figures import Figures
from ollama_cache_proxy.admin.live_page import ROUTES as PAGE
from ollama_cache_proxy.admin.pack_routes import PackRoutes
from ollama_cache_proxy.admin.prompt_route import prompt_routes
from ollama_cache_proxy.admin.router import Routes
from ollama_cache_proxy.admin.upstream_routes import upstream_routes
from ollama_cache_proxy.policy.forecast.outlook import InForce
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.context import Context
from ollama_cache_proxy.service.in_service import InService
from ollama_cache_proxy.service.neighbours import Opened


@record
class OwnRoutes:
    """The proxy's own routes, and the events of the live page, which end before the listener drains."""

    routes: Routes
    events: Events


def own_routes(context: Context, opened: Opened, in_service: InService, nvml: Callable[[], Any] | None) -> OwnRoutes:
    """Return the proxy's own routes except health and metrics; `nvml` takes the place of the real one."""

    async def statistics() -> dict[str, Any]:
        in_service.report()
        return await opened.statistics.totals()

    def prompts() -> dict[str, Any]:
        watch = in_service.current.prompts
        report = opened.prompts.report() if watch is None else watch.report()
        return {**report, "watched": watch is not None, "workers": context.settings.workers}

    packs = PackRoutes(lambda: in_service.current.packing)
    figures = _figures(context, opened, statistics, prompts, nvml)
    return OwnRoutes(
        routes={
            **_about_entries(context, opened, statistics, in_service),
            **packs.routes,
            **figures.routes,
            **_forecast(context, opened, in_service),
            **prompt_routes(prompts),
            **({} if opened.fleet is None else upstream_routes(opened.fleet, context.siblings)),
            **PAGE,
        },
        events=Events(figures.state, clock=context.clock, tasks=context.tasks),
    )


def _figures(
    context: Context,
    opened: Opened,
    statistics: ReadStatistics,
    prompts: Callable[[], dict[str, Any]],
    nvml: Callable[[], Any] | None,
) -> Figures:
    return Figures(
        recent=context.recent,
        statistics=statistics,
        prompts=prompts,
        count=opened.chosen.entries.count,
        store_name=opened.chosen.name,
        residents=opened.residents,
        cards=Cards(nvml, tasks=context.tasks),
        tasks=context.tasks,
        upstreams=None if opened.fleet is None else opened.fleet.figures,
        lanes=None if opened.neighbours.lanes is None else opened.neighbours.lanes.figures,
    )


def _forecast(context: Context, opened: Opened, in_service: InService) -> Routes:
    """Return the route that says what other settings would have given."""
    room = opened.chosen.room

    def outlook() -> dict[str, Any]:
        in_service.report()
        rules = in_service.current.rules
        force = InForce(
            lifetime=str(rules.lifetime),
            ttl_embedding=rules.ttl_embedding,
            ttl_completion=rules.ttl_completion,
            room=None if room is None else room.size,
            room_setting="" if room is None else room.setting,
            workers=context.settings.workers,
        )
        return opened.forecaster.outlook(force)

    return forecast_routes(outlook)


def _about_entries(context: Context, opened: Opened, statistics: ReadStatistics, in_service: InService) -> Routes:
    async def explain(request: Request, body: bytes) -> dict[str, Any]:
        return await in_service.current.explainer.explain(request, body)

    return CacheRoutes(
        store=opened.chosen.entries,
        store_name=opened.chosen.name,
        sealed=opened.chosen.sealed,
        store_state=opened.chosen.state,
        purges=opened.neighbours.purges,
        flights=opened.neighbours.shared_flights,
        statistics=statistics,
        explain=explain,
        clock=context.clock,
        siblings=context.siblings,
    ).routes
