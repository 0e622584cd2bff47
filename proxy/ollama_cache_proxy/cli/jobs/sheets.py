"""The figures of measured models as a table: a column for each model, a row for each figure."""

from __future__ import annotations

from collections.abc import Sequence

from ollama_cache_proxy.workbench.fidelity import Completing, Embedding
from ollama_cache_proxy.workbench.levels import spelled
from ollama_cache_proxy.workbench.sheet import Sheet
from ollama_cache_proxy.workbench.spread import seconds
from ollama_cache_proxy.workbench.verdict import Measured


def table(source: Measured, results: Sequence[Measured]) -> Sheet:
    """Return the table: a column for each model, a row for each figure."""
    models = [source, *results]
    embeds = source.output_rate is None
    rows = [
        ("Level", *(model.level for model in models)),
        ("Size on disk", *(spelled(model.size) for model in models)),
        ("Memory", *(spelled(model.memory) for model in models)),
        ("Memory in GPUs", *(spelled(model.vram) for model in models)),
        ("Load", *(seconds(model.load) for model in models)),
        ("Prompt tokens/s", *(f"{model.prompt_rate:,.0f}" for model in models)),
        ("Whole response" if embeds else "First token", *(seconds(model.first_token) for model in models)),
    ]
    if not embeds:
        rows.insert(6, ("Output tokens/s", *(f"{model.output_rate or 0:,.1f}" for model in models)))
    alike = [_alike(model.fidelity) for model in results]
    rows += [(name, "", *(cells[name] for cells in alike)) for name in alike[0]]
    return Sheet(columns=("", *(model.name for model in models)), rows=rows)


def _alike(fidelity: Completing | Embedding | None) -> dict[str, str]:
    match fidelity:
        case Completing():
            return {
                "Same completion": f"{fidelity.same_answer:.0%}",
                "Same next token": "unknown" if fidelity.same_next is None else f"{fidelity.same_next:.0%}",
                "Divergence, nats": "unknown" if fidelity.divergence is None else f"{fidelity.divergence:.4f}",
            }
        case Embedding():
            return {"Cosine": f"{fidelity.cosine:.4f}", "Lowest cosine": f"{fidelity.cosine_low:.4f}"}
        case None:
            return {}
