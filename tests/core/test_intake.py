from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from ollama_cache_proxy.core.fingerprint_key import Fingerprinting
from ollama_cache_proxy.core.intake import Found, Intake
from ollama_cache_proxy.core.ports import Identity
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.core.store_ports import Lookup
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.buffers import Buffers
from ollama_cache_proxy.policy.classify import Bypass, Candidate
from ollama_cache_proxy.policy.endpoints import Policy
from ollama_cache_proxy.policy.labels import Labels
from ollama_cache_proxy.policy.messages import Request, StoredResponse
from ollama_cache_proxy.policy.purge import Purges
from ollama_cache_proxy.policy.reuse import Forward, Hit
from ollama_cache_proxy.policy.status import Detail, FwdReason
from ollama_cache_proxy.service.rules_from_settings import rules_from
from ollama_cache_proxy.service.settings import load
from tests.support import entries

BODY = json.dumps({"model": "tiny", "prompt": "hi", "stream": False}).encode()
ENTRY = replace(entries.ENTRY, stored_at=990.0, lifetime=60)


class World:
    """What an intake asks: a clock that moves by a second whenever a model is looked for, one model, one entry."""

    def __init__(self, entry: StoredResponse | None = None, *, dated: bool | None = None) -> None:
        self.entry = entry
        self.dated = dated
        self.events: list[str] = []
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    monotonic = now

    def unchanged(self) -> bool:
        return True

    async def identify(self, name: str) -> Identity | None:
        self.time += 1.0
        return Identity(model=name, digest="d", version="v", stability=self) if name == "tiny" else None

    async def get(self, key: str) -> Lookup:
        self.events.append(f"get {key[:4]}")
        return Lookup(entry=self.entry, generation="g")

    def writes_date(self, identity: Identity) -> bool | None:
        self.events.append(f"template {identity.model}")
        return self.dated

    def intake(self, *, categories: Labels | None = None, templates: bool = False, **rules: Any) -> Intake:
        store = cast("Any", self)
        return Intake(
            Neighbours(
                rules=replace(rules_from(load(None, {}), loopback=False, instance="1f"), **rules),
                store=store,
                upstream=store,
                models=store,
                clock=store,
                observe=lambda _: None,
                tasks=Tasks(),
                purges=Purges(),
                fingerprinting=Fingerprinting(store, on=False),
                templates=store if templates else None,
            ),
            categories=categories,
        )


def request(target: str = "/api/generate", *fields: tuple[bytes, bytes]) -> Request:
    return Request(method="POST", target=target, fields=((b"Host", b"x"), *fields))


@pytest.mark.parametrize(
    ("asked", "operation", "policy", "detail"),
    [
        (request(), "generate", Policy.ALWAYS, None),
        (request("/api/generate?x=1"), "generate", Policy.ALWAYS, Detail.SPELLING),
        (request("/api/chat"), "chat", Policy.OFF, Detail.OPT_IN),
        (request("/api/show"), "show", None, Detail.ENDPOINT),
        (request("/none"), "other", None, Detail.ENDPOINT),
        (request("/api/generate", (b"Cache-Control", b"no-store")), "generate", Policy.ALWAYS, Detail.NO_STORE),
        (request("/api/generate", (b"Range", b"bytes=0-")), "generate", Policy.ALWAYS, Detail.RANGE),
    ],
)
def test_the_head_says_which_endpoint_and_perhaps_why_not(
    asked: Request, operation: str, policy: Policy | None, detail: Detail | None
) -> None:
    arrival = World().intake().arrival(asked)
    assert (arrival.endpoint.operation, arrival.policy) == (operation, policy)
    assert arrival.bypass == (None if detail is None else Bypass(detail=detail))


def test_the_request_of_an_arrival_is_the_one_for_ollama() -> None:
    arrival = World().intake().arrival(request("/api/generate", (b"X-Cache-TTL", b"7"), (b"Connection", b"close")))
    assert arrival.request.fields == ((b"Via", b"1.1 ollama-cache-proxy-1f"),)
    assert arrival.directives.ttl == 7


