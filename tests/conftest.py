from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

try:
    import uvloop
except ImportError:  # Windows
    uvloop = None

from ollama_cache_proxy.simulator import NEWEST, Behaviour, Simulator
from tests.e2e.faults.matrix import measures_time
from tests.support.clusters import Cluster
from tests.support.hangs import ends_after
from tests.support.servers import Proxy, RedisServer, proxy_before

HANGS_FOR = 120.0
"""Seconds beyond its own timeout after which a test that pytest-timeout could not end ends the run."""

hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
"""An example is not wrong because it took long."""

TALLY = pytest.StashKey[dict[str, list[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ollama", metavar="URL", help="also hold the proxy against a real Ollama with the recorded models"
    )
    parser.addoption("--redis-server", metavar="PROGRAM", help="the server program of all tests that need a Redis")
    parser.addoption(
        "--other-ollama", metavar="URL", help="with --ollama: one with the same models, and another environment"
    )
    parser.addoption("--distributed", action="store_true", help="also what takes several servers, and minutes")
    parser.addoption("--table", action="store_true", help="print the fault matrix; every row of it has to hold")
    parser.addoption("--tally", metavar="FILE", help="note the tests that were found, and those that ran, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Take the server program that was named, where one was. What fixtures of a session start keeps nothing."""
    os.environ["OCP_KEEP"] = "false"
    RedisServer.program = config.getoption("--redis-server") or None


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name binary values after their argument: a test whose name holds random bytes has another name in each process."""
    return argname if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()) else None


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """Tests run on uvloop, as the command does; what is about sockets runs on asyncio's own loop too."""
    if uvloop is None:
        return {"asyncio": asyncio.new_event_loop}
    both = item.path.parent.name in ("wire", "faults") or item.path.name == "test_live_events.py"
    both = both and item.path.name != "test_loop_faults.py"  # what it measures runs in a process of its own
    both = both and item.get_closest_marker("distributed") is None
    return {"uvloop": uvloop.new_event_loop} | ({"asyncio": asyncio.new_event_loop} if both else {})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a real Ollama, or takes long, where that was not asked for. What measures the time that a fault costs runs alone."""
    for item in items:
        if any(measures_time(row) for marker in item.iter_markers("row") for row in marker.args):
            item.add_marker("alone")
    for option, marker in (
        ("--ollama", "real_ollama"),
        ("--other-ollama", "other_ollama"),
        ("--distributed", "distributed"),
    ):
        if not config.getoption(option):
            others = [item for item in items if marker in item.keywords]
            config.hook.pytest_deselected(items=others)
            items[:] = [item for item in items if item not in others]
    config.stash[TALLY] = {"found": [item.nodeid for item in items], "ran": []}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the tally, if one was asked for (tests/side_by_side.py)."""
    if (file := session.config.getoption("--tally")) and TALLY in session.config.stash:
        Path(file).write_text(json.dumps(session.config.stash[TALLY]), "utf-8")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Name the test that hangs for good."""
    marked = item.get_closest_marker("timeout")
    timeout = float(marked.args[0] if marked else item.config.getini("timeout"))
    item.config.stash[TALLY]["ran"].append(item.nodeid)
    with ends_after(timeout + HANGS_FOR, item):
        return (yield)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person who runs the tests has set must not change what they see."""
    for name in list(os.environ):
        if name.startswith("OCP_") or name in ("OLLAMA_HOST", "REDIS_URL", "NO_COLOR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OCP_KEEP", "false")  # nothing is written into the home of the person who runs the tests


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> None:
    """Keep the collector off what earlier modules left, reports above all: half a second, which a test took for a stall."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """A real server, empty."""
    redis_process.client().flushall()
    return redis_process


@pytest.fixture(scope="session")
def cluster_process() -> Iterator[Cluster]:
    own = Cluster(replicas=False)
    try:
        own.start().wait()
        yield own
    finally:
        own.close()


@pytest.fixture
def cluster(cluster_process: Cluster) -> Cluster:
    """Three primaries of a real cluster, empty."""
    for server in cluster_process.primaries:
        server.client().flushall()
    return cluster_process


@pytest.fixture
def release() -> str:
    """Which release the simulated Ollama is, if a test does not say it (`parametrize("release", …)`)."""
    return NEWEST


@pytest.fixture
async def simulator(release: str) -> AsyncIterator[Simulator]:
    """An Ollama that answers at once."""
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0, release=release)) as running:
        yield running


@pytest.fixture
async def proxy(simulator: Simulator, redis_server: RedisServer) -> AsyncIterator[Proxy]:
    """A proxy before the simulator, with a real Redis or Valkey."""
    async with proxy_before(simulator.url, redis_url=redis_server.url) as running:
        yield running
