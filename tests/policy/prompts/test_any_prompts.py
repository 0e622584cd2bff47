"""Whatever JSON comes as a prompt, and in whatever order: nothing fails, and figures stay within each other's bounds."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, Endpoint
from ollama_cache_proxy.policy.prompts.prompt_memory import MOST_BYTES, ModelMemory
from ollama_cache_proxy.policy.prompts.prompt_parts import ORDER, parts_of

CONVERSATIONS = [row for row in ENDPOINTS if row.operation in ORDER]
TEXTS = st.sampled_from(["", "why", "a" * 64, "b" * 300, "ä" * 50, 'a "quoted" [text' * 9, "c" * 400])
NAMES = st.sampled_from(["role", "content", "type", "text", "name", "function", "cache_control", "images", "other"])
WORDS = st.sampled_from(["system", "user", "assistant", "text", "function_call", "tool", "x" * 200])
VALUES = st.recursive(
    st.none() | st.integers(-5, 5) | TEXTS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": WORDS, "content": TEXTS}) | VALUES, max_size=6)
MEMBERS = ("template", "system", "prompt", "suffix", "instructions", "tools")
DOCUMENTS = st.fixed_dictionaries(
    {"messages": MESSAGES | VALUES, "input": MESSAGES | TEXTS}, optional=dict.fromkeys(MEMBERS, VALUES)
)
COUNTS = st.none() | st.integers(0, 3000)
USAGES = st.builds(
    Usage,
    prompt_tokens=COUNTS,
    cached_tokens=COUNTS,
    output_tokens=COUNTS,
    prompt_seconds=st.none() | st.floats(0, 9),
    load_seconds=st.none() | st.floats(0, 9),
)


@settings(max_examples=80)
@given(
    st.sampled_from(CONVERSATIONS),
    st.lists(st.tuples(DOCUMENTS, USAGES, st.booleans(), st.integers(1, 3)), max_size=5),
)
def test_any_prompts(endpoint: Endpoint, asked: list[tuple[dict[str, Any], Usage, bool, int]]) -> None:
    memory = ModelMemory()
    for number, (document, usage, rival, slots) in enumerate([*asked, *asked]):
        prompt = parts_of(endpoint, document)
        if prompt is None:
            continue
        begun = number - (slots - 1)
        found = memory.read(prompt, usage, begun=begun, now=number + 0.5, waited=0.1, slots=slots, rival=rival)
        assert 0 <= found.shared <= found.size
        assert 0 <= found.reused < max(1, found.tokens)
        assert all(loss.tokens >= 0 for loss in found.losses)
        assert found.told is None or found.told >= 0
        assert 0 <= memory.used <= MOST_BYTES
