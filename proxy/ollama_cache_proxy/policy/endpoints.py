"""The table of Ollama's endpoints: what each one is, and what of it may be reused.

A request that matches no row is `other`, a bypass. Field names are those of Ollama's request types
(`api/types.go`, `openai/openai.go`, `openai/responses.go`, `anthropic/anthropic.go`, 0.24 to 0.34.4); they serve to
find names that Ollama would take for one of them.
"""

from __future__ import annotations

from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

from ollama_cache_proxy.policy.dialects import anthropic, ollama, openai, responses, token_counts, transcriptions
from ollama_cache_proxy.policy.dialects.dialect import Dialect
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.target import cleaned


class Kind(Enum):
    """What the responses of an endpoint contain."""

    COMPLETION = "completion"
    CHAT = "chat"
    EMBEDDING = "embedding"
    NONE = "none"


class Policy(Enum):
    """What the cache does for an endpoint."""

    OFF = "off"
    """Bypass."""
    ALWAYS = "always"
    """Look up and store."""
    DETERMINISTIC = "deterministic"
    """Look up and store where the request asks for the same response each time, else bypass."""
    READ_ONLY = "read-only"
    """Look up, store nothing."""
    WRITE_ONLY = "write-only"
    """Store, look nothing up."""


@record
class Endpoint:
    """One of Ollama's endpoints. Names of fields are in lower case, unless Ollama's own are not."""

    method: str
    path: str
    also: frozenset[str] = frozenset()
    """Other targets that are taken for the path: clients always send them, and Ollama ignores a query."""
    operation: str
    """Its name in keys, metrics, log and settings."""
    dialect: Dialect = ollama
    """The wire form that it speaks."""
    kind: Kind = Kind.NONE
    policy: Policy | None = None
    """The policy without a setting; None: its responses can never be reused."""
    rows: str = ""
    """The member of its responses that lists models, which is merged where there are several Ollamas."""
    stream_default: bool | None = None
    """What an absent `stream` means; None: the endpoint never streams."""
    deterministic: bool = False
    """Whether every request asks for the same response each time."""
    sampling: frozenset[str] = frozenset({"temperature", "seed"})
    """The sampling options that Ollama reads and that can ask for the same response each time."""
    prompt: str = ""
    """The field with the prompt, the messages or the texts."""
    forms: tuple[type, ...] = (str,)
    """The types of the prompt that Ollama reads: a text, a list of texts (embeddings) or of messages."""
    multipart: bool = False
    """Whether the request's body is multipart/form-data, not JSON."""
    text: str = ""
    """The field whose value `text` asks for a response in plain text; empty: there is none."""
    options: str = ""
    """The member with the sampling options, whose names are sorted too; empty: they are at the top level."""
    inert: frozenset[str] = frozenset()
    """Fields on which no response depends."""
    known: frozenset[str] = frozenset()
    """All the names that Ollama reads at the top level."""
    external: frozenset[str] = frozenset()
    """Fields that tie the response to what is outside of the request, or that ask for more than a response."""
    vectors: str = ""
    """The member of a response with the vectors."""
    items: str = ""
    """The name under which texts are stored one by one; endpoints of one name share them. Empty: none are."""
    unread: frozenset[str] = frozenset()
    """Fields that another endpoint with the same items reads, and this one does not."""
    template: str = ""
    """The field with a template that takes the place of the model's; empty: there is none."""
    raw: str = ""
    """The field that is true where the prompt is put into no template; empty: there is none."""
    changes: tuple[str, ...] = ()
    """Fields that may name the model that a success changes; the first one in the request counts."""
    files: bool = False
    """Whether Ollama works on the files of models; see `may_be_silent`."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAMING: Final = _names("model name source destination")
_TEMPERATURE: Final = _names("temperature")
_ANTHROPIC: Final = _names("container mcp_servers thread diagnostics fallbacks")

OTHER: Final = Endpoint(method="", path="", operation="other")
_OTHERS: Final = (
    ("/v1/messages/", Endpoint(method="", path="", operation=OTHER.operation, dialect=anthropic)),
    ("/v1/", Endpoint(method="", path="", operation=OTHER.operation, dialect=openai)),
    ("", OTHER),
)
"""What a path stands for that is no row, by its beginning: errors of the proxy's own have the form of their API."""

