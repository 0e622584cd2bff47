"""Sessions of agents, made up from a seed: a task, then turns of answers, calls of tools and their results. Pure.

What was answered becomes part of the next request, as with any client; the calls are made up, whatever the model says,
so that a model of noise does for it. The texts are written here: no client's prompt is in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from random import Random
from typing import Any, Final

import orjson

from benchmarks.agents.scenarios import Change, Scenario
from ollama_cache_proxy.workbench.requests import Request

_NOUNS: Final = (
    *("buffer", "index", "cache", "parser", "worker", "ledger", "socket", "report", "branch", "folder", "record"),
    *("window", "schema", "client", "queue", "module", "handler", "config", "journal", "metric", "string", "budget"),
)
_VERBS: Final = (
    "read",
    "merge",
    "check",
    "write",
    "split",
    "rename",
    "close",
    "count",
    "sort",
    "load",
    "flush",
    "test",
)
_PLACES: Final = (
    "first",
    "before a release",
    "in each module",
    "without a lock",
    "only once",
    "after a change",
    "twice",
)
_SENTENCES: Final = 60
"""Of the system prompt."""
_TOOLS: Final = 6
_LINES: Final = 8
"""Of a tool's result."""
_ELIDED_AFTER: Final = 4
_LONGEST: Final = 24
"""Tokens of an answer."""
_START: Final = datetime(2026, 3, 2, 9, 15, 7, tzinfo=UTC)
_SECONDS: Final = 37
"""Between two requests, by the clock that is in the prompt."""
_BUDGET: Final = 180_000
"""Tokens, of which the countdown tells the rest."""


def _digest(*of: object) -> str:
    return blake2b(repr(of).encode(), digest_size=8).hexdigest()


def _sentence(random: Random) -> str:
    verb, noun, other = random.choice(_VERBS), random.choice(_NOUNS), random.choice(_NOUNS)
    return f"{verb.capitalize()} the {noun} of the {other} {random.choice(_PLACES)}."


