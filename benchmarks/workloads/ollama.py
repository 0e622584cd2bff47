"""The simulator as a process with the times of costs.py, scaled.

`scale X` on its standard input sets the scale, 0 at first; the reply is `done`. It ends with its input.
"""

from __future__ import annotations

import argparse
import asyncio

import orjson

from benchmarks.simulated import obey
from benchmarks.workloads import costs
from benchmarks.workloads.requests import MODELS
from ollama_cache_proxy.simulator import Behaviour, Received, Simulator

_CATEGORIES = {model: category for category, model in MODELS.items()}


class Pace:
    """The times of requests."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.scale = 0.0

    def set(self, line: str) -> None:
        """Set the scale in a line."""
        self.scale = float(line.removeprefix("scale "))

    def __call__(self, received: Received) -> float:
        """Return the seconds for a request."""
        body = orjson.loads(received.body)
        given = body.get("input") or body["prompt"]
        texts = [given] if isinstance(given, str) else given
        return self.scale * costs.seconds(_CATEGORIES[body["model"]], texts, self._seed)


async def main(port: int, seed: int) -> None:
    """Serve until the input ends."""
    simulator = Simulator(Behaviour(seed=seed))
    for model in _CATEGORIES:
        if simulator.models.find(model) is None:
            simulator.models.add(model)
    simulator.pace = pace = Pace(seed)
    await obey(simulator, port, pace.set)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.port, arguments.seed))
