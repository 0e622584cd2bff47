from __future__ import annotations

from ollama_cache_proxy.gpu.readings import Card, Figures, Found, Gpu, Memory, Nothing, Reading, gpus

CARD = Card(index=0, uuid="GPU-1", bus_id="00000000:01:00.0", name="NVIDIA X")


def test_a_card_in_short() -> None:
    memory = Memory(total=100, used=30, free=60, reserved=10)
    figures = Figures(utilisation=97, memory=memory, temperature=64, power=287.5, sm_clock=1980)
    assert gpus(Found(driver="1", readings=(Reading(card=CARD, figures=figures),))) == (
        Gpu(name="NVIDIA X", utilisation=97, memory_used=30, memory_total=100, temperature=64, power=287.5),
    )


def test_what_is_not_known_is_none() -> None:
    (gpu,) = gpus(Found(driver="1", readings=(Reading(card=CARD, figures=Figures(energy=1)),)))
    assert gpu == Gpu(
        name="NVIDIA X", utilisation=None, memory_used=None, memory_total=None, temperature=None, power=None
    )


def test_nothing_is_no_card() -> None:
    assert gpus(Nothing(why="x")) == ()
