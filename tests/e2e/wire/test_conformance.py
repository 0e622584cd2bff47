"""Every recorded request, asked through the proxy and directly: what comes back must be the same, also when asked twice.

Two equal servers of each release are asked in step, one of them through the proxy, since many requests change what later
ones answer. With `--ollama URL` a real Ollama is asked as well, with what changes none of its models; it must hold tiny and
all-minilm.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ollama_cache_proxy.policy.endpoints import REUSABLE
from ollama_cache_proxy.service.settings import setting_of
from ollama_cache_proxy.simulator import Simulator
from tests.support.rawhttp import RawAnswer, ask
from tests.support.recordings import RECORDINGS, before, begin, recorded_behaviour, send, settled
from tests.support.servers import RedisServer, proxy_before

ROOT = Path(__file__).parents[3]
OWN = ("cache-status", "x-cache", "age")
BOTH_HIT = {
    "generate_nonstream", "generate_keep_alive_str", "generate_stop", "generate_raw", "generate_format_json",
    "generate_context", "generate_logprobs", "generate_option_unknown",
    "generate_unknown_field", "generate_form_content_type", "generate_no_content_type", "generate_latest_tag",
    "generate_full_name", "generate_origin_ok", "generate_copy", "embed_string", "embed_list", "embed_list_one",
    "embed_dimensions", "embeddings", "v1_embeddings",
}  # fmt: skip
HITS = {
    "0.24": BOTH_HIT | {"generate_images_bad", "generate_system", "embed_generative_model"},
    "0.33": BOTH_HIT | {"embed_num_ctx", "generate_over_context"},
}


BOTH_OPT_IN = {
    "generate_stream_default", "generate_stream_true", "generate_stream_null", "chat_nonstream", "chat_stream",
    "v1_chat", "v1_chat_stream", "v1_completions", "v1_completions_stream", "v1_messages", "v1_responses",
}  # fmt: skip
OPT_IN = {"0.24": BOTH_OPT_IN, "0.33": BOTH_OPT_IN | {"v1_chat_stream_33", "v1_chat_stream_usage"}}


OWN_FIELDS, LENGTH, HISTORY = "fields of the cache", "length instead of chunks", "history"
DIFFERENCES = (OWN_FIELDS, LENGTH, HISTORY)
"""All that a client sees which Ollama would not have sent, as docs/design.md describes it."""


def own_head(answer: RawAnswer) -> list[tuple[str, str]]:
    """The fields that are not the cache's own, Date's value aside, and without those of framing."""
    kept = [(name, value) for name, value in answer.fields if name.lower() not in OWN]
    return [(name, "D" if name == "Date" else value) for name, value in kept if name not in FRAMING]


FRAMING = ("Content-Length", "Transfer-Encoding")


def framing(answer: RawAnswer) -> list[str]:
    return [name for name, _ in answer.fields if name in FRAMING]


def compare(direct: RawAnswer, through: RawAnswer) -> set[str]:
    """Return the differences by name; there may be no others.

    A stream from the store comes in the chunks that it had.
    """
    status = through.field("Cache-Status") or ""
    found = {OWN_FIELDS} if any(name.lower() in OWN for name, _ in through.fields) else set()
    assert through.status_line == direct.status_line
    assert own_head(through) == own_head(direct)
    assert settled(through.body) == settled(direct.body)
    if through.field("Age") is not None:
        found.add(HISTORY)
    if ("; hit;" in status and not through.chunks) or "; detail=items;" in status:
        assert framing(through) == ["Content-Length"]
        return found | ({LENGTH} if framing(direct) != ["Content-Length"] else set())
    assert framing(through) == framing(direct)
    assert [settled(chunk) for chunk in through.chunks] == [settled(chunk) for chunk in direct.chunks]
    return found


Pairs = dict[str, list[tuple[RawAnswer, RawAnswer]]]
CASES = [(release, name) for release, cases in RECORDINGS.items() for name in cases]


EVERYTHING: dict[str, Any] = {
    "cache_streams": True,
    **{setting_of(row.operation): "always" for row in REUSABLE},
}
LANES: dict[str, Any] = {"lanes": "interactive-first"}
SETTINGS: dict[str, dict[str, Any]] = {"defaults": {}, "everything": EVERYTHING, "lanes": LANES}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SETTINGS)
async def pairs(request: pytest.FixtureRequest, redis_process: RedisServer) -> dict[str, Pairs]:
    """For each release and case two pairs of answers: directly and through the proxy, for the first time and again."""
    return {release: await asked(release, SETTINGS[request.param], redis_process) for release in RECORDINGS}


async def asked(release: str, settings: dict[str, Any], redis_process: RedisServer) -> Pairs:
    redis_process.client().flushall()
    found: Pairs = {}
    async with (
        Simulator(recorded_behaviour(release)) as direct,
        Simulator(recorded_behaviour(release)) as behind,
        proxy_before(behind.url, redis_url=redis_process.url, **settings) as proxy,
    ):
        for simulator in (direct, behind):
            await begin(simulator)
        for name, case in RECORDINGS[release].items():
            for simulator in (direct, behind):
                before(simulator, name)
            found[name] = [(await send(direct.url, case), await send(proxy.url, case)) for _ in range(2)]
    return found


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("release", "name"), CASES)
async def test_through_the_proxy_as_directly(release: str, name: str, pairs: dict[str, Pairs]) -> None:
    for direct, through in pairs[release][name]:
        compare(direct, through)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("release", RECORDINGS)
async def test_each_difference_occurs_and_is_documented(release: str, pairs: dict[str, Pairs]) -> None:
    found = [compare(direct, through) for both in pairs[release].values() for direct, through in both]
    assert set().union(*found) == set(DIFFERENCES)
    text = (ROOT / "docs" / "design.md").read_text("utf-8").partition("\n## Differences\n")[2].partition("\nWhat ")[0]
    assert tuple(re.findall(r"^\| ([a-z ]+) \|", text, re.MULTILINE))[1:] == DIFFERENCES


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("release", RECORDINGS)
async def test_what_was_a_hit_the_second_time(
    release: str, pairs: dict[str, Pairs], request: pytest.FixtureRequest
) -> None:
    """The golden list of what is reused by default, of what may be, and nothing else is."""
    results = {name: [through.field("X-Cache") for _, through in pair] for name, pair in pairs[release].items()}
    expected = HITS[release] | (OPT_IN[release] if "everything" in request.node.name else set())
    assert {name for name, (_, again) in results.items() if again == "HIT"} == expected
    assert {name for name, (_, again) in results.items() if again == "MISS"} == {
        name for name in results if results[name] == ["MISS", "MISS"]
    }


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("release", RECORDINGS)
async def test_a_hit_repeats_the_bytes_of_its_miss(release: str, pairs: dict[str, Pairs]) -> None:
    for name, ((_, first), (_, again)) in pairs[release].items():
        if again.field("X-Cache") != "HIT":
            continue
        listed = name.startswith(("embed_", "v1_"))  # of a joined list the durations are those of its first text
        assert again.body == first.body or (listed and settled(again.body) == settled(first.body)), name
        dates = [parsedate_to_datetime(answer.field("Date") or "") for answer in (first, again)]
        # A joined list is as old as its oldest text, which an earlier case may have asked.
        assert dates[0] == dates[1] or (listed and dates[0] > dates[1]), name


RUNS_LLAMA_SERVER = 30
"""The minor version from which Ollama answers as the newer recording does."""
CHANGING = ("copy", "delete", "create", "pull", "generate_copy")


@pytest.fixture(params=SETTINGS)
async def real(request: pytest.FixtureRequest, redis_server: RedisServer) -> AsyncIterator[tuple[str, str]]:
    url = request.config.getoption("--ollama")
    async with proxy_before(url, redis_url=redis_server.url, **SETTINGS[request.param]) as proxy:
        yield url, proxy.url


@pytest.mark.real_ollama
async def test_a_real_ollama(real: tuple[str, str]) -> None:
    """Where it answers differently each time (it samples), only the heads are compared."""
    direct_url, proxy_url = real
    version = json.loads((await ask(direct_url, "GET", "/api/version")).body)["version"]
    release = "0.24" if int(version.split(".")[1]) < RUNS_LLAMA_SERVER else "0.33"
    differing = []
    for name, case in RECORDINGS[release].items():
        if name.startswith(CHANGING) or name in ("ps", "ps_after"):
            continue
        sampled = len({settled((await send(direct_url, case)).body) for _ in range(8)}) > 1
        for _ in range(2):
            direct, through = await send(direct_url, case), await send(proxy_url, case)
            if sampled:
                direct = replace(direct, body=through.body, chunks=through.chunks)
            try:
                compare(direct, through)
            except AssertionError as error:
                differing.append((name, str(error)))
    assert not differing
