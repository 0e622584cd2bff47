"""What of requests the watch looks at, and what it makes of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ollama_cache_proxy.core import prompt_watch
from ollama_cache_proxy.core.facts import Event, PromptRead
from ollama_cache_proxy.core.prompt_watch import Answered, PromptWatch
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.policy import endpoints
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.prompts.prompt_memory import LossCause
from ollama_cache_proxy.service.system_clock import SystemClock

CHAT = endpoints.find("POST", "/api/chat")[0]
EMBED = endpoints.find("POST", "/api/embed")[0]
TEXT = "be brief and say what you know " * 100


class Watched:
    def __init__(self) -> None:
        self.facts: list[Event] = []
        self.tasks = Tasks()
        self.watch = PromptWatch(clock=SystemClock(), observe=self.facts.append, tasks=self.tasks, turns=Turns())

    def ask(self, body: Any, *, host: str = "", usage: Usage | None = None, slots: int = 1, **more: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        name = body.get("model", "") if isinstance(body, dict) else ""
        known = {"endpoint": CHAT, "model": name, "host": host, "fields": (), "category": "", "body": data}
        answered = Answered(**{**known, "usage": usage, "begun": 0.0, **more})
        if self.watch.wants(answered.endpoint, answered.model, answered.host, answered.body):
            self.watch.answered(answered, slots)

    @property
    def readings(self) -> list[PromptRead]:
        return [fact for fact in self.facts if isinstance(fact, PromptRead)]


def chat(*texts: str, model: str = "tiny") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text} for text in texts]}


async def test_spellings_of_a_model_are_one_and_models_and_hosts_are_apart() -> None:
    watched = Watched()
    watched.ask(chat(TEXT))
    watched.ask(chat(TEXT, model="Tiny:latest"))
    watched.ask(chat(TEXT, model="other"))
    watched.ask(chat(TEXT), host="b")
    assert [one.reading.shared > 0 for one in watched.readings] == [False, True, False, False]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"17", b'{"messages":{}}', b'{"model":5,"messages":[]}', b"\xff" * 100]
)
async def test_what_cannot_be_read_is_left_out(body: bytes) -> None:
    watched = Watched()
    watched.ask(body)
    assert watched.facts == []
    assert watched.watch.report()["prompts"] == 0


ODD = {"role": ["user"], "type": {}, "content": [{"type": [], "text": TEXT}], "text": {}}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [ODD, {"role": {}}, {"type": [], "text": "x"}], "tools": [ODD]},
        {"messages": [5, None, "x", {"role": 7, "content": {"a": [{}]}}]},
        chat(""),
    ],
)
async def test_odd_messages_are_read(body: dict[str, Any]) -> None:
    watched = Watched()
    for _ in range(3):
        watched.ask(body)
        watched.ask({**body, "messages": [*body["messages"], ODD, 5]})
    assert len(watched.readings) == 6


async def test_what_is_no_conversation_tells_that_another_model_was_asked() -> None:
    watched, loaded = Watched(), Usage(prompt_tokens=700, load_seconds=3.0)
    watched.ask(chat(TEXT), usage=loaded)
    watched.ask({"model": "all-minilm", "input": "x"}, endpoint=EMBED)
    watched.ask(chat(TEXT), usage=loaded)
    watched.ask(chat(TEXT), usage=loaded)
    assert [loss.cause for one in watched.readings for loss in one.reading.losses] == [
        LossCause.SWAPPED,
        LossCause.UNLOADED,
    ]


async def test_where_looking_takes_too_much_time_some_are_left_out_and_it_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched()
    watched.ask(chat(TEXT))
    with monkeypatch.context() as patched:
        patched.setattr(watched.watch._budget, "share", 0.0)
        watched.watch._budget.took(1000.0)
        watched.ask(chat(TEXT, TEXT))
        watched.ask(chat(TEXT, TEXT), host="b")
    assert len(watched.readings) == 1
    watched.watch._budget.took(-1000.0)
    watched.ask(chat(TEXT, TEXT))
    assert [one.reading.shared for one in watched.readings] == [0, 0], "what Ollama holds now was not looked at"
    assert not watched.readings[-1].reading.losses


async def test_a_very_large_prompt_is_not_looked_at_and_what_was_known_is_forgotten() -> None:
    watched = Watched()
    watched.ask(chat(TEXT))
    watched.ask(chat(TEXT, "x" * (1 << 20)))
    watched.ask(chat(TEXT))
    assert [one.reading.shared for one in watched.readings] == [0, 0]


async def test_an_error_goes_to_the_loop_and_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    watched = Watched()
    monkeypatch.setattr(prompt_watch, "parts_of", lambda *_: 1 / 0)
    watched.ask(chat(TEXT))
    assert told == ["a prompt was not looked at"]
    assert watched.facts == []


async def test_of_so_many_models_and_no_more_prompts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_watch, "_MOST_MODELS", 2)
    watched = Watched()
    for model in ("a", "b", "a", "c", "a", "b"):
        watched.ask(chat(TEXT, model=model))
    assert [one.reading.shared > 0 for one in watched.readings] == [False, False, True, False, True, False]
