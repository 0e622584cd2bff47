"""The oracle of soak and chaos accepts what the simulator sends, and nothing else."""

from __future__ import annotations

import random

import pytest

from benchmarks.load import SEED, TEXT_MODEL, Endpoint, Oracle, Question, Questions
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.rawhttp import ask

QUESTIONS = Questions(random.Random(1), text_models={TEXT_MODEL: 1}, lists=2)
ASKED = [*QUESTIONS.hot, *(Question(endpoint=endpoint, model=TEXT_MODEL, texts=("why",), stream=True) for endpoint in Endpoint
         if endpoint not in (Endpoint.EMBED, Endpoint.EMBEDDINGS, Endpoint.V1_EMBEDDINGS))]  # fmt: skip


@pytest.mark.parametrize("question", ASKED, ids=lambda question: question.endpoint.value)
async def test_what_ollama_answers_is_right_and_what_is_changed_is_wrong(question: Question) -> None:
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0, token_rate=10_000, seed=SEED)) as simulator:
        oracle = Oracle(simulator.models)
        body = (await ask(simulator.url, "POST", question.endpoint.value, body=question.body())).body
    assert oracle.wrong(question, body, counted=True) == ""
    assert oracle.wrong(question, body.replace(b"0", b"1").replace(b"A", b"B").replace(b"e", b"f"), counted=True)
