"""What `soak` and `chaos` share: questions with a known answer, a client that asks them, and watched processes.

An answer of the simulator is a function of its seed, the model's digest and the question, but for times and ids. The
oracle computes that function here, so every body is checked by itself, whoever gave it and however often.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import IO, Any, Final, TypeVar

import orjson

from ollama_cache_proxy.simulator import ModelRegistry, generate, tokens, vectors
from ollama_cache_proxy.simulator.complete import CONTEXT_LENGTH
from ollama_cache_proxy.simulator.generate import Ask, End, Piece
from ollama_cache_proxy.simulator.registry import TEMPLATE, Model, Voice
from ollama_cache_proxy.simulator.rendering import Turn, render
from tests.support import canary
from tests.support.rawhttp import RawAnswer, RawConnection, ask

T = TypeVar("T")

SECRETS: Final = {"prompt": canary.PROMPT, "token": canary.TOKEN, "password": canary.PASSWORD}
TEXT_MODEL, VECTOR_MODEL = "tiny", "all-minilm"
SEED: Final = 0
"""The simulator's."""

_FROM_OUTSIDE: Final = ("OCP_", "REDIS_URL", "OLLAMA_HOST", "PYTHONASYNCIODEBUG")
_KEPT_LINES: Final = 40
_KEPT_VERDICTS: Final = 50_000
_LONGEST_SECRET: Final = 64
_TAG: Final = b"[AI Cache] "
_STARTS_WITHIN: Final = 20.0
_ENDS_WITHIN: Final = 15.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_WORDS: Final = ("cache", "proxy", "vector", "stream", "model", "answer", "window", "token", "garden", "river")
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
_EMBED_END: Final = re.compile(
    rb'\],"total_duration":[1-9]\d*,"load_duration":[1-9]\d*,"prompt_eval_count":([1-9]\d*)\}'
)
_USAGE_END: Final = re.compile(
    rb'\],"model":"[^"]*","usage":\{"prompt_tokens":([1-9]\d*),"total_tokens":([1-9]\d*)\}\}\n'
)
_DURATIONS: Final = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


class Route(Enum):
    """The routes that are asked."""

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

    route: Route
    model: str
    texts: tuple[str, ...]
    stream: bool = False
    base64: bool = False

    def body(self) -> bytes:
        """Give the request's body."""
        (first, *_) = self.texts
        row: dict[str, Any] = {"model": self.model}
        match self.route:
            case Route.GENERATE | Route.V1_COMPLETIONS:
                row |= {"prompt": first, "stream": self.stream}
            case Route.CHAT | Route.V1_CHAT:
                row |= {"messages": [{"role": "user", "content": first}], "stream": self.stream}
            case Route.EMBED:
                row |= {"input": list(self.texts)}
            case Route.EMBEDDINGS:
                row |= {"prompt": first}
            case Route.V1_EMBEDDINGS:
                row |= {"input": list(self.texts)} | ({"encoding_format": "base64"} if self.base64 else {})
        return json.dumps(row).encode()


