"""What Ollama reads again of prompts, end to end: in each dialect, whatever way its responses take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support import canary
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.terminal import piped
from tests.support.upstream import answering, byte_upstream, whole
from tests.support.waiting import until

PREFIX = "ollama_cache_proxy_"
RULES = "Be brief, say what you know, and ask where you do not know. " * 60
AGENT = {"User-Agent": "claude-cli/2.1.37 (external, cli)", "X-Cache-Category": "coding"}
USER = {"role": "user", "content": "Why is the sky blue? " * 20}


def system(turn: int) -> str:
    return f"{'You help with code. ' * 10}cch={turn * 40_503 % 0xFFFFF:05x}; {RULES}"


def chat(turn: int) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": system(turn)}, *history(turn)]}


def history(turn: int) -> list[dict[str, str]]:
    return [USER, *([{"role": "assistant", "content": "x"}, USER] * turn)]


FORMS: dict[str, tuple[str, Any, str]] = {
    "/api/generate": (
        "generate",
        lambda turn: {"system": system(turn), "prompt": USER["content"], "options": {"temperature": 1}},
        "system",
    ),
    "/api/chat": ("chat", chat, "messages[0].content"),
    "/v1/chat/completions": ("v1-chat", chat, "messages[0].content"),
    "/v1/completions": ("v1-completions", lambda turn: {"prompt": system(turn)}, "prompt"),
    "/v1/responses": (
        "v1-responses",
        lambda turn: {"instructions": system(turn), "input": history(turn)},
        "instructions",
    ),
    "/v1/messages": (
        "v1-messages",
        lambda turn: {
            "system": [{"type": "text", "text": system(turn)}],
            "messages": history(turn),
            "max_tokens": 9,
        },
        "system[0].text",
    ),
}


async def post(url: str, path: str, body: Any, **more: Any) -> RawAnswer:
    answer = await ask(url, "POST", path, body=json.dumps({"model": "tiny", **body}).encode(), fields=AGENT, **more)
    assert answer.status == 200, answer.body
    return answer


async def prompts(proxy: Proxy) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await ask(proxy.url, "GET", "/api/cache/prompts")).body)
    return found


def value(proxy: Proxy, name: str, **labels: str) -> float | None:
    return proxy.running.metrics.registry.get_sample_value(PREFIX + name, labels)


def simulated(*, tells: bool = True) -> Simulator:
    return Simulator(Behaviour(completion_delay=0.01, prompt_cache=True, tells_cached=tells))


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", FORMS)
async def test_a_beginning_that_changes_is_named_in_every_dialect(path: str, streamed: bool) -> None:
    operation, form, where = FORMS[path]
    async with simulated() as ollama, proxy_before(ollama.url) as proxy:
        for turn in range(5):
            await post(proxy.url, path, {**form(turn), "stream": streamed})
        found = await prompts(proxy)
        lost = [
            value(proxy, "prompt_lost_tokens_total", model="tiny:latest", cause="changed", where=part)
            for part in ("prompt" if operation == "v1-completions" else "system",)
        ]
    (finding,) = found["findings"]
    assert (finding["client"], finding["category"], finding["model"]) == ("claude-cli", "coding", "tiny:latest")
    assert (finding["operation"], finding["cause"], finding["times"]) == (operation, "changed", 4)
    assert (finding["path"], finding["at"], finding["changes"]) == (where, 192, "id")
    assert finding["sentence"].startswith(
        f"claude-cli [coding] ({operation}, tiny:latest): an id changes at byte 192 of"
    )
    assert lost == [finding["tokens"]]
    assert found["prompts"] == 5


@pytest.mark.parametrize("path", [path for path in FORMS if path not in ("/api/generate", "/v1/completions")])
@pytest.mark.parametrize("tells", [True, False], ids=["told", "timed"])
async def test_a_conversation_that_goes_on_is_reused_and_nothing_is_said(path: str, tells: bool) -> None:
    operation, form, _ = FORMS[path]
    async with simulated(tells=tells) as ollama, proxy_before(ollama.url) as proxy:
        for turn in range(5):
            body = {
                **form(turn),
                **{name: part for name, part in form(0).items() if name in ("system", "instructions")},
            }
            if "messages" in body and "system" not in body:
                body["messages"][0] = form(0)["messages"][0]
            await post(proxy.url, path, body)
        found = await prompts(proxy)
        forecast = {
            source: value(proxy, "prompt_forecast_tokens_total", endpoint=operation, model="tiny:latest", source=source)
            for source in ("reused", "computed")
        }
    assert (found["findings"], found["sentence"]) == ([], "")
    assert forecast == {"reused": found["reusedTokens"], "computed": found["tokens"] - found["reusedTokens"]}
    assert found["reusedTokens"] > found["tokens"] / 2
    if tells:
        assert found["error"] <= 0.1


async def test_where_it_is_switched_off_nothing_is_looked_at() -> None:
    async with simulated() as ollama, proxy_before(ollama.url, prompt_watch=False) as proxy:
        for turn in range(5):
            await post(proxy.url, "/api/chat", {**chat(turn), "stream": False})
        found = await prompts(proxy)
        assert (found["watched"], found["prompts"], found["findings"]) == (False, 0, [])
        assert (
            value(proxy, "prompt_forecast_tokens_total", endpoint="chat", model="tiny:latest", source="computed")
            is None
        )


async def test_the_same_bytes_go_out_and_come_back_with_and_without_it() -> None:
    async with simulated() as ollama:
        answers = []
        for watched in (True, False):
            async with proxy_before(ollama.url, prompt_watch=watched) as proxy:
                got = await post(proxy.url, "/api/chat", {**chat(1), "stream": False, "options": {"seed": 1}})
                answers.append(sorted(name for name, _ in got.fields))
        assert answers[0] == answers[1]


async def test_a_large_prompt_is_looked_at_in_turns() -> None:
    big = {"role": "user", "content": RULES * 166}
    async with simulated() as ollama, proxy_before(ollama.url) as proxy:
        for _ in range(2):
            await post(proxy.url, "/api/chat", {"messages": [big], "stream": False})
        await until(
            lambda: value(proxy, "prompt_forecast_tokens_total", endpoint="chat", model="tiny:latest", source="reused")
        )
        found = await prompts(proxy)
    assert found["prompts"] == 2
    assert found["reusedTokens"] > 0.49 * found["tokens"]


async def test_a_client_that_leaves_has_had_its_prompt_read() -> None:
    async with simulated() as ollama, proxy_before(ollama.url) as proxy:
        body = json.dumps({"model": "tiny", **chat(0)}).encode()
        async with await RawConnection.open(proxy.url) as connection:
            connection.send("POST", "/api/chat", body=body)
            await connection.head()
        await until(
            lambda: value(
                proxy, "prompt_forecast_tokens_total", endpoint="chat", model="tiny:latest", source="computed"
            )
        )
        await post(proxy.url, "/api/chat", {**chat(0), "stream": False})
        assert (await prompts(proxy))["reusedTokens"] > 0


async def test_doctor_and_advise_say_it() -> None:
    async with simulated() as ollama, proxy_before(ollama.url) as proxy:
        for turn in range(5):
            await post(proxy.url, "/v1/messages", FORMS["/v1/messages"][1](turn))
        advice = await piped("advise", "--url", proxy.url)
        told = json.loads((await piped("advise", "--url", proxy.url, "--json")).out)
        doctor = json.loads((await piped("doctor", "--url", proxy.url, "--upstream", ollama.url, "--json")).out)
    (row,) = [row for row in doctor["findings"] if row["check"] == "Prompts"]
    assert row["level"] == "warning"
    assert row["text"].startswith(
        "claude-cli [coding] (v1-messages, tiny:latest): an id changes at byte 192 of system[0].text"
    )
    assert (
        row["fix"]
        == 'set CLAUDE_CODE_ATTRIBUTION_HEADER=0 where Claude Code runs, or stable_prefix = ["claude-code"] here'
    )
    assert told["prompts"]["findings"][0]["sentence"] == row["text"]
    assert "To do: set CLAUDE_CODE_ATTRIBUTION_HEADER=0" in advice.out


DONE = (
    b'{"model":"tiny","message":{"role":"assistant","content":"x"},"done":true,"done_reason":"stop","total_duration":9,'
    b'"prompt_eval_count":900,"prompt_eval_duration":800000000,"eval_count":1,"eval_duration":1}'
)


async def test_nothing_of_a_prompt_shows_anywhere() -> None:
    async with byte_upstream(answering(whole(DONE))) as ollama, proxy_before(ollama.url, log_requests="on") as proxy:
        for turn in range(6):
            properties = {canary.PROMPT: {"description": f"{RULES} {canary.PROMPT} {turn} {RULES}"}}
            tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}]
            messages = [{"role": "user", "content": f"{canary.PROMPT} {'why ' * 100}"}]
            await post(proxy.url, "/api/chat", {"messages": messages, "tools": tools, "stream": False})
        text = (await ask(proxy.url, "GET", "/api/cache/prompts")).body.decode()
        canary.check(text, "the route")
        (finding,) = json.loads(text)["findings"]
        assert finding["path"] == "tools[0].function.parameters.properties.….description"
