from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.policy.reuse import (
    NO_DIRECTIVES,
    Directives,
    Forward,
    Hit,
    Refuse,
    lasting,
    read_directives,
    reuse,
    ttl,
    ttl_at,
    without_no_cache,
)
from ollama_cache_proxy.policy.status import FwdReason
from tests.support.entries import ENTRY

MAX_TTL = 1000
STRICTEST = 2**31


def cc(*values: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((b"Cache-Control", value) for value in values)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param((), NO_DIRECTIVES, id="no field"),
        pytest.param(((b"Host", b"h"), (b"Accept", b"no-store")), NO_DIRECTIVES, id="no field of these"),
        pytest.param(cc(b""), NO_DIRECTIVES, id="empty"),
        pytest.param(cc(b"no-cache"), Directives(no_cache=True), id="no-cache"),
        pytest.param(cc(b'max-age="5X"'), Directives(max_age=0), id="an age that ends in a letter"),
        pytest.param(((b"Host", b"h"), *cc(b"no-cache")), Directives(no_cache=True), id="among others"),
        pytest.param(cc(b"NO-Cache"), Directives(no_cache=True), id="case does not count"),
        pytest.param(cc(b"no-store"), Directives(no_store=True), id="no-store"),
        pytest.param(cc(b"only-if-cached"), Directives(only_if_cached=True), id="only-if-cached"),
        pytest.param(cc(b"max-age=60"), Directives(max_age=60), id="max-age"),
        pytest.param(cc(b"max-age=0"), Directives(max_age=0), id="max-age of zero"),
        pytest.param(cc(b'max-age="60"'), Directives(max_age=60), id="quoted"),
        pytest.param(cc(b"max-age = 60"), Directives(max_age=60), id="spaces"),
        pytest.param(cc(b"Max-Age=007"), Directives(max_age=7), id="leading zeros"),
        pytest.param(cc(b"max-age"), Directives(max_age=0), id="max-age without an argument"),
        pytest.param(cc(b"max-age="), Directives(max_age=0), id="max-age with an empty one"),
        pytest.param(cc(b"max-age=soon"), Directives(max_age=0), id="max-age of no number"),
        pytest.param(cc(b"max-age=-5"), Directives(max_age=0), id="max-age below zero"),
        pytest.param(cc(b"max-age=1.5"), Directives(max_age=0), id="max-age of a fraction"),
        pytest.param(cc(b"max-age=5X"), Directives(max_age=0), id="max-age of a number and a letter"),
        pytest.param(cc("max-age=٥".encode()), Directives(max_age=0), id="a digit that is not ASCII"),
        pytest.param(cc(b"max-age=60, max-age=10"), Directives(max_age=60), id="the first of two"),
        pytest.param(cc(b"min-fresh=5"), Directives(min_fresh=5), id="min-fresh"),
        pytest.param(cc(b"min-fresh"), Directives(min_fresh=STRICTEST), id="min-fresh without an argument"),
        pytest.param(cc(b"min-fresh=x"), Directives(min_fresh=STRICTEST), id="min-fresh of no number"),
        pytest.param(cc(b"min-fresh=99999999999"), Directives(min_fresh=STRICTEST), id="min-fresh beyond any life"),
        pytest.param(cc(b"max-stale"), NO_DIRECTIVES, id="max-stale has no effect"),
        pytest.param(cc(b"max-stale=60"), NO_DIRECTIVES, id="max-stale with an argument has none either"),
        pytest.param(cc(b"no-transform, x=y"), NO_DIRECTIVES, id="what is not known"),
        pytest.param(cc(b"no-cached, xno-store, no-store-x"), NO_DIRECTIVES, id="names that only look alike"),
        pytest.param(
            cc(b"no-cache,max-age=3", b" only-if-cached ,min-fresh=2"),
            Directives(no_cache=True, max_age=3, only_if_cached=True, min_fresh=2),
            id="several, over two lines",
        ),
        pytest.param(((b"Pragma", b"no-cache"),), Directives(no_cache=True), id="Pragma"),
        pytest.param(((b"PRAGMA", b"x, No-Cache"),), Directives(no_cache=True), id="Pragma with more"),
        pytest.param((*cc(b"max-age=9"), (b"Pragma", b"no-cache")), Directives(max_age=9), id="Pragma gives way"),
        pytest.param((*cc(b""), (b"Pragma", b"no-cache")), Directives(no_cache=True), id="but not to nothing"),
        pytest.param(((b"X-Cache-TTL", b"60"),), Directives(ttl=60), id="ttl"),
        pytest.param(((b"x-cache-ttl", b"1000"),), Directives(ttl=1000), id="ttl at the limit"),
        pytest.param(((b"X-Cache-TTL", b"1001"),), Directives(ttl_ignored=True), id="ttl over the limit"),
        pytest.param(((b"X-Cache-TTL", b"0"),), Directives(ttl=0, no_store=True), id="ttl of zero is no-store"),
        pytest.param(((b"X-Cache-TTL", b"000"),), Directives(ttl=0, no_store=True), id="so are many zeros"),
        *(
            pytest.param(((b"X-Cache-TTL", text),), Directives(ttl_ignored=True), id=f"ttl {text!r}")
            for text in (b"", b"-1", b"+1", b"1.5", b"1e2", b"60s", b"a", b" 1", b"0x1", b"99999999999", b"\xb2")
        ),
        pytest.param(((b"X-Cache-TTL", b"5"), (b"X-Cache-TTL", b"6")), Directives(ttl=5), id="the first ttl of two"),
        pytest.param(((b"X-Cache-Category", b"batch-7"),), Directives(category="batch-7"), id="category"),
        pytest.param(((b"X-Cache-Category", b"a" * 32),), Directives(category="a" * 32), id="category of 32 letters"),
        pytest.param(((b"X-Cache-Category", b""),), NO_DIRECTIVES, id="an empty category is none"),
        *(
            pytest.param(((b"X-Cache-Category", text),), Directives(category="other"), id=f"category {text!r}")
            for text in (b"A", b"a b", b"a_b", b"a\n", b"a" * 33, b"\xc3\xa9", b'"a"')
        ),
        pytest.param(((b"X-Cache-Namespace", b"team/A 1"),), Directives(namespace="team/A 1"), id="namespace as sent"),
        pytest.param(
            ((b"X-Cache-Namespace", b"\xc3\xa9\xff"),), Directives(namespace="Ã©ÿ"), id="its bytes one by one"
        ),
        pytest.param(
            ((b"X-Cache-Namespace", b"n" * 128),), Directives(namespace="n" * 128), id="a namespace of 128 bytes"
        ),
        pytest.param(
            ((b"X-Cache-Namespace", b"n" * 129),),
            Directives(namespace="sha256:0bf2917cc7e3d671a8cb2cea35cfffbc6586cfda9f0ae830a6e1f2295b74fc8c"),
            id="a longer one by its hash",
        ),
        pytest.param(
            (*cc(b"no-store"), (b"X-Cache-TTL", b"5")), Directives(no_store=True, ttl=5), id="no-store with a ttl"
        ),
    ],
)
def test_directives_are_read(fields, expected):
    assert read_directives(fields, max_ttl=MAX_TTL) == expected


