"""Readings as Prometheus text, with the names, labels and units of dcgm-exporter 3.3.9-3.6.1, the last of its 3.3.

The text is written here because prometheus-client would add `_total` to the counter, and dcgm-exporter does not. A
figure that a card does not report has no sample, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ollama_cache_proxy.gpu.readings import Figures, Found, Memory, Nothing, Reading

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_MIB: Final = 1 << 20
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    kind: str
    """Its type: gauge or counter."""
    text: str
    """Its help."""
    of: Callable[[Figures], float | None]
    """Returns its value for the figures of a card, None without a sample."""


def _mib(part: Callable[[Memory], int | None]) -> Callable[[Figures], int | None]:
    """Return a function for one part of a card's memory in whole MiB."""

    def of(figures: Figures) -> int | None:
        size = part(figures.memory) if figures.memory else None
        return None if size is None else size // _MIB

    return of


METRICS: Final = (
    Metric("DCGM_FI_DEV_SM_CLOCK", "gauge", "Clock of the multiprocessors, in MHz.", lambda it: it.sm_clock),
    Metric("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Clock of the card's memory, in MHz.", lambda it: it.memory_clock),
    Metric("DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Temperature of the memory, in C.", lambda it: it.memory_temperature),
    Metric("DCGM_FI_DEV_GPU_TEMP", "gauge", "Temperature of the GPU, in C.", lambda it: it.temperature),
    Metric("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power that the card draws, in W.", lambda it: it.power),
    Metric(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "counter",
        "Energy that the card has used since its driver was loaded, in mJ.",
        lambda it: it.energy,
    ),
    Metric(
        "DCGM_FI_DEV_GPU_UTIL",
        "gauge",
        "Share of the driver's last sampling period in which the GPU was busy, in %.",
        lambda it: it.utilisation,
    ),
    Metric(
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        "gauge",
        "Share of the driver's last sampling period in which the card's memory was read or written, in %.",
        lambda it: it.copy_utilisation,
    ),
    Metric("DCGM_FI_DEV_FB_FREE", "gauge", "Memory of the card that is free, in MiB.", _mib(lambda it: it.free)),
    Metric("DCGM_FI_DEV_FB_USED", "gauge", "Memory of the card that is in use, in MiB.", _mib(lambda it: it.used)),
    Metric(
        "DCGM_FI_DEV_FB_RESERVED",
        "gauge",
        "Memory of the card that the driver reserves, in MiB.",
        _mib(lambda it: it.reserved),
    ),
)


def render(found: Found | Nothing, hostname: str) -> str:
    """Return the page of metrics, empty if no card could be read. An empty `hostname` has no label."""
    if isinstance(found, Nothing):
        return ""
    labels = [_labels(reading, hostname, found.driver) for reading in found.readings]
    lines: list[str] = []
    for metric in METRICS:
        values = [metric.of(reading.figures) for reading in found.readings]
        samples = [
            f"{metric.name}{{{of}}} {value}\n" for of, value in zip(labels, values, strict=True) if value is not None
        ]
        if samples:
            lines += (f"# HELP {metric.name} {metric.text}\n", f"# TYPE {metric.name} {metric.kind}\n", *samples)
    return "".join(lines)


def _labels(reading: Reading, hostname: str, driver: str) -> str:
    card = reading.card
    pairs = {
        "gpu": str(card.index),
        "UUID": card.uuid,
        "pci_bus_id": card.bus_id,
        "device": f"nvidia{card.index}",
        "modelName": card.name,
        "Hostname": hostname,
        "DCGM_FI_DRIVER_VERSION": driver,
    }
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs.items() if value)
