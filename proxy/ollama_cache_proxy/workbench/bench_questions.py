"""The requests that measure models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_CODE: Final = '''\
def merge(left, right):
    """Merge two sorted lists."""
    merged, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]
'''


def completion(model: str, prompt: str, tokens: int, **more: Any) -> dict[str, Any]:
    """Return the body of a deterministic completion of at most `tokens` tokens."""
    options = {"temperature": 0, "seed": 1, "num_predict": tokens}
    return {"model": model, "prompt": prompt, "stream": False, "options": options} | more


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One kind of request that `bench` measures."""

    title: str
    path: str
    embeds: bool
    """Whether it needs a model for embeddings."""
    body: Callable[[str, str, int], Mapping[str, Any]]
    """Makes the body from a model, a nonce that makes it new, and the maximum number of tokens."""


# The nonce comes first, so that Ollama cannot reuse its own cache of the previous prompt.
OPERATIONS: Final = (
    Operation(
        title="Completion",
        path="/api/generate",
        embeds=False,
        body=lambda model, nonce, tokens: completion(model, f"[{nonce}] Why is the sky blue?", tokens),
    ),
    Operation(
        title="Embedding",
        path="/api/embed",
        embeds=True,
        body=lambda model, nonce, _: {"model": model, "input": f"[{nonce}] {_CODE}"},
    ),
    Operation(
        title="Code explanation",
        path="/api/generate",
        embeds=False,
        body=lambda model, nonce, tokens: completion(
            model, f"[{nonce}] Explain what this code does:\n\n{_CODE}", tokens
        ),
    ),
)

PROMPTS: Final = (
    (
        "The sky looks blue because air scatters short waves of light more than long ones, so that what "
        "reaches us from all sides has lost most of its red, while at sunset the long way through the air has "
        "taken"
    ),
    (
        "To sort a list by merging, cut it into two halves, sort each of them in the same way, and then walk "
        "through both at once, always taking the smaller of the two elements that come next, until one of them "
        "is"
    ),
    (
        "def fibonacci(n):\n    if n < 2:\n        return n\n    a, b = 0, 1\n    for _ in range(n - "
        "1):\n        a, b = b, a + b\n    return b\n\ndef factorial(n):\n    result = 1\n    for i in "
        "range(2, n + 1):\n        result"
    ),
    (
        "When the ship came into the harbour in the morning, the whole town stood on the quay, for nobody had "
        "believed that she would ever return; the captain was the first who went ashore, and he said"
    ),
    (
        "The capital of France is Paris, that of Italy is Rome, that of Spain is Madrid, that of Austria is "
        "Vienna, that of Poland is Warsaw, that of Portugal is Lisbon, that of Greece is"
    ),
    (
        "Question: A shop sells apples at three for two euros. How much do twelve apples cost? Answer: twelve "
        "apples are four times three apples, and each three cost two euros, so together they cost"
    ),
    (
        "SELECT customer.name, SUM(invoice.amount) AS total FROM customer JOIN invoice ON invoice.customer_id "
        "= customer.id WHERE invoice.paid IS NULL GROUP BY customer.name ORDER BY total DESC"
    ),
    (
        "A cache keeps what was asked before, so that the same question need not be answered twice; it must "
        "never give an old answer where a new one is due, and when it is full, it has to choose what to"
    ),
)
"""The default prompts of `quantize`: unfinished prose, code, facts and sums."""