def entry(stored_at: float = 1000.0, lifetime: int = 100) -> StoredResponse:
    return replace(ENTRY, stored_at=stored_at, lifetime=lifetime)


MISS, REQUEST, STALE = (Forward(reason=reason) for reason in (FwdReason.MISS, FwdReason.REQUEST, FwdReason.STALE))


@pytest.mark.parametrize(
    ("now", "wishes", "expected"),
    [
        pytest.param(1000.0, {}, (0, 100), id="new"),
        pytest.param(1000.999, {}, (0, 100), id="age in whole seconds"),
        pytest.param(1001.0, {}, (1, 99), id="a second old"),
        pytest.param(1099.9, {}, (99, 1), id="the last second"),
        pytest.param(1100.0, {}, STALE, id="at the end of its life"),
        pytest.param(5000.0, {}, STALE, id="long after"),
        pytest.param(900.0, {}, (0, 100), id="the clock went backwards"),
        pytest.param(-1e9, {}, (0, 100), id="far backwards"),
        pytest.param(1010.0, {"no_cache": True}, REQUEST, id="no-cache"),
        pytest.param(1100.0, {"no_cache": True}, REQUEST, id="no-cache and stale"),
        pytest.param(1010.0, {"max_age": 10}, (10, 90), id="max-age just kept"),
        pytest.param(1011.0, {"max_age": 10}, REQUEST, id="max-age exceeded"),
        pytest.param(1001.0, {"max_age": 0}, REQUEST, id="max-age of zero"),
        pytest.param(1010.0, {"min_fresh": 90}, (10, 90), id="min-fresh just kept"),
        pytest.param(1010.0, {"min_fresh": 91}, REQUEST, id="min-fresh missed"),
        pytest.param(1000.0, {"min_fresh": STRICTEST}, REQUEST, id="min-fresh not understood"),
        pytest.param(1010.0, {"only_if_cached": True}, (10, 90), id="only-if-cached, and it is"),
        pytest.param(1100.0, {"only_if_cached": True}, Refuse.ONLY_IF_CACHED, id="only-if-cached and stale"),
        pytest.param(1010.0, {"only_if_cached": True, "max_age": 1}, Refuse.ONLY_IF_CACHED, id="and too old"),
        pytest.param(
            1010.0, {"only_if_cached": True, "min_fresh": 99}, Refuse.ONLY_IF_CACHED, id="and not fresh enough"
        ),
        pytest.param(1010.0, {"only_if_cached": True, "no_cache": True}, Refuse.ONLY_IF_CACHED, id="and no-cache"),
        pytest.param(1010.0, {"ttl": 5}, (10, 90), id="a ttl is for storing, not for reading"),
    ],
)
def test_an_entry_answers_only_while_it_may(now, wishes, expected):
    stored = entry()
    outcome = reuse(stored, Directives(**wishes), now)
    if isinstance(expected, tuple):
        age, ttl = expected
        assert outcome == Hit(entry=stored, age=age, ttl=ttl, estimated=False)
        assert outcome.entry is stored
    else:
        assert outcome == expected


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        pytest.param({}, MISS, id="plain"),
        pytest.param({"no_cache": True}, REQUEST, id="no-cache"),
        pytest.param({"max_age": 0, "min_fresh": 5}, MISS, id="limits do not matter"),
        pytest.param({"only_if_cached": True}, Refuse.ONLY_IF_CACHED, id="only-if-cached"),
        pytest.param({"only_if_cached": True, "no_cache": True}, Refuse.ONLY_IF_CACHED, id="both"),
    ],
)
def test_without_an_entry_ollama_is_asked_or_nobody(wishes, expected):
    assert reuse(None, Directives(**wishes), 0.0) == expected


