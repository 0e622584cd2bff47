"""The table of endpoints, and how a request is matched (gin's rules)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ollama_cache_proxy.simulator import (
    anthropic_routes,
    create,
    manage,
    native,
    openai_routes,
    responses_routes,
    transcription_routes,
)
from ollama_cache_proxy.simulator.call import Call

Handler = Callable[[Call], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method and path; a path that ends in `/:` has one more segment as its parameter.

    `inference` endpoints wait at the simulator's gate; a `late_body` is read by the endpoint itself, if at all.
    """

    method: str
    path: str
    handler: Handler
    inference: bool = False
    late_body: bool = False

    def parameter(self, path: str) -> str | None:
        """Return the parameter in a path, empty if there is none, None if the path does not match."""
        if not self.path.endswith("/:"):
            return "" if path == self.path else None
        prefix = self.path[:-1]
        rest = path[len(prefix) :]
        return rest if path.startswith(prefix) and rest and "/" not in rest else None


# The order of the methods is that of the Allow field.
ROUTES = (
    Route(method="HEAD", path="/", handler=manage.root),
    Route(method="HEAD", path="/api/version", handler=manage.version),
    Route(method="HEAD", path="/api/tags", handler=manage.tags),
    Route(method="HEAD", path="/api/blobs/:", handler=manage.blob_head),
    Route(method="GET", path="/", handler=manage.root),
    Route(method="GET", path="/api/version", handler=manage.version),
    Route(method="GET", path="/api/tags", handler=manage.tags),
    Route(method="GET", path="/api/ps", handler=manage.ps),
    Route(method="GET", path="/v1/models", handler=openai_routes.models),
    Route(method="GET", path="/v1/models/:", handler=openai_routes.model),
    Route(method="POST", path="/api/pull", handler=create.pull),
    Route(method="POST", path="/api/push", handler=create.push),
    Route(method="POST", path="/api/show", handler=manage.show),
    Route(method="POST", path="/api/create", handler=create.create),
    Route(method="POST", path="/api/blobs/:", handler=manage.blob_post, late_body=True),
    Route(method="POST", path="/api/copy", handler=manage.copy),
    Route(method="POST", path="/api/generate", handler=native.generate, inference=True),
    Route(method="POST", path="/api/chat", handler=native.chat, inference=True),
    Route(method="POST", path="/api/embed", handler=native.embed_inputs, inference=True),
    Route(method="POST", path="/api/embeddings", handler=native.embed_prompt, inference=True),
    Route(method="POST", path="/v1/chat/completions", handler=openai_routes.chat, inference=True),
    Route(method="POST", path="/v1/completions", handler=openai_routes.completions, inference=True),
    Route(method="POST", path="/v1/embeddings", handler=openai_routes.embeddings, inference=True),
    Route(method="POST", path="/v1/responses", handler=responses_routes.responses, inference=True),
    Route(method="POST", path="/v1/audio/transcriptions", handler=transcription_routes.transcriptions, inference=True),
    Route(method="POST", path="/v1/messages", handler=anthropic_routes.messages, inference=True),
    Route(method="DELETE", path="/api/delete", handler=manage.delete),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The result of matching: an endpoint, a `redirect` to a path, or neither; `allowed` has the path's methods."""

    route: Route | None = None
    parameter: str = ""
    redirect: str = ""
    allowed: tuple[str, ...] = ()


def match(method: str, path: str) -> Match:
    """Return the match for a method and a decoded path."""
    found = [(route, parameter) for route in ROUTES if (parameter := route.parameter(path)) is not None]
    for route, parameter in found:
        if route.method == method:
            return Match(route=route, parameter=parameter)
    other = path[:-1] if path.endswith("/") else f"{path}/"
    if path != "/" and any(route.method == method and route.parameter(other) is not None for route in ROUTES):
        return Match(redirect=other)
    return Match(allowed=tuple(route.method for route, _ in found))


def cleaned(path: bytes) -> bytes:
    """Return a path as the mux in front of gin wants it (`cleanPath` in Go's `net/http/server.go`)."""
    kept: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    return b"/" + b"/".join(kept) + (b"/" if path.endswith(b"/") and kept else b"")
