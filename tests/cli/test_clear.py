from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support import canary
from tests.support.rawhttp import ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.terminal import piped, terminal


@pytest.fixture
async def kept(proxy: Proxy) -> Proxy:
    """A proxy that has stored three entries of two models."""
    for prompt, category in (("a", "code"), ("b", "docs")):
        body = json.dumps({"model": "tiny", "prompt": prompt, "stream": False}).encode()
        await ask(proxy.url, "POST", "/api/generate", body=body, fields={"X-Cache-Category": category})
    await ask(proxy.url, "POST", "/api/embed", body=b'{"model": "all-minilm", "input": "a"}')
    return proxy


async def keys(proxy: Proxy) -> int | None:
    return json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)["keys"]


@pytest.mark.parametrize(
    ("filters", "count", "left"),
    [
        ((), 3, 0),
        (("--model", "TINY"), 2, 1),
        (("--operation", "embed"), 1, 2),
        (("--model", "tiny", "--category", "code"), 1, 2),
        (("--namespace", "other"), 0, 3),
        (("--key", "0" * 64), 0, 3),
    ],
)
async def test_in_a_script_it_forgets_what_is_meant(
    filters: tuple[str, ...], count: int, left: int, kept: Proxy
) -> None:
    done = await piped("clear", "--url", kept.url, *filters)
    assert (done.status, done.err) == (0, "")
    assert done.out == f"{count} {'entry' if count == 1 else 'entries'} cleared.\n"
    assert await keys(kept) == left


async def test_json_is_what_the_proxy_says(kept: Proxy) -> None:
    assert (await piped("clear", "--url", kept.url, "--json")).out == '{"cleared":3}\n'


@pytest.mark.parametrize(("typed", "status", "left"), [("y\n", 0, 0), ("n\n", 1, 3), ("\n", 1, 3), ("\x04", 1, 3)])
async def test_on_a_terminal_it_asks_first(typed: str, status: int, left: int, kept: Proxy) -> None:
    async with terminal("clear", "--url", kept.url) as shown:
        await shown.shows(f"Clear all 3 entries at {kept.url}? [y/N] ")
        assert await keys(kept) == 3
        shown.type(typed)
        assert await shown.end() == status
    assert ("Nothing was cleared." in shown.text) == bool(left)
    assert await keys(kept) == left


async def test_what_it_asks_names_the_filters(kept: Proxy) -> None:
    async with terminal("clear", "--url", kept.url, "--model", "tiny", "--category", "code", columns=200) as shown:
        await shown.shows(f"Clear all entries of model tiny, category code at {kept.url}? [y/N] ")
        shown.type("\x03")
        assert await shown.end() == 130
    assert await keys(kept) == 3


async def test_with_yes_it_does_not_ask(kept: Proxy) -> None:
    async with terminal("clear", "--url", kept.url, "--yes") as shown:
        assert await shown.end() == 0
    assert shown.text == "3 entries cleared.\n"


async def test_a_number_that_is_not_known_is_said_to_be_none(simulator: Simulator) -> None:
    """The user may not SCAN."""
    server = RedisServer()
    server.start()
    try:
        server.client().execute_command("ACL", "SETUSER", "default", "-scan")
        async with proxy_before(simulator.url, redis_url=server.url) as proxy:
            assert await keys(proxy) is None
            assert (await piped("clear", "--url", proxy.url, "--json")).out == '{"cleared":null}\n'
            done = await piped("clear", "--url", proxy.url)
            assert (done.status, done.err) == (0, "")
            assert done.out == "Cleared; how many entries there were is not known.\n"
            done = await piped("stats", "--url", proxy.url)
            assert done.out.startswith(f"{proxy.url} stores entries (number not known) in {server.name}\n")
            done = await piped("clear", "--url", proxy.url, "--model", "tiny")
            assert "the store does not answer, or refuses a command that this takes" in done.err
    finally:
        server.close()


async def test_a_wrong_name_of_a_model_is_one_line(kept: Proxy) -> None:
    done = await piped("clear", "--url", kept.url, "--model", "no such: name")
    assert done.status == 1
    assert done.err == f"ollama-cache-proxy: {kept.url} says: model is not a valid model name\n"
    assert await keys(kept) == 3


async def test_where_others_can_reach_it_the_token_is_needed(simulator: Simulator, tmp_path: object) -> None:
    async with proxy_before(simulator.url, listen="0.0.0.0:0") as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        for command in (("clear",), ("entries",)):
            without = await piped(*command, "--url", url)
            assert without.status == 1
            assert "the admin token is missing or wrong; set OCP_ADMIN_TOKEN to the proxy's token" in without.err
            assert (await piped(*command, "--url", url, added={"OCP_ADMIN_TOKEN": canary.TOKEN})).status == 0
        file = tmp_path / "settings.toml"
        file.write_text(f'admin_token = "{canary.TOKEN}"\n')
        assert (await piped("clear", "--url", url, "--config", str(file))).status == 0
