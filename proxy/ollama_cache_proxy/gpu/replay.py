"""A stand-in for the module `pynvml` that plays a recording. recordings/README.md describes the format.

What is played depends only on the time since the start, so that several scrapers see the same figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any, Final

BUNDLED: Final = ("h100", "rtx4090")
"""Names of the recordings that come with the package."""

_FUNCTION_NOT_FOUND: Final = 13


def recording(name: str) -> str:
    """Return the text of a recording: a bundled one by its name, else a file's. Raise OSError if it cannot be read."""
    if name in BUNDLED:
        return files("ollama_cache_proxy.gpu").joinpath("recordings", f"{name}.json").read_text("utf-8")
    return Path(name).read_text("utf-8")


class NVMLError(Exception):
    """An error of a call; `value` is NVML's number for it."""

    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class Replay:
    """A module with every function in the recording; any other raises Function Not Found."""

    NVMLError = NVMLError

    def __init__(self, text: str, clock: Callable[[], float] = monotonic) -> None:
        """Parse a recording. Raise ValueError if the text is not one."""
        try:
            recording = json.loads(text, object_hook=lambda members: SimpleNamespace(**members))
            self._period = float(recording.period)
            cards = [vars(card) for card in recording.cards]
            system = vars(recording.system)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"it is not a recording: {error}") from None
        if self._period <= 0:
            raise ValueError("its period must be over 0 s")
        self._system: Mapping[str, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlDeviceGetCount": len(cards),
            **system,
        }
        self._cards: list[Mapping[str, Any]] = [
            {"nvmlDeviceGetHandleByIndex": index, **card} for index, card in enumerate(cards)
        ]
        self._clock = clock
        self._start = clock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._answer, name)

    def _answer(self, name: str, card: int | None = None, *arguments: object) -> Any:
        recorded = self._system if card is None else self._cards[card]
        key = f"{name}({', '.join(map(str, arguments))})" if arguments else name
        answer = self._now(recorded.get(key, SimpleNamespace(error=_FUNCTION_NOT_FOUND)))
        if hasattr(answer, "error"):
            raise NVMLError(answer.error)
        return answer

    def _now(self, recorded: Any) -> Any:
        period = int((self._clock() - self._start) / self._period)
        if isinstance(recorded, list):
            return recorded[period % len(recorded)]
        if hasattr(recorded, "each_round"):
            rounds, at = divmod(period, len(recorded.values))
            return recorded.values[at] + rounds * recorded.each_round
        return recorded
