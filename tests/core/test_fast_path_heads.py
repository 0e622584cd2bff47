"""Whatever stands in the head of a request: the fast path answers what the ordinary way does, or nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest
import pytest_asyncio

from tests.support import heads
from tests.support.both_ways import BothWays
from tests.support.known_requests import ALL, KNOWN, SETTINGS, STREAMED

VALUES = (b"1", b"a", b"no-cache", b"close", b"gzip", b"Bearer b")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both() -> AsyncIterator[BothWays]:
    opened = await BothWays.open(*ALL, **SETTINGS)
    yield opened
    await opened.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "line",
    [
        *(b"X-Request-Id: 1", b"x-request-id:2", b"Tracestate: a=b", b"X-Forwarded-For: 192.0.2.1", b"B3: 0", b"Dnt: "),
        *(b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-00", b"Traceparent: nonsense"),
    ],
)
async def test_a_field_that_selects_nothing_is_no_reason_to_parse(line: bytes, both: BothWays) -> None:
    taken = both.taken
    assert await both.differ(heads.beside(KNOWN, line)) == []
    assert both.taken == taken + 1


@pytest.mark.parametrize("name", heads.read_names())
async def test_a_field_that_anything_reads_is_read(name: bytes, both: BothWays) -> None:
    for value in VALUES:
        assert await both.differ(heads.beside(KNOWN, name + b": " + value)) == [], value
    assert await both.differ(KNOWN) == []


@pytest.mark.parametrize("seed", range(8))
async def test_no_head_is_answered_otherwise(seed: int, both: BothWays) -> None:
    """`python -m benchmarks.heads` draws 100,000."""
    source = Random(seed)
    for _ in range(250):
        request = heads.drawn(source.choice(ALL), source)
        assert await both.differ(request) == [], request[:2000]


async def test_wherever_a_request_is_cut(both: BothWays) -> None:
    request = heads.beside(KNOWN, b"X-Request-Id: 3")
    for at in range(1, len(request)):
        assert await both.differ(request[:at], request[at:]) == [], at
    for at in range(1, len(request) - 40, 7):
        assert await both.differ(request[:at], request[at : at + 30], request[at + 30 :]) == [], at


async def test_a_recorded_stream_is_cut_likewise(both: BothWays) -> None:
    taken = both.taken
    for at in range(1, len(STREAMED), 5):
        assert await both.differ(STREAMED[:at], STREAMED[at:]) == [], at
    assert both.taken > taken


async def test_both_have_counted_alike_and_much_was_served_without_parsing(both: BothWays) -> None:
    """After the other tests of this file."""
    short, ordinary = await both.counts()
    assert short == ordinary
    assert both.taken > 1000
