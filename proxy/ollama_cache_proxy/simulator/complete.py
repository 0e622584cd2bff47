"""A completion from the request to the last token, for every wire form.

The endpoints convert their requests to one type (`Wanted`) and define the form of a reply (`Form`). The order of the
checks, the texts of errors, the loading of the model and the rate of tokens are the same for all of them, and follow
GenerateHandler and ChatHandler in Ollama's server/routes.go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from ollama_cache_proxy.simulator import generate, naming, releases, tokens, wire
from ollama_cache_proxy.simulator.call import Call, Fault
from ollama_cache_proxy.simulator.generate import Ask, Broken, End, OptionError, Piece
from ollama_cache_proxy.simulator.prompt_slots import shifted
from ollama_cache_proxy.simulator.registry import SYSTEM, TEMPLATE, Model, sha256
from ollama_cache_proxy.simulator.releases import Release
from ollama_cache_proxy.simulator.rendering import OVER_MESSAGES, Turn, render, render_messages, render_native
from ollama_cache_proxy.simulator.state import State

CRASHED = "an error was encountered while running the model: unexpected EOF"
MAX_TOP_LOGPROBS = 20
NUM_KEEP = 4
"""Tokens at the start of a prompt that are never left out (`num_keep`)."""

NEVER = -62_135_596_800 * 10**9
"""Go's zero time, the year 1, in nanoseconds since the epoch: what a response has that was never filled."""


