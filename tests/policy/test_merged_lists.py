from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.policy import endpoints
from ollama_cache_proxy.policy.merged_lists import is_list, merged

TAGS, PS, V1 = (endpoints.find("GET", path)[0] for path in ("/api/tags", "/api/ps", "/v1/models"))


def body(member: str, *rows: Any) -> bytes:
    return json.dumps({"object": "list", member: list(rows)}).encode()


def test_only_lists_of_models_are_merged() -> None:
    assert all(map(is_list, (TAGS, PS, V1)))
    assert not any(is_list(row) for row in endpoints.ENDPOINTS if row not in (TAGS, PS, V1))


@pytest.mark.parametrize("endpoint", [TAGS, PS])
def test_there_is_one_row_for_each_name_and_digest(endpoint: endpoints.Endpoint) -> None:
    one, same, other = ({"name": "m", "digest": digest, "at": at} for digest, at in (("1", 0), ("1", 1), ("2", 2)))
    found = merged(endpoint, [body("models", one), body("models", same, other)])
    assert json.loads(found) == {"object": "list", "models": [one, other]}


def test_openai_s_form_has_one_row_for_each_id() -> None:
    found = merged(V1, [body("data", {"id": "a"}), body("data", {"id": "b"}, {"id": "a"})])
    assert json.loads(found)["data"] == [{"id": "a"}, {"id": "b"}]


def test_rows_without_a_name_are_one_only_where_they_are_equal() -> None:
    found = merged(PS, [body("models", {"size": 1}), body("models", {"size": 2}, {"size": 1}, {"name": None})])
    assert json.loads(found)["models"] == [{"size": 1}, {"size": 2}, {"name": None}]


def test_a_list_may_be_null() -> None:
    assert json.loads(merged(PS, [b'{"models":null}', body("models", {"name": "m"})]))["models"] == [{"name": "m"}]


@pytest.mark.parametrize("wrong", [b"", b"[]", b'{"models": 5}', b'{"models": [5]}'])
def test_what_is_no_list_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        merged(TAGS, [body("models"), wrong])


def test_nothing_is_no_list() -> None:
    with pytest.raises(ValueError, match="no list"):
        merged(TAGS, [])
