"""What was read of the cards of a machine at one moment. None stands for what a card does not tell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Which card it is: its number among the driver's, and what it is called. `bus_id` is like 00000000:01:00.0."""

    index: int
    uuid: str
    bus_id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of a card's own memory. `used` leaves `reserved` out, where the driver tells them apart."""

    total: int
    used: int
    free: int
    reserved: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Percent for utilisations, °C for temperatures, W for power, MHz for clocks.

    `energy` is in mJ, and counts since the driver was loaded.
    """

    utilisation: int | None = None
    copy_utilisation: int | None = None
    memory: Memory | None = None
    temperature: int | None = None
    memory_temperature: int | None = None
    power: float | None = None
    energy: int | None = None
    sm_clock: int | None = None
    memory_clock: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One card at one moment; at least one of its figures is known."""

    card: Card
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Every card that answered, in the driver's order; `driver` is the version of that."""

    driver: str
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """No card could be read; `why` says what is missing, and what to do."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What a person wants to know of a card: percent, bytes, °C and W."""

    name: str
    utilisation: int | None
    memory_used: int | None
    memory_total: int | None
    temperature: int | None
    power: float | None


def gpus(found: Found | Nothing) -> tuple[Gpu, ...]:
    """Give the cards in short; none where there is nothing."""
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