class RefusedError(Exception):
    """A request that gets an error; `late` if the real server notices only after the stream has started."""

    def __init__(self, status: int, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.status, self.message, self.late = status, message, late


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A requested completion; `model` in the client's spelling, `keep_alive` in nanoseconds."""

    model: str
    turns: tuple[Turn, ...]
    chat: bool
    stream: bool
    options: Mapping[str, Any] | None = None
    keep_alive: int | None = None
    system: str = ""
    template: str = ""
    suffix: str = ""
    raw: bool = False
    context: tuple[int, ...] | None = None
    format: Any = None
    think: bool | str | None = None
    tools: tuple[Any, ...] = ()
    truncate: bool = True
    shift: bool = True
    render_only: bool = False
    logprobs: bool = False
    top_logprobs: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to complete: the request loads or unloads the model."""
        return not self.turns if self.chat else not self.turns[0].text


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One event of a completion; `created` in nanoseconds since the epoch, `metrics` durations in nanoseconds."""

    model: str
    created: int
    role: str = "assistant"
    text: str = ""
    done: bool = False
    reason: str = ""
    rendered: str = ""
    context: tuple[int, ...] = ()
    metrics: Mapping[str, int] = field(default_factory=dict)
    logprobs: tuple[dict[str, Any], ...] = ()

    def usage(self, name: str) -> int:
        """Return a count of the metrics, 0 if there is none."""
        return self.metrics.get(name, 0)


class Form(Protocol):
    """The wire form of replies."""

    whole_type: str
    stream_type: str

    def whole(self, reply: Reply) -> bytes:
        """Return the body of a completion in one piece."""

    def events(self, reply: Reply) -> list[bytes]:
        """Return the parts that a stream sends for one reply."""

    def error(self, status: int, message: str) -> bytes:
        """Return the body of an error."""

    error_type: str


def find(call: Call, text: str, *, unnamed: tuple[int, str]) -> Model:
    """Return the model for a name in the client's spelling; `unnamed` is the error for an empty one."""
    if not text:
        raise RefusedError(*unnamed)
    name = naming.parse(text)
    if name is None:
        raise RefusedError(400, "invalid model name")
    model = call.simulator.models.find(name)
    if model is None:
        raise RefusedError(404, f"model '{text}' not found")
    return model


def schedule_options(model: Model, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the effective options. Raise RefusedError."""
    try:
        return generate.merged_options(model, options)
    except OptionError as error:
        raise RefusedError(500, str(error)) from error


def context_length(release: Release, model: Model, options: Mapping[str, Any]) -> int:
    """Return how many tokens a model holds with these options."""
    wanted = int(options.get("num_ctx", 0))
    return min(wanted if wanted > 0 else release.context_length, model.trained_context)


async def load(call: Call, model: Model, keep_alive: int | None, options: Mapping[str, Any]) -> None:
    """Load a model, with a delay if it is not loaded yet."""
    context = context_length(call.simulator.release, model, options)
    if call.simulator.residence.load(model, keep_alive, context):
        await asyncio.sleep(call.simulator.behaviour.load_delay)


def _supports(wanted: Wanted, model: Model) -> None:
    """Raise RefusedError for what the model cannot do."""
    if wanted.think and "thinking" not in model.capabilities:
        raise RefusedError(400, f'"{wanted.model}" does not support thinking')
    if "completion" not in model.capabilities:
        raise RefusedError(400, f'"{wanted.model}" does not support {"chat" if wanted.chat else "generate"}')
    for needed, capability in ((bool(wanted.tools), "tools"), (bool(wanted.suffix), "insert")):
        if needed and capability not in model.capabilities:
            raise RefusedError(400, f"{model.name.full} does not support {capability}")


def _format(wanted: Wanted) -> str:
    match wanted.format:
        case None | "":
            return ""
        case "json":
            return "json"
        case dict():
            return wire.dumps(wire.by_name(wanted.format))
        case other:
            quoted = wire.dumps(wire.dumps(other))
            text = f'invalid format: {quoted}; expected "json" or a valid JSON Schema object'
            raise RefusedError(500, text, late=True)


def _rendered(wanted: Wanted, model: Model, turns: tuple[Turn, ...]) -> str:
    """Return the prompt for turns."""
    system = wanted.system or model.text(SYSTEM)
    if system and turns[0].role != "system":
        turns = (Turn(role="system", text=system), *turns)
    is_native = model.chat_template and not wanted.template and not wanted.suffix
    template = model.chat_template if is_native else wanted.template or model.text(TEMPLATE)
    if is_native:
        return render_native(template, turns)
    if OVER_MESSAGES in template:
        return render_messages(turns, tuple(map(wire.dumps, wanted.tools)))
    return render(template, turns)


def _prompt(wanted: Wanted, model: Model, context: int) -> str:
    """Return the rendered prompt. A chat over the context loses its first messages, but none of the system's.

    The last message stays (`server/prompt.go`).
    """
    if wanted.raw:
        return wanted.turns[0].text
    prompt = _rendered(wanted, model, wanted.turns)
    if not wanted.chat or not wanted.truncate:
        return prompt
    for gone in range(1, len(wanted.turns)):
        if tokens.count(prompt) <= context:
            break
        kept = tuple(turn for turn in wanted.turns[:gone] if turn.role == "system")
        prompt = _rendered(wanted, model, (*kept, *wanted.turns[gone:]))
    return prompt


def _ask(release: Release, wanted: Wanted, model: Model, options: Mapping[str, Any]) -> Ask:
    """Return what to ask the model. Raise RefusedError for what does not fit, or that the model does not take."""
    context = context_length(release, model, options)
    prompt = _prompt(wanted, model, context)
    if not release.ignores_images and "vision" not in model.capabilities and any(turn.images for turn in wanted.turns):
        raise RefusedError(400, releases.NO_IMAGES, late=True)
    ask = Ask(
        model=model,
        prompt=prompt,
        options=options,
        context=wanted.context or (),
        format=_format(wanted),
        images=tuple(sha256(image) for turn in wanted.turns for image in turn.images),
        tools=wire.dumps(wanted.tools) if wanted.tools else "",
        top_logprobs=wanted.top_logprobs if wanted.logprobs else None,
        repeat_penalty=release.repeat_penalty,
    )
    if not release.halves_prompt and ask.prompt_tokens > context and not wanted.truncate:
        raise RefusedError(400, "the input length exceeds the context length", late=True)
    if release.halves_prompt and ask.prompt_tokens >= context:
        if not wanted.truncate:
            raise RefusedError(400, releases.too_long(ask.prompt_tokens, context), late=True)
        if not wanted.shift:
            raise RefusedError(400, releases.TOO_LONG_TO_SHIFT, late=True)
    return ask


def _keep(ask: Ask, context: int) -> int:
    """Return how many tokens at the start of a prompt are never left out."""
    return max(0, min(int(ask.options.get("num_keep", NUM_KEEP)), context - 1))


def _kept(release: Release, ask: Ask) -> int:
    """Return how many tokens of the prompt the model is given."""
    context = context_length(release, ask.model, ask.options)
    if not release.halves_prompt or ask.prompt_tokens < context:
        return min(ask.prompt_tokens, context)
    return context - (context - _keep(ask, context)) // 2


async def complete(call: Call, wanted: Wanted, form: Form) -> None:
    """Handle a completion, or a request that only loads or unloads a model."""
    clock = _Clock(call.simulator)
    try:
        first = await _prepare(call, wanted, clock)
    except RefusedError as refused:
        await call.simulator.gate.passed()
        body = form.error(refused.status, refused.message)
        if refused.late and wanted.stream:
            call.begin(refused.status, form.error_type if form.error_type != wire.JSON else wire.BARE_JSON)
            await call.part(body)
            call.end()
        else:
            call.whole(refused.status, body, form.error_type)
        return
    await call.simulator.gate.passed()
    if isinstance(first, Reply):
        is_stream = wanted.stream and form.stream_type == wire.EVENTS
        body = b"".join(form.events(first)) if is_stream else form.whole(first)
        call.whole(200, body, form.stream_type if is_stream else form.whole_type)
        return
    async with _reading(call, first, clock):
        await (_stream if wanted.stream else _unstreamed)(call, wanted, first, form, clock)


async def _prepare(call: Call, wanted: Wanted, clock: _Clock) -> Ask | Reply:
    """Return what to ask the model, or the reply to a request without a prompt."""
    if not 0 <= wanted.top_logprobs <= MAX_TOP_LOGPROBS:
        raise RefusedError(400, "top_logprobs must be between 0 and 20")
    model = find(call, wanted.model, unnamed=(400, "model is required") if wanted.chat else (404, "model '' not found"))
    if model.remote is not None:
        raise RefusedError(400, "this server cannot run this remote model")
    if wanted.empty and wanted.keep_alive == 0:
        call.simulator.residence.unload(model)
        return Reply(model=wanted.model, created=time.time_ns(), done=True, reason="unload")
    if wanted.raw and (wanted.template or wanted.system or wanted.context):
        raise RefusedError(400, "raw mode does not support template, system, or context")
    _supports(wanted, model)
    options = schedule_options(model, wanted.options)
    await load(call, model, wanted.keep_alive, options)
    clock.loaded = time.perf_counter_ns()
    if wanted.empty:
        return Reply(model=wanted.model, created=time.time_ns(), done=True, reason="load")
    if wanted.render_only:
        length = context_length(call.simulator.release, model, options)
        role, prompt = "" if wanted.chat else "assistant", _prompt(wanted, model, length)
        return Reply(model=wanted.model, created=time.time_ns(), role=role, rendered=prompt)
    return _ask(call.simulator.release, wanted, model, options)


class _Clock:
    """When the request was received and when its model was loaded (perf_counter, nanoseconds), and what then took time.

    `waited` is for a slot, `read` for the prompt, None where that has no time of its own; `said` is the output so far.
    """

    def __init__(self, simulator: State) -> None:
        self._simulator = simulator
        self.began = self.loaded = time.perf_counter_ns()
        self.waited = 0
        self.read: int | None = None
        self.cached = 0
        self.said = ""

    def metrics(self, ask: Ask, count: int) -> dict[str, int]:
        """Return the durations and counts of the last reply; tokens from the prompt cache took no time."""
        prompt_tokens = max(_kept(self._simulator.release, ask), 1)
        is_told = self._simulator.behaviour.tells_cached
        total = max(time.perf_counter_ns() - self.began, 1000)
        loading = min(max(self.loaded - self.began, 1), total - 2)
        worked = max(total - loading - self.waited, 2)
        share = worked * (prompt_tokens - self.cached) // (10 * prompt_tokens)
        prompt = max(min(share if self.read is None else self.read, worked - 1), 1)
        return {
            "total_duration": total,
            "load_duration": loading,
            "prompt_eval_count": prompt_tokens,
            **({"prompt_eval_cached_count": self.cached} if is_told else {}),
            "prompt_eval_duration": prompt,
            "eval_count": count,
            "eval_duration": max(worked - prompt, 1),
        }


def _whole_prompt(ask: Ask) -> str:
    return tokens.decode(ask.context) + ask.prompt


def _pieces(release: Release, ask: Ask) -> tuple[str, ...]:
    """Return the tokens of the prompt that the model is given: what is over the context goes after those to keep."""
    pieces = tokens.pieces(_whole_prompt(ask)) or [""]
    kept = _kept(release, ask)
    if kept >= ask.prompt_tokens or kept >= len(pieces):
        return tuple(pieces)
    keep = _keep(ask, context_length(release, ask.model, ask.options))
    return (*pieces[:keep], *pieces[len(pieces) - (kept - keep) :])


@asynccontextmanager
async def _reading(call: Call, ask: Ask, clock: _Clock) -> AsyncIterator[None]:
    """Have the prompt worked on, and leave it in its slot together with the output."""
    slots, release = call.simulator.prompt_slots(ask.model), call.simulator.release
    if slots is None and not call.simulator.behaviour.prompt_rate:
        yield
        return
    prompt_tokens = max(_kept(release, ask), 1)
    if slots is None:
        await _read(call, clock, prompt_tokens)
        yield
        return
    prompt = _pieces(release, ask)
    async with slots.held(prompt) as held:
        started = time.perf_counter_ns()
        clock.waited = held.waited
        clock.cached = held.reused * prompt_tokens // len(prompt)
        try:
            await _read(call, clock, prompt_tokens)
        except asyncio.CancelledError:
            done = (time.perf_counter_ns() - started) / max(clock.read or 0, 1)
            held.left = prompt[: held.reused + int(done * (len(prompt) - held.reused))]
            raise
        try:
            yield
        finally:
            context = context_length(release, ask.model, ask.options)
            before = _whole_prompt(ask)
            said = tokens.pieces(before + clock.said)[len(tokens.pieces(before)) :]
            held.left = shifted((*prompt, *said), context, _keep(ask, context))


async def _read(call: Call, clock: _Clock, prompt_tokens: int) -> None:
    """Take the time for the tokens of a prompt that were not there."""
    behaviour = call.simulator.behaviour
    if call.seconds is None and behaviour.prompt_rate:
        seconds = behaviour.reading(prompt_tokens) - behaviour.reading(clock.cached)
        clock.read = round(seconds * 10**9)
        await asyncio.sleep(seconds)


def _last(wanted: Wanted, ask: Ask, text: str, end: End, clock: _Clock) -> Reply:
    context = () if wanted.raw or wanted.chat else ask.encoded(text)
    metrics = clock.metrics(ask, end.count)
    return Reply(
        model=wanted.model, created=time.time_ns(), done=True, reason=end.reason, context=context, metrics=metrics
    )


def _logprobs(piece: Piece, ranked_shown: int) -> tuple[dict[str, Any], ...]:
    def one(token: str, value: float) -> dict[str, Any]:
        return {"token": token, "logprob": value, "bytes": list(token.encode())}

    rows = []
    for ranked in piece.logprobs:
        row = one(*ranked[0])
        if ranked_shown:
            row["top_logprobs"] = [one(*pair) for pair in ranked[:ranked_shown]]
        rows.append(row)
    return tuple(rows)


async def _unstreamed(call: Call, wanted: Wanted, ask: Ask, form: Form, clock: _Clock) -> None:
    await asyncio.sleep(call.delay(call.simulator.behaviour.completion_delay))
    if call.fault is Fault.ERROR_LINE:
        call.whole(500, form.error(500, CRASHED), form.error_type)
        return
    events = list(_completed(call, ask))
    pieces, end = [event for event in events if isinstance(event, Piece)], events[-1]
    text = clock.said = "".join(piece.text for piece in pieces)
    if isinstance(end, Broken) and end.error:
        call.whole(500, form.error(500, end.error), form.error_type)
        return
    if isinstance(end, Broken):
        # Go keeps the last event as the response, or an empty one if there was none.
        call.simulator.residence.used(ask.model)
        call.whole(200, form.whole(_unfinished(wanted, text)), form.whole_type)
        return
    reply = _last(wanted, ask, text, cast("End", end), clock)
    rows = tuple(row for piece in pieces for row in _logprobs(piece, wanted.top_logprobs))
    call.simulator.residence.used(ask.model)
    whole = Reply(
        model=reply.model,
        created=reply.created,
        text=text,
        done=True,
        reason=reply.reason,
        context=reply.context,
        metrics=reply.metrics,
        logprobs=rows,
    )
    call.whole(200, form.whole(whole), form.whole_type)


def _completed(call: Call, ask: Ask) -> Iterator[Piece | End | Broken]:
    """Yield what the model says, without its end if a test wants that."""
    for event in generate.complete(ask, call.simulator.behaviour.seed):
        if call.fault is Fault.NO_END and isinstance(event, End):
            yield Broken(error="")
        else:
            yield event


def _unfinished(wanted: Wanted, text: str) -> Reply:
    """Return the response whose end was lost: without counts, and without anything if there was no text either."""
    if not text:
        return Reply(model="", created=NEVER, role="")
    return Reply(model=wanted.model, created=time.time_ns(), text=text)


def _crash(form: Form, error: str) -> bytes:
    """Return the end of a stream with an error: the compatible endpoints lose its text."""
    if form.error_type == wire.BARE_JSON:
        return b"".join(form.events(Reply(model="", created=NEVER)))
    return wire.dumps({"error": error}).encode() + b"\n"


async def _stream(call: Call, wanted: Wanted, ask: Ask, form: Form, clock: _Clock) -> None:
    behaviour = call.simulator.behaviour
    if behaviour.token_rate is None:
        await asyncio.sleep(behaviour.completion_delay)
    for index, event in enumerate(_completed(call, ask)):
        if behaviour.token_rate is not None:
            await asyncio.sleep(1 / behaviour.token_rate)
        if not call.streaming:
            # What was never written is not converted either.
            call.begin(200, wire.NDJSON if isinstance(event, Broken) else form.stream_type)
        if call.fault is Fault.ERROR_LINE and (index > 1 or isinstance(event, End)):
            await call.part(_crash(form, CRASHED))
            break
        if isinstance(event, Broken):
            if event.error:
                await call.part(_crash(form, event.error))
            break
        if isinstance(event, End):
            reply = _last(wanted, ask, clock.said, event, clock)
        else:
            clock.said += event.text
            rows = _logprobs(event, wanted.top_logprobs)
            reply = Reply(model=wanted.model, created=time.time_ns(), text=event.text, logprobs=rows)
        for part in form.events(reply):
            await call.part(part)
    call.simulator.residence.used(ask.model)
    call.end()
