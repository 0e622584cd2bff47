"""Whether a request may be answered from the cache: a `Candidate`, or a `Bypass` with its one reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Final, TypeAlias

from ollama_cache_proxy.policy import (
    document,
    external,
    large_documents,
    model_names,
    multipart,
    odd_texts,
    silent_options,
)
from ollama_cache_proxy.policy.endpoints import Endpoint, Kind, Policy
from ollama_cache_proxy.policy.messages import Fields, Request
from ollama_cache_proxy.policy.odd_texts import OddTexts
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.reuse import Directives
from ollama_cache_proxy.policy.stable_prefix import Stabilised
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import Steps


@record
class Candidate:
    """A request that may be served from the cache; `items` is how many vectors an embeddings response must have."""

    endpoint: Endpoint
    model: str
    document: dict[str, Any]
    items: int
    stream: bool = False
    odd: Mapping[int, tuple[str, bytes]] = field(default_factory=dict)
    """The odd texts of a list by their places: each as a text that tells it from others, and as JSON as it came.

    Not all of its texts are odd.
    """
    text: bool = False
    """Whether the response is plain text."""


@record
class Bypass:
    """A request that is forwarded as it came; `model` is empty where it could not be read."""

    detail: Detail
    model: str = ""
    spent: float = 0.0
    """Seconds spent waiting for Ollama's digests before this was decided."""
    stabilised: Stabilised | None = None
    """What is forwarded in place of the body that came."""


Classification: TypeAlias = Candidate | Bypass
PolicyOf: TypeAlias = Callable[[str], Policy | None]
"""Returns the policy for a request that names this model."""

