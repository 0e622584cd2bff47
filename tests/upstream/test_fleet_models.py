"""What a name stands for where there are several Ollamas, with real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ollama_cache_proxy.core.ports import Topic
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.upstream.fleet_models import FleetContexts, FleetModels, OfHost
from ollama_cache_proxy.upstream.fleet_probes import FleetProbes
from tests.support import canary
from tests.support.servers import proxy_before
from tests.support.waiting import until


@asynccontextmanager
async def opened(**more: Any) -> AsyncIterator[tuple[FleetModels, list[Simulator], Any]]:
    """Give the models of a proxy before two Ollamas, these, and the proxy's reload parts."""
    async with Simulator(Behaviour()) as one, Simulator(Behaviour()) as other:
        async with proxy_before(
            one.url, upstreams=[{"url": one.url, "name": "a"}, {"url": other.url, "name": "b"}]
        ) as proxy:
            models = proxy.running.exchanges.fast_path._models
            assert isinstance(models, FleetModels)
            yield models, [one, other], proxy


async def test_equal_hosts_have_one_identity_and_others_one_each() -> None:
    async with opened() as (models, ollamas, _):
        identity = await models.identify("tiny")
        assert identity is not None
        assert identity.hosts is not None
        assert (identity.hosts.names, identity.others) == ({"a", "b"}, ())
        ollamas[1].models.replace("tiny")
        await until(lambda: not identity.stability.unchanged())
        found = await models.identify("tiny")
        assert found is not None
        assert found.hosts is not None
        (other,) = found.others
        assert other.hosts is not None
        assert found.hosts.names | other.hosts.names == {"a", "b"}
        assert found.digest != other.digest
        assert await models.identify("a b") is None
        assert await models.identify("unknown") is None


async def test_an_identity_does_not_hold_once_another_host_has_answered() -> None:
    async with opened() as (models, _, _proxy):
        identity = await models.identify("tiny")
        assert identity is not None
        assert identity.hosts is not None
        assert await models.is_current(identity)
        identity.hosts.answered = "b"
        assert identity.stability.unchanged()
        identity.hosts.answered = "c"
        assert not identity.stability.unchanged()


async def test_the_edition_changes_with_the_hosts_that_take_requests_and_never_comes_back() -> None:
    async with opened() as (models, ollamas, _):
        await models.identify("tiny")
        clock = models._clock
        seen = [models.edition(clock.monotonic())]
        for draining in (True, False, True):
            models._fleet.drain("b", draining=draining)
            seen.append(models.edition(clock.monotonic()))
        assert None not in seen
        assert len({*seen}) == len(seen)
        await ollamas[1].stop()
        models._fleet.drain("b", draining=False)
        await until(lambda: models._fleet.hosts[1].health.ejected)
        assert models.edition(clock.monotonic()) not in {None, *seen}


async def test_a_change_on_one_host_is_one_on_all_and_ends_for_all() -> None:
    async with opened() as (models, _, _proxy):
        identity = await models.identify("tiny")
        assert identity is not None
        change = models.begin_change(identity.model)
        assert not identity.stability.unchanged()
        assert await models.identify("tiny") is None
        models.end_change(change)
        await until_known(models)
        await models.sibling_change_began(("token", identity.model))
        assert await models.identify("tiny") is None
        await models.sibling_change_ended("token")
        await until_known(models)


async def until_known(models: FleetModels) -> None:
    for _ in range(100):
        if await models.identify("tiny") is not None:
            return
    raise AssertionError("it is not known again")


async def test_what_is_not_confirmed_where_it_was_made_is_withdrawn() -> None:
    async with opened() as (models, ollamas, _):
        identity = await models.identify("tiny")
        assert identity is not None
        assert identity.hosts is not None
        identity.hosts.answered = "b"
        withdrawn: list[int] = []
        models.confirm(identity, lambda: withdrawn.append(1), keys=1, plain=False)
        ollamas[1].models.replace("tiny")
        await until(lambda: withdrawn)


async def test_siblings_are_told_which_host_a_context_length_is_of() -> None:
    sent: list[tuple[Topic, Any]] = []

    class Siblings:
        def send(self, topic: Topic, value: Any = None) -> None:
            sent.append((topic, value))

        async def send_and_wait(self, topic: Topic, value: Any = None) -> None:
            self.send(topic, value)

    own = OfHost(Siblings(), "b")
    own.send(Topic.CONTEXT, ["digest", "{}"])
    await own.send_and_wait(Topic.CONTEXT, ["digest", "{}"])
    assert sent == [(Topic.CONTEXT, ["digest", "{}", "b"])] * 2
    await FleetContexts({}).sibling_saw(("digest", "{}", "of a host that is gone"))


async def test_every_host_is_asked_with_the_proxy_s_credentials() -> None:
    async with opened() as (models, ollamas, _):
        FleetProbes(models._fleet, authorization=f"Bearer {canary.TOKEN}")
        models._fleet.models_changed()
        wanted = (b"Authorization", f"Bearer {canary.TOKEN}".encode())
        await until(lambda: all(any(wanted in one.fields for one in ollama.received) for ollama in ollamas))
        assert json.dumps(models._fleet.described())
