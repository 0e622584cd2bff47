"""What clients send, as public reports describe it: kinds of sessions, and the bytes that change in each. Data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Change(Enum):
    """What differs from one request to the next, beside what was said meanwhile."""

    NOTHING = "nothing"
    MARK = "a billing mark in the first block of the system prompt"
    COUNTER = "a counter and a hash in the first line of the system prompt"
    CLOCK = "the time to the second, near the beginning of the system prompt"
    TOOL_ID = "an id in the description of the first tool"
    TOOL_ORDER = "the order of the tools"
    ELIDED = "results of tools that are four turns old become a note"
    COUNTDOWN = "a message of the system with the tokens left, which templates move to the front"
    ASIDE = "a request for a title between two turns"
    OVERFLOW = "the context is full: the first messages go"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A kind of session. `path` is the endpoint, `source` where it is described, `agent` the User-Agent."""

    name: str
    client: str
    """The class of clients that do so."""
    path: str
    change: Change
    source: str
    agent: str = "agents-bench/1"
    context: int | None = None
    """Tokens (`num_ctx`), None for what the server has; only for /api/chat."""


_AGENT: Final = "coding agent"
_CHATS: Final = "chat front end"
_MARKING: Final = "claude-cli/2.1.114 (external, cli)"
"""A version that writes the mark: rules for it go by its name and version."""

SCENARIOS: Final = (
    Scenario(
        name="steady",
        client=_AGENT,
        path="/v1/messages",
        change=Change.NOTHING,
        source="the same session with its mark turned off (ollama/ollama 14918)",
    ),
    Scenario(
        name="mark",
        client=_AGENT,
        path="/v1/messages",
        change=Change.MARK,
        source="anthropics/claude-code 68900, ollama/ollama 14918, ggml-org/llama.cpp 20623, waybarrios/vllm-mlx 277",
        agent=_MARKING,
    ),
    Scenario(
        name="counter",
        client=_AGENT,
        path="/v1/chat/completions",
        change=Change.COUNTER,
        source="NousResearch/hermes-agent 18547",
    ),
    Scenario(
        name="clock",
        client=_CHATS,
        path="/api/chat",
        change=Change.CLOCK,
        source="open-webui/open-webui 28527, earendil-works/pi 1873",
    ),
    Scenario(
        name="tool-id",
        client=_AGENT,
        path="/v1/chat/completions",
        change=Change.TOOL_ID,
        source="QwenLM/qwen-code 6721",
    ),
    Scenario(
        name="tool-order",
        client=_AGENT,
        path="/v1/chat/completions",
        change=Change.TOOL_ORDER,
        source="topcheer/ggcode 2445, redpanda-data/ai-sdk-go 157",
    ),
    Scenario(
        name="elided",
        client=_AGENT,
        path="/v1/messages",
        change=Change.ELIDED,
        source="anomalyco/opencode 32515, vercel/eve 175",
    ),
    Scenario(
        name="countdown",
        client=_AGENT,
        path="/v1/chat/completions",
        change=Change.COUNTDOWN,
        source="ollama/ollama 17918",
    ),
    Scenario(name="aside", client=_CHATS, path="/api/chat", change=Change.ASIDE, source="open-webui/open-webui 6677"),
    Scenario(
        name="overflow",
        client=_CHATS,
        path="/api/chat",
        change=Change.OVERFLOW,
        source="server/prompt.go of Ollama: a chat over num_ctx loses its first messages",
        context=2048,
    ),
)
"""All kinds; pull requests and issues by repository and number."""
