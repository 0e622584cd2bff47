from __future__ import annotations

import pytest

from ollama_cache_proxy.workbench.levels import (
    Target,
    can_quantize,
    estimate,
    instead,
    is_cloud,
    needed,
    read_target,
    refusal,
    result_name,
    same,
    spelled,
    tagged,
)


@pytest.mark.parametrize(
    ("source", "level", "name"),
    [
        ("tiny", "q4_K_M", "tiny:q4_K_M"),
        ("tiny:latest", "q8_0", "tiny:q8_0"),
        ("llama3.2:3b-instruct-fp16", "q4_K_M", "llama3.2:3b-instruct-q4_K_M"),
        ("me/model:7b-BF16", "q8_0", "me/model:7b-q8_0"),
        ("me/model:f16", "q8_0", "me/model:q8_0"),
        ("model:7b", "q4_K_S", "model:7b-q4_K_S"),
        ("host:8080/me/model", "q8_0", "host:8080/me/model:q8_0"),
        ("model:elf16", "q8_0", "model:elf16-q8_0"),
    ],
)
def test_a_result_is_named_after_its_source(source: str, level: str, name: str) -> None:
    assert result_name(source, level) == name


def test_a_target_is_a_level_and_a_name() -> None:
    assert read_target("Q4_k_m", "tiny:latest") == Target(level="q4_K_M", name="tiny:q4_K_M")
    assert read_target("q8_0=mine", "tiny") == Target(level="q8_0", name="mine:latest")


@pytest.mark.parametrize(
    ("text", "why"), [("q5_0", "is not a level"), ("", "is not a level"), ("q8_0=a b", "is not the name")]
)
def test_what_cannot_be_made_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_target(text, "tiny")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("tiny", "TINY:latest", True),
        ("library/tiny", "tiny:latest", True),
        ("tiny:a", "tiny:b", False),
        ("?", "?", True),
    ],
)
def test_spellings_of_one_name(one: str, other: str, is_same: bool) -> None:
    assert same(one, other) is is_same


def test_what_to_do_instead_is_a_command_for_this_source() -> None:
    assert "`quantize m:fp16 --with NAME`" in instead("m:fp16")


@pytest.mark.parametrize(
    ("name", "cloud"), [("gpt-oss:120b-cloud", True), ("me/m:Cloud", True), ("cloud", False), ("m:cloudy", False)]
)
def test_a_cloud_model_is_known_by_its_name(name: str, cloud: bool) -> None:
    assert is_cloud(name) is cloud


def test_a_port_is_no_tag() -> None:
    assert tagged("host:80/a/b") == "host:80/a/b:latest"


@pytest.mark.parametrize(
    ("model", "level", "wanted", "why"),
    [
        ("tiny:latest", "F16", "q4_K_M", ""),
        ("tiny:latest", "BF16", "q8_0", ""),
        ("tiny:latest", "F32", "f16", ""),
        ("tiny:latest", "F16", "f16", "tiny:latest is F16 already: f16 would not be smaller"),
        ("a:3b-instruct-q8_0", "Q8_0", "q4_K_M", "ollama pull a:3b-instruct-q4_K_M"),
        ("a:latest", "Q4_0", "q4_K_M", "ollama pull a:TAG, with a TAG that ends in q4_K_M"),
        ("a:latest", "unknown", "q4_K_M", "a:latest is unknown, and only F16, BF16, F32 can be quantized"),
    ],
)
def test_what_a_source_must_be(model: str, level: str, wanted: str, why: str) -> None:
    told = refusal(model, level, [read_target(wanted, model)])
    assert why in told
    assert bool(told) is bool(why)


@pytest.mark.parametrize(
    ("level", "target", "width", "size"),
    [
        ("F16", "q8_0", 4096, 8_500),
        ("F16", "q4_K_M", 4096, 4_900),
        ("F32", "q4_K_M", 4096, 2_450),
        ("F16", "q4_K_M", 384, 7_500),
        ("F16", "q8_0", 384, 8_500),
        ("BF16", "q4_K_S", 0, 4_600),
    ],
)
def test_sizes_are_estimated(level: str, target: str, width: int, size: int) -> None:
    assert estimate(16_000, level, target, width) == size


def test_the_largest_is_there_twice_for_a_while() -> None:
    assert needed([100, 300]) == 770


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (750_919, "751 kB"),
        (45_949_702, "45.9 MB"),
        (4_700_000_000, "4.70 GB"),
        (1_500_000_000_000, "1.50 TB"),
    ],
)
def test_bytes_are_written_in_three_digits(size: int, text: str) -> None:
    assert spelled(size) == text


@pytest.mark.parametrize(
    ("version", "can"),
    [("0.24.0", True), ("0.33.0-rc2", True), ("0.34.0", True), ("0.34.1", False), ("v0.40.2", False), ("1.0.0", False)],
)
def test_which_versions_of_ollama_quantize(version: str, can: bool) -> None:
    assert can_quantize(version) is can
    assert can_quantize("of somebody else"), "it may, so it is asked"
