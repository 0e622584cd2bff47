"""What is learnt of templates: once for each digest, in the background, and only from a response that says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest

from ollama_cache_proxy.core.errors import unreachable
from ollama_cache_proxy.core.ports import Identity
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.messages import Request, ResponseHead
from ollama_cache_proxy.upstream import model_templates
from ollama_cache_proxy.upstream.model_templates import ModelTemplates
from tests.support.waiting import until

DATED = {"template": "{{ currentDate }}", "details": {}}
PLAIN = {"template": "{{ .Prompt }}", "details": {}}


class Response:
    def __init__(self, status: int, body: bytes) -> None:
        self.head = ResponseHead(status=status, reason="", fields=())
        self._body = body

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body


class World:
    """An Ollama that shows `shown`, its models, and a clock."""

    def __init__(self, shown: Any, *, status: int = 200) -> None:
        self.shown = shown
        self.status = status
        self.asked: list[str] = []
        self.current = True
        self.time = 0.0
        self.go_on = asyncio.Event()
        self.go_on.set()

    @asynccontextmanager
    async def ask(self, request: Request, body: bytes, **_: Any) -> AsyncIterator[Response]:
        assert (request.method, request.target) == ("POST", "/api/show")
        self.asked.append(orjson.loads(body)["model"])
        await self.go_on.wait()
        if isinstance(self.shown, Exception):
            raise self.shown
        yield Response(self.status, self.shown if isinstance(self.shown, bytes) else orjson.dumps(self.shown))

    async def is_current(self, _identity: Identity) -> bool:
        return self.current

    def monotonic(self) -> float:
        return self.time

    def unchanged(self) -> bool:
        return True

    def identity(self, digest: str = "d", model: str = "tiny") -> Identity:
        return Identity(model=model, digest=digest, version="0.33.0", stability=self)


@pytest.fixture
async def learning() -> AsyncIterator[Callable[[World], ModelTemplates]]:
    tasks = Tasks()

    def make(world: World) -> ModelTemplates:
        neighbour = cast("Any", world)
        return ModelTemplates(neighbour, neighbour, clock=neighbour, tasks=tasks)

    yield make
    await tasks.close(0)


@pytest.mark.parametrize(("shown", "dated"), [(DATED, True), (PLAIN, False), ({"details": {}}, False)])
async def test_a_template_is_known_from_the_second_request_on(
    shown: dict[str, Any], dated: bool, learning: Callable[[World], ModelTemplates]
) -> None:
    world = World(shown)
    templates = learning(world)
    assert templates.writes_date(world.identity()) is None
    await until(lambda: templates.writes_date(world.identity()) is not None)
    assert templates.writes_date(world.identity()) is dated
    assert templates.writes_date(world.identity(model="copy")) is dated, "one digest, one template"
    assert world.asked == ["tiny"]
    assert templates.writes_date(world.identity("other")) is None
    newer = replace(world.identity(), version="0.34.0")
    assert templates.writes_date(newer) is None, "another Ollama may choose another template"


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        (unreachable("down"), 200),
        (PLAIN, 404),
        (b"<html>", 200),
        ([], 200),
        ({"template": "x"}, 200),
        (b" " * 200 + b"{}", 200),
    ],
    ids=["down", "not-found", "no-json", "no-object", "another-server", "too-long"],
)
async def test_a_failure_says_nothing_and_is_tried_again_later(
    shown: Any, status: int, learning: Callable[[World], ModelTemplates], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_templates, "_MAX_BYTES", 100)
    world = World(shown, status=status)
    templates = learning(world)
    assert templates.writes_date(world.identity()) is None
    await until(lambda: templates._failed)
    for world.time in (0.0, 4.9):
        assert templates.writes_date(world.identity()) is None
    assert len(world.asked) == 1
    world.time, world.shown, world.status = 5.0, DATED, 200
    assert templates.writes_date(world.identity()) is None
    await until(lambda: templates.writes_date(world.identity()))
    assert len(world.asked) == 2


async def test_a_template_that_may_be_of_another_digest_is_not_remembered(
    learning: Callable[[World], ModelTemplates],
) -> None:
    """A pull behind the proxy's back, between a look at the digests and this one."""
    world = World(PLAIN)
    world.current = False
    templates = learning(world)
    templates.writes_date(world.identity())
    await until(lambda: templates._failed)
    assert templates._known == {}


async def test_what_is_asked_and_remembered_is_bounded(
    learning: Callable[[World], ModelTemplates], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_templates, "_MAX_KNOWN", 3)
    world = World(PLAIN)
    world.go_on.clear()
    templates = learning(world)
    for number in range(20):
        templates.writes_date(world.identity(f"d{number}"))
        templates.writes_date(world.identity(f"d{number}"))
    await asyncio.sleep(0)
    assert len(world.asked) == 4
    world.go_on.set()
    await until(lambda: not templates._asking)
    assert len(templates._known) == 3
