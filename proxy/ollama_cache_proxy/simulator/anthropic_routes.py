"""POST /v1/messages: Anthropic's form of a chat, as in middleware/anthropic.go."""

from __future__ import annotations

from typing import Any

from ollama_cache_proxy.simulator import wire
from ollama_cache_proxy.simulator.call import Call
from ollama_cache_proxy.simulator.complete import Reply, Wanted, complete
from ollama_cache_proxy.simulator.gojson import GoError
from ollama_cache_proxy.simulator.goschema import (
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
from ollama_cache_proxy.simulator.rendering import Turn

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_STOP_REASONS = {"": "", "stop": "end_turn", "length": "max_tokens"}
_CHARACTERS_PER_TOKEN = 4

_REQUEST = struct(
    "MessagesRequest",
    {
        "model": string,
        "max_tokens": integer,
        "messages": listed(
            struct("MessageParam", {"role": string, "content": anything}, package="anthropic"),
            "[]anthropic.MessageParam",
        ),
        "system": anything,
        "stream": boolean,
        "temperature": pointer(number),
        "top_p": pointer(number),
        "top_k": pointer(integer),
        "stop_sequences": listed(string, "[]string"),
        "tools": listed(anything, "[]anthropic.Tool"),
    },
    package="anthropic",
)


def _event(kind: str, **fields: Any) -> bytes:
    data = wire.dumps({"type": kind, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()


class MessagesForm:
    """Replies as a message, or as its events; every event is a chunk of its own."""

    whole_type = wire.BARE_JSON
    stream_type = wire.EVENTS
    error_type = wire.BARE_JSON

    def __init__(self, call: Call, estimated: int) -> None:
        self._call = call
        self._id = self._new_id("msg")
        self._estimated = estimated
        self._started = self._has_text = False

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self._call.simulator.random.randbytes(12).hex()}"

    def error_row(self, status: int, message: str) -> dict[str, Any]:
        """Return an error in Anthropic's form."""
        kind = _ERROR_TYPES.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": self._new_id("req")}

    def error(self, status: int, message: str) -> bytes:
        """Return the error and a newline."""
        return wire.dumps(self.error_row(status, message)).encode() + b"\n"

    def _message(self, reply: Reply, content: list[dict[str, Any]] | None, tokens: int) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self._id, "type": "message", "role": "assistant", "model": reply.model}
        row["content"] = content
        if reply.reason:
            row["stop_reason"] = _STOP_REASONS.get(reply.reason, "stop_sequence")
        return row | {"usage": self._usage(reply, tokens)}

    def _usage(self, reply: Reply, tokens: int) -> dict[str, int]:
        """Return the counts; `tokens` are all of the prompt. What came from the prompt cache stands by itself."""
        cached = reply.usage("prompt_eval_cached_count")
        told = self._call.simulator.behaviour.tells_cached
        shares = {"cache_read_input_tokens": cached} if told else {}
        return {"input_tokens": tokens - cached, **shares, "output_tokens": reply.usage("eval_count")}

    def whole(self, reply: Reply) -> bytes:
        """Return the message and a newline."""
        content = [{"type": "text", "text": reply.text}] if reply.text else None
        row = self._message(reply, content, reply.usage("prompt_eval_count"))
        return wire.dumps(row).encode() + b"\n"

    def events(self, reply: Reply) -> list[bytes]:
        """Return the events of one reply."""
        parts: list[bytes] = []
        if not self._started:
            self._started = True
            first = Reply(model=reply.model, created=reply.created)
            tokens = reply.usage("prompt_eval_count") or self._estimated
            parts.append(_event("message_start", message=self._message(first, [], tokens)))
        if reply.text:
            if not self._has_text:
                self._has_text = True
                block = {"type": "text", "text": ""}
                parts.append(_event("content_block_start", index=0, content_block=block))
            delta = {"type": "text_delta", "text": reply.text}
            parts.append(_event("content_block_delta", index=0, delta=delta))
        if reply.done:
            if self._has_text:
                parts.append(_event("content_block_stop", index=0))
            reason = _STOP_REASONS.get(reply.reason, "stop_sequence")
            usage = self._usage(reply, reply.usage("prompt_eval_count"))
            parts.append(_event("message_delta", delta={"stop_reason": reason}, usage=usage))
            parts.append(_event("message_stop"))
        return parts


def _text(content: Any) -> str:
    """Return the text of `content`, which is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    return "".join(str(block.get("text", "")) for block in _blocks(content, "text"))


def _blocks(content: Any, kind: str) -> list[dict[str, Any]]:
    """Return the blocks of a kind, none for a string."""
    blocks = content if isinstance(content, list) else []
    return [block for block in blocks if isinstance(block, dict) and block.get("type") == kind]


def _turns(role: str, content: Any) -> list[Turn]:
    """Return the turns of a message: the results of tools, and its text with the tools that it calls."""
    called = ({name: block.get(name) for name in ("name", "input")} for block in _blocks(content, "tool_use"))
    text, calls = _text(content), tuple(map(wire.dumps, called))
    results = [Turn(role="tool", text=_text(block.get("content"))) for block in _blocks(content, "tool_result")]
    return results + ([Turn(role=role, text=text, calls=calls)] if text or calls or not results else [])


def _refusal(request: dict[str, Any]) -> str:
    """Return what is wrong with a decoded request, empty if nothing is."""
    if not request["model"]:
        return "model is required"
    if request["max_tokens"] <= 0:
        return "max_tokens is required and must be positive"
    return "" if request["messages"] else "messages is required"


async def messages(call: Call) -> None:
    """POST /v1/messages."""
    try:
        request = decode(call.body, _REQUEST)
        refusal = _refusal(request)
    except GoError as error:
        request, refusal = {}, str(error)
    if refusal:
        call.json(400, MessagesForm(call, 0).error_row(400, refusal))
        return
    system = _text(request["system"])
    turns = [Turn(role="system", text=system)] if system else []
    turns += [turn for message in request["messages"] for turn in _turns(message["role"].lower(), message["content"])]
    characters = sum(len(turn.text.encode()) + len(turn.role) for turn in turns) - (len("system") if system else 0)
    names = {"max_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
    names["stop_sequences"] = "stop"
    wanted = Wanted(
        model=request["model"],
        turns=tuple(turns),
        chat=True,
        stream=request["stream"],
        options={ours: request[theirs] for theirs, ours in names.items() if request[theirs] is not None},
        tools=tuple(request["tools"] or ()),
    )
    if wanted.stream:
        call.fields = (*call.fields, ("Cache-Control", "no-cache"), ("Connection", "keep-alive"))
    await complete(call, wanted, MessagesForm(call, max(characters // _CHARACTERS_PER_TOKEN, 1)))
