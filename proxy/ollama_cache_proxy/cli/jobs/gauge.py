"""Measure one model on an Ollama: load it, send it one request at a time, unload it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.jobs.api import Api
from ollama_cache_proxy.cli.jobs.models import size_of
from ollama_cache_proxy.cli.jobs.progress import Steps
from ollama_cache_proxy.workbench import told_rows
from ollama_cache_proxy.workbench.bench_questions import completion
from ollama_cache_proxy.workbench.fidelity import Completing, Distribution, Embedding, completing, contexts, embedding
from ollama_cache_proxy.workbench.speeds import (
    load_seconds,
    output_rate,
    prompt_rate,
    told_least,
    told_median,
)
from ollama_cache_proxy.workbench.told_rows import figure, text
from ollama_cache_proxy.workbench.verdict import Measured

LOADS: Final = 2
"""How often a model is loaded; the shortest time counts, since the first may include reading from disk."""

CONTEXTS: Final = 16
"""Contexts cut from each prompt."""

_TOP: Final = 20
"""The most likely tokens to ask for; Ollama's maximum."""

_UNLOAD_DEADLINE: Final = 30.0
"""Seconds for Ollama to unload a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The output of a model for the prompts."""

    answers: Sequence[Sequence[str]] = ()
    """Completions, token by token."""
    likeliest: Sequence[Distribution] = ()
    """The most likely tokens after each context."""
    vectors: Sequence[Sequence[float]] = ()
    """Embeddings, of a model that only embeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speeds:
    """How fast a model is; None for what Ollama does not tell. See Measured."""

    prompt_rate: float | None = None
    output_rate: float | None = None
    first_token: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """How models are measured."""

    api: Api
    prompts: Sequence[str]
    tokens: int
    """Maximum tokens of a completion."""
    embeds: bool
    """Whether embeddings are measured, not completions."""

    @property
    def steps(self) -> int:
        """The number of progress steps for one model."""
        asked = 0 if self.embeds else len(contexts(self.prompts, CONTEXTS))
        return LOADS + len(self.prompts) + asked

    async def measure(self, model: str, level: str, steps: Steps) -> tuple[Measured, Outputs]:
        """Return the measurements of a model, without its fidelity, and its output. Other models stay loaded."""
        steps.begin(f"Measuring {model}", self.steps)
        row = await self.api.row_of(model)
        digest = text(row, "digest")
        loads = []
        for _ in range(LOADS):
            await self.unload(model, digest)
            loads.append(await self._load(model))
            steps.advance()
        memory, vram = await self._memory(digest)
        speeds, said = await (self._vectors if self.embeds else self._completions)(model, steps)
        await self.unload(model, digest)
        measured = Measured(
            name=model,
            level=level,
            size=size_of(row),
            memory=memory,
            vram=vram,
            load=told_least(loads),
            prompt_rate=speeds.prompt_rate,
            output_rate=speeds.output_rate,
            first_token=speeds.first_token,
            embeds=self.embeds,
        )
        return measured, said

    async def measure_all(
        self, source: tuple[str, str], others: Sequence[tuple[str, str]], steps: Steps
    ) -> tuple[Measured, list[Measured]]:
        """Return the measurements of a source, and of others with their fidelity to it; each by name and level."""
        measured, outputs = await self.measure(*source, steps)
        results = []
        for name, level in others:
            result, other = await self.measure(name, level, steps)
            results.append(replace(result, fidelity=self.compare(outputs, other)))
        return measured, results

    def compare(self, source: Outputs, other: Outputs) -> Completing | Embedding:
        """Return how alike two models are. Raise Failed if they cannot be compared."""
        if self.embeds:
            try:
                return embedding(source.vectors, other.vectors)
            except ValueError as error:
                raise Failed(f"the vectors of these models cannot be compared: {error}") from None
        return completing(source.answers, other.answers, source.likeliest, other.likeliest)

    async def unload(self, model: str, digest: str) -> None:
        """Unload a model, and wait until it is unloaded. Raise Failed if it stays."""
        await self.api.object("/api/generate", {"model": model, "keep_alive": 0, "stream": False})
        deadline = time.monotonic() + _UNLOAD_DEADLINE
        while await self._resident(digest) is not None:
            if time.monotonic() > deadline:
                raise Failed(f"{model} stays loaded: another client uses it", "try again when Ollama is idle")
            await asyncio.sleep(0.05)

    async def _load(self, model: str) -> float | None:
        """Load a model, and return how long it took, in seconds; None where Ollama does not tell."""
        if self.embeds:
            row = await self.api.object("/api/embed", {"model": model, "input": "."})
        else:
            row = await self.api.object("/api/generate", completion(model, ".", 1, raw=True))
        return load_seconds(row)

    async def _resident(self, digest: str) -> dict[str, Any] | None:
        """Return the row of a loaded model; it may have been loaded under the name of a copy."""
        rows = told_rows.rows(await self.api.object("/api/ps"))
        return next((row for row in rows if row.get("digest") == digest), None)

    async def _memory(self, digest: str) -> tuple[int | None, int | None]:
        row = await self._resident(digest) or {}
        return figure(row, "size"), figure(row, "size_vram")

    async def _completions(self, model: str, steps: Steps) -> tuple[_Speeds, Outputs]:
        answers, firsts, ends = [], [], []
        for prompt in self.prompts:
            first, pieces, last = await self._stream(model, prompt)
            answers.append(pieces)
            firsts.append(first)
            ends.append(last)
            steps.advance()
        likeliest = []
        for context in contexts(self.prompts, CONTEXTS):
            likeliest.append(await self._likeliest(model, context))
            steps.advance()
        speeds = _Speeds(
            prompt_rate=told_median(map(prompt_rate, ends)),
            output_rate=told_median(map(output_rate, ends)),
            first_token=told_median(firsts),
        )
        return speeds, Outputs(answers=answers, likeliest=likeliest)

    async def _stream(self, model: str, prompt: str) -> tuple[float | None, list[str], dict[str, Any]]:
        """Return the seconds to the first token, the tokens, and the last line of a streamed completion.

        Ollama 0.33 ends a stream without its last line where a token is no UTF-8, even before the first line.
        """
        begun, first, pieces, last = time.perf_counter(), None, [], {}
        asked = completion(model, prompt, self.tokens, stream=True)
        async for row in self.api.rows("/api/generate", asked, may_be_empty=True):
            piece = str(row.get("thinking") or "") + str(row.get("response") or "")
            if piece:
                pieces.append(piece)
                first = first or time.perf_counter() - begun
            last = row
        return first, pieces, last

    async def _likeliest(self, model: str, context: str) -> Distribution:
        """Return the most likely next tokens after a text, empty if this Ollama sends none."""
        asked = completion(model, context, 1, raw=True, logprobs=True, top_logprobs=_TOP)
        rows = (await self.api.object("/api/generate", asked)).get("logprobs") or [{}]
        together: dict[str, float] = {}
        for row in rows[0].get("top_logprobs") or []:  # incomplete characters all have the same text
            together[row["token"]] = together.get(row["token"], 0.0) + math.exp(row["logprob"])
        return {token: math.log(share) for token, share in together.items() if share > 0}

    async def _vectors(self, model: str, steps: Steps) -> tuple[_Speeds, Outputs]:
        vectors, took = [], []
        for prompt in self.prompts:
            begun = time.perf_counter()
            row = await self.api.object("/api/embed", {"model": model, "input": prompt})
            took.append(time.perf_counter() - begun)
            vectors.append(row["embeddings"][0])
            steps.advance()
        return _Speeds(first_token=told_median(took)), Outputs(vectors=vectors)
