from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from ollama_cache_proxy.gpu.nvml import Reader
from ollama_cache_proxy.gpu.readings import Found
from ollama_cache_proxy.gpu.replay import BUNDLED, NVMLError, Replay, recording


class Playing:
    """A recording, and the clock that it plays by."""

    def __init__(self, text: str) -> None:
        self.now = 7.0
        self.replay = Replay(text, clock=lambda: self.now)


def made(**card: object) -> Playing:
    return Playing(json.dumps({"about": "", "period": 5, "system": {}, "cards": [card]}))


def test_each_recording_of_the_package_has_a_name() -> None:
    folder = files("ollama_cache_proxy.gpu").joinpath("recordings")
    assert {entry.name for entry in folder.iterdir()} == {"README.md", *(f"{name}.json" for name in BUNDLED)}


def test_a_recording_is_found_by_its_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h100").write_text("a file of the same name")
    assert json.loads(recording("h100"))["cards"]
    assert recording("./h100") == "a file of the same name"
    with pytest.raises(OSError, match="h200"):
        recording("h200")


@pytest.mark.parametrize("name", BUNDLED)
def test_a_recording_says_where_it_comes_from_and_varies(name: str) -> None:
    text = recording(name)
    assert "not recorded from hardware" in json.loads(text)["about"]
    playing = Playing(text)
    reader = Reader(lambda: playing.replay)
    founds = []
    for _ in range(30):
        founds.append(reader.read())
        playing.now += 5
    for index in range(len(json.loads(text)["cards"])):
        figures = [look.readings[index].figures for look in founds if isinstance(look, Found)]
        assert len(figures) == 30
        assert len({it.utilisation for it in figures}) > 5
        for it in figures:
            assert it.memory is not None
            assert it.memory.total == it.memory.used + it.memory.free + (it.memory.reserved or 0)
        energies = [it.energy for it in figures if it.energy is not None]
        assert energies == sorted(set(energies)), "it only grows"
        if energies:
            joules = sum(it.power or 0 for it in figures[:12]) * 5
            assert energies[12] - energies[0] == pytest.approx(joules * 1000), "what the power adds up to"


def test_the_same_moment_gives_the_same_and_samples_come_round() -> None:
    playing = made(nvmlDeviceGetPowerUsage=[1, 2, 3])
    seen = []
    for at in (0, 4.9, 5, 10, 14.9, 15, 20):
        playing.now = 7.0 + at
        assert playing.replay.nvmlDeviceGetPowerUsage(0) == playing.replay.nvmlDeviceGetPowerUsage(0)
        seen.append(playing.replay.nvmlDeviceGetPowerUsage(0))
    assert seen == [1, 1, 2, 3, 3, 1, 2]


def test_a_counter_goes_on_in_the_next_round() -> None:
    playing = made(nvmlDeviceGetTotalEnergyConsumption={"values": [10, 11, 14], "each_round": 5})
    seen = []
    for _ in range(7):
        seen.append(playing.replay.nvmlDeviceGetTotalEnergyConsumption(0))
        playing.now += 5
    assert seen == [10, 11, 14, 15, 16, 19, 20]


def test_errors_are_raised_when_their_time_comes() -> None:
    playing = made(nvmlDeviceGetPowerUsage=[1, {"error": 15}])
    assert playing.replay.nvmlDeviceGetPowerUsage(0) == 1
    playing.now += 5
    with pytest.raises(NVMLError, match=r"^error 15$"):
        playing.replay.nvmlDeviceGetPowerUsage(0)


def test_a_function_that_is_not_in_the_recording_is_not_found() -> None:
    with pytest.raises(NVMLError) as refused:
        made().replay.nvmlDeviceGetPowerUsage(0)
    assert refused.value.value == 13


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "7", "{}", '{"period": 5, "system": {}}', '{"period": 0, "system": {}, "cards": []}'),
        *('{"period": "x", "system": {}, "cards": []}', '{"period": 5, "system": {}, "cards": [1]}'),
    ],
)
def test_what_is_no_recording_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Replay(text)
