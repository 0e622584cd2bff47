"""What Ollama is asked for on behalf of a list: what the client sent, or the texts that are missing."""

from __future__ import annotations

from collections.abc import Mapping

from ollama_cache_proxy.policy.embeddings import TextList
from ollama_cache_proxy.policy.listing.items import Item
from ollama_cache_proxy.policy.listing.joining import joined_size
from ollama_cache_proxy.policy.listing.list_forms import Forms
from ollama_cache_proxy.policy.record import record


@record
class Plan:
    """A request for these texts. With `numbers`, it asks for numbers also where the client wants base64."""

    texts: tuple[str, ...]
    numbers: bool


def plan(
    text_list: TextList, known: Mapping[str, Item], missing: tuple[str, ...], forms: Forms, limit: int
) -> Plan | None:
    """Return what to ask for, None for what the client sent, so that no list is asked for twice.

    Where nothing is known, the client's own request has the response with Ollama's own token count. A response over
    `limit` bytes is not joined. Base64 is written here only where the source is known to write Ollama's own form.
    """
    if not missing or forms.whole_lists:
        return None
    if not known:
        return Plan(texts=text_list.texts, numbers=True) if text_list.base64 and forms.only_own else None
    if joined_size(text_list, {text: item.vector for text, item in known.items()}) > limit:
        return None
    return Plan(texts=missing, numbers=not any(item.frame for item in known.values()))


def in_parts(
    listing: TextList, known: Mapping[str, Item], planned: Plan | None, missing: tuple[str, ...], forms: Forms
) -> tuple[str, ...]:
    """Return the texts of a list that may be asked for part by part, none where it has to be asked for at once.

    Parts join byte for byte where the source writes Ollama's own form. Nothing is known of what a list with odd texts
    would have been answered. Without known texts, one that occurs twice is asked for twice: it counts twice.
    """
    if not (missing and forms.only_own) or forms.whole_lists or listing.odd:
        return ()
    if planned is not None:
        return planned.texts if planned.numbers else ()
    return () if known else listing.texts
