from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.workbench.shown import at_odds, dates, own_context, shares_runners, weights
from tests.policy.test_usage import chunks_of
from tests.support.recordings import RECORDINGS

RECORDED = b"".join(chunks_of(RECORDINGS["0.24"]["show"]))
BLOB, OTHER = "a" * 64, "b" * 64


def shown(blob: str = BLOB, **more: Any) -> dict[str, Any]:
    return {"modelfile": f"# FROM x\n\nFROM /models/blobs/sha256-{blob}\nTEMPLATE x\n", "template": "x", **more}


@pytest.mark.parametrize(
    ("modelfile", "digest"),
    [
        (f"# FROM tiny\n\nFROM /models/blobs/sha256-{BLOB}\nTEMPLATE {{{{ .Prompt }}}}\n", BLOB),
        (f"FROM C:\\Users\\me\\.ollama\\models\\blobs\\sha256-{BLOB}\nTEMPLATE x\n", BLOB),
        (f"# FROM /models/blobs/sha256-{BLOB}\nFROM tiny\n", None),
        ("", None),
        (None, None),
    ],
)
def test_the_weights_are_those_of_the_modelfile(modelfile: Any, digest: str | None) -> None:
    assert weights({"modelfile": modelfile}) == digest


def test_a_recorded_model_is_understood() -> None:
    told = json.loads(RECORDED)
    assert weights(told) == told["details"]["parent_model"].rpartition("sha256-")[2]
    assert own_context(told) is None
    assert dates(told) == ()


@pytest.mark.parametrize(
    ("parameters", "trained", "context"),
    [
        ("num_ctx                        8192\nstop    x", 131_072, 8192),
        ("stop    x\nnum_ctx                        8192", 4096, 4096),
        ("num_ctx                        8192", None, 8192),
        ("num_predict                        8192", 4096, None),
        (None, 4096, None),
    ],
)
def test_the_context_that_a_model_asks_for(parameters: Any, trained: int | None, context: int | None) -> None:
    info = {"general.architecture": "llama"} | ({} if trained is None else {"llama.context_length": trained})
    assert own_context({"parameters": parameters, "model_info": info}) == context
    assert own_context({}) is None


@pytest.mark.parametrize(
    ("version", "shares"),
    [("0.24.0", False), ("0.30.0", True), ("0.33.0-rc2", True), ("v1.0", True), ("0.9.6", False), ("dev", False)],
)
def test_since_when_models_share_a_runner(version: str, shares: bool) -> None:
    assert shares_runners(version) is shares


def test_models_of_one_file_that_are_rendered_differently_are_at_odds() -> None:
    models = {
        "plain": shown(),
        "copy": shown(system="another system text"),
        "jinja": shown(template="{{ messages }}"),
        "alone": shown(OTHER, template="y"),
        "untold": {"template": "z"},
    }
    assert at_odds(models) == [[["copy", "plain"], ["jinja"]]], "those that are rendered alike stand together"
    del models["jinja"]
    assert at_odds(models) == []
    assert at_odds({"a": shown(), "b": shown(renderer="glimmer")}) == [[["a"], ["b"]]]
