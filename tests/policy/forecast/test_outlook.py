"""From counts to rates, seconds, and one sentence of advice."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy.forecast.ghosts import DAY, FIXED, HOUR
from ollama_cache_proxy.policy.forecast.outlook import ENOUGH, InForce, duration, forecast, lifetimes
from ollama_cache_proxy.policy.forecast.traffic_sample import Asked, TrafficSample

BEGIN = 1_700_000_000
_SPREAD = 0x9E3779B1


def alike(_place: int) -> tuple[int | None, int | None]:
    return None, None


def force(**more: Any) -> InForce:
    usual: dict[str, Any] = {"lifetime": "", "ttl_embedding": DAY, "ttl_completion": HOUR}
    return InForce(**(usual | {"room": None, "room_setting": ""} | more))


def sampled(gap: int, *, rounds: int = 2, ttl: int = DAY, size: int = 4000, **more: Any) -> TrafficSample:
    """A sample of 1,000 texts that are asked for in rounds, so many seconds apart, of a cache with this lifetime."""
    sample = TrafficSample(BEGIN)
    stored: dict[int, int] = {}
    for turn in range(rounds):
        now = BEGIN + turn * gap
        for key in range(1000):
            known = now - stored.get(key, 0) < ttl
            stored[key] = stored[key] if known else now

            def hashed(_place: int, key: int = key) -> int:
                return key * _SPREAD & 0xFFFFFFFF

            sample.add(
                Asked(
                    embedding=True,
                    keys=[key],
                    known=[known],
                    hashed=hashed,
                    alike=alike,
                    now=now,
                    until=stored[key] + ttl,
                    ends=stored[key] + ttl,
                    stored=True,
                    saved=3.6,
                    spent=3.6,
                    size=size,
                    **more,
                )
            )
    return sample


def test_too_little_traffic_gives_no_figure() -> None:
    found = forecast(TrafficSample(BEGIN), force(), BEGIN + 60)
    assert found["embeddings"] == {"enough": False, "requests": 0, "texts": 0, "needed": ENOUGH}
    assert found["advice"] == {
        "sentence": "Too little traffic yet to say, since 14 November, 22:13 UTC.",
        "settings": {},
        "seconds": 0.0,
    }


def test_a_longer_lifetime_is_advised_with_what_it_is_worth() -> None:
    found = forecast(sampled(2 * DAY), force(), BEGIN + 2 * DAY)
    kind = found["embeddings"]
    assert kind["now"]["texts"] == 0
    rows = {row["ttl"]: row for row in kind["lifetimes"] if row["lifetime"] == "fixed"}
    assert [rows[ttl]["texts"] for ttl in FIXED] == [0, 0, 0, 50, 50, 50]
    assert [rows[ttl]["requests"] for ttl in FIXED] == [0, 0, 0, 50, 50, 50]
    assert rows[DAY]["inForce"]
    assert [rows[ttl]["atLeast"] for ttl in FIXED] == [False, False, False, True, True, True]
    assert found["advice"]["settings"] == {"ttl_embedding": 7 * DAY}
    assert found["advice"]["seconds"] == pytest.approx(3600)
    assert found["advice"]["sentence"] == (
        "With ttl_embedding = 604800, 50.0 % of texts would have been known, not 0.0 %:"
        " 60 minutes of Ollama's time since 14 November, 22:13 UTC."
    )


def test_the_smallest_change_that_gives_nearly_as_much_is_advised() -> None:
    sample = sampled(5 * DAY, rounds=12, ttl=7 * DAY)
    idle = forecast(sample, force(lifetime="fixed", ttl_embedding=7 * DAY), BEGIN + 60 * DAY)["advice"]["settings"]
    assert idle == {"lifetime": "idle", "ttl_embedding": 7 * DAY}
    fixed = forecast(sample, force(ttl_embedding=7 * DAY), BEGIN + 60 * DAY)["advice"]["settings"]
    assert fixed == {"ttl_embedding": 90 * DAY}, "lifetimes cannot be chosen"


def test_a_setting_that_gives_nothing_is_not_advised() -> None:
    found = forecast(sampled(HOUR // 2, rounds=4), force(), BEGIN + 2 * HOUR)
    assert found["embeddings"]["now"]["texts"] == 75
    assert found["advice"]["sentence"].startswith("No other setting would have given 1 point more hits since")
    assert found["advice"]["settings"] == {}


def test_a_smaller_store_would_have_known_less() -> None:
    sample = sampled(HOUR // 2, rounds=4, size=1 << 16)
    sizes = forecast(sample, force(), BEGIN)["embeddings"]["sizes"]
    rates = {row["bytes"] >> 20: row["texts"] for row in sizes}
    assert rates[32] == 0, "each text comes again after 64 MB of others"
    assert rates[64] == 75


def test_what_was_evicted_would_have_been_known_in_a_larger_store() -> None:
    sample = sampled(HOUR // 2, rounds=4, ttl=1, size=1 << 16)  # the cache itself knew nothing
    room = 32 << 20
    found = forecast(sample, force(ttl_embedding=1, room=room, room_setting="private_redis_bytes"), BEGIN)
    rows = {row["lifetime"]: row for row in found["embeddings"]["lifetimes"]}
    assert rows["until-evicted"]["texts"] == 0, "32 MiB hold half of them, and each comes again after all others"
    unlimited = forecast(sample, force(ttl_embedding=1), BEGIN)
    rows = {row["lifetime"]: row for row in unlimited["embeddings"]["lifetimes"]}
    assert rows["until-evicted"]["texts"] == 75


def test_what_a_purge_has_dropped_would_be_gone_under_any_setting() -> None:
    sample = sampled(HOUR // 2, rounds=1)
    for key in range(1000):
        now = BEGIN + 60
        sample.add(
            Asked(
                embedding=True,
                keys=[key],
                known=[False],
                hashed=lambda _: 0,
                alike=alike,
                now=now,
                until=now + DAY,
                stored=True,
            )
        )
    found = forecast(sample, force(), BEGIN + 60)
    assert {row["texts"] for row in found["embeddings"]["lifetimes"]} == {0}


def test_bypassed_requests_are_advised_with_the_settings_that_let_them_in() -> None:
    sample = TrafficSample(BEGIN)
    for number in range(400):
        sample.passed(("v1-messages", "always", True), number % 100, 0, BEGIN + number, seconds=10.0, ttl=HOUR)
        sample.passed(("v1-messages", "deterministic", False), 5000 + number, 0, BEGIN, seconds=10.0, ttl=HOUR)
    found = forecast(sample, force(), BEGIN + 400)
    rows = {tuple(row["settings"].values()): row for row in found["whatIf"]}
    assert (rows["deterministic",]["hits"], rows["deterministic",]["requests"]) == (0, 400)
    assert (rows["always", True]["hits"], rows["always", True]["requests"]) == (37.5, 800)
    assert found["advice"]["settings"] == {"cache_v1_messages": "always", "cache_streams": True}
    assert 'With cache_v1_messages = "always" and cache_streams = true, 37.5 % of 800' in found["advice"]["sentence"]
    assert found["bypasses"] == 800


def test_few_bypassed_requests_give_no_figure() -> None:
    sample = TrafficSample(BEGIN)
    for _ in range(ENOUGH - 1):
        sample.passed(("chat", "always", False), 1, 0, BEGIN, seconds=10.0, ttl=HOUR)
    (row,) = forecast(sample, force(), BEGIN)["whatIf"]
    assert (row["enough"], row["hits"], row["seconds"]) == (False, None, None)


def test_completions_have_fixed_lifetimes_alone() -> None:
    assert {way for way, _, _ in lifetimes(embedding=False)} == {"fixed"}
    assert {way for way, _, _ in lifetimes(embedding=True)} == {"fixed", "idle", "until-evicted"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 seconds"), (90, "90 seconds"), (600, "10 minutes"), (7200, "2.0 hours"), (10 * DAY, "10 days")],
)
def test_durations_are_said_in_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_the_sample_missed_is_scaled_to_what_was_missed() -> None:
    """Half of what could have been known is in the sample, and a sixteenth of the rest: no forecast is above the misses."""
    sample = sampled(2 * DAY)
    sample.embeddings.totals.items += 1000
    sample.embeddings.totals.stored += 1000
    found = forecast(sample, force(lifetime="fixed"), BEGIN + 2 * DAY)["embeddings"]
    rows = {(row["lifetime"], row["ttl"]): row["texts"] for row in found["lifetimes"]}
    assert rows["until-evicted", None] == 50, "half of the sampled ones, so half of all"
