"""`ollama-cache-proxy plan`, as a process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.workbench.coefficients import MEASURED
from tests.support.terminal import piped, terminal, widest

PARTS = ["GPUs", "Proxy workers", "Store, cores", "Store, memory", "Network, proxies", "Network, store"]


async def planned(*arguments: str) -> dict[str, Any]:
    done = await piped("plan", *arguments, "--json")
    assert (done.status, done.err) == (0, "")
    found: dict[str, Any] = json.loads(done.out)
    return found


async def test_without_options_it_plans_for_a_small_load() -> None:
    done = await piped("plan")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    size = f"{(2000 + MEASURED.entry) / 1000:.1f} kB"
    load = "1 requests a second, 50% of them hits (100% of these in the hot tier), 0.5 misses"
    assert lines[:2] == [f"{load}; 1,800 entries of {size}.", "Full first: GPUs, at 1 requests a second."]
    assert [line.split("  ")[0] for line in lines[4:10]] == PARTS
    assert all(line.endswith("measured") for line in lines[5:10])
    assert lines[4].endswith("your figures")
    assert len(lines) < 24


@pytest.mark.parametrize("columns", [60, 120])
async def test_it_fits_a_screen(columns: int) -> None:
    async with terminal("plan", "--rate", "10000", "--entries", "1e9", columns=columns) as shown:
        assert await shown.end() == 0
    assert widest(shown.text) <= columns
    assert "Proxy workers" in shown.text


async def test_clients_are_another_way_to_give_a_rate() -> None:
    assert await planned("--clients", "120", "--per-client", "5") == await planned("--rate", "10")


async def test_what_lies_beyond_the_measured_is_said_to_be_extrapolated() -> None:
    found = await planned("--rate", "10000", "--hit-rate", "0.9", "--entries", "1e9", "--hot-share", "0.5")
    assert {part["basis"] for part in found["parts"][1:]} == {"extrapolated"}
    assert found["storeBytes"] == pytest.approx(1e9 * (2000 + MEASURED.entry))


@pytest.mark.parametrize(
    ("more", "first"),
    [
        ((), "GPUs"),
        (("--gpus", "100000"), "Proxy workers"),
        (("--gpus", "100000", "--workers", "64", "--gbit", "0.1"), "Network, proxies"),
    ],
)
async def test_the_part_that_is_full_first_follows_from_what_there_is(more: tuple[str, ...], first: str) -> None:
    assert (await planned("--rate", "100", *more))["first"] == first


async def test_a_store_that_cannot_hold_the_entries_is_named_whatever_the_rate() -> None:
    done = await piped("plan", "--entries", "1e9")
    assert done.out.splitlines()[1] == "Too small at any rate: Store, memory."


async def test_a_miss_takes_a_lease_where_there_are_several_proxies() -> None:
    one, two = [await planned("--hit-rate", "0", "--rate", "100", "--hosts", hosts) for hosts in ("1", "2")]
    assert two["storeCommandsPerSecond"] - one["storeCommandsPerSecond"] == pytest.approx(100 * MEASURED.lease.commands)


async def test_without_a_hot_tier_every_hit_costs_the_store() -> None:
    load = ("--rate", "100", "--hit-rate", "1", "--entries", "100")
    with_one, without = await planned(*load), await planned(*load, "--hot-bytes", "0")
    assert with_one["storeCommandsPerSecond"] == 0
    assert without["storeCommandsPerSecond"] == pytest.approx(100 * MEASURED.commands_found)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--rate", "0", "a number above 0"),
        ("--rate", "many", "a number above 0"),
        ("--rate", "nan", "a number above 0"),
        ("--clients", "inf", "a number above 0"),
        ("--hit-rate", "1.1", "a number from 0 to 1"),
        ("--hot-share", "-1", "a number from 0 to 1"),
        ("--gpus", "0", "a whole number from 1"),
        ("--workers", "1.5", "a whole number from 1"),
        ("--hot-bytes", "-1", "a number from 0"),
    ],
)
async def test_a_value_that_cannot_be_is_refused(option: str, value: str, said: str) -> None:
    done = await piped("plan", f"{option}={value}")
    assert (done.status, done.out) == (2, "")
    assert done.err.endswith(f"error: argument {option}: '{value}' is not {said}\n")


async def test_a_share_of_no_hot_tier_is_refused() -> None:
    done = await piped("plan", "--hot-share", "0.5", "--hot-bytes", "0")
    assert (done.status, done.out) == (2, "")
    assert done.err == "ollama-cache-proxy: --hot-share: there is no hot tier with --hot-bytes 0\n"


async def test_a_rate_and_clients_exclude_each_other() -> None:
    done = await piped("plan", "--rate", "1", "--clients", "1")
    assert (done.status, done.out) == (2, "")
    assert "not allowed with argument" in done.err
