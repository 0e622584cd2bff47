"""Why an answer came from where it came: the closed vocabulary of header, metric and log.

`FwdReason` is RFC 9211, section 2.2; `Detail` is ours, and shows as the `detail` parameter (section 2.7).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ollama_cache_proxy.policy.record import record

CACHE_NAME: Final = "ollama-cache-proxy"


class Result(StrEnum):
    """What `X-Cache` says and what the counters count."""

    HIT = "HIT"
    MISS = "MISS"
    BYPASS = "BYPASS"


class FwdReason(StrEnum):
    """Why a request went upstream (RFC 9211, section 2.2)."""

    BYPASS = "bypass"
    MISS = "miss"
    REQUEST = "request"
    STALE = "stale"


class Detail(StrEnum):
    """The one reason for a bypass, for not storing, or for a field of ours that was ignored."""

    # bypass: by what the request is
    ENDPOINT = "endpoint"
    SPELLING = "target-spelling"
    OPT_IN = "opt-in"
    STREAM = "stream"
    CONTENT_ENCODING = "content-encoding"
    RANGE = "range"
    COOKIE = "cookie"
    NO_STORE = "no-store"
    TOO_LARGE = "request-too-large"
    BUFFERS_FULL = "buffers-full"
    # bypass: by what its body is
    NOT_JSON = "not-json"
    NOT_AN_OBJECT = "not-an-object"
    DUPLICATE_NAME = "duplicate-name"
    AMBIGUOUS_NAME = "ambiguous-name"
    NUMBER = "number"
    DEPTH = "depth"
    NO_MODEL = "no-model"
    NO_PROMPT = "no-prompt"
    KEEP_ALIVE = "keep-alive"
    ENCODING_FORMAT = "encoding-format"
    FIELD_TYPE = "field-type"
    NOT_DETERMINISTIC = "not-deterministic"
    # bypass: by what the model is
    REMOTE_MODEL = "remote-model"
    NO_DIGEST = "no-digest"
    # not stored
    STATUS = "status"
    CONTENT_TYPE = "content-type"
    RESPONSE_ENCODING = "response-encoding"
    SET_COOKIE = "set-cookie"
    CACHE_CONTROL = "cache-control"
    VARY = "vary"
    INCOMPLETE = "incomplete"
    ANSWER_ERROR = "answer-error"
    ANSWER_COUNT = "answer-count"
    ANSWER_TOO_LARGE = "answer-too-large"
    MODEL_CHANGED = "model-changed"
    STORE_UNAVAILABLE = "store-unavailable"
    READ_ONLY = "read-only"
    PURGED = "purged"
    # perhaps stored: that shows when a stream has ended
    RECORDING = "recording"
    # stored, and not looked up
    WRITE_ONLY = "write-only"
    # answered here
    ONLY_IF_CACHED = "only-if-cached"
    HOST = "host"
    CLIENT_LEFT = "client-left"
    LOOP = "loop"
    BUSY = "busy"
    BODY_TIMEOUT = "body-timeout"
    # a field of ours with a value that is not understood
    TTL_IGNORED = "ttl-ignored"
    # of a list of embeddings
    ITEMS = "items"
    ESTIMATED_USAGE = "estimated-usage"


@record
class CacheStatus:
    """One member of the Cache-Status list.

    `ttl` is in seconds, of a hit or of what is being stored. `known` and `of` count the texts of a list of which some
    were known.
    """

    result: Result
    fwd: FwdReason | None = None
    stored: bool = False
    collapsed: bool = False
    ttl: int | None = None
    detail: Detail | None = None
    known: int = 0
    of: int = 0

    def render(self) -> bytes:
        """Give the value of the field, as RFC 9211, section 2, orders its parameters."""
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
    """Say that the cache had no part in the answer, and why."""
    return CacheStatus(result=Result.BYPASS, fwd=FwdReason.BYPASS, detail=detail)
