"""The figures of measured models as a table: a column for each model, a row for each figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ollama_cache_proxy.workbench.fidelity import Completing, Embedding
from ollama_cache_proxy.workbench.levels import spelled
from ollama_cache_proxy.workbench.sheet import Sheet
from ollama_cache_proxy.workbench.speeds import NOT_TOLD
from ollama_cache_proxy.workbench.spread import seconds
from ollama_cache_proxy.workbench.verdict import Measured

T = TypeVar("T")


def table(source: Measured, results: Sequence[Measured], *, gpu: bool) -> Sheet:
    """Return the table: a column for each model, a row for each figure. `gpu` is whether a GPU is known."""
    models = [source, *results]
    rows = [
        ("Level", *(model.level for model in models)),
        ("Size on disk", *(spelled(model.size) for model in models)),
        ("Memory", *(_told(model.memory, spelled) for model in models)),
        ("Memory in GPUs" if gpu else "VRAM, by Ollama", *(_told(model.vram, spelled) for model in models)),
        ("Load", *(_told(model.load, seconds) for model in models)),
    ]
    if source.embeds:
        rows.append(("Whole response", *(_told(model.first_token, seconds) for model in models)))
    else:
        rows += [
            ("Prompt tokens/s", *(_told(model.prompt_rate, "{:,.0f}".format) for model in models)),
            ("Output tokens/s", *(_told(model.output_rate, "{:,.1f}".format) for model in models)),
            ("First token", *(_told(model.first_token, seconds) for model in models)),
        ]
    alike = [_alike(model.fidelity) for model in results]
    rows += [(name, "", *(cells[name] for cells in alike)) for name in alike[0]]
    return Sheet(columns=("", *(model.name for model in models)), rows=rows)


def _told(value: T | None, shown: Callable[[T], str]) -> str:
    return NOT_TOLD if value is None else shown(value)


def _alike(fidelity: Completing | Embedding | None) -> dict[str, str]:
    match fidelity:
        case Completing():
            return {
                "Same completion": _told(fidelity.same_answer, "{:.0%}".format),
                "Same next token": "unknown" if fidelity.same_next is None else f"{fidelity.same_next:.0%}",
                "Divergence, nats": "unknown" if fidelity.divergence is None else f"{fidelity.divergence:.4f}",
            }
        case Embedding():
            return {"Cosine": f"{fidelity.cosine:.4f}", "Lowest cosine": f"{fidelity.cosine_low:.4f}"}
        case None:
            return {}
