"""Which requests are audited, and how Ollama is asked again without a change of what it has loaded, or for how long."""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import orjson

from ollama_cache_proxy.policy import raw_members
from ollama_cache_proxy.policy.classify import Candidate, is_deterministic, is_embedding
from ollama_cache_proxy.policy.dialects.dialect import as_object
from ollama_cache_proxy.policy.endpoints import Kind

RunnerOptions: TypeAlias = frozenset[tuple[str, str]]
"""Names and values, as JSON, of options with which Ollama loads a model anew where they are not those that it has."""
_RUNNER: Final = frozenset(
    [
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "use_mmap",
        "num_thread",
        "numa",
        "low_vram",
        "vocab_only",
        "use_mlock",
        "f16_kv",
    ]
)
"""`api.Runner` (`api/types.go`, 0.24), and names that older versions had there."""
_MARK: Final = re.compile(b'"(?:%b)"' % b"|".join(sorted(name.encode() for name in _RUNNER)))
_KEEP_ALIVE: Final = "keep_alive"
_SEARCHED: Final = 1024 * 1024
"""Bytes of a body; larger ones are not searched for options."""


def is_audited(candidate: Candidate, *, completions: bool) -> bool:
    """Return whether a hit of a candidate can be audited: vectors, and completions that are the same each time."""
    endpoint = candidate.endpoint
    if is_embedding(endpoint):
        return True
    fixed = is_deterministic(endpoint, candidate.document)
    return completions and fixed and not endpoint.deterministic and endpoint.kind in (Kind.COMPLETION, Kind.CHAT)


def is_greedy(candidate: Candidate) -> bool:
    """Return whether a candidate asks for temperature 0."""
    endpoint, document = candidate.endpoint, candidate.document
    given = as_object(document.get(endpoint.options)) if endpoint.options else document
    return given.get("temperature") == 0


def without_keep_alive(candidate: Candidate, body: bytes) -> bytes:
    """Return a body without its keep_alive, which would hold for every later request without one."""
    if _KEEP_ALIVE not in candidate.endpoint.known or _KEEP_ALIVE not in candidate.document:
        return body
    return raw_members.changed(body, "model", orjson.dumps(candidate.model), without=_KEEP_ALIVE)


def body_of_text(candidate: Candidate, text: str) -> bytes:
    """Return a body that asks for a list of one text, without its keep_alive; the list it is from may be long."""
    prompt = candidate.endpoint.prompt
    rest = {name: value for name, value in candidate.document.items() if name not in (prompt, _KEEP_ALIVE)}
    return orjson.dumps({**rest, prompt: [text]})


def runner_options(document: dict[str, Any]) -> RunnerOptions:
    """Return the options of a request with which Ollama would load its model anew."""
    given = as_object(document.get("options"))
    return frozenset((name, orjson.dumps(given[name]).decode()) for name in _RUNNER & given.keys())


def has_runner_options(options: Any) -> bool:
    """Return whether a request's `options` have one of those."""
    return isinstance(options, dict) and not _RUNNER.isdisjoint(options)


def options_in(body: bytes) -> tuple[str, RunnerOptions] | None:
    """Return model and options of a request's body; None where it names no model, or is too large to be read here."""
    if len(body) > _SEARCHED:
        return None
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    model = read.get("model") if isinstance(read, dict) else None
    return (model, runner_options(read)) if isinstance(model, str) else None


def may_have_options(body: bytes) -> bool:
    """Return whether a body may have such options: a search that costs less than reading it."""
    return len(body) <= _SEARCHED and _MARK.search(body) is not None
