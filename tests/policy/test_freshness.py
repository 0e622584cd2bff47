from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_cache_proxy.policy.freshness import LONGEST, Freshness, freshness, http_date, response_directives
from ollama_cache_proxy.policy.lifetimes import Lifetime

NOW = 1_000_000_000.0
"""Sun, 09 Sep 2001 01:46:40 GMT."""
DATE = (b"Date", b"Sun, 09 Sep 2001 01:46:40 GMT")
LATER = b"Sun, 09 Sep 2001 01:47:40 GMT"
LIMIT = 3600
DELAY = 2.5


def cc(*values: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((b"Cache-Control", value) for value in values)


def expires(*values: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((b"Expires", value) for value in values)


def found(*fields: tuple[bytes, bytes], limit: int = LIMIT) -> Freshness:
    return freshness(fields, limit=Lifetime(seconds=limit), delay=DELAY, now=NOW)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((), id="nothing"),
        pytest.param((DATE, (b"ETag", b'"a"'), (b"Last-Modified", LATER)), id="what tells no lifetime"),
        pytest.param(cc(b"public, no-transform, must-revalidate, stale-if-error=5"), id="directives of another kind"),
        pytest.param(cc(b""), id="an empty Cache-Control"),
        pytest.param(cc(b'x="max-age=5, s-maxage=6"'), id="a directive within quotes"),
        pytest.param(cc(b"xmax-age=5, max-agex=5, s-max-age=5"), id="names that only look alike"),
        pytest.param(((b"Age", b"soon"),), id="an Age of no number is ignored"),
        pytest.param(((b"Age", b""),), id="an empty Age too"),
        pytest.param(((b"Age", b"-1"),), id="an Age below zero too"),
        pytest.param(((b"Age", b"1.5"),), id="an Age of a fraction too"),
    ],
)
def test_a_response_that_tells_nothing_is_fresh_for_as_long_as_is_allowed_here(fields):
    assert found(*fields) == Freshness(lifetime=LIMIT, age=0.0)
    assert found(*fields).ttl == LIMIT


@pytest.mark.parametrize(
    ("fields", "lifetime"),
    [
        pytest.param(cc(b"max-age=60"), 60, id="max-age"),
        pytest.param(cc(b"MAX-AGE=60"), 60, id="in another case"),
        pytest.param(cc(b'max-age="60"'), 60, id="quoted"),
        pytest.param(cc(b"max-age = 60"), 60, id="with blanks"),
        pytest.param(cc(b"max-age=0060"), 60, id="leading zeros"),
        pytest.param(cc(b"public, max-age=60, x=y"), 60, id="among others"),
        pytest.param(cc(b"public", b"max-age=60"), 60, id="on a second line"),
        pytest.param(cc(b"s-maxage=30, max-age=60"), 30, id="s-maxage is for shared caches"),
        pytest.param(cc(b"max-age=20, s-maxage=90"), 20, id="and the shorter one holds"),
        pytest.param(cc(b"max-age=60", b"s-maxage=0"), 0, id="and where it is 0"),
        pytest.param(cc(b"max-age=7200"), LIMIT, id="never longer than is allowed here"),
        pytest.param(cc(b"max-age=" + b"9" * 5000), LIMIT, id="a very large number"),
        pytest.param(cc(b"max-age=0"), 0, id="none"),
        pytest.param(cc(b"max-age"), 0, id="without an argument"),
        pytest.param(cc(b"max-age="), 0, id="with an empty one"),
        pytest.param(cc(b"max-age=soon"), 0, id="of no number"),
        pytest.param(cc(b"max-age=-1"), 0, id="below zero"),
        pytest.param(cc(b"max-age=1.5"), 0, id="of a fraction"),
        pytest.param(cc("max-age=٥".encode()), 0, id="a digit that is not ASCII"),
        pytest.param(cc(b"s-maxage=x, max-age=60"), 0, id="an invalid s-maxage"),
        pytest.param(cc(b"max-age=60, max-age=60"), 60, id="twice the same"),
        pytest.param(cc(b"max-age=60, max-age=30"), 0, id="two that differ"),
        pytest.param(cc(b"max-age=60", b"max-age=90"), 0, id="two that differ on two lines"),
        pytest.param(cc(b'x="a\\", max-age=60'), 60, id="after quotes that are not closed"),
        pytest.param((DATE, *expires(LATER)), 60, id="Expires"),
        pytest.param(((b"date", b"Sun, 09 Sep 2001 01:47:00 GMT"), *expires(LATER)), 40, id="counts from Date"),
        pytest.param(expires(LATER), 60, id="counts from now without a Date"),
        pytest.param(((b"Date", b"today"), *expires(LATER)), 60, id="and where that is invalid"),
        pytest.param((DATE, (b"Date", LATER), *expires(LATER)), 60, id="and where there are two"),
        pytest.param((DATE, *expires(LATER, LATER)), 60, id="Expires twice the same"),
        pytest.param((DATE, *expires(LATER, b"Sun, 09 Sep 2001 01:48:40 GMT")), 0, id="two Expires"),
        pytest.param((DATE, *expires(b"0")), 0, id="Expires of 0"),
        pytest.param((DATE, *expires(b"-1")), 0, id="Expires of -1"),
        pytest.param((DATE, *expires(b"")), 0, id="an empty Expires"),
        pytest.param((DATE, *expires(b"Sun, 09 Sep 2001 01:46:40 GMT")), 0, id="Expires at once"),
        pytest.param((DATE, *expires(b"Sun, 09 Sep 2001 01:46:39 GMT")), 0, id="Expires in the past"),
        pytest.param((DATE, *expires(b"Sun, 09 Sep 2001 01:47:40 CET")), 0, id="another zone is invalid"),
        pytest.param((DATE, *expires(b"Fri, 31 Dec 9999 23:59:59 GMT")), LIMIT, id="Expires far ahead"),
        pytest.param((DATE, *cc(b"max-age=30"), *expires(b"0")), 0, id="an Expires that is shorter than max-age"),
        pytest.param((DATE, *cc(b"public"), *expires(LATER)), 60, id="Expires beside other directives"),
    ],
)
def test_the_lifetime_that_a_response_tells_bounds_the_one_that_is_allowed_here(fields, lifetime):
    assert found(*fields) == Freshness(lifetime=lifetime, age=DELAY)
    assert found(*fields).ttl == max(0, lifetime - 2)


