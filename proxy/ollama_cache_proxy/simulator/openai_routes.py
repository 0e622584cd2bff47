"""The OpenAI-compatible endpoints for completions, embeddings and lists of models.

As in middleware/openai.go a request is converted to Ollama's own and the replies are converted back. Errors before that
are plain JSON; later ones and all responses end in a newline and have the content type `application/json`.
"""

from __future__ import annotations

import base64
import re
import time
from typing import Any

from ollama_cache_proxy.simulator import embed, naming, wire
from ollama_cache_proxy.simulator.call import Call
from ollama_cache_proxy.simulator.complete import Reply, Wanted, complete
from ollama_cache_proxy.simulator.gojson import GoError
from ollama_cache_proxy.simulator.goschema import (
    Kind,
    anything,
    boolean,
    decode,
    integer,
    listed,
    number,
    pointer,
    string,
    struct,
)
from ollama_cache_proxy.simulator.releases import Release
from ollama_cache_proxy.simulator.rendering import Turn
from ollama_cache_proxy.simulator.vectors import packed

_ERROR_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_DATA_URL = re.compile(r"data:(?:image/(?:jpe?g|png|webp))?;base64,")
_STREAM_OPTIONS = pointer(struct("StreamOptions", {"include_usage": boolean}, package="openai"))

_CHAT = struct(
    "ChatCompletionRequest",
    {
        "model": string,
        "messages": listed(
            struct(
                "Message",
                {
                    "role": string,
                    "content": anything,
                    "reasoning": string,
                    "tool_calls": listed(anything, "[]openai.ToolCall"),
                    "name": string,
                    "tool_call_id": string,
                },
                package="openai",
            ),
            "[]openai.Message",
        ),
        "stream": boolean,
        "stream_options": _STREAM_OPTIONS,
        "max_tokens": pointer(integer),
        "seed": pointer(integer),
        "stop": anything,
        "temperature": pointer(number),
        "frequency_penalty": pointer(number),
        "presence_penalty": pointer(number),
        "top_p": pointer(number),
        "response_format": anything,
        "tools": listed(anything, "[]api.Tool"),
        "reasoning": pointer(struct("Reasoning", {"effort": string}, package="openai")),
        "reasoning_effort": pointer(string),
        "logprobs": pointer(boolean),
        "top_logprobs": integer,
    },
    package="openai",
)
_COMPLETION = struct(
    "CompletionRequest",
    {
        "model": string,
        "prompt": string,
        "frequency_penalty": number,
        "max_tokens": pointer(integer),
        "presence_penalty": number,
        "seed": pointer(integer),
        "stop": anything,
        "stream": boolean,
        "stream_options": _STREAM_OPTIONS,
        "temperature": pointer(number),
        "top_p": number,
        "suffix": string,
        "logprobs": pointer(integer),
    },
    package="openai",
)
_EMBED = struct(
    "EmbedRequest",
    {"input": anything, "model": string, "dimensions": integer, "encoding_format": string},
    package="openai",
)


def error_row(status: int, message: str) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    kind = _ERROR_TYPES.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def body(call: Call, kind: Kind) -> dict[str, Any] | None:
    """Return the request as a struct; if it cannot be read, send an error and return None."""
    try:
        return decode(call.body, kind)
    except GoError as error:
        call.json(400, error_row(400, str(error)))
        return None


def _line(row: dict[str, Any]) -> bytes:
    return wire.dumps(row).encode() + b"\n"


def _event(row: dict[str, Any]) -> bytes:
    return b"data: " + wire.dumps(row).encode() + b"\n\n"


def _usage(reply: Reply, *, tells_cached: bool) -> dict[str, Any]:
    prompt, count = reply.usage("prompt_eval_count"), reply.usage("eval_count")
    cached = {"cached_tokens": reply.usage("prompt_eval_cached_count")}
    told = {"prompt_tokens_details": cached} if tells_cached else {}
    return {"prompt_tokens": prompt, **told, "completion_tokens": count, "total_tokens": prompt + count}


