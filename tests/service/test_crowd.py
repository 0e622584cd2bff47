from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ollama_cache_proxy.downstream.places import Closing
from ollama_cache_proxy.service.crowd import Crowd


def test_each_closed_connection_is_counted_and_each_kind_said_once_a_minute() -> None:
    counted: list[str] = []
    said: list[str] = []
    now = [0.0]

    def say(text: str, *, warning: bool) -> None:
        assert warning
        said.append(text)

    log: Any = SimpleNamespace(say=say)
    clock: Any = SimpleNamespace(monotonic=lambda: now[0])
    crowd = Crowd(counted.append, log, clock)
    for reason in (Closing.PLACES, Closing.PLACES, Closing.KEEP_ALIVE, Closing.FULL, Closing.FULL):
        crowd(reason)
    assert counted == ["places", "places", "keep-alive", "full", "full"]
    assert [line.partition(":")[0] for line in said] == [
        "Under a tenth of the places for clients is free",
        "Every place for clients is in use",
    ]
    now[0] = 60.0
    crowd(Closing.FULL)
    assert len(said) == 3
