"""For each `detail` of a bypass, what it means and how to avoid it.

`Detail` in policy/status.py has the meanings for docs/cache-rules.md. A `fix` of None means that nothing is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One `detail`."""

    text: str
    """What it means, to go after "because"."""
    fix: str | None = None
    """What to do so that such a request can be answered from the cache, None if nothing is wrong."""


_REWRITE: Final = "send the body as one JSON object that every parser reads alike"

REASONS: Final = {
    "endpoint": Reason(text="responses of this endpoint are never reused"),
    "target-spelling": Reason(
        text="the path is spelled otherwise, or has a query", fix="use the path exactly as in Ollama's API"
    ),
    "opt-in": Reason(
        text="the policy of the endpoint, the model or the category is off",
        fix="turn it on, as in serve --cache chat=always",
    ),
    "stream": Reason(
        text="it is a stream, and cache_streams is off",
        fix='send "stream": false, or cache streams too: serve --cache-streams',
    ),
    "content-encoding": Reason(text="the request's body is encoded", fix="send it without Content-Encoding"),
    "range": Reason(text="the request asks for a part", fix="send it without Range"),
    "conditional": Reason(text="the request has a condition", fix="send it without If-Match and its like"),
    "cookie": Reason(text="the request carries cookies", fix="send it without Cookie"),
    "no-store": Reason(text="the request says no-store, or its lifetime is 0"),
    "request-too-large": Reason(text="the body is over max_request_bytes", fix="raise max_request_bytes"),
    "buffers-full": Reason(
        text="requests and responses in memory reached max_buffered_bytes", fix="raise max_buffered_bytes"
    ),
    "slow-to-read": Reason(
        text="reading the body would hold up other requests: very many values, or one text of several megabytes",
        fix="send fewer or shorter texts in a request",
    ),
    "not-json": Reason(text="the body is not JSON that every parser reads alike", fix=_REWRITE),
    "multipart": Reason(
        text="a part of the multipart body is unknown, twice or encoded, or not every parser reads it alike",
        fix="send file, model, language, prompt and response_format only, each once, and nothing around them",
    ),
    "not-an-object": Reason(text="the body is JSON, but not an object", fix=_REWRITE),
    "duplicate-name": Reason(text="a name occurs twice in one object", fix=_REWRITE),
    "ambiguous-name": Reason(
        text="a name differs from another, or from one that Ollama knows, only in case", fix=_REWRITE
    ),
    "number": Reason(text="a number is not read exactly by every parser", fix="send a smaller one, or a string"),
    "depth": Reason(text="the body is nested more than 64 levels deep", fix=_REWRITE),
    "no-model": Reason(text="no model is named", fix="name one in `model`"),
    "no-prompt": Reason(text="nothing is asked: this loads or unloads a model"),
    "keep-alive": Reason(text="`keep_alive` unloads the model, or is not valid", fix="leave it out, or send 5m"),
    "encoding-format": Reason(text="`encoding_format` is not valid", fix="send float or base64"),
    "field-type": Reason(text="a field has a type that Ollama will refuse, or that the proxy does not know"),
    "not-deterministic": Reason(
        text="the endpoint's policy is deterministic, and the request has neither a temperature of 0 nor a seed",
        fix='send "temperature": 0 or a "seed" in `options`, or set the policy to always',
    ),
    "external-data": Reason(
        text="the response would depend on more than request and model: a tool that the server runs, like web_search,"
        " a URL, a file by its id, or a stored conversation",
        fix="send images as data: URLs, the whole conversation, and no `store`, `background` or server-side tool",
    ),
    "sampling-misplaced": Reason(
        text="the endpoint's policy is deterministic, and `temperature` or `seed` stands beside `options`",
        fix='Ollama reads temperature inside options here: send "options": {"temperature": 0}',
    ),
    "prefix-stabilised": Reason(
        text="a rule of stable_prefix fits, so that Ollama gets another body than the one that came",
        fix="leave the rule out of stable_prefix to have such requests cached",
    ),
    "remote-model": Reason(text="the model runs on another machine, so its digest says nothing"),
    "no-digest": Reason(
        text="the model's digest is not known: Ollama does not list it, or cannot be reached",
        fix="`ollama list` should show it; `ollama pull` gets it; `ollama-cache-proxy doctor` checks more",
    ),
    "dated-template": Reason(
        text="the model's template may write the date, or is not known yet, and cache_dated_templates is off",
        fix="ask again if it is the model's first request; else set cache_dated_templates = true, or send raw prompts",
    ),
    "host": Reason(
        text="the Host is not allowed on a loopback listener",
        fix="use localhost or an IP address for the proxy, or allow the name (allowed_hosts)",
    ),
    "client-left": Reason(text="the client closed the connection before it was answered"),
    "wrong-token": Reason(text="the admin token was wrong", fix="set OCP_ADMIN_TOKEN to the proxy's token"),
    "token-guesses": Reason(
        text="the admin token was wrong too often",
        fix="set OCP_ADMIN_TOKEN to the proxy's token, which is heard at once",
    ),
    "loop": Reason(
        text="the request had been through this proxy before", fix="set upstream to Ollama, not to the proxy"
    ),
    "busy": Reason(text="max_misses requests for the model were in flight", fix="raise max_misses"),
    "lane-full": Reason(
        text="lanes_max_waiting requests of its lane waited for Ollama",
        fix="ask again later, or raise lanes_max_waiting",
    ),
    "lane-wait": Reason(
        text="it had waited for Ollama for lanes_max_wait", fix="ask again later, or raise lanes_max_wait"
    ),
    "body-timeout": Reason(
        text="the request's body stalled", fix="check the network in between, or raise body_timeout"
    ),
    "only-if-cached": Reason(text="nothing fresh was stored, and the request forbids asking Ollama"),
}
