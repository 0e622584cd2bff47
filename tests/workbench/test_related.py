from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.workbench.related import Installed, notes, refusal


def shown(weights: str, **more: Any) -> dict[str, Any]:
    info = {"general.architecture": "qwen3", "qwen3.block_count": 28, "qwen3.embedding_length": 1024}
    return {"modelfile": f"# x\n\nFROM /m/blobs/sha256-{weights * 64}\nTEMPLATE x\n", "model_info": info} | more


SOURCE = Installed(
    name="m:fp16",
    digest="a" * 64,
    level="F16",
    size=1500,
    family="qwen3",
    parameters="751.63M",
    embeds=False,
    shown=shown("a"),
)
Q4 = replace(SOURCE, name="m:q4", digest="b" * 64, level="Q4_K_M", size=500, shown=shown("b"))


def dimensions(layers: int | None, width: int | None) -> dict[str, Any]:
    info = {"general.architecture": "qwen3", "qwen3.block_count": layers, "qwen3.embedding_length": width}
    return shown("b", model_info=info)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (Q4, ""),
        (replace(Q4, digest=SOURCE.digest), "m:q4 is the same model as m:fp16: both have the digest aaaaaaaaaaaa"),
        (replace(Q4, shown=shown("a", template="y")), "m:q4 has the weights of m:fp16: both are made of one GGUF file"),
        (replace(Q4, embeds=True), "m:q4 only embeds, and m:fp16 completes"),
        (replace(Q4, family="llama"), "m:q4 is of another family than m:fp16: llama, not qwen3"),
        (replace(Q4, family=""), ""),
        (replace(Q4, parameters="596.05M"), ""),
        (
            replace(Q4, parameters="1.7B"),
            "m:q4 is not of the size of m:fp16: 1.7B parameters, 28 layers, width 1024, not 751.63M parameters, 28",
        ),
        (replace(Q4, parameters="501.08M"), "m:q4 is not of the size"),
        (replace(Q4, parameters="many"), ""),
        (replace(Q4, parameters="", shown=dimensions(28, 2048)), "28 layers, width 2048, not 751.63M parameters, 28"),
        (replace(Q4, shown=dimensions(36, 1024)), "m:q4 is not of the size"),
        (replace(Q4, shown=dimensions(None, None)), ""),
        (replace(Q4, shown={}), ""),
    ],
)
def test_what_is_no_quantization_of_the_source(other: Installed, why: str) -> None:
    told = refusal(SOURCE, other)
    assert why in told
    assert bool(told) is bool(why)


def test_a_source_that_embeds_is_not_compared_with_a_model_that_completes() -> None:
    assert refusal(replace(SOURCE, embeds=True), Q4) == "m:fp16 only embeds, and m:q4 completes"


def test_models_that_do_not_tell_their_weights_are_not_taken_for_one() -> None:
    assert refusal(replace(SOURCE, shown={}), replace(Q4, shown={})) == ""


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Q4, []),
        (
            replace(Q4, parameters="596.05M"),
            ["m:q4 has 596.05M parameters and m:fp16 751.63M: it may be another model"],
        ),
        (replace(Q4, family=""), ["Ollama does not tell whether m:q4 is of the family and size of m:fp16"]),
        (replace(Q4, parameters=""), ["Ollama does not tell whether m:q4 is of the family and size of m:fp16"]),
        (
            replace(Q4, size=1501),
            ["m:q4 is larger than m:fp16, with which it is compared; name the largest first"],
        ),
        (
            replace(Q4, shown=shown("b", template="y", system="z")),
            ["m:q4 has another template and system text than m:fp16, which changes completions too"],
        ),
        (
            replace(Q4, shown=shown("b", parameters="top_k 1")),
            ["m:q4 has another set of parameters than m:fp16, which changes completions too"],
        ),
    ],
)
def test_what_may_mislead_is_noted(other: Installed, told: list[str]) -> None:
    assert notes(SOURCE, other) == told


def test_the_order_of_parameters_is_no_difference() -> None:
    """Ollama lists them from a map."""
    one = replace(SOURCE, shown=shown("a", parameters="top_k 1\nstop x"))
    assert notes(one, replace(Q4, shown=shown("b", parameters="stop x\ntop_k 1"))) == []


def test_templates_do_not_matter_to_vectors() -> None:
    other = replace(Q4, embeds=True, shown=shown("b", template="y"))
    assert notes(replace(SOURCE, embeds=True), other) == []
