from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import ask
from tests.support.servers import Proxy, proxy_before
from tests.support.terminal import piped, terminal, widest


@pytest.fixture
async def kept(proxy: Proxy) -> Proxy:
    await fill(proxy)
    return proxy


async def fill(proxy: Proxy) -> None:
    """Let it store thirty texts and a completion."""
    body = json.dumps({"model": "all-minilm", "input": [str(number) for number in range(30)]}).encode()
    await ask(proxy.url, "POST", "/api/embed", body=body, fields={"X-Cache-Category": "docs"})
    await ask(proxy.url, "POST", "/api/generate", body=b'{"model": "tiny", "prompt": "a", "stream": false}')


async def test_in_a_pipe_keys_are_whole(kept: Proxy) -> None:
    done = await piped("entries", "--url", kept.url, "--all")
    rows = done.out.splitlines()[1:]
    assert (done.status, done.err, len(rows)) == (0, "", 31)
    assert all(len(row.split()[0]) == 64 for row in rows)
    (row,) = (row for row in rows if "generate" in row)
    assert row.split()[1:3] == ["generate", "tiny:latest"]


async def test_filters_find_one_among_many_pages(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, store="memory") as proxy:
        await fill(proxy)
        done = await piped("entries", "--url", proxy.url, "--model", "tiny", "--limit", "1")
    assert [row.split()[1] for row in done.out.splitlines()[1:]] == ["generate"]


async def test_pages_go_on_where_the_last_one_ended(simulator: Simulator) -> None:
    seen: list[str] = []
    cursor: list[str] = []
    async with proxy_before(simulator.url, store="memory") as proxy:
        await fill(proxy)
        assert "More entries: --cursor " in (await piped("entries", "--url", proxy.url, "--limit", "9")).err
        for page_size in (9, 9, 9, 4):
            page = json.loads((await piped("entries", "--url", proxy.url, "--limit", "9", "--json", *cursor)).out)
            seen += [entry["key"] for entry in page["entries"]]
            assert len(page["entries"]) == page_size
            cursor = ["--cursor", page["cursor"] or ""]
        assert page["cursor"] is None
    assert len(set(seen)) == 31


@pytest.mark.parametrize(("columns", "short"), [(60, True), (100, True), (170, False)])
async def test_on_a_terminal_it_fits(columns: int, short: bool, kept: Proxy) -> None:
    async with terminal("entries", "--url", kept.url, "--all", columns=columns) as shown:
        assert await shown.end() == 0
    assert widest(shown.text) <= columns
    assert ("…" in shown.text) == short
    assert ("full keys" in shown.text) == short


async def test_nothing_to_list(proxy: Proxy) -> None:
    done = await piped("entries", "--url", proxy.url, "--model", "nomodel")
    assert (done.status, done.out) == (0, "No stored entry matches.\n")


@pytest.mark.parametrize("limit", ["0", "1001", "x"])
async def test_a_wrong_limit_is_a_wrong_argument(limit: str) -> None:
    assert (await piped("entries", "--limit", limit)).status == 2
