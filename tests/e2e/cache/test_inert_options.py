"""What says nothing to Ollama does not make it work twice: options of well-known clients, and `dimensions`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support import upstream as support
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.upstream import Conversation, byte_upstream, whole

LANGCHAIN = dict.fromkeys(
    (
        *("mirostat", "mirostat_eta", "mirostat_tau", "num_ctx", "num_gpu", "num_thread", "repeat_last_n"),
        *("repeat_penalty", "temperature", "stop", "tfs_z", "top_k", "top_p"),
    )
)
CLIENTS: dict[str, dict[str, Any]] = {
    "ollama-python": {},
    "LangChain": {"options": LANGCHAIN},
    "Haystack": {"options": {}},
    "LangChainGo": {"options": {"temperature": 0}},
    "null": {"options": None},
}


async def post(proxy: Proxy, path: str, body: Any) -> RawAnswer:
    answer = await ask(proxy.url, "POST", path, body=json.dumps(body).encode())
    await proxy.kept()
    return answer


def asked(simulator: Simulator) -> int:
    return sum(request.method == "POST" for request in simulator.received)


@pytest.mark.parametrize("first", CLIENTS)
async def test_clients_that_say_nothing_in_other_words_share_a_text(
    first: str, proxy: Proxy, simulator: Simulator
) -> None:
    text = {"model": "all-minilm", "input": "a"}
    assert (await post(proxy, "/api/embed", text | CLIENTS[first])).field("X-Cache") == "MISS"
    for client, more in CLIENTS.items():
        assert (await post(proxy, "/api/embed", text | more)).field("X-Cache") == "HIT", client
    assert (await post(proxy, "/v1/embeddings", text)).field("X-Cache") == "HIT"
    assert asked(simulator) == 1
    assert (await post(proxy, "/api/embed", text | {"options": {"num_ctx": 64}})).field("X-Cache") == "MISS"


@pytest.mark.parametrize("path", ["/api/generate", "/api/embeddings"])
async def test_null_options_share_an_entry_elsewhere_too(path: str, proxy: Proxy, simulator: Simulator) -> None:
    model = "all-minilm" if path == "/api/embeddings" else "tiny"
    body = {"model": model, "prompt": "why", "stream": False}
    for more in ({}, {"options": LANGCHAIN}, {"options": {}}, {"options": None}):
        await post(proxy, path, body | more)
    assert asked(simulator) == 1


async def test_a_sampling_option_of_a_wrong_type_gets_ollamas_error(proxy: Proxy, simulator: Simulator) -> None:
    text = {"model": "all-minilm", "input": "a"}
    await post(proxy, "/api/embed", text)
    for _ in range(2):
        answer = await post(proxy, "/api/embed", text | {"options": {"temperature": "0"}})
        assert answer.field("Cache-Status") == "ollama-cache-proxy; fwd=bypass; detail=field-type"
    assert asked(simulator) == 3


NUMBERS = [0.5, -0.5, 0.5, -0.5]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the upstreams of these tests be an Ollama 0.33 that tells how many numbers its vectors have."""
    details = {"embedding_length": len(NUMBERS)}
    rows = {"models": [{"name": "all-minilm:latest", "digest": "d2", "details": details}]}
    monkeypatch.setattr(support, "TAGS", json.dumps(rows).encode())
    monkeypatch.setattr(support, "VERSION", b'{"version":"0.33.0"}')


async def embeds(talk: Conversation) -> None:
    """Answer /api/embed as `EmbedHandler` does: cut what has more numbers than `dimensions`."""
    body = json.loads(await talk.read_body())
    most = body.get("dimensions") or len(NUMBERS)
    vector = NUMBERS[:most] if 0 < most < len(NUMBERS) else NUMBERS
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    answer = {"model": body["model"], "embeddings": [vector] * len(texts)}
    answer |= {"total_duration": 5, "load_duration": 2, "prompt_eval_count": len(texts)}
    await talk.write(whole(json.dumps(answer, separators=(",", ":")).encode()))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("first", [None, 4, 5, 1024, 0])
async def test_dimensions_not_below_the_models_own_width_share_a_text(first: int | None) -> None:
    async with byte_upstream(embeds) as upstream, proxy_before(upstream.url) as proxy:
        text = {"model": "all-minilm", "input": "a"}
        bodies = {
            value: (await post(proxy, "/api/embed", text | {"dimensions": value})).body
            for value in (first, None, 0, 4, 5, 1024)
        }
        assert len(set(bodies.values())) == 1
        asks = 2 if first == len(NUMBERS) else 1  # with exactly so many, Ollama may have shortened the vector
        assert len(upstream.seen) == asks
        assert json.loads(upstream.seen[0].body) == text | {"dimensions": first}, "it goes out as the client sent it"
        cut = await post(proxy, "/api/embed", text | {"dimensions": 3})
        assert json.loads(cut.body)["embeddings"] == [NUMBERS[:3]]
        assert (await post(proxy, "/api/embed", text | {"dimensions": 4})).body == bodies[4]
        assert len(upstream.seen) == asks + 1


@pytest.mark.usefixtures("narrow")
async def test_a_width_that_ollama_tells_wrongly_changes_no_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`info` of /api/create may override `embedding_length` with any number."""
    monkeypatch.setattr(support, "TAGS", support.TAGS.replace(b'"embedding_length": 4', b'"embedding_length": 2'))
    async with byte_upstream(embeds) as upstream, proxy_before(upstream.url) as proxy:
        orders = ((3, None), (None, 3), (3, 1024, None, 3), (2, None, 2), (2, 3, None), (4, None), (1024, 2, 3, 4, 2))
        for order in orders:
            text = {"model": "all-minilm", "input": str(order)}
            for value in order:
                answer = await post(proxy, "/api/embed", text | {"dimensions": value})
                assert json.loads(answer.body)["embeddings"] == [NUMBERS[: value or 4]]
