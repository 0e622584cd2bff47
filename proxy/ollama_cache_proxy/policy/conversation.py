"""What of a request tells which of several Ollamas it should go to: its model, and how its prompt begins.

Endpoints whose prompts Ollama caches count: of messages those that every later turn of the conversation begins with,
of a prompt its first characters. It is read here also where the request bypasses the cache, so nothing is taken for
granted: what cannot be read has no model, and goes to the first host.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy import large_documents, model_names, multipart, outline
from ollama_cache_proxy.policy.endpoints import Endpoint, Kind
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.prompts.prompt_parts import is_system
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import Steps

_BEGINNING: Final = 1024
"""Characters of a prompt that are taken for its beginning."""
_NAMES: Final = ("model", "name", "source")


@record
class Wanted:
    """What a request asks for."""

    model: str = ""
    """Its canonical name; empty where it has none that can be read."""
    conversation: bytes = b""
    """Stands for how its prompt begins; empty where that does not matter."""
    origin: str = ""
    """Likewise of the model that it is to be made from."""
    files: bool = False
    """Whether it names files that were uploaded before it."""


def wanted(endpoint: Endpoint, fields: Fields, body: bytes) -> Steps[Wanted]:
    """Return what a request with these fields and this body asks for; a large body is read in steps."""
    found = yield from members(endpoint, fields, body)
    return Wanted() if found is None else _wanted(endpoint, found)


def members(endpoint: Endpoint, fields: Fields, body: bytes) -> Steps[dict[str, Any] | None]:
    """Return the members of a body, read in steps where it is large; None where it is none that can be read soon."""
    read: Any = None
    if endpoint.multipart:
        read = yield from multipart.read_in_steps(fields, body, endpoint.known)
    elif outline.quick(body) is not None:
        with suppress(orjson.JSONDecodeError):
            read = orjson.loads(body)
    else:
        prompt = endpoint.prompt if endpoint.items else ""
        found = yield from large_documents.read(body, endpoint.known, prompt, lambda _: True)
        read = None if isinstance(found, Detail) else found[0]
    return read if isinstance(read, dict) else None


def _wanted(endpoint: Endpoint, read: dict[str, Any]) -> Wanted:
    named = (read.get(name) for name in _NAMES)
    name = next((name for name in named if isinstance(name, str) and name), "")
    origin = read.get("from")
    return Wanted(
        model=model_names.canonical(name) or "",
        origin=(model_names.canonical(origin) or "") if isinstance(origin, str) else "",
        conversation=_conversation(endpoint, read),
        files=bool(read.get("files") or read.get("adapters")),
    )


def _conversation(endpoint: Endpoint, read: dict[str, Any]) -> bytes:
    if endpoint.kind not in (Kind.CHAT, Kind.COMPLETION):
        return b""
    prompt = read.get(endpoint.prompt)
    begins: list[Any] = [read.get("system"), read.get("instructions")]
    if isinstance(prompt, str):
        begins.append(prompt[:_BEGINNING])
    elif isinstance(prompt, list) and prompt:
        begins += _first_messages(prompt)
    else:
        return b""
    try:
        return sha256(orjson.dumps(begins)).digest()
    except orjson.JSONEncodeError:  # nested deeper than it writes
        return b""


def _first_messages(messages: list[Any]) -> list[Any]:
    """Return the messages up to the first one that is not the system's."""
    for number, message in enumerate(messages, 1):
        if not is_system(message):
            return messages[:number]
    return messages
