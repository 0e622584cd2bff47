"""Joining the vectors of a list: those that are known, and those of a response to the part that was missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from ollama_cache_proxy.policy.dialects.dialect import Measures, Text
from ollama_cache_proxy.policy.embeddings import TextList
from ollama_cache_proxy.policy.listing import any_form, own_form
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import Item, is_base64
from ollama_cache_proxy.policy.listing.token_shares import ADDED, shares_in_steps
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.steps import A_STEP, Steps, finish


@record
class Part:
    """A response to a request for some texts of a list, or for all of them."""

    texts: tuple[str, ...]
    cut: Cut
    added: int = ADDED
    """The tokens that the model adds to each text (token_shares.py)."""

    def items(self) -> dict[str, Item]:
        """Return the item of each text."""
        return finish(self.items_in_steps())

    def items_in_steps(self) -> Steps[dict[str, Item]]:
        """Return what `items` does, in steps."""
        cut = self.cut
        tokens: Sequence[int | None] = [None] * len(self.texts)
        if cut.tokens is not None:
            tokens = yield from shares_in_steps(cut.tokens, self.texts, self.added)
            yield
        found: dict[str, Item] = {}
        for text, vector, count in zip(self.texts, cut.vectors, tokens, strict=True):
            found.setdefault(
                text,
                Item(
                    vector=vector,
                    numbers=cut.numbers,
                    tokens=count,
                    exact=len(self.texts) == 1 or cut.tokens is None,
                    total_duration=cut.total_duration,
                    load_duration=cut.load_duration,
                    frame=cut.frame,
                ),
            )
            if not len(found) % A_STEP:
                yield
        return found


@record
class Joined:
    """A joined response."""

    body: bytes
    tokens: int | None
    """None where it tells none."""
    estimated: bool
    """Whether that count is partly apportioned."""


def same_length(known: Mapping[str, Item], cut: Cut) -> bool:
    """Return whether all vectors have one length, as those of one model have."""
    return all(item.numbers == cut.numbers for item in known.values())


def joinable(known: Mapping[str, Item], cut: Cut, *, own: bool) -> bool:
    """Return whether a response has the form that its request was made for: Ollama's `own`, or that of what is known.

    Vectors of another length are of another model, whose form says nothing.
    """
    same = not (own and cut.frame) and all(item.frame == cut.frame for item in known.values())
    return same or not same_length(known, cut)


def usable(text_list: TextList, items: Mapping[str, Item], *, other: bool) -> dict[str, Item]:
    """Return the items that can be joined for this list, from those that were stored under keys of one kind.

    Vectors of two lengths are of two models, one of which has just been replaced unnoticed: then none can. Of several
    frames, that which most texts have counts. Base64 is not written as numbers.
    """
    if other:
        fit = {text: item for text, item in items.items() if item.frame}
    else:
        coded = text_list.base64
        fit = {text: item for text, item in items.items() if not item.frame and (coded or not is_base64(item.vector))}
    if len({item.numbers for item in fit.values()}) > 1:
        return {}
    if other and fit:
        ((frame, _),) = Counter(item.frame for item in fit.values()).most_common(1)
        fit = {text: item for text, item in fit.items() if item.frame == frame}
    return fit


_ROW_BYTES: Final = 64
"""Bytes around one vector in a response, about."""


def joined_size(text_list: TextList, vectors: Mapping[str, Text]) -> int:
    """Return about how many bytes the joined response has, before it is built: a text may occur very often.

    A text without a vector is taken to have one like the longest.
    """
    sizes = {text: len(vector) + _ROW_BYTES for text, vector in vectors.items()}
    longest = max(sizes.values(), default=0)
    return sum(sizes.get(text, longest) for text in text_list.texts)


def join(text_list: TextList, known: Mapping[str, Item], part: Part | None = None) -> Joined:
    """Return the response for the client's texts, in the form of their items.

    For every text there must be an item, or a vector in `part`. The durations are those of that request to Ollama;
    without one, the response tells those of the first text's item.
    """
    return finish(joined_in_steps(text_list, known, part))


def joined_in_steps(text_list: TextList, known: Mapping[str, Item], part: Part | None = None) -> Steps[Joined]:
    """Return what `join` does, in steps."""
    vectors = {text: item.vector for text, item in known.items()}
    if part is None:
        first = known[text_list.texts[0]]
        frame, numbers, total, load = first.frame, first.numbers, first.total_duration, first.load_duration
    else:
        vectors |= zip(part.texts, part.cut.vectors, strict=True)
        cut = part.cut
        frame, numbers, total, load = cut.frame, cut.numbers, cut.total_duration, cut.load_duration
    yield
    tokens, estimated = _tokens(text_list, known, part)
    yield
    ordered = tuple(vectors[text] for text in text_list.texts)
    yield
    if frame:
        whole = Cut(
            vectors=ordered, numbers=numbers, tokens=tokens, total_duration=total, load_duration=load, frame=frame
        )
        body = yield from any_form.rendered_in_steps(whole)
    else:
        measures = Measures(tokens=tokens or 0, total_duration=total, load_duration=load)
        body = yield from own_form.rendered_in_steps(text_list, ordered, measures)
    return Joined(body=body, tokens=tokens, estimated=estimated)


def _tokens(text_list: TextList, known: Mapping[str, Item], part: Part | None) -> tuple[int | None, bool]:
    """Return the token count of all texts, and whether it is partly apportioned.

    What the part told counts as a whole; only a text that occurs more than once, and was asked once, takes a share.
    """
    told = [*(item.tokens for item in known.values()), *([] if part is None else [part.cut.tokens])]
    if None in told:
        return None, False
    if part is not None and part.texts == text_list.texts:
        return part.cut.tokens, False
    sum_of_known, estimated = 0, False
    for text in text_list.texts:
        item = known.get(text)
        if item is not None:
            sum_of_known += item.tokens or 0
            estimated = estimated or not item.exact
    if part is None:
        return sum_of_known, estimated
    again = Counter(text for text in text_list.texts if text not in known)
    again.subtract(part.texts)
    repeated = {text: times for text, times in again.items() if times}
    if not repeated:
        return sum_of_known + (part.cut.tokens or 0), estimated
    items = part.items()
    more = sum(times * (items[text].tokens or 0) for text, times in repeated.items())
    return sum_of_known + (part.cut.tokens or 0) + more, estimated or len(part.texts) > 1
