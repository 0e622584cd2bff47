"""What soak and chaos share: questions, clients and failures."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.load import TEXT_MODEL, Endpoint, Outcome, Question, Questions
from benchmarks.trial import Clients, Ending, Mix, Seen, end, table, verdict
from benchmarks.watched import Secrets, Watched
from ollama_cache_proxy.simulator import Simulator
from tests.support import canary
from tests.support.servers import free_port

STREAM = Question(endpoint=Endpoint.CHAT, model=TEXT_MODEL, texts=("why",), stream=True)


def questions(source: random.Random) -> Questions:
    return Questions(source, text_models={TEXT_MODEL: 3}, lists=2)


def test_a_mix_draws_its_shares() -> None:
    source = random.Random(1)
    asked, mix = questions(source), Mix(hits=0.5, misses=0.2)
    drawn = [mix.draw(source, asked) for _ in range(2000)]
    count = Counter(kind for kind, _ in drawn)
    assert 950 < count["hits"] < 1050
    assert 350 < count["misses"] < 450
    assert all((question in asked.hot) == (kind == "hits") for kind, question in drawn)
    assert all(question.stream == (kind == "streams") for kind, question in drawn)
    others = Mix(hits=0, misses=0)
    assert others.draw(source, asked, lambda: STREAM) == ("streams", STREAM)


async def test_clients_ask_while_they_are_to(simulator: Simulator) -> None:
    judged: list[tuple[str, Question, int]] = []

    def judge(kind: str, question: Question, outcome: Outcome) -> None:
        assert outcome.answer is not None
        judged.append((kind, question, outcome.answer.status))

    asked = questions(random.Random(2)).hot[:3]
    clients = Clients(url=simulator.url, bound=5.0, judge=judge)
    await clients.warm(asked)
    assert judged == [("warming", question, 200) for question in asked]
    await clients.ask(lambda: ("streams", STREAM), goes_on=lambda: len(judged) < 5, pause=lambda: 0.001)
    assert judged[3:] == [("streams", STREAM, 200)] * 2


def ending(secrets: Secrets, **said: Any) -> Ending:
    process: Any = SimpleNamespace(lines=7, foreign=0, tracebacks=0, strange=[])
    return Ending(**{"process": process, "secrets": secrets, "status": 0, "unanswered": ""} | said)


def test_an_ending_without_a_fault_has_no_failures(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(ending(Secrets()).failures())
    assert capsys.readouterr().out == ""


def test_everything_that_is_wrong_at_the_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    secrets = Secrets()
    secrets.search(f"{canary.TOKEN}".encode(), "the log")
    process = SimpleNamespace(lines=7, foreign=30, tracebacks=1, strange=[f"line {number}" for number in range(30)])
    bad = ending(secrets, process=process, status=-9, unanswered="ConnectionResetError")
    assert not verdict({"wrong bodies": [], **bad.failures()})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        *(f"FAILS: the log: line {number}" for number in range(20)),
        "FAILS: a last look: ConnectionResetError",
        "FAILS: the exit status: -9",
        "FAILS: secrets: token in the log",
    ]
    assert dict(bad.rows())["secrets that showed"] == 1


async def test_a_process_that_does_not_answer_a_last_look_has_failed() -> None:
    secrets = Secrets()
    process = Watched("-c", "import time; time.sleep(60)", secrets=secrets)
    try:
        ended = await end(f"http://127.0.0.1:{free_port()}", process, secrets)
    finally:
        process.close()
    assert ended.unanswered == "ConnectionRefusedError"
    assert ended.failures()["the exit status"] == ["-15"]


def test_what_was_seen_is_a_table() -> None:
    seen = Seen(asked=Counter(streams=2, hits=1200), cache=Counter({"hits: HIT": 1200}))
    assert [line.split() for line in table(seen.rows()).splitlines()] == [
        ["asked", "as", "hits", "1,200"],
        ["asked", "as", "streams", "2"],
        ["hits:", "HIT", "1,200"],
    ]
