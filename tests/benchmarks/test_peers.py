"""The judge of the comparison with peers takes what Ollama answers for right, and what a careless cache answers for wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers.cases import CASES, CHAT, GENERATE, Case, Step
from benchmarks.peers.judging import BEHAVIOUR, NOT_ANSWERED, Answered, ask, judge, wrong
from ollama_cache_proxy.simulator import Fault, Simulator
from tests.support.rawhttp import RawAnswer

QUICK = [replace(case, steps=tuple(replace(step, wait=0.0) for step in case.steps)) for case in CASES]


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(BEHAVIOUR) as simulator:
        yield simulator


async def test_ollama_itself_answers_no_case_wrongly(simulator: Simulator) -> None:
    assert await judge(simulator.url, simulator, cases=QUICK) == {}


@pytest.mark.parametrize("case", [case for case in QUICK if case.differ], ids=lambda case: case.name)
async def test_the_first_answer_is_wrong_for_the_second_request_of_two_that_differ(
    simulator: Simulator, case: Case
) -> None:
    answers = [(step, await ask(simulator.url, simulator, case, step)) for step in case.steps]
    (_, stored), (last, answered) = [pair for pair in answers if not pair[0].changes][-2:]
    assert wrong(last, answered) == ""
    assert wrong(last, replace(answered, got=stored.got))


@pytest.mark.parametrize("translated", [False, True])
async def test_a_failure_is_right_only_where_ollama_fails(simulator: Simulator, translated: bool) -> None:
    body = b'{"model":"tiny","messages":[{"role":"user","content":"why"}],"temperature":0}'
    step = Step(path=CHAT, body=body)
    fine = await ask(simulator.url, simulator, Case(name="", steps=()), step)
    failed = RawAnswer(status_line="HTTP/1.1 502 Bad Gateway", fields=(), body=b"")
    failing = replace(step, fault=Fault.RESET_MID_BODY)
    other = replace(fine.got, body=fine.got.body.replace(b'"content":" ', b'"content":" x'))
    assert wrong(step, fine, translated=translated) == ""
    for got in (None, failed, other):
        assert wrong(step, replace(fine, got=got), translated=translated)
    for got in (None, failed, fine.got):
        assert wrong(failing, replace(fine, got=got), translated=translated) == ""
    assert wrong(failing, replace(fine, got=other), translated=translated)


def test_a_stored_answer_is_wrong_where_ollama_has_to_be_asked() -> None:
    same = RawAnswer(status_line="HTTP/1.1 200 OK", fields=(), body=b"{}")
    step = Step(path=GENERATE, body=b"{}", asks=True)
    assert wrong(step, Answered(got=same, direct=same, asked=0)) == "Ollama was not asked"
    assert wrong(step, Answered(got=same, direct=same, asked=1)) == ""


async def test_a_route_that_is_not_spoken_is_not_wrong(simulator: Simulator) -> None:
    found = await judge("http://127.0.0.1:1", simulator, only="/v1/", cases=QUICK[:1])
    assert found == {QUICK[0].name: NOT_ANSWERED}


def test_the_table_on_the_page_is_made_from_the_results() -> None:
    kept = json.loads(peers.RESULTS.read_text("utf-8"))
    written = peers.PAGE.read_text("utf-8")
    assert peers.page(written, kept) == written
    assert kept["cases"] == len(CASES)
