"""Ollama's own inference endpoints: /api/generate, /api/chat, /api/embed, /api/embeddings."""

from __future__ import annotations

from typing import Any

from ollama_cache_proxy.simulator import embed, schemas, wire
from ollama_cache_proxy.simulator.call import Call
from ollama_cache_proxy.simulator.complete import Reply, Wanted, complete
from ollama_cache_proxy.simulator.gojson import GoError, NoValueError
from ollama_cache_proxy.simulator.goschema import Kind, decode
from ollama_cache_proxy.simulator.rendering import Turn


def body(call: Call, kind: Kind) -> dict[str, Any] | None:
    """Return the request as a struct; for a body that Ollama cannot read, send its error and return None."""
    try:
        return decode(call.body, kind)
    except NoValueError:
        call.error(400, "missing request body")
    except GoError as error:
        call.error(400, str(error))
    return None


class NativeForm:
    """Replies as JSON lines; `chat` puts the text into a message."""

    whole_type = wire.JSON
    stream_type = wire.NDJSON
    error_type = wire.JSON

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat

    def whole(self, reply: Reply) -> bytes:
        """Return one JSON object without a line end."""
        row: dict[str, Any] = {"model": reply.model, "created_at": wire.timestamp(reply.created)}
        if self._chat:
            row["message"] = {"role": reply.role, "content": reply.text}
        else:
            row["response"] = reply.text
        row["done"] = reply.done
        if reply.reason:
            row["done_reason"] = reply.reason
        if reply.rendered:
            row["_debug_info"] = {"rendered_template": reply.rendered}
        if reply.context:
            row["context"] = reply.context
        # The two structs have metrics and logprobs in opposite order.
        logprobs = {"logprobs": reply.logprobs} if reply.logprobs else {}
        row |= {**logprobs, **reply.metrics} if self._chat else {**reply.metrics, **logprobs}
        return wire.dumps(row).encode()

    def events(self, reply: Reply) -> list[bytes]:
        """Return one JSON line."""
        return [self.whole(reply) + b"\n"]

    def error(self, status: int, message: str) -> bytes:  # noqa: ARG002 - other forms send the kind of the error
        """Return `{"error": …}`."""
        return wire.dumps({"error": message}).encode()


def _sampling(request: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that both kinds of completions share."""
    return {
        "model": request["model"],
        "stream": request["stream"] is not False,
        "options": request["options"],
        "keep_alive": request["keep_alive"],
        "format": request["format"],
        "think": request["think"],
        "truncate": request["truncate"] is not False,
        "shift": request["shift"] is not False,
        "render_only": request["_debug_render_only"],
        "logprobs": request["logprobs"],
        "top_logprobs": request["top_logprobs"],
    }


async def generate(call: Call) -> None:
    """POST /api/generate."""
    request = body(call, schemas.GENERATE)
    if request is None:
        return
    context = request["context"]
    wanted = Wanted(
        chat=False,
        turns=(Turn(role="user", text=request["prompt"], images=tuple(request["images"] or ())),),
        system=request["system"],
        template=request["template"],
        suffix=request["suffix"],
        raw=request["raw"],
        context=None if context is None else tuple(context),
        **_sampling(request),
    )
    await complete(call, wanted, NativeForm(chat=False))


async def chat(call: Call) -> None:
    """POST /api/chat."""
    request = body(call, schemas.CHAT)
    if request is None:
        return
    turns = tuple(
        Turn(
            role=message["role"].lower(),
            text=message["content"],
            images=tuple(message["images"] or ()),
            calls=tuple(map(wire.dumps, message["tool_calls"] or ())),
        )
        for message in request["messages"] or ()
    )
    wanted = Wanted(chat=True, turns=turns, tools=tuple(request["tools"] or ()), **_sampling(request))
    await complete(call, wanted, NativeForm(chat=True))


async def embed_inputs(call: Call) -> None:
    """POST /api/embed: float32 text of normalised vectors."""
    request = body(call, schemas.EMBED)
    if request is None:
        return
    try:
        vectors = await embed.vectors(call, request)
    except embed.RefusedError as refused:
        call.error(refused.status, refused.message)
        return
    row: dict[str, Any] = {
        "model": request["model"],
        "embeddings": [wire.Verbatim(embed.unit_text(vector)) for vector in vectors.units],
    }
    call.json(200, {**row, **vectors.metrics})


async def embed_prompt(call: Call) -> None:
    """POST /api/embeddings: float64 text of the raw vector."""
    request = body(call, schemas.EMBEDDINGS)
    if request is None:
        return
    try:
        text = await embed.raw_vector(call, request)
    except embed.RefusedError as refused:
        call.error(refused.status, refused.message)
        return
    call.json(200, {"embedding": wire.Verbatim(text)})
