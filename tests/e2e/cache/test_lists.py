"""Embeddings item by item, end to end: every mask of known and unknown texts, both routes, both encodings."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Fault, Simulator
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, proxy_before
from tests.support.upstream import Conversation, byte_upstream, whole

MODEL = "all-minilm"


async def post(url: str, path: str, body: Any, **fields: str) -> RawAnswer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await ask(url, "POST", path, body=json.dumps(body).encode(), fields=named)


async def embed(url: str, texts: Any, route: str = "/api/embed", **more: Any) -> RawAnswer:
    return await post(url, route, {"model": MODEL, "input": texts, **more})


def vectors(answer: RawAnswer) -> list[Any]:
    document = json.loads(answer.body)
    return document["embeddings"] if "embeddings" in document else [row["embedding"] for row in document["data"]]


def asked(simulator: Simulator) -> list[Any]:
    return [json.loads(seen.body)["input"] for seen in simulator.received if "embed" in seen.target]


LISTS = [["a"], ["a", "b"], ["a", "b", "a"], ["c", "a", "b", "c"], ["a", "a"]]
ROUTES = [("/api/embed", {}), ("/v1/embeddings", {}), ("/v1/embeddings", {"encoding_format": "base64"})]


@pytest.mark.parametrize(("route", "more"), ROUTES, ids=["embed", "v1", "base64"])
@pytest.mark.parametrize("texts", LISTS, ids="".join)
async def test_every_mask_gives_what_ollama_gives(
    texts: list[str], route: str, more: dict[str, Any], proxy: Proxy, simulator: Simulator
) -> None:
    direct = await embed(simulator.url, texts, route, **more)
    unique = list(dict.fromkeys(texts))
    for mask in itertools.product((False, True), repeat=len(unique)):
        await ask(proxy.url, "POST", "/api/cache/clear")
        known = [text for text, is_known in zip(unique, mask, strict=True) if is_known]
        for text in known:
            await embed(proxy.url, text)
        before = len(asked(simulator))
        answer = await embed(proxy.url, texts, route, **more)
        absent = [text for text in unique if text not in known]
        sent = asked(simulator)[before:]
        if not absent:
            assert sent == []
            assert answer.field("X-Cache") == "HIT"
        else:
            assert sent == [absent if known else texts], "where nothing is known, what the client sent"
            assert answer.field("X-Cache") == "MISS"
            counted = sum(text in known for text in texts)
            status = answer.field("Cache-Status") or ""
            assert (f"known={counted}; of={len(texts)}" in status) == bool(counted)
        assert vectors(answer) == vectors(direct)
        mine, theirs = json.loads(answer.body), json.loads(direct.body)
        assert list(mine) == list(theirs)
        if "usage" in theirs:
            assert mine["model"] == theirs["model"]
            assert [list(row.items())[0::2] for row in mine["data"]] == [
                list(row.items())[0::2] for row in theirs["data"]
            ]
        assert answer.field("Content-Type") == direct.field("Content-Type")
        again = await embed(proxy.url, texts, route, **more)
        assert vectors(again) == vectors(direct)


async def test_the_token_counts_are_exact_where_each_text_was_asked_alone(proxy: Proxy, simulator: Simulator) -> None:
    texts = ["one two three", "four", "five six"]
    for text in texts:
        await embed(proxy.url, text)
    answer = await embed(proxy.url, texts)
    direct = await embed(simulator.url, texts)
    assert answer.field("Cache-Status") == "ollama-cache-proxy; hit; ttl=86400"
    assert json.loads(answer.body)["prompt_eval_count"] == json.loads(direct.body)["prompt_eval_count"]


async def test_an_estimate_is_named_and_holds_in_sum(proxy: Proxy) -> None:
    texts = ["one two three", "four", "five six"]
    first = await embed(proxy.url, texts)
    again = await embed(proxy.url, texts)
    assert again.field("Cache-Status") == "ollama-cache-proxy; hit; ttl=86400; detail=estimated-usage"
    assert again.body == first.body
    alone = await embed(proxy.url, "four")
    assert alone.field("X-Cache") == "MISS", "a single text is answered with an exact count only"


async def test_what_one_route_has_embedded_the_other_knows(proxy: Proxy) -> None:
    assert (await embed(proxy.url, "a")).field("X-Cache") == "MISS"
    for route, more in ROUTES:
        for texts in ("a", ["a"], ["a", "a"]):
            assert (await embed(proxy.url, texts, route, **more)).field("X-Cache") == "HIT"
    assert (await embed(proxy.url, "a", "/v1/embeddings", user="x", truncate=False)).field("X-Cache") == "HIT"
    for more in ({"dimensions": 8}, {"truncate": False}, {"options": {"num_ctx": 64}}, {"unknown": 1}):
        assert (await embed(proxy.url, "a", **more)).field("X-Cache") == "MISS"
    assert (await post(proxy.url, "/api/embeddings", {"model": MODEL, "prompt": "a"})).field("X-Cache") == "MISS"


async def test_items_belong_to_their_authorization_and_namespace(proxy: Proxy) -> None:
    await embed(proxy.url, "a")
    body = {"model": MODEL, "input": "a"}
    for fields in ({"Authorization": "Bearer x"}, {"X_Cache_Namespace": "n"}, {"Origin": "http://localhost"}):
        assert (await post(proxy.url, "/api/embed", body, **fields)).field("X-Cache") == "MISS"


async def test_directives_hold_for_the_list(proxy: Proxy, simulator: Simulator) -> None:
    body = {"model": MODEL, "input": ["a", "b"]}
    await embed(proxy.url, "a")
    refused = await post(proxy.url, "/api/embed", body, Cache_Control="only-if-cached")
    assert refused.status == 504
    await post(proxy.url, "/api/embed", body, Cache_Control="no-cache")
    assert asked(simulator)[-1] == ["a", "b"]


async def test_one_bad_text_fails_the_list_with_ollamas_own_words(proxy: Proxy, simulator: Simulator) -> None:
    long = "word " * 900
    await embed(proxy.url, "a", truncate=False)
    answer = await embed(proxy.url, ["a", long], truncate=False)
    direct = await embed(simulator.url, ["a", long], truncate=False)
    assert (answer.status, answer.body) == (direct.status, direct.body) == (400, direct.body)


async def test_equal_lists_at_once_are_one_request(proxy: Proxy, simulator: Simulator) -> None:
    await embed(proxy.url, "a")
    simulator.gate.close()
    tasks = [asyncio.create_task(embed(proxy.url, ["a", "b"])) for _ in range(3)]
    await simulator.arrived(2)
    async with asyncio.timeout(10):
        while proxy.running.exchanges.waiting < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    simulator.gate.open()
    assert len({(await task).body for task in tasks}) == 1
    assert asked(simulator) == ["a", ["b"]]


async def test_a_part_that_cannot_be_joined_is_asked_anew_once_and_kept_whole() -> None:
    """The list has a member that only the whole response can have; after the first such part, none is asked for."""
    bodies = {
        "a": b'{"model":"all-minilm","embeddings":[[1,2]],"total_duration":1,"load_duration":1,"prompt_eval_count":1}',
        "b": b'{"model":"all-minilm","embeddings":[[3,4],[5,6]],"prompt_eval_count":1}',
    }
    whole_list = b'{"model":"all-minilm","embeddings":[[1,2],[3,4]],"total_duration":1,"extra":1,"prompt_eval_count":2}'

    async def script(talk: Conversation) -> None:
        texts = json.loads(await talk.read_body())["input"]
        one = texts if isinstance(texts, str) else texts[0]
        await talk.write(whole(whole_list if len(texts) == 2 else bodies[one]))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as own:
        assert (await embed(own.url, "a")).field("X-Cache") == "MISS"
        first = await embed(own.url, ["a", "b"])
        assert first.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; stored; ttl=86400"
        second = await embed(own.url, ["a", "b"])
        assert second.field("Cache-Status") == "ollama-cache-proxy; hit; ttl=86400"
        assert first.body == second.body == whole_list
        assert [json.loads(talk.body)["input"] for talk in upstream.seen] == ["a", ["b"], ["a", "b"]]
        await embed(own.url, ["a", "c"])
        assert [json.loads(talk.body)["input"] for talk in upstream.seen][3:] == [["a", "c"]]


NO_NUMBERS = pytest.mark.parametrize(
    ("wrong", "detail"), [("[3,.4]", "incomplete"), ("[3,1e39]", "answer-count")], ids=["no-json", "no-float32"]
)


@NO_NUMBERS
async def test_a_vector_of_no_numbers_is_handed_on_as_it_came_and_not_kept(wrong: str, detail: str) -> None:
    async def script(talk: Conversation) -> None:
        texts = json.loads(await talk.read_body())["input"]
        await talk.write(whole(answer(*({"a": "[1,2]"}.get(text, wrong) for text in texts))))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, ["a"])
        for times in (1, 2):
            assert f'"embeddings":[[1,2],{wrong}]'.encode() in (await embed(own.url, ["a", "b"])).body
            await own.kept()
            metrics = (await ask(own.url, "GET", "/metrics")).body.decode()
            assert f'ollama_cache_proxy_unkept_total{{detail="{detail}",endpoint="embed"}} {times}.0' in metrics
        assert [json.loads(talk.body)["input"] for talk in upstream.seen] == [["a"], ["b"], ["b"]]


@pytest.mark.parametrize("wrong", ["[3,.4]", "[3,1e39]"], ids=["no-json", "no-float32"])
async def test_what_cannot_be_written_as_base64_is_asked_anew(wrong: str) -> None:
    async def script(talk: Conversation) -> None:
        request = json.loads(await talk.read_body())
        if request.get("encoding_format") == "base64":
            await talk.write(whole(b"Ollama's own"))
            return
        row = {"a": "[1,2]", "b": wrong}[request["input"][0]]
        data, usage = f'{{"object":"embedding","embedding":{row},"index":0}}', '{"prompt_tokens":1,"total_tokens":1}'
        await talk.write(whole(f'{{"object":"list","data":[{data}],"model":"{MODEL}","usage":{usage}}}\n'.encode()))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, ["a"], "/v1/embeddings")
        seen = await embed(own.url, ["a", "b"], "/v1/embeddings", encoding_format="base64")
        assert seen.body == b"Ollama's own"
        assert seen.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=incomplete"
        assert [json.loads(talk.body)["input"] for talk in upstream.seen] == [["a"], ["b"], ["a", "b"]]


@pytest.mark.parametrize("wrong", ["[]", "[3]", "[3,4,5]"])
async def test_vectors_of_one_answer_that_differ_in_length_are_asked_anew(wrong: str) -> None:
    async def script(talk: Conversation) -> None:
        texts = json.loads(await talk.read_body())["input"]
        await talk.write(whole(answer(*({"c": wrong}.get(text, "[1,2]") for text in texts))))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, ["a"])
        seen = await embed(own.url, ["a", "b", "c"])
        assert seen.body == answer("[1,2]", "[1,2]", wrong)
        assert seen.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=answer-count"
        assert [json.loads(talk.body)["input"] for talk in upstream.seen] == [["a"], ["b", "c"], ["a", "b", "c"]]


async def test_a_model_that_changes_meanwhile_mixes_no_vectors(proxy: Proxy, simulator: Simulator) -> None:
    await embed(proxy.url, "a")
    simulator.gate.close()
    task = asyncio.create_task(embed(proxy.url, ["a", "b"]))
    await simulator.arrived(2)
    await post(proxy.url, "/api/create", {"model": MODEL, "from": MODEL, "template": "x"})
    simulator.gate.open()
    answer = await task
    assert asked(simulator)[-1] == ["a", "b"]
    assert vectors(answer) == vectors(await embed(simulator.url, ["a", "b"]))
    assert "stored" not in (answer.field("Cache-Status") or "")


def answer(*vectors: str) -> bytes:
    joined = ",".join(vectors)
    return f'{{"model":"{MODEL}","embeddings":[{joined}],"total_duration":9,"load_duration":3,"prompt_eval_count":{len(vectors)}}}'.encode()


async def test_a_model_replaced_behind_our_back_is_not_mixed_with_what_is_known(
    proxy: Proxy, simulator: Simulator
) -> None:
    """The table is young, so the change would show only in seconds: a join looks once more."""
    await embed(proxy.url, "a")
    before = vectors(await embed(proxy.url, "a"))
    simulator.models.replace(MODEL)
    joined = await embed(proxy.url, ["a", "b"])
    assert vectors(joined) == vectors(await embed(simulator.url, ["a", "b"]))
    assert vectors(joined)[0] != before[0]
    assert joined.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=model-changed"


async def test_vectors_of_two_lengths_are_never_joined() -> None:
    narrow = True

    async def script(talk: Conversation) -> None:
        texts = json.loads(await talk.read_body())["input"]
        count = 1 if isinstance(texts, str) else len(texts)
        await talk.write(whole(answer(*(["[1,2]" if narrow else "[1,2,3]"] * count))))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, "a")
        narrow = False
        await embed(own.url, "b")
        for texts in (["a", "b"], ["a", "c"]):
            assert {len(vector) for vector in vectors(await embed(own.url, texts))} == {3}


async def test_a_part_of_another_length_shows_that_the_model_has_changed() -> None:
    """Nothing of the whole list that is asked for then may be stored under the digest of the old one."""
    width = 2

    async def script(talk: Conversation) -> None:
        texts = json.loads(await talk.read_body())["input"]
        await talk.write(whole(answer(*([str([*range(width)]).replace(" ", "")] * len(texts)))))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, ["a"])
        width = 3
        for _ in range(2):
            seen = await embed(own.url, ["a", "b"])
            assert {len(vector) for vector in vectors(seen)} == {3}
            assert seen.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=model-changed"
        assert [json.loads(talk.body)["input"] for talk in upstream.seen[1:]] == [["b"], ["a", "b"]] * 2


async def test_a_text_that_stands_there_often_is_not_multiplied_without_bound(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, max_list_bytes=100_000) as own:
        for _ in range(2):
            seen = await embed(own.url, ["a"] * 100)
            assert vectors(seen) == vectors(await embed(simulator.url, ["a"] * 100))
            assert seen.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=answer-too-large"
        await embed(own.url, "a")
        assert (await embed(own.url, "a")).field("X-Cache") == "HIT"


async def test_a_list_that_must_be_young_joins_nobody(proxy: Proxy, simulator: Simulator) -> None:
    body = {"model": MODEL, "input": ["a", "b"]}
    simulator.gate.close()
    first = asyncio.create_task(post(proxy.url, "/api/embed", body))
    await simulator.arrived(1)
    second = asyncio.create_task(post(proxy.url, "/api/embed", body, Cache_Control="max-age=5"))
    await simulator.arrived(2)
    simulator.gate.open()
    assert [(await task).field("X-Cache") for task in (first, second)] == ["MISS", "MISS"]


async def test_what_v1_embedded_has_all_the_members_on_the_other_route(proxy: Proxy, simulator: Simulator) -> None:
    await embed(proxy.url, "a", "/v1/embeddings")
    seen, direct = await embed(proxy.url, "a"), await embed(simulator.url, "a")
    assert seen.field("X-Cache") == "HIT"
    assert list(json.loads(seen.body)) == list(json.loads(direct.body))


async def test_a_broken_upstream_is_a_502_and_keeps_nothing(proxy: Proxy, simulator: Simulator) -> None:
    await embed(proxy.url, "a")
    simulator.fault = lambda seen: Fault.RESET_MID_BODY if seen.target == "/api/embed" else None
    assert (await embed(proxy.url, ["a", "b"])).status == 502
    simulator.fault = None
    assert (await embed(proxy.url, ["a", "b"])).field("X-Cache") == "MISS"


async def test_items_are_counted_apart(proxy: Proxy) -> None:
    await embed(proxy.url, "a")
    await embed(proxy.url, ["a", "b", "a"])
    metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
    assert 'ollama_cache_proxy_items_total{cache="hit",endpoint="embed"} 2.0' in metrics
    assert 'ollama_cache_proxy_items_total{cache="miss",endpoint="embed"} 2.0' in metrics


# Lists with an odd text


ODD = {
    "blank": b'""',
    "a lone surrogate": rb'"a\ud800b"',
    "a lone surrogate in capitals": rb'"\uDC00"',
    "no UTF-8": b'"caf\xe9"',
    "a surrogate as bytes": b'"\xed\xa0\x80"',
}


def listed(*texts: bytes) -> bytes:
    return b'{"model":"all-minilm","input":[' + b",".join(texts) + b"]}"


@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
@pytest.mark.parametrize("route", ["/api/embed", "/v1/embeddings"])
async def test_beside_an_odd_text_the_others_are_known(
    route: str, odd: bytes, proxy: Proxy, simulator: Simulator
) -> None:
    cold = listed(b'"one"', odd, b'"two"', odd)
    first = await ask(proxy.url, "POST", route, body=cold)
    direct = await ask(simulator.url, "POST", route, body=cold)
    assert (first.status, vectors(first)) == (direct.status, vectors(direct))
    sent = [seen.body for seen in simulator.received if seen.target == route]
    assert sent == [cold, cold], "nothing is known: as the client sent it"
    assert (await embed(proxy.url, ["two", "one"], route)).field("X-Cache") == "HIT"
    for texts, missing in (
        ((b'"two"', odd, b'"three"', b'"one"'), (odd, b'"three"')),
        ((odd, b'"three"', odd), (odd,)),
        ((b'"one"', odd), (odd,)),
    ):
        answer = await ask(proxy.url, "POST", route, body=listed(*texts))
        (*_, last) = [seen.body for seen in simulator.received if seen.target == route]
        assert last == listed(*missing), "as the client wrote it"
        direct = await ask(simulator.url, "POST", route, body=listed(*texts))
        assert (answer.status, vectors(answer)) == (direct.status, vectors(direct))
        assert answer.field("X-Cache") == "MISS"


async def test_an_odd_text_that_ollama_refuses_fails_the_list_in_its_words(proxy: Proxy, simulator: Simulator) -> None:
    await embed(proxy.url, "one")
    for odd in (b"5", b"null", b'["nested"]', b"{}", b"true"):
        before = len(simulator.received)
        for route in ("/api/embed", "/v1/embeddings"):
            answer = await ask(proxy.url, "POST", route, body=listed(b'"one"', odd))
            direct = await ask(simulator.url, "POST", route, body=listed(b'"one"', odd))
            assert (answer.status, answer.body) == (direct.status, direct.body)
            assert answer.status == 400
        assert len([seen for seen in simulator.received[before:] if "embed" in seen.target]) == 4


async def test_a_minus_zero_in_a_text_is_no_number(proxy: Proxy, simulator: Simulator) -> None:
    code = "x = [1, -0, 2]; y = (1, -0 ,)"
    assert (await embed(proxy.url, ["one", code])).field("X-Cache") == "MISS"
    assert (await embed(proxy.url, [code, "one"])).field("X-Cache") == "HIT"
    for path, member in (("/api/generate", "prompt"), ("/api/embeddings", "prompt")):
        body = {"model": MODEL if "embed" in path else "tiny", member: code, "stream": False}
        assert (await post(proxy.url, path, body)).field("X-Cache") == "MISS"
        assert (await post(proxy.url, path, body)).field("X-Cache") == "HIT"


async def test_lists_that_differ_in_an_odd_text_are_not_one_request(proxy: Proxy, simulator: Simulator) -> None:
    """Go reads both as U+FFFD, another server may not: they join no flight of one another."""
    simulator.gate.close()
    bodies = [listed(b'"one"', text) for text in (rb'"\ud800"', rb'"\ud801"', '"\ufffd"'.encode(), b'"\xff"')]
    tasks = [asyncio.create_task(ask(proxy.url, "POST", "/api/embed", body=body)) for body in bodies]
    await simulator.arrived(4)
    simulator.gate.open()
    assert [(await task).field("X-Cache") for task in tasks] == ["MISS"] * 4


# Token counts


async def test_a_cold_list_with_duplicates_has_ollamas_own_count(proxy: Proxy, simulator: Simulator) -> None:
    texts = ["b", "a", "b", "hello"]
    for route in ("/api/embed", "/v1/embeddings"):
        await ask(proxy.url, "POST", "/api/cache/clear")
        answer, direct = await embed(proxy.url, texts, route), await embed(simulator.url, texts, route)
        assert count(answer) == count(direct) == 12
        assert "estimated" not in (answer.field("Cache-Status") or "")
        again = await embed(proxy.url, texts, route)
        assert again.field("X-Cache") == "HIT"
        assert count(again) == 12


def count(answer: RawAnswer) -> int:
    document = json.loads(answer.body)
    return document["usage"]["prompt_tokens"] if "usage" in document else document["prompt_eval_count"]


async def test_a_part_that_is_asked_alone_makes_no_estimate(proxy: Proxy, simulator: Simulator) -> None:
    for text in ("one two three", "four"):
        await embed(proxy.url, text)
    texts = ["four", "five six", "seven", "one two three"]
    answer, direct = await embed(proxy.url, texts), await embed(simulator.url, texts)
    assert count(answer) == count(direct)
    assert "detail=items" in (answer.field("Cache-Status") or "")


async def test_estimated_counts_let_a_text_of_a_list_answer_alone(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, estimated_counts=True) as own:
        await embed(own.url, ["one two three", "four"])
        for route, more in ROUTES:
            seen = await embed(own.url, "four", route, **more)
            assert seen.field("Cache-Status") == "ollama-cache-proxy; hit; ttl=86400; detail=estimated-usage"
            assert vectors(seen) == vectors(await embed(simulator.url, "four", route, **more))
        await embed(own.url, "alone")
        assert "estimated" not in ((await embed(own.url, "alone")).field("Cache-Status") or "")
