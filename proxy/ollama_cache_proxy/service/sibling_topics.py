"""What a worker does with the topics that its siblings send."""

from __future__ import annotations

from collections.abc import Callable

from ollama_cache_proxy.core.ports import Topic
from ollama_cache_proxy.policy.purge import Filter
from ollama_cache_proxy.service.neighbours import Opened
from ollama_cache_proxy.service.siblings import SiblingProcesses


def handle_sibling_topics(siblings: SiblingProcesses, opened: Opened, report: Callable[[], None]) -> None:
    """Subscribe each part to its topics; `report` reports the hits that are not reported yet."""

    async def purge(wanted: dict[str, str | None]) -> None:
        opened.neighbours.purges.add(Filter(**wanted))

    async def forget(_: None) -> None:
        opened.chosen.forget()

    async def flush(_: None) -> None:
        report()
        await opened.statistics.flush_for_sibling()

    siblings.subscribe(Topic.CHANGE_BEGINS, opened.models.sibling_change_began)
    siblings.subscribe(Topic.CHANGE_ENDS, opened.models.sibling_change_ended)
    siblings.subscribe(Topic.CONTEXT, opened.contexts.sibling_saw)
    siblings.subscribe(Topic.PURGE, purge)
    siblings.subscribe(Topic.DISCARD, forget)
    siblings.subscribe(Topic.FLUSH, flush)
    if opened.audit is not None:
        siblings.subscribe(Topic.AUDIT_BEGINS, opened.audit.sibling_begins)
        siblings.subscribe(Topic.AUDIT_STOPS, opened.audit.sibling_stops)
    if opened.neighbours.lanes is not None:
        siblings.subscribe(Topic.LANES_BUSY, opened.neighbours.lanes.sibling_is_busy)
    if opened.fleet is not None:
        siblings.subscribe(Topic.DRAIN, opened.fleet.sibling_drained)
    siblings.subscribe(Topic.TOTALS, opened.statistics.merge_totals)
