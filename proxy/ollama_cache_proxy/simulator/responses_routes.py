"""POST /v1/responses: OpenAI's Responses form of a chat, as in middleware/openai.go and openai/responses.go."""

from __future__ import annotations

import time
from typing import Any

from ollama_cache_proxy.simulator import wire
from ollama_cache_proxy.simulator.call import Call
from ollama_cache_proxy.simulator.complete import Reply, Wanted, complete
from ollama_cache_proxy.simulator.gojson import GoError, Value
from ollama_cache_proxy.simulator.goschema import (
    Place,
    anything,
    boolean,
    integer,
    listed,
    mapping,
    number,
    pointer,
    string,
    struct,
)
from ollama_cache_proxy.simulator.openai_routes import body, error_row, think
from ollama_cache_proxy.simulator.rendering import Turn


def _input(value: Value, _old: Any, place: Place) -> Any:
    """The field `input`: a string, or a list of items."""
    if isinstance(value, str | list):
        return anything(value, None, place)
    if value is None:
        return ""
    raise GoError(f"input must be a string or array: {Place().text(_word(value), '[]json.RawMessage')}")


def _word(value: Value) -> str:
    return "bool" if isinstance(value, bool) else "object" if type(value).__name__ == "Members" else "number"


_TOOL = struct(
    "ResponsesTool",
    {
        "type": string,
        "name": string,
        "description": pointer(string),
        "strict": pointer(boolean),
        "parameters": mapping,
    },
    package="openai",
)
_REQUEST = struct(
    "ResponsesRequest",
    {
        "model": string,
        "background": boolean,
        "input": _input,
        "instructions": string,
        "max_output_tokens": pointer(integer),
        "reasoning": struct("ResponsesReasoning", {"effort": string, "summary": string}, package="openai"),
        "temperature": pointer(number),
        "text": mapping,
        "top_p": pointer(number),
        "truncation": pointer(string),
        "tools": listed(_TOOL, "[]openai.ResponsesTool"),
        "stream": pointer(boolean),
    },
    package="openai",
)


