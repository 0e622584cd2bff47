"""Asks the steps of a case, and judges each answer against that of Ollama's stand-in, asked directly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.peers.cases import CASES, Case, Step
from ollama_cache_proxy.simulator import Behaviour, Fault, Received, Simulator
from tests.support.rawhttp import RawAnswer, RawConnection

BEHAVIOUR: Final = Behaviour(completion_delay=0, embedding_delay=0)
NOT_ANSWERED: Final = "not answered"
_PATIENCE: Final = 20.0
"""Seconds for an answer."""

_UNLIKE: Final = frozenset(
    {"created", "created_at", "id", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}
)
"""Names whose values differ from one answer of Ollama to the next."""

_FIELDS: Final = ("Content-Type", "Access-Control-Allow-Origin")
_FAILURE: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came for a step (None: no whole answer), what Ollama says directly, and how often it was asked for it."""

    got: RawAnswer | None
    direct: RawAnswer | None
    asked: int


def _rows(body: bytes) -> list[Any]:
    """Return the JSON of a body: one value, or one for each line or event."""
    try:
        return [json.loads(body)]
    except ValueError:
        pass
    rows: list[Any] = []
    for line in body.removeprefix(b"data: ").replace(b"\ndata: ", b"\n").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            rows += [line.decode("latin-1")] if line else []
    return rows


def _lasting(value: Any) -> Any:
    """Return JSON without what differs from answer to answer."""
    if isinstance(value, Mapping):
        return {name: _lasting(item) for name, item in value.items() if name not in _UNLIKE}
    if isinstance(value, list):
        return [_lasting(item) for item in value]
    return value


def _meaning(answer: RawAnswer) -> tuple[Any, ...]:
    """Return what two answers of Ollama to one request have in common."""
    return answer.status, *(answer.field(name) for name in _FIELDS), _lasting(_rows(answer.body))


def _said(answer: RawAnswer) -> tuple[Any, ...]:
    """Return the text or the vectors of an answer in OpenAI's form, whoever wrote it; of a failure only its kind."""
    if answer.status >= _FAILURE:
        return (answer.status // 100,)
    rows = [row for row in _rows(answer.body) if isinstance(row, Mapping)]
    choices = [choice for row in rows for choice in row.get("choices") or ()]
    parts = [choice.get("message") or choice.get("delta") or {} for choice in choices]
    vectors = [item["embedding"] for row in rows for item in row.get("data") or ()]
    return (
        answer.status // 100,
        "".join(part.get("content") or "" for part in parts),
        [reason for choice in choices if (reason := choice.get("finish_reason"))],
        any(row.get("usage") for row in rows),
        any("delta" in choice for choice in choices),
        any("error" in row for row in rows),
        [[round(number, 5) for number in one] if isinstance(one, list) else one for one in vectors],
    )


def _complete(answer: RawAnswer, *, streamed: bool) -> bool:
    """Return whether an answer looks like a whole success."""
    rows = _rows(answer.body)
    failed = answer.status >= _FAILURE or any(isinstance(row, Mapping) and "error" in row for row in rows)
    ended = not streamed or any(row == "[DONE]" or (isinstance(row, Mapping) and row.get("done")) for row in rows)
    return not failed and ended


def wrong(step: Step, answered: Answered, *, translated: bool = False) -> str:
    """Return what is wrong with the answer to a step; empty if nothing is."""
    got, direct = answered.got, answered.direct
    meaning = _said if translated else _meaning
    if step.fault is not None and (got is None or not _complete(got, streamed=b'"stream":true' in (step.body or b""))):
        return ""
    if got is None:
        return "no whole answer"
    if step.changes:
        return f"status {got.status}" if got.status >= _FAILURE else ""
    assert direct is not None
    if got.status != direct.status and (not translated or got.status // 100 != direct.status // 100):
        return f"status {got.status}, Ollama {direct.status}"
    if meaning(got) != meaning(direct):
        fields = [name for name in _FIELDS if got.field(name) != direct.field(name)]
        return "another body" if translated or _lasting(_rows(got.body)) != _lasting(_rows(direct.body)) else fields[0]
    return "Ollama was not asked" if step.asks and not answered.asked else ""


async def _answer(url: str, step: Step) -> RawAnswer | None:
    """Send a step over a connection of its own; None if no whole answer comes."""
    try:
        async with asyncio.timeout(_PATIENCE), await RawConnection.open(url) as connection:
            connection.send(step.verb, step.path, fields=step.fields, body=step.body)
            return await connection.answer(step.verb)
    except (OSError, EOFError, TimeoutError, ValueError):
        return None


async def ask(url: str, simulator: Simulator, case: Case, step: Step) -> Answered:
    """Send a step to a proxy in front of a stand-in, then to the stand-in itself."""

    def refused(received: Received) -> Fault | None:
        if received.method != "POST" or case.secret is None:
            return None
        name, value = (part.lower().encode() for part in case.secret)
        given = {field.lower(): content.lower() for field, content in received.fields}
        is_inference = received.target.startswith(("/api/generate", "/api/chat", "/v1/"))
        return Fault.STATUS_500 if is_inference and given.get(name) != value else None

    def fault(received: Received) -> Fault | None:
        looks = received.method != "POST" or received.target == "/api/show"
        return None if looks else step.fault or refused(received)

    await asyncio.sleep(step.wait)
    before, simulator.fault = simulator.inferences, fault
    got = await _answer(simulator.url if step.behind else url, step)
    asked, simulator.fault = simulator.inferences - before, refused
    direct = None if step.changes else await _answer(simulator.url, step)
    simulator.fault = None
    return Answered(got=got, direct=direct, asked=asked)


async def judge(
    url: str, simulator: Simulator, *, only: str = "", translated: bool = False, cases: Sequence[Case] = CASES
) -> dict[str, str]:
    """Return what is wrong with each case not answered rightly; `only` is how paths begin that are spoken."""
    found: dict[str, str] = {}
    for case in cases:
        if not all(step.behind or step.path.startswith(only) for step in case.steps):
            found[case.name] = NOT_ANSWERED
            continue
        for number, step in enumerate(case.steps, 1):
            if reason := wrong(step, await ask(url, simulator, case, step), translated=translated):
                found[case.name] = f"request {number}: {reason}"
                break
    return found
