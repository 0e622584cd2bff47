"""Compared with the output of dcgm-exporter 3.3.9-3.6.1: etc/default-counters.csv and the template of its metrics."""

from __future__ import annotations

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from ollama_cache_proxy.gpu.exposition import METRICS, render
from ollama_cache_proxy.gpu.nvml import Reader
from ollama_cache_proxy.gpu.readings import Card, Figures, Found, Memory, Nothing, Reading
from ollama_cache_proxy.gpu.replay import Replay, recording

LABELS = ["gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION"]
EXPORTED = {
    "DCGM_FI_DEV_SM_CLOCK": ("gauge", "MHz"),
    "DCGM_FI_DEV_MEM_CLOCK": ("gauge", "MHz"),
    "DCGM_FI_DEV_MEMORY_TEMP": ("gauge", "C"),
    "DCGM_FI_DEV_GPU_TEMP": ("gauge", "C"),
    "DCGM_FI_DEV_POWER_USAGE": ("gauge", "W"),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("counter", "mJ"),
    "DCGM_FI_DEV_GPU_UTIL": ("gauge", "%"),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("gauge", "%"),
    "DCGM_FI_DEV_FB_FREE": ("gauge", "MiB"),
    "DCGM_FI_DEV_FB_USED": ("gauge", "MiB"),
    "DCGM_FI_DEV_FB_RESERVED": ("gauge", "MiB"),  # among the defaults since 4.3.1-4.4.0
}
CARD = Card(index=3, uuid="GPU-1", bus_id="00000000:0A:00.0", name="NVIDIA X")
EVERYTHING = Figures(
    utilisation=97,
    copy_utilisation=41,
    memory=Memory(total=100 << 20, used=(30 << 20) + 5, free=(60 << 20) - 5, reserved=10 << 20),
    temperature=64,
    memory_temperature=72,
    power=287.5,
    energy=123456789012345678,
    sm_clock=1980,
    memory_clock=2619,
)


def found(*readings: Reading) -> Found:
    return Found(driver="550.54.15", readings=readings)


def families(page: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(page)}


def test_names_types_and_units_are_those_of_dcgm_exporter() -> None:
    assert {metric.name: (metric.kind, metric.text.rsplit(" in ", 1)[1].rstrip(".")) for metric in METRICS} == EXPORTED
    assert {name: family.type for name, family in families(recorded("h100")).items()} == {
        name: kind for name, (kind, _) in EXPORTED.items()
    }


def recorded(name: str) -> str:
    replay = Replay(recording(name), clock=lambda: 0.0)
    return render(Reader(lambda: replay).read(), "box")


def test_labels_are_those_of_dcgm_exporter_in_its_order() -> None:
    line = next(line for line in recorded("h100").splitlines() if not line.startswith("#"))
    names = [pair.split("=")[0] for pair in line[line.index("{") + 1 : line.index("}")].split(",")]
    assert names == LABELS
    sample = families(recorded("h100"))["DCGM_FI_DEV_GPU_UTIL"].samples[1]
    assert sample.labels == {
        "gpu": "1",
        "UUID": "GPU-3b7a95d2-8c40-4f6e-b1d8-e65f09a2c734",
        "pci_bus_id": "00000000:2A:00.0",
        "device": "nvidia1",
        "modelName": "NVIDIA H100 80GB HBM3",
        "Hostname": "box",
        "DCGM_FI_DRIVER_VERSION": "550.54.15",
    }


def test_values_are_in_the_units_of_dcgm_exporter() -> None:
    page = render(found(Reading(card=CARD, figures=EVERYTHING)), "box")
    assert [line.rsplit(" ", 1)[1] for line in page.splitlines() if line[0] != "#"] == [
        *("1980", "2619", "72", "64", "287.5", "123456789012345678", "97", "41", "59", "30", "10")
    ]


def test_the_counter_has_no_total_in_its_name() -> None:
    """prometheus-client would add it, and dashboards for dcgm-exporter would show nothing."""
    assert "\nDCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{" in recorded("h100")


def test_what_a_consumer_card_does_not_tell_is_not_there() -> None:
    assert EXPORTED.keys() - families(recorded("rtx4090")) == {
        "DCGM_FI_DEV_MEMORY_TEMP",
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
    }


def test_a_figure_that_one_card_lacks_is_there_for_the_other() -> None:
    other = Card(index=4, uuid="GPU-2", bus_id="00000000:0B:00.0", name="NVIDIA Y")
    page = render(found(Reading(card=CARD, figures=Figures(power=7.0)), Reading(card=other, figures=EVERYTHING)), "")
    of = {name: [sample.labels["gpu"] for sample in family.samples] for name, family in families(page).items()}
    assert of.pop("DCGM_FI_DEV_POWER_USAGE") == ["3", "4"]
    assert set(of) == EXPORTED.keys() - {"DCGM_FI_DEV_POWER_USAGE"}
    assert set(map(tuple, of.values())) == {("4",)}


def test_a_zero_is_a_value() -> None:
    assert families(render(found(Reading(card=CARD, figures=Figures(utilisation=0))), ""))[
        "DCGM_FI_DEV_GPU_UTIL"
    ].samples[0].value == 0  # fmt: skip


@pytest.mark.parametrize("name", ['a "quoted" card', "back\\slash", "two\nlines", "back\\n"])
def test_any_name_can_be_read_back(name: str) -> None:
    card = Card(index=0, uuid="GPU-1", bus_id="", name=name)
    labels = (
        families(render(found(Reading(card=card, figures=EVERYTHING)), ""))["DCGM_FI_DEV_FB_USED"].samples[0].labels
    )
    assert labels["modelName"] == name
    assert not {"Hostname", "pci_bus_id"} & labels.keys(), "what is empty has no label"


def test_nothing_is_an_empty_page() -> None:
    assert render(Nothing(why="x"), "box") == render(found(), "box") == ""
