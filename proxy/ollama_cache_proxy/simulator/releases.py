"""The releases of Ollama that the simulator speaks, and what differs between them. Pure.

Each difference is a field here, taken from two recordings and from Ollama's source (tags v0.24.0 and v0.33.0-rc2; the
file is named where it decides); models, texts and vectors are in `recorded`. Since 0.30 models run in llama.cpp's own
server, whose errors then reach the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ollama_cache_proxy.simulator import naming
from ollama_cache_proxy.simulator.prompt_slots import LONGEST, SIMILAR, SlotRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One release of Ollama; lengths in tokens."""

    version: str
    """What /api/version says."""
    context_length: int
    """The context of a model whose request and parameters name none."""
    repeat_penalty: float
    """The default of this option (`api/types.go`): it changes which tokens are chosen."""
    lists_capabilities: bool
    """/api/tags has `capabilities`, and the lengths in `details` (`server/model_list_cache.go`)."""
    parent_is_path: bool
    """/api/show has the path of the weights as `parent_model`."""
    full_name_when_missing: bool
    """/api/show and /v1/models/… name a missing model with its tag."""
    generative_vectors: bool
    """A generative model embeds; else it answers NO_EMBEDDINGS with 501, or 500 on /api/embeddings."""
    ignores_images: bool
    """A model without vision takes images for text; else it answers NO_IMAGES with 400."""
    halves_prompt: bool
    """A prompt over the context loses half of what may go (`llm/llama_server.go`); else only what is over. Without
    `shift` it is then a 400, and without `truncate` an error of llama.cpp's server."""
    slot_rules: SlotRules
    """Which slot of the prompt cache a request takes."""
    openai_deltas: bool
    """/v1/chat/completions streams the role once, an empty delta with the reason, and one `created`
    (`middleware/openai.go`)."""
    efforts: Mapping[str, str | bool]
    """The values of OpenAI's `reasoning_effort`, and the `think` that each one means (`openai/openai.go`)."""
    efforts_listed: str
    """These values in the text of an error."""
    effort_quote: str
    """The quotation mark around the refused value in that text, on /v1/chat/completions."""
    quantizing_is_told: bool
    """/api/create reports the progress of a quantization; else it is silent until it is done."""
    drafts: bool
    """/api/create knows draft models (`server/create.go`)."""

    def missing(self, model: str) -> str:
        """Return how a missing model, which has a valid name, is called where models are shown."""
        return naming.known(model).shortest if self.full_name_when_missing else model


_EFFORTS: dict[str, str | bool] = {"high": "high", "medium": "medium", "low": "low", "max": "max", "none": False}

RELEASES: Mapping[str, Release] = {
    "0.24": Release(
        version="0.24.0",
        context_length=512,
        repeat_penalty=1.1,
        lists_capabilities=False,
        parent_is_path=True,
        full_name_when_missing=False,
        generative_vectors=True,
        ignores_images=True,
        halves_prompt=False,
        slot_rules=LONGEST,
        openai_deltas=False,
        efforts=_EFFORTS,
        efforts_listed='"high", "medium", "low", "max", or "none"',
        effort_quote="'",
        quantizing_is_told=True,
        drafts=False,
    ),
    "0.33": Release(
        version="0.33.0-rc2",
        context_length=4096,
        repeat_penalty=1.0,
        lists_capabilities=True,
        parent_is_path=False,
        full_name_when_missing=True,
        generative_vectors=False,
        ignores_images=False,
        halves_prompt=True,
        slot_rules=SIMILAR,
        openai_deltas=True,
        efforts={**_EFFORTS, "minimal": "low", "xhigh": "max", "ultra": "max"},
        efforts_listed='"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"',
        effort_quote='"',
        quantizing_is_told=False,
        drafts=True,
    ),
}
"""The releases by the name that `simulate --ollama` takes."""

NEWEST = "0.33"

NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
NO_IMAGES = (
    '{"error":{"code":400,"message":"Multimodal data provided, but model does not support multimodal requests.",'
    '"type":"invalid_request_error"}}'
)
TOO_LONG_TO_SHIFT = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the"
    " context length in settings, or use a model with a longer context length"
)


def too_long(prompt: int, context: int) -> str:
    """Return llama.cpp's error for a prompt over the context that may not be truncated (`tools/server`)."""
    return (
        f'{{"error":{{"code":400,"message":"request ({prompt} tokens) exceeds the available context size'
        f' ({context} tokens), try increasing it","type":"exceed_context_size_error",'
        f'"n_prompt_tokens":{prompt},"n_ctx":{context}}}}}'
    )
