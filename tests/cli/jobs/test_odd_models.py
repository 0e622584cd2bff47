"""What a server leaves out, or tells in another type, ends a job in one line if at all."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.cli.asking import client
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.jobs.api import Api
from ollama_cache_proxy.cli.jobs.benching import _chosen
from ollama_cache_proxy.cli.jobs.models import installed
from ollama_cache_proxy.cli.jobs.quantizing import _planned
from ollama_cache_proxy.workbench import related
from tests.cli.checks.test_odd_rows import ANSWERS, WHOLE, beside, variants
from tests.cli.checks.test_of_templates import canned

F16 = WHOLE["/api/tags"] | {"details": {"family": "llama", "quantization_level": "F16", "parameter_size": "4.0B"}}


@pytest.mark.parametrize("path", ["/api/tags", "/api/show", "/api/version"])
async def test_an_odd_member_is_no_traceback(path: str) -> None:
    answers: dict[str, Any] = {**ANSWERS, "/api/tags": beside(F16)}
    measured = 0
    async with canned(answers, {}) as url, client() as session:
        api = Api(session, url, title="Ollama", fix="start it")
        for variant in variants(F16 if path == "/api/tags" else WHOLE[path]):
            answers[path] = {"models": [variant, beside(F16)["models"][1]]} if path == "/api/tags" else variant
            assert await _chosen(api, "completion", None) is not None or path == "/api/show", variant
            try:
                one, two = [await installed(api, name) for name in ("tiny", "whole")]
                related.refusal(one, two), related.notes(one, two)
                await _planned(api, "tiny", ["q4_K_M"])
            except Failed:
                continue
            measured += 1
    assert measured > 0


async def test_without_a_size_nothing_is_compared() -> None:
    row = {name: value for name, value in F16.items() if name != "size"}
    async with canned({**ANSWERS, "/api/tags": {"models": [row]}}, {}) as url, client() as session:
        with pytest.raises(Failed, match="does not tell the size of tiny:latest"):
            await installed(Api(session, url, title="Ollama", fix="start it"), "tiny")
