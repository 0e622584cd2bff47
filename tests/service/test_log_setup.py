from __future__ import annotations

import asyncio
import io
import json

import pytest

from ollama_cache_proxy.core.facts import Stored
from ollama_cache_proxy.service.log_setup import log_loop_errors, log_of
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.service.system_clock import SystemClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STORED = Stored(key="ab" * 32, operation="generate", model="tiny", ttl=3600, size=512)
COLOUR = "\x1b["


def written(stream: io.StringIO, **settings: str) -> str:
    log = log_of(load(None, settings), stream, SystemClock())
    log(STORED)
    log.say("a note", warning=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "environment", "settings", "coloured"),
    [
        (Terminal, {}, {}, True),
        (io.StringIO, {}, {}, False),
        (Terminal, {"NO_COLOR": "1"}, {}, False),
        (Terminal, {"TERM": "dumb"}, {}, False),
        (io.StringIO, {}, {"log": "colour"}, True),
        (Terminal, {}, {"log": "plain"}, False),
    ],
)
def test_it_is_coloured_where_somebody_watches_unless_it_is_set(monkeypatch, stream, environment, settings, coloured):
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (COLOUR in written(stream(), **settings)) is coloured


def test_json_is_one_object_a_line():
    assert [json.loads(line)["event"] for line in written(io.StringIO(), log="json").splitlines()] == ["stored", "note"]


@pytest.mark.parametrize(
    ("stream", "settings", "told"),
    [
        (Terminal, {}, True),
        (io.StringIO, {}, False),
        (io.StringIO, {"log": "json"}, True),
        (io.StringIO, {"development": "true"}, True),
        (io.StringIO, {"log_requests": "on"}, True),
        (Terminal, {"log_requests": "off"}, False),
    ],
)
def test_requests_are_told_where_they_are_read_unless_it_is_set(stream, settings, told):
    lines = written(stream(), **settings)
    assert ("abababab" in lines) is told
    assert "a note" in lines


async def test_errors_of_the_event_loop_are_logged_by_name_once_a_second():
    stream = io.StringIO()

    class Clock(SystemClock):
        at = 0.0

        def monotonic(self) -> float:  # type: ignore[override]
            return self.at

    clock = Clock()
    log_loop_errors(log_of(load(None, {}), stream, clock), clock)
    for clock.at in (0.0, 0.5, 0.9, 1.0, 1.5):
        context = {"message": "secret", "exception": ValueError("secret")}
        asyncio.get_running_loop().call_exception_handler(context)
    assert stream.getvalue().splitlines() == ["[AI Cache] Internal error: ValueError"] * 2


async def test_a_connection_that_failed_after_it_was_given_up_is_no_error():
    stream = io.StringIO()
    clock = SystemClock()
    log_loop_errors(log_of(load(None, {}), stream, clock), clock)
    loop = asyncio.get_running_loop()
    given_up = loop.create_future()
    loop.call_exception_handler({"message": "never retrieved", "exception": OSError("secret"), "future": given_up})
    assert stream.getvalue() == ""
    task = asyncio.ensure_future(asyncio.sleep(0))
    loop.call_exception_handler({"message": "never retrieved", "exception": OSError("secret"), "future": task})
    loop.call_exception_handler({"message": "failed", "exception": OSError("secret")})
    await task
    assert stream.getvalue() == "[AI Cache] Internal error: OSError\n"
