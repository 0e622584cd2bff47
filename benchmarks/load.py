"""Questions with a known response, and a client that asks them.

Except for times and ids, a response of the simulator is a function of its seed, the model's digest and the question.
The oracle computes that function, so every body is checked by itself.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from random import Random
from typing import Any, Final

import orjson

from ollama_cache_proxy.simulator import NEWEST, RELEASES, ModelRegistry, generate, tokens, vectors
from ollama_cache_proxy.simulator.generate import Ask, End, Piece
from ollama_cache_proxy.simulator.registry import TEMPLATE, Model, Voice
from ollama_cache_proxy.simulator.rendering import Turn, render
from tests.support import canary
from tests.support.rawhttp import RawAnswer, RawConnection

TEXT_MODEL, VECTOR_MODEL = "tiny", "all-minilm"
SEED: Final = 0
"""The seed of the simulator."""

_KEPT_VERDICTS: Final = 50_000
"""Results of checks that the oracle remembers."""

_WORDS: Final = ("cache", "proxy", "vector", "stream", "model", "answer", "window", "token", "garden", "river")
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
_EMBED_END: Final = re.compile(
    rb'\],"total_duration":[1-9]\d*,"load_duration":[1-9]\d*,"prompt_eval_count":([1-9]\d*)\}'
)
_USAGE_END: Final = re.compile(
    rb'\],"model":"[^"]*","usage":\{"prompt_tokens":([1-9]\d*),"total_tokens":([1-9]\d*)\}\}\n'
)
_DURATIONS: Final = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


class Endpoint(Enum):
    """The endpoints that are asked."""

    GENERATE = "/api/generate"
    CHAT = "/api/chat"
    V1_CHAT = "/v1/chat/completions"
    V1_COMPLETIONS = "/v1/completions"
    EMBED = "/api/embed"
    EMBEDDINGS = "/api/embeddings"
    V1_EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request; `texts` is one prompt, or the inputs of a list of embeddings."""

    endpoint: Endpoint
    model: str
    texts: tuple[str, ...]
    stream: bool = False
    base64: bool = False

    def body(self) -> bytes:
        """Return the body of the request."""
        (first, *_) = self.texts
        row: dict[str, Any] = {"model": self.model}
        match self.endpoint:
            case Endpoint.GENERATE | Endpoint.V1_COMPLETIONS:
                row |= {"prompt": first, "stream": self.stream}
            case Endpoint.CHAT | Endpoint.V1_CHAT:
                row |= {"messages": [{"role": "user", "content": first}], "stream": self.stream}
            case Endpoint.EMBED:
                row |= {"input": list(self.texts)}
            case Endpoint.EMBEDDINGS:
                row |= {"prompt": first}
            case Endpoint.V1_EMBEDDINGS:
                row |= {"input": list(self.texts)} | ({"encoding_format": "base64"} if self.base64 else {})
        return json.dumps(row).encode()


