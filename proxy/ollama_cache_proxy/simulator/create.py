"""The endpoints that make or fetch models and report progress: /api/create, /api/pull, /api/push."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from ollama_cache_proxy.simulator import naming, schemas, wire
from ollama_cache_proxy.simulator.call import Call
from ollama_cache_proxy.simulator.naming import Name
from ollama_cache_proxy.simulator.native import body
from ollama_cache_proxy.simulator.registry import (
    LICENSE,
    MESSAGES,
    SYSTEM,
    TEMPLATE,
    WEIGHTS,
    Layer,
    Model,
    parameters_layer,
    sha256,
    text_layer,
)

UNQUANTIZED = ("F16", "BF16", "F32")
QUANTIZATIONS = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")
"""The types that errors name; BF16 works too."""
_BITS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8, "Q4_K_M": 5, "Q4_K_S": 5}
_LOSS = {"Q8_0": 0.02, "Q4_K_M": 0.13, "Q4_K_S": 0.15}
"""The error of vectors as a share of their length, chosen for the cosines of a real all-minilm."""

_STEPS = 8
_NO_DIGEST = "0000000000000000000"
_RESOLVER = "192.0.2.53:53"
"""The address in the text of a failed lookup, as recorded."""

Row = dict[str, Any]


class FailedError(Exception):
    """A failure during the operation; it becomes an error line, or the response if nothing was sent yet."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


async def _progress(call: Call, rows: AsyncIterator[Row], *, stream: bool) -> None:
    """Send every row as it comes, or only the last one."""
    last: Row = {}
    try:
        async for last in rows:
            if not stream:
                continue
            if not call.streaming:
                call.begin(200, wire.NDJSON)
            await call.part(wire.dumps(last).encode() + b"\n")
    except FailedError as failed:
        error = wire.dumps({"error": str(failed)}).encode()
        if not stream:
            call.whole(failed.status, error, wire.BARE_JSON)
            return
        if call.streaming:
            await call.part(error + b"\n")
        else:
            call.begin(failed.status, wire.BARE_JSON)
            await call.part(error)
    if stream:
        call.end()
    else:
        call.whole(200, wire.dumps(last).encode(), wire.BARE_JSON)


async def create(call: Call) -> None:
    """POST /api/create."""
    request = body(call, schemas.CREATE)
    if request is None:
        return
    if call.simulator.release.drafts and request["draft_quantize"] and not request["draft_files"]:
        call.error(400, "--draft-quantize requires a DRAFT model")
        return
    name = naming.parse(request["model"] or request["name"])
    if name is None:
        call.error(400, "invalid model name")
        return
    name = call.simulator.models.canonical(name)
    await _progress(call, _created(call, request, name), stream=request["stream"] is not False)


async def _created(call: Call, request: Row, name: Name) -> AsyncIterator[Row]:
    models = call.simulator.models
    if request["from"]:
        base_name = naming.parse(request["from"])
        if base_name is None:
            raise FailedError("invalid model name", 400)
        base = models.find(base_name)
        if base is None:
            async for row in _pulled(call, base_name):
                yield row
            base = models.get(base_name.full)
    elif request["files"] is not None:
        base = _from_files(call, request["files"])
        yield {"status": "parsing GGUF"}
    else:
        raise FailedError("neither 'from' or 'files' was specified", 400)
    weights, quantization = base.weights, base.quantization
    changes: Row = {member: request[member] for member in ("renderer", "parser") if request[member]}
    wanted = (request["quantize"] or request["quantization"]).upper()
    if wanted:
        async for row in _quantizing(call, base, wanted):
            yield row
        if wanted != quantization:
            weights, quantization = _quantized(base, wanted), wanted
            smaller = base.weights.size - weights.size
            changes |= {
                "origin": base.origin or base.digest,
                "loss": _LOSS.get(wanted, 0.0),
                "resident": base.resident - smaller,
                "resident_at": {context: size - smaller for context, size in base.resident_at.items()},
            }
    layers = _layers(base, request, weights)
    for layer in layers:
        known = "using existing layer" if layer.digest in models.blobs else "creating new layer"
        yield {"status": f"{known} sha256:{layer.digest}"}
    yield {"status": "writing manifest"}
    models.put(base.remade(name, layers, quantization=quantization, **changes))
    yield {"status": "success"}


def _from_files(call: Call, files: dict[str, Any]) -> Model:
    """Return a base model of uploaded weights."""
    digests = [str(digest).removeprefix("sha256:").lower() for digest in files.values()]
    if not digests:
        raise FailedError("no files provided to convert", 400)
    if digests[0] not in call.simulator.models.blobs:
        raise FailedError(f"open /models/blobs/sha256-{digests[0]}: no such file or directory")
    like = call.simulator.models.published_like("tiny")
    return like.remade(like.name, [Layer(kind=WEIGHTS, digest=digests[0], size=like.weights.size)], quantized={})


