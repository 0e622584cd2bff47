"""Which of several Ollamas may answer a question, and which one did. With one Ollama there is nothing of this."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Hosts:
    """The hosts that a question is for; one is made for each question, and goes with its requests."""

    names: frozenset[str]
    """Those that have the model under one identity."""
    model: str
    """Its canonical name."""
    answered: str = ""
    """The host that has given the latest response; empty before that."""

    @property
    def kept_to(self) -> bool:
        """Whether no other host has answered, so that the response belongs to the identity of these."""
        return not self.answered or self.answered in self.names

    def again(self) -> Hosts:
        """Return the same hosts for another request."""
        return Hosts(self.names, self.model)
