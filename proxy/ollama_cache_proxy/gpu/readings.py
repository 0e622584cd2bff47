"""Readings of the cards of a machine at one moment. None is a figure that a card does not report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The identity of a card."""

    index: int
    """Its number in the driver's order."""
    uuid: str
    bus_id: str
    """Its PCI address, such as 00000000:01:00.0."""
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of a card's own memory. `used` does not include `reserved`, if the driver reports that."""

    total: int
    used: int
    free: int
    reserved: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of a card."""

    utilisation: int | None = None
    """Percent."""
    copy_utilisation: int | None = None
    """Percent."""
    memory: Memory | None = None
    temperature: int | None = None
    """°C."""
    memory_temperature: int | None = None
    """°C."""
    power: float | None = None
    """W."""
    energy: int | None = None
    """mJ since the driver was loaded."""
    sm_clock: int | None = None
    """MHz."""
    memory_clock: int | None = None
    """MHz."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One card at one moment; at least one of its figures is known."""

    card: Card
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Every card that answered, in the driver's order; `driver` is the driver's version."""

    driver: str
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """No card could be read; `why` says what is missing and how to fix it."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The main figures of a card: percent, bytes, °C and W."""

    name: str
    utilisation: int | None
    memory_used: int | None
    memory_total: int | None
    temperature: int | None
    power: float | None


def gpus(found: Found | Nothing) -> tuple[Gpu, ...]:
    """Return the main figures of each card, empty if none could be read."""
    if isinstance(found, Nothing):
        return ()
    return tuple(
        Gpu(
            name=reading.card.name,
            utilisation=reading.figures.utilisation,
            memory_used=reading.figures.memory.used if reading.figures.memory else None,
            memory_total=reading.figures.memory.total if reading.figures.memory else None,
            temperature=reading.figures.temperature,
            power=reading.figures.power,
        )
        for reading in found.readings
    )