class OpenAIForm:
    """Replies as OpenAI's chunks; `chat` puts the text into messages and deltas."""

    whole_type = wire.BARE_JSON
    stream_type = wire.EVENTS
    error_type = wire.BARE_JSON

    def __init__(self, call: Call, *, chat: bool, with_usage: bool) -> None:
        self._chat, self._with_usage = chat, with_usage
        self._openai_deltas = chat and call.simulator.release.openai_deltas
        self._tells_cached = call.simulator.behaviour.tells_cached
        self._created = 0
        """Seconds since the epoch of the first chunk, where all chunks have one instant."""
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{call.simulator.random.randrange(999)}"

    def error(self, status: int, message: str) -> bytes:
        """Return the error and a newline."""
        return _line(error_row(status, message))

    def whole(self, reply: Reply) -> bytes:
        """Return a chat.completion or a text_completion."""
        if self._chat:
            text: dict[str, Any] = {"index": 0, "message": {"role": reply.role, "content": reply.text}}
        else:
            text = {"text": reply.text, "index": 0}
        choice = text | {"finish_reason": reply.reason or None}
        if self._chat and reply.logprobs:
            choice["logprobs"] = {"content": reply.logprobs}
        row = {
            "id": self._id,
            "object": "chat.completion" if self._chat else "text_completion",
            "created": reply.created // 10**9,
            "model": reply.model,
            "system_fingerprint": "fp_ollama",
            "choices": [choice],
            "usage": _usage(reply, tells_cached=self._tells_cached),
        }
        return _line(row)

    def events(self, reply: Reply) -> list[bytes]:
        """Return one part: a chunk, and after the last one the usage if wanted, and `[DONE]`."""
        rows = self._chunks(reply)
        if self._with_usage and not self._chat:
            rows[-1]["usage"] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        part = b"".join(map(_event, rows))
        if reply.done:
            if self._with_usage:
                usage = _usage(reply, tells_cached=self._tells_cached)
                part += _event(rows[-1] | {"choices": [], "usage": usage})
            part += b"data: [DONE]\n\n"
        return [part]

    def _chunks(self, reply: Reply) -> list[dict[str, Any]]:
        """Return the chunks of one reply; of OpenAI's form the last one has only the reason."""
        reason = reply.reason or None
        if not self._chat:
            return [self._chunk(reply, {"text": reply.text, "index": 0, "finish_reason": reason})]
        if not self._openai_deltas:
            return [self._chunk(reply, self._choice(reply, {"role": "assistant", "content": reply.text}, reason))]
        is_first = not self._created
        if is_first:
            self._created = time.time_ns() // 10**9
        rows: list[dict[str, Any]] = []
        if is_first or reply.text or reply.logprobs or not reply.done:
            delta = {**({"role": "assistant"} if is_first else {}), "content": reply.text}
            rows.append(self._chunk(reply, self._choice(reply, delta, None)))
        if reply.done:
            rows.append(self._chunk(reply, {"index": 0, "delta": {}, "finish_reason": reason or "stop"}))
        return rows

    @staticmethod
    def _choice(reply: Reply, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": reason}
        return choice | ({"logprobs": {"content": reply.logprobs}} if reply.logprobs else {})

    def _chunk(self, reply: Reply, choice: dict[str, Any]) -> dict[str, Any]:
        head: dict[str, Any] = {"id": self._id, "object": "chat.completion.chunk" if self._chat else "text_completion"}
        head["created"] = self._created or time.time_ns() // 10**9
        made = {"model": reply.model, "system_fingerprint": "fp_ollama"}
        choices = {"choices": [choice]}
        return {**head, **made, **choices} if self._chat else {**head, **choices, **made}


def _stops(given: Any) -> dict[str, Any]:
    match given:
        case str():
            return {"stop": [given]}
        case list():
            return {"stop": [stop for stop in given if isinstance(stop, str)]}
        case _:
            return {}


def _options(request: dict[str, Any]) -> dict[str, Any]:
    """Return Ollama's options for OpenAI's fields, with OpenAI's defaults."""
    plain = {"max_tokens": "num_predict", "seed": "seed"}
    plain |= {name: name for name in ("frequency_penalty", "presence_penalty")}
    options = {ours: request[theirs] for theirs, ours in plain.items() if request[theirs] is not None}
    temperature = request["temperature"]
    options["temperature"] = 1.0 if temperature is None else temperature
    options["top_p"] = request["top_p"] or 1.0
    return options | _stops(request["stop"])


def _image(part: dict[str, Any]) -> bytes:
    """Return the image of a part. Raise GoError."""
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str):
        raise GoError("invalid message format")
    if url.startswith(("http://", "https://")):
        raise GoError("image URLs are not currently supported, please use base64 encoded data instead")
    found = _DATA_URL.match(url)
    if found is None:
        raise GoError("invalid image input")
    try:
        return base64.b64decode(url[found.end() :], validate=True)
    except ValueError as error:
        raise GoError("invalid image input") from error


def _part(role: str, part: Any) -> Turn:
    """Return one part of a message. Raise GoError."""
    match part:
        case {"type": "text", "text": str(text)}:
            return Turn(role=role, text=text)
        case {"type": "image_url"}:
            return Turn(role=role, text="", images=(_image(part),))
        case _:
            raise GoError("invalid message format")


def _turns(messages: list[dict[str, Any]]) -> tuple[Turn, ...]:
    """Return the messages as turns, each part of a list as its own turn. Raise GoError."""
    turns: list[Turn] = []
    for message in messages:
        role, content = message["role"].lower(), message["content"]
        calls = tuple(map(wire.dumps, message["tool_calls"] or ()))
        match content:
            case str():
                turns.append(Turn(role=role, text=content, calls=calls))
            case list():
                turns += [_part(role, part) for part in content]
            case _ if message["tool_calls"] is None:
                kinds = {type(None): "<nil>", float: "float64", bool: "bool", dict: "map[string]interface {}"}
                raise GoError(f"invalid message content type: {kinds[type(content)]}")
            case _:
                turns.append(Turn(role=role, text="", calls=calls))
    return tuple(turns)