async def _quantizing(call: Call, base: Model, wanted: str) -> AsyncIterator[Row]:
    """Yield the progress of a quantization. Raise FailedError if it is not possible."""
    if wanted not in (*QUANTIZATIONS, "BF16"):
        types = ", ".join(QUANTIZATIONS)
        raise FailedError(f"unsupported quantization type {wanted} - supported types are {types}")
    if base.quantization not in UNQUANTIZED:
        raise FailedError("quantization is only supported for F16, BF16 and F32 models")
    if wanted == base.quantization:
        return
    total = base.weights.size
    for step in range(1, _STEPS + 1):
        status = f"quantizing {base.quantization} model to {wanted}"
        if call.simulator.release.quantizing_is_told:
            yield {"status": status, "digest": _NO_DIGEST, "total": total, "completed": total * step // _STEPS}
        await call.simulator.making.passed()
        await asyncio.sleep(0)
    yield {"status": "verifying conversion"}


def _quantized(base: Model, wanted: str) -> Layer:
    digest = base.quantized.get(wanted, sha256(f"{base.weights.digest} as {wanted}"))
    size = base.weights.size * _BITS[wanted] // _BITS.get(base.quantization, 16)
    return Layer(kind=WEIGHTS, digest=digest, size=size)


def _layers(base: Model, request: Row, weights: Layer) -> list[Layer]:
    """Return the layers of a new model in the order of the real server."""
    layers = [weights, *(layer for layer in base.layers if layer.kind != WEIGHTS)]

    def put(layer: Layer) -> None:
        layers[:] = [*(other for other in layers if other.kind != layer.kind), layer]

    if request["template"]:
        put(text_layer(TEMPLATE, request["template"]))
    if request["system"]:
        put(text_layer(SYSTEM, request["system"]))
    if request["license"]:
        texts = request["license"] if isinstance(request["license"], list) else [request["license"]]
        layers += [text_layer(LICENSE, str(text)) for text in texts]
    parameters = base.parameters | (request["parameters"] or {})
    if parameters:
        put(parameters_layer({name: _plain(value) for name, value in parameters.items()}))
    if request["messages"]:
        rows = [{"role": message["role"], "content": message["content"]} for message in request["messages"]]
        put(text_layer(MESSAGES, wire.dumps(rows) + "\n"))
    return layers


def _plain(value: Any) -> Any:
    """Return a whole float as an int, as Go writes a float64."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


async def pull(call: Call) -> None:
    """POST /api/pull: published models can be pulled; for others there is no network."""
    request = body(call, schemas.PULL)
    if request is None:
        return
    wanted = request["model"] or request["name"]
    name = naming.parse(wanted)
    if name is None:
        call.error(400, "invalid model name")
        return
    name = call.simulator.models.canonical(name)
    await _progress(call, _pulled(call, name), stream=request["stream"] is not False)


def _unreachable(name: Name, verb: str) -> FailedError:
    url = f"https://{name.host}/v2/{name.namespace}/{name.model}/{verb}"
    return FailedError(f'Get "{url}": dial tcp: lookup {name.host} on {_RESOLVER}: no such host')


async def _pulled(call: Call, name: Name) -> AsyncIterator[Row]:
    models = call.simulator.models
    yield {"status": "pulling manifest"}
    model = models.published(name)
    if model is None:
        raise FailedError(f"pull model manifest: {_unreachable(name, f'manifests/{name.tag}')}")
    for layer in model.layers:
        row: Row = {"status": f"pulling {layer.digest[:12]}", "digest": f"sha256:{layer.digest}", "total": layer.size}
        # A layer from the network first reports 0 completed bytes, which Go omits.
        if layer.digest not in models.blobs:
            yield row
            await asyncio.sleep(0)
        yield row | {"completed": layer.size}
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    models.put(replace(model, modified=time.time_ns()))
    yield {"status": "success"}


async def push(call: Call) -> None:
    """POST /api/push: there is no network."""
    request = body(call, schemas.PUSH)
    if request is None:
        return
    wanted = request["model"] or request["name"]
    if not wanted:
        call.error(400, "model is required")
        return
    await _progress(call, _pushed(call, wanted), stream=request["stream"] is not False)


async def _pushed(call: Call, wanted: str) -> AsyncIterator[Row]:
    yield {"status": "retrieving manifest"}
    name = naming.parse(wanted)
    model = call.simulator.models.find(name) if name else None
    if name is None or model is None:
        yield {"status": "couldn't retrieve manifest"}
        path = f"{name.host}/{name.namespace}/{name.model}/{name.tag}" if name else wanted
        raise FailedError(f"open /models/manifests/{path}: no such file or directory")
    error = str(_unreachable(name, f"blobs/sha256:{model.weights.digest}"))
    raise FailedError(error.replace("Get", "Head", 1))