ENDPOINTS: Final = (
    Endpoint(
        method="POST",
        path="/api/generate",
        operation="generate",
        kind=Kind.COMPLETION,
        policy=Policy.ALWAYS,
        stream_default=True,
        prompt="prompt",
        options="options",
        inert=_names("keep_alive stream"),
        known=_names(
            "model prompt suffix system template context stream raw format keep_alive images options think truncate"
            " shift _debug_render_only logprobs top_logprobs width height steps",
        ),
        template="template",
        raw="raw",
    ),
    Endpoint(
        method="POST",
        path="/api/embed",
        operation="embed",
        kind=Kind.EMBEDDING,
        policy=Policy.ALWAYS,
        deterministic=True,
        prompt="input",
        forms=(str, list),
        options="options",
        inert=_names("keep_alive"),
        known=_names("model input keep_alive truncate dimensions options"),
        vectors="embeddings",
        items="embed",
    ),
    Endpoint(
        method="POST",
        path="/api/embeddings",
        operation="embeddings",
        kind=Kind.EMBEDDING,
        policy=Policy.ALWAYS,
        deterministic=True,
        prompt="prompt",
        options="options",
        inert=_names("keep_alive"),
        known=_names("model prompt keep_alive options"),
        vectors="embedding",
    ),
    Endpoint(
        method="POST",
        path="/v1/embeddings",
        operation="v1-embeddings",
        dialect=openai,
        kind=Kind.EMBEDDING,
        policy=Policy.ALWAYS,
        deterministic=True,
        prompt="input",
        forms=(str, list),
        inert=_names("user"),
        known=_names("model input dimensions encoding_format"),
        vectors="data",
        items="embed",
        unread=_names("truncate options keep_alive encoding_format"),
    ),
    Endpoint(
        method="POST",
        path="/api/chat",
        operation="chat",
        kind=Kind.CHAT,
        policy=Policy.OFF,
        stream_default=True,
        prompt="messages",
        forms=(list,),
        options="options",
        inert=_names("keep_alive stream"),
        known=_names(
            "model messages stream format keep_alive tools options think truncate shift _debug_render_only logprobs"
            " top_logprobs",
        ),
    ),
    Endpoint(
        method="POST",
        path="/v1/chat/completions",
        operation="v1-chat",
        dialect=openai,
        kind=Kind.CHAT,
        policy=Policy.OFF,
        stream_default=False,
        prompt="messages",
        forms=(list,),
        inert=_names("stream"),
        known=_names(
            "model messages stream stream_options max_tokens seed stop temperature frequency_penalty presence_penalty"
            " top_p response_format tools reasoning reasoning_effort logprobs top_logprobs _debug_render_only",
        ),
        external=_names("web_search_options"),
    ),
    Endpoint(
        method="POST",
        path="/v1/completions",
        operation="v1-completions",
        dialect=openai,
        kind=Kind.COMPLETION,
        policy=Policy.OFF,
        stream_default=False,
        prompt="prompt",
        inert=_names("stream"),
        known=_names(
            "model prompt frequency_penalty max_tokens presence_penalty seed stop stream stream_options temperature"
            " top_p suffix logprobs _debug_render_only",
        ),
    ),
    Endpoint(
        method="POST",
        path="/v1/responses",
        operation="v1-responses",
        dialect=responses,
        kind=Kind.CHAT,
        policy=Policy.OFF,
        stream_default=False,
        sampling=_TEMPERATURE,
        prompt="input",
        forms=(str, list),
        inert=_names("stream"),
        known=_names(
            "model background conversation include input instructions max_output_tokens reasoning temperature text"
            " think top_p truncation tools stream",
        ),
        external=_names("previous_response_id conversation prompt store background"),
    ),
    Endpoint(
        method="POST",
        path="/v1/messages",
        also=frozenset({"/v1/messages?beta=true"}),
        operation="v1-messages",
        dialect=anthropic,
        kind=Kind.CHAT,
        policy=Policy.OFF,
        stream_default=False,
        sampling=_TEMPERATURE,
        prompt="messages",
        forms=(list,),
        inert=_names("stream"),
        known=_names(
            "model max_tokens messages system stream temperature top_p top_k stop_sequences tools tool_choice thinking"
            " metadata output_config",
        ),
        external=_ANTHROPIC,
    ),
    Endpoint(
        method="POST",
        path="/v1/messages/count_tokens",
        also=frozenset({"/v1/messages/count_tokens?beta=true"}),
        operation="v1-count-tokens",
        dialect=token_counts,
        kind=Kind.CHAT,
        policy=Policy.OFF,
        deterministic=True,
        prompt="messages",
        forms=(list,),
        known=_names("model messages system tools thinking"),
        external=_ANTHROPIC,
    ),
    Endpoint(
        method="POST",
        path="/v1/audio/transcriptions",
        operation="v1-transcriptions",
        dialect=transcriptions,
        kind=Kind.COMPLETION,
        policy=Policy.OFF,
        deterministic=True,
        prompt="file",
        forms=(dict,),
        multipart=True,
        text="response_format",
        known=_names("file model language prompt response_format"),
    ),
    Endpoint(method="POST", path="/api/pull", operation="pull", files=True, known=_NAMING, changes=("model", "name")),
    Endpoint(
        method="POST", path="/api/create", operation="create", files=True, known=_NAMING, changes=("model", "name")
    ),
    Endpoint(method="POST", path="/api/copy", operation="copy", files=True, known=_NAMING, changes=("destination",)),
    Endpoint(
        method="DELETE", path="/api/delete", operation="delete", files=True, known=_NAMING, changes=("model", "name")
    ),
    Endpoint(method="POST", path="/api/push", operation="push", files=True, stream_default=True),
    Endpoint(method="POST", path="/api/show", operation="show"),
    Endpoint(method="GET", path="/api/tags", operation="tags", rows="models"),
    Endpoint(method="GET", path="/api/ps", operation="ps", rows="models"),
    Endpoint(method="GET", path="/api/version", operation="version"),
    Endpoint(method="GET", path="/v1/models", operation="v1-models", dialect=openai, rows="data"),
)

