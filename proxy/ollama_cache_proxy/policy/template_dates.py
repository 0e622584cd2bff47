"""Which models write the date into prompts. Neither the request nor the model's digest shows the date itself.

Ollama renders a prompt with a model's TEMPLATE, with the Jinja template of its GGUF file (since 0.30, in llama.cpp's
server), or with a renderer of its own. `POST /api/show` tells which (`template`, `renderer`); its `template` is the one
that is used (`selectedModelTemplate` in server/routes.go, 0.33.0-rc2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.endpoints import Kind

_WORDS: Final = re.compile(r"\b(?:currentDate|yesterdayDate|strftime_now|date_string|datetime)\b")
"""Functions of Ollama's templates (`funcs` in template/template.go, 0.24 and 0.33.0-rc2), and functions and variables
that llama.cpp gives to Jinja templates (`strftime_now`; `date_string` and `datetime` in common/chat.cpp)."""

_RENDERERS: Final = ("glimmer",)
"""Ollama's own renderers that write the date (model/renderers/glimmer.go, 0.33.0-rc2; none in 0.24)."""


def writes_date(shown: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what may write the date in a model's prompts, by the response of `/api/show`; empty where nothing does.

    A word counts wherever it stands in the template, so this errs on the side of the date.
    """
    renderer = shown.get("renderer")
    found = (f"the renderer {renderer}",) if renderer in _RENDERERS else ()
    return found + dates(shown.get("template"))


def dates(template: Any) -> tuple[str, ...]:
    """Return the words of a template that may write the date, each once; empty for what is no text."""
    return tuple(dict.fromkeys(_WORDS.findall(template))) if isinstance(template, str) else ()


def renders(candidate: Candidate) -> bool:
    """Return whether a prompt is put into a template: not where vectors are asked for, nor where the request is raw."""
    endpoint = candidate.endpoint
    if endpoint.kind in (Kind.EMBEDDING, Kind.NONE):
        return False
    return not endpoint.raw or candidate.document.get(endpoint.raw) is not True


def request_writes_date(candidate: Candidate) -> bool:
    """Return whether the request has a template of its own that may write the date."""
    endpoint = candidate.endpoint
    return bool(endpoint.template) and bool(dates(candidate.document.get(endpoint.template)))
