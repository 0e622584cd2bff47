from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ollama_cache_proxy.gpu.nvml import RETRY, Reader, pynvml
from ollama_cache_proxy.gpu.readings import Card, Figures, Found, Memory, Nothing
from ollama_cache_proxy.gpu.replay import Replay, recording

NOT_SUPPORTED, DRIVER_NOT_LOADED, LOST = ({"error": number} for number in (3, 9, 15))
MEMORY_V2 = "nvmlDeviceGetMemoryInfo(33554472)"


class Bench:
    """A reader of a recording that a test can change while it plays, with a clock of its own."""

    def __init__(self, name: str = "h100") -> None:
        self.now = 100.0
        self.recording: dict[str, Any] = json.loads(recording(name))
        self.loads = 0
        self.installed = True
        self.reader = Reader(self.load, clock=self.clock)

    def clock(self) -> float:
        return self.now

    @property
    def cards(self) -> list[dict[str, Any]]:
        return self.recording["cards"]

    def load(self) -> Any:
        self.loads += 1
        if not self.installed:
            raise ImportError("pynvml")
        bench = self

        class Changing:
            NVMLError = Replay.NVMLError

            def __getattr__(self, name: str) -> Callable[..., Any]:
                return getattr(Replay(json.dumps(bench.recording), clock=bench.clock), name)

        return Changing()

    def found(self) -> Found:
        found = self.reader.read()
        assert isinstance(found, Found)
        return found

    def why(self) -> str:
        found = self.reader.read()
        assert isinstance(found, Nothing)
        return found.why

    def indices(self) -> list[int]:
        return [reading.card.index for reading in self.found().readings]


def test_a_whole_reading() -> None:
    found = Bench().found()
    assert found.driver == "550.54.15"
    assert found.readings[1].card == Card(
        index=1,
        uuid="GPU-3b7a95d2-8c40-4f6e-b1d8-e65f09a2c734",
        bus_id="00000000:2A:00.0",
        name="NVIDIA H100 80GB HBM3",
    )
    assert found.readings[0].figures == Figures(
        utilisation=0,
        copy_utilisation=0,
        memory=Memory(total=81559 << 20, used=4 << 20, free=81004 << 20, reserved=551 << 20),
        temperature=32,
        memory_temperature=40,
        power=70.375,
        energy=184467312904,
        sm_clock=345,
        memory_clock=2619,
    )


def test_a_card_that_refuses_some_figures_gives_the_others() -> None:
    (reading,) = Bench("rtx4090").found().readings
    assert (reading.figures.memory_temperature, reading.figures.energy) == (None, None)
    assert (reading.figures.temperature, reading.figures.power) == (37, 18.587)


FIGURES = {
    "nvmlDeviceGetUtilizationRates": {"utilisation", "copy_utilisation"},
    MEMORY_V2: {"memory"},
    "nvmlDeviceGetTemperature(0)": {"temperature"},
    "nvmlDeviceGetFieldValues([82])": {"memory_temperature"},
    "nvmlDeviceGetPowerUsage": {"power"},
    "nvmlDeviceGetTotalEnergyConsumption": {"energy"},
    "nvmlDeviceGetClockInfo(1)": {"sm_clock"},
    "nvmlDeviceGetClockInfo(2)": {"memory_clock"},
}


@pytest.mark.parametrize("error", [NOT_SUPPORTED, LOST], ids=["not supported", "lost"])
@pytest.mark.parametrize("call", FIGURES)
def test_a_call_that_fails_costs_its_own_figures_alone(call: str, error: dict[str, int]) -> None:
    bench = Bench()
    before = bench.found().readings
    bench.cards[0][call] = error
    after = bench.found().readings
    assert after[1] == before[1]
    names = Figures.__dataclass_fields__
    assert {name for name in names if getattr(after[0].figures, name) is None} == FIGURES[call]


