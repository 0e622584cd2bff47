"""The same question in other bytes: known where the ordinary way would answer it by that very hit, and else not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from ollama_cache_proxy.core import known_questions
from ollama_cache_proxy.core.known_questions import KnownQuestions
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support import hostile
from tests.support.both_ways import BothWays, Way
from tests.support.rawhttp import ask, request_bytes
from tests.support.servers import RedisServer, proxy_before

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED: dict[str, Any] = {"model": "tiny", "prompt": "why", "options": {"seed": 1, "num_ctx": 512}, "stream": False}


def sent(body: bytes, path: str = "/api/generate", **fields: str | None) -> bytes:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return request_bytes("POST", path, host="localhost", body=body, fields=named)


def written(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in (ASKED | changes).items() if value is not ...}).encode()


KNOWN = sent(written())
EMBEDDING = sent(b'{"model":"all-minilm","prompt":"why"}', "/api/embeddings")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both() -> AsyncIterator[BothWays]:
    opened = await BothWays.open(KNOWN, EMBEDDING)
    yield opened
    await opened.close()


SAME = {
    "blanks": b' {"model": "tiny",\t"prompt":"why","options":{"seed":1,"num_ctx":512},\n"stream":false}',
    "order": b'{"stream":false,"options":{"num_ctx":512,"seed":1},"prompt":"why","model":"tiny"}',
    "escapes": rb'{"model":"tiny","prompt":"wh\u0079","options":{"seed":1,"num_ctx":512},"stream":false}',
    "an inert field": written(keep_alive="5m"),
    "another of it": written(keep_alive=-1),
    "a number in another form": b'{"model":"tiny","prompt":"why","options":{"seed":1,"num_ctx":512},"stream":false, "keep_alive": 1e3}',
}
OTHERS = {
    "another prompt": written(prompt="why not"),
    "another option": written(options={"seed": 2, "num_ctx": 512}),
    "a stream": written(stream=True),
    "a stream by default": written(stream=...),
    "an inert field that is refused": written(keep_alive="5 minutes"),
    "one that unloads": written(keep_alive=0),
    "another name of the model": written(model="tiny:latest"),
    "in capitals": written(model="TINY"),
    "an unknown model": written(model="nobody"),
    "a remote model": written(model="tiny-cloud"),
    "no model": written(model=...),
    "no prompt": written(prompt=...),
    "a name twice": b'{"model":"tiny","prompt":"why","prompt":"why","options":{"seed":1,"num_ctx":512},"stream":false}',
    "a name in another case": b'{"model":"tiny","Prompt":"why","options":{"seed":1,"num_ctx":512},"stream":false}',
    "a format": written(format="json"),
    "an escaped format": b'{"model":"tiny","prompt":"why","options":{"seed":1,"num_ctx":512},"stream":false,"format":"js\\u006fn"}',
    "minus zero": b'{"model":"tiny","prompt":"why","options":{"seed":1,"num_ctx":512,"temperature":-0},"stream":false}',
    "no JSON": b"why",
    "nothing": b"",
    "a list": b"[]",
    "a template": written(template="{{ .Prompt }}"),
}  # fmt: skip


@pytest.mark.parametrize("body", SAME.values(), ids=SAME.keys())
async def test_the_same_question_in_other_bytes_is_known(body: bytes, both: BothWays) -> None:
    taken = both.taken
    for _ in range(4):
        assert await both.differ(sent(body)) == []
    assert both.taken == taken + 4


async def test_a_document_that_was_seen_is_known_however_it_is_written_but_for_what_makes_another(
    both: BothWays,
) -> None:
    """Blanks do not matter; a name that comes twice, an escape or a -0 do."""
    begin = b'{"options":{"seed":1,"num_ctx":512},"model":"tiny",'
    for _ in range(3):
        assert await both.differ(sent(begin + b'"prompt":"why","stream":false}')) == []
    for end, known in (
        (b' "prompt" : "why" , "stream" : false }', 1),
        (b'"prompt":"why","prompt":"why","stream":false}', 0),
        (b'"prompt":"x","prompt":"why","stream":false}', 0),
        (b'"prompt":"w\\u0068y","stream":false}', 1),
        (b'"prompt":"why","stream":false,"keep_alive":-0.0}', 0),
        (b'"prompt":"why","stream":false}\n', 1),
        (b'"prompt":"why","stream":false}x', 0),
    ):
        taken = both.taken
        assert await both.differ(sent(begin + end)) == [], end
        assert both.taken == taken + known, end


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS.keys())
async def test_any_other_one_is_asked_the_ordinary_way_first(body: bytes, both: BothWays) -> None:
    taken = both.taken
    assert await both.differ(sent(body)) == []
    assert both.taken == taken
    for _ in range(3):
        assert await both.differ(sent(body)) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"Authorization": "Bearer a"},
        {"Origin": "http://localhost:3000"},
        {"X_Cache_Namespace": "team"},
        {"X_Cache_Category": "batch"},
        {"Cache_Control": "no-cache"},
        {"Cache_Control": "max-age=5"},
        {"X_Cache_TTL": "9"},
        {"Cookie": "a"},
    ],
)
async def test_what_else_selects_a_response_selects_it_here(fields: dict[str, str], both: BothWays) -> None:
    for body in (SAME["blanks"], SAME["order"], SAME["blanks"], SAME["an inert field"]):
        assert await both.differ(sent(body, **fields)) == []


async def test_a_single_text_to_embed_is_known_too(both: BothWays) -> None:
    taken = both.taken
    for body in (b'{"prompt":"why","model":"all-minilm"}', b'{"model":"all-minilm","prompt":"why","keep_alive":"1h"}'):
        assert await both.differ(sent(body, "/api/embeddings")) == []
    assert both.taken == taken + 2


async def test_no_hostile_body_is_answered_otherwise(both: BothWays) -> None:
    for index in range(1500):
        asked = hostile.request(11, index)
        assert await both.differ(sent(asked.body, asked.target)) == [], asked


async def test_a_long_body_is_left_to_the_ordinary_way(both: BothWays) -> None:
    longest = written()[:-1] + b" " * (known_questions._MOST_BYTES - len(written())) + b"}"
    for _ in range(3):
        assert await both.differ(KNOWN) == []
    for body, known in ((longest, 1), (longest + b" ", 0)):
        taken = both.taken
        assert await both.differ(sent(body)) == []
        assert both.taken == taken + known


async def test_both_have_counted_alike(both: BothWays) -> None:
    """After the other tests of this file."""
    short, ordinary = await both.counts()
    assert short == ordinary
    assert both.taken > 50


_COUNTED = tuple(f"ollama_cache_proxy_{name}_total" for name in ("requests", "hits", "misses", "saved_prompt_tokens"))


async def test_what_another_proxy_has_stored_is_served_without_parsing(redis_server: RedisServer) -> None:
    """As after a restart: no note of it is here. Each is asked once, then others that nobody has stored."""
    prompts = [f"number {number}" for number in range(60)]
    requests = [sent(written(prompt=prompt)) for prompt in prompts]
    told = []
    async with Simulator(Behaviour(completion_delay=0)) as simulator:
        async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
            for prompt in prompts:
                answer = await ask(proxy.url, "POST", "/api/generate", body=written(prompt=prompt))
                assert answer.status == 200
            await proxy.kept()
        assert simulator.inferences == 60
        for hot in (None, 0):
            for off in (False, True):
                more = {} if hot is None else {"hot_bytes": hot}
                async with proxy_before(simulator.url, redis_url=redis_server.url, **more) as proxy:
                    way = Way(proxy, off=off)
                    answers = [await way.answer([request]) for _ in range(3) for request in requests]
                    assert all(b"; hit" in came for came, _ in answers)
                    new = [sent(written(prompt=f"new {hot} {off} {number}")) for number in range(30)]
                    unknown = [await way.answer([request]) for request in new]
                    assert all(b"; fwd=miss" in came for came, _ in unknown)
                    text = (await ask(proxy.url, "GET", "/metrics")).body.decode()
                    counted = [line for line in text.splitlines() if line.startswith(_COUNTED)]
                    assert len(counted) > 4
                    told.append((answers, counted, off or way.watch.taken > 30 + 120))
                    way.close()
        assert simulator.inferences == 60 + 4 * 30
    assert [one[1:] for one in told] == [told[0][1:]] * 4
    assert all(one == told[0] for one in told)


async def test_where_questions_are_mostly_new_few_are_classified_twice(both: BothWays) -> None:
    fast: Any = both.ways[0].watch.real
    questions: KnownQuestions[Any] = fast._questions
    for _ in range(3):
        assert await both.differ(KNOWN) == []
    (way,) = [way for head, way in questions._ways.items() if head == heads_of(KNOWN)]
    way.asked = way.answered = 0
    for number in range(100):
        assert await both.differ(sent(written(prompt=f"mostly new {number}"))) == []
    assert (way.asked, way.answered) == (100, 0)
    taken = both.taken
    for blanks in range(1, 17):
        assert await both.differ(sent(written(options={"num_ctx": 512, "seed": 1})[:-1] + b" " * blanks + b"}")) == []
    assert both.taken > taken + 8, "what was found once is known by its document"


def heads_of(request: bytes) -> bytes:
    """What of this file's requests selects, beside the length of their bodies."""
    lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(b"Content-Length"))


async def test_a_clear_is_obeyed_at_once(both: BothWays) -> None:
    for way in both.ways:
        assert (await ask(way.url, "POST", "/api/cache/clear")).status == 200
    taken = both.taken
    assert await both.differ(sent(SAME["order"])) == []
    assert both.taken == taken


async def test_what_is_remembered_goes_with_the_last_note(both: BothWays) -> None:
    """A head that no note is of is not looked at, and what was classified is bounded."""
    fast: Any = both.ways[0].watch.real
    questions: KnownQuestions[Any] = fast._questions
    for number in range(40):
        assert await both.differ(sent(written(prompt=f"number {number}"))) == []
    assert len(questions._classified) <= 40
    for note in list(fast._all):
        fast._drop(note)
    assert (questions._ways, questions._notes, questions._documents, questions._names) == ({}, {}, {}, {})
    assert not fast._heads
    assert not fast._notes