class Questions:
    """A source of questions: some that repeat, and new ones without end.

    Every prompt and every input contains the canary.
    """

    def __init__(self, source: Random, *, text_models: Mapping[str, int], lists: int, name: str = "") -> None:
        self._source = source
        self._name = name
        self._made = 0
        texts = [self._text(f"known {number}") for number in range(8 * lists)]
        self.hot = [
            Question(endpoint=Endpoint.GENERATE, model=model, texts=(self._text(f"hot {number}"),))
            for model, count in text_models.items()
            for number in range(count)
        ]
        for at in range(lists):
            known = tuple(texts[8 * at : 8 * at + 8])
            self.hot += [
                Question(endpoint=Endpoint.EMBED, model=VECTOR_MODEL, texts=known),
                Question(endpoint=Endpoint.EMBED, model=VECTOR_MODEL, texts=tuple(source.sample(texts, 5))),
                Question(endpoint=Endpoint.EMBEDDINGS, model=VECTOR_MODEL, texts=known[:1]),
                Question(endpoint=Endpoint.V1_EMBEDDINGS, model=VECTOR_MODEL, texts=known[:3], base64=bool(at % 2)),
            ]
        self._texts = texts

    def _text(self, name: str) -> str:
        words = " ".join(self._source.choices(_WORDS, k=self._source.randint(3, 40)))
        return f"{canary.PROMPT} {self._name} {name}: {words}"

    def _fresh(self) -> str:
        self._made += 1
        return self._text(f"new {self._made}")

    def known(self) -> Question:
        """Return a question that was asked before."""
        return self._source.choice(self.hot)

    def new(self) -> Question:
        """Return a new question: a completion, or a list of which one text is new."""
        text = self._fresh()
        match self._source.randrange(10):
            case 0:
                return Question(endpoint=Endpoint.EMBEDDINGS, model=VECTOR_MODEL, texts=(text,))
            case 1:
                return Question(endpoint=Endpoint.V1_EMBEDDINGS, model=VECTOR_MODEL, texts=(text,), base64=True)
            case 2 | 3:
                texts = (*self._source.sample(self._texts, 7), text)
                return Question(endpoint=Endpoint.EMBED, model=VECTOR_MODEL, texts=texts)
            case _:
                return Question(endpoint=Endpoint.GENERATE, model=TEXT_MODEL, texts=(text,))

    def streamed(self, model: str = TEXT_MODEL, *, again: bool = False) -> Question:
        """Return a streamed question, mostly a chat; with `again` its prompt is one that others ask too."""
        endpoints = (Endpoint.CHAT, Endpoint.CHAT, Endpoint.V1_CHAT, Endpoint.GENERATE, Endpoint.V1_COMPLETIONS)
        text = f"{canary.PROMPT} again {self._source.randrange(10)}" if again else self._fresh()
        return Question(endpoint=self._source.choice(endpoints), model=model, texts=(text,), stream=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Completion:
    """The expected completion: its pieces, its end, and the token counts of its prompt."""

    pieces: tuple[str, ...]
    reason: str
    count: int
    prompt_tokens: int
    context: tuple[int, ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)


@lru_cache(maxsize=4096)
def _completion(endpoint: Endpoint, text: str, digest: str, models: ModelRegistry) -> _Completion:
    model = next(model for model in models if model.digest == digest)
    given: dict[str, Any] = {}
    if endpoint in (Endpoint.V1_CHAT, Endpoint.V1_COMPLETIONS):
        given = {"temperature": 1.0, "top_p": 1.0}
    if endpoint is Endpoint.V1_COMPLETIONS:
        given |= {"frequency_penalty": 0.0, "presence_penalty": 0.0}
    prompt = render(model.text(TEMPLATE), (Turn(role="user", text=text),))
    asked = Ask(model=model, prompt=prompt, options=generate.merged_options(model, given))
    pieces: list[str] = []
    for event in generate.complete(asked, SEED):
        match event:
            case Piece():
                pieces.append(event.text)
            case End():
                end = event
    return _Completion(
        pieces=tuple(pieces),
        reason=end.reason,
        count=end.count,
        prompt_tokens=min(asked.prompt_tokens, RELEASES[NEWEST].context_length),
        context=tuple(tokens.encode(prompt + "".join(pieces))) if endpoint is Endpoint.GENERATE else (),
    )


@lru_cache(maxsize=4096)
def _vector(endpoint: Endpoint, voice: Voice, text: str, *, packed: bool) -> bytes:
    """Return a vector as an endpoint writes it."""
    if endpoint is Endpoint.EMBEDDINGS:
        return vectors.raw_text(vectors.raw(voice, text, SEED)).encode()
    vector = vectors.unit(voice, text, SEED, 0)
    return f'"{vectors.packed(vector)}"'.encode() if packed else vectors.unit_text(vector).encode()


class Oracle:
    """Checks bodies against what follows from the question and the model's digest."""

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models
        self._right: set[bytes] = set()

    def wrong(self, question: Question, body: bytes, *, counted: bool, model: Model | None = None) -> str:
        """Return what is wrong in the body of a 200, empty if nothing is.

        `counted` says that the token count of a list is Ollama's own, not an estimate; `model` is the model that
        answers, by default the one in the question.
        """
        model = model or self._models.get(question.model)
        seen = blake2b(repr((question, model.digest, counted)).encode() + body, digest_size=16).digest()
        if seen in self._right:
            return ""
        try:
            said = self._wrong(question, body, model, counted=counted)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            said = f"unreadable: {type(error).__name__}: {error}"
        if not said:
            if len(self._right) > _KEPT_VERDICTS:
                self._right.clear()
            self._right.add(seen)
        return said

    def _wrong(self, question: Question, body: bytes, model: Model, *, counted: bool) -> str:
        match question.endpoint:
            case Endpoint.EMBED | Endpoint.EMBEDDINGS | Endpoint.V1_EMBEDDINGS:
                return _wrong_vectors(question, body, model, counted=counted)
            case Endpoint.GENERATE | Endpoint.CHAT:
                expected = _completion(question.endpoint, question.texts[0], model.digest, self._models)
                return _wrong_lines(question, body, expected)
            case Endpoint.V1_CHAT | Endpoint.V1_COMPLETIONS:
                expected = _completion(question.endpoint, question.texts[0], model.digest, self._models)
                return _wrong_events(question, body, expected)


def _wrong_vectors(question: Question, body: bytes, model: Model, *, counted: bool) -> str:
    packed = question.base64
    rows = [_vector(question.endpoint, model.voice, text, packed=packed) for text in question.texts]
    count = sum(vectors.token_count(model, text) for text in question.texts)
    match question.endpoint:
        case Endpoint.EMBEDDINGS:
            return "" if body == b'{"embedding":' + rows[0] + b"}" else "not this vector"
        case Endpoint.EMBED:
            begin, end = b'{"model":"%s","embeddings":[' % question.model.encode() + b",".join(rows), _EMBED_END
        case _:
            numbered = (
                b'{"object":"embedding","embedding":%s,"index":%d}' % (row, index) for index, row in enumerate(rows)
            )
            begin, end = b'{"object":"list","data":[' + b",".join(numbered), _USAGE_END
    if not body.startswith(begin):
        return "not these vectors"
    found = end.fullmatch(body, len(begin))
    if found is None:
        return f"ends in {body[len(begin) :][:80]!r}"
    if counted and {int(number) for number in found.groups()} != {count}:
        return f"counts {found.groups()} tokens instead of {count}"
    return ""


def _said(question: Question, text: str) -> dict[str, Any]:
    return (
        {"message": {"role": "assistant", "content": text}}
        if question.endpoint is Endpoint.CHAT
        else {"response": text}
    )


def _wrong_lines(question: Question, body: bytes, expected: _Completion) -> str:
    """Check JSON lines, or the one object of a response."""
    if question.stream:
        if not body.endswith(b"\n"):
            return "does not end in a newline"
        lines = body[:-1].split(b"\n")
        pieces = (*expected.pieces, "")
    else:
        lines, pieces = [body], (expected.text,)
    if len(lines) != len(pieces):
        return f"{len(lines)} lines instead of {len(pieces)}: ends in {lines[-1][:80]!r}"
    for at, (line, piece) in enumerate(zip(lines, pieces, strict=True), 1):
        row = orjson.loads(line)
        last = at == len(lines)
        wanted = {"model": question.model, "created_at": row["created_at"], **_said(question, piece), "done": last}
        if last:
            wanted["done_reason"] = expected.reason
            wanted |= {"context": list(expected.context)} if question.endpoint is Endpoint.GENERATE else {}
            counts = {"prompt_eval_count": expected.prompt_tokens, "eval_count": expected.count}
            named = ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration")
            wanted |= {name: counts.get(name, row.get(name)) for name in (*named, "eval_count", "eval_duration")}
        if orjson.dumps(wanted) != line:
            return f"line {at}: {line[:120]!r}"
        if not _STAMP.fullmatch(row["created_at"]) or (last and not all(row[name] > 0 for name in _DURATIONS)):
            return f"line {at}: the time cannot be"
    return ""


def _wrong_events(question: Question, body: bytes, expected: _Completion) -> str:
    """Check a stream of server-sent events."""
    *events, mark, rest = body.split(b"\n\n")
    if (mark, rest) != (b"data: [DONE]", b""):
        return f"does not end in [DONE]: {body[-80:]!r}"
    pieces = (*expected.pieces, "")
    if len(events) != len(pieces):
        return f"{len(events)} events instead of {len(pieces)}"
    ids = set()
    for at, (event, piece) in enumerate(zip(events, pieces, strict=True), 1):
        row = orjson.loads(event.removeprefix(b"data: "))
        reason = expected.reason if at == len(events) else None
        made = {"model": question.model, "system_fingerprint": "fp_ollama"}
        if question.endpoint is Endpoint.V1_CHAT:
            delta = {} if reason else {**({"role": "assistant"} if at == 1 else {}), "content": piece}
            head = {"id": row["id"], "object": "chat.completion.chunk", "created": row["created"]}
            wanted = {**head, **made, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        else:
            head = {"id": row["id"], "object": "text_completion", "created": row["created"]}
            wanted = {**head, "choices": [{"text": piece, "index": 0, "finish_reason": reason}], **made}
        if event != b"data: " + orjson.dumps(wanted):
            return f"event {at}: {event[:160]!r}"
        ids.add(row["id"])
    return "" if len(ids) == 1 else "pieces of several responses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a request: a response that is complete by its framing, or why there is none.

    `sent` and `ended` are monotonic times; `reused` says that the connection had served another request before.
    """

    answer: RawAnswer | None
    why: str
    sent: float
    ended: float
    reused: bool = False

    @property
    def cache(self) -> str:
        """The value of X-Cache."""
        return (self.answer and self.answer.field("X-Cache")) or ""

    @property
    def details(self) -> str:
        """The value of Cache-Status."""
        return (self.answer and self.answer.field("Cache-Status")) or ""

    @property
    def counted(self) -> bool:
        """Whether a list's token count is Ollama's own, not an estimate (which a collapsed response does not show)."""
        return not any(mark in self.details for mark in ("estimated-usage", "known=", "collapsed"))


class LoadClient:
    """A client that reuses its connection."""

    def __init__(self, url: str, bound: float) -> None:
        self._url, self._bound = url, bound
        self._connection: RawConnection | None = None

    async def ask(self, question: Question, *, fields: Mapping[str, str | None] | None = None) -> Outcome:
        """Send a question, and wait for the end of the response, up to the bound."""
        sent = time.monotonic()
        answer, why, reused = None, "", self._connection is not None
        try:
            async with asyncio.timeout(self._bound):
                if self._connection is None:
                    self._connection = await RawConnection.open(self._url)
                self._connection.send("POST", question.endpoint.value, body=question.body(), fields=fields)
                answer = await self._connection.answer()
        except TimeoutError:
            why = "timeout"
        except (OSError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
            why = type(error).__name__
        if answer is None or answer.closed or (answer.field("Connection") or "").lower() == "close":
            self.close()
        return Outcome(answer=answer, why=why, sent=sent, ended=time.monotonic(), reused=reused)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def seeded(*parts: object) -> Random:
    """Return a repeatable random source."""
    return Random(":".join(map(str, parts)))  # noqa: S311 - a run has to be repeatable, not secret
