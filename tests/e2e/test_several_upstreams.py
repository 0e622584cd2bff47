"""A proxy before several Ollamas, seen from outside: where requests go, what is shared, what is merged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from ollama_cache_proxy.simulator import Behaviour, Fault, Simulator
from ollama_cache_proxy.upstream.fleet import Fleet
from tests.support import canary
from tests.support.processes import serve
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

NAMES = ("a", "b", "c")


class Site:
    """A proxy, and the Ollamas behind it."""

    def __init__(self, proxy: Proxy, ollamas: list[Simulator]) -> None:
        self.proxy = proxy
        self.ollamas = ollamas

    async def post(self, path: str, body: dict[str, Any], method: str = "POST", **fields: str) -> RawAnswer:
        raw = json.dumps(body).encode()
        return await ask(self.proxy.url, method, path, body=raw, fields={**fields})

    async def generate(self, prompt: str, model: str = "tiny", **more: Any) -> RawAnswer:
        body = {"model": model, "prompt": f"{canary.PROMPT} {prompt}", "stream": False} | more
        answer = await self.post("/api/generate", body)
        await self.proxy.kept()
        return answer

    def asked(self, path: str) -> list[int]:
        """Give how many requests for a path each Ollama has had."""
        return [sum(one.target == path for one in ollama.received) for ollama in self.ollamas]


def fleet(seen: Site) -> Fleet:
    found = seen.proxy.running.exchanges._relay._upstream
    assert isinstance(found, Fleet)
    return found


@asynccontextmanager
async def site(
    count: int = 3, *, tables: dict[str, dict[str, Any]] | None = None, **settings: Any
) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        ollamas = [
            await stack.enter_async_context(Simulator(Behaviour(completion_delay=0, embedding_delay=0)))
            for _ in range(count)
        ]
        rows = [
            {"url": one.url, "name": name, **(tables or {}).get(name, {})}
            for name, one in zip(NAMES, ollamas, strict=False)
        ]
        proxy = await stack.enter_async_context(proxy_before(ollamas[0].url, upstreams=rows, **settings))
        yield Site(proxy, ollamas)


async def test_a_model_is_used_where_it_is_loaded_and_answers_are_shared() -> None:
    async with site() as seen:
        for number in range(8):
            assert (await seen.generate(f"question {number}")).status == 200
        asked = seen.asked("/api/generate")
        assert sorted(asked) == [0, 0, 8], "loaded once"
        assert (await seen.generate("question 1")).field("X-Cache") == "HIT"


async def test_a_request_goes_where_the_model_is_and_one_that_no_host_has_gets_ollamas_404() -> None:
    async with site() as seen:
        for one in seen.ollamas[:2]:
            await ask(one.url, "DELETE", "/api/delete", body=b'{"model": "tiny"}')
        assert (await seen.generate("where is it")).status == 200
        assert seen.asked("/api/generate") == [0, 0, 1]
        answer = await seen.generate("nowhere", model="unknown")
        own = await ask(seen.ollamas[0].url, "POST", "/api/generate", body=b'{"model": "unknown", "prompt": "x"}')
        assert (answer.status, answer.body) == (own.status, own.body)
        assert own.status == 404


async def test_hosts_with_other_digests_share_nothing_and_each_is_found_again() -> None:
    async with site(2) as seen:
        seen.ollamas[1].models.replace("tiny")
        assert (await seen.generate("first")).field("X-Cache") == "MISS"
        used = seen.asked("/api/generate").index(1)
        name = NAMES[used]
        assert (await seen.post(f"/api/cache/upstreams/{name}/drain", {})).status == 200
        other = await seen.generate("first")
        assert other.field("X-Cache") == "MISS", "what another model has said is not served"
        assert seen.asked("/api/generate") == [1, 1]
        assert (await seen.generate("first")).body == other.body
        assert (await seen.post(f"/api/cache/upstreams/{name}/resume", {})).status == 200
        again = [(await seen.generate("first")).field("X-Cache") for _ in range(4)]
        assert again == ["HIT"] * 4
        assert (await seen.generate("second")).field("X-Cache") == "MISS"
        assert (await seen.generate("second")).field("X-Cache") == "HIT"


async def test_what_a_host_of_another_identity_has_answered_is_not_stored() -> None:
    async with site(2, tables={"a": {"weight": 100}}) as seen:
        seen.ollamas[1].models.replace("tiny")
        await seen.generate("where it is loaded")
        assert seen.asked("/api/generate") == [1, 0]
        await fleet(seen).looks.see_tags()
        seen.ollamas[0].fault = lambda request: Fault.REFUSE if request.target == "/api/generate" else None
        answer = await seen.generate("moved")
        assert answer.status == 200
        assert seen.asked("/api/generate")[1] == 1
        assert "model-changed" in (answer.field("Cache-Status") or "")
        seen.ollamas[0].fault = None
        assert (await seen.generate("moved")).field("X-Cache") == "MISS"


async def test_a_conversation_stays_and_others_are_spread() -> None:
    async with site(2, cache_chat="off") as seen:
        for one in seen.ollamas:
            await ask(one.url, "POST", "/api/generate", body=b'{"model": "tiny"}')
        await until(lambda: all(host.loaded for host in fleet(seen).hosts))
        homes: set[int] = set()
        for talk in range(8):
            messages = [{"role": "user", "content": f"{canary.PROMPT} {talk}"}]
            before = seen.asked("/api/chat")
            for _ in range(3):
                await seen.post("/api/chat", {"model": "tiny", "messages": messages, "stream": False})
                messages = [*messages, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
            (home,) = [place for place in (0, 1) if seen.asked("/api/chat")[place] == before[place] + 3]
            homes.add(home)
        assert homes == {0, 1}


async def test_a_500_is_an_answer_and_no_reason_to_eject() -> None:
    async with site(2) as seen:
        for one in seen.ollamas:
            one.fault = lambda request: Fault.STATUS_500 if request.target == "/api/generate" else None
        assert (await seen.generate("broken")).status == 500
        assert sum(seen.asked("/api/generate")) == 1
        assert all(host.takes_requests for host in fleet(seen).hosts)


async def test_lists_are_merged_with_one_entry_for_each_digest() -> None:
    async with site(2) as seen:
        await ask(seen.ollamas[0].url, "POST", "/api/copy", body=b'{"source": "tiny", "destination": "only-a"}')
        await ask(seen.ollamas[1].url, "POST", "/api/copy", body=b'{"source": "tiny", "destination": "only-b"}')
        seen.ollamas[1].models.replace("tiny")
        merged = json.loads((await ask(seen.proxy.url, "GET", "/api/tags")).body)["models"]
        names = [row["name"] for row in merged]
        assert {"only-a:latest", "only-b:latest"} <= set(names)
        assert names.count("tiny:latest") == 2
        assert names.count("all-minilm:latest") == 1
        one = await ask(seen.proxy.url, "GET", "/api/tags", fields={"X-Upstream": "b"})
        assert one.body == (await ask(seen.ollamas[1].url, "GET", "/api/tags")).body
        listed = json.loads((await ask(seen.proxy.url, "GET", "/v1/models")).body)["data"]
        assert [row["id"] for row in listed].count("tiny:latest") == 1
        await seen.generate("load it")
        assert len(json.loads((await ask(seen.proxy.url, "GET", "/api/ps")).body)["models"]) == 1
        told = json.loads((await ask(seen.proxy.url, "GET", "/api/cache/upstreams")).body)["upstreams"]
        assert [row["name"] for row in told] == ["a", "b"]
        assert all(row["state"] == "ok" for row in told)


async def test_changes_go_home_or_where_they_are_sent() -> None:
    async with site(3, tables={"c": {"labels": ["big"]}}) as seen:
        assert (await seen.post("/api/copy", {"source": "tiny", "destination": "copied"})).status == 200
        assert seen.asked("/api/copy") == [1, 0, 0], "the first that has it"
        copied = {"source": "tiny", "destination": "at-c"}
        assert (await seen.post("/api/copy", copied, **{"X-Upstream": "big"})).status == 200
        assert seen.asked("/api/copy") == [1, 0, 1]
        assert all(b"x-upstream" not in {name.lower() for name, _ in one.fields} for one in seen.ollamas[2].received)
        await fleet(seen).looks.see_tags()
        assert (await seen.post("/api/delete", {"model": "at-c"}, "DELETE")).status == 200
        assert seen.asked("/api/delete") == [0, 0, 1]
        refused = await seen.post("/api/delete", {"model": "tiny"}, "DELETE", **{"X-Upstream": "nobody"})
        assert refused.status == 400


async def test_a_pull_everywhere_is_one_progress_to_its_client() -> None:
    async with site(3, changes_to="all") as seen:
        answer = await seen.post("/api/pull", {"model": "tiny"})
        lines = [json.loads(line) for line in answer.body.splitlines()]
        assert seen.asked("/api/pull") == [1, 1, 1]
        assert lines[-1] == {"status": "success"}
        assert sum(line == {"status": "success"} for line in lines) == 1
        one = [
            json.loads(line)
            for line in (
                await ask(seen.ollamas[0].url, "POST", "/api/pull", body=b'{"model":"tiny"}')
            ).body.splitlines()
        ]
        assert {line["status"] for line in lines} == {line["status"] for line in one}
        quiet = await seen.post("/api/pull", {"model": "tiny", "stream": False})
        assert json.loads(quiet.body) == {"status": "success"}
        seen.ollamas[1].fault = lambda request: Fault.STATUS_500 if request.target == "/api/pull" else None
        failed = await seen.post("/api/pull", {"model": "tiny"})
        assert json.loads(failed.body.splitlines()[-1])["error"].startswith("b: ")
        assert (await seen.post("/api/delete", {"model": "tiny"}, "DELETE")).status == 200
        assert seen.asked("/api/delete") == [1, 1, 1]


async def test_an_upload_and_the_model_made_of_it_reach_every_host() -> None:
    blob = bytes(range(256)) * (1 << 12)
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    path, create = f"/api/blobs/{digest}", {"model": "made", "files": {"made.gguf": digest}, "stream": False}
    async with site(3, changes_to="all") as seen:
        assert (await ask(seen.proxy.url, "HEAD", path)).status == 404
        assert (await ask(seen.ollamas[1].url, "POST", path, body=blob)).status == 201
        assert (await ask(seen.proxy.url, "HEAD", path)).status == 404, "one of them is not all"
        async with await RawConnection.open(seen.proxy.url) as connection:
            connection.send("POST", path, fields={"Content-Length": str(len(blob))})
            for at in range(0, len(blob), 1 << 16):
                connection.writer.write(blob[at : at + (1 << 16)])
                await connection.writer.drain()
            assert (await connection.answer()).status == 201
        assert (await ask(seen.proxy.url, "HEAD", path)).status == 200
        assert [digest.removeprefix("sha256:") in one.models.blobs for one in seen.ollamas] == [True] * 3
        answer = await seen.post("/api/create", create)
        assert (answer.status, json.loads(answer.body)) == (200, {"status": "success"})
        assert [one.models.get("made").weights.digest for one in seen.ollamas] == [digest[7:]] * 3


async def test_an_upload_to_a_label_reaches_the_hosts_that_have_it_and_says_where_it_failed() -> None:
    tables = {"b": {"labels": ["big"]}, "c": {"labels": ["big"]}}
    async with site(3, tables=tables) as seen:
        path = f"/api/blobs/sha256:{hashlib.sha256(b'x').hexdigest()}"
        assert (await ask(seen.proxy.url, "POST", path, body=b"x", fields={"X-Upstream": "big"})).status == 201
        assert (await ask(seen.proxy.url, "HEAD", path, fields={"X-Upstream": "big"})).status == 200
        assert seen.asked(path) == [0, 2, 2]
        assert (await ask(seen.proxy.url, "HEAD", path)).status == 404
        await seen.ollamas[2].stop()
        failed = await ask(seen.proxy.url, "POST", path, body=b"x", fields={"X-Upstream": "big"})
        assert (failed.status, json.loads(failed.body)["error"][:3]) == (502, "c: ")


async def test_a_drained_host_gets_no_requests_and_the_last_one_is_not_drained() -> None:
    async with site(2) as seen:
        assert (await seen.post("/api/cache/upstreams/a/drain", {})).status == 200
        for number in range(4):
            await seen.generate(f"drained {number}")
        assert seen.asked("/api/generate") == [0, 4]
        assert (await seen.post("/api/cache/upstreams/b/drain", {})).status == 409
        assert (await seen.post("/api/cache/upstreams/b/other", {})).status == 404
        assert (await seen.post("/api/cache/upstreams/a/resume", {})).status == 200
        metrics = (await ask(seen.proxy.url, "GET", "/metrics")).body.decode()
        assert 'upstream_host_up{upstream="a"} 1.0' in metrics
        assert 'upstream_host_requests_total{outcome="answered",upstream="b"}' in metrics


async def test_a_model_is_only_served_where_the_settings_say() -> None:
    async with site(2, tables={"a": {"models": ["all-minilm"]}}) as seen:
        for number in range(3):
            assert (await seen.generate(f"only at b {number}")).status == 200
        assert seen.asked("/api/generate") == [0, 3]


async def test_an_epoch_of_its_own_keeps_a_host_apart() -> None:
    async with site(2, tables={"b": {"epoch": "fp8"}}) as seen:
        await seen.generate("apart")
        used = NAMES[seen.asked("/api/generate").index(1)]
        await seen.post(f"/api/cache/upstreams/{used}/drain", {})
        assert (await seen.generate("apart")).field("X-Cache") == "MISS"


async def test_a_list_that_comes_in_chunks_is_merged_too() -> None:
    async with site(2) as seen:
        for number in range(40):
            seen.ollamas[1].models.add(f"more-{number}")
        assert (await ask(seen.ollamas[1].url, "GET", "/api/tags")).chunks
        answer = await ask(seen.proxy.url, "GET", "/api/tags")
        assert sum(row["name"].startswith("more-") for row in json.loads(answer.body)["models"]) == 40
        alone = await ask(seen.proxy.url, "GET", "/api/tags", fields={"X-Upstream": "b"})
        assert alone.body == (await ask(seen.ollamas[1].url, "GET", "/api/tags")).body


async def test_a_change_everywhere_says_which_host_it_could_not_reach() -> None:
    async with site(2, changes_to="all") as seen:
        await seen.ollamas[1].stop()
        await until(lambda: fleet(seen).hosts[1].health.ejected)
        answer = await seen.post("/api/pull", {"model": "tiny"})
        assert answer.status == 200
        assert json.loads(answer.body.splitlines()[-1])["error"].startswith("b: ")
        quiet = await seen.post("/api/pull", {"model": "tiny", "stream": False})
        assert (quiet.status, json.loads(quiet.body)["error"][:3]) == (502, "b: ")


async def test_a_request_without_a_model_goes_to_the_first_host_that_takes_any() -> None:
    async with site(2) as seen:
        await seen.post("/api/cache/upstreams/a/drain", {})
        before = seen.asked("/")
        assert (await ask(seen.proxy.url, "GET", "/")).status == 200
        assert seen.asked("/") == [before[0], before[1] + 1]
        assert (await seen.post("/api/chat", {"messages": []})).status == 400
        assert seen.asked("/api/chat") == [0, 1]


async def test_workers_serve_several_ollamas_and_tell_each_other_of_a_drain(redis_server: RedisServer) -> None:
    async with Simulator(Behaviour(completion_delay=0)) as one, Simulator(Behaviour(completion_delay=0)) as other:
        named = ("--upstream", one.url, "--upstream", other.url, "--workers", "2", "--listen", "127.0.0.1:0")
        async with serve(*named, environment={"OCP_REDIS_URL": redis_server.url, "OCP_LOG": "plain"}) as running:
            url = await running.url()
            await running.line(lambda line: "2 workers serve" in line)
            host = one.url.removeprefix("http://")
            drained = await ask(url, "POST", f"/api/cache/upstreams/{host}/drain", body=b"")
            assert json.loads(drained.body)["state"] == "draining"
            for number in range(12):
                body = {"model": "tiny", "prompt": f"{canary.PROMPT} {number}", "stream": False}
                assert (await ask(url, "POST", "/api/generate", body=json.dumps(body).encode())).status == 200
            assert not any(each.target == "/api/generate" for each in one.received)
            assert sum(each.target == "/api/generate" for each in other.received) == 12


async def test_equal_lists_are_handed_on_as_they_came() -> None:
    async with site(2) as seen:
        for path in ("/api/ps", "/v1/models"):
            assert (await ask(seen.proxy.url, "GET", path)).body == (await ask(seen.ollamas[0].url, "GET", path)).body


async def test_a_host_that_refuses_the_proxy_is_told_of_as_one_ollama_is() -> None:
    async with site(2) as seen:
        host = fleet(seen).hosts[1]
        await until(lambda: host.version)
        host.ollama.note_refusal("Ollama refuses the proxy")
        assert "Ollama refuses the proxy; until then nothing is cached" in seen.proxy.log.getvalue()
        await until(lambda: f"Connected to Ollama at {host.ollama.name}\n" in seen.proxy.log.getvalue())


async def test_prompts_are_remembered_for_each_ollama_apart() -> None:
    async with site(2) as seen:
        for name in (*NAMES[:2], *NAMES[:2]):
            messages = [{"role": "user", "content": f"{canary.PROMPT} {'why ' * 100}"}]
            body = {"model": "tiny", "messages": messages, "stream": False}
            for host in fleet(seen).hosts:
                host.draining = host.name != name
            assert (await seen.post("/api/chat", body)).status == 200
        found = json.loads((await ask(seen.proxy.url, "GET", "/api/cache/prompts")).body)
        assert sorted(seen.asked("/api/chat")) == [2, 2]
        assert 0.4 < found["reusedTokens"] / found["tokens"] < 0.6, "of the second request to each alone"
