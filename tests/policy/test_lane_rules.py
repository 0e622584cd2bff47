from __future__ import annotations

from typing import Any

import pytest

from ollama_cache_proxy.policy.endpoints import ENDPOINTS, OTHER, Endpoint
from ollama_cache_proxy.policy.lane_rules import (
    Batches,
    LaneRules,
    batches,
    client_of,
    lane_of,
    names_remote,
    texts_in,
    uses_lanes,
)
from ollama_cache_proxy.policy.tickets import Lane

BY_OPERATION = {row.operation: row for row in ENDPOINTS}
INTERACTIVE, BATCH = Lane.INTERACTIVE, Lane.BATCH
RULED = LaneRules(batches=batches(["embeddings", "category:docs", "agent:indexer/", "agent:py-"]))
TRUSTING = LaneRules(batches=batches(["category:docs"]), trusts_priority=True)
PLAIN = LaneRules(batches=Batches())


def low(urgency: int) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"Priority", b"u=%d" % urgency),)


AGENT = ((b"User-Agent", b"indexer/2.0"),)
OTHER_AGENT = ((b"User-Agent", b"my-indexer/2.0"),)

TABLE: list[tuple[LaneRules, str, Any, str, int, Lane]] = [
    # rules, operation, fields, category, texts, lane
    (PLAIN, "chat", (), "", 1, INTERACTIVE),
    (PLAIN, "generate", (), "", 1, INTERACTIVE),
    (PLAIN, "v1-messages", (), "docs", 1, INTERACTIVE),
    (PLAIN, "v1-transcriptions", (), "", 1, INTERACTIVE),
    (PLAIN, "embed", (), "", 1, INTERACTIVE),
    (PLAIN, "embed", (), "", 2, BATCH),
    (PLAIN, "v1-embeddings", (), "", 1000, BATCH),
    (PLAIN, "embeddings", (), "", 1, INTERACTIVE),
    (PLAIN, "chat", AGENT, "", 1, INTERACTIVE),
    (RULED, "embeddings", (), "", 1, BATCH),
    (RULED, "chat", (), "docs", 1, BATCH),
    (RULED, "chat", (), "doc", 1, INTERACTIVE),
    (RULED, "chat", AGENT, "", 1, BATCH),
    (RULED, "chat", OTHER_AGENT, "", 1, INTERACTIVE),
    (RULED, "embed", (*OTHER_AGENT, *AGENT), "", 1, BATCH),
    # Priority lowers, and raises only where it is trusted
    (PLAIN, "chat", low(3), "", 1, INTERACTIVE),
    (PLAIN, "chat", low(4), "", 1, BATCH),
    (PLAIN, "chat", low(7), "", 1, BATCH),
    (PLAIN, "embed", low(0), "", 16, BATCH),
    (PLAIN, "embed", low(3), "", 16, BATCH),
    (TRUSTING, "embed", low(2), "", 16, INTERACTIVE),
    (TRUSTING, "embed", low(3), "", 16, BATCH),
    (TRUSTING, "chat", low(0), "docs", 1, INTERACTIVE),
    (TRUSTING, "chat", low(4), "", 1, BATCH),
]


@pytest.mark.parametrize(("rules", "operation", "fields", "category", "texts", "lane"), TABLE)
def test_the_lane_of_a_request(  # noqa: PLR0917
    rules: LaneRules, operation: str, fields: Any, category: str, texts: int, lane: Lane
) -> None:
    assert lane_of(rules, BY_OPERATION[operation], fields, category=category, texts=texts) is lane


@pytest.mark.parametrize(
    ("endpoint", "uses"),
    [
        *((BY_OPERATION[name], True) for name in ("generate", "chat", "embed", "embeddings", "v1-transcriptions")),
        *((BY_OPERATION[name], False) for name in ("tags", "ps", "version", "pull", "delete", "show", "v1-models")),
        (OTHER, False),
    ],
)
def test_only_what_takes_ollamas_time_uses_lanes(endpoint: Endpoint, uses: bool) -> None:
    assert uses_lanes(endpoint) is uses


@pytest.mark.parametrize("text", ["", "chats", "tags", "agent:", "category:", "indexer/", "Category:docs"])
def test_a_text_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must name operations"):
        batches(["chat", text])


def test_what_a_setting_names() -> None:
    assert batches(["chat", "agent:py-", "category:docs", "agent:ü"]) == Batches(
        operations=frozenset({"chat"}), categories=frozenset({"docs"}), agents=(b"py-", "ü".encode())
    )


@pytest.mark.parametrize(
    ("operation", "body", "texts"),
    [
        ("embed", b'{"model":"m","input":["a","b","c"]}', 3),
        ("embed", b'{"model":"m","input":["a"]}', 1),
        ("embed", b'{"model":"m","input":[]}', 1),
        ("embed", b'{"model":"m","input":"a"}', 1),
        ("embed", b'{"model":"m"}', 1),
        ("embed", b'["a","b"]', 1),
        ("embed", b'{"input":["a","b"]', 1),
        ("embed", b'{"input":"' + b"x" * (1 << 18) + b'"}', 2),
        ("embed", None, 2),
        ("v1-embeddings", b'{"input":["a","b"]}', 2),
        ("embeddings", b'{"prompt":"a"}', 1),
        ("embeddings", None, 1),
        ("chat", b'{"messages":[{},{}]}', 1),
    ],
)
def test_how_many_texts_a_request_has_that_bypassed_the_cache(operation: str, body: bytes | None, texts: int) -> None:
    assert texts_in(BY_OPERATION[operation], body) == texts


@pytest.mark.parametrize(
    ("body", "remote"),
    [
        (b'{"model":"gpt-oss:120b-cloud","messages":[]}', True),
        (b'{"messages":[], "model" : "glm:CLOUD"}', True),
        (b'{"model":"cloudy","messages":[]}', False),
        (b'{"model":"tiny","messages":[{"content":"\\"model\\":\\"x-cloud\\""}]}', False),
        (b'{"model":"tiny"}', False),
        (b"", False),
        (None, False),
    ],
)
def test_whether_a_request_names_a_model_that_runs_elsewhere(body: bytes | None, remote: bool) -> None:
    assert names_remote(body) is remote


def test_a_client_is_its_credentials_and_only_without_any_its_address() -> None:
    key = b"k" * 16
    one = client_of(key, b"Bearer one", "10.0.0.1")
    assert one == client_of(key, b"Bearer one", "10.0.0.2")
    others = {
        client_of(key, b"Bearer two", "10.0.0.1"),
        client_of(key, b"", "10.0.0.1"),
        client_of(key, b"", "10.0.0.2"),
        client_of(key, b"10.0.0.1", ""),
        client_of(b"j" * 16, b"Bearer one", "10.0.0.1"),
    }
    assert len(others) == 5
    assert one not in others
    assert len(one) == 8
