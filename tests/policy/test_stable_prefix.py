"""What is pinned in the beginning of prompts, by tables: what fits a rule exactly, and what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.policy import endpoints
from ollama_cache_proxy.policy.endpoints import Endpoint
from ollama_cache_proxy.policy.stable_prefix import CLAUDE_CODE, PrefixRule, Stabilised, path_of, rule_of, stabilised
from ollama_cache_proxy.policy.steps import finish

MESSAGES, _ = endpoints.find("POST", "/v1/messages")
AGENT = b"claude-cli/2.1.114 (external, cli)"
MARK = "x-anthropic-billing-header: cc_version=2.1.114.76c; cc_entrypoint=cli; cch=ea6aa;"
PINNED = "x-anthropic-billing-header: cc_version=2.1.114.000; cc_entrypoint=cli; cch=00000;"


def fitted(
    body: Any,
    *,
    agent: bytes | None = AGENT,
    endpoint: Endpoint = MESSAGES,
    rules: tuple[PrefixRule, ...] = (CLAUDE_CODE,),
) -> Stabilised | None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = () if agent is None else ((b"User-Agent", agent),)
    return finish(stabilised(rules, endpoint, fields, raw))


def request(system: Any, **more: Any) -> dict[str, Any]:
    return {
        "model": "tiny",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "hey"}],
        "system": system,
        **more,
    }


def blocks(first: str, *others: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in (first, *others)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "system",
    [
        pytest.param(blocks(MARK, "Write code."), id="the first of several blocks"),
        pytest.param(blocks(MARK + "\nWrite code."), id="before other text"),
        pytest.param(MARK + " Write code.", id="a text"),
        pytest.param(blocks(MARK.replace("=cli", "=sdk-cli"), "Täglich."), id="another entry point"),
    ],
)
def test_only_the_marks_are_pinned_and_all_other_bytes_stay(system: Any, indent: int | None) -> None:
    raw = json.dumps(request(system), indent=indent, ensure_ascii=False).encode()
    found = fitted(raw)
    assert found is not None
    assert found.rule == "claude-code"
    assert len(found.body) == len(raw)
    assert found.body == raw.replace(b"76c;", b"000;").replace(b"ea6aa;", b"00000;")


@pytest.mark.parametrize(
    ("body", "agent"),
    [
        pytest.param(request(blocks("Write code.", MARK)), AGENT, id="in the second block"),
        pytest.param(request(blocks(" " + MARK)), AGENT, id="not at the beginning"),
        pytest.param(request("Write code."), AGENT, id="no mark"),
        pytest.param(request(None), AGENT, id="no system prompt"),
        pytest.param(request([]), AGENT, id="an empty one"),
        pytest.param(request([7]), AGENT, id="a number"),
        pytest.param(request(blocks(MARK.replace("ea6aa", "ea6a"))), AGENT, id="four digits"),
        pytest.param(request(blocks(MARK.replace("ea6aa", "ea6aa7"))), AGENT, id="six digits"),
        pytest.param(request(blocks(MARK.replace("ea6aa", "EA6AA"))), AGENT, id="capitals"),
        pytest.param(request(blocks(MARK.replace(".76c", ""))), AGENT, id="a version without its mark"),
        pytest.param(request(blocks(MARK.replace("; cch", "; later=1; cch"))), AGENT, id="something between"),
        pytest.param(request(blocks(MARK), messages=[{"role": "user", "content": MARK}]), AGENT, id="twice"),
        pytest.param({"model": "tiny", "messages": [{"role": "user", "content": MARK}]}, AGENT, id="in a message"),
        pytest.param(
            json.dumps(request(blocks(MARK))).replace("x-anth", "\\u0078-anth").encode(), AGENT, id="with an escape"
        ),
        pytest.param(
            json.dumps(request(blocks(MARK))).replace("x-anth", "\\u0078-anth").encode()[:-1]
            + b', "metadata": "'
            + MARK.encode()
            + b'"}',
            AGENT,
            id="with an escape, and without one elsewhere",
        ),
        pytest.param(b'{"system": [{"text": "' + MARK.encode() + b'"}', AGENT, id="no JSON"),
        pytest.param(b"[]", AGENT, id="no object"),
        pytest.param(request(blocks(MARK)), None, id="no User-Agent"),
        pytest.param(request(blocks(MARK)), b"curl/8.9", id="another client"),
        pytest.param(request(blocks(MARK)), b"claude-cli/2.1.35 (external, cli)", id="an older version"),
        pytest.param(request(blocks(MARK)), b"claude-cli/3.0.0 (external, cli)", id="one of which nothing is known"),
        pytest.param(request(blocks(MARK)), b"claude-cli/2.1", id="half a version"),
        pytest.param(request(blocks(MARK)), b"claude-cli/2.1.1145x", id="no version"),
    ],
)
def test_what_does_not_fit_exactly_is_left_alone(body: Any, agent: bytes | None) -> None:
    assert fitted(body, agent=agent) is None


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/api/generate", "/v1/responses", "/api/embed"])
def test_a_rule_is_for_its_endpoints(path: str) -> None:
    assert fitted(request(blocks(MARK)), endpoint=endpoints.find("POST", path)[0]) is None


def test_tokens_are_counted_as_they_came() -> None:
    counting, _ = endpoints.find("POST", "/v1/messages/count_tokens")
    assert fitted(request(blocks(MARK)), endpoint=counting) is None


def test_a_large_body_is_read_in_steps() -> None:
    body = request(blocks(MARK), messages=[{"role": "user", "content": "word " * 300_000}])
    steps = stabilised((CLAUDE_CODE,), MESSAGES, ((b"User-Agent", AGENT),), json.dumps(body).encode())
    count, found = 0, None
    try:
        while True:
            next(steps)
            count += 1
    except StopIteration as end:
        found = end.value
    assert found is not None
    assert json.loads(found.body)["system"][0]["text"] == PINNED
    assert count > 4


OWN = rule_of("own", path="messages[0].content", pattern="^Turn ([0-9]+) of ([0-9a-f]+)\\.", client="agent/")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_a_rule_of_ones_own_is_for_all_prompts(path: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "system", "content": "Turn 17 of 3fa. Go 17."}]}
    endpoint, _ = endpoints.find("POST", path)
    found = fitted(body, agent=b"agent/1", endpoint=endpoint, rules=(CLAUDE_CODE, OWN))
    assert found is not None
    assert json.loads(found.body)["messages"][0]["content"] == "Turn 00 of 000. Go 17."
    assert fitted(body, agent=b"other/1", endpoint=endpoint, rules=(CLAUDE_CODE, OWN)) is None
    upload, _ = endpoints.find("POST", "/api/embed")
    assert fitted(body, agent=b"agent/1", endpoint=upload, rules=(OWN,)) is None


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        pytest.param("^Turn (\\w+)", "Turn seven", id="a word"),
        pytest.param("^On ([0-9-]+)", "On 2026-11-30", id="a date"),
        pytest.param("^Turn ([0-9]*)", "Turn x", id="nothing"),
        pytest.param("^Turn ([0-9]+(.[0-9]+)?)", "Turn 1x2", id="a group in a group"),
        pytest.param("^Turn ([0-9]+)( of [0-9]+)?", "Turn 1", id="a group that takes no part"),
        pytest.param("^Turn ([0-9]+)", "Turn " + "1" * 65, id="too long"),
    ],
)
def test_only_digits_are_pinned(pattern: str, text: str) -> None:
    rule = rule_of("own", path="prompt", pattern=pattern)
    generate, _ = endpoints.find("POST", "/api/generate")
    assert fitted({"model": "m", "prompt": text}, endpoint=generate, rules=(rule,)) is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("system", ("system",)),
        ("system[0].text", ("system", 0, "text")),
        ("a.b_c[12][3].d", ("a", "b_c", 12, 3, "d")),
    ],
)
def test_paths_are_read(text: str, path: tuple[str | int, ...]) -> None:
    assert path_of(text) == path


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "[0]", "a[x]", "a[-1]", "a b", "a[0]b", "a.[0]", "$.a"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        path_of(text)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [("Turn ([0-9])", "begin with"), ("^Turn ([0-9]", "no regular expression"), ("^Turn [0-9]", "no group")],
)
def test_what_is_no_rule_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        rule_of("own", path="system", pattern=pattern)
