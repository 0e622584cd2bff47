"""What a response tells: text, counts, and how long the prompt took; in every dialect, streamed or whole. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Counts in tokens; `reused` and `work` (seconds) are None where the release or the dialect does not tell them."""

    text: str
    prompt: int
    reused: int | None
    work: float | None
    output: int


def read(body: bytes) -> Told:
    """Return what a body tells: JSON, lines of JSON, or events. Raise ValueError where it tells no counts."""
    rows = list(_rows(body))
    counted = [usage for usage in map(_usage, rows) if usage.get("prompt")]
    if not counted:
        raise ValueError("the response tells no counts")
    last = counted[-1]
    return Told(
        text="".join(map(_text, rows)),
        prompt=last["prompt"],
        reused=last.get("reused"),
        work=last.get("work"),
        output=last.get("output", 0),
    )


def _rows(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.splitlines():
        text = line.removeprefix(b"data:").strip()
        if text.startswith(b"{"):
            yield orjson.loads(text)


def _usage(row: dict[str, Any]) -> dict[str, Any]:
    if "prompt_eval_count" in row:
        told = {"prompt": row["prompt_eval_count"], "reused": row.get("prompt_eval_cached_count")}
        return told | {"work": row.get("prompt_eval_duration", 0) / 1e9, "output": row.get("eval_count", 0)}
    holder = row.get("response") if isinstance(row.get("response"), dict) else row
    usage = (holder or {}).get("usage")
    if not isinstance(usage, dict):
        return {}
    if "prompt_tokens" in usage:
        details = usage.get("prompt_tokens_details") or {}
        told = {"prompt": usage["prompt_tokens"], "reused": details.get("cached_tokens")}
        return told | {"output": usage.get("completion_tokens", 0)}
    if "input_tokens_details" in usage:  # /v1/responses, where older releases always say 0
        cached = usage["input_tokens_details"].get("cached_tokens") or None
        return {"prompt": usage.get("input_tokens", 0), "reused": cached, "output": usage.get("output_tokens", 0)}
    cached = usage.get("cache_read_input_tokens")
    prompt = usage.get("input_tokens", 0) + (cached or 0)
    return {"prompt": prompt, "reused": cached, "output": usage.get("output_tokens", 0)}


def _text(row: dict[str, Any]) -> str:
    match row:
        case (
            {"message": {"content": str(text)}}
            | {"response": str(text)}
            | {"choices": [{"delta": {"content": str(text)}}, *_]}
            | {"choices": [{"message": {"content": str(text)}}, *_]}
            | {"choices": [{"text": str(text)}, *_]}
            | {"type": "content_block_delta", "delta": {"text": str(text)}}
            | {"type": "response.output_text.delta", "delta": str(text)}
        ):
            return text
        case {"type": "message", "content": list(blocks)}:
            return "".join(str(block.get("text", "")) for block in blocks)
        case {"object": "response", "output": list(items)}:
            return "".join(str(part.get("text", "")) for item in items for part in item.get("content") or ())
        case _:
            return ""
