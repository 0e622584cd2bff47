"""Lists from upstreams that write JSON otherwise than Ollama: one request each, the second one a hit, equal values."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from tests.support import list_forms
from tests.support.list_forms import Form
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import RedisServer, proxy_before
from tests.support.upstream import ByteUpstream, Conversation, byte_upstream, whole

MODEL = "all-minilm"


class Number(str):
    """A number as it is written."""

    __slots__ = ()


def told(body: bytes) -> Any:
    """Read JSON so that two responses are equal if they differ in blanks and in the order of names only.

    Durations are history.
    """
    document = json.loads(body, parse_float=Number, parse_int=Number)
    for name in ("total_duration", "load_duration"):
        if name in document:
            document[name] = "a time"
    if "data" in document and all("index" in row for row in document["data"]):
        document["data"].sort(key=lambda row: int(row["index"]))
    return document


def without_counts(document: Any) -> Any:
    """Leave out what is apportioned, but not whether it is told."""
    if isinstance(document.get("usage"), dict):
        document["usage"] = sorted(document["usage"])
    if document.get("prompt_eval_count") is not None:
        document["prompt_eval_count"] = "a count"
    return document


def script_of(form: Form):
    async def script(talk: Conversation) -> None:
        path = talk.request_line.split()[1].decode()
        await talk.write(list_forms.head(form, list_forms.answer(path, await talk.read_body(), form)))

    return script


async def embed(url: str, path: str, texts: Any, **more: Any) -> RawAnswer:
    body = {"model": MODEL, "input": texts, **more}
    return await ask(url, "POST", path, body=json.dumps(body).encode())


def direct(path: str, form: Form, texts: Any, **more: Any) -> Any:
    """Return what the upstream itself would answer."""
    body = json.dumps({"model": MODEL, "input": texts, **more}).encode()
    return told(list_forms.answer(path, body, form))


CASES = [
    pytest.param(path, form, more, id=f"{path} {form.name}{' base64' if more else ''}")
    for path, form in list_forms.forms()
    for more in ([{}, {"encoding_format": "base64"}] if path == "/v1/embeddings" else [{}])
]


def test_there_are_forms_enough() -> None:
    assert len({form.name for _, form in list_forms.forms()}) >= 22


@pytest.mark.parametrize(("path", "form", "more"), CASES)
async def test_each_form_is_asked_for_once_and_then_known(path: str, form: Form, more: dict[str, Any]) -> None:
    async with byte_upstream(script_of(form)) as upstream, proxy_before(upstream.url) as own:
        for texts in (["one", "two words", "one"], "alone", ["alone again"]):
            before = len(upstream.seen)
            first = await embed(own.url, path, texts, **more)
            assert told(first.body) == direct(path, form, texts, **more)
            assert "; stored" in (first.field("Cache-Status") or "")
            await own.kept()
            again = await embed(own.url, path, texts, **more)
            assert again.field("X-Cache") == "HIT"
            assert told(again.body) == direct(path, form, texts, **more) or "estimated" in again.field("Cache-Status")
            assert without_counts(told(again.body)) == without_counts(direct(path, form, texts, **more))
            assert again.field("Content-Type") == first.field("Content-Type") == form.kind
            assert [json.loads(talk.body) for talk in upstream.seen[before:]] == [
                {"model": MODEL, "input": texts, **more}
            ], "asked once, as the client sent it"


@pytest.mark.parametrize(("path", "form", "more"), CASES)
async def test_a_list_that_is_partly_known_is_asked_for_once(path: str, form: Form, more: dict[str, Any]) -> None:
    async with byte_upstream(script_of(form)) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, path, "one", **more)
        await embed(own.url, path, ["two words"], **more)
        await own.kept()
        before = len(upstream.seen)
        texts = ["new", "one", "newer still", "two words", "new", "one"]
        first = await embed(own.url, path, texts, **more)
        sent = [json.loads(talk.body)["input"] for talk in upstream.seen[before:]]
        assert sent == [texts if form.whole_only else ["new", "newer still"]]
        assert without_counts(told(first.body)) == without_counts(direct(path, form, texts, **more))
        assert "; stored" in (first.field("Cache-Status") or "")
        await own.kept()
        again = await embed(own.url, path, texts, **more)
        assert again.field("X-Cache") == "HIT"
        assert without_counts(told(again.body)) == without_counts(direct(path, form, texts, **more))
        if not form.whole_only:
            assert (await embed(own.url, path, texts[::-1], **more)).field("X-Cache") == "HIT"
        assert len(upstream.seen) == before + 1


EMBED, V1 = "/api/embed", "/v1/embeddings"
INDENTED = next(form for form in list_forms.FORMS if form.name == "indented")
BASE64 = {"encoding_format": "base64"}


def inputs(upstream: ByteUpstream) -> list[Any]:
    return [json.loads(talk.body)["input"] for talk in upstream.seen]


async def test_items_of_another_form_answer_only_requests_like_their_own() -> None:
    async with byte_upstream(script_of(INDENTED)) as upstream, proxy_before(upstream.url) as own:
        unlike: list[tuple[str, dict[str, Any]]] = [
            (EMBED, {}),
            (EMBED, {"model": f"{MODEL}:latest"}),
            (EMBED, {"truncate": True}),
            (V1, {}),
            (V1, BASE64),
            (V1, {"encoding_format": "float"}),
            (V1, {"encoding_format": None}),
            (V1, {"truncate": False}),
            (V1, {"options": {}}),
            (V1, {"dimensions": 0}),
        ]
        for path, more in unlike:
            assert (await embed(own.url, path, ["a", "b"], **more)).field("X-Cache") == "MISS"
        for path, more in unlike:
            seen = await embed(own.url, path, ["b", "a", "b"], **more)
            assert seen.field("X-Cache") == "HIT"
            assert without_counts(told(seen.body)) == without_counts(
                direct(path, INDENTED, ["b", "a", "b"], **{"model": MODEL} | more)
            )
        assert len(upstream.seen) == len(unlike)


async def test_ollamas_own_form_is_asked_as_numbers_once_it_is_known() -> None:
    """The first request of a process goes out as the client sent it; its base64 is stored as the same numbers."""
    async with byte_upstream(script_of(list_forms.OWN)) as upstream, proxy_before(upstream.url) as own:
        for texts in ("a", ["a", "b"], ["c", "a", "c"]):
            first = await embed(own.url, V1, texts, **BASE64)
            await own.kept()
            again = await embed(own.url, V1, texts, **BASE64)
            assert again.field("X-Cache") == "HIT"
            for seen in (first, again):
                assert without_counts(told(seen.body)) == without_counts(direct(V1, list_forms.OWN, texts, **BASE64))
        assert [("encoding_format" in json.loads(talk.body)) for talk in upstream.seen] == [True, False, False]
        assert inputs(upstream) == ["a", ["b"], ["c"]]
        for path in (EMBED, V1):
            seen = await embed(own.url, path, ["b", "c", "a"])
            assert seen.field("X-Cache") == "HIT"
            assert without_counts(told(seen.body)) == without_counts(direct(path, list_forms.OWN, ["b", "c", "a"]))


async def test_many_cold_texts_in_base64_are_stored_as_base64_and_answer_that() -> None:
    texts = [f"text {number}" for number in range(4096 // list_forms.WIDTH + 1)]
    async with byte_upstream(script_of(list_forms.OWN)) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, V1, texts, **BASE64)
        await own.kept()
        assert (await embed(own.url, V1, texts[::-1], **BASE64)).field("X-Cache") == "HIT"
        for path in (EMBED, V1):
            assert (await embed(own.url, path, texts[:2])).field("X-Cache") == ("MISS" if path == EMBED else "HIT")
        assert inputs(upstream) == [texts, texts[:2]], "numbers have taken the place of the base64"
        for path, more in ((EMBED, {}), (V1, {}), (V1, BASE64)):
            seen = await embed(own.url, path, texts[:2], **more)
            assert seen.field("X-Cache") == "HIT"
            assert without_counts(told(seen.body)) == without_counts(direct(path, list_forms.OWN, texts[:2], **more))


async def test_a_cold_list_in_base64_has_the_count_of_ollama_itself() -> None:
    texts = ["one", "two of them", "one", "one"]
    async with byte_upstream(script_of(list_forms.OWN)) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, V1, "known")
        seen = await embed(own.url, V1, texts, **BASE64)
        assert told(seen.body) == direct(V1, list_forms.OWN, texts, **BASE64)
        assert seen.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; stored; ttl=86400"
        assert inputs(upstream) == ["known", texts]


@pytest.mark.parametrize("form", [list_forms.OWN, INDENTED], ids=lambda form: form.name)
async def test_a_new_process_finds_what_an_older_one_has_stored(form: Form, redis_server: RedisServer) -> None:
    async with byte_upstream(script_of(form)) as upstream:
        for path, more, (a, b, c) in ((EMBED, {}, "abc"), (V1, BASE64, "xyz")):
            async with proxy_before(upstream.url, redis_url=redis_server.url) as older:
                await embed(older.url, path, [a, b], **more)
                await older.kept()
            before = len(upstream.seen)
            async with proxy_before(upstream.url, redis_url=redis_server.url) as newer:
                assert (await embed(newer.url, path, [b, a], **more)).field("X-Cache") == "HIT"
                seen = await embed(newer.url, path, [b, c], **more)
                assert without_counts(told(seen.body)) == without_counts(direct(path, form, [b, c], **more))
                assert inputs(upstream)[before:] == [[c]]


WHOLE_ONLY = next(form for form in list_forms.FORMS if form.whole_only)


async def test_a_new_process_finds_a_response_that_was_stored_whole(redis_server: RedisServer) -> None:
    async with byte_upstream(script_of(WHOLE_ONLY)) as upstream:
        for result in ("MISS", "HIT"):
            async with proxy_before(upstream.url, redis_url=redis_server.url) as own:
                assert (await embed(own.url, V1, ["a", "b"], **BASE64)).field("X-Cache") == result
                await own.kept()
        assert len(upstream.seen) == 1


def with_field(form: Form, line: str):
    async def script(talk: Conversation) -> None:
        path = talk.request_line.split()[1].decode()
        body = list_forms.answer(path, await talk.read_body(), form)
        barred = "known" not in json.loads(talk.body)["input"]
        answer = list_forms.head(form, body)
        await talk.write(answer.replace(b"\r\n", f"\r\n{line}\r\n".encode(), 1) if barred else answer)

    return script


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("Set-Cookie: a=b", "set-cookie"),
        ("Cache-Control: private", "cache-control"),
        ("Vary: *", "vary"),
        ("ETag: W/1", ""),
    ],
)
@pytest.mark.parametrize("form", [list_forms.OWN, INDENTED], ids=lambda form: form.name)
@pytest.mark.parametrize(("path", "more"), [(EMBED, {}), (V1, {}), (V1, BASE64)], ids=["embed", "v1", "base64"])
async def test_what_must_not_be_stored_is_joined_and_asked_for_once(
    path: str, more: dict[str, Any], form: Form, line: str, detail: str
) -> None:
    async with byte_upstream(with_field(form, line)) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, path, ["known"], **more)
        await own.kept()
        texts = ["new", "known"]
        for times in (1, 2):
            seen = await embed(own.url, path, texts, **more)
            assert without_counts(told(seen.body)) == without_counts(direct(path, form, texts, **more))
            if not detail:
                assert "stored" in (seen.field("Cache-Status") or "") or seen.field("X-Cache") == "HIT"
                continue
            assert len(upstream.seen) == 1 + times
            assert inputs(upstream)[-1] == ["new"]
            name, _, value = line.partition(": ")
            assert value in (seen.field(name) or "")
            assert f"detail={detail}" in (seen.field("Cache-Status") or "")
        assert len(upstream.seen) == (3 if detail else 2)


ERRORS = (
    ("500 Internal Server Error", b'{"error":"failed to encode response: json: unsupported value: NaN"}'),
    ("400 Bad Request", b'{"error":"the input length exceeds the context length"}'),
    ("200 OK", b'{"error":"a failure that is told as a success"}'),
    ("503 Service Unavailable", b"busy"),
)


@pytest.mark.parametrize(("status", "body"), ERRORS)
@pytest.mark.parametrize(("path", "more"), [(EMBED, {}), (V1, {}), (V1, BASE64)], ids=["embed", "v1", "base64"])
async def test_an_error_is_asked_for_once_and_handed_on(
    path: str, more: dict[str, Any], status: str, body: bytes
) -> None:
    async def script(talk: Conversation) -> None:
        sent = await talk.read_body()
        good = "bad" not in json.loads(sent)["input"]
        answer = list_forms.head(list_forms.OWN, list_forms.answer(path, sent, list_forms.OWN))
        await talk.write(answer if good else whole(body, status=status))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, path, ["a"], **more)
        for times, texts in enumerate((["a", "bad"], ["bad", "b", "a"], ["bad"]), start=2):
            seen = await embed(own.url, path, texts, **more)
            assert (seen.status, seen.body) == (int(status[:3]), body)
            assert "stored" not in (seen.field("Cache-Status") or "")
            assert len(upstream.seen) == times


def _with_error(error: Any, status: str = "200 OK") -> tuple[str, Form]:
    form = Form("an error beside the vectors", change=lambda document: {**document, **error})
    return status, form


@pytest.mark.parametrize(
    ("status", "form"),
    [
        _with_error({"error": None}),
        _with_error({"error": "some texts were cut"}),
        _with_error({}, "203 Non-Authoritative Information"),
        _with_error({}, "206 Partial Content"),
    ],
    ids=["null", "a warning", "203", "206"],
)
@pytest.mark.parametrize(("path", "more"), [(EMBED, {}), (V1, {}), (V1, BASE64)], ids=["embed", "v1", "base64"])
async def test_the_vectors_of_a_part_are_never_the_answer_to_the_whole(
    path: str, more: dict[str, Any], status: str, form: Form
) -> None:
    """As behind a load balancer, or after an update: a response to a part that cannot be joined is no error alone."""

    async def script(talk: Conversation) -> None:
        sent = await talk.read_body()
        first = json.loads(sent)["input"] == ["a"]
        body = list_forms.answer(path, sent, list_forms.OWN if first else form)
        await talk.write(whole(body, status="200 OK" if first else status))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, path, ["a"], **more)
        await own.kept()
        for texts in (["b", "a", "c"], ["d", "e"]):
            seen = await embed(own.url, path, texts, **more)
            assert seen.status == int(status[:3])
            assert told(seen.body) == direct(path, form, texts, **more)
        assert inputs(upstream)[1:] == [["b", "c"], ["b", "a", "c"], ["d", "e"]]


@pytest.mark.parametrize(
    "indexes", [(0, 2), (1, 1), (1, 2), (0, None), (0, "1"), (-1, 0), (0.0, 1.0)], ids=lambda indexes: f"{indexes}"
)
async def test_rows_of_an_uncertain_order_are_handed_on_and_not_stored(indexes: tuple[Any, Any]) -> None:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        rows = [{**row, "index": at} for row, at in zip(document["data"], indexes, strict=True)]
        return {**document, "data": [{k: v for k, v in row.items() if v is not None} for row in rows]}

    form = Form("odd indexes", change=change)
    async with byte_upstream(script_of(form)) as upstream, proxy_before(upstream.url) as own:
        for times in (1, 2):
            seen = await embed(own.url, V1, ["a", "b"])
            assert seen.body == list_forms.answer(V1, upstream.seen[-1].body, form)
            assert seen.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; detail=answer-count"
            assert len(upstream.seen) == times


async def test_a_list_over_the_limit_is_asked_for_once() -> None:
    async with (
        byte_upstream(script_of(list_forms.OWN)) as upstream,
        proxy_before(upstream.url, max_list_bytes=1500) as own,
    ):
        await embed(own.url, EMBED, ["a"])
        texts = ["a"] * 30 + ["b"]
        for times in (2, 3):
            seen = await embed(own.url, EMBED, texts)
            assert told(seen.body) == direct(EMBED, list_forms.OWN, texts)
            assert len(upstream.seen) == times
            assert inputs(upstream)[-1] == texts


async def test_an_upstream_that_changes_its_form_is_asked_anew_once_and_mixes_nothing() -> None:
    form = list_forms.OWN

    async def script(talk: Conversation) -> None:
        path = talk.request_line.split()[1].decode()
        await talk.write(list_forms.head(form, list_forms.answer(path, await talk.read_body(), form)))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as own:
        await embed(own.url, V1, ["a"])
        form = INDENTED
        for texts, sent in ((["a", "b"], [["b"], ["a", "b"]]), (["c", "a"], [["c", "a"]]), (["a", "d"], [["a", "d"]])):
            before = len(upstream.seen)
            seen = await embed(own.url, V1, texts)
            assert told(seen.body) == direct(V1, INDENTED, texts)
            assert inputs(upstream)[before:] == sent
        assert (await embed(own.url, V1, ["d", "b"])).field("X-Cache") == "HIT"


async def asked_at_random(url: str, seed: int, times: int) -> AsyncIterator[tuple[str, Any, dict[str, Any], RawAnswer]]:
    """Ask for random lists of a few texts, by all routes, encodings and spellings, and yield what came."""
    rng = random.Random(seed)
    for _ in range(times):
        path = rng.choice((EMBED, V1))
        texts: Any = rng.choices(["a", "b c", "d e f", "1 2", "", "é"], k=rng.randrange(1, 6))
        texts = texts[0] or "x" if len(texts) == 1 and rng.random() < 0.5 else texts
        more = rng.choice([{}, BASE64, {"encoding_format": "float"}] if path == V1 else [{}, {"truncate": True}])
        more = more | rng.choice(({}, {}, {"model": f"{MODEL}:latest"}))
        yield path, texts, more, await embed(url, path, texts, **more)


@pytest.mark.parametrize("form", [list_forms.OWN, *list_forms.FORMS], ids=lambda form: form.name)
async def test_any_order_of_requests_gets_the_values_of_the_upstream(form: Form) -> None:
    async with byte_upstream(script_of(form)) as upstream, proxy_before(upstream.url) as own:
        hits = before = 0
        async for path, texts, more, seen in asked_at_random(own.url, 1, 40):
            expected = direct(path, form, texts, **{"model": MODEL} | more)
            assert without_counts(told(seen.body)) == without_counts(expected)
            assert len(upstream.seen) <= before + 1
            assert (seen.field("X-Cache") == "HIT") == (len(upstream.seen) == before)
            hits, before = hits + (seen.field("X-Cache") == "HIT"), len(upstream.seen)
            await own.kept()
        assert hits > 3 or form.whole_only


@pytest.mark.parametrize("seed", range(4))
async def test_upstreams_of_several_forms_behind_one_address_are_never_mixed(seed: int) -> None:
    """As behind a load balancer. A response is one that one of them would give."""
    rng = random.Random(seed)
    forms = [list_forms.OWN, *rng.sample([form for form in list_forms.FORMS if not form.chunked], 2)]

    async def script(talk: Conversation) -> None:
        form, path = rng.choice(forms), talk.request_line.split()[1].decode()
        await talk.write(list_forms.head(form, list_forms.answer(path, await talk.read_body(), form)))

    async with byte_upstream(script) as upstream, proxy_before(upstream.url) as own:
        async for path, texts, more, seen in asked_at_random(own.url, seed, 100):
            of_each = [without_counts(direct(path, form, texts, **{"model": MODEL} | more)) for form in forms]
            assert without_counts(told(seen.body)) in of_each
            await own.kept()


def test_numbers_are_compared_as_they_are_written() -> None:
    assert told(b'{"data":[{"index":0,"embedding":[0.10]}]}') != told(b'{"data":[{"index":0,"embedding":[0.1]}]}')
    assert Decimal(Number("0.10")) == Decimal(Number("0.1"))
