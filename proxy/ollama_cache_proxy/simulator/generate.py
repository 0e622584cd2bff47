"""Texts of the simulated models: the tokens, where they stop, and how they reach the client.

The continuation of a prompt is a function of the server's seed, the model's digest, the rendered prompt and the
options that affect the choice of tokens. A recorded prompt gets the recorded tokens while there are any; all others
are words from a small vocabulary. The number of tokens and the place of a stop text are applied afterwards, token by
token, as in the runner.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ollama_cache_proxy.simulator import recorded, tokens
from ollama_cache_proxy.simulator.registry import Model, sha256

DEFAULT_TEMPERATURE = 0.8
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "with",
    "on",
    "by",
    "at",
    "from",
    "this",
    "which",
    "one",
    "all",
    "when",
    "first",
    "time",
    "after",
    "over",
    "then",
    "some",
    "these",
    "two",
    "may",
    "like",
    "only",
    "other",
    "new",
    "more",
    "now",
    "such",
    "any",
    "each",
    "where",
    "most",
    "many",
    "through",
    "between",
]
_FEWEST, _MOST = 24, 96
_RANKED = 24
_NOT_CHOOSING = frozenset(
    {"num_predict", "stop", "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap"}
)
_NOT_GREEDY = frozenset({"seed", "top_k", "top_p", "min_p", "typical_p"})

_INTEGERS = ("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu", "main_gpu")
_FLOATS = ("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty")
_OPTION_TYPES = {
    **dict.fromkeys((*_INTEGERS, "num_thread"), "integer"),
    **dict.fromkeys(_FLOATS, "float32"),
    "use_mmap": "boolean",
    "stop": "array",
}


class OptionError(ValueError):
    """An option of a wrong type; a 500 in Ollama."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """All that a completion depends on."""

    model: Model
    prompt: str
    options: Mapping[str, Any]
    context: tuple[int, ...] = ()
    format: str = ""
    images: tuple[str, ...] = ()
    tools: str = ""
    top_logprobs: int | None = None
    repeat_penalty: float = 1.0

    @property
    def temperature(self) -> float:
        """The effective temperature."""
        return float(self.options.get("temperature", DEFAULT_TEMPERATURE))

    @property
    def known(self) -> recorded.KnownAnswer | None:
        """The recorded continuation, if there is one."""
        if self.temperature and self.options.get("seed") is not None:
            return None
        asked = (self.prompt, self.context, self.format, self.tools, self.temperature)
        return recorded.ANSWERS.get(recorded.Asked(self.model.digest, *asked))

    @property
    def prompt_tokens(self) -> int:
        """The number of tokens of the prompt."""
        known = self.known
        return known.prompt_tokens if known else len(self.context) + tokens.count(self.prompt)

    def encoded(self, text: str) -> tuple[int, ...]:
        """Return the token numbers of the context, the prompt and a continuation."""
        known = self.known
        whole = known is not None and text == "".join(known.pieces)
        numbers = known.tokens if known is not None and whole else ()
        return numbers or (*self.context, *tokens.encode(self.prompt + text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One token's text, or several held back together; logprobs as (token, ranked alternatives)."""

    text: str
    logprobs: tuple[tuple[tuple[str, float], ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Why a completion ended (`stop` or `length`), and after how many tokens."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A completion that ends without an End: with an error, or with nothing at all if that is empty."""

    error: str


def merged_options(model: Model, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the model's options, overridden by the request's. Raise OptionError for a wrong type."""
    options = dict(model.parameters)
    for name, value in (given or {}).items():
        wanted = _OPTION_TYPES.get(name)
        if wanted is None or value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {"integer": is_number, "float32": is_number, "boolean": isinstance(value, bool)}
        if not fits.get(wanted, isinstance(value, list)):
            message = f'option "{name}" must be of type {wanted}'
            raise OptionError(message)
        if wanted == "array" and not all(isinstance(item, str) for item in value):
            message = f'option "{name}" must be of an array of strings'
            raise OptionError(message)
        options[name] = int(value) if wanted == "integer" else value
    return options


def _source(ask: Ask, seed: int) -> random.Random:
    """Return the random source for this request."""
    left_out = _NOT_CHOOSING if ask.temperature else _NOT_CHOOSING | _NOT_GREEDY
    options = {"repeat_penalty": ask.repeat_penalty, **ask.options}
    choosing = {name: value for name, value in sorted(options.items()) if name not in left_out}
    facts = [
        seed,
        ask.model.origin or ask.model.digest,
        ask.prompt,
        ask.context,
        ask.format,
        ask.images,
        ask.tools,
        ask.temperature,
        choosing,
    ]
    return random.Random(sha256(json.dumps(facts)))


def _texts(ask: Ask, source: random.Random) -> Iterator[str]:
    """Yield the texts of tokens, endlessly unless the recorded model stopped."""
    known = ask.known
    if known is not None:
        yield from known.pieces
    elif ask.format:
        yield from ("{", f' "{source.choice(WORDS)}"', ":", f' "{source.choice(WORDS)}"', "}")
        return
    for _ in range(source.randint(_FEWEST, _MOST)):
        yield f" {source.choice(WORDS)}"


def _ranked(ask: Ask, index: int, text: str, source: random.Random) -> tuple[tuple[str, float], ...]:
    """Return the chosen token and its alternatives, the most likely first; made-up ones share the rest."""
    known = ask.known
    ranked: list[tuple[str, float]] = []
    if known is not None and index < len(known.logprobs):
        ranked = list(known.logprobs[index])
    words = [f" {word}" for word in source.sample(WORDS, _RANKED)]
    told = {token for token, _ in ranked} | {text}
    left = 1 - sum(math.exp(value) for _, value in ranked)
    for token in [*([] if ranked else [text]), *(word for word in words if word not in told)]:
        share = left * source.uniform(0.5, 0.8)
        left -= share
        value = math.log(share * (1 - ask.model.loss / 10))
        ranked.append((token, min(value, ranked[-1][1]) if ranked else value))
    return tuple(ranked[: max(1, ask.top_logprobs or 0)])


def complete(ask: Ask, seed: int) -> Iterator[Piece | End | Broken]:
    """Yield the pieces as the runner sends them, then the End, or that there is none.

    A piece that could start a stop text is held until the next one; a stop text itself is never sent.
    """
    known = ask.known
    if known is not None and (known.error or not known.ends):
        yield from (Piece(text=piece) for piece in known.pieces)
        yield Broken(error=known.error)
        return
    source = _source(ask, seed)
    limit = int(ask.options.get("num_predict", -1))
    stops = [stop for stop in ask.options.get("stop", ()) if stop]
    texts = _texts(ask, source)
    held: list[str] = []
    ranks: list[tuple[tuple[str, float], ...]] = []

    def flush(text: str) -> Iterator[Piece]:
        if text:
            yield Piece(text=text, logprobs=tuple(ranks))
        held.clear()
        ranks.clear()

    count = 0
    while True:
        if 0 < limit <= count:
            yield from flush("".join(held))
            yield End(reason="length", count=count)
            return
        count += 1
        text = next(texts, None)
        if text is None:
            yield from flush("".join(held))
            yield End(reason="stop", count=count)
            return
        held.append(text)
        if ask.top_logprobs is not None:
            ranks.append(_ranked(ask, count - 1, text, source))
        pending = "".join(held)
        cuts = [pending.find(stop) for stop in stops if stop in pending]
        if cuts:
            yield from flush(pending[: min(cuts)])
            yield End(reason="stop", count=count)
            return
        if not any(pending.endswith(stop[:size]) for stop in stops for size in range(1, len(stop))):
            yield from flush(pending)
