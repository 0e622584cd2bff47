"""What a response to a list is good for: its vectors, in whichever form, or only the whole of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias, assert_never

from ollama_cache_proxy.policy import storing
from ollama_cache_proxy.policy.dialects.dialect import NotStorable, Storable, objects
from ollama_cache_proxy.policy.embeddings import TextList
from ollama_cache_proxy.policy.listing import any_form, own_form
from ollama_cache_proxy.policy.listing.any_form import Uncertain, WholeOnly
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import sound_in_steps
from ollama_cache_proxy.policy.messages import ResponseHead, first
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import Steps, finish

Reading: TypeAlias = Cut | Storable | Detail
"""Its vectors; that it may be stored as it is and no other way; or why nothing of it may."""


def read(  # noqa: PLR0913 - what was asked, what came, and how much of it to check
    text_list: TextList, count: int, head: ResponseHead, body: bytes, *, as_base64: bool, check: bool = True
) -> Reading:
    """Return what a complete 200 response to a request for so many texts is good for, whatever its head forbids.

    `as_base64` says that base64 was asked for. `check` means to check numbers in Ollama's own form, too.
    """
    return finish(read_in_steps(text_list, count, head, body, as_base64=as_base64, check=check))


def read_in_steps(  # noqa: PLR0913 - likewise
    text_list: TextList, count: int, head: ResponseHead, body: bytes, *, as_base64: bool, check: bool
) -> Steps[Reading]:
    """Return what `read` does, in steps. Of a large response that cannot be cut nothing may be stored."""
    cut = yield from own_form.split_in_steps(text_list, count, body, as_base64=as_base64)
    if cut is not None and (not check or (yield from sound_in_steps(cut.vectors, cut.numbers))):
        return cut
    media_type = first(head.fields, b"content-type") or b""
    found = yield from any_form.read_in_steps(text_list.candidate.endpoint.vectors, count, body, media_type)
    if isinstance(found, Cut):
        return found
    if len(body) > LARGEST_WHOLE:
        return Detail.ANSWER_TOO_LARGE
    yield
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


LARGEST_WHOLE: Final = 1 << 18
"""Bytes of a response that is read whole, in one go: numbers alone take 10 ms in so many."""


def has_vectors(text_list: TextList, chunks: Iterable[bytes]) -> bool:
    """Return whether a response has vectors, whatever else it has: beside an error, they are those of its request."""
    read = objects((b"".join(chunks),))
    return bool(read) and bool(read[0].get(text_list.candidate.endpoint.vectors))