def test_an_entry_of_no_lifetime_is_never_fresh():
    assert reuse(entry(lifetime=0), NO_DIRECTIVES, 1000.0) == STALE


def test_a_hit_is_not_estimated_unless_it_says_so():
    assert Hit(entry=entry(), age=0, ttl=1).estimated is False


def test_a_no_cache_that_is_not_meant_leaves_every_other_directive():
    given = Directives(no_cache=True, no_store=True, only_if_cached=True, max_age=0, min_fresh=5, ttl=7, category="c")
    assert without_no_cache(given) == replace(given, no_cache=False, no_cache_ignored=True)


@pytest.mark.parametrize(
    ("directives", "stays"),
    [
        (NO_DIRECTIVES, True),
        (Directives(no_store=True), False),
        (Directives(no_cache=True), False),
        (Directives(max_age=60), False),
        (Directives(min_fresh=1), False),
    ],
    ids=["none", "no-store", "no-cache", "max-age", "min-fresh"],
)
def test_a_hit_stays_one_where_no_directive_speaks_of_its_age(directives, stays):
    assert lasting(directives) is stays


# Entries that hits renew: what the store has is within its idle time.


@pytest.mark.parametrize(
    ("now", "wishes", "expected"),
    [
        pytest.param(1000.0, NO_DIRECTIVES, (0, 20), id="new"),
        pytest.param(1050.0, NO_DIRECTIVES, (50, 20), id="its age counts from storing"),
        pytest.param(1090.0, NO_DIRECTIVES, (90, 10), id="no longer than its lifetime"),
        pytest.param(1100.0, NO_DIRECTIVES, FwdReason.STALE, id="its lifetime is over"),
        pytest.param(1050.0, Directives(max_age=50), (50, 20), id="max-age"),
        pytest.param(1051.0, Directives(max_age=50), FwdReason.REQUEST, id="older than max-age"),
        pytest.param(1050.0, Directives(min_fresh=20), (50, 20), id="min-fresh"),
        pytest.param(1050.0, Directives(min_fresh=21), FwdReason.REQUEST, id="min-fresh beyond its idle time"),
        pytest.param(1085.0, Directives(min_fresh=16), FwdReason.REQUEST, id="min-fresh beyond its lifetime"),
        pytest.param(1050.0, Directives(no_cache=True), FwdReason.REQUEST, id="no-cache"),
    ],
)
def test_directives_hold_for_an_idle_entry(now, wishes, expected):
    idle = replace(ENTRY, stored_at=1000.0, lifetime=100, idle=20)
    found = reuse(idle, wishes, now)
    if isinstance(expected, FwdReason):
        assert found == Forward(reason=expected)
    else:
        assert found == Hit(entry=idle, age=expected[0], ttl=expected[1])


@pytest.mark.parametrize(("idle", "expected"), [(None, 60), (20, 20), (80, 60)])
def test_how_long_an_entry_is_fresh_is_the_shorter_of_its_times(idle, expected):
    entry = replace(ENTRY, stored_at=1000.0, lifetime=100, idle=idle)
    assert ttl(entry, 1040.5) == ttl_at(entry, 40) == expected


def test_a_client_that_asks_for_nothing_has_no_directives() -> None:
    flags = ("no_store", "no_cache", "only_if_cached", "ttl_ignored", "no_cache_ignored")
    assert [name for name in flags if getattr(NO_DIRECTIVES, name)] == []
    assert lasting(NO_DIRECTIVES)
