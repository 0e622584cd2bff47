"""What Ollama tells of its installed models, as far as `quantize` has to know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.jobs.api import Api
from ollama_cache_proxy.workbench import levels
from ollama_cache_proxy.workbench.related import Installed
from ollama_cache_proxy.workbench.told_rows import figure, part, text


async def local_row(api: Api, model: str) -> dict[str, Any]:
    """Return the row of a model in /api/tags. Raise Failed if it is not there, or runs on another machine."""
    row = None if levels.is_cloud(model) else await api.row_of(model)
    if row is None or row.get("remote_host") or row.get("remote_model"):
        name = model if row is None else row["name"]
        raise Failed(f"{name} runs on another machine", "name a model that is installed on this Ollama")
    return row


def level_of(row: Mapping[str, Any]) -> str:
    """Return the quantization level of a row of /api/tags."""
    return text(part(row, "details"), "quantization_level") or "unknown"


def size_of(row: Mapping[str, Any]) -> int:
    """Return the bytes on disk of a row of /api/tags. Raise Failed where they are not told."""
    size = figure(row, "size")
    if not size:
        raise Failed(f"the server does not tell the size of {row['name']}", "name an Ollama: sizes are compared")
    return size


def capabilities(shown: Mapping[str, Any]) -> list[Any]:
    """Return what a model can do, by /api/show; empty where it is not told."""
    told = shown.get("capabilities")
    return told if isinstance(told, list) else []


def embeds(name: str, shown: Mapping[str, Any]) -> bool:
    """Return whether a model, by /api/show, embeds and does not complete. Raise Failed if it does neither."""
    told = capabilities(shown) or ["completion"]
    if not any(name in told for name in ("completion", "embedding")):
        raise Failed(f"{name} neither completes nor embeds", "only such models can be measured")
    return "completion" not in told


async def installed(api: Api, model: str) -> Installed:
    """Return what Ollama tells of a model. Raise Failed if it is not there, or cannot be measured."""
    row = await local_row(api, model)
    name, details = str(row["name"]), part(row, "details")
    shown = await api.object("/api/show", {"model": name})
    return Installed(
        name=name,
        digest=text(row, "digest"),
        level=level_of(row),
        size=size_of(row),
        family=text(details, "family"),
        parameters=text(details, "parameter_size"),
        embeds=embeds(name, shown),
        shown=shown,
    )