@pytest.mark.parametrize(
    ("fields", "age"),
    [
        pytest.param(((b"Age", b"0"),), 0, id="none yet"),
        pytest.param(((b"Age", b"50"),), 50, id="some"),
        pytest.param(((b"age", b" 50 "),), 50, id="in another case"),
        pytest.param(((b"Age", b"50, 10"),), 50, id="the first of a list"),
        pytest.param(((b"Age", b"50"), (b"Age", b"10")), 50, id="the first line"),
        pytest.param(((b"Age", b"9" * 5000),), LONGEST, id="a very large number"),
        pytest.param((*cc(b"max-age=3600"), (b"Age", b"x")), 0, id="not a number, of a response that tells more"),
    ],
)
def test_an_age_counts_from_when_the_response_was_made(fields, age):
    freshness_ = found(*fields)
    assert freshness_ == Freshness(lifetime=LIMIT, age=age + DELAY)
    assert freshness_.ttl == max(0, LIMIT - int(age + DELAY))


def test_what_is_left_of_a_lifetime_is_less_by_the_age():
    assert found(*cc(b"max-age=60"), (b"Age", b"50")).ttl == 8
    assert found(*cc(b"max-age=60"), (b"Age", b"58")).ttl == 0
    assert found((b"Age", b"50"), limit=60).ttl == 8
    assert found(limit=0).ttl == 0
    assert freshness(cc(b"max-age=60"), limit=Lifetime(seconds=LIMIT), delay=-1.0, now=NOW).age == 0.0


@pytest.mark.parametrize(
    ("values", "directives"),
    [
        pytest.param([b""], [], id="empty"),
        pytest.param([b" , ,"], [], id="empty members"),
        pytest.param([b"No-Store , MAX-AGE = 5"], [(b"no-store", b""), (b"max-age", b"5")], id="case and blanks"),
        pytest.param([b"a", b"b"], [(b"a", b""), (b"b", b"")], id="two lines"),
        pytest.param([b'private="x-a, no-store"'], [(b"private", b"x-a, no-store")], id="field names in quotes"),
        pytest.param([b'x="a\\", no-store", y'], [(b"x", b'a\\", no-store'), (b"y", b"")], id="an escaped quote"),
        pytest.param([b'x="a, no-store'], [(b"x", b"a"), (b"no-store", b"")], id="quotes that are not closed"),
        pytest.param([b'"no-store"'], [(b'"no-store"', b"")], id="a name in quotes is none"),
        pytest.param([b"=5"], [], id="no name"),
        pytest.param([b"x=X5X"], [(b"x", b"X5X")], id="letters around a number"),
    ],
)
def test_response_directives_are_read_with_their_quotes(values, directives):
    assert response_directives(cc(*values)) == directives


WORDS = st.lists(
    st.sampled_from([b"max-age", b"s-maxage", b"no-store", b"=", b",", b'"', b"\\", b" ", b"0", b"7", b"99", b"x"]),
    max_size=12,
).map(b"".join)
LINES = st.lists(
    st.tuples(st.sampled_from([b"Cache-Control", b"cache-control", b"Expires", b"Age", b"Date", b"X"]), WORDS),
    max_size=5,
).map(tuple)


