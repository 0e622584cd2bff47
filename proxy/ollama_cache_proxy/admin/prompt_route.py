"""`GET /api/cache/prompts`: what Ollama reads again, for whom, and what to do. See policy/prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ollama_cache_proxy.admin.own_route import Route
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.replies import Reply, json


def prompt_routes(report: Callable[[], dict[str, Any]]) -> dict[str, dict[str, Route]]:
    """Return the route; `report` gives the figures of this process."""

    async def prompts(_request: Request, _body: bytes) -> Reply:
        return json(report())

    return {"/api/cache/prompts": {"GET": prompts}}
