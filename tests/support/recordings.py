"""What real Ollamas put on the wire, and simulators in the state in which each recording began.

A recording is JSON: case name to `request` (method, path, headers that differ from the default, body) and `response`
(status line, headers in order, and `body`, or the `chunks` as they arrived). Later cases depend on earlier ones.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import Any

from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.simulator.releases import NEWEST
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import data

RECORDINGS: dict[str, dict[str, Any]] = {
    release: json.loads(data(f"wire/ollama-{release}.json").read_text("utf-8")) for release in ("0.24", "0.33")
}
"""The cases of each release."""

VERSIONS = {"0.24": "0.0.0", "0.33": ""}
"""What the recorded servers said of their version, where it was not their own: the older one was built without."""

_VARYING = (
    (re.compile(rb'"(created_at|modified_at|expires_at)":"(?!0001)[^"]+"'), rb'"\1":"T"'),
    (re.compile(rb'"(created|created_at|completed_at)":\d+'), rb'"\1":0'),
    (re.compile(rb'"(\w+_duration)":\d+'), rb'"\1":1'),
    (re.compile(rb'"(chatcmpl|cmpl|resp|msg)([-_])[0-9a-f]+"'), rb'"\1\g<2>X"'),
    (re.compile(rb"(lookup \S+ on )[\d.:]+"), rb"\1R"),
    (re.compile(rb"Today is [\d-]+"), b"Today is D"),
)


def settled(body: bytes) -> bytes:
    """Return a body with one value for what differs from run to run; the year 1 does not."""
    for pattern, replacement in _VARYING:
        body = pattern.sub(replacement, body)
    return body


async def send(url: str, case: dict[str, Any]) -> RawAnswer:
    """Send the request of a case."""
    request = case["request"]
    body = None if request["body"] is None else request["body"].encode("latin-1")
    return await ask(url, request["method"], request["path"], fields=request.get("headers"), body=body)


def recorded_behaviour(release: str = NEWEST) -> Behaviour:
    """Return the behaviour of a recorded server, without its delays."""
    return Behaviour(completion_delay=0, embedding_delay=0, release=release, version=VERSIONS[release])


async def begin(simulator: Simulator) -> None:
    """Bring a running simulator to where the recording of its release began.

    0.24 had just answered a completion of tiny and an embedding of all-minilm; 0.33 an embedding only, and it had quantized
    tiny. tiny2 was not there any more.
    """
    if simulator.behaviour.release == "0.24":
        await _warm(simulator, "/api/generate", {"model": "tiny", "prompt": "warm", "options": {"num_predict": 1}})
    else:
        assert simulator.models.remove("tiny2")
        simulator.models.put(simulator.models.published_like("tiny-q4"))
    await _warm(simulator, "/api/embed", {"model": "all-minilm", "input": "warm", "keep_alive": "6m"})


async def _warm(simulator: Simulator, path: str, body: dict[str, Any]) -> None:
    assert (await ask(simulator.url, "POST", path, body=json.dumps(body).encode())).status == 200


def before(simulator: Simulator, name: str) -> None:
    """Do what happened to the recorded server before a case without being recorded.

    Between the questions that both releases were asked and those that only 0.33 was, twenty minutes passed: all models
    were unloaded, and three made.
    """
    if name != "embed_generative_model_33":
        return
    for resident in simulator.residence.loaded():
        simulator.residence.unload(resident.model)
    for minutes, made in ((10, "stub"), (14, "tinyj"), (15, "tinyt")):
        model = simulator.models.published_like(made)
        simulator.models.put(replace(model, modified=time.time_ns() + minutes * 60 * 10**9))
