"""What each part of a worker does with what its siblings say."""

from __future__ import annotations

from ollama_cache_proxy.core.exchange import Exchanges
from ollama_cache_proxy.core.ports import Topic
from ollama_cache_proxy.policy.purge import Filter
from ollama_cache_proxy.service.neighbours import Opened
from ollama_cache_proxy.service.siblings import SiblingProcesses


def hear_siblings(siblings: SiblingProcesses, opened: Opened, exchanges: Exchanges) -> None:
    """Let each part hear its topics."""

    async def purge(wanted: dict[str, str | None]) -> None:
        opened.neighbours.purges.add(Filter(**wanted))

    async def forget(_: None) -> None:
        opened.chosen.forget()

    async def flush(_: None) -> None:
        exchanges.fast_path.report()
        await opened.statistics.heard_flush()

    siblings.on(Topic.CHANGE_BEGINS, opened.models.heard_begin)
    siblings.on(Topic.CHANGE_ENDS, opened.models.heard_end)
    siblings.on(Topic.PURGE, purge)
    siblings.on(Topic.DISCARD, forget)
    siblings.on(Topic.FLUSH, flush)
    siblings.on(Topic.TOTALS, opened.statistics.heard_totals)