def _format(given: Any) -> Any:
    if not isinstance(given, dict):
        return None
    if given.get("type") == "json_object":
        return "json"
    schema = given.get("json_schema")
    return schema.get("schema") if given.get("type") == "json_schema" and isinstance(schema, dict) else None


def think(release: Release, effort: str, quote: str) -> bool | str | None:
    """Return the `think` that an effort means, None for none; `quote` is around it in the GoError that is raised."""
    if effort and effort not in release.efforts:
        raise GoError(f"invalid reasoning value: {quote}{effort}{quote} (must be {release.efforts_listed})")
    return release.efforts[effort] if effort else None


def _think(release: Release, request: dict[str, Any]) -> bool | str | None:
    effort = request["reasoning"]["effort"] if request["reasoning"] else request["reasoning_effort"] or ""
    return think(release, effort, release.effort_quote)


def _with_usage(request: dict[str, Any]) -> bool:
    return bool(request["stream_options"] and request["stream_options"]["include_usage"])


async def chat(call: Call) -> None:
    """POST /v1/chat/completions."""
    request = body(call, _CHAT)
    if request is None:
        return
    if not request["messages"]:
        call.json(400, error_row(400, "[] is too short - 'messages'"))
        return
    try:
        turns, thinking = _turns(request["messages"]), _think(call.simulator.release, request)
    except GoError as error:
        call.json(400, error_row(400, str(error)))
        return
    wanted = Wanted(
        model=request["model"],
        turns=turns,
        chat=True,
        stream=request["stream"],
        options=_options(request),
        format=_format(request["response_format"]),
        think=thinking,
        tools=tuple(request["tools"] or ()),
        logprobs=bool(request["logprobs"]),
        top_logprobs=request["top_logprobs"],
    )
    await complete(call, wanted, OpenAIForm(call, chat=True, with_usage=_with_usage(request)))


async def completions(call: Call) -> None:
    """POST /v1/completions."""
    request = body(call, _COMPLETION)
    if request is None:
        return
    stop = request["stop"]
    wrong = next((item for item in stop if not isinstance(item, str)), None) if isinstance(stop, list) else None
    if wrong is not None:
        call.json(400, error_row(400, f"invalid type for 'stop' field: {_go_type(wrong)}"))
        return
    wanted = Wanted(
        model=request["model"],
        turns=(Turn(role="user", text=request["prompt"]),),
        chat=False,
        stream=request["stream"],
        options=_options(request),
        suffix=request["suffix"],
        logprobs=bool(request["logprobs"]),
        top_logprobs=max(request["logprobs"] or 0, 0),
    )
    await complete(call, wanted, OpenAIForm(call, chat=False, with_usage=_with_usage(request)))


def _go_type(value: Any) -> str:
    kinds = {bool: "bool", float: "float64", list: "[]interface {}", dict: "map[string]interface {}"}
    return kinds[type(value)]


async def embeddings(call: Call) -> None:
    """POST /v1/embeddings: `encoding_format` float or base64; `truncate` and `options` are not read."""
    request = body(call, _EMBED)
    if request is None:
        return
    encoding, given = request["encoding_format"], request["input"]
    if encoding and encoding.lower() not in ("float", "base64"):
        text = f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
        call.json(400, error_row(400, text))
        return
    if given is None or given == []:
        call.json(400, error_row(400, "invalid input"))
        return
    asked = {**request, "input": [""] if given == "" else given, "options": None, "keep_alive": None, "truncate": None}
    try:
        vectors = await embed.vectors(call, asked)
    except embed.RefusedError as refused:
        body_bytes = _line(error_row(refused.status, refused.message))
        call.whole(refused.status, body_bytes, wire.BARE_JSON)
        return
    show = packed if encoding.lower() == "base64" else _verbatim
    rows = [
        {"object": "embedding", "embedding": show(vector), "index": index} for index, vector in enumerate(vectors.units)
    ]
    count = vectors.prompt_tokens
    usage = {"prompt_tokens": count, "total_tokens": count}
    row = {"object": "list", "data": rows, "model": request["model"], "usage": usage}
    call.whole(200, _line(row), wire.BARE_JSON)


def _verbatim(vector: tuple[float, ...]) -> wire.Verbatim:
    return wire.Verbatim(embed.unit_text(vector))


async def models(call: Call) -> None:
    """GET /v1/models."""
    rows = [_model(model.name.shortest, model.modified) for model in call.simulator.models.installed()]
    call.whole(200, _line({"object": "list", "data": rows or None}), wire.BARE_JSON)


async def model(call: Call) -> None:
    """GET /v1/models/:model."""
    found = call.simulator.models.find(call.parameter)
    if found is None:
        named = naming.parse(call.parameter)
        status = 404 if named else 400
        text = f"model '{call.simulator.release.missing(call.parameter)}' not found" if named else "invalid model name"
        body_bytes = _line(error_row(status, text))
        call.whole(status, body_bytes, wire.BARE_JSON)
        return
    call.whole(200, _line(_model(call.parameter, found.modified)), wire.BARE_JSON)


def _model(name: str, modified: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": modified // 10**9, "owned_by": naming.known(name).namespace}
