from __future__ import annotations

import re
from pathlib import Path

import pytest

from ollama_cache_proxy.policy.status import CACHE_NAME, CacheStatus, Detail, FwdReason, Result, bypass

TOKEN = re.compile(r"[a-z][a-z0-9-]*")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        pytest.param(CacheStatus(result=Result.HIT, ttl=12), "ollama-cache-proxy; hit; ttl=12", id="hit"),
        pytest.param(CacheStatus(result=Result.HIT), "ollama-cache-proxy; hit", id="hit of unknown lifetime"),
        pytest.param(
            CacheStatus(result=Result.HIT, ttl=1, detail=Detail.TTL_IGNORED),
            "ollama-cache-proxy; hit; ttl=1; detail=ttl-ignored",
            id="hit with a remark",
        ),
        pytest.param(
            CacheStatus(result=Result.HIT, fwd=FwdReason.MISS, collapsed=True),
            "ollama-cache-proxy; fwd=miss; collapsed",
            id="a collapsed hit was forwarded, if by another: hit and fwd exclude each other",
        ),
        pytest.param(
            CacheStatus(result=Result.MISS, fwd=FwdReason.MISS, stored=True, ttl=3600),
            "ollama-cache-proxy; fwd=miss; stored; ttl=3600",
            id="miss that is kept",
        ),
        pytest.param(
            CacheStatus(result=Result.MISS, fwd=FwdReason.STALE, detail=Detail.INCOMPLETE),
            "ollama-cache-proxy; fwd=stale; detail=incomplete",
            id="miss that is not kept",
        ),
        pytest.param(
            CacheStatus(result=Result.MISS, fwd=FwdReason.REQUEST),
            "ollama-cache-proxy; fwd=request",
            id="by the client's wish",
        ),
        pytest.param(
            CacheStatus(result=Result.BYPASS, detail=Detail.ONLY_IF_CACHED),
            "ollama-cache-proxy; detail=only-if-cached",
            id="neither hit nor forwarded",
        ),
        pytest.param(
            bypass(Detail.COOKIE),
            "ollama-cache-proxy; fwd=bypass; detail=cookie",
            id="bypass",
        ),
        pytest.param(
            CacheStatus(
                result=Result.MISS,
                fwd=FwdReason.MISS,
                stored=True,
                collapsed=True,
                ttl=0,
                detail=Detail.TTL_IGNORED,
            ),
            "ollama-cache-proxy; fwd=miss; stored; collapsed; ttl=0; detail=ttl-ignored",
            id="every parameter, in order",
        ),
    ],
)
def test_cache_status_reads_as_rfc_9211_wants_it(status, text):
    assert status.render() == text.encode()


@pytest.mark.parametrize(
    ("known", "of", "told"),
    [(0, 0, ""), (0, 5, ""), (1, 5, "; known=1; of=5"), (4, 5, "; known=4; of=5"), (5, 5, ""), (1, 1, "")],
)
def test_of_a_list_it_is_told_how_many_texts_were_known_if_some_were_and_not_all(known, of, told):
    status = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS, detail=Detail.ITEMS, known=known, of=of)
    assert status.render().decode() == f"ollama-cache-proxy; fwd=miss; detail=items{told}"


@pytest.mark.parametrize("detail", list(Detail), ids=lambda detail: detail.name)
def test_every_detail_is_a_token_and_makes_a_bypass(detail):
    assert TOKEN.fullmatch(detail.value)
    assert bypass(detail) == CacheStatus(result=Result.BYPASS, fwd=FwdReason.BYPASS, detail=detail)


def test_no_two_details_share_a_text():
    texts = [detail.value for detail in Detail.__members__.values()]
    assert len(texts) == len(Detail.__members__) == len(set(texts)) == len(list(Detail))


def test_the_forward_reasons_are_those_of_the_rfc():
    registered = {"bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"}
    assert {reason.value for reason in FwdReason} <= registered


def test_the_results_are_what_x_cache_says():
    assert {result.value for result in Result} == {"HIT", "MISS", "BYPASS"}


def test_the_cache_name_is_a_token():
    assert TOKEN.fullmatch(CACHE_NAME)


def test_results_and_reasons_have_the_names_that_clients_see() -> None:
    assert list(Result) == ["HIT", "MISS", "BYPASS"]
    assert list(FwdReason) == ["bypass", "miss", "request", "stale"]


@pytest.mark.parametrize("detail", Detail)
def test_a_detail_has_the_name_that_the_documentation_tells(detail: Detail) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cache-rules.md").read_text("utf-8")
    assert f"| `{detail}` | {detail.meaning} |" in text
