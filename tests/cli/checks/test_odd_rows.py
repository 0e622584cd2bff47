"""Servers that only speak Ollama's API: what they leave out, or tell in another type, hides nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.cli import graphics
from ollama_cache_proxy.cli.checks.finding import Level
from tests.cli.checks.test_of_templates import NOWHERE, canned
from tests.cli.test_doctor import found, scene

TITLES = ("Ollama", "Models", "Templates", "Digests")
ODD = (None, 7, -1, 1.5, True, "x", "", [], {}, [None], {"x": None})
GONE = object()

TAG = {"name": "tiny:latest", "model": "tiny:latest", "digest": "d", "size": 9, "details": {"family": "llama"}}
LOADED = {
    **TAG,
    "expires_at": "2026-11-29T13:00:00Z",
    "size_vram": 4,
    "context_length": 4096,
}
SHOWN = {
    "modelfile": "FROM /models/blobs/sha256-" + "0" * 64,
    "parameters": "num_ctx                        8192",
    "template": "{{ .Prompt }}",
    "renderer": "x",
    "parser": "x",
    "details": {},
    "model_info": {"general.architecture": "llama", "llama.context_length": 8192},
    "capabilities": ["completion"],
}
VERSION = {"version": "0.33.0"}


def variants(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the document with each of its members left out, and with each odd value in its place."""
    for name in document:
        for odd in (GONE, *ODD):
            yield {key: value for key, value in (document | {name: odd}).items() if value is not GONE}


def beside(row: dict[str, Any]) -> dict[str, Any]:
    return {"models": [row, row | {"name": "whole:latest", "model": "whole:latest", "digest": "e"}]}


ANSWERS = {"/api/tags": beside(TAG), "/api/ps": beside(LOADED), "/api/show": SHOWN, "/api/version": VERSION}
WHOLE = {"/api/tags": TAG, "/api/ps": LOADED, "/api/show": SHOWN, "/api/version": VERSION}


@pytest.mark.parametrize("path", ANSWERS)
async def test_no_member_keeps_checks_from_their_findings(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphics, "known_at", _no_gpu)
    answers: dict[str, Any] = dict(ANSWERS)
    async with canned(answers, {}) as url:
        for variant in variants(WHOLE[path]):
            rows = {"models": [variant, ANSWERS[path]["models"][1]]} if path in ("/api/tags", "/api/ps") else variant
            answers[path] = rows
            async with scene(NOWHERE, url, tmp_path) as made:
                told = await found(made, *TITLES)
            texts = [finding.text for findings in told.values() for finding in findings]
            assert not [text for text in texts if "not understood" in text], variant
            if path == "/api/ps":
                assert any("4 B of 9 B of whole:latest" in text for text in texts), variant


@pytest.mark.parametrize("document", [None, 5, "x", [], [5], {}, {"models": None}, {"models": 5}, {"models": {}}])
async def test_neither_does_another_document(document: Any, tmp_path: Path) -> None:
    for path in ANSWERS:
        async with canned({**ANSWERS, path: document}, {}) as url, scene(NOWHERE, url, tmp_path) as made:
            told = await found(made, *TITLES)
        assert not [one.text for ones in told.values() for one in ones if "not understood" in one.text], path


async def test_what_is_not_told_is_said(tmp_path: Path) -> None:
    async with canned({**ANSWERS, "/api/ps": {"models": [{"name": "a"}]}}, {}) as url:
        async with scene(NOWHERE, url, tmp_path) as made:
            (finding,) = (await found(made, "Models"))["Models"]
    assert finding.level is Level.NOTE
    assert finding.text == "1 loaded; the server does not tell the context length or digest of each"


async def _no_gpu(_url: str) -> bool:
    return False
