"""Sequences of small requests whose right answers are known: what Ollama itself would have answered at that time.

Each step is judged against the answer of the same stand-in, asked directly. A case is right if each of its steps is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ollama_cache_proxy.simulator import Fault

GENERATE: Final = "/api/generate"
CHAT: Final = "/v1/chat/completions"
EMBED: Final = "/api/embed"
V1_EMBED: Final = "/v1/embeddings"
WAIT: Final = 11.0
"""Seconds after which a change of a model that no request of the proxy made has to be noticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request; without a body a GET.

    `changes`: it changes a model, so that it is not asked directly as well; `behind`: it is sent to Ollama past the
    proxy; `asks`: a response that was stored before does not do; `wait`: seconds before it.
    """

    path: str
    body: bytes | None = None
    method: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    fault: Fault | None = None
    changes: bool = False
    behind: bool = False
    asks: bool = False
    wait: float = 0.0

    @property
    def verb(self) -> str:
        """The method."""
        return self.method or ("GET" if self.body is None else "POST")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Steps in their order; with a `secret`, inference without this field and value is refused.

    `differ` says that the last two answers differ: a proxy that takes the two requests for one is wrong.
    """

    name: str
    steps: tuple[Step, ...]
    differ: bool = False
    secret: tuple[str, str] | None = None


def _body(path: str, name: str, more: Mapping[str, Any]) -> bytes:
    """Return a request with a question of its own; at temperature 0, unless it says otherwise."""
    if path == GENERATE:
        options = {"temperature": 0, **more.get("options", {})}
        whole = {"model": "tiny", "prompt": f"{name}?", "stream": False, **more, "options": options}
    elif path == CHAT:
        asked = [{"role": "user", "content": f"{name}?"}]
        whole = {"model": "tiny", "messages": asked, "temperature": 0, "top_p": 1, "seed": 1, **more}
    else:
        whole = {"model": "all-minilm", "input": f"{name}?", **more}
    return orjson.dumps(whole)


def _ask(path: str, name: str, **more: Any) -> Step:
    return Step(path=path, body=_body(path, name, more))


def _sent(path: str, name: str, fields: Mapping[str, str], *, asks: bool = False) -> Step:
    return Step(path=path, body=_body(path, name, {}), fields=fields, asks=asks)


def _failing(path: str, name: str, fault: Fault, **more: Any) -> Step:
    return Step(path=path, body=_body(path, name, more), fault=fault)


def _differ(path: str, name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Case:
    return Case(name=name, steps=(_ask(path, name, **first), _ask(path, name, **second)), differ=True)


def _raw(name: str, first: bytes, second: bytes, *, differ: bool = True) -> Case:
    return Case(name=name, steps=(Step(path=GENERATE, body=first), Step(path=GENERATE, body=second)), differ=differ)


def _change(path: str, method: str = "POST", *, behind: bool = False, **body: Any) -> Step:
    return Step(path=path, method=method, body=orjson.dumps(body), changes=True, behind=behind)


def _create(model: str, system: str, *, behind: bool = False) -> Step:
    return _change("/api/create", behind=behind, model=model, stream=False, system=system, **{"from": "tiny"})


def _after_fault(path: str, name: str, fault: Fault, **more: Any) -> Case:
    return Case(name=name, steps=(_failing(path, name, fault, **more), _ask(path, name, **more)))


def _remade(path: str, name: str, *, behind: bool) -> Case:
    """Return a case in which a model is made anew between two equal requests, as the proxy sees or behind it."""
    model, wait = name.replace(" ", "-"), WAIT if behind else 0.0
    again = Step(path=path, body=_body(path, name, {"model": model}), wait=wait)
    made, anew = (_create(model, system, behind=behind) for system in ("Be short.", "Be long."))
    return Case(name=name, steps=(made, _ask(path, name, model=model), anew, again), differ=True)


_LARGE: Final = "a word " * 250_000
_TOOL: Final = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {}}}

