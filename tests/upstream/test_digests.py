"""Cases of the model table that need a fake upstream; the others are in tests/e2e/cache/test_models.py."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from ollama_cache_proxy.core.errors import unreachable
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.stores.memory import MemoryValues
from ollama_cache_proxy.upstream import digests as module
from ollama_cache_proxy.upstream.digests import OllamaModels
from tests.support.clocks import Clock
from tests.support.waiting import until


class Upstream:
    """Responds with tags and version, and sets `ended` in the same turn of the loop in which a probe ends."""

    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.probes = 0

    @asynccontextmanager
    async def ask(self, request, body):
        document = b'{"models":[]}' if request.target == "/api/tags" else b'{"version":"0.24.0"}'

        async def chunks():
            yield document

        yield SimpleNamespace(head=SimpleNamespace(status=200), chunks=chunks)
        if request.target == "/api/version":
            self.probes += 1
            if not self.ended.done():
                self.ended.set_result(None)


async def test_a_request_in_the_turn_in_which_a_probe_ends_starts_a_new_one():
    """It once joined the probe that had ended, in an endless loop that let nothing else run."""
    upstream = Upstream()
    models = OllamaModels(upstream, MemoryValues(), name="x", deadline=5, clock=SystemClock(), tasks=Tasks())

    async def request():
        await upstream.ended
        return await models.identify("missing")

    waiting = asyncio.create_task(request())
    await asyncio.sleep(0)
    models._probe()
    assert await waiting is None
    assert upstream.probes == 2
    models.close()


async def test_an_unresponsive_host_lets_the_old_digests_be_used(monkeypatch):
    """No response for longer than `POLL`, or a probe that cannot connect, does not count as slowness."""
    hangs, gives_up, clock = False, asyncio.Event(), Clock()

    class Hanging(Upstream):
        @asynccontextmanager
        async def ask(self, request, body):
            if hangs:
                await gives_up.wait()
                raise unreachable("hangs")
            tags = b'{"models":[{"name":"tiny","digest":"d"}]}'

            async def chunks():
                yield tags if request.target == "/api/tags" else b'{"version":"0.24.0"}'

            yield SimpleNamespace(head=SimpleNamespace(status=200), chunks=chunks)

    tasks = Tasks()
    models = OllamaModels(Hanging(), MemoryValues(), name="x", deadline=None, clock=clock, tasks=tasks)
    assert (await models.identify("tiny")).digest == "d"
    hangs = True
    monkeypatch.setattr(module, "MAX_WAIT", 0.05)
    clock.time += module.STALE + 1
    assert await models.identify("tiny") is None, "nothing is known yet: it may only be slow"
    clock.time += module.POLL + 1
    assert (await models.identify("tiny")).digest == "d", "it has hung for too long, and still does"
    gives_up.set()
    await until(lambda: models._unreachable)
    for _ in range(3):
        clock.time += module.POLL + 1
        assert (await models.identify("tiny")).digest == "d", "the probe has ended without a connection"
    models.close()
    await tasks.close(1)


class Listing(Upstream):
    """Has these rows in its table, and tells this of its version."""

    def __init__(self, rows: list[Any], version: Any = None) -> None:
        super().__init__()
        self.rows = rows
        self.told = {"version": "0.33.0-rc2"} if version is None else version

    @asynccontextmanager
    async def ask(self, request, body):
        told = {"models": self.rows} if request.target == "/api/tags" else self.told

        async def chunks():
            yield json.dumps(told).encode()

        yield SimpleNamespace(head=SimpleNamespace(status=200), chunks=chunks)


DETAILS = [
    ({"embedding_length": 384}, 384),
    ({"embedding_length": 0}, None),
    ({"embedding_length": -1}, None),
    ({"embedding_length": "384"}, None),
    ({"embedding_length": 384.0}, None),
    ({"embedding_length": True}, None),
    ({"embedding_length": None}, None),
    ({"family": "bert"}, None),
    (None, None),
    ([], None),
]


async def test_the_width_of_a_models_vectors_is_known_where_ollama_tells_it():
    rows = [{"name": f"m{place}", "digest": "d", "details": details} for place, (details, _) in enumerate(DETAILS)]
    tasks = Tasks()
    models = OllamaModels(
        Listing([*rows, {"name": "bare", "digest": "d"}]),
        MemoryValues(),
        name="x",
        deadline=5,
        clock=SystemClock(),
        tasks=tasks,
    )
    found = [(await models.identify(f"M{place}")).width for place in range(len(DETAILS))]
    assert found == [width for _, width in DETAILS]
    assert (await models.identify("bare")).width is None
    models.close()
    await tasks.close(1)


ODD_DIGESTS = [{}, {"digest": None}, {"digest": 5}, {"digest": ""}, {"digest": []}]


async def test_a_row_that_tells_no_digest_says_nothing_of_the_others():
    """The text of a null is no digest: it would be the same for every model that ever had this name."""
    rows = [{"name": f"m{place}", **odd} for place, odd in enumerate(ODD_DIGESTS)]
    listed = Listing([None, 5, {}, {"name": None}, *rows, {"model": "whole", "digest": "d"}])
    tasks = Tasks()
    models = OllamaModels(listed, MemoryValues(), name="x", deadline=5, clock=SystemClock(), tasks=tasks)
    assert [await models.identify(f"m{place}") for place in range(len(ODD_DIGESTS))] == [None] * len(ODD_DIGESTS)
    assert (await models.identify("whole")).digest == "d"
    models.close()
    await tasks.close(1)


@pytest.mark.parametrize("told", [{}, {"version": None}, {"version": 33}, {"version": ""}])
async def test_without_a_version_no_digest_is_known(told):
    """It is part of every key; the text of a null would hide that Ollama was updated."""
    tasks = Tasks()
    listed = Listing([{"name": "tiny", "digest": "d"}], told)
    models = OllamaModels(listed, MemoryValues(), name="x", deadline=5, clock=SystemClock(), tasks=tasks)
    assert await models.identify("tiny") is None
    models.close()
    await tasks.close(1)


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (b'{"version":"0.33.0-rc2","digests":{"tiny":"d"},"widths":{"tiny":64}}', ("d", 64)),
        (b'{"version":"0.33.0-rc2","digests":{"tiny":"d"}}', ("d", None)),
        (b'{"version":"0.33.0-rc2","digests":{"tiny":"d"},"widths":{"tiny":"x"}}', None),
        (b'{"version":"0.33.0-rc2","digests":{"tiny":"d"},"widths":[]}', None),
    ],
    ids=["with widths", "of release 0.2.0", "of another form", "of yet another form"],
)
async def test_a_saved_table_has_the_widths_or_none(saved, expected):
    class Away(Upstream):
        @asynccontextmanager
        async def ask(self, request, body):
            raise unreachable("down")
            yield

    store, tasks = MemoryValues(), Tasks()
    name = model_names.canonical("tiny")
    assert await store.save("models:x", saved.replace(b"tiny", name.encode()))
    models = OllamaModels(Away(), store, name="x", deadline=5, clock=SystemClock(), tasks=tasks)
    found = await models.identify("tiny")
    assert (None if found is None else (found.digest, found.width)) == expected
    models.close()
    await tasks.close(1)


async def test_another_width_under_the_same_digest_is_another_edition(monkeypatch):
    monkeypatch.setattr(module, "STALE", 0.0)
    monkeypatch.setattr(module, "POLL", 0.0)
    upstream, tasks = Listing([{"name": "tiny", "digest": "d"}]), Tasks()
    models = OllamaModels(upstream, MemoryValues(), name="x", deadline=5, clock=SystemClock(), tasks=tasks)
    assert (await models.identify("tiny")).width is None
    before = models.current_edition
    await models.identify("tiny")
    assert models.current_edition == before
    upstream.rows[0]["details"] = {"embedding_length": 64}
    assert (await models.identify("tiny")).width == 64
    assert models.current_edition > before
    models.close()
    await tasks.close(1)


async def test_a_change_withdraws_what_no_probe_has_confirmed_of_that_model():
    models = OllamaModels(Upstream(), MemoryValues(), name="x", deadline=5, clock=SystemClock(), tasks=Tasks())
    withdrawn = []

    def confirm(model):
        models.confirm(
            SimpleNamespace(model=model, digest="sha256:0"), lambda: withdrawn.append(model), keys=1, plain=True
        )

    confirm("one")
    confirm("two")
    models.begin_change("one")
    assert withdrawn == ["one"]
    models.begin_change(None)
    assert withdrawn == ["one", "two"]
    models.begin_change(None)
    assert withdrawn == ["one", "two"]
    models.close()