def _line(random: Random) -> str:
    verb, noun, other = random.choice(_VERBS), random.choice(_NOUNS), random.choice(_NOUNS)
    return f"    {noun}.{verb}({other}, limit={random.randrange(4096)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    name: str
    about: str
    argument: str

    @property
    def schema(self) -> dict[str, Any]:
        about = f"The {self.argument} to work on"
        properties = {self.argument: {"type": "string", "description": about}}
        return {"type": "object", "properties": properties, "required": [self.argument]}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A call of a tool, and its result."""

    tool: _Tool
    value: str
    result: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """One message; `step` is what the assistant calls, or what the tool results from."""

    role: str
    text: str
    step: _Step | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session of a scenario, for a model; requests are functions of what was answered so far."""

    scenario: Scenario
    model: str
    turns: int = 20
    seed: int = 0
    size: float = 1.0
    """How long the texts are, by the usual length."""
    _system: str = field(init=False)
    _tools: tuple[_Tool, ...] = field(init=False)
    _task: str = field(init=False)
    _steps: tuple[_Step, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Make up what is said whatever the model answers."""
        random = Random(f"session {self.seed}")  # noqa: S311 - made-up texts
        sentences = [_sentence(random) for _ in range(round(_SENTENCES * self.size))]
        tools = tuple(
            _Tool(
                name=f"{verb}_{random.choice(_NOUNS)}",
                about=" ".join(_sentence(random) for _ in range(4)),
                argument=random.choice(("path", "name", "pattern")),
            )
            for verb in random.sample(_VERBS, _TOOLS)
        )
        task = "Find out why the tests of the parser fail. " + _sentence(random)
        steps = tuple(
            _Step(
                tool=random.choice(tools),
                value=f"src/{random.choice(_NOUNS)}_{number}.py",
                result="\n".join(_line(random) for _ in range(round(_LINES * self.size))),
                id=f"call_{_digest(self.seed, number)}",
            )
            for number in range(self.turns)
        )
        system = "You help with a program. " + " ".join(sentences)
        made = {"_system": system, "_tools": tools, "_task": task, "_steps": steps}
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def request(self, turn: int, answers: Sequence[str], *, still: bool = False) -> Request:
        """Return the request of a turn, counted from 0; with `still` what changes is as it was in turn 0.

        Of `answers` there must be as many as turns before.
        """
        said = self._said(turn, answers, still=still)
        tools, system = self._tools_at(0 if still else turn), self._system_at(0 if still else turn)
        made = _DIALECTS[self.scenario.path](self, system, tools, said)
        return self._made(f"turn {turn + 1}", made)

    def aside(self, turn: int) -> Request | None:
        """Return the request that comes before a turn and is no part of the conversation, None for none."""
        if self.scenario.change is not Change.ASIDE or not turn:
            return None
        asked = f"Name this conversation in four words: {self._task} {self._steps[turn - 1].value}"
        return self._made(f"before turn {turn + 1}", _native(self, "You name conversations.", (), [_user(asked)]))

    def _made(self, origin: str, body: Mapping[str, Any]) -> Request:
        headers = {"User-Agent": self.scenario.agent}
        return Request(origin=origin, path=self.scenario.path, body=orjson.dumps(body), headers=headers)

    def _said(self, turn: int, answers: Sequence[str], *, still: bool) -> list[_Said]:
        change = Change.NOTHING if still else self.scenario.change
        said = [_user(self._task)]
        for number in range(turn):
            step = self._steps[number]
            is_old = change is Change.ELIDED and number < turn - _ELIDED_AFTER
            result = "[an old result]" if is_old else step.result
            said.append(_Said(role="assistant", text=answers[number], step=step))
            said.append(_Said(role="tool", text=result, step=step))
            if self.scenario.change is Change.COUNTDOWN and not still:
                left = _BUDGET - 1800 * (number + 1) - int(_digest(self.seed, number)[:2], 16)
                said.append(_Said(role="system", text=f"{left} tokens left"))
        return said

    def _system_at(self, turn: int) -> tuple[str, ...]:
        """Return the blocks of the system prompt."""
        match self.scenario.change:
            case Change.MARK:
                mark, version = _digest(self.seed, "mark", turn)[:5], _digest(self.seed, "version")[:3]
                header = f"x-anthropic-billing-header: cc_version=2.1.114.{version}; cc_entrypoint=cli; cch={mark};"
                return (header, self._system)
            case Change.COUNTER:
                return (f"Request {turn + 1}, memory {_digest(self.seed, 'memory', turn)[:8]}.\n", self._system)
            case Change.CLOCK:
                now = _START + timedelta(seconds=_SECONDS * turn)
                return (f"You know the time: {now:%A, %d %B %Y, %H:%M:%S}.\n", self._system)
            case _:
                return (self._system,)

    def _tools_at(self, turn: int) -> tuple[_Tool, ...]:
        first, *others = self._tools
        match self.scenario.change:
            case Change.TOOL_ID:
                about = f"{first.about} Sandbox {_digest(self.seed, 'sandbox', turn)}."
                return (_Tool(name=first.name, about=about, argument=first.argument), *others)
            case Change.TOOL_ORDER:
                return tuple(Random(f"{self.seed} {turn}").sample(self._tools, len(self._tools)))  # noqa: S311 - as above
            case _:
                return self._tools


def _user(text: str) -> _Said:
    return _Said(role="user", text=text)


def _functions(tools: Sequence[_Tool]) -> list[dict[str, Any]]:
    described = ({"name": tool.name, "description": tool.about, "parameters": tool.schema} for tool in tools)
    return [{"type": "function", "function": function} for function in described]


def _native(session: Session, system: str, tools: Sequence[_Tool], said: Sequence[_Said]) -> dict[str, Any]:
    options: dict[str, Any] = {"temperature": 0, "num_predict": _LONGEST}
    if session.scenario.context is not None:
        options["num_ctx"] = session.scenario.context
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    for one in said:
        row: dict[str, Any] = {"role": one.role, "content": one.text}
        if one.step is not None and one.role == "assistant":
            called = {"name": one.step.tool.name, "arguments": {one.step.tool.argument: one.step.value}}
            row["tool_calls"] = [{"function": called}]
        elif one.step is not None:
            row["tool_name"] = one.step.tool.name
        messages.append(row)
    body = {"model": session.model, "messages": messages, "stream": True, "options": options}
    return body | ({"tools": _functions(tools)} if tools else {})


def _chat(session: Session, system: Sequence[str], tools: Sequence[_Tool], said: Sequence[_Said]) -> dict[str, Any]:
    return _native(session, "".join(system), tools, said)


def _openai(session: Session, system: Sequence[str], tools: Sequence[_Tool], said: Sequence[_Said]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "".join(system)}]
    for one in said:
        row: dict[str, Any] = {"role": one.role, "content": one.text}
        if one.step is not None and one.role == "assistant":
            arguments = orjson.dumps({one.step.tool.argument: one.step.value}).decode()
            function = {"name": one.step.tool.name, "arguments": arguments}
            row["tool_calls"] = [{"id": one.step.id, "type": "function", "function": function}]
        elif one.step is not None:
            row["tool_call_id"] = one.step.id
        messages.append(row)
    return {
        "model": session.model,
        "messages": messages,
        "tools": _functions(tools),
        "temperature": 0,
        "max_tokens": _LONGEST,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _anthropic(
    session: Session, system: Sequence[str], tools: Sequence[_Tool], said: Sequence[_Said]
) -> dict[str, Any]:
    return {
        "model": session.model,
        "max_tokens": _LONGEST,
        "temperature": 0,
        "system": [{"type": "text", "text": text} for text in system],
        "tools": [{"name": tool.name, "description": tool.about, "input_schema": tool.schema} for tool in tools],
        "messages": list(_blocks(said)),
        "stream": True,
    }


def _blocks(said: Sequence[_Said]) -> Iterator[dict[str, Any]]:
    for one in said:
        if one.step is None:
            yield {"role": one.role, "content": one.text}
        elif one.role == "assistant":
            called = {one.step.tool.argument: one.step.value}
            use = {"type": "tool_use", "id": one.step.id, "name": one.step.tool.name, "input": called}
            text = [{"type": "text", "text": one.text}] if one.text else []
            yield {"role": "assistant", "content": [*text, use]}
        else:
            result = {"type": "tool_result", "tool_use_id": one.step.id, "content": one.text}
            yield {"role": "user", "content": [result]}


_DIALECTS: Final = {"/v1/messages": _anthropic, "/v1/chat/completions": _openai, "/api/chat": _chat}
