"""What the response of `/api/show` tells of a model beyond its digest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ollama_cache_proxy.policy import template_dates
from ollama_cache_proxy.policy.model_rows import figure, part, text

Shown = Mapping[str, Any]
"""The response of `/api/show`."""

_WEIGHTS: Final = re.compile(r"^FROM .*[/\\]sha256-([0-9a-f]{64})$", re.MULTILINE)
_CONTEXT: Final = re.compile(r"^num_ctx +(\d{1,9})$", re.MULTILINE)
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")
_SHARING_SINCE: Final = (0, 30)
"""Since then a runner may render templates, and models made of one GGUF file share it (`schedulerModelKey` in
server/sched.go, `llamaServerConfigForModel` in server/routes.go, 0.30.0 and 0.33.0-rc2)."""


def dates(shown: Shown) -> tuple[str, ...]:
    """Return what may write the date into prompts; empty where nothing does."""
    return template_dates.writes_date(shown)


def weights(shown: Shown) -> str | None:
    """Return the digest of the model's GGUF file; None where it is not told."""
    found = _WEIGHTS.search(text(shown, "modelfile"))
    return None if found is None else found[1]


def own_context(shown: Shown) -> int | None:
    """Return the context length that the model's own parameters ask for, in tokens, as far as it was trained for it."""
    found = _CONTEXT.search(text(shown, "parameters"))
    if found is None:
        return None
    trained = dimension(shown, "context_length")
    return min(int(found[1]), trained) if trained else int(found[1])


def dimension(shown: Shown, name: str) -> int | None:
    """Return a figure of the model's architecture, such as `block_count`; None where it is not told."""
    info = part(shown, "model_info")
    return figure(info, f"{text(info, 'general.architecture')}.{name}")


def shares_runners(version: str) -> bool:
    """Return whether this version of Ollama lets models made of one GGUF file share a runner that renders templates."""
    found = _VERSION.match(version)
    return found is not None and (int(found[1]), int(found[2])) >= _SHARING_SINCE


def at_odds(models: Mapping[str, Shown]) -> list[Sequence[Sequence[str]]]:
    """Return the GGUF files of which models are made whose prompts are rendered differently.

    Of each file the names of those that are rendered alike stand together, sorted.
    """
    files: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for name, shown in sorted(models.items()):
        digest = weights(shown)
        if digest is not None:
            files.setdefault(digest, {}).setdefault(rendering(shown), []).append(name)
    return [list(groups.values()) for groups in files.values() if len(groups) > 1]


def rendering(shown: Shown) -> tuple[str, ...]:
    """Return what decides how prompts are rendered: the template that is in use, and Ollama's renderer and parser."""
    return tuple(text(shown, name) for name in ("template", "renderer", "parser"))
