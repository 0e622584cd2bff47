from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy import endpoints
from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, Kind
from ollama_cache_proxy.policy.template_dates import dates, renders, request_writes_date, writes_date

JINJA = """{%- if not date_string is defined %}{%- if strftime_now is defined %}
{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}{%- endif %}"""


def candidate(path: str, **document: Any) -> Candidate:
    endpoint, _ = endpoints.find("POST", path)
    return Candidate(endpoint=endpoint, model="m", document=document, items=1)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ .System }}{{ .Prompt }}", ()),
        ("Current date: {{ currentDate }}", ("currentDate",)),
        ('{{- currentDate "x" }} {{ currentDate }}{{yesterdayDate}}', ("currentDate", "yesterdayDate")),
        (JINJA, ("date_string", "strftime_now")),
        ("{{ raise_exception('x') }}{{ messages[0]['updated'] }} mydatetime", ()),
        ("{{ datetime }}", ("datetime",)),
        ("", ()),
        (None, ()),
        (5, ()),
    ],
)
def test_the_words_that_write_a_date(template: Any, words: tuple[str, ...]) -> None:
    assert dates(template) == words


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        ({"template": "{{ currentDate }}", "details": {}}, ("currentDate",)),
        ({"template": "{{ .Prompt }}", "renderer": "glimmer"}, ("the renderer glimmer",)),
        ({"template": "{{ .Prompt }}", "renderer": "qwen3-coder"}, ()),
        ({"template": "{{ .Prompt }}", "system": "currentDate"}, ()),
        ({"renderer": ["glimmer"]}, ()),
        ({}, ()),
    ],
)
def test_what_of_a_model_writes_the_date(shown: dict[str, Any], found: tuple[str, ...]) -> None:
    assert writes_date(shown) == found


def test_every_endpoint_but_those_of_vectors_renders() -> None:
    kinds = {row.path: row.kind for row in ENDPOINTS if row.method == "POST"}
    found = {path for path in kinds if renders(candidate(path))}
    assert found == {path for path, kind in kinds.items() if kind in (Kind.COMPLETION, Kind.CHAT)}
    assert {"/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions"} <= found


@pytest.mark.parametrize(("raw", "rendered"), [(True, False), (False, True), (None, True), ("true", True), (1, True)])
def test_a_raw_prompt_is_not_rendered(raw: Any, rendered: bool) -> None:
    assert renders(candidate("/api/generate", raw=raw)) is rendered
    assert renders(candidate("/api/chat", raw=raw)), "which has no such field"


def test_a_template_of_the_request_counts_where_ollama_reads_one() -> None:
    assert request_writes_date(candidate("/api/generate", template="{{ currentDate }}"))
    assert not request_writes_date(candidate("/api/generate", template="{{ .Prompt }}", prompt="currentDate"))
    assert not request_writes_date(candidate("/api/generate", template=None))
    assert not request_writes_date(candidate("/api/chat", template="{{ currentDate }}"))