class Questions:
    """Where questions come from: some that are asked again and again, and new ones without end.

    Every prompt and every input holds the canary.
    """

    def __init__(self, source: Random, *, text_models: Mapping[str, int], lists: int, name: str = "") -> None:
        self._source = source
        self._name = name
        self._made = 0
        texts = [self._text(f"known {number}") for number in range(8 * lists)]
        self.hot = [
            Question(route=Route.GENERATE, model=model, texts=(self._text(f"hot {number}"),))
            for model, count in text_models.items()
            for number in range(count)
        ]
        for at in range(lists):
            known = tuple(texts[8 * at : 8 * at + 8])
            self.hot += [
                Question(route=Route.EMBED, model=VECTOR_MODEL, texts=known),
                Question(route=Route.EMBED, model=VECTOR_MODEL, texts=tuple(source.sample(texts, 5))),
                Question(route=Route.EMBEDDINGS, model=VECTOR_MODEL, texts=known[:1]),
                Question(route=Route.V1_EMBEDDINGS, model=VECTOR_MODEL, texts=known[:3], base64=bool(at % 2)),
            ]
        self._texts = texts

    def _text(self, name: str) -> str:
        words = " ".join(self._source.choices(_WORDS, k=self._source.randint(3, 40)))
        return f"{canary.PROMPT} {self._name} {name}: {words}"

    def _fresh(self) -> str:
        self._made += 1
        return self._text(f"new {self._made}")

    def known(self) -> Question:
        """Give one that was asked before."""
        return self._source.choice(self.hot)

    def new(self) -> Question:
        """Give one that is asked for the first time: a completion, or vectors of which one text is new."""
        text = self._fresh()
        match self._source.randrange(10):
            case 0:
                return Question(route=Route.EMBEDDINGS, model=VECTOR_MODEL, texts=(text,))
            case 1:
                return Question(route=Route.V1_EMBEDDINGS, model=VECTOR_MODEL, texts=(text,), base64=True)
            case 2 | 3:
                texts = (*self._source.sample(self._texts, 7), text)
                return Question(route=Route.EMBED, model=VECTOR_MODEL, texts=texts)
            case _:
                return Question(route=Route.GENERATE, model=TEXT_MODEL, texts=(text,))

    def streamed(self, model: str = TEXT_MODEL, *, again: bool = False) -> Question:
        """Give a stream, of a chat more often than not; `again` asks a prompt that others ask too."""
        routes = (Route.CHAT, Route.CHAT, Route.V1_CHAT, Route.GENERATE, Route.V1_COMPLETIONS)
        text = f"{canary.PROMPT} again {self._source.randrange(10)}" if again else self._fresh()
        return Question(route=self._source.choice(routes), model=model, texts=(text,), stream=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Completion:
    """What a completion has to be: its pieces, why and after how many tokens it ended, and the counts of its prompt."""

    pieces: tuple[str, ...]
    reason: str
    count: int
    prompt_tokens: int
    context: tuple[int, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


@lru_cache(maxsize=4096)
def _completion(route: Route, text: str, digest: str, models: ModelRegistry) -> _Completion:
    model = next(model for model in models if model.digest == digest)
    given: dict[str, Any] = {}
    if route in (Route.V1_CHAT, Route.V1_COMPLETIONS):
        given = {"temperature": 1.0, "top_p": 1.0}
    if route is Route.V1_COMPLETIONS:
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
        prompt_tokens=min(asked.prompt_tokens, CONTEXT_LENGTH),
        context=tuple(tokens.encode(prompt + "".join(pieces))) if route is Route.GENERATE else (),
    )


@lru_cache(maxsize=4096)
def _vector(route: Route, voice: Voice, text: str, *, packed: bool) -> bytes:
    """Give a vector as a route writes it."""
    if route is Route.EMBEDDINGS:
        return vectors.raw_text(vectors.raw(voice, text, SEED)).encode()
    vector = vectors.unit(voice, text, SEED, 0)
    return f'"{vectors.packed(vector)}"'.encode() if packed else vectors.unit_text(vector).encode()


class Oracle:
    """Says what is wrong in a body, by what the question and the model's digest make of it."""

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models
        self._right: set[bytes] = set()

    def wrong(self, question: Question, body: bytes, *, counted: bool, model: Model | None = None) -> str:
        """Say what is wrong in the body of a 200, nothing where all is well.

        `counted` says that the count of a list's tokens is Ollama's own, no estimate; `model` is another one than that
        which the question names.
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
        match question.route:
            case Route.EMBED | Route.EMBEDDINGS | Route.V1_EMBEDDINGS:
                return _wrong_vectors(question, body, model, counted=counted)
            case Route.GENERATE | Route.CHAT:
                expected = _completion(question.route, question.texts[0], model.digest, self._models)
                return _wrong_lines(question, body, expected)
            case Route.V1_CHAT | Route.V1_COMPLETIONS:
                expected = _completion(question.route, question.texts[0], model.digest, self._models)
                return _wrong_events(question, body, expected)


def _wrong_vectors(question: Question, body: bytes, model: Model, *, counted: bool) -> str:
    packed = question.base64
    rows = [_vector(question.route, model.voice, text, packed=packed) for text in question.texts]
    count = sum(vectors.token_count(model, text) for text in question.texts)
    match question.route:
        case Route.EMBEDDINGS:
            return "" if body == b'{"embedding":' + rows[0] + b"}" else "not this vector"
        case Route.EMBED:
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
    return {"message": {"role": "assistant", "content": text}} if question.route is Route.CHAT else {"response": text}


def _wrong_lines(question: Question, body: bytes, expected: _Completion) -> str:
    """Judge JSON lines, or the one object of a whole answer."""
    if question.stream:
        if not body.endswith(b"\n"):
            return "does not end in a line end"
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
            wanted |= {"context": list(expected.context)} if question.route is Route.GENERATE else {}
            counts = {"prompt_eval_count": expected.prompt_tokens, "eval_count": expected.count}
            named = ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration")
            wanted |= {name: counts.get(name, row.get(name)) for name in (*named, "eval_count", "eval_duration")}
        if orjson.dumps(wanted) != line:
            return f"line {at}: {line[:120]!r}"
        if not _STAMP.fullmatch(row["created_at"]) or (last and not all(row[name] > 0 for name in _DURATIONS)):
            return f"line {at}: the time cannot be"
    return ""


def _wrong_events(question: Question, body: bytes, expected: _Completion) -> str:
    """Judge a stream of server-sent events."""
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
        if question.route is Route.V1_CHAT:
            delta = {"role": "assistant", "content": piece}
            head = {"id": row["id"], "object": "chat.completion.chunk", "created": row["created"]}
            wanted = {**head, **made, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        else:
            head = {"id": row["id"], "object": "text_completion", "created": row["created"]}
            wanted = {**head, "choices": [{"text": piece, "index": 0, "finish_reason": reason}], **made}
        if event != b"data: " + orjson.dumps(wanted):
            return f"event {at}: {event[:160]!r}"
        ids.add(row["id"])
    return "" if len(ids) == 1 else "pieces of several answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request: an answer that came to its end by its framing, or why there is none.

    `sent` and `ended` are monotonic.
    """

    answer: RawAnswer | None
    why: str
    sent: float
    ended: float

    @property
    def cache(self) -> str:
        """What X-Cache says."""
        return (self.answer and self.answer.field("X-Cache")) or ""

    @property
    def details(self) -> str:
        """What Cache-Status says."""
        return (self.answer and self.answer.field("Cache-Status")) or ""

    @property
    def counted(self) -> bool:
        """Whether a list's count of tokens is Ollama's own; `detail` has room for one thing, and is not shared."""
        return not any(mark in self.details for mark in ("estimated-usage", "known=", "collapsed"))


class LoadClient:
    """A client that keeps its connection while it can."""

    def __init__(self, url: str, bound: float) -> None:
        self._url, self._bound = url, bound
        self._connection: RawConnection | None = None

    async def ask(self, question: Question, *, fields: Mapping[str, str | None] | None = None) -> Outcome:
        """Ask, and wait for the end of the answer, but not longer than the bound."""
        sent = time.monotonic()
        answer, why = None, ""
        try:
            async with asyncio.timeout(self._bound):
                if self._connection is None:
                    self._connection = await RawConnection.open(self._url)
                self._connection.send("POST", question.route.value, body=question.body(), fields=fields)
                answer = await self._connection.answer()
        except TimeoutError:
            why = "timeout"
        except (OSError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
            why = type(error).__name__
        if answer is None or answer.closed or (answer.field("Connection") or "").lower() == "close":
            self.close()
        return Outcome(answer=answer, why=why, sent=sent, ended=time.monotonic())

    def close(self) -> None:
        """Leave."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass(slots=True)
class Secrets:
    """Which secrets showed, and where."""

    shown: set[str] = field(default_factory=set)

    def look(self, data: bytes, where: str) -> None:
        """Look for them in some output."""
        self.shown.update(f"{name} in {where}" for name, secret in SECRETS.items() if secret.encode() in data)


class Watched:
    """A process whose standard error is read as it comes, counted and searched, and not kept."""

    def __init__(self, *arguments: str, secrets: Secrets, environment: Mapping[str, str] | None = None) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FROM_OUTSIDE)}
        self.lines = self.tracebacks = self.foreign = 0
        self.first: list[str] = []
        self.strange: list[str] = []
        self._secrets = secrets
        self._process = subprocess.Popen(  # noqa: S603 - commands of this project
            (sys.executable, *arguments),
            env=inherited | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def _read(self) -> None:
        rest = b""
        while data := os.read(_pipe(self._process.stderr).fileno(), 1 << 16):
            # A secret that is cut by the end of a piece is found with the next one.
            self._secrets.look(rest[-_LONGEST_SECRET:] + data, "the log")
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._line(line)
        if rest:
            self._line(rest)

    def _line(self, line: bytes) -> None:
        self.lines += 1
        if len(self.first) < _KEPT_LINES:
            self.first.append(line.decode(errors="replace"))
        if not line.startswith(_TAG):
            self.foreign += 1
            self.tracebacks += line.startswith(b"Traceback")
            if len(self.strange) < _KEPT_LINES:
                self.strange.append(line.decode(errors="replace"))

    async def said(self, text: str) -> str:
        """Wait for one of its first lines that holds `text`, and give what stands behind it."""
        async with asyncio.timeout(_STARTS_WITHIN):
            while not (found := [line for line in self.first if text in line]):
                if not self.alive:
                    raise RuntimeError(f"ended too early: {self.first}")
                await asyncio.sleep(0.01)
        return found[0].split(text, 1)[1].split(",")[0].split()[0]

    async def tell(self, line: str) -> None:
        """Write a line to it, and wait for the line that it answers."""
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        stdin.write(line.encode() + b"\n")
        stdin.flush()
        async with asyncio.timeout(_STARTS_WITHIN):
            if await asyncio.to_thread(stdout.readline) != b"done\n":
                raise RuntimeError(f"did not take {line!r}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def end(self) -> int:
        """Ask it to end, and give its exit status."""
        self._process.terminate()
        status = await asyncio.to_thread(self._process.wait, _ENDS_WITHIN)
        await asyncio.to_thread(self._reader.join, _ENDS_WITHIN)
        return status

    def close(self) -> None:
        """End it at once, if it still runs."""
        if self.alive:
            self._process.kill()
        self._process.wait()
        self._reader.join(_ENDS_WITHIN)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            _pipe(pipe).close()

    def memory(self) -> float:
        """Give its resident memory in MiB (proc_pid_statm(5))."""
        return int(self._proc("statm").split()[1]) * _PAGE / (1 << 20)

    def files(self) -> int:
        """Give how many file descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - names are enough

    def command(self) -> bytes:
        """Give its command line as others can see it."""
        return self._proc("cmdline")

    def _proc(self, name: str) -> bytes:
        return Path(f"/proc/{self.pid}/{name}").read_bytes()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("no pipe")
    return pipe


def simulator(port: int, *arguments: str, secrets: Secrets) -> Watched:
    """Start `ollama-cache-proxy simulate`."""
    return Watched("-m", "ollama_cache_proxy", "simulate", "--listen", f"127.0.0.1:{port}", *arguments, secrets=secrets)


def proxy(upstream: str, redis_url: str, *, secrets: Secrets, **settings: str) -> Watched:
    """Start `ollama-cache-proxy serve`; what is secret comes by its environment alone."""
    environment = {f"OCP_{name.upper()}": value for name, value in settings.items()}
    environment |= {"OCP_REDIS_URL": redis_url, "OCP_ADMIN_TOKEN": canary.TOKEN}
    arguments = ("--listen", "127.0.0.1:0", "--upstream", upstream, "--log", "plain")
    return Watched("-m", "ollama_cache_proxy", "serve", *arguments, secrets=secrets, environment=environment)


async def look_around(url: str, process: Watched, secrets: Secrets) -> None:
    """Look for secrets in what anybody can ask of the proxy, and in its command line."""
    for path in ("/metrics", "/api/cache/stats", "/readyz"):
        secrets.look((await ask(url, "GET", path)).body, path)
    secrets.look(process.command(), "the command line")


def seeded(*parts: object) -> Random:
    """Give a source of repeatable choices."""
    return Random(":".join(map(str, parts)))  # noqa: S311 - a run has to be repeatable, not secret


def table(rows: Iterable[tuple[str, object]]) -> str:
    """Give names and values in two columns."""
    made = [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in rows]
    width = max(len(name) for name, _ in made)
    return "".join(f"{name:<{width}}  {value:>12}\n" for name, value in made)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM, SIGINT and SIGHUP cancel it, so that no process is left over."""

    async def cancellable() -> T:
        task = asyncio.ensure_future(main)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        sys.exit(130)
