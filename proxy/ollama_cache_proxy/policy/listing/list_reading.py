"""What a response to a list is good for: its vectors, in whichever form, or only the whole of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, assert_never

from ollama_cache_proxy.policy import storing
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable, objects
from ollama_cache_proxy.policy.embeddings import TextList
from ollama_cache_proxy.policy.listing import any_form, own_form
from ollama_cache_proxy.policy.listing.any_form import Uncertain, WholeOnly
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import sound
from ollama_cache_proxy.policy.messages import ResponseHead, first
from ollama_cache_proxy.policy.status import Detail

Reading: TypeAlias = Cut | Storable | Detail
"""Its vectors; that it may be stored as it is and no other way; or why nothing of it may."""


def read(  # noqa: PLR0913 - what was asked, what came, and how much of it to check
    text_list: TextList, count: int, head: ResponseHead, body: bytes, *, as_base64: bool, check: bool = True
) -> Reading:
    """Return what a complete 200 response to a request for so many texts is good for, whatever its head forbids.

    `as_base64` says that base64 was asked for. `check` means to check numbers in Ollama's own form, too.
    """
    cut = own_form.split(text_list, count, body, as_base64=as_base64)
    if cut is not None and (not check or sound(cut.vectors, cut.numbers)):
        return cut
    media_type = first(head.fields, b"content-type") or b""
    found = any_form.read(text_list.candidate.endpoint.vectors, count, body, media_type)
    if isinstance(found, Cut):
        return found
    verdict = storing.by_body(text_list.candidate, body, items=count)
    if isinstance(verdict, NotStorable):
        return verdict.detail
    match found:
        case WholeOnly():
            return Detail.ANSWER_FORM if text_list.odd else verdict
        case Uncertain():
            return Detail.ANSWER_COUNT
        case never:
            assert_never(never)


def has_vectors(text_list: TextList, chunks: Iterable[bytes]) -> bool:
    """Return whether a response has vectors, whatever else it has: beside an error, they are those of its request."""
    read = objects((b"".join(chunks),))
    return bool(read) and bool(read[0].get(text_list.candidate.endpoint.vectors))