REUSABLE: Final = tuple(row for row in ENDPOINTS if row.policy is not None)
"""The endpoints whose policy is a setting."""

_CHANGES: Final = {(row.method, row.path): row for row in ENDPOINTS if row.changes}
_BY_ROUTE: Final = {(row.method, target): row for row in ENDPOINTS for target in (row.path, *row.also)}


def find(method: str, target: str) -> tuple[Endpoint, bool]:
    """Return the row that Ollama's router would choose, and whether the target is exactly its path or one of `also`.

    The path is decoded and its query ignored, as Ollama does; only an exact spelling makes a candidate. A change of a
    model is also known by a path with empty or dot segments: Ollama redirects it (`cleanPath` in Go's
    `net/http/server.go`), but a server in front of it may merge them.
    """
    exact = _BY_ROUTE.get((method, target))
    if exact is not None:
        return exact, True
    path = unquote_to_bytes(target.partition("?")[0]).decode("latin-1")
    row = _BY_ROUTE.get((method, path)) or _CHANGES.get((method, cleaned(path)))
    return row or next(row for begin, row in _OTHERS if path.startswith(begin)), False


def is_blob(target: str) -> bool:
    """Return whether a target is a file from which models are made."""
    return unquote_to_bytes(target.partition("?")[0]).startswith(b"/api/blobs/")


def may_be_silent(endpoint: Endpoint, method: str, target: str) -> bool:
    """Return whether Ollama may send nothing, not even a head, until it is done with gigabytes of files.

    It does so for `/api/create` since 0.33, and for whatever is not to be streamed.
    """
    return endpoint.files or (method == "POST" and is_blob(target))


_HEADS: Final = {"/": ("HEAD", "GET"), "/api/version": ("HEAD", "GET"), "/api/tags": ("HEAD", "GET")}


def allow(method: str, target: str) -> str:
    """Return the methods that Ollama allows for a target of which it has no such one; empty if it has, or has none."""
    path = unquote_to_bytes(target.partition("?")[0]).decode("latin-1")
    methods = _HEADS.get(path) or tuple(row.method for row in ENDPOINTS if row.path == path)
    return "" if method in methods else ", ".join(methods)


def is_other(endpoint: Endpoint) -> bool:
    """Return whether this is no row of the table."""
    return endpoint.operation == OTHER.operation
