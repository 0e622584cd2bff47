"""NVML, the library of NVIDIA's driver: the part that is used, and one reading of every card.

If a call for a figure fails, only that figure is missing; if a card is lost, the others are still read. Calls may
hang in the driver: watch.py bounds them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, Protocol, TypeAlias, TypeVar, cast

from ollama_cache_proxy.gpu.readings import Card, Figures, Found, Memory, Nothing, Reading

RETRY: Final = 30.0
"""Seconds between two attempts to open NVML: an attempt wakes a sleeping driver, which can take seconds."""

T = TypeVar("T")
Handle: TypeAlias = object
_SM: Final = 1  # NVML_CLOCK_SM, and so on
_MEM: Final = 2
_GPU: Final = 0
_MEMORY_TEMP: Final = 82
_MEMORY_V2: Final = 0x02000028


class Utilisation(Protocol):
    """nvmlUtilization_t: percent."""

    gpu: int
    memory: int


class MemoryInfo(Protocol):
    """nvmlMemory_v2_t: bytes. Version 1 has no `reserved`, and counts it as used."""

    total: int
    reserved: int
    used: int
    free: int


class PciInfo(Protocol):
    """nvmlPciInfo_t."""

    busId: str | bytes


class Value(Protocol):
    """nvmlValue_t, a union."""

    uiVal: int


class FieldValue(Protocol):
    """nvmlFieldValue_t: `nvmlReturn` is 0 if there is a value."""

    nvmlReturn: int
    value: Value


class Nvml(Protocol):
    """The functions of nvidia-ml-py's module `pynvml` that are used. Each may raise its NVMLError."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlSystemGetDriverVersion(self) -> str | bytes: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Handle: ...
    def nvmlDeviceGetUUID(self, handle: Handle, /) -> str | bytes: ...
    def nvmlDeviceGetName(self, handle: Handle, /) -> str | bytes: ...
    def nvmlDeviceGetPciInfo(self, handle: Handle, /) -> PciInfo: ...
    def nvmlDeviceGetUtilizationRates(self, handle: Handle, /) -> Utilisation: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None, /) -> MemoryInfo: ...
    def nvmlDeviceGetTemperature(self, handle: Handle, sensor: int, /) -> int: ...
    def nvmlDeviceGetFieldValues(self, handle: Handle, fields: list[int], /) -> Sequence[FieldValue]: ...
    def nvmlDeviceGetPowerUsage(self, handle: Handle, /) -> int: ...
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Handle, /) -> int: ...
    def nvmlDeviceGetClockInfo(self, handle: Handle, clock: int, /) -> int: ...


def pynvml() -> Nvml:
    """Return the real module, even if it was installed a moment ago. Raise ImportError if it is not installed."""
    importlib.invalidate_caches()
    return cast("Nvml", importlib.import_module("pynvml"))


class Reader:
    """Reads all cards, from one thread at a time.

    NVML stays open in between. It is opened again, at most every RETRY seconds, if it was missing or a card was lost:
    a card that comes back is new to the driver, and visible only after NVML is opened again.
    """

    def __init__(self, load: Callable[[], Nvml], clock: Callable[[], float] = monotonic) -> None:
        self._load = load
        self._clock = clock
        self._retry_at = clock()
        self._nvml: Nvml | None = None
        self._nothing = Nothing(why="")

    def read(self) -> Found | Nothing:
        """Return a reading of every card, or why there is none."""
        if self._nvml is None and self._clock() >= self._retry_at:
            self._retry_at = self._clock() + RETRY
            self._open()
        if self._nvml is None:
            return self._nothing
        nvml = self._nvml
        try:
            driver = _text(nvml.nvmlSystemGetDriverVersion())
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            return self._end(nvml, _without_driver(error))
        if count == 0:
            return self._end(nvml, "the driver lists no GPU; `nvidia-smi -L` should show it")
        readings = [_reading(nvml, index) for index in range(count)]
        if None in readings and self._clock() >= self._retry_at:
            self._end(nvml, "")
        return Found(driver=driver, readings=tuple(reading for reading in readings if reading is not None))

    def _open(self) -> None:
        try:
            nvml = self._load()
        except ImportError:
            self._nothing = Nothing(why="nvidia-ml-py is not installed; pip install 'ollama-cache-proxy[gpu]'")
            return
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self._nothing = Nothing(why=_without_driver(error))
            return
        self._nvml = nvml

    def _end(self, nvml: Nvml, why: str) -> Nothing:
        """Close NVML, so that it is opened again."""
        _asked(nvml, nvml.nvmlShutdown)
        self._nvml = None
        self._nothing = Nothing(why=why)
        return self._nothing


def _without_driver(error: Exception) -> str:
    return f"no NVIDIA driver answers (NVML: {error}); `nvidia-smi` should show the GPU"


def _reading(nvml: Nvml, index: int) -> Reading | None:
    """Return the reading of one card, None if it is lost."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        card = Card(
            index=index,
            uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
            bus_id=_text(nvml.nvmlDeviceGetPciInfo(handle).busId),
            name=_text(nvml.nvmlDeviceGetName(handle)),
        )
    except nvml.NVMLError:
        return None
    figures = _figures(nvml, handle)
    return None if figures == Figures() else Reading(card=card, figures=figures)


def _figures(nvml: Nvml, handle: Handle) -> Figures:
    rates = _asked(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    fields = _asked(nvml, lambda: nvml.nvmlDeviceGetFieldValues(handle, [_MEMORY_TEMP]))
    milliwatts = _asked(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    return Figures(
        utilisation=rates.gpu if rates else None,
        copy_utilisation=rates.memory if rates else None,
        memory=_memory(nvml, handle),
        temperature=_asked(nvml, lambda: nvml.nvmlDeviceGetTemperature(handle, _GPU)),
        memory_temperature=fields[0].value.uiVal if fields and fields[0].nvmlReturn == 0 else None,
        power=None if milliwatts is None else milliwatts / 1000,
        energy=_asked(nvml, lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
        sm_clock=_asked(nvml, lambda: nvml.nvmlDeviceGetClockInfo(handle, _SM)),
        memory_clock=_asked(nvml, lambda: nvml.nvmlDeviceGetClockInfo(handle, _MEM)),
    )


def _memory(nvml: Nvml, handle: Handle) -> Memory | None:
    """Return the memory figures by version 2 of the call, as DCGM does, or by version 1 of drivers before 510."""
    info = _asked(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle, _MEMORY_V2))
    if info is not None:
        return Memory(total=info.total, used=info.used, free=info.free, reserved=info.reserved)
    info = _asked(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    return None if info is None else Memory(total=info.total, used=info.used, free=info.free, reserved=None)


def _asked(nvml: Nvml, call: Callable[[], T]) -> T | None:
    """Return the result of a call of NVML, None if it fails."""
    try:
        return call()
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
