"""What the reasons mean for a person: for each `detail` of a request that was passed on, what to do about it.

docs/cache-rules.md says what each is; here stands what changes it. None: nothing is wrong, and nothing to be done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """What a `detail` says of a request, and what to do so that it is answered from the cache."""

    text: str
    fix: str | None = None


_REWRITE: Final = "write the body as one JSON object that every parser reads alike"

REASONS: Final = {
    "endpoint": Reason(text="the cache has no part in this route"),
    "target-spelling": Reason(
        text="the path has a query, or another spelling", fix="ask the path exactly as it is written in Ollama's API"
    ),
    "opt-in": Reason(
        text="the setting for this route is off",
        fix="switch it on: serve --cache chat=always, v1-chat=always or v1-completions=always",
    ),
    "stream": Reason(text="it is a stream", fix='send "stream": false, or record streams too: serve --cache-streams'),
    "content-encoding": Reason(text="the body is encoded", fix="send it without Content-Encoding"),
    "range": Reason(text="it asks for a part", fix="send it without Range"),
    "cookie": Reason(text="it carries cookies", fix="send it without Cookie"),
    "no-store": Reason(text="the request said no-store, or a lifetime of 0"),
    "request-too-large": Reason(text="the body is too large", fix="raise max_request_bytes"),
    "buffers-full": Reason(text="memory for requests and answers was full", fix="raise max_buffered_bytes"),
    "not-json": Reason(text="the body is no JSON that every parser reads alike", fix=_REWRITE),
    "not-an-object": Reason(text="the body is JSON, but no object", fix=_REWRITE),
    "duplicate-name": Reason(text="a name stands twice in one object", fix=_REWRITE),
    "ambiguous-name": Reason(text="a name equals another, or one of Ollama's, but for its case", fix=_REWRITE),
    "number": Reason(text="a number that not every parser keeps exactly", fix="write it smaller, or as a text"),
    "depth": Reason(text="it is nested more than 64 levels deep", fix=_REWRITE),
    "no-model": Reason(text="no model is named", fix="name one in `model`"),
    "no-prompt": Reason(text="nothing is asked: this loads or unloads a model"),
    "keep-alive": Reason(text="`keep_alive` unloads the model, or is not valid", fix="leave it out, or say 5m"),
    "encoding-format": Reason(text="`encoding_format` is not valid", fix="say float or base64"),
    "field-type": Reason(text="a field has a type that Ollama will refuse, or that is not known"),
    "not-deterministic": Reason(
        text="the route's policy is deterministic, and the request does not ask for the same answer each time",
        fix='send "temperature": 0 or a "seed" in `options`, or set the policy to always',
    ),
    "remote-model": Reason(text="another machine answers for this model, so its digest says nothing"),
    "no-digest": Reason(
        text="Ollama does not list this model at the moment, or the proxy cannot ask it",
        fix="`ollama list` should show it; `ollama pull` gets it; `ollama-cache-proxy doctor` looks further",
    ),
    "host": Reason(
        text="the Host is not allowed on a loopback listener", fix="name the proxy by localhost or an address"
    ),
    "client-left": Reason(text="the client left before it was answered"),
    "loop": Reason(
        text="the request had been through this proxy before", fix="set upstream to Ollama, not to the proxy"
    ),
    "busy": Reason(text="max_misses requests for the model were under way", fix="raise max_misses"),
    "body-timeout": Reason(
        text="the request's body stalled", fix="look at the network in between, or raise body_timeout"
    ),
    "only-if-cached": Reason(text="nothing was kept, and Ollama was not to be asked"),
}
