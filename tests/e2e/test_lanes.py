"""Lanes in front of Ollama, seen from outside: who goes first, who waits, who is refused, and what a list becomes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest

from ollama_cache_proxy.policy.lane_order import LaneOrder
from ollama_cache_proxy.policy.lane_speeds import LaneSpeeds
from ollama_cache_proxy.policy.tickets import Lane
from ollama_cache_proxy.simulator import Behaviour, Fault, Received, Simulator
from tests.support import canary
from tests.support.processes import serve
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

MODEL = "all-minilm"
ONE_BATCH = {"lanes_batch_slots": 1}


class Site:
    """A proxy with lanes, and the Ollama behind it. What is asked is told by its first word."""

    def __init__(self, proxy: Proxy, ollama: Simulator) -> None:
        self.proxy = proxy
        self.ollama = ollama
        self._tasks: list[asyncio.Task[RawAnswer]] = []

    def order(self) -> LaneOrder:
        lanes = self.proxy.running.exchanges._lanes
        assert lanes is not None
        return lanes.of_hosts[""].order

    def waiting(self, lane: Lane = Lane.BATCH) -> int:
        return self.order().state(lane).waiting

    def arrived(self) -> list[str]:
        """Give the names of the inference requests that Ollama has got, in their order."""
        return [name for one in self.ollama.received if one.body and (name := name_of(one))]

    async def begin(self, path: str, body: dict[str, Any], **fields: str) -> asyncio.Task[RawAnswer]:
        """Ask without waiting for the answer, but until the proxy has sent the request on, or lets it wait."""
        before = len(self.arrived()) + self.waiting() + self.waiting(Lane.INTERACTIVE)
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        asking = asyncio.create_task(ask(self.proxy.url, "POST", path, body=json.dumps(body).encode(), fields=named))
        self._tasks.append(asking)
        await until(
            lambda: asking.done() or len(self.arrived()) + self.waiting() + self.waiting(Lane.INTERACTIVE) > before
        )
        return asking

    async def list(self, name: str, *, client: str = "indexer", **fields: str) -> asyncio.Task[RawAnswer]:
        body = {"model": MODEL, "input": [f"{name} {number}" for number in range(3)]}
        return await self.begin("/api/embed", body, Authorization=f"Bearer {client}", **fields)

    async def chat(self, name: str, *, client: str = "person", **fields: str) -> asyncio.Task[RawAnswer]:
        body = {"model": "tiny", "messages": [{"role": "user", "content": f"{name} {canary.PROMPT}"}]}
        return await self.begin("/api/chat", body, Authorization=f"Bearer {client}", **fields)

    async def all_answered(self) -> list[int]:
        """Open the gate of Ollama, and give the status of each answer."""
        self.ollama.gate.open()
        return [(await asking).status for asking in self._tasks]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()


def name_of(one: Received) -> str:
    body = json.loads(one.body)
    text = body.get("input") or body.get("prompt") or (body.get("messages") or [{}])[0].get("content", "")
    first = text[0] if isinstance(text, list) else text
    return first.split(" ")[0] if isinstance(first, str) else ""


@asynccontextmanager
async def site(*, gate: bool = True, text_delay: float | None = None, **settings: Any) -> AsyncIterator[Site]:
    """Run a proxy with lanes; with `gate`, Ollama holds back its responses. A text takes it so many seconds."""
    settings.setdefault("lanes", "interactive-first")
    slow = text_delay is not None
    async with (
        Simulator(
            Behaviour(completion_delay=0, embedding_delay=0, one_at_a_time=slow, text_delay=text_delay)
        ) as ollama,
        proxy_before(ollama.url, **settings) as proxy,
    ):
        found = Site(proxy, ollama)
        if gate:
            ollama.gate.close()
        try:
            yield found
        finally:
            ollama.gate.open()
            found.close()


async def test_a_chat_goes_before_lists_that_came_earlier() -> None:
    async with site(**ONE_BATCH) as here:
        for name in ("list-1", "list-2", "list-3"):
            await here.list(name)
        assert here.arrived() == ["list-1"]
        await here.chat("chat")
        assert here.arrived() == ["list-1", "chat"]
        assert here.waiting() == 2
        assert await here.all_answered() == [200] * 4
        assert here.arrived() == ["list-1", "chat", "list-2", "list-3"]


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions", "/v1/messages", "/api/embeddings"])
async def test_what_a_person_waits_for_is_not_held_up(path: str) -> None:
    message = [{"role": "user", "content": "hello"}]
    body = {"model": MODEL if "embed" in path else "tiny", "prompt": "hello", "messages": message, "max_tokens": 5}
    async with site(**ONE_BATCH) as here:
        await here.list("list-1")
        await here.list("list-2")
        await here.begin(path, body)
        assert here.arrived() == ["list-1", "hello"]
        assert await here.all_answered() == [200] * 3


async def test_lists_are_sent_though_somebody_chats_all_the_time() -> None:
    async with site(lanes_batch_share=0.9) as here:
        await here.chat("chat")
        await here.list("list-1")
        assert here.arrived() == ["chat"]
        await until(lambda: here.arrived() == ["chat", "list-1"])
        assert await here.all_answered() == [200, 200]


async def test_clients_take_turns() -> None:
    async with site(**ONE_BATCH) as here:
        await here.list("first")
        for number in range(4):
            await here.list(f"greedy-{number}", client="greedy")
        await here.list("modest-0", client="modest")
        await here.list("modest-1", client="modest")
        assert await here.all_answered() == [200] * 7
        arrived = here.arrived()
        assert arrived.index("modest-1") < arrived.index("greedy-3")
        assert arrived.index("modest-0") <= 3


async def test_a_placeholder_is_no_client_of_its_own() -> None:
    """Without credentials it is the address that counts, which is the same for all here."""
    async with site(**ONE_BATCH, placeholder_credentials=["one", "two"]) as here:
        await here.list("first", client="one")
        for number in range(3):
            await here.list(f"one-{number}", client="one")
        await here.list("two", client="two")
        assert await here.all_answered() == [200] * 5
        assert here.arrived()[-1] == "two"


@pytest.mark.parametrize("cache_embed", ["always", "off"])
async def test_who_leaves_while_it_waits_gives_up_its_place(cache_embed: str) -> None:
    async with site(**ONE_BATCH, cache_embed=cache_embed) as here:
        await here.list("first")
        async with await RawConnection.open(here.proxy.url) as connection:
            body = json.dumps({"model": MODEL, "input": ["leaves 1", "leaves 2"]}).encode()
            connection.send("POST", "/api/embed", body=body)
            await until(lambda: here.waiting() == 1)
        await until(lambda: here.waiting() == 0)
        await here.list("last")
        assert await here.all_answered() == [200, 200]
        assert here.arrived() == ["first", "last"]
        metrics = (await ask(here.proxy.url, "GET", "/metrics")).body.decode()
        assert 'lane_wait_seconds_count{end="left",lane="batch"} 1' in metrics


ERRORS = {
    "/api/embed": lambda body: isinstance(body["error"], str),
    "/v1/embeddings": lambda body: isinstance(body["error"]["message"], str),
}


@pytest.mark.parametrize("path", ERRORS)
async def test_beyond_the_bound_who_comes_is_told_to_come_later(path: str) -> None:
    async with site(**ONE_BATCH, lanes_max_waiting=2, log="json") as here:
        for name in ("list-1", "list-2", "list-3"):
            await here.list(name)
        refused = await (await here.begin(path, {"model": MODEL, "input": ["too", "many"]}))
        assert refused.status == 503
        assert refused.field("Retry-After") == "1"
        assert refused.field("Cache-Status") == "ollama-cache-proxy; detail=lane-full"
        assert ERRORS[path](json.loads(refused.body))
        await here.chat("chat")
        assert here.arrived() == ["list-1", "chat"], "the other lane has its own bound"
        assert sorted(await here.all_answered()) == [200, 200, 200, 200, 503]
        metrics = (await ask(here.proxy.url, "GET", "/metrics")).body.decode()
        assert 'lane_wait_seconds_count{end="lane-full",lane="batch"} 1' in metrics
        assert (
            f'bypasses_total{{detail="lane-full",endpoint="{path[1:].replace("/", "-").removeprefix("api-")}"}} 1'
            in metrics
        )
        lines = [json.loads(line) for line in here.proxy.log.getvalue().splitlines()]
        (told,) = [line for line in lines if line["event"] == "lanewaited" and line["end"] == "lane-full"]
        assert (told["lane"], told["ahead"]) == ("batch", 2)


async def test_who_has_waited_too_long_is_told_so() -> None:
    async with site(**ONE_BATCH, lanes_max_wait=0.05) as here:
        await here.list("list-1")
        refused = await (await here.list("list-2"))
        assert refused.status == 503
        assert refused.field("Cache-Status") == "ollama-cache-proxy; detail=lane-wait"
        assert refused.field("Retry-After") == "1"
        assert await here.all_answered() == [200, 503]
        assert here.arrived() == ["list-1"]


async def test_the_time_in_the_lane_is_not_ollamas() -> None:
    async with site(**ONE_BATCH, upstream_timeout=0.5) as here:
        here.ollama.gate.open()
        here.ollama.pace = lambda received: 0.3
        for number in range(4):
            await here.list(f"list-{number}")
        assert await here.all_answered() == [200] * 4


async def test_priority_may_lower_and_raises_only_where_it_is_trusted() -> None:
    async with site(**ONE_BATCH) as here:
        await here.list("list-1")
        await here.list("list-2", Priority="u=0")
        await here.chat("low", Priority="u=6, i")
        await here.chat("chat", Priority="u=3")
        assert here.arrived() == ["list-1", "chat"]
        assert await here.all_answered() == [200] * 4
    async with site(**ONE_BATCH, lanes_trust_priority=True) as here:
        await here.list("list-1")
        await here.list("list-2", Priority="u=0")
        assert here.arrived() == ["list-1", "list-2"]
        priorities = [dict(one.fields).get(b"Priority") for one in here.ollama.received if one.target == "/api/embed"]
        assert priorities == [None, b"u=0"], "it goes on to Ollama as it came"
        assert await here.all_answered() == [200] * 2


async def test_batches_by_rule() -> None:
    named = ["category:docs", "agent:indexer/", "embeddings"]
    async with site(**ONE_BATCH, lanes_batch_for=named) as here:
        await here.list("list-1")
        await here.chat("docs", X_Cache_Category="docs")
        await here.chat("agent", User_Agent="indexer/1.0")
        await here.begin("/api/embeddings", {"model": MODEL, "prompt": "single"})
        await here.chat("chat", X_Cache_Category="other")
        assert here.arrived() == ["list-1", "chat"]
        assert await here.all_answered() == [200] * 5


async def test_a_flight_that_an_interactive_request_joins_becomes_interactive() -> None:
    body = {"model": "tiny", "prompt": "shared", "stream": False, "options": {"seed": 1}}
    async with site(**ONE_BATCH, lanes_batch_for=["category:docs"]) as here:
        await here.chat("chat")
        batch = await here.begin("/api/generate", body, X_Cache_Category="docs")
        assert here.arrived() == ["chat"]
        raw = json.dumps(body).encode()
        docs = {"X-Cache-Category": "docs"}
        again = asyncio.create_task(ask(here.proxy.url, "POST", "/api/generate", body=raw, fields=docs))
        await until(lambda: here.proxy.running.exchanges.waiting == 2)
        assert here.arrived() == ["chat"]
        person = asyncio.create_task(ask(here.proxy.url, "POST", "/api/generate", body=raw))
        await until(lambda: here.arrived() == ["chat", "shared"])
        await here.all_answered()
        answers = [await batch, await again, await person]
        assert len({answer.body for answer in answers}) == 1
        assert "collapsed" in (answers[2].field("Cache-Status") or "")


async def test_hits_and_what_is_no_inference_never_wait() -> None:
    async with site(gate=False, **ONE_BATCH) as here:
        known = await (await here.list("known"))
        here.ollama.gate.close()
        await here.chat("chat")
        await here.list("waits")
        assert here.waiting() == 1
        hit = await (await here.list("known"))
        assert hit.field("X-Cache") == "HIT"
        assert without_durations(hit.body) == without_durations(known.body)
        for method, path, body in (
            ("GET", "/api/version", None),
            ("GET", "/api/ps", None),
            ("GET", "/api/tags", None),
            ("GET", "/v1/models", None),
            ("POST", "/api/show", b'{"model":"tiny"}'),
            ("POST", "/api/copy", b'{"source":"tiny","destination":"other"}'),
        ):
            assert (await ask(here.proxy.url, method, path, body=body)).status == 200
        assert await here.all_answered() == [200] * 4


async def test_a_model_that_runs_elsewhere_does_not_wait() -> None:
    async with site(lanes_interactive_slots=1) as here:
        await here.chat("chat")
        body = {"model": "gpt-oss:120b-cloud", "messages": [{"role": "user", "content": "cloud"}]}
        await here.begin("/api/chat", body)
        await here.chat("other")
        assert here.arrived() == ["chat", "cloud"]
        assert await here.all_answered() == [200, 404, 200]


async def test_the_live_page_and_metrics_tell_who_waits() -> None:
    async with site(**ONE_BATCH) as here:
        await here.list("list-1")
        await here.list("list-2", client="one")
        await here.list("list-3", client="two")
        system = json.loads((await ask(here.proxy.url, "GET", "/api/cache/system")).body)
        people, batches = system["lanes"]
        assert people == {"lane": "interactive", "waiting": 0, "clients": 0, "underWay": 0, "seconds": 0.0}
        assert batches["seconds"] >= 0
        assert {**batches, "seconds": 0} == {"lane": "batch", "waiting": 2, "clients": 2, "underWay": 1, "seconds": 0}
        metrics = (await ask(here.proxy.url, "GET", "/metrics")).body.decode()
        assert 'lane_waiting{lane="batch",upstream=""} 2' in metrics
        assert 'lane_under_way{lane="batch",upstream=""} 1' in metrics
        assert await here.all_answered() == [200] * 3


async def test_without_the_setting_there_is_nothing_of_it() -> None:
    async with site(lanes="off", gate=False) as here:
        assert here.proxy.running.exchanges._lanes is None
        assert "lanes" not in json.loads((await ask(here.proxy.url, "GET", "/api/cache/system")).body)
        lists = [{"model": MODEL, "input": [f"list-{number} a", "b"]} for number in range(3)]
        here.ollama.gate.close()
        asked = [
            asyncio.create_task(ask(here.proxy.url, "POST", "/api/embed", body=json.dumps(body).encode(), fields={}))
            for body in lists
        ]
        await until(lambda: len(here.arrived()) == 3)
        here.ollama.gate.open()
        assert [(await one).status for one in asked] == [200] * 3
        metrics = (await ask(here.proxy.url, "GET", "/metrics")).body.decode()
        assert "lane_wait_seconds_count" not in metrics


# Lists in parts.

_DURATIONS = re.compile(rb'"(total|load)_duration":[0-9]+')
ROUTES = [("/api/embed", {}), ("/v1/embeddings", {}), ("/v1/embeddings", {"encoding_format": "base64"})]


def without_durations(body: bytes) -> bytes:
    return _DURATIONS.sub(b"", body)


def lengths(ollama: Simulator) -> list[int]:
    """Give how many texts each list has had that Ollama was asked for."""
    bodies = [json.loads(one.body) for one in ollama.received if "embed" in one.target]
    return [len(body["input"]) for body in bodies if isinstance(body["input"], list)]


async def embed(url: str, texts: list[str], path: str = "/api/embed", **more: Any) -> RawAnswer:
    body = {"model": MODEL, "input": texts, **more}
    return await ask(url, "POST", path, body=json.dumps(body).encode())


@asynccontextmanager
async def with_somebody_about(path: str = "/api/embed", **settings: Any) -> AsyncIterator[Site]:
    """Run a proxy that has just served a person, and knows how Ollama writes the lists of a route.

    Each text is a part of its own, however long it takes.
    """
    alone = mock.patch.object(LaneSpeeds, "texts_within", return_value=1)
    async with site(gate=False, text_delay=0.005, **settings) as here:
        assert (await embed(here.proxy.url, ["the first", "list"], path)).status == 200
        assert (await (await here.chat("chat"))).status == 200
        await here.proxy.kept()
        with alone:
            yield here


TEXTS = [
    ["a", "b", "c", "d", "e"],
    ["a", "b", "a", "c"],
    ["d", "d"],
    ["ä", "\n", "long " * 50, "😀"],
]


@pytest.mark.parametrize(("path", "more"), ROUTES, ids=["embed", "v1", "base64"])
@pytest.mark.parametrize("known", [(), ("b",), ("a", "c")], ids=["none", "one", "two"])
@pytest.mark.parametrize("texts", TEXTS, ids=["five", "twice", "same", "odd"])
async def test_a_list_in_parts_is_byte_for_byte_the_whole_one(
    texts: list[str], known: tuple[str, ...], path: str, more: dict[str, Any]
) -> None:
    async with with_somebody_about(path) as here:
        whole = await embed(here.ollama.url, texts, path, **more)
        for text in known:
            await embed(here.proxy.url, [text])
        await here.proxy.kept()
        before = len(lengths(here.ollama))
        answer = await embed(here.proxy.url, texts, path, **more)
        assert answer.status == whole.status == 200
        assert without_durations(answer.body) == without_durations(whole.body)
        assert answer.field("Content-Type") == whole.field("Content-Type")
        assert answer.field("X-Cache") == "MISS"
        asked = lengths(here.ollama)[before:]
        absent = [text for text in texts if text not in known]
        assert sum(asked) in (len(absent), len(set(absent)))
        assert asked == [1] * len(asked)
        assert len(asked) > 1 or len(set(absent)) == 1
        await here.proxy.kept()
        again = await embed(here.proxy.url, texts, path, **more)
        assert (again.field("X-Cache"), len(lengths(here.ollama)[before:])) == ("HIT", len(asked))
        assert without_durations(again.body) == without_durations(whole.body)


async def test_durations_of_parts_are_added() -> None:
    async with with_somebody_about() as here:
        answer = json.loads((await embed(here.proxy.url, ["a", "b", "c"])).body)
        assert answer["total_duration"] >= answer["load_duration"] > 0
        assert (
            answer["prompt_eval_count"]
            == json.loads((await embed(here.ollama.url, ["a", "b", "c"])).body)["prompt_eval_count"]
        )


async def test_while_nobody_is_about_lists_go_as_they_came() -> None:
    async with site(gate=False) as here:
        for number in range(3):
            assert (await embed(here.proxy.url, [f"{number} {text}" for text in range(20)])).status == 200
        assert lengths(here.ollama) == [20, 20, 20]


@pytest.mark.parametrize("fault", [Fault.STATUS_500, Fault.REFUSE, Fault.RESET_MID_BODY, Fault.JUNK])
@pytest.mark.parametrize("failing", [1, 3])
async def test_after_any_error_a_list_is_asked_for_as_a_whole(fault: Fault, failing: int) -> None:
    texts = ["a", "b", "c", "d"]
    async with with_somebody_about() as here:
        whole = await embed(here.ollama.url, texts)
        before, seen = len(lengths(here.ollama)), list[int]()

        def fails_once(received: Received) -> Fault | None:
            if "embed" not in received.target:
                return None
            seen.append(len(json.loads(received.body)["input"]))
            return fault if failing <= len(seen) and seen[-1] == 1 else None

        here.ollama.fault = fails_once
        answer = await embed(here.proxy.url, texts)
        assert without_durations(answer.body) == without_durations(whole.body)
        asked = lengths(here.ollama)[before:]
        assert asked[-1] == 4
        assert set(asked[:-1]) == {1}
        assert len(asked) - 1 in (failing, failing + 1), "a connection that was refused is tried once more"


async def test_what_ollama_says_of_a_bad_text_is_what_it_says_of_the_whole_list() -> None:
    texts = ["a", "word " * 5000, "c"]
    async with with_somebody_about() as here:
        whole = await embed(here.ollama.url, texts, truncate=False)
        answer = await embed(here.proxy.url, texts, truncate=False)
        assert (answer.status, answer.body) == (whole.status, whole.body)
        assert answer.status == 400


async def test_a_list_with_a_blank_text_is_never_cut() -> None:
    texts = ["a", "", "c"]
    async with with_somebody_about() as here:
        whole = await embed(here.ollama.url, texts)
        answer = await embed(here.proxy.url, texts)
        assert without_durations(answer.body) == without_durations(whole.body)
        assert lengths(here.ollama)[-1] == 3


async def test_a_chat_goes_between_the_parts_of_a_list() -> None:
    async with with_somebody_about() as here:
        here.ollama.gate.close()
        body = {"model": MODEL, "input": [f"part-{number}" for number in range(4)]}
        await here.begin("/api/embed", body)
        await here.chat("chat-2")
        assert await here.all_answered() == [200] * 3
        names = here.arrived()
        assert names[names.index("part-0") :] == ["part-0", "chat-2", "part-1", "part-2", "part-3"]


async def test_a_list_whose_model_changes_between_its_parts_is_asked_for_as_a_whole() -> None:
    async with with_somebody_about() as here:
        texts = ["a", "b", "c"]
        parts = 0

        def changes(received: Received) -> Fault | None:
            nonlocal parts
            if "embed" in received.target:
                parts += 1
                if parts == 2:
                    here.ollama.models.add(MODEL, embedding=True)
            return None

        here.ollama.fault = changes
        answer = await embed(here.proxy.url, texts)
        assert answer.status == 200
        whole = await embed(here.ollama.url, texts)
        assert without_durations(answer.body) == without_durations(whole.body)
        assert lengths(here.ollama)[-2:] == [3, 3]


# Several Ollamas, several workers.


async def test_each_of_several_ollamas_has_lanes_of_its_own() -> None:
    behaviour = Behaviour(completion_delay=0, embedding_delay=0)
    async with Simulator(behaviour) as one, Simulator(behaviour) as two:
        rows = [{"url": one.url, "name": "one", "models": ["tiny"]}, {"url": two.url, "name": "two", "models": [MODEL]}]
        settings = {"lanes": "interactive-first", "lanes_batch_slots": 1}
        async with proxy_before(one.url, upstreams=rows, **settings) as proxy:
            one.gate.close()
            two.gate.close()
            chat = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
            bodies = [
                ("/api/chat", chat),
                *(("/api/embed", {"model": MODEL, "input": [f"{n}", "b"]}) for n in range(2)),
            ]
            asked = [
                asyncio.create_task(ask(proxy.url, "POST", path, body=json.dumps(body).encode()))
                for path, body in bodies
            ]
            await one.arrived(1)
            await two.arrived(1)
            lanes = proxy.running.exchanges._lanes
            assert lanes is not None
            await until(lambda: lanes.of_hosts["two"].order.state(Lane.BATCH).waiting == 1)
            metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
            assert 'lane_waiting{lane="batch",upstream="two"} 1' in metrics
            assert 'lane_under_way{lane="interactive",upstream="one"} 1' in metrics
            one.gate.open()
            two.gate.open()
            assert [(await one).status for one in asked] == [200] * 3


async def test_a_full_lane_is_no_fault_of_its_ollama() -> None:
    behaviour = Behaviour(completion_delay=0, embedding_delay=0)
    async with Simulator(behaviour) as one, Simulator(behaviour) as two:
        rows = [{"url": one.url, "name": "one"}, {"url": two.url, "name": "two", "models": ["tiny"]}]
        settings = {"lanes": "interactive-first", "lanes_batch_slots": 1, "lanes_max_wait": 0.05}
        async with proxy_before(one.url, upstreams=rows, **settings) as proxy:
            one.gate.close()
            bodies = [json.dumps({"model": MODEL, "input": [f"{n}", "b"]}).encode() for n in range(2)]
            first = asyncio.create_task(ask(proxy.url, "POST", "/api/embed", body=bodies[0]))
            await one.arrived(1)
            refused = await ask(proxy.url, "POST", "/api/embed", body=bodies[1])
            assert (refused.status, refused.field("Cache-Status")) == (503, "ollama-cache-proxy; detail=lane-wait")
            one.gate.open()
            assert (await first).status == 200
            hosts = json.loads((await ask(proxy.url, "GET", "/api/cache/upstreams")).body)["upstreams"]
            assert [(host["state"], host["failed"]) for host in hosts] == [("ok", 0), ("ok", 0)]


async def test_a_person_at_one_worker_holds_back_the_batches_of_another(redis_server: RedisServer) -> None:
    behaviour = Behaviour(completion_delay=0, embedding_delay=0)
    async with Simulator(behaviour) as ollama:
        settings = {"OCP_LANES": "interactive-first", "OCP_REDIS_URL": redis_server.url, "OCP_LISTEN": "127.0.0.1:0"}
        async with serve("--upstream", ollama.url, "--workers", "2", environment=settings) as command:
            url = await command.url()
            await command.line(lambda line: "Connected to Ollama" in line)
            ollama.gate.close()
            chat = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "chat"}]}).encode()
            talking = asyncio.create_task(ask(url, "POST", "/api/chat", body=chat))
            await ollama.arrived(1)
            lists = [
                asyncio.create_task(
                    ask(url, "POST", "/api/embed", body=json.dumps({"model": MODEL, "input": [f"{n}", "b"]}).encode())
                )
                for n in range(8)
            ]

            async def waiting() -> float:
                text = (await ask(url, "GET", "/metrics")).body.decode()
                found = re.search(r'lane_waiting\{lane="batch",upstream=""\} ([0-9.]+)', text)
                return float(found[1]) if found else 0.0

            async with asyncio.timeout(4):  # after five seconds batches are owed their share
                while await waiting() < 8:  # noqa: ASYNC110 - metrics are asked for
                    await asyncio.sleep(0.05)
            assert ollama.inferences == 1, "all eight wait, whichever worker they came to"
            ollama.gate.open()
            assert [(await one).status for one in (talking, *lists)] == [200] * 9