CASES: Final = (
    # What decides the response of a completion.
    _differ(GENERATE, "generate seed", {"options": {"temperature": 1, "seed": 1}},
            {"options": {"temperature": 1, "seed": 2}}),
    _differ(GENERATE, "generate temperature", {"options": {"seed": 1}}, {"options": {"seed": 1, "temperature": 1}}),
    _differ(GENERATE, "generate num_predict", {"options": {"num_predict": 3}}, {"options": {"num_predict": 5}}),
    _differ(GENERATE, "generate format", {}, {"format": "json"}),
    _differ(GENERATE, "generate think", {}, {"think": True}),
    _differ(GENERATE, "generate raw", {"system": "Be kind."}, {"system": "Be kind.", "raw": True}),
    _differ(GENERATE, "generate suffix", {}, {"suffix": "the end"}),
    _differ(GENERATE, "generate system", {"system": "Be kind."}, {"system": "Be brief."}),
    _differ(GENERATE, "generate template", {}, {"template": "Q: {{ .Prompt }}"}),
    _differ(GENERATE, "generate context", {"context": [1, 2]}, {"context": [2, 1]}),
    _differ(GENERATE, "generate model", {}, {"model": "tiny2"}),
    _differ(GENERATE, "generate model name", {}, {"model": "tiny:latest"}),
    _differ(GENERATE, "generate stream", {}, {"stream": True}),
    _differ(GENERATE, "generate large", {"prompt": _LARGE + "one"}, {"prompt": _LARGE + "two"}),
    _raw("a name in capitals", b'{"model":"tiny","prompt":"capitals","stream":false,"options":{"temperature":0}}',
         b'{"model":"tiny","prompt":"capitals","PROMPT":"loud","stream":false,"options":{"temperature":0}}'),
    _raw("a name twice", b'{"model":"tiny","prompt":"twice","stream":false,"options":{"temperature":0}}',
         b'{"model":"tiny","prompt":"twice","prompt":"thrice","stream":false,"options":{"temperature":0}}'),
    _raw("other blanks and order", b'{"model":"tiny","prompt":"blanks","stream":false,"options":{"temperature":0}}',
         b'{ "options": {"temperature": 0},\n "stream": false, "prompt": "blanks", "model": "tiny" }', differ=False),
    _raw("broken JSON", b'{"model":"tiny","prompt":"broken","stream":false}', b'{"model":"tiny","prompt":"broken"'),
    _raw("empty body", b'{"model":"tiny","prompt":"empty","stream":false}', b""),
    # What decides the response of a chat in OpenAI's form.
    _differ(CHAT, "chat seed", {"temperature": 1, "seed": 1}, {"temperature": 1, "seed": 2}),
    _differ(CHAT, "chat temperature", {}, {"temperature": 1}),
    _differ(CHAT, "chat max_tokens", {"max_tokens": 3}, {"max_tokens": 5}),
    _differ(CHAT, "chat stop", {}, {"stop": ["e"]}),
    _differ(CHAT, "chat format", {}, {"response_format": {"type": "json_object"}}),
    _differ(CHAT, "chat penalty", {}, {"frequency_penalty": 1.5}),
    _differ(CHAT, "chat model", {}, {"model": "tiny2"}),
    _differ(CHAT, "chat tools", {}, {"tools": [_TOOL]}),
    _differ(CHAT, "chat stream", {}, {"stream": True}),
    _differ(CHAT, "chat usage in a stream", {"stream": True},
            {"stream": True, "stream_options": {"include_usage": True}}),
    Case(name="chat user", steps=(_ask(CHAT, "chat user", user="a"), _ask(CHAT, "chat user", user="b"))),
    # Vectors.
    _differ(EMBED, "embed order", {"input": ["left", "right"]}, {"input": ["right", "left"]}),
    _differ(EMBED, "embed one of a list", {"input": ["north", "south"]}, {"input": "south"}),
    _differ(V1_EMBED, "embeddings order", {"input": ["left", "right"]}, {"input": ["right", "left"]}),
    _differ(V1_EMBED, "embeddings text", {"input": "up"}, {"input": "down"}),
    _differ(V1_EMBED, "embeddings base64", {"encoding_format": "float"}, {"encoding_format": "base64"}),
    # Failures are no responses to store.
    _after_fault(GENERATE, "generate after a 500", Fault.STATUS_500),
    _after_fault(GENERATE, "generate after a torn response", Fault.RESET_MID_BODY),
    _after_fault(GENERATE, "generate after an error in a stream", Fault.ERROR_LINE, stream=True),
    _after_fault(GENERATE, "generate after a stream without end", Fault.NO_END, stream=True),
    _after_fault(CHAT, "chat after a 500", Fault.STATUS_500),
    _after_fault(CHAT, "chat after an error in a stream", Fault.ERROR_LINE, stream=True),
    # Models that change.
    Case(name="missing", steps=(_ask(GENERATE, "missing", model="missing"), _create("missing", "Be kind."),
         _ask(GENERATE, "missing", model="missing"))),
    Case(name="deleted", differ=True, steps=(_create("deleted", "Be kind."), _ask(GENERATE, "deleted", model="deleted"),
         _change("/api/delete", "DELETE", model="deleted"), _ask(GENERATE, "deleted", model="deleted"))),
    Case(name="copied", differ=True, steps=(_create("copied", "Be kind."), _ask(GENERATE, "copied", model="copied"),
         _change("/api/copy", source="tiny2", destination="copied"), _ask(GENERATE, "copied", model="copied"))),
    Case(name="listed", differ=True, steps=(Step(path="/api/tags"),
         _create("listed", "Be kind."), Step(path="/api/tags"))),
    _remade(GENERATE, "generate remade", behind=False),
    _remade(GENERATE, "generate remade behind", behind=True),
    _remade(CHAT, "chat remade behind", behind=True),
    # What else of a request decides.
    Case(name="another Authorization", differ=True, secret=("Authorization", "Bearer right"), steps=(
        _sent(GENERATE, "authorization", {"Authorization": "Bearer right"}),
        _sent(GENERATE, "authorization", {"Authorization": "Bearer wrong"}))),
    Case(name="another key", differ=True, secret=("X-Api-Key", "right"), steps=(
        _sent(GENERATE, "key", {"X-API-Key": "right"}), _ask(GENERATE, "key"))),
    Case(name="another allowed Origin", differ=True, steps=(
        _sent(GENERATE, "origin", {"Origin": "http://localhost:3000"}),
        _sent(GENERATE, "origin", {"Origin": "http://127.0.0.1:8080"}))),
    Case(name="a forbidden Origin", differ=True, steps=(
        _ask(GENERATE, "forbidden"), _sent(GENERATE, "forbidden", {"Origin": "http://elsewhere.example"}))),
    Case(name="a preflight", steps=(_ask(GENERATE, "preflight"), Step(path=GENERATE, method="OPTIONS", fields={
        "Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}))),
    Case(name="a range", steps=(_ask(GENERATE, "range"), _sent(GENERATE, "range", {"Range": "bytes=0-9"}))),
    Case(name="no-cache", steps=(_ask(GENERATE, "no-cache"),
         _sent(GENERATE, "no-cache", {"Cache-Control": "no-cache"}, asks=True))),
    Case(name="no-store", steps=(_sent(GENERATE, "no-store", {"Cache-Control": "no-store"}),
         Step(path=GENERATE, body=_body(GENERATE, "no-store", {}), asks=True))),
    Case(name="a load of a model", steps=tuple(
        Step(path=GENERATE, body=b'{"model":"tiny","stream":false}', asks=True) for _ in range(2))),
    Case(name="chunked", differ=True, steps=tuple(
        Step(path=GENERATE, fields={"Transfer-Encoding": "chunked"},
             body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        for body in (_body(GENERATE, word, {}) for word in ("chunked", "chunky")))),
    Case(name="GET where POST is meant", steps=(_ask(GENERATE, "get"), Step(path=GENERATE))),
    Case(name="HEAD", steps=(Step(path="/"), Step(path="/", method="HEAD"), Step(path="/api/tags", method="HEAD"))),
    Case(name="Content-Type twice", steps=(
        Step(path="/api/tags", fields={"Content-Type": "application/json", "content-type": "application/json"}),)),
)  # fmt: skip
