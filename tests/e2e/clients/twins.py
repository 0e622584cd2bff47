"""What a client gets from an Ollama, and from an equal one behind the proxy; and how the cache took part."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import ollama
import openai
from pydantic import BaseModel

from ollama_cache_proxy.service.settings import OPERATIONS, setting_of
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.servers import Proxy

VARYING_MEMBERS = re.compile(r"created|(created|modified|expires|completed)_at|\w+_duration")
VARYING_TEXTS = re.compile(r"(chatcmpl|cmpl|resp|msg)[-_]\w+")
VARYING_ID = re.compile(r"\breq_\w+")
COUNTED = {"hits": "hit", "misses": "miss", "bypasses": "bypass"}
SLOW = Behaviour(token_rate=20)
"""Leaves a client the time to leave in the middle of an answer."""

Call = Callable[[Any], Any]

EVERYTHING: dict[str, Any] = {"cache_streams": True} | {setting_of(operation): "always" for operation in OPERATIONS}
"""Settings that cache whatever can be."""


class Case(NamedTuple):
    """Calls of one client in order; how the proxy counts them (see `seen`); what the errors say, if there are any."""

    calls: tuple[Call, ...]
    seen: str
    refusal: str = ""


def twice(call: Call) -> tuple[Call, Call]:
    return call, call


ERRORS: tuple[type[Exception], ...] = (ollama.ResponseError, openai.APIError)


async def results(client: Any, calls: tuple[Call, ...], errors: tuple[type[Exception], ...] = ERRORS) -> list[Any]:
    """What the calls of a client give; the client is closed then. One that is not asynchronous runs in a thread."""
    if not inspect.iscoroutinefunction(client.close):
        return await asyncio.to_thread(_results_in_thread, client, calls, errors)
    found = []
    async with client:
        for call in calls:
            try:
                value = call(client)
                value = await value if inspect.isawaitable(value) else value
                found.append(settled([part async for part in value] if isinstance(value, AsyncIterator) else value))
            except errors as error:
                found.append(refused(error))
    return found


def _results_in_thread(client: Any, calls: tuple[Call, ...], errors: tuple[type[Exception], ...]) -> list[Any]:
    found = []
    with client:
        for call in calls:
            try:
                value = call(client)
                found.append(settled(list(value) if isinstance(value, Iterator) else value))
            except errors as error:
                found.append(refused(error))
    return found


def refused(error: Any) -> dict[str, Any]:
    message = VARYING_ID.sub("varies", str(error))
    return {"raised": type(error).__name__, "status": error.status_code, "message": message}


def settled(value: Any) -> Any:
    """A result as plain values, without what differs each time."""
    match value:
        case BaseModel():
            return settled(value.model_dump(mode="json"))
        case dict():
            return {
                name: "varies" if VARYING_MEMBERS.fullmatch(name) and item is not None else settled(item)
                for name, item in value.items()
            }
        case list():
            return [settled(item) for item in value]
        case str():
            return "varies" if VARYING_TEXTS.fullmatch(value) else value
    return value


def check(direct: list[Any], through: list[Any], refusal: str) -> None:
    """The same results, and those that are errors say `refusal`; there are some unless that is empty."""
    assert through == direct
    refusals = [result["message"] for result in direct if isinstance(result, dict) and "raised" in result]
    assert bool(refusals) == bool(refusal), refusals
    assert all(refusal in message for message in refusals), refusals


async def seen(proxy: Proxy) -> Counter[str]:
    """How often an endpoint was answered by a `hit`, by a `miss`, or by a `bypass` of the cache.

    The reason of a bypass is left out: some clients leave between the last data of a stream and its end, some do not.
    """
    await proxy.running.listener._idle.wait()  # an exchange is counted after its last byte
    found: Counter[str] = Counter()
    proxy.running.exchanges.fast_path.report()
    for family in proxy.running.metrics.registry.collect():
        for sample in family.samples:
            how = COUNTED.get(sample.name.removeprefix("ollama_cache_proxy_").removesuffix("_total"))
            if how is not None:
                found[f"{sample.labels['endpoint']} {how}"] += int(sample.value)
    return found


def counted(*texts: str) -> Counter[str]:
    """What `seen` has to be after what the texts list."""
    return Counter(one for text in texts for one in text.split(", "))


async def has_left(simulator: Simulator) -> None:
    """Return when a client has left too early."""
    async with asyncio.timeout(10):
        await simulator.departed(1)
