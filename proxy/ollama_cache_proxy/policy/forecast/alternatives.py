"""The keys that a request would have if clients or texts were alike, and what a bypassed one would need to have one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, Final
from zlib import crc32

from ollama_cache_proxy.policy import embeddings
from ollama_cache_proxy.policy.classify import Candidate, by_body, is_deterministic
from ollama_cache_proxy.policy.credentials import CredentialRules, given
from ollama_cache_proxy.policy.embeddings import TextList
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.forecast.line_numbers import without_line_numbers
from ollama_cache_proxy.policy.forecast.traffic_sample import Alike, Needed
from ollama_cache_proxy.policy.key import Frame, Scope, cache_key
from ollama_cache_proxy.policy.messages import Fields

MOST: Final = 1 << 18
"""Bytes of a body that is compared with others; of a larger one, only its key is known."""
_MOST_OF_A_TEXT: Final = 16_384
"""Characters, likewise, of one text of a list, of which many are compared."""
_DIGITS: Final = b"0123456789"
_SPREAD: Final = 0x9E3779B1


def number(key: str) -> int:
    """Return what a key is known by in this process: a number of 64 bits."""
    return hash(key)


def hashed(data: bytes) -> int:
    """Return a hash below 2^32 of what a request is about, the same whatever numbers are in it."""
    return crc32(data[:MOST].translate(None, _DIGITS)) * _SPREAD & 0xFFFFFFFF


def of_texts(text_list: TextList, scope: Scope, fields: Fields) -> Alike:
    """Return what each ordinary text of a list would be alike with; `fields` are those that Ollama will get."""
    texts = text_list.ordinary

    @cache
    def frames() -> tuple[Frame | None, Frame]:
        """Return what the keys have in common without credentials, None where there are none, and as they are."""
        anyone = _without_credentials(scope.credentials, fields)
        shared = None if anyone is None else embeddings.item_frame(text_list, scope, anyone)
        return shared, embeddings.item_frame(text_list, scope, fields)

    def alike(place: int) -> tuple[int | None, int | None]:
        text = texts[place]
        if len(text) > _MOST_OF_A_TEXT:
            return None, None
        plain = without_line_numbers(text)
        shared, own = frames()
        return (
            None if shared is None else number(shared.key(text.encode())),
            None if plain == text else number(own.key(plain.encode())),
        )

    return alike


def of_request(candidate: Candidate, scope: Scope, fields: Fields, body: bytes) -> Alike:
    """Return likewise what a request would be alike with that is stored as a whole."""

    def alike(_place: int) -> tuple[int | None, int | None]:
        if len(body) > MOST:
            return None, None
        anyone = _without_credentials(scope.credentials, fields)
        document = _plain(candidate.document, candidate.endpoint.prompt)
        plain = None
        if document != candidate.document:
            plain = number(cache_key(replace(candidate, document=document), scope, fields))
        return None if anyone is None else number(cache_key(candidate, scope, anyone)), plain

    return alike


def _without_credentials(rules: CredentialRules, fields: Fields) -> Fields | None:
    """Return the fields without those that carry credentials; None where there are none."""
    if not given(rules, fields):
        return None
    return tuple(line for line in fields if not given(rules, (line,)))


def _plain(document: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Return a document whose prompt has no line numbers, where it is a text or a list of messages."""
    found = document.get(prompt)
    if isinstance(found, str):
        return {**document, prompt: without_line_numbers(found)}
    if isinstance(found, list):
        return {**document, prompt: [_plain_message(message) for message in found]}
    return document


def _plain_message(message: Any) -> Any:
    if isinstance(message, dict) and isinstance(message.get("content"), str):
        return {**message, "content": without_line_numbers(message["content"])}
    return message


def needed(endpoint: Endpoint, policy: Policy | None, candidate: Candidate, *, streams: bool) -> Needed:
    """Return what a bypassed request needs to be let in; `streams`: streams are cached."""
    missing = ""
    if policy is Policy.OFF:
        missing = "deterministic" if is_deterministic(endpoint, candidate.document) else "always"
    elif policy is Policy.DETERMINISTIC and not is_deterministic(endpoint, candidate.document):
        missing = "always"
    return endpoint.operation, missing, candidate.stream and not streams


def let_in(endpoint: Endpoint, body: bytes, fields: Fields) -> Candidate | None:
    """Return a bypassed request as the candidate that it would be; None where nothing would make it one."""
    found = by_body(endpoint, body, policy_of=lambda _model: Policy.ALWAYS, streams=True, fields=fields)
    return found if isinstance(found, Candidate) else None


def key_of(candidate: Candidate, rules: CredentialRules, fields: Fields, namespace: str) -> int:
    """Return the key of a bypassed request, for which the digest of its model was not looked up."""
    return number(cache_key(candidate, Scope(digest="", version="", namespace=namespace, credentials=rules), fields))