def test_an_old_driver_counts_what_it_reserves_as_used() -> None:
    bench = Bench("rtx4090")
    del bench.cards[0][MEMORY_V2]
    bench.cards[0]["nvmlDeviceGetMemoryInfo"] = {"total": 100, "used": 40, "free": 60}
    assert bench.found().readings[0].figures.memory == Memory(total=100, used=40, free=60, reserved=None)


def test_names_may_be_bytes() -> None:
    """As older versions of the binding have them."""
    bench = Bench("rtx4090")
    real = bench.load()
    real.nvmlDeviceGetName = lambda _handle: b"NVIDIA X"
    found = Reader(lambda: real).read()
    assert isinstance(found, Found)
    assert found.readings[0].card.name == "NVIDIA X"


IDENTITY = ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetPciInfo"]


@pytest.mark.parametrize("call", IDENTITY)
def test_a_lost_card_leaves_the_other(call: str) -> None:
    bench = Bench()
    assert bench.indices() == [0, 1]
    bench.cards[0][call] = LOST
    assert bench.indices() == [1]


def test_a_card_without_any_figure_is_lost() -> None:
    bench = Bench()
    bench.cards[1].update(dict.fromkeys(FIGURES, LOST))
    assert bench.indices() == [0]


def test_a_lost_card_comes_back_where_nvml_is_opened_anew() -> None:
    bench = Bench()
    bench.cards[0]["nvmlDeviceGetHandleByIndex"] = LOST
    for _ in range(3):
        bench.found()
        bench.now += RETRY / 3
    assert bench.loads == 1, "not before"
    for _ in range(2):
        assert bench.indices() == [1]
    assert bench.loads == 2
    for _ in range(3):
        bench.found()
    assert bench.loads == 2, "and not more often"


def test_without_the_binding_it_says_what_to_install_and_finds_it_later() -> None:
    bench = Bench()
    bench.installed = False
    assert bench.why() == "nvidia-ml-py is not installed; pip install 'ollama-cache-proxy[gpu]'"
    bench.installed = True
    bench.now += RETRY
    assert bench.indices() == [0, 1]


def test_the_real_binding_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = Reader(pynvml).read()
    assert isinstance(found, Nothing)
    assert "not installed" in found.why


def test_the_real_binding_may_be_installed_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(path for path in sys.path if "site-packages" not in path)])
    before = tmp_path.stat()
    with pytest.raises(ImportError):
        pynvml()
    (tmp_path / "pynvml.py").write_text("nvmlInit = str")
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as within the file system's tick
    try:
        assert pynvml().nvmlInit is str
    finally:
        sys.modules.pop("pynvml", None)


def test_the_real_binding_is_the_module_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert pynvml() is module


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount"])
def test_a_driver_that_appears_later_is_found_within_half_a_minute(call: str) -> None:
    bench = Bench()
    kept = bench.recording["system"].get(call)
    bench.recording["system"][call] = DRIVER_NOT_LOADED
    assert RETRY <= 30
    assert bench.why() == "no NVIDIA driver answers (NVML: error 9); `nvidia-smi` should show the GPU"
    if kept is None:
        del bench.recording["system"][call]
    else:
        bench.recording["system"][call] = kept
    bench.now += RETRY - 0.1
    assert "no NVIDIA driver" in bench.why()
    assert bench.loads == 1, "a driver that is not there is not asked at every scrape"
    bench.now += 0.1
    assert bench.indices() == [0, 1]


def test_a_driver_that_goes_is_found_when_it_is_back() -> None:
    bench = Bench()
    bench.found()
    version = bench.recording["system"].pop("nvmlSystemGetDriverVersion")
    assert "no NVIDIA driver" in bench.why()
    bench.recording["system"]["nvmlSystemGetDriverVersion"] = version
    bench.now += RETRY
    assert bench.indices() == [0, 1]


def test_a_driver_without_a_card() -> None:
    bench = Bench()
    cards = bench.recording["cards"]
    bench.recording["cards"] = []
    assert bench.why() == "the driver lists no GPU; `nvidia-smi -L` should show it"
    bench.recording["cards"] = cards
    bench.now += RETRY
    assert bench.indices() == [0, 1]