@given(fields=LINES, limit=st.integers(0, 10_000), delay=st.floats(0, 1e6))
def test_nothing_that_a_response_tells_makes_it_fresh_for_longer_than_is_allowed_here(fields, limit, delay):
    fresh = freshness(fields, limit=Lifetime(seconds=limit), delay=delay, now=NOW)
    assert 0 <= fresh.ttl <= fresh.lifetime <= limit
    assert fresh.age >= 0


@given(fields=LINES)
def test_a_directive_that_forbids_to_store_is_found_wherever_no_closed_quotes_hold_it(fields):
    bare = [value for name, value in fields if name.lower() == b"cache-control" and b'"' not in value]
    members = {part.partition(b"=")[0].strip() for value in bare for part in value.split(b",")}
    assert (b"no-store" in members) <= (b"no-store" in {name for name, _ in response_directives(fields)})


@pytest.mark.parametrize("value", [b'"' * 30_000, b'"\\' * 15_000, b"," * 30_000, b'"a",' * 8_000 + b'"'])
def test_a_long_value_is_read_in_one_pass(value):
    response_directives(cc(value))


@pytest.mark.parametrize(
    "value",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"sun, 06 NOV 1994 08:49:37 gmt",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b"Sun Nov 06 08:49:37 1994",
    ],
)
def test_an_http_date_has_three_forms(value):
    assert http_date(value) == 784111777.0


def test_of_rfc_850s_years_some_are_of_this_century_and_a_leap_second_is_no_error():
    assert http_date(b"Wednesday, 01-Jan-25 00:00:00 GMT") == 1735689600.0
    assert http_date(b"Sat, 31 Dec 2016 23:59:60 GMT") == http_date(b"Sat, 31 Dec 2016 23:59:59 GMT")


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"0", b"-1", b"now", b"784111777", b"1994-11-06T08:49:37Z", b"Sun, 6 Nov 1994 08:49:37 GMT"),
        *(b"Sun, 06 Nov 1994 08:49:37", b"Sun, 06 Nov 1994 08:49:37 +0000", b"Sun, 06 Nov 1994 08:49:37 UTC"),
        *(b"Sun, 31 Feb 1994 08:49:37 GMT", b"Sun, 06 Nov 1994 24:00:00 GMT", b"Sun, 06 Nov 0000 08:49:37 GMT"),
        *(b"Sun, 06 Foo 1994 08:49:37 GMT", b"Sun, 06 Nov 1994 08:49:61 GMT", b"Sun, 06 Nov 1994 08:49:37 GMT x"),
    ],
)
def test_any_other_date_is_invalid(value):
    assert http_date(value) is None


@pytest.mark.parametrize(
    ("seconds", "lifetime"),
    [
        (b"999999999", 999_999_999),
        (b"1000000000", 10**9),
        (b"2147483647", 2**31 - 1),
        (b"2147483649", 2**31),
        (b"10000000000", 2**31),
    ],
)
def test_a_long_time_counts_as_it_is_up_to_two_to_the_31(seconds: bytes, lifetime: int) -> None:
    assert found(*cc(b"max-age=" + seconds), limit=2**40).lifetime == lifetime


IDLE = Lifetime(seconds=1000, idle=100)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param((), Freshness(lifetime=1000, idle=100), id="as allowed"),
        pytest.param(cc(b"max-age=500"), Freshness(lifetime=500, age=DELAY, idle=100), id="no longer than it says"),
        pytest.param(cc(b"max-age=100"), Freshness(lifetime=100, age=DELAY), id="it would end no sooner without hits"),
        pytest.param(cc(b"max-age=5"), Freshness(lifetime=5, age=DELAY), id="a short one"),
    ],
)
def test_hits_never_make_a_response_fresh_for_longer_than_it_says(fields, expected):
    assert freshness(fields, limit=IDLE, delay=DELAY, now=NOW) == expected


def test_without_a_hit_an_idle_response_is_fresh_for_its_idle_time():
    assert Freshness(lifetime=1000, idle=100).ttl == 100
    assert Freshness(lifetime=1000, age=950.0, idle=100).ttl == 50
    assert Freshness(lifetime=1000, age=1000.0, idle=100).ttl == 0


@pytest.mark.parametrize(("year", "expected"), [(b"70", 0.0), (b"69", 3_124_224_000.0), (b"99", 915_148_800.0)])
def test_a_year_of_two_digits_is_of_the_century_around_1970(year: bytes, expected: float) -> None:
    day = {b"70": b"Thursday", b"69": b"Tuesday", b"99": b"Friday"}[year]
    assert http_date(b"%b, 01-Jan-%b 00:00:00 GMT" % (day, year)) == expected
