"""Names of models: `[host/][namespace/]model[:tag]`, with defaults, compared without regard to case."""

from __future__ import annotations

import re
from dataclasses import dataclass

HOST = "registry.ollama.ai"
NAMESPACE = "library"
TAG = "latest"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_NAMESPACE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_HOST_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A complete name; its parts are spelled as given."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The same for all spellings of one model."""
        return (self.host.lower(), self.namespace.lower(), self.model.lower(), self.tag.lower())

    @property
    def full(self) -> str:
        """The whole name, with defaults."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def shortest(self) -> str:
        """The name as lists show it: without defaults, but with the tag."""
        if self.host.lower() != HOST:
            return self.full
        prefix = "" if self.namespace.lower() == NAMESPACE else f"{self.namespace}/"
        return f"{prefix}{self.model}:{self.tag}"


def known(text: str) -> Name:
    """Return the complete name in a text. Raise ValueError if it is not valid."""
    name = parse(text)
    if name is None:
        message = f"not a name of a model: {text!r}"
        raise ValueError(message)
    return name


def parse(text: str) -> Name | None:
    """Return the complete name in a text, None if it is not valid."""
    rest, tag = text, TAG
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    # A double slash is allowed only after a scheme.
    rest = re.sub(r"^[a-z]+://", "", rest)
    *before, model = rest.rsplit("/", 2)
    namespace = before[-1] if before else NAMESPACE
    host = before[0] if len(before) > 1 else HOST
    valid = (
        _PART.fullmatch(model)
        and _PART.fullmatch(tag)
        and _NAMESPACE_PART.fullmatch(namespace)
        and _HOST_PART.fullmatch(host)
    )
    return Name(host=host, namespace=namespace, model=model, tag=tag) if valid else None
