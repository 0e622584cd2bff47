from __future__ import annotations

import asyncio
import threading

import pytest

from ollama_cache_proxy.gpu.readings import Card, Figures, Found, Nothing, Reading
from ollama_cache_proxy.gpu.watch import Watch
from tests.support.waiting import until

FOUND = Found(
    driver="550.54.15",
    readings=(Reading(card=Card(index=0, uuid="GPU-1", bus_id="", name="NVIDIA X"), figures=Figures(power=1.0)),),
)


class Driver:
    """Readings that a test holds and releases."""

    def __init__(self) -> None:
        self.looks: list[Found | Nothing] = []
        self.open = threading.Event()
        self.open.set()
        self.begun = 0
        self.threads: set[str] = set()

    def read(self) -> Found | Nothing:
        self.begun += 1
        self.threads.add(threading.current_thread().name)
        assert self.open.wait(20)
        return self.looks.pop(0) if self.looks else FOUND


async def test_a_driver_that_hangs_costs_a_scrape_and_not_the_loop() -> None:
    driver, said = Driver(), list[str]()
    watch = Watch(driver.read, said.append, deadline=0.05)
    driver.open.clear()
    looking = asyncio.create_task(watch.read())
    await until(lambda: driver.begun)  # the loop runs while the driver hangs
    late = await looking
    assert late == Nothing(why="the driver did not answer within 0.05 s; check whether `nvidia-smi` does")
    assert await watch.read() == late
    assert driver.begun == 1, "no second thread goes after the first"
    assert driver.threads == {"nvml"}
    assert said == [f"No GPU metrics yet: {late.why}"]
    driver.open.set()


async def test_who_asks_meanwhile_waits_for_the_same_reading_and_later_ones_are_new() -> None:
    driver = Driver()
    watch = Watch(driver.read, lambda _line: None, deadline=20)
    driver.open.clear()
    looking = [asyncio.create_task(watch.read()) for _ in range(3)]
    await until(lambda: driver.begun)
    driver.open.set()
    assert await asyncio.gather(*looking) == [FOUND] * 3
    assert driver.begun == 1
    assert await watch.read() == FOUND
    assert driver.begun == 2


async def test_after_it_hung_it_is_read_again() -> None:
    driver, said = Driver(), list[str]()
    watch = Watch(driver.read, said.append, deadline=0.05)
    driver.open.clear()
    await watch.read()
    driver.open.set()
    async with asyncio.timeout(20):
        while await watch.read() != FOUND:
            pass
    assert said[-1] == "GPU metrics of NVIDIA X (driver 550.54.15)"


async def test_each_state_is_said_once() -> None:
    driver, said = Driver(), list[str]()
    watch = Watch(driver.read, said.append, deadline=20)
    gone = Found(driver="550.54.15", readings=())
    driver.looks = [Nothing(why="a"), Nothing(why="a"), FOUND, FOUND, gone, Nothing(why="a")]
    for _ in range(6):
        await watch.read()
    assert said == [
        "No GPU metrics yet: a",
        "GPU metrics of NVIDIA X (driver 550.54.15)",
        "GPU metrics of none, all are lost (driver 550.54.15)",
        "No GPU metrics yet: a",
    ]


async def test_a_defect_is_not_hidden() -> None:
    def read() -> Found:
        raise ZeroDivisionError

    watch = Watch(read, lambda _line: None, deadline=20)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await watch.read()


def test_a_driver_that_answers_after_the_end_harms_nothing() -> None:
    driver = Driver()
    driver.open.clear()
    asyncio.run(Watch(driver.read, lambda _line: None, deadline=0.01).read())
    driver.open.set()
    for thread in threading.enumerate():
        if thread.name == "nvml":
            thread.join(20)  # an exception in it would be a warning, and so an error