@pytest.mark.parametrize(
    ("limit", "refused", "body", "detail"),
    [
        pytest.param(1 << 20, False, None, Detail.TOO_LARGE, id="over the limit"),
        pytest.param(0, True, None, Detail.BUFFERS_FULL, id="no room for its bytes"),
        pytest.param(0, False, b'{"a":[' + b"{}," * 400 + b"{}]}", Detail.BUFFERS_FULL, id="no room for what it says"),
        pytest.param(0, False, b"[]", Detail.NOT_AN_OBJECT, id="small bodies need no room"),
        pytest.param(0, False, BODY, None, id="a candidate"),
    ],
)
def test_the_body_decides_what_the_head_left_open(
    limit: int, refused: bool, body: bytes | None, detail: Detail | None
) -> None:
    intake, hold = World().intake(), Buffers(limit).hold()
    if refused:
        assert not hold.grow(1 << 20)
    classified = intake.classified(intake.arrival(request()), body, hold)
    assert isinstance(classified, Candidate) if detail is None else classified == Bypass(detail=detail)


def test_what_the_head_has_decided_no_body_changes() -> None:
    intake = World().intake()
    arrival = intake.arrival(request("/api/chat"))
    assert intake.classified(arrival, BODY, Buffers(0).hold()) == Bypass(detail=Detail.OPT_IN)


async def looked_up(world: World, intake: Intake, *fields: tuple[bytes, bytes], body: bytes = BODY) -> Bypass | Found:
    arrival = intake.arrival(request("/api/generate", *fields))
    candidate = intake.classified(arrival, body, Buffers(1 << 20).hold())
    assert isinstance(candidate, Candidate)

    def on_question(question: Question) -> None:
        world.events.append(f"posed {question.key[:4]}")

    return await intake.looked_up(arrival, candidate, body, on_question)


async def test_a_question_is_told_before_the_store_is_asked() -> None:
    world = World()
    found = await looked_up(world, world.intake())
    assert isinstance(found, Found)
    assert world.events == [f"posed {found.question.key[:4]}", f"get {found.question.key[:4]}"]
    assert found.reuse == Forward(reason=FwdReason.MISS)
    assert found.question.generation == "g"


async def test_a_fresh_entry_is_a_hit() -> None:
    world = World(ENTRY)
    found = await looked_up(world, world.intake())
    assert isinstance(found, Found)
    assert found.reuse == Hit(entry=ENTRY, age=11, ttl=49)


async def test_a_model_that_is_not_known_is_passed_on_with_the_time_that_took() -> None:
    world = World(ENTRY)
    found = await looked_up(world, world.intake(), body=BODY.replace(b"tiny", b"none"))
    assert found == Bypass(detail=Detail.NO_DIGEST, model="none", spent=1.0)
    assert world.events == []


@pytest.mark.parametrize("dated", [True, None], ids=["dated", "not-known-yet"])
async def test_a_prompt_that_may_hold_the_date_is_passed_on_before_the_store_is_asked(dated: bool | None) -> None:
    world = World(ENTRY, dated=dated)
    found = await looked_up(world, world.intake(templates=True))
    assert found == Bypass(detail=Detail.DATED_TEMPLATE, model="tiny", spent=1.0)
    assert world.events == ["template tiny"]


@pytest.mark.parametrize(
    ("dated", "changes", "detail"),
    [
        (False, {}, None),
        (False, {"template": "{{ currentDate }}"}, Detail.DATED_TEMPLATE),
        (False, {"template": "{{ .Prompt }}"}, None),
        (True, {"raw": True}, None),
        (True, {"raw": False}, Detail.DATED_TEMPLATE),
    ],
    ids=["undated", "dated-in-the-request", "undated-in-the-request", "raw", "not-raw"],
)
async def test_which_prompts_may_hold_the_date(dated: bool, changes: dict[str, object], detail: Detail | None) -> None:
    world = World(ENTRY, dated=dated)
    found = await looked_up(world, world.intake(templates=True), body=json.dumps(json.loads(BODY) | changes).encode())
    assert (found.detail if isinstance(found, Bypass) else None) is detail


@pytest.mark.parametrize(
    ("categories", "expected"), [(Labels(1, ["known"]), ["known", "other"]), (None, ["known", "new"])]
)
async def test_categories_are_bounded_where_entries_may_come_of_it(
    categories: Labels | None, expected: Sequence[str]
) -> None:
    world = World()
    intake = world.intake(categories=categories)
    told = []
    for name in (b"known", b"new"):
        found = await looked_up(world, intake, (b"X-Cache-Category", name))
        assert isinstance(found, Found)
        told.append(found.question.directives.category)
    assert told == expected


@pytest.mark.parametrize(("host", "admitted"), [(b"localhost", True), (b"example.org", False)])
def test_the_host_rule_holds_on_loopback_alone(host: bytes, admitted: bool) -> None:
    asked = Request(method="GET", target="/", fields=((b"Host", host),))
    assert World().intake(guard_host=True).admits(asked) is admitted
    assert World().intake(guard_host=False).admits(asked)
