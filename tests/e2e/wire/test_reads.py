"""The simulator makes of raw requests what Ollama makes of them (reads.py). The proxy: tests/e2e/faults/test_read_faults.py."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.e2e.wire.reads import RELEASES, REQUESTS, Seen, see

once = pytest.mark.asyncio(loop_factories=["uvloop"])


def test_what_was_recorded_is_of_these_requests() -> None:
    assert len(RELEASES) == 2
    for rows in RELEASES.values():
        assert list(rows) == list(REQUESTS)
        assert sum(row["changed"] for row in rows.values()) > 100


@once
@pytest.mark.parametrize("release", RELEASES)
async def test_the_simulator_makes_of_each_request_what_ollama_does(release: str) -> None:
    wrong = {}
    async with Simulator(Behaviour(release=release)) as simulator:
        for name, request in REQUESTS.items():
            seen = await see(simulator.url, request)
            if seen != Seen(**RELEASES[release][name]):
                wrong[name] = seen
    assert not wrong


@once
@pytest.mark.real_ollama
async def test_what_was_recorded_is_what_a_real_ollama_answers(request: pytest.FixtureRequest) -> None:
    rows, url = RELEASES[max(RELEASES)], request.config.getoption("--ollama")
    assert {name: await see(url, data) for name, data in REQUESTS.items()} == {
        name: Seen(**row) for name, row in rows.items()
    }