_DURATION: Final = re.compile(
    r"[+-]?(?:0|(?:(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:ns|us|µs|μs|ms|s|m|h)){1,8})"
)
_PARTS: Final = re.compile(r"([0-9]*)\.?([0-9]*)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_INT64: Final = 2**63


def by_head(
    endpoint: Endpoint, request: Request, directives: Directives, *, policy: Policy | None, exact: bool
) -> Bypass | None:
    """Return the bypass that the head alone decides, or None."""
    detail = _head_detail(endpoint, request.fields, directives, policy, exact=exact)
    return None if detail is None else Bypass(detail=detail)


BARRED: Final = {
    b"content-encoding": Detail.CONTENT_ENCODING,
    b"range": Detail.RANGE,
    b"if-match": Detail.CONDITIONAL,
    b"if-none-match": Detail.CONDITIONAL,
    b"if-modified-since": Detail.CONDITIONAL,
    b"if-unmodified-since": Detail.CONDITIONAL,
    b"cookie": Detail.COOKIE,
}


def _head_detail(
    endpoint: Endpoint, fields: Fields, directives: Directives, policy: Policy | None, *, exact: bool
) -> Detail | None:
    if endpoint.policy is None:
        return Detail.ENDPOINT
    if policy is Policy.OFF:
        return Detail.OPT_IN
    if not exact:
        return Detail.SPELLING
    for name, _ in fields:
        detail = BARRED.get(name.lower())
        if detail is not None:
            return detail
    return Detail.NO_STORE if directives.no_store else None


def by_body(
    endpoint: Endpoint, body: bytes, *, policy_of: PolicyOf, streams: bool, fields: Fields = ()
) -> Classification:
    """Classify a request whose head allows reuse, by its whole body; `streams`: streams may be reused too.

    The request's `fields` tell how a multipart body is divided.
    """
    found: tuple[dict[str, Any], OddTexts] | Detail
    if endpoint.items:
        found = odd_texts.read(body, endpoint.known, endpoint.prompt)
    else:
        multi = endpoint.multipart
        read = multipart.read(fields, body, endpoint.known) if multi else document.read(body, endpoint.known)
        found = read if isinstance(read, Detail) else (read, {})
    return _by_document(endpoint, body, found, policy_of=policy_of, streams=streams)


def by_large_body(
    endpoint: Endpoint, body: bytes, *, policy_of: PolicyOf, streams: bool, reserve: Callable[[int], bool]
) -> Steps[Classification]:
    """Return likewise what a body of JSON is that is not read quickly (outline.py), in steps.

    `reserve` is asked whether there is room for so many bytes of values.
    """
    found = yield from large_documents.read(body, endpoint.known, endpoint.prompt if endpoint.items else "", reserve)
    yield
    return _by_document(endpoint, body, found, policy_of=policy_of, streams=streams)


def by_large_multipart(
    endpoint: Endpoint, body: bytes, *, policy_of: PolicyOf, streams: bool, fields: Fields
) -> Steps[Classification]:
    """Return likewise what a large multipart body is, in steps."""
    read = yield from multipart.read_in_steps(fields, body, endpoint.known)
    yield
    found: tuple[dict[str, Any], OddTexts] | Detail = read if isinstance(read, Detail) else (read, {})
    return _by_document(endpoint, body, found, policy_of=policy_of, streams=streams)


def _by_document(
    endpoint: Endpoint,
    body: bytes,
    found: tuple[dict[str, Any], OddTexts] | Detail,
    *,
    policy_of: PolicyOf,
    streams: bool,
) -> Classification:
    """Classify a request by what was read from its body."""
    if isinstance(found, Detail):
        return Bypass(detail=found)
    read, odd = found
    model = read.get("model")
    if not isinstance(model, str) or not model:
        return Bypass(detail=Detail.NO_MODEL)
    if model_names.is_remote(model):
        return Bypass(detail=Detail.REMOTE_MODEL, model=model)
    policy = policy_of(model)
    if policy is Policy.OFF:
        return Bypass(detail=Detail.OPT_IN, model=model)
    items = _items(endpoint, read)
    if isinstance(items, Detail):
        return Bypass(detail=items, model=model)
    if items > 1 and "" in read[endpoint.prompt]:
        odd = odd | {place: ("", b'""') for place, text in enumerate(read[endpoint.prompt]) if not text}
    candidate = Candidate(
        endpoint=endpoint,
        model=model,
        document=read,
        items=items,
        stream=_streams(endpoint, read),
        odd=odd,
        text=bool(endpoint.text) and read.get(endpoint.text) == "text",
    )
    ill_formed = Detail.NOT_JSON if items == len(odd) else None
    detail = ill_formed or _barred(candidate, policy, streams=streams) or _escaped_format(read, body)
    return candidate if detail is None else Bypass(detail=detail, model=model)


def _barred(candidate: Candidate, policy: Policy | None, *, streams: bool) -> Detail | None:
    """Return why a request that was understood is still not reusable, or None."""
    endpoint, body = candidate.endpoint, candidate.document
    if endpoint.stream_default is not None and not isinstance(body.get("stream"), bool | None):
        return Detail.FIELD_TYPE
    if candidate.stream and not streams:
        return Detail.STREAM
    if endpoint.kind is Kind.CHAT and external.depends(endpoint, body):
        return Detail.EXTERNAL_DATA
    if endpoint.kind is Kind.EMBEDDING and endpoint.options and silent_options.wrong_type(body.get(endpoint.options)):
        return Detail.FIELD_TYPE
    if policy is Policy.DETERMINISTIC and not is_deterministic(endpoint, body):
        return Detail.SAMPLING_MISPLACED if _is_misplaced(endpoint, body) else Detail.NOT_DETERMINISTIC
    return _invalid_inert(endpoint, body)


def _streams(endpoint: Endpoint, body: dict[str, Any]) -> bool:
    """Return whether a stream is asked for; `null` is the default, and Ollama refuses a string."""
    if endpoint.stream_default is None:
        return False
    stream = body.get("stream")
    return endpoint.stream_default if stream is None else stream is True


_NO_SEED: Final = 2**32 - 1
"""The seed that llama.cpp takes for none, as every one that is equal in 32 bits, such as -1."""


def is_deterministic(endpoint: Endpoint, body: dict[str, Any]) -> bool:
    """Return whether the request asks for the same response each time: vectors, temperature 0, or a seed."""
    if endpoint.deterministic:
        return True
    given = body.get(endpoint.options) if endpoint.options else body
    if not isinstance(given, dict):
        return False
    temperature, seed = (given.get(name) if name in endpoint.sampling else None for name in ("temperature", "seed"))
    greedy = temperature == 0 and not isinstance(temperature, bool)
    return greedy or (type(seed) is int and 0 <= seed < _NO_SEED)


def _is_misplaced(endpoint: Endpoint, body: dict[str, Any]) -> bool:
    """Return whether sampling options stand at the top level of an endpoint that reads them in a member."""
    return bool(endpoint.options) and not endpoint.sampling.isdisjoint(body)


def _items(endpoint: Endpoint, body: dict[str, Any]) -> int | Detail:
    """Return how many responses are asked for. Without a prompt, a request is a command to load or unload a model."""
    prompt: Any = body.get(endpoint.prompt)
    if prompt is not None and type(prompt) not in endpoint.forms:
        return Detail.FIELD_TYPE
    if not prompt:
        return Detail.NO_PROMPT
    if isinstance(prompt, str | dict):
        return 1
    if endpoint.kind is not Kind.EMBEDDING:
        return 1 if all(isinstance(item, dict) for item in prompt) else Detail.FIELD_TYPE
    if len(prompt) > large_documents.MOST_TEXTS:
        return Detail.SLOW_TO_READ
    return len(prompt) if all(type(item) is str for item in prompt) and any(prompt) else Detail.FIELD_TYPE


def _invalid_inert(endpoint: Endpoint, body: dict[str, Any]) -> Detail | None:
    """Return the detail for an invalid field that is not in the key, since Ollama has to report that error, or None."""
    if "keep_alive" in endpoint.inert and not _is_valid_keep_alive(body.get("keep_alive")):
        return Detail.KEEP_ALIVE
    if "encoding_format" in endpoint.known and body.get("encoding_format") not in (None, "", "float", "base64"):
        return Detail.ENCODING_FORMAT
    return None


_ESCAPED: Final = re.compile(rb"\\u00(?:6[aAeEfF]|73)")


def _escaped_format(document: dict[str, Any], body: bytes) -> Detail | None:
    """Return the detail for a `format` that may be "json" spelled with escapes, or None.

    Ollama compares that text byte for byte, so the escaped one is another. It hands on OpenAI's `response_format` and
    the schema in `text` as a `format`.
    """
    raw = isinstance(document.get("format"), str) or "response_format" in document or "text" in document
    return Detail.FIELD_TYPE if raw and _ESCAPED.search(body) is not None else None


def _is_valid_keep_alive(keep_alive: object) -> bool:
    """Return whether `keep_alive` is valid and does not unload: null, a number other than 0, or a Go duration."""
    if keep_alive is None:
        return True
    if isinstance(keep_alive, bool):
        return False
    if isinstance(keep_alive, int | float):
        return keep_alive < 0 or 1 <= keep_alive * 1e9 < _INT64
    return isinstance(keep_alive, str) and 0 < _nanoseconds(keep_alive) < _INT64


def _nanoseconds(duration: str) -> int:
    """Return a Go duration (`time.ParseDuration`) without its sign, in whole nanoseconds; 0 for anything else."""
    if _DURATION.fullmatch(duration) is None:
        return 0
    return sum(
        int(whole or 0) * (unit := _NANOSECONDS[name]) + int(part or 0) * unit // 10 ** len(part)
        for whole, part, name in _PARTS.findall(duration)
    )


def is_embedding(endpoint: Endpoint) -> bool:
    """Return whether the endpoint's responses are vectors, which have a lifetime, a limit and a linger of their own."""
    return endpoint.kind is Kind.EMBEDDING


def changed_model(endpoint: Endpoint, body: bytes | None) -> str | None:
    """Return the canonical name of the model that a pull, create, copy or delete is about.

    None means that it cannot be read: then it may be any model.
    """
    return _changed(endpoint, document.read(body or b"", endpoint.known))


def model_changed_by_large(endpoint: Endpoint, body: bytes) -> Steps[str | None]:
    """Return likewise what a body is about that is not read quickly (outline.py), in steps."""
    found = yield from large_documents.read(body, endpoint.known, "", lambda _: True)
    return _changed(endpoint, found if isinstance(found, Detail) else found[0])


def _changed(endpoint: Endpoint, read: dict[str, Any] | Detail) -> str | None:
    if isinstance(read, Detail):
        return None
    name = next((value for field in endpoint.changes if (value := read.get(field))), None)
    return model_names.canonical(name) if isinstance(name, str) else None
