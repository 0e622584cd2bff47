"""Prompts rendered from turns by a template.

Of Go's templates only the variables `.System`, `.Prompt` and `.Response` are supported; other actions are dropped. Of
the Jinja templates in GGUF files: one loop over the messages, their role and content, and today's date. A Go template
over `.Messages` stands for one form, whatever else is in it: `render_messages`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_LOOP = re.compile(r"\{% for message in messages %\}(.*?)\{% endfor %\}", re.DOTALL)
OVER_MESSAGES = ".Messages"
_TODAY = "strftime_now('%Y-%m-%d')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message: `role` is system, user, assistant or tool."""

    role: str
    text: str
    images: tuple[bytes, ...] = ()
    calls: tuple[str, ...] = ()
    """The tools that it calls, as JSON."""


def _with_images(turns: tuple[Turn, ...]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    seen = 0
    for turn in turns:
        prefix, text = "", turn.text
        for _ in turn.images:
            mark, seen = f"[img-{seen}]", seen + 1
            if "[img]" in text:
                text = text.replace("[img]", mark, 1)
            else:
                prefix += mark
        rows.append((turn.role, prefix + text))
    return rows


def _fill(template: str, values: dict[str, str]) -> str:
    if ".Response" not in template:
        template += "{{ .Response }}"
    return _ACTION.sub(lambda found: values.get(found[1], ""), template)


def render(template: str, turns: tuple[Turn, ...]) -> str:
    """Return the prompt for turns: the template rendered once for each exchange."""
    template = template or "{{ .System }}{{ .Prompt }}"
    parts: list[str] = []
    values: dict[str, str] = {}
    for role, text in _with_images(turns):
        slot = {"system": ".System", "assistant": ".Response"}.get(role, ".Prompt")
        after = {
            ".System": (".System", ".Prompt", ".Response"),
            ".Prompt": (".Prompt", ".Response"),
            ".Response": (".Response",),
        }
        if any(name in values for name in after[slot]):
            parts.append(_fill(template, values))
            values = {}
        values[slot] = text
    parts.append(_fill(template, values))
    return "".join(parts)


def render_messages(turns: tuple[Turn, ...], tools: tuple[str, ...]) -> str:
    """Return the prompt in ChatML: what the system says anywhere, then the tools as JSON, then the other turns.

    Most templates for tools have this order, with `.System`, to which Ollama joins all the system's messages (`collate`
    in `template/template.go`).
    """
    rows = list(zip(turns, _with_images(turns), strict=True))
    system = "\n\n".join(text for _, (role, text) in rows if role == "system")
    parts = [("system", "\n".join((system, *tools)))] if system or tools else []
    parts += [
        (role, "\n".join((*((text,) if text else ()), *turn.calls))) for turn, (role, text) in rows if role != "system"
    ]
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in parts) + "<|im_start|>assistant\n"


def render_native(template: str, turns: tuple[Turn, ...]) -> str:
    """Return the prompt for turns by the template in a GGUF file."""

    def messages(loop: re.Match[str]) -> str:
        rows = [{"message['role']": role, "message['content']": text} for role, text in _with_images(turns)]
        return "".join(_ACTION.sub(lambda found: row.get(found[1], ""), loop[1]) for row in rows)  # noqa: B023 - used at once

    today = datetime.now(UTC).date().isoformat()
    dated = _ACTION.sub(lambda found: today if found[1] == _TODAY else found[0], template)
    return _LOOP.sub(messages, dated)
