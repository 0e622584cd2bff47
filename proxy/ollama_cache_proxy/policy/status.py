"""Where a response came from, and why: the closed vocabulary of header, metric and log.

`FwdReason` is RFC 9211, section 2.2; `Detail` is ours, and shows as the `detail` parameter (section 2.7).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ollama_cache_proxy.policy.reason import Reason
from ollama_cache_proxy.policy.record import record

CACHE_NAME: Final = "ollama-cache-proxy"


class Result(StrEnum):
    """How the cache handled a request: the value of `X-Cache`, and a label of the metrics."""

    HIT = "HIT"
    MISS = "MISS"
    BYPASS = "BYPASS"


class FwdReason(StrEnum):
    """Why a request went upstream (RFC 9211, section 2.2)."""

    BYPASS = "bypass"
    MISS = "miss"
    REQUEST = "request"
    STALE = "stale"


class Detail(Reason):
    """The one reason for a bypass, for not storing, or for a field of ours that was ignored, with its `meaning`."""

    # bypass: by what the request is
    ENDPOINT = "endpoint", "responses of this endpoint are never reused"
    SPELLING = "target-spelling", "the path is not spelled exactly as Ollama's, or has a query"
    OPT_IN = "opt-in", "the policy is `off`, as that of chats is by default: a setting turns it on"
    STREAM = "stream", "the response would be a stream, and `cache_streams` is off"
    CONTENT_ENCODING = "content-encoding", "the request's body is encoded"
    RANGE = "range", "the request has a `Range`"
    CONDITIONAL = "conditional", "the request has an `If-…` condition, which is for Ollama to judge"
    COOKIE = "cookie", "the request carries cookies"
    NO_STORE = "no-store", "the request says `no-store`, or its lifetime is 0"
    TOO_LARGE = "request-too-large", "the body is over `max_request_bytes`"
    BUFFERS_FULL = "buffers-full", "the request or its response would take what is in memory over `max_buffered_bytes`"
    # bypass: by what its body is
    SLOW_TO_READ = (
        "slow-to-read",
        "reading it would hold up others: very many values or names, over 16,384 texts, or one text of megabytes",
    )
    NOT_JSON = "not-json", "the body is not JSON that every parser reads alike"
    MULTIPART = "multipart", "a part of the body is unknown, twice or encoded, or not every parser reads it alike"
    NOT_AN_OBJECT = "not-an-object", "the body is JSON, but not an object"
    DUPLICATE_NAME = "duplicate-name", "a name occurs twice in one object"
    AMBIGUOUS_NAME = "ambiguous-name", "a name equals another, or one that Ollama knows, but for its case"
    NUMBER = "number", "a number that not every parser reads exactly: large ones, and the integer -0"
    DEPTH = "depth", "more than 64 levels"
    NO_MODEL = "no-model", "no model is named"
    NO_PROMPT = "no-prompt", "there is no prompt: the request loads or unloads a model"
    KEEP_ALIVE = "keep-alive", "`keep_alive` unloads the model, or is not valid"
    ENCODING_FORMAT = "encoding-format", "`encoding_format` is not valid"
    FIELD_TYPE = "field-type", "a field has a type that Ollama will refuse, or that is not known here"
    NOT_DETERMINISTIC = (
        "not-deterministic",
        "the endpoint's policy is `deterministic`, and there is neither a temperature of 0 nor a seed",
    )
    SAMPLING_MISPLACED = (
        "sampling-misplaced",
        "as `not-deterministic`; a temperature or seed stands beside `options`, where Ollama does not read it",
    )
    EXTERNAL_DATA = (
        "external-data",
        "the response would depend on more than request and model: a web search, a URL, a file, a stored conversation",
    )
    PREFIX_STABILISED = (
        "prefix-stabilised",
        "a rule of `stable_prefix` fits: a counter or mark in the beginning of the prompt is pinned",
    )
    # bypass: by what the model is
    REMOTE_MODEL = "remote-model", "the model runs on another machine"
    NO_DIGEST = "no-digest", "the model's digest is not known at the moment"
    DATED_TEMPLATE = (
        "dated-template",
        "`cache_dated_templates` is off, and the model's template may write the date, or is not known yet",
    )
    # not stored
    STATUS = "status", "not stored: the response is not a 200"
    CONTENT_TYPE = "content-type", "not stored: the response is not the JSON, text or stream that was asked for"
    RESPONSE_ENCODING = "response-encoding", "not stored: the response is encoded"
    SET_COOKIE = "set-cookie", "not stored: the response sets a cookie"
    CACHE_CONTROL = "cache-control", "not stored: the response's `Cache-Control` forbids it"
    EXPIRED = "expired", "not stored: by its own `Cache-Control`, `Expires` and `Age` the response is not fresh"
    VARY = "vary", "not stored: the response depends on request fields that are not in the key"
    INCOMPLETE = "incomplete", "not stored: the response is not a finished completion"
    ANSWER_ERROR = "answer-error", "not stored: the response holds an error"
    ANSWER_COUNT = (
        "answer-count",
        "not stored: not as many vectors as inputs, one that is empty or of another length, or a wrong `index`",
    )
    ANSWER_FORM = (
        "answer-form",
        "not stored: a list with a blank or ill-formed text, in a response with members that only it can have",
    )
    ANSWER_TOO_LARGE = (
        "answer-too-large",
        "not stored: over `max_entry_bytes` or `max_list_bytes`, or reading it would hold up others",
    )
    MODEL_CHANGED = "model-changed", "not stored: the model changed while Ollama answered"
    STORE_UNAVAILABLE = "store-unavailable", "not stored: the store did not answer the lookup, or takes no writes"
    READ_ONLY = "read-only", "not stored: the endpoint's policy is `read-only`"
    PURGED = "purged", "not stored: a purge that matches it began while Ollama answered"
    # perhaps stored: known when the stream has ended
    RECORDING = "recording", "a stream, stored if it ends as it should; log and metrics say if it did not"
    # stored, and not looked up
    WRITE_ONLY = "write-only", "stored, but not looked up: the endpoint's policy is `write-only`"
    # answered here
    ONLY_IF_CACHED = "only-if-cached", "nothing fresh is stored, and the request says `only-if-cached`: 504"
    HOST = "host", "the Host is not allowed on a loopback listener: 403"
    CLIENT_LEFT = "client-left", "the client closed before it got a response"
    WRONG_TOKEN = "wrong-token", "one of the proxy's own routes was asked for with a wrong admin token: 401"
    TOKEN_GUESSES = "token-guesses", "the same, after so many wrong ones that no more wait for their 401: 429"
    LOOP = "loop", "the request has been through this proxy before: 508"
    BUSY = "busy", "`max_misses` requests for the model are in flight: 503, to be asked again after a second"
    LANE_FULL = "lane-full", "`lanes_max_waiting` requests wait for Ollama: 503, to be asked again after a second"
    LANE_WAIT = "lane-wait", "it has waited for Ollama for `lanes_max_wait`: 503, to be asked again after a second"
    BODY_TIMEOUT = "body-timeout", "no more of the request's body came within `body_timeout`: 408"
    # a field of ours with a value that is not understood
    TTL_IGNORED = "ttl-ignored", "`X-Cache-TTL` is not a number, or over `max_ttl`; the usual lifetime holds"
    DIRECTIVES_IGNORED = (
        "directives-ignored",
        "a stream's `no-cache` was not heard: `ignore_no_cache` says so",
    )
    # out of a pack
    IMPORTED = "imported", "a hit that came out of a pack (`import`), or a list with such a text in it"
    # lists of embeddings
    ITEMS = "items", "some texts of a list were stored (`known=3; of=5`); Ollama was asked for the others only"
    ESTIMATED_USAGE = (
        "estimated-usage",
        "a part of the token count is apportioned: that of texts which were only ever asked in lists",
    )


LET_IN: Final = frozenset({Detail.OPT_IN, Detail.STREAM, Detail.NOT_DETERMINISTIC})
"""The reasons for a bypass that a setting takes away."""


@record
class CacheStatus:
    """One member of the Cache-Status list."""

    result: Result
    fwd: FwdReason | None = None
    stored: bool = False
    collapsed: bool = False
    ttl: int | None = None
    """Seconds, of a hit or of what is being stored."""
    detail: Detail | None = None
    known: int = 0
    """How many texts of a list were in the store."""
    of: int = 0
    """How many texts the list has."""

    def render(self) -> bytes:
        """Return the value of the field, with the parameters in the order of RFC 9211, section 2."""
        parts = [CACHE_NAME]
        if self.result is Result.HIT and self.fwd is None:
            parts.append("hit")
        if self.fwd is not None:
            parts.append(f"fwd={self.fwd}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        if self.ttl is not None:
            parts.append(f"ttl={self.ttl}")
        if self.detail is not None:
            parts.append(f"detail={self.detail}")
        if 0 < self.known < self.of:
            parts.append(f"known={self.known}; of={self.of}")
        return "; ".join(parts).encode()


def bypass(detail: Detail) -> CacheStatus:
    """Return the status of a bypass, for this reason; always the same object."""
    return _BYPASSES[detail]


_BYPASSES: Final = {detail: CacheStatus(result=Result.BYPASS, fwd=FwdReason.BYPASS, detail=detail) for detail in Detail}
