"""Requests in forms that Ollama's server reads: rows 45 and 46 of the matrix."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.e2e.faults.conftest import Measured
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import proxy_before

ASKED = json.dumps(
    {"model": "changing", "prompt": "why", "stream": False, "options": {"temperature": 0, "num_predict": 8}}
).encode()
CHANGES = (
    *("/api/copy", "/api/copy?x=1", "/%61pi/copy", "/api%2fcopy", "/api%2Fcop%79?"),
    *(
        "http://localhost/api/copy",
        "HTTPS://localhost:1/api/copy",
        "x://localhost/api/copy",
        "ftp://127.0.0.1/api/copy",
    ),
    *("ws://[::1]:80/api%2fcopy", "x://localhost:/%61pi/copy"),
)
"""Targets of a change that Ollama 0.24 and 0.33 carry out: `tests/data/reads` has what they answered."""


async def said(url: str) -> tuple[Any, RawAnswer]:
    answer = await ask(url, "POST", "/api/generate", body=ASKED)
    assert answer.status == 200, answer
    return json.loads(answer.body)["response"], answer


@pytest.mark.row(45)
@pytest.mark.parametrize("together", [False, True], ids=["alone", "behind another in one segment"])
async def test_a_change_is_seen_in_whatever_form_its_target_is(
    together: bool, simulator: Simulator, measured: Measured
) -> None:
    """Each form of target changes the model, which is asked for at once before and after."""
    stale = 0
    for name in ("one", "two"):
        simulator.models.add(name)
    async with proxy_before(simulator.url) as proxy:
        await ask(proxy.url, "POST", "/api/copy", body=b'{"source":"two","destination":"changing"}')
        for number, target in enumerate(CHANGES):
            before, _ = await said(proxy.url)
            assert (await said(proxy.url))[1].field("X-Cache") == "HIT"
            body = json.dumps({"source": ("one", "two")[number % 2], "destination": "changing"}).encode()
            async with await RawConnection.open(proxy.url) as connection:
                if together:
                    connection.send("GET", "/api/version")
                connection.send("POST", target, body=body)
                assert [(await connection.answer()).status for _ in range(1 + together)] == [200] * (1 + together)
            after, answer = await said(proxy.url)
            own, _ = await said(simulator.url)
            assert own != before, f"{target} has changed nothing"
            assert answer.field("X-Cache") != "HIT"
            stale += after != own
    measured(45, "stale", stale)
