"""Which known cause a wrong entry looks like, by what can be seen of Ollama and of the difference."""

from __future__ import annotations

from enum import Enum

from ollama_cache_proxy.policy.audit_comparison import Kind
from ollama_cache_proxy.policy.record import record


class Cause(Enum):
    """What a difference looks like; a label of a metric. The digest of a model and Ollama's version show none of it."""

    CONTEXT = "context-length"
    TEMPLATE = "template"
    PRECISION = "hardware-or-kv-cache"
    SAMPLER = "sampler"
    ENTRY = "entry"


MEANINGS = {
    Cause.CONTEXT: "another context length (OLLAMA_CONTEXT_LENGTH)",
    Cause.TEMPLATE: "another template or renderer (OLLAMA_GO_TEMPLATE)",
    Cause.PRECISION: "other hardware or a quantized KV cache (OLLAMA_KV_CACHE_TYPE, OLLAMA_FLASH_ATTENTION)",
    Cause.SAMPLER: "another sampler, other hardware or a quantized KV cache",
    Cause.ENTRY: "an entry of another model or text",
}
"""What to look for, by cause."""


@record
class Seen:
    """What can be seen of a difference. A figure is None where it is not known."""

    kind: Kind
    context_before: int | None = None
    """The context length, in tokens, with which the model was loaded when it was seen first."""
    context_now: int | None = None
    template_changed: bool = False
    """Whether what /api/show tells of the template is other than it was when it was asked first."""
    tokens_stored: int | None = None
    """Prompt tokens of the stored response."""
    tokens_fresh: int | None = None
    greedy: bool = False
    """Whether the request asks for temperature 0, which takes the sampler's part out of a response."""


def cause(seen: Seen) -> Cause:
    """Return the cause that explains most of what was seen.

    A prompt that is longer or shorter in tokens was written by another template; one that was cut to the context is
    shorter where the context is. Vectors of another template differ wholly as well, so what is seen of Ollama goes
    first.
    """
    contexts = seen.context_before, seen.context_now
    other_context = None not in contexts and contexts[0] != contexts[1]
    other_tokens = None not in (seen.tokens_stored, seen.tokens_fresh) and seen.tokens_stored != seen.tokens_fresh
    rules = (
        (other_context, Cause.CONTEXT),
        (seen.template_changed or other_tokens, Cause.TEMPLATE),
        (seen.kind is Kind.SLIGHTLY, Cause.PRECISION),
        (seen.kind in (Kind.WHOLLY, Kind.LENGTH), Cause.ENTRY),
        (seen.greedy, Cause.PRECISION),
    )
    return next((found for holds, found in rules if holds), Cause.SAMPLER)
