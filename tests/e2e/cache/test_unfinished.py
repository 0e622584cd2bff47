"""A completion whose end Ollama has lost is passed on as it is, and never stored.

Since 0.30 a model's text that is no UTF-8 ends a response early: whole it is a 200 without `done`, streamed it has no last
line, and where there was no text at all it has no model and the year 1, or not one chunk.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.policy.endpoints import REUSABLE
from ollama_cache_proxy.service.settings import setting_of
from ollama_cache_proxy.simulator import Behaviour, Fault, Simulator
from tests.support.plain_requests import PLAIN
from tests.support.rawhttp import ask
from tests.support.recordings import settled
from tests.support.servers import proxy_before

EVERYTHING: dict[str, Any] = {"cache_streams": True} | {setting_of(row.operation): "always" for row in REUSABLE}
PATHS = {row.operation: row.path for row in REUSABLE}
COMPLETIONS = ("generate", "chat", "v1-chat", "v1-completions", "v1-responses", "v1-messages")
NO_TEXT = "be goodbar"
"""What the recorded tiny of 0.33 answers without a byte of UTF-8, at temperature 0."""


def body(operation: str, prompt: str, *, stream: bool) -> bytes:
    document = {"model": "tiny", "stream": stream, "temperature": 0, "options": {"temperature": 0}}
    text = json.dumps(PLAIN[operation] | document).replace('"p"', json.dumps(prompt))
    return text.encode()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("prompt", ["of some text", NO_TEXT])
@pytest.mark.parametrize("operation", COMPLETIONS)
async def test_it_is_passed_on_and_not_stored(operation: str, prompt: str, stream: bool) -> None:
    still = Behaviour(completion_delay=0)
    async with (
        Simulator(still) as direct,
        Simulator(still) as behind,
        proxy_before(behind.url, **EVERYTHING) as proxy,
    ):
        for simulator in (direct, behind):
            simulator.fault = lambda _: None if prompt == NO_TEXT else Fault.NO_END
        for asked in (1, 2):
            sent = body(operation, prompt, stream=stream)
            expected = await ask(direct.url, "POST", PATHS[operation], body=sent)
            answer = await ask(proxy.url, "POST", PATHS[operation], body=sent)
            assert (answer.status, settled(answer.body)) == (200, settled(expected.body))
            assert [settled(chunk) for chunk in answer.chunks] == [settled(chunk) for chunk in expected.chunks]
            assert (answer.field("X-Cache"), "stored" in (answer.field("Cache-Status") or "")) == ("MISS", False)
            await proxy.kept()
            assert behind.inferences == asked
        assert (await proxy.running.store.count()).keys == 0


async def test_what_is_finished_is_stored() -> None:
    """So that the test above does not pass for another reason."""
    async with (
        Simulator(Behaviour(completion_delay=0)) as simulator,
        proxy_before(simulator.url, **EVERYTHING) as proxy,
    ):
        for operation in COMPLETIONS:
            for stream in (False, True):
                sent = body(operation, "of some text", stream=stream)
                for expected in ("MISS", "HIT"):
                    answer = await ask(proxy.url, "POST", PATHS[operation], body=sent)
                    await proxy.kept()
                    assert answer.field("X-Cache") == expected, (operation, stream)


NO_VECTORS = {
    "embed": ({"input": "a"}, 501),
    "embed of a list": ({"input": ["a", "b", "a"]}, 501),
    "embeddings": ({"prompt": "a"}, 500),
    "v1-embeddings": ({"input": ["a", "b"]}, 501),
    "v1-embeddings in base64": ({"input": "a", "encoding_format": "base64"}, 501),
}


@pytest.mark.parametrize("case", NO_VECTORS)
async def test_a_model_without_vectors_says_so_each_time(case: str) -> None:
    """Each request reaches Ollama once, and its error the client as it was."""
    given, status = NO_VECTORS[case]
    path = PATHS[case.split(maxsplit=1)[0]]
    async with (
        Simulator(Behaviour(embedding_delay=0)) as simulator,
        proxy_before(simulator.url) as proxy,
    ):
        sent = json.dumps({"model": "tiny", **given}).encode()
        direct = await ask(simulator.url, "POST", path, body=sent)
        for asked in (2, 3):
            answer = await ask(proxy.url, "POST", path, body=sent)
            assert (answer.status, answer.body) == (status, direct.body)
            assert b"does not support embeddings" in answer.body
            assert simulator.inferences == asked
        await proxy.kept()
        assert (await proxy.running.store.count()).keys == 0
