from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_cache_proxy.workbench.fidelity import Completing, Embedding
from ollama_cache_proxy.workbench.verdict import Measured, doubt, recommend

SOURCE = Measured(
    name="m:f16",
    level="F16",
    size=1000,
    memory=1200,
    vram=600,
    load=2.0,
    prompt_rate=500.0,
    output_rate=20.0,
    first_token=0.1,
)
TRUE = Completing(same_answer=0.4, same_next=0.96, divergence=0.02, divergence_high=0.1, contexts=100)
FALSE = replace(TRUE, same_next=0.7)


def result(name: str, size: int, fidelity: Completing | Embedding, rate: float = 40.0) -> Measured:
    return replace(SOURCE, name=name, size=size, memory=size, vram=size, output_rate=rate, fidelity=fidelity)


Q8, Q4 = result("m:q8", 530, TRUE), result("m:q4", 310, TRUE)


@pytest.mark.parametrize(
    ("results", "take", "says"),
    [
        ([Q8, Q4], "m:q4", ["31% of the size", "2 times as fast", "fits into the GPU's memory", "96%", "0.020 nats"]),
        ([Q4, Q8], "m:q4", ["31% of the size"]),
        (
            [Q8, replace(Q4, fidelity=FALSE)],
            "m:q8",
            ["53% of the size", "m:q4 has the source's next token in only 70%"],
        ),
        ([replace(Q8, fidelity=FALSE), replace(Q4, fidelity=FALSE)], "m:f16", ["m:q8 has", "m:q4 has"]),
        ([result("m:f16b", 990, TRUE)], "m:f16", ["m:f16b is 99% of the source's size, hardly smaller"]),
        ([result("m:f32", 2000, TRUE)], "m:f16", ["m:f32 is 200% of the source's size, not smaller"]),
        ([replace(Q4, name="slow", output_rate=10.0), replace(Q4, name="fast")], "fast", ["2 times as fast"]),
    ],
)
def test_the_smallest_that_is_true_to_its_source_is_taken(results: list[Measured], take: str, says: list[str]) -> None:
    verdict = recommend(SOURCE, results, gpu=True)
    assert verdict.take == take
    for text in says:
        assert text in verdict.why


def test_the_memory_of_a_gpu_speaks_only_where_it_makes_a_difference() -> None:
    fits = replace(SOURCE, vram=SOURCE.memory)
    on_cpu = replace(Q4, vram=0)
    assert "GPU" not in recommend(fits, [Q4], gpu=True).why
    assert "GPU" not in recommend(replace(SOURCE, vram=0), [on_cpu], gpu=True).why


@pytest.mark.parametrize("source", [SOURCE, replace(SOURCE, vram=None), replace(SOURCE, memory=None)])
def test_the_memory_of_a_gpu_that_nobody_knows_does_not_speak(source: Measured) -> None:
    """Ollama 0.33 counts buffers of a CPU with AMX as VRAM."""
    assert "GPU" not in recommend(source, [Q4], gpu=False).why
    assert ("GPU" in recommend(source, [Q4], gpu=True).why) is (source is SOURCE)


@pytest.mark.parametrize(
    ("fidelity", "why"),
    [
        (TRUE, ""),
        (replace(TRUE, same_next=0.9), ""),
        (replace(TRUE, same_next=0.899), "next token"),
        (replace(TRUE, divergence=0.1), ""),
        (replace(TRUE, divergence=0.11), "diverges"),
        (Completing(same_answer=0.5), ""),
        (Completing(same_answer=None, same_next=0.95, divergence=0.01), ""),
        (Completing(same_answer=0.49), "completes like its source for only 49%"),
        (Embedding(cosine=0.99, cosine_low=0.8, texts=8), ""),
        (Embedding(cosine=0.98, cosine_low=0.98, texts=8), "cosine of 0.9800"),
    ],
)
def test_what_casts_doubt(fidelity: Completing | Embedding, why: str) -> None:
    told = doubt(fidelity)
    assert why in told
    assert bool(told) is bool(why)


@pytest.mark.parametrize(
    ("rate", "says"), [(20.0, "about as fast"), (18.5, "about as fast"), (10.0, "0.5 times as fast")]
)
def test_how_fast_it_is_is_told(rate: float, says: str) -> None:
    assert says in recommend(SOURCE, [replace(Q4, output_rate=rate)], gpu=True).why


@pytest.mark.parametrize("rate", [0.0, None])
def test_a_source_without_a_rate_has_nothing_to_be_compared_with(rate: float | None) -> None:
    assert "fast" not in recommend(replace(SOURCE, output_rate=rate), [Q4], gpu=True).why
    assert "fast" not in recommend(SOURCE, [replace(Q4, output_rate=rate)], gpu=True).why


def test_a_model_that_embeds_is_told_by_its_cosine_and_its_time() -> None:
    source = replace(SOURCE, embeds=True, prompt_rate=None, output_rate=None, first_token=0.3)
    small = replace(
        source, name="small", size=400, first_token=0.1, fidelity=Embedding(cosine=0.997, cosine_low=0.99, texts=8)
    )
    verdict = recommend(source, [small], gpu=True)
    assert verdict.take == "small"
    assert "3 times as fast" in verdict.why
    assert "a cosine of 0.9970" in verdict.why


def test_what_completes_nothing_is_not_called_close() -> None:
    verdict = recommend(SOURCE, [replace(Q4, fidelity=Completing(same_answer=None))], gpu=True)
    assert (verdict.take, verdict.why) == ("m:f16", "m:q4 was not compared: its source completes nothing")