class ResponsesForm:
    """Replies as a response, or as its events; every event is a chunk of its own."""

    whole_type = wire.BARE_JSON
    stream_type = wire.EVENTS
    error_type = wire.BARE_JSON

    def __init__(self, call: Call, request: dict[str, Any]) -> None:
        self._request = request
        self._id = f"resp_{call.simulator.random.randrange(999_999)}"
        self._item = f"msg_{call.simulator.random.randrange(999_999)}"
        self._sequence = 0
        self._text = ""
        self._started = False

    def error(self, status: int, message: str) -> bytes:
        """Return the error and a newline."""
        return wire.dumps(error_row(status, message)).encode() + b"\n"

    def _content(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._item, "type": "message", "status": status, "role": "assistant", "content": content}

    def _response(self, status: str, created: int, output: list[dict[str, Any]], usage: Any) -> dict[str, Any]:
        request = self._request
        reasoning = request["reasoning"]
        text_format = (request["text"] or {}).get("format") or {"type": "text"}
        return {
            "id": self._id,
            "object": "response",
            "created_at": created,
            "completed_at": time.time_ns() // 10**9 if status == "completed" else None,
            "status": status,
            "incomplete_details": None,
            "model": request["model"],
            "previous_response_id": None,
            "instructions": request["instructions"] or None,
            "output": output,
            "error": None,
            "tools": [wire.Verbatim(wire.dumps(tool)) for tool in request["tools"] or ()],
            "tool_choice": "auto",
            "truncation": request["truncation"] or "disabled",
            "parallel_tool_calls": True,
            "text": {"format": text_format},
            "top_p": 1.0 if request["top_p"] is None else request["top_p"],
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": 1.0 if request["temperature"] is None else request["temperature"],
            "reasoning": {name: text or None for name, text in reasoning.items()} if any(reasoning.values()) else None,
            "usage": usage,
            "max_output_tokens": request["max_output_tokens"],
            "max_tool_calls": None,
            "store": False,
            "background": request["background"],
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }

    @staticmethod
    def _usage(reply: Reply) -> dict[str, Any]:
        read, written = reply.usage("prompt_eval_count"), reply.usage("eval_count")
        usage: dict[str, Any] = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        usage["input_tokens_details"] = {"cached_tokens": reply.usage("prompt_eval_cached_count")}
        usage["output_tokens_details"] = {"reasoning_tokens": 0}
        return usage

    def whole(self, reply: Reply) -> bytes:
        """Return the response and a newline."""
        output = [self._message("completed", [self._content(reply.text)])]
        row = self._response("completed", reply.created // 10**9, output, self._usage(reply))
        return wire.dumps(row).encode() + b"\n"

    def _event(self, kind: str, **fields: Any) -> bytes:
        # The events are maps in Go, so their members are sorted.
        row = wire.by_name({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return f"event: {kind}\ndata: {wire.dumps(row)}\n\n".encode()

    def events(self, reply: Reply) -> list[bytes]:
        """Return the events of one reply."""
        parts: list[bytes] = []
        now = time.time_ns() // 10**9
        at = {"item_id": self._item, "output_index": 0, "content_index": 0}
        if self._sequence == 0:
            opening = self._response("in_progress", now, [], None)
            parts += [self._event(kind, response=opening) for kind in ("response.created", "response.in_progress")]
        if reply.text:
            if not self._started:
                self._started = True
                item = self._message("in_progress", [])
                parts.append(self._event("response.output_item.added", output_index=0, item=item))
                parts.append(self._event("response.content_part.added", **at, part=self._content("")))
            self._text += reply.text
            parts.append(self._event("response.output_text.delta", **at, delta=reply.text, logprobs=[]))
        if reply.done:
            parts += self._closing(reply, at, now)
        return parts

    def _closing(self, reply: Reply, at: dict[str, Any], now: int) -> list[bytes]:
        parts: list[bytes] = []
        item = self._message("completed", [self._content(self._text)])
        if self._started:
            parts.append(self._event("response.output_text.done", **at, text=self._text, logprobs=[]))
            parts.append(self._event("response.content_part.done", **at, part=self._content(self._text)))
            parts.append(self._event("response.output_item.done", output_index=0, item=item))
        output = [item] if self._started else []
        response = self._response("completed", now, output, self._usage(reply))
        return [*parts, self._event("response.completed", response=response)]


def _turns(request: dict[str, Any]) -> tuple[Turn, ...]:
    turns = [Turn(role="system", text=request["instructions"])] if request["instructions"] else []
    given = request["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) and given else given or []
    for item in items:
        content = item.get("content") if isinstance(item, dict) else None
        blocks = content if isinstance(content, list) else []
        texts = [str(block.get("text", "")) for block in blocks if isinstance(block, dict)]
        text = content if isinstance(content, str) else "".join(texts)
        turns.append(Turn(role=str(item.get("role", "user")) if isinstance(item, dict) else "user", text=text))
    return tuple(turns)


async def responses(call: Call) -> None:
    """POST /v1/responses."""
    request = body(call, _REQUEST)
    if request is None:
        return
    options: dict[str, Any] = {"temperature": 1.0 if request["temperature"] is None else request["temperature"]}
    if request["top_p"] is not None:
        options["top_p"] = request["top_p"]
    if request["max_output_tokens"] is not None:
        options["num_predict"] = request["max_output_tokens"]
    try:
        thinking = think(call.simulator.release, request["reasoning"]["effort"], '"')
    except GoError as error:
        call.json(400, error_row(400, str(error)))
        return
    wanted = Wanted(
        model=request["model"],
        turns=_turns(request),
        chat=True,
        stream=bool(request["stream"]),
        options=options,
        think=thinking,
        tools=tuple(request["tools"] or ()),
    )
    if wanted.stream:
        call.fields = (*call.fields, ("Cache-Control", "no-cache"), ("Connection", "keep-alive"))
    await complete(call, wanted, ResponsesForm(call, request))
