"""`GET /api/cache/forecast`: what other settings would have given. See policy/forecast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ollama_cache_proxy.admin.own_route import Route
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.replies import Reply, json


def forecast_routes(outlook: Callable[[], dict[str, Any]]) -> dict[str, dict[str, Route]]:
    """Return the route; `outlook` gives the figures of this process."""

    async def forecast(_request: Request, _body: bytes) -> Reply:
        return json(outlook())

    return {"/api/cache/forecast": {"GET": forecast}}
