"""The simulator as a process that can be killed and stopped, with faults controlled by its standard input.

The line `fault NAME SHARE SCOPE` injects a fault into that share of the requests, of inference or of everything;
`fault` heals it. `stand-in N` puts variant N of `VARIANTS` behind the shifting name. It ends with its input.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from random import Random
from typing import Final

from ollama_cache_proxy.simulator import Behaviour, Fault, ModelRegistry, Received, Simulator
from ollama_cache_proxy.simulator.naming import known

SHIFTING: Final = "shifting"
VARIANTS: Final = ("variant-0", "variant-1", "variant-2")
_LOOKS: Final = ("/api/tags", "/api/version")


def with_variants() -> ModelRegistry:
    """Return the models, without the shifting one."""
    models = ModelRegistry()
    for name in VARIANTS:
        models.add(name)
    return models


def stand_in(models: ModelRegistry, number: int) -> None:
    """Put a variant behind the shifting name."""
    models.copy(known(VARIANTS[number]), known(SHIFTING))


class Control:
    """Executes lines of the input."""

    def __init__(self, simulator: Simulator, source: Random) -> None:
        self._simulator, self._source = simulator, source

    def __call__(self, line: str) -> None:
        """Execute one line."""
        match line.split():
            case ["fault"]:
                self._simulator.fault = None
            case ["fault", name, share, scope]:
                self._misbehave(Fault[name], float(share), everything=scope == "everything")
            case ["stand-in", number]:
                stand_in(self._simulator.models, int(number))
            case _:
                raise ValueError(line)

    def _misbehave(self, fault: Fault, share: float, *, everything: bool) -> None:
        def drawn(seen: Received) -> Fault | None:
            meant = everything or seen.target not in _LOOKS
            return fault if meant and self._source.random() < share else None

        self._simulator.fault = drawn


async def obey(simulator: Simulator, port: int, control: Callable[[str], None]) -> None:
    """Serve until the input ends; pass each of its lines to `control`, and answer `done`."""
    await simulator.start("127.0.0.1", port)
    sys.stderr.write(f"A simulated Ollama answers at {simulator.url}\n")
    sys.stderr.flush()
    while line := await asyncio.to_thread(sys.stdin.readline):
        control(line)
        sys.stdout.write("done\n")
        sys.stdout.flush()
    await simulator.stop()


async def main(port: int, variant: int) -> None:
    """Serve until the input ends."""
    behaviour = Behaviour(completion_delay=0.02, embedding_delay=0.01, token_rate=800)
    simulator = Simulator(behaviour)
    simulator.models = with_variants()
    stand_in(simulator.models, variant)
    await obey(simulator, port, Control(simulator, Random(port)))  # noqa: S311 - not secret


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--variant", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.port, arguments.variant))
