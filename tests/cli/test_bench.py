from __future__ import annotations

import json
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ollama_cache_proxy.cli.asking import client
from ollama_cache_proxy.cli.jobs.api import ollama
from ollama_cache_proxy.cli.jobs.benching import HITS, _Bench
from ollama_cache_proxy.cli.jobs.progress import Steps
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.workbench.speedup import stream_sheet
from tests.support import canary
from tests.support.processes import serve
from tests.support.rawhttp import ask
from tests.support.servers import Proxy, free_port, proxy_before
from tests.support.terminal import piped, terminal

OTHERS = json.dumps({"model": "tiny", "prompt": "of somebody else", "stream": False}).encode()


async def keys(url: str) -> int:
    return int(json.loads((await ask(url, "GET", "/api/cache/stats")).body)["keys"])


def asked(simulator: Simulator) -> list[str]:
    """What was asked of Ollama since the models were loaded, as far as it has a nonce."""
    bodies = [json.loads(one.body) for one in simulator.received if one.target in ("/api/generate", "/api/embed")]
    return [body.get("prompt", body.get("input")) for body in bodies]


async def test_it_measures_with_a_proxy_process_and_clears_what_it_asked() -> None:
    async with Simulator(Behaviour(completion_delay=0.1, embedding_delay=0.1)) as ollama:
        async with serve("--listen", "127.0.0.1:0", "--upstream", ollama.url) as proxy:
            url = await proxy.url()
            await ask(url, "POST", "/api/generate", body=OTHERS)
            await until_stored(url, 1)
            done = await piped("bench", "--url", url, "--upstream", ollama.url, "--rounds", "2", "--json")
            assert done.status == 0, done.err
            assert await keys(url) == 1, "what is of others stays, and nothing else does"
    told = json.loads(done.out)
    assert (told["rounds"], told["model"], told["embedModel"]) == (2, "tiny:latest", "all-minilm:latest")
    assert [one["operation"] for one in told["operations"]] == ["Completion", "Embedding", "Code explanation"]
    for one in told["operations"]:
        assert (one["withoutCache"]["count"], one["miss"]["count"], one["hit"]["count"]) == (2, 2, 2 * HITS)
        assert one["withoutCache"]["low"] >= 0.1, "Ollama was asked"
        assert one["miss"]["low"] >= 0.1, "Ollama was asked through the proxy"
        assert one["speedup"] == one["withoutCache"]["median"] / one["hit"]["median"] > 1
    for part in told["stream"].values():
        assert part["direct"]["count"] == part["proxied"]["count"] == 2


async def until_stored(url: str, count: int) -> None:
    while await keys(url) < count:
        pass


async def test_every_request_is_new_to_ollama_from_its_first_letter(proxy: Proxy, simulator: Simulator) -> None:
    done = await piped("bench", "--url", proxy.url, "--upstream", simulator.url, "--rounds", "2")
    assert done.status == 0
    # three loads, two rounds of three operations, direct and missed, and of two streams
    assert len(asked(simulator)) == len({prompt[:8] for prompt in asked(simulator)}) == 3 + 2 * (3 * 2 + 2)
    for line in ("Operation", "Completion", "Embedding", "Code explanation", "First token", "Each further token"):
        assert line in done.out
    assert "\x1b" not in done.out + done.err
    assert await keys(proxy.url) == 0


async def test_markdown(proxy: Proxy, simulator: Simulator) -> None:
    done = await piped("bench", "--url", proxy.url, "--upstream", simulator.url, "--rounds", "1", "--markdown")
    assert done.status == 0
    head, rule, first = done.out.splitlines()[:3]
    assert [cell.strip() for cell in head.split("|")[1:5]] == ["Operation", "Without cache", "Hit", "Speedup"]
    assert set(rule) == set("| -:")
    assert first.split("|")[1].strip() == "Completion"


async def test_what_the_cache_does_not_keep_is_said(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, cache_generate="off") as proxy:
        done = await piped("bench", "--url", proxy.url, "--upstream", simulator.url, "--rounds", "1", "--json")
        assert done.status == 0
        told = {one["operation"]: one for one in json.loads(done.out)["operations"]}
        plain = await piped("bench", "--url", proxy.url, "--upstream", simulator.url, "--rounds", "1")
    assert told["Completion"]["hit"] is told["Completion"]["speedup"] is None
    assert "detail=opt-in" in told["Completion"]["note"]
    assert told["Embedding"]["hit"]["count"] == HITS
    assert "Completion: the proxy did not store it: ollama-cache-proxy; fwd=bypass; detail=opt-in" in plain.err
    row = next(line for line in plain.out.splitlines() if line.startswith("Completion"))
    assert "–" in row


