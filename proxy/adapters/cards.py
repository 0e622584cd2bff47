"""The graphics cards of this machine, looked at in the background while somebody wants to know.

NVML is loaded when it is first asked for, and in a thread of its own: without nvidia-ml-py, a driver or a card there
are none, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from proxy.gpu.nvml import Nvml, Reader
from proxy.gpu.readings import Gpu, gpus
from proxy.gpu.watch import Watch
from proxy.tasks import Polling, Tasks

_EVERY: Final = 2.0


class Cards:
    """The cards, as they were found last."""

    def __init__(self, nvml: Callable[[], Nvml], *, tasks: Tasks) -> None:
        self._watch = Watch(Reader(nvml).read, _nobody)
        self._found: tuple[Gpu, ...] = ()
        self._polling = Polling(self._look, "look at graphics cards", tasks=tasks, every=_EVERY)
        self.ready = self._polling.ready

    def found(self) -> list[dict[str, Any]]:
        """Give what was found last, in percent, bytes, °C and W, None for what is not said; it is looked at again."""
        self._polling.want()
        return [
            {
                "name": gpu.name,
                "utilisation": gpu.utilisation,
                "memoryUsed": gpu.memory_used,
                "memoryTotal": gpu.memory_total,
                "temperature": gpu.temperature,
                "power": gpu.power,
            }
            for gpu in self._found
        ]

    async def _look(self) -> None:
        try:
            self._found = gpus(await self._watch.look())
        except Exception:  # noqa: BLE001 - a driver's library may raise anything; then there is nothing to show
            self._found = ()


def _nobody(_line: str) -> None:
    """Most machines that the proxy runs on have no card: that is not worth a line."""
