"""The graphics cards of this machine, read in the background while the figures are in use.

The code that reads them is imported on first use, and NVML runs in a thread of its own: without nvidia-ml-py, a driver
or a card the list is empty, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ollama_cache_proxy.core.tasks import Polling, Tasks

if TYPE_CHECKING:
    from ollama_cache_proxy.gpu.readings import Gpu
    from ollama_cache_proxy.gpu.watch import Watch

_EVERY: Final = 2.0
"""Seconds between two readings."""


class Cards:
    """The cards, as of the latest reading; `nvml` takes the place of the real one."""

    def __init__(self, nvml: Callable[[], Any] | None, *, tasks: Tasks) -> None:
        self._nvml = nvml
        self._watch: Watch | None = None
        self._latest: tuple[Gpu, ...] = ()
        self._polling = Polling(self._read, "read graphics cards", tasks=tasks, every=_EVERY)
        self.ready = self._polling.ready

    def latest(self) -> list[dict[str, Any]]:
        """Return the latest reading, in percent, bytes, °C and W, None if not known; keep reading for a while."""
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
            for gpu in self._latest
        ]

    async def _read(self) -> None:
        from ollama_cache_proxy.gpu import nvml, readings, watch  # noqa: PLC0415 - see the module

        if self._watch is None:
            self._watch = watch.Watch(nvml.Reader(self._nvml or nvml.pynvml).read, _discard_line)
        try:
            self._latest = readings.gpus(await self._watch.read())
        except Exception:  # noqa: BLE001 - a driver's library may raise anything; then no card is shown
            self._latest = ()


def _discard_line(_line: str) -> None:
    """Drop a log line: most machines that the proxy runs on have no card."""
