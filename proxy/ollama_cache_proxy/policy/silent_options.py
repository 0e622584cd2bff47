"""Which members of a request's `options` say nothing to Ollama, and are left out of keys.

It depends on Ollama's version. Each row of the table was looked up in Ollama's source for the versions that it names;
for any other version nothing is left out, and two requests that Ollama answers alike have two keys. To look up a new
release, read for it what the rows name, and widen the last range, or begin a new one.

What was read: `Options.FromMap` (`api/types.go`) skips a null, and names that it does not know, and refuses a value of
a wrong type. `modelOptions` (`server/routes.go`) applies the model's parameters first, then the request's, so a null
leaves the model's own. `EmbedHandler` and `EmbeddingsHandler` give these options to the scheduler, which loads a model
anew where those of `Runner` differ (`needsReload`, `server/sched.go`), and give none of them to the runner with a text
(`Embedding`, `llm/server.go` and `llm/llama_server.go`): so no sampling option changes a vector.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from ollama_cache_proxy.policy.record import record


class OptionType(Enum):
    """What Ollama takes as a value; it takes null for each."""

    NUMBER = "number"
    """Of a field that is an int or a float32: JSON has one kind of number, and `FromMap` cuts off fractions."""
    BOOLEAN = "boolean"
    TEXTS = "list of texts"


@record
class Versions:
    """Releases of Ollama, from the first to the last one, both included."""

    first: str
    last: str


@record
class Option:
    """One option. An empty tuple stands for no version."""

    name: str
    type: OptionType
    source: str
    """Where Ollama reads it, beside `FromMap`."""
    null: tuple[Versions, ...]
    """The versions in which null says nothing."""
    vectors: tuple[Versions, ...] = ()
    """The versions in which no value changes a vector."""


_UNTIL_0_25: Final = Versions(first="0.18.0", last="0.25.0-rc0")
"""Ollama's own engine and llama.cpp in a runner's process. All of them read options by the same code."""
_FROM_0_30: Final = Versions(first="0.30.0", last="0.34.0")
"""llama.cpp's server as a child. All of them read a request's options alike; since 0.33.3 a model's file may have
defaults too, which come before its parameters."""
_FROM_0_34_1: Final = Versions(first="0.34.1", last="0.34.4")
"""Likewise, but that `typical_p` is refused (`scheduleRunner` in `server/routes.go`); null is not."""
LOOKED_UP: Final = (_UNTIL_0_25, _FROM_0_30, _FROM_0_34_1)

_SAMPLING: Final = "`Completion` only: `llm/server.go`, `llm/llama_server.go`"
_LOADING: Final = "how the model is loaded: `Runner` in `api/types.go`, `needsReload` in `server/sched.go`"


def _sampling(name: str, kind: OptionType = OptionType.NUMBER) -> Option:
    return Option(name=name, type=kind, source=_SAMPLING, null=LOOKED_UP, vectors=LOOKED_UP)


def _loading(name: str, kind: OptionType = OptionType.NUMBER) -> Option:
    return Option(name=name, type=kind, source=_LOADING, null=LOOKED_UP)


OPTIONS: Final = (
    Option(
        name="num_keep",
        type=OptionType.NUMBER,
        source="`Completion`; since 0.30 `appendContextShiftArgs` in `llm/llama_server.go`, when a model is loaded",
        null=LOOKED_UP,
        vectors=(_UNTIL_0_25,),
    ),
    _sampling("seed"),
    _sampling("num_predict"),
    _sampling("top_k"),
    _sampling("top_p"),
    _sampling("min_p"),
    Option(
        name="typical_p",
        type=OptionType.NUMBER,
        source=_SAMPLING + "; since 0.34.1 any value but null is an error",
        null=LOOKED_UP,
        vectors=(_UNTIL_0_25, _FROM_0_30),
    ),
    _sampling("repeat_last_n"),
    _sampling("temperature"),
    _sampling("repeat_penalty"),
    _sampling("presence_penalty"),
    _sampling("frequency_penalty"),
    _sampling("stop", OptionType.TEXTS),
    Option(
        name="num_ctx",
        type=OptionType.NUMBER,
        source=_LOADING + "; since 0.30 `usesAutomaticNumCtx`: with a null, no context is lowered for want of memory."
        " A lowered one shows in no key, however it came",
        null=LOOKED_UP,
    ),
    Option(
        name="num_batch",
        type=OptionType.NUMBER,
        source=_LOADING + "; since 0.30 `shouldApplyEmbeddingBatchDefault` in `server/routes.go`: a null takes 512"
        " instead of a batch that is chosen, at which `EmbedHandler` truncates texts",
        null=(_UNTIL_0_25,),
    ),
    _loading("num_gpu"),
    _loading("main_gpu"),
    _loading("use_mmap", OptionType.BOOLEAN),
    _loading("num_thread"),
    Option(
        name="draft_num_predict",
        type=OptionType.NUMBER,
        source="unknown before 0.30; then `modelOptionsWithEmbeddingBatchDefault` in `server/routes.go`: a null counts"
        " as set",
        null=(_UNTIL_0_25,),
    ),
)
"""All that `api.Options` has in the versions that were looked up. For any other name `FromMap` does nothing."""

_BY_NAME: Final = {option.name: option for option in OPTIONS}


@record
class _Silent:
    """What says nothing to one version."""

    null_tells: frozenset[str]
    """The names whose null says something."""
    vectors: frozenset[str]
    """The names that change no vector."""


def is_looked_up(version: str) -> bool:
    """Return whether this version of Ollama, as `GET /api/version` tells it, is one that was looked up."""
    return _silent(version) is not None


def without_silent(body: dict[str, Any], member: str, version: str, *, embedding: bool) -> dict[str, Any]:
    """Return a body whose options in `member` have no part that says nothing to this version, sorted by name.

    The member itself is left out where nothing is left in it. `embedding`: the request is for vectors. Options that are
    neither null nor a JSON object stay as they are: Ollama refuses them.
    """
    options, silent = body[member], _silent(version)
    if silent is None:
        return body | {member: dict(sorted(options.items()))} if isinstance(options, dict) else body
    if isinstance(options, dict):
        left_out, null_tells = silent.vectors if embedding else _NONE, silent.null_tells
        told = {
            name: value
            for name in sorted(options)
            if ((value := options[name]) is not None or name in null_tells) and name not in left_out
        }
        if told:
            return body | {member: told}
    elif options is not None:
        return body
    return {name: value for name, value in body.items() if name != member}


_NONE: Final[frozenset[str]] = frozenset()


def wrong_type(options: Any) -> bool:
    """Return whether an option that some version leaves out of a key of vectors has a type that Ollama refuses."""
    if not isinstance(options, dict):
        return False
    return any(
        value is not None
        and (option := _BY_NAME.get(name)) is not None
        and bool(option.vectors)
        and not _is_of(value, option.type)
        for name, value in options.items()
    )


def _is_of(value: Any, kind: OptionType) -> bool:
    match kind:
        case OptionType.NUMBER:
            return type(value) in (int, float)
        case OptionType.BOOLEAN:
            return type(value) is bool
        case OptionType.TEXTS:
            return type(value) is list and all(type(item) is str for item in value)


@lru_cache(maxsize=16)
def _silent(version: str) -> _Silent | None:
    """Return what says nothing to this version; None if it was not looked up."""
    number = _number(version)
    if number is None:
        return None

    def holds(versions: tuple[Versions, ...]) -> bool:
        return any(_known(span.first) <= number <= _known(span.last) for span in versions)

    if not holds(LOOKED_UP):
        return None
    return _Silent(
        null_tells=frozenset(option.name for option in OPTIONS if not holds(option.null)),
        vectors=frozenset(option.name for option in OPTIONS if holds(option.vectors)),
    )


_VERSION: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})(?:-rc([0-9]{1,4}))?", re.ASCII)
_FINAL: Final = 10_000
"""Stands after every release candidate."""


def _number(version: str) -> tuple[int, ...] | None:
    """Return a version that can be compared; None for one of another form, such as a build of one's own."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return None
    *parts, candidate = found.groups()
    return (*map(int, parts), _FINAL if candidate is None else int(candidate))


def _known(version: str) -> tuple[int, ...]:
    number = _number(version)
    if number is None:
        raise ValueError(version)
    return number
