from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.simulator.single_gpu import texts_in
from tests.support.rawhttp import RawConnection, ask

SINGLE: dict[str, Any] = {"completion_delay": 0, "embedding_delay": 0, "one_at_a_time": True}


async def embed(simulator: Simulator, *texts: str, path: str = "/api/embed") -> None:
    body = {"model": "all-minilm", "input": list(texts) if len(texts) > 1 else texts[0], "prompt": texts[0]}
    answer = await ask(simulator.url, "POST", path, body=json.dumps(body).encode())
    assert answer.status == 200


async def test_requests_are_worked_on_one_after_the_other_in_their_order() -> None:
    async with Simulator(Behaviour(**SINGLE, text_delay=0.01)) as simulator:
        ended: list[int] = []

        async def one(number: int) -> None:
            await embed(simulator, f"text {number}", "other")
            ended.append(number)

        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(one(number)))
            await simulator.arrived(number + 1)
        await asyncio.gather(*tasks)
        assert ended == [0, 1, 2, 3]


@pytest.mark.parametrize(("texts", "seconds"), [(1, 0.02), (3, 0.06)])
@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings"])
async def test_each_text_takes_its_time(path: str, texts: int, seconds: float) -> None:
    async with Simulator(Behaviour(**SINGLE, text_delay=0.02)) as simulator:
        begun = time.perf_counter()
        await embed(simulator, *(f"text {number}" for number in range(texts)), path=path)
        assert time.perf_counter() - begun >= 0.9 * seconds


async def test_a_completion_takes_the_time_of_its_prompt_first() -> None:
    async with Simulator(Behaviour(**SINGLE, prompt_delay=0.05)) as simulator:
        begun = time.perf_counter()
        body = json.dumps({"model": "tiny", "prompt": "why", "stream": True}).encode()
        assert (await ask(simulator.url, "POST", "/api/generate", body=body)).status == 200
        assert time.perf_counter() - begun >= 0.045


async def test_who_leaves_while_it_waits_holds_up_nobody() -> None:
    async with Simulator(Behaviour(**SINGLE)) as simulator:
        simulator.gate.close()
        first = asyncio.create_task(embed(simulator, "one", "two"))
        await simulator.arrived(1)
        async with await RawConnection.open(simulator.url) as leaving:
            leaving.send("POST", "/api/embed", body=b'{"model":"all-minilm","input":["a","b"]}')
            await simulator.arrived(2)
        await simulator.departed(1)
        simulator.gate.open()
        await first
        await embed(simulator, "three", "four")


async def test_without_the_behaviour_nobody_waits() -> None:
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0, text_delay=30, prompt_delay=30)) as simulator:
        await embed(simulator, "one", "two")


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        (b'{"model":"m","input":["a","b"]}', 2),
        (b'{"model":"m","input":"a"}', 1),
        (b'{"model":"m","input":[]}', 0),
        (b'{"model":"m","prompt":"a"}', 0),
        (b"[1]", 0),
        (b"no json", 0),
        (b"", 0),
    ],
)
def test_how_many_texts_are_to_be_embedded(body: bytes, texts: int) -> None:
    assert texts_in(body) == texts
