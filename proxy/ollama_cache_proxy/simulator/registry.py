"""The models of the simulated server: names, layers, digests, and which blobs are stored.

A digest is the SHA-256 of a manifest: it changes with any layer (weights, template, system text, parameters) and
is the same for a copy. The layers of the recorded models have their recorded digests.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from ollama_cache_proxy.simulator import naming, recorded
from ollama_cache_proxy.simulator.naming import Name
from ollama_cache_proxy.simulator.releases import NEWEST

WEIGHTS, TEMPLATE, SYSTEM, PARAMETERS, LICENSE, MESSAGES = (
    "model",
    "template",
    "system",
    "params",
    "license",
    "messages",
)
CONFIG_SIZE = 400
"""Bytes of a manifest's configuration, roughly."""


def sha256(data: bytes | str) -> str:
    """Return the hexadecimal digest of some bytes, or of a text in UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One blob of a model; `text` is empty for weights."""

    kind: str
    digest: str
    size: int
    text: str = ""


def text_layer(kind: str, text: str) -> Layer:
    """Return a layer of text."""
    return Layer(kind=kind, digest=sha256(text), size=len(text.encode()), text=text)


def parameters_layer(parameters: Mapping[str, Any]) -> Layer:
    """Return the layer of a model's own options."""
    ordered = json.dumps(dict(sorted(parameters.items())), separators=(",", ":"), ensure_ascii=False)
    return text_layer(PARAMETERS, ordered + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What /api/tags tells of a model beside its details; 0 and nothing are left out there.

    It is not always true: Ollama stops reading a GGUF file at its tokenizer, and does not look at its own template.
    """

    capabilities: tuple[str, ...] = ()
    context_length: int = 0
    embedding_length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Where a model runs that is no file of this server."""

    model: str
    host: str


class Voice(NamedTuple):
    """What vectors depend on beside the text: digest, width, and the origin and loss of a quantized model."""

    digest: str
    width: int
    origin: str
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One named model; sizes in bytes, `modified` in nanoseconds since the epoch, `width` in floats of a vector.

    A quantized model has the digest of its source as `origin`; its output is that of the source with a `loss`.
    `resident` is its size in memory, `resident_at` that for certain context lengths, `vram` the part of it that Ollama
    takes for a GPU's. `chat_template` is the template of the GGUF file, which goes before TEMPLATE. `renderer` and
    `parser` are Ollama's own, as told; texts do not depend on them.
    """

    name: Name
    digest: str
    size: int
    modified: int
    family: str
    parameter_size: str
    quantization: str
    layers: tuple[Layer, ...]
    capabilities: tuple[str, ...]
    width: int
    trained_context: int
    resident: int
    resident_at: Mapping[int, int] = field(default_factory=dict)
    vram: int = 0
    chat_template: str = ""
    renderer: str = ""
    parser: str = ""
    told: Listed | None = None
    remote: Remote | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[Any, ...] = ()
    quantized: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""
    loss: float = 0.0

    def layer(self, kind: str) -> Layer | None:
        """Return the layer of a kind, None if there is none."""
        return next((layer for layer in self.layers if layer.kind == kind), None)

    def text(self, kind: str) -> str:
        """Return the text of a layer, empty if there is none."""
        layer = self.layer(kind)
        return layer.text if layer else ""

    @property
    def weights(self) -> Layer:
        """The layer that every model has."""
        return next(layer for layer in self.layers if layer.kind == WEIGHTS)

    @property
    def voice(self) -> Voice:
        """What its vectors depend on."""
        return Voice(self.digest, self.width, self.origin or self.digest, self.loss)

    @property
    def listed(self) -> Listed:
        """What lists tell of it."""
        return self.told or Listed(
            capabilities=self.capabilities, context_length=self.trained_context, embedding_length=self.width
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """The model's own options."""
        text = self.text(PARAMETERS)
        return dict(json.loads(text)) if text else {}

    @property
    def details(self) -> dict[str, Any]:
        """`details` as lists show them; there the parent is always empty."""
        return {
            "parent_model": "",
            "format": "" if self.remote else "gguf",
            "family": self.family,
            "families": [self.family] if self.family else None,
            "parameter_size": self.parameter_size,
            "quantization_level": self.quantization,
        }

    def remade(self, name: Name, layers: Iterable[Layer], **changes: Any) -> Model:
        """Return a copy with a name and other layers, and the sizes and digest of those."""
        layers = tuple(layers)
        changed = replace(self, name=name, layers=layers, modified=time.time_ns(), **changes)
        known = _RECORDED.get(changed.manifest)
        digest = known.digest if known else sha256(changed.manifest)
        size = known.size if known else sum(layer.size for layer in layers) + CONFIG_SIZE
        return replace(changed, digest=digest, size=size)

    @property
    def manifest(self) -> str:
        """What its digest depends on, as JSON."""
        layers = sorted([layer.kind, layer.digest] for layer in self.layers)
        own = [self.renderer, self.parser] if self.renderer or self.parser else []
        return json.dumps([layers, self.family, self.parameter_size, self.quantization, self.width, *own])


def _nanoseconds(text: str) -> int:
    whole, _, fraction = text.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0"))


def _recorded_model(row: Mapping[str, Any]) -> Model:
    name = naming.known(row["name"])
    layers = [
        Layer(
            kind=WEIGHTS,
            digest=row.get("weights", sha256(f"weights of {row['digest']}")),
            size=row.get("weights_size", max(row["size"] - CONFIG_SIZE, 0)),
        )
    ]
    if row["template"]:
        layers.append(text_layer(TEMPLATE, row["template"]))
    if row["parameters"]:
        layers.append(parameters_layer(row["parameters"]))
    at = {int(context): int(size) for context, size in row.get("resident", {}).items()}
    listed = row.get("listed")
    model = Model(
        name=name,
        digest=row["digest"],
        size=row["size"],
        modified=_nanoseconds(row["modified_at"]),
        family=row["family"],
        parameter_size=row["parameter_size"],
        quantization=row["quantization"],
        layers=tuple(layers),
        capabilities=tuple(row["capabilities"]),
        width=row["width"],
        trained_context=row["trained_context"],
        resident=max(at.values(), default=row["size"] * 5 // 4),
        resident_at=at,
        vram=row.get("vram", 0),
        chat_template=row.get("chat_template", ""),
        told=None if listed is None else Listed(**listed),
        remote=Remote(**row["remote"]) if "remote" in row else None,
        info=row.get("info", {}),
        tensors=tuple(row.get("tensors", ())),
        quantized=row.get("quantized", {}),
    )
    _RECORDED[model.manifest] = model
    return model


_RECORDED: dict[str, Model] = {}
"""The recorded models by manifest: whoever makes one of them again gets its digest."""

_MODELS = {
    release: [(_recorded_model(row), bool(row.get("installed", True))) for row in rows]
    for release, rows in recorded.MODELS.items()
}


class ModelRegistry:
    """The installed models, the stored blobs, and the models that can be pulled."""

    def __init__(self, release: str = NEWEST) -> None:
        self._models: dict[tuple[str, str, str, str], Model] = {}
        self._published: dict[tuple[str, str, str, str], Model] = {}
        self._replacements = 0
        self.blobs: set[str] = set()
        """Digests (hexadecimal) of the stored blobs."""
        for model, is_installed in _MODELS[release]:
            if is_installed:
                self.put(model)
            self._published[model.name.key] = model

    def __iter__(self) -> Iterator[Model]:
        return iter(self.installed())

    def installed(self) -> list[Model]:
        """Return the models in the order of lists: the last modified first (by the second), then by name."""
        return sorted(self._models.values(), key=lambda model: (-(model.modified // 10**9), model.name.key))

    def find(self, name: Name | str) -> Model | None:
        """Return the model with a name in any spelling, None if there is none."""
        parsed = naming.parse(name) if isinstance(name, str) else name
        return self._models.get(parsed.key) if parsed else None

    def get(self, name: str) -> Model:
        """Return the model with a name. Raise KeyError."""
        model = self.find(name)
        if model is None:
            raise KeyError(name)
        return model

    def digest(self, name: str) -> str:
        """Return the digest of a model. Raise KeyError."""
        return self.get(name).digest

    def put(self, model: Model) -> None:
        """Install a model, in place of one with the same name."""
        self._models[model.name.key] = model
        self.blobs.update(layer.digest for layer in model.layers)

    def canonical(self, name: Name) -> Name:
        """Return the name with each part spelled as in the first installed model that has it."""
        parts = {"host": name.host, "namespace": name.namespace, "model": name.model, "tag": name.tag}
        for part, text in parts.items():
            spellings = (getattr(model.name, part) for model in self._models.values())
            parts[part] = next((known for known in spellings if known.lower() == text.lower()), text)
        return Name(**parts)

    def add(  # noqa: PLR0913 - the properties of a model
        self,
        name: str,
        *,
        embedding: bool = False,
        width: int = 64,
        template: str = "{{ .System }}{{ .Prompt }}",
        parameters: Mapping[str, Any] | None = None,
        thinking: bool = False,
        tools: bool = False,
        trained_context: int | None = None,
    ) -> str:
        """Install a new model without a request, and return its digest."""
        base = self.published_like("all-minilm" if embedding else "tiny")
        parsed = naming.known(name)
        layers = [Layer(kind=WEIGHTS, digest=sha256(f"weights of {parsed.full}"), size=base.weights.size)]
        if not embedding:
            layers.append(text_layer(TEMPLATE, template))
        if parameters:
            layers.append(parameters_layer(parameters))
        added = {"thinking": thinking, "tools": tools}
        capabilities = (*base.capabilities, *(name for name, is_there in added.items() if is_there))
        model = base.remade(
            parsed,
            layers,
            width=width,
            capabilities=capabilities,
            trained_context=trained_context or base.trained_context,
            quantized={},
            told=None,
        )
        self.put(model)
        return model.digest

    def replace(self, name: str) -> str:
        """Replace the weights of a model, as another client's pull would, and return the new digest."""
        model = self._other_weights(self.get(name))
        self.put(model)
        return model.digest

    def publish(self, name: str) -> str:
        """Make another version of a model, or a new one, available to pull, and return its digest."""
        parsed = naming.known(name)
        base = self.find(parsed) or self.published_like("tiny")
        model = replace(self._other_weights(base), name=parsed)
        self._published[parsed.key] = model
        return model.digest

    def published(self, name: Name) -> Model | None:
        """Return the model that a pull of a name fetches, None if there is none."""
        return self._published.get(name.key)

    def remove(self, name: Name | str) -> bool:
        """Remove a model and the blobs that no other model uses; return whether it was there."""
        model = self.find(name)
        if model is None:
            return False
        del self._models[model.name.key]
        used = {layer.digest for other in self._models.values() for layer in other.layers}
        self.blobs -= {layer.digest for layer in model.layers} - used
        return True

    def copy(self, source: Name, destination: Name) -> bool:
        """Copy a model to a second name with the same digest; return whether the source was there."""
        model = self.find(source)
        if model is None:
            return False
        self.put(replace(model, name=destination, modified=time.time_ns()))
        return True

    def published_like(self, name: str) -> Model:
        """Return the published model of a name. Raise KeyError."""
        return self._published[naming.known(name).key]

    def _other_weights(self, model: Model) -> Model:
        self._replacements += 1
        weights = replace(model.weights, digest=sha256(f"{model.weights.digest} replaced {self._replacements}"))
        layers = [weights if layer.kind == WEIGHTS else layer for layer in model.layers]
        return model.remade(model.name, layers, quantized={})
