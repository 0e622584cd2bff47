"""The composition root: the order of closing, and what each part is given."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from ollama_cache_proxy.admin.live_events import Events
from ollama_cache_proxy.core.fast_path import FastHits
from ollama_cache_proxy.core.ports import Topic
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.downstream.listener import Listener
from ollama_cache_proxy.service.app import running
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.service.sockets import bind
from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from ollama_cache_proxy.telemetry.statistics import Statistics
from ollama_cache_proxy.upstream.digests import OllamaModels
from ollama_cache_proxy.upstream.ollama_server import Ollama
from tests.support.servers import RedisServer

LATER = [
    (Listener, "drain"),
    (FastHits, "report"),
    (Statistics, "close"),
    (Tasks, "close"),
    (OllamaModels, "close"),
    (Ollama, "close"),
    (RedisClient, "close"),
]


class Siblings:
    """A stand-in for the other workers that records calls."""

    logs_start = True
    instance = "1f"
    seal_key = None

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.topics: list[str] = []

    def subscribe(self, topic: str, _handle: object) -> None:
        self.topics.append(topic)

    def report_every_second(self, _snapshot: object) -> None:
        self.note("report")

    def send_snapshot(self) -> None:
        self.note("reported")

    def report_connections(self, _connections: int) -> None: ...

    async def apply_settings_by(self, _apply: object) -> None: ...

    def send(self, _topic: str, _value: Any = None) -> None: ...

    async def send_and_wait(self, _topic: str, _value: Any = None) -> None: ...

    async def open(self, _serve: object) -> None:
        self.note("open")

    async def leave(self) -> None:
        self.note("leave")


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that close a part, in order."""
    found: list[str] = []

    def noted(owner: type, name: str) -> None:
        before = getattr(owner, name)

        def close(self: object, *arguments: Any) -> Any:
            found.append(f"{owner.__name__}.{name}")
            return before(self, *arguments)

        monkeypatch.setattr(owner, name, close)

    for owner, name in [(Events, "close"), *LATER]:
        noted(owner, name)
    return found


@pytest.mark.parametrize("several", [False, True], ids=["alone", "a-worker"])
async def test_parts_close_in_this_order(
    several: bool, closed: list[str], simulator: Simulator, redis_server: RedisServer
) -> None:
    settings = load(None, {"upstream": simulator.url, "listen": "127.0.0.1:0", "redis_url": redis_server.url})
    siblings: Any = Siblings(closed.append) if several else None
    with bind(settings.listen) as sock:
        async with running(settings, sock, stream=io.StringIO(), siblings=siblings):
            assert closed == (["report", "open"] if several else [])
            closed.clear()
    drains, tells, *later = [f"{owner.__name__}.{name}" for owner, name in LATER]
    if several:
        assert closed == ["Events.close", "leave", drains, tells, "reported", *later]
    else:
        assert closed == ["Events.close", drains, tells, *later]


async def test_a_worker_subscribes_to_every_topic(simulator: Simulator) -> None:
    more = {"audit": "1%", "lanes": "interactive-first"}
    settings = load(None, {"upstream": simulator.url, "listen": "127.0.0.1:0", "store": "memory", **more})
    siblings: Any = Siblings(lambda _: None)
    with bind(settings.listen) as sock:
        async with running(settings, sock, stream=io.StringIO(), siblings=siblings):
            assert sorted(siblings.topics) == sorted({*Topic} - {Topic.DRAIN})


async def test_a_worker_before_several_ollamas_hears_of_one_that_is_drained(simulator: Simulator) -> None:
    async with Simulator() as another:
        upstreams = (simulator.url, another.url)
        more = {"store": "memory", "lanes": "interactive-first"}
        settings = load(None, {"upstreams": upstreams, "listen": "127.0.0.1:0", **more})
        siblings: Any = Siblings(lambda _: None)
        with bind(settings.listen) as sock:
            async with running(settings, sock, stream=io.StringIO(), siblings=siblings):
                assert {*Topic} - {*siblings.topics} == {Topic.AUDIT_BEGINS, Topic.AUDIT_STOPS}
