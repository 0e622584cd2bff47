from __future__ import annotations

from typing import Any, cast

import pytest

from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.core.outcome import Outcome, Visit, exchange_fact
from ollama_cache_proxy.policy.buffers import Buffers
from ollama_cache_proxy.policy.endpoints import find
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.status import CacheStatus, Detail, FwdReason, Result

MISS = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS)
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST = Request(method="POST", target="/api/generate", fields=((b"traceparent", TRACE),))


class Client:
    def __init__(self, first_byte_at: float | None) -> None:
        self.first_byte_at = first_byte_at
        self.sent = 12


def visit(first_byte_at: float | None = 101.5, **known: Any) -> Visit:
    endpoint, _ = find("POST", "/api/generate")
    client = cast("Any", Client(first_byte_at))
    return Visit(endpoint=endpoint, client=client, hold=Buffers(0).hold(), begun=100.0, **known)


def test_an_outcome_is_told_as_one_fact() -> None:
    outcome = Outcome(cache=MISS, status=200, upstream_seconds=1.0, prompt_tokens=3, output_tokens=8)
    fact = exchange_fact(visit(model="tiny", outcome=outcome, first_token_at=101.75), REQUEST, 102.0, ended=True)
    assert (fact.operation, fact.model, fact.method) == ("generate", "tiny", "POST")
    assert (fact.cache, fact.status, fact.error) == (MISS, 200, None)
    assert (fact.seconds, fact.first_byte, fact.first_token, fact.upstream_seconds) == (2.0, 1.5, 1.75, 1.0)
    assert (fact.prompt_tokens, fact.output_tokens, fact.bytes_sent) == (3, 8, 12)
    assert fact.trace == TRACE.decode().split("-")[1]
    assert (fact.key, fact.category) == ("", "")


def test_a_client_that_leaves_before_any_decision_is_a_bypass() -> None:
    fact = exchange_fact(visit(None), REQUEST, 102.0, ended=False)
    assert fact.cache.detail is Detail.CLIENT_LEFT
    assert (fact.status, fact.first_byte, fact.error) == (0, None, Source.CLIENT)


def test_a_client_that_leaves_in_the_middle_is_reported_with_what_was_known() -> None:
    fact = exchange_fact(visit(outcome=Outcome(cache=MISS, status=200)), REQUEST, 102.0, ended=False)
    assert (fact.cache, fact.status, fact.error) == (MISS, 200, Source.CLIENT)


@pytest.mark.parametrize("length", [80, 81, 4000])
def test_a_name_that_clients_choose_is_told_in_80_characters(length: int) -> None:
    assert exchange_fact(visit(model="m" * length), REQUEST, 102.0, ended=True).model == "m" * 80
