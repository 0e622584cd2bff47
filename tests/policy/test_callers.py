from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.callers import Callers, agent_of, callers
from ollama_cache_proxy.policy.endpoints import ENDPOINTS

BY_NAME = {row.operation: row for row in ENDPOINTS}


@pytest.mark.parametrize(
    ("texts", "operation", "agents", "included"),
    [
        ((), "v1-chat", (), False),
        ((), "v1-chat", (b"Go-http-client/1.1",), False),
        (("v1-chat",), "v1-chat", (), True),
        (("v1-chat",), "chat", (), False),
        (("chat", "v1-chat"), "v1-chat", (b"x",), True),
        (("agent:Go-http-client/",), "v1-chat", (b"Go-http-client/1.1",), True),
        (("agent:Go-http-client/",), "v1-chat", (b"go-http-client/1.1",), False),
        (("agent:Go-http-client/",), "v1-chat", (b"My Go-http-client/1.1",), False),
        (("agent:Go-http-client/",), "v1-chat", (), False),
        (("agent:a", "agent:b", "generate"), "chat", (b"bc",), True),
        (("agent:a",), "chat", (b"x", b"ab"), True),
        (("agent:chat",), "chat", (), False),
    ],
)
def test_which_requests_a_setting_names(
    texts: tuple[str, ...], operation: str, agents: tuple[bytes, ...], included: bool
) -> None:
    fields = ((b"Accept", b"Go-http-client/1.1"), *((b"User-agent", agent) for agent in agents))
    assert callers(texts).include(BY_NAME[operation], fields) is included


def test_nothing_is_named_by_default() -> None:
    assert callers(()) == Callers()


@pytest.mark.parametrize(
    "text", ["", "nonsense", "/api/chat", "Chat", "embed", "tags", "agent:", "agent: ", "Agent:x", "chat "]
)
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must name operations \(generate, chat, .*agent:"):
        callers(("chat", text))


def test_a_client_may_have_a_name_that_is_no_text() -> None:
    """A setting of the environment has such bytes as surrogates (PEP 383)."""
    assert callers(["agent:\udcff"]).include(BY_NAME["chat"], ((b"User-Agent", b"\xff/1"),))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"claude-cli/2.1.37 (external, cli)", "claude-cli"),
        (b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "Mozilla"),
        (b"python-httpx/0.28", "python-httpx"),
        (b"curl", "curl"),
        (b"a" * 300, "a" * 40),
        (b"(nothing)", ""),
        (b"", ""),
        (b"\xff\xfe", ""),
        (None, ""),
    ],
)
def test_the_class_of_a_client_is_its_first_product(value: bytes | None, expected: str) -> None:
    fields = ((b"Accept", b"*/*"),) if value is None else ((b"user-AGENT", value), (b"User-Agent", b"second/1"))
    assert agent_of(fields) == expected
