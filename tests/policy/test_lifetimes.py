from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_cache_proxy.policy.lifetimes import (
    FOREVER,
    Lifetime,
    LifetimeKind,
    Renewal,
    bounded,
    kept_for,
    kind_of,
    lifetime,
    renewals_of,
    renewed_every,
    renewed_for,
)
from tests.support.entries import FULL_ENTRY

DAY = 86_400


@pytest.mark.parametrize(
    ("kind", "ttl", "longest", "expected"),
    [
        ("fixed", DAY, 90 * DAY, Lifetime(seconds=DAY)),
        ("fixed", 100 * DAY, 90 * DAY, Lifetime(seconds=100 * DAY)),
        ("idle", DAY, 90 * DAY, Lifetime(seconds=90 * DAY, idle=DAY)),
        pytest.param("idle", 90 * DAY, 90 * DAY, Lifetime(seconds=90 * DAY), id="it cannot end before"),
        pytest.param("idle", 91 * DAY, 90 * DAY, Lifetime(seconds=90 * DAY), id="the longest lifetime bounds it"),
        ("until-evicted", DAY, 90 * DAY, Lifetime(seconds=2**31)),
        pytest.param("idle", 1, 90 * DAY, Lifetime(seconds=90 * DAY, idle=1), id="a second of idle time is one"),
        pytest.param("fixed", 0, 90 * DAY, Lifetime(seconds=0), id="fixed-0"),
        pytest.param("idle", 0, 90 * DAY, Lifetime(seconds=0), id="idle-0"),
        pytest.param("until-evicted", 0, 90 * DAY, Lifetime(seconds=0), id="until-evicted-0"),
    ],
)
def test_a_lifetime_is_that_of_its_kind(kind: str, ttl: int, longest: int, expected: Lifetime) -> None:
    assert lifetime(LifetimeKind(kind), ttl, longest) == expected


@pytest.mark.parametrize("kind", LifetimeKind)
def test_the_kind_can_be_told_from_the_lifetime(kind: LifetimeKind) -> None:
    found = lifetime(kind, DAY, 90 * DAY)
    assert kind_of(found.seconds, found.idle) is kind


@pytest.mark.parametrize(("idle", "expected"), [(None, None), (59, 59), (60, None), (61, None)])
def test_an_idle_time_is_shorter_than_the_lifetime(idle: int | None, expected: int | None) -> None:
    assert bounded(60, idle) == Lifetime(seconds=60, idle=expected)


@pytest.mark.parametrize(
    ("seconds", "idle", "expected"),
    [
        (60, None, 60),
        (FOREVER - 1, None, FOREVER - 1),
        (FOREVER, None, None),
        pytest.param(1000, 320, 331, id="idle, and a part more"),
        pytest.param(1000, 3, 4, id="idle, and a second more"),
        pytest.param(325, 320, 325, id="no longer than the lifetime"),
    ],
)
def test_a_store_keeps_an_entry_as_long_as_it_may_be_served(
    seconds: int, idle: int | None, expected: int | None
) -> None:
    assert kept_for(replace(FULL_ENTRY, lifetime=seconds, idle=idle)) == expected


RENEWAL: Renewal = (320, 1000.25, 3600)


def test_only_what_has_an_idle_time_is_renewed() -> None:
    idle = replace(FULL_ENTRY, idle=320)
    assert renewals_of([("a", idle), ("b", FULL_ENTRY), ("c", idle)]) == {"a": RENEWAL, "c": RENEWAL}
    assert renewals_of([("a", replace(FULL_ENTRY, lifetime=FOREVER))]) == {}


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (1001.0, 331),
        pytest.param(4600.25 - 331, 331, id="as long as it may be"),
        pytest.param(4600.25 - 330, 330, id="to the end of its lifetime"),
        pytest.param(4600.25 - 0.5, 0, id="not for a part of a second"),
        pytest.param(5000.0, 0, id="not after its lifetime"),
    ],
)
def test_an_entry_is_renewed_for_its_idle_time_within_its_lifetime(now: float, expected: int) -> None:
    assert renewed_for(RENEWAL, now) == expected


@pytest.mark.parametrize("idle", [1, 31, 32, 3600, 90 * DAY])
def test_with_the_next_renewal_put_off_an_entry_lives_for_its_idle_time_after_each_hit(idle: int) -> None:
    """A hit just before the next renewal is due is told to nobody."""
    kept = renewed_for((idle, 0.0, 10**12), 1000.0)
    assert kept - renewed_every(idle) >= idle
    assert renewed_every(idle) <= 1 + idle / 32