@pytest.mark.parametrize(("lines", "told"), [(0, False), (1, True)], ids=["no-line", "no-last-line"])
async def test_streams_that_end_early_have_no_time_for_what_did_not_come(lines: int, told: bool) -> None:
    """Ollama 0.33 ends a stream where a token is no UTF-8, even before its first line."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=b'{"response":"a","done":false}\n' * lines, content_type="application/x-ndjson")

    app = web.Application()
    app.router.add_post("/api/generate", answer)
    async with TestServer(app) as server, client() as session:
        api = ollama(session, str(server.make_url("")).rstrip("/"), load(None, {}))
        measuring = _Bench(cache=api, direct=api, model="tiny", embeds=None, tokens=4)
        streamed = await measuring._streams("tiny", 2, Steps(None))
    assert (streamed.first_direct is not None) is (streamed.first_proxied is not None) is told
    assert streamed.chunk_direct is streamed.chunk_proxied is None
    cells = [cell for row in stream_sheet(streamed).rows for cell in row[1:]]
    assert cells.count("not told") == (3 if told else 6)


async def test_with_redis_down_it_says_that_nothing_is_kept(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url=f"redis://127.0.0.1:{free_port()}/0") as proxy:
        done = await piped("bench", "--url", proxy.url, "--upstream", simulator.url, "--rounds", "1")
    assert done.status == 0
    for operation in ("Completion", "Embedding", "Code explanation"):
        assert re.search(f"^{operation}: the proxy did not store it: .*store-unavailable", done.err, re.MULTILINE)
    assert "did not clear the entries (status 503): the entries" in done.err


async def test_without_a_model_that_embeds_the_rest_is_measured(proxy: Proxy, simulator: Simulator) -> None:
    simulator.models.remove("all-minilm")
    done = await piped("bench", "--url", proxy.url, "--upstream", simulator.url, "--rounds", "1", "--json")
    assert [one["operation"] for one in json.loads(done.out)["operations"]] == ["Completion", "Code explanation"]


async def test_a_model_can_be_named(proxy: Proxy, simulator: Simulator) -> None:
    simulator.models.add("other")
    where = ("--url", proxy.url, "--upstream", simulator.url, "--rounds", "1", "--json")
    done = await piped("bench", *where, "--model", "OTHER")
    assert json.loads(done.out)["model"] == "other:latest"


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (("--model", "nosuch"), 1, "Ollama at {ollama} has no model 'nosuch'; `ollama pull` it, or use one of: "),
        (("--embed-model", "nosuch"), 1, "Ollama at {ollama} has no model 'nosuch'; "),
        (("--rounds", "0"), 2, "--rounds: 0 is not allowed: must be 1 or more"),
        (("--tokens", "0"), 2, "--tokens: 0 is not allowed: must be 1 or more"),
        (("--url", "ftp://x"), 2, "--url: 'ftp://x' is not allowed: "),
        (("--upstream", "{closed}"), 1, "no Ollama answers at {closed}; start it with `ollama serve`"),
        (("--url", "{closed}"), 1, "no proxy answers at {closed}; start one with `ollama-cache-proxy serve`"),
        (("--url", "{ollama}"), 1, "the server at {ollama} is not ollama-cache-proxy; set --url to the proxy"),
    ],
)
async def test_what_is_wrong_is_one_line(
    arguments: tuple[str, ...], status: int, line: str, proxy: Proxy, simulator: Simulator
) -> None:
    names = {"ollama": simulator.url, "closed": f"http://127.0.0.1:{free_port()}"}
    given = [argument.format(**names) for argument in arguments]
    done = await piped("bench", "--url", proxy.url, "--upstream", simulator.url, *given)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(f"ollama-cache-proxy: {line.format(**names)}")
    assert done.err.count("\n") == 1


async def test_a_proxy_of_another_ollama_is_not_compared(proxy: Proxy) -> None:
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0)) as other:
        other.models.replace("tiny")
        done = await piped("bench", "--url", proxy.url, "--upstream", other.url)
    assert done.status == 1
    assert f"tiny:latest is not the same model at {proxy.url} and {other.url}" in done.err


@pytest.mark.parametrize("release", ["0.24"])  # newer ones have no vectors of it
async def test_a_model_that_completes_can_embed_too(proxy: Proxy, simulator: Simulator) -> None:
    done = await piped("bench", "--url", proxy.url, "--upstream", simulator.url, "--embed-model", "tiny")
    assert done.status == 0
    assert await keys(proxy.url) == 0


async def test_ctrl_c_ends_it_and_clears_what_it_asked(proxy: Proxy, simulator: Simulator) -> None:
    await ask(proxy.url, "POST", "/api/generate", body=OTHERS)
    where = ("--url", proxy.url, "--upstream", simulator.url, "--rounds", "100000")
    async with terminal("bench", *where) as shown:
        await shown.shows("Measuring")
        await until_stored(proxy.url, 3)
        simulator.gate.close()
        shown.type("\x03")
        assert await shown.end() == 130
    assert "Traceback" not in shown.text
    simulator.gate.open()
    assert await keys(proxy.url) == 1


async def test_where_it_cannot_clear_it_says_when_all_is_gone(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, listen="0.0.0.0:0") as proxy:
        url = f"http://127.0.0.1:{proxy.url.rpartition(':')[2]}"
        where = ("--url", url, "--upstream", simulator.url, "--rounds", "1")
        refused = await piped("bench", *where)
        assert refused.status == 0
        assert "did not clear the entries (status 401; set OCP_ADMIN_TOKEN to the proxy's token" in refused.err
        left = await keys(url)
        cleared = await piped("bench", *where, added={"OCP_ADMIN_TOKEN": canary.TOKEN})
        assert "did not clear" not in cleared.err
        assert await keys(url) == left == 3
