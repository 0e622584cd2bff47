"""A GPU that works on one request at a time, in the order in which they come, as Ollama does with one that is full."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import orjson

from ollama_cache_proxy.simulator.call import Call
from ollama_cache_proxy.simulator.routes import Route


class SingleGpu:
    """Runs the handlers of inference requests; does nothing of its own unless the behaviour says so."""

    def __init__(self) -> None:
        self._free = asyncio.Lock()

    async def run(self, call: Call, route: Route) -> None:
        """Handle a request of this route when those before it are done."""
        behaviour = call.simulator.behaviour
        if not (route.inference and behaviour.one_at_a_time):
            await route.handler(call)
            return
        async with self._free:
            texts = texts_in(call.body)
            if texts and behaviour.text_delay is not None:
                call.seconds = texts * behaviour.text_delay
            elif not texts:
                await asyncio.sleep(behaviour.prompt_delay)
            await route.handler(call)


def texts_in(body: bytes) -> int:
    """Return how many texts a request wants embedded; 0 where it wants something else."""
    given = None
    with suppress(orjson.JSONDecodeError, AttributeError):
        given = orjson.loads(body).get("input")
    return len(given) if isinstance(given, list) else int(isinstance(given, str))
