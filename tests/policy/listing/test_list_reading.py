from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.policy.dialects.dialect import Storable
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.list_reading import Reading, has_vectors, read
from ollama_cache_proxy.policy.messages import ResponseHead
from ollama_cache_proxy.policy.status import Detail
from tests.support.lists import EMBED, V1, asking, reference, seen

HEAD = ResponseHead(status=200, reason="OK", fields=((b"content-type", b"application/json; charset=utf-8"),))
TEXTS = ("ab", "c")


def reading(body: bytes, path: str = EMBED, count: int = 2, *, as_base64: bool = False, check: bool = True) -> Reading:
    more: dict[str, Any] = {"encoding_format": "base64"} if as_base64 else {}
    return read(asking(path, *TEXTS, **more), count, HEAD, body, as_base64=as_base64, check=check)


@pytest.mark.parametrize(("path", "coded"), [(EMBED, False), (V1, False), (V1, True)])
def test_ollamas_own_form_has_no_frame_and_any_other_has_one(path: str, coded: bool) -> None:
    body = reference(path, TEXTS, coded=coded)
    own = reading(body, path, as_base64=coded)
    assert isinstance(own, Cut)
    assert own.frame == b""
    other = reading(json.dumps(json.loads(body)).encode(), path, as_base64=coded)
    assert isinstance(other, Cut)
    assert b"charset=utf-8" in other.frame
    assert (other.numbers, other.tokens) == (own.numbers, own.tokens)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"embeddings":[[1],[2]],"id":7,"prompt_eval_count":5}', Storable(prompt_tokens=5, output_tokens=None)),
        (b'{"embeddings":[[1],[2]],"id":7}', Storable(prompt_tokens=None, output_tokens=None)),
        (b'{"error":"no"}', Detail.ANSWER_ERROR),
        (b"<html>", Detail.INCOMPLETE),
        (b"[1]", Detail.INCOMPLETE),
        (b'{"embeddings":[[1]]}', Detail.ANSWER_COUNT),
        (b'{"embeddings":[[1],[2,3]]}', Detail.ANSWER_COUNT),
        (b'{"embeddings":[[1],[]]}', Detail.ANSWER_COUNT),
        (b'{"embeddings":[[1],[1e999]]}', Detail.INCOMPLETE),
    ],
)
def test_what_a_response_without_a_cut_is_good_for(body: bytes, expected: Reading) -> None:
    assert reading(body) == expected


def test_as_many_vectors_are_expected_as_were_asked_for() -> None:
    assert reading(reference(EMBED, ("c",)), count=2) is Detail.ANSWER_COUNT
    assert isinstance(reading(reference(EMBED, ("c",)), count=1), Cut)


def test_numbers_past_float32_are_no_numbers_of_ollama() -> None:
    body = b'{"model":"m","embeddings":[[1e+39],[2]],"prompt_eval_count":5}'
    checked, unchecked = reading(body), reading(body, check=False)
    assert isinstance(checked, Cut)
    assert isinstance(unchecked, Cut)
    assert checked.frame
    assert not unchecked.frame


def test_a_list_with_an_odd_text_is_never_stored_whole() -> None:
    odd = seen(EMBED, '{"model":"m","input":["a",""]}')
    assert odd.odd == {"": b'""'}
    body = b'{"embeddings":[[1],[2]],"id":7}'
    assert read(odd, 2, HEAD, body, as_base64=False) is Detail.ANSWER_FORM


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":"e"}', False),
        (b'{"error":"e","embeddings":null}', False),
        (b'{"error":"e","embeddings":[]}', False),
        (b'{"error":null,"embeddings":[[1]]}', True),
        (b'{"error":"e","embeddings":[[1],[2]]}', True),
        (b"e", False),
        (b"[]", False),
    ],
)
def test_an_error_may_stand_beside_vectors(body: bytes, expected: bool) -> None:
    assert has_vectors(seen(EMBED, '{"model":"m","input":["a"]}'), (body[:9], body[9:])) is expected
