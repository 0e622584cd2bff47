"""Which forms of lists an upstream writes, learnt from its own responses, in one process.

The upstream may be Ollama, or something before it that writes JSON anew; one model may be served otherwise than
another. What is not known yet is looked up in both forms, and asked as the client sent it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias

from ollama_cache_proxy.policy.record import record

Source: TypeAlias = tuple[str, str, str]
"""The model's digest, Ollama's version, and the operation."""

_SOURCES: Final = 256
_WHOLE_LISTS: Final = 64


@record
class Forms:
    """What is known of one source."""

    own: bool = False
    """Whether it has written Ollama's own form (own_form.py)."""
    other: bool = False
    """Whether it has written any other (any_form.py)."""
    whole_lists: int = 0
    """How many lists are still to be asked as a whole, since a response to a part of one could not be joined."""

    @property
    def only_own(self) -> bool:
        """Whether it has written Ollama's own form and nothing else."""
        return self.own and not self.other

    @property
    def only_other(self) -> bool:
        """Whether it has never written Ollama's own form, but others."""
        return self.other and not self.own


class KnownForms:
    """The forms of each source, for a bounded number of them; the one of which nothing was learnt for longest goes."""

    def __init__(self) -> None:
        self._forms: dict[Source, Forms] = {}

    def of(self, source: Source) -> Forms:
        """Return what is known of a source."""
        return self._forms.get(source, _NOTHING)

    def note(self, source: Source, *, own: bool) -> None:
        """Note that a response had Ollama's own form, or another."""
        before = self.of(source)
        if before.own if own else before.other:
            return
        self._set(source, replace(before, own=before.own or own, other=before.other or not own))

    def note_not_joined(self, source: Source) -> None:
        """Note that a response to a part of a list could not be joined with what was known."""
        self._set(source, replace(self.of(source), whole_lists=_WHOLE_LISTS))

    def count_list(self, source: Source) -> None:
        """Note that a list is asked for."""
        before = self.of(source)
        if before.whole_lists:
            self._set(source, replace(before, whole_lists=before.whole_lists - 1))

    def _set(self, source: Source, forms: Forms) -> None:
        self._forms.pop(source, None)
        self._forms[source] = forms
        if len(self._forms) > _SOURCES:
            del self._forms[next(iter(self._forms))]


_NOTHING: Final = Forms()
