"""What looking at prompts takes of the CPU, after their responses: `python -m benchmarks.prompt_watch`.

Each case is a conversation of an agent, with tools, through all that the proxy does with it at the time: reading the
body, comparing, telling. The best of several rounds counts, for the mean of its requests.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson

from ollama_cache_proxy.core.prompt_watch import Answered, PromptWatch
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.policy import endpoints
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.telemetry.metrics import Metrics

_MESSAGES: Final = endpoints.find("POST", "/v1/messages")[0]
_FIELDS: Final = ((b"Host", b"127.0.0.1:11494"), (b"User-Agent", b"claude-cli/2.1.37"), (b"Accept", b"*/*"))
_TURNS: Final = 12
ROUNDS: Final = 20
_DRAWN: Final = random.Random(23)  # noqa: S311 - texts of a benchmark
_WORDS: Final = ["".join(_DRAWN.choices("etaoinshrdlu", k=_DRAWN.randint(2, 9))) for _ in range(3000)]


def _text(size: int) -> str:
    """Return a text of so many bytes, with lines and quotes as code has them."""
    words = _DRAWN.choices([*_WORDS, 'x = "y"\n'], k=size // 4 + 8)
    return " ".join(words)[:size]


def _session(kib: int, *, changes: bool) -> Iterator[bytes]:
    """Yield the bodies of a session that begins with so many KiB: a third each of system prompt, tools and messages."""
    third = kib * 1024 // 3
    system, tools = _text(third), []
    for number in range(max(1, third // 2048)):
        name = f"tool_{number}"
        schema = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(4)}}
        tools.append({"name": name, "description": _text(min(third, 2048) - 150), "input_schema": schema})
    messages = [{"role": "user", "content": _text(min(third, 2048))} for _ in range(max(1, third // 2048))]
    for turn in range(_TURNS):
        mark = f"x-billing: cch={turn * 40_503 % 0xFFFFF if changes else 0:05x};"
        blocks = [{"type": "text", "text": mark}, {"type": "text", "text": system}]
        yield orjson.dumps({"model": "tiny", "system": blocks, "tools": tools, "messages": messages, "stream": True})
        messages = [
            *messages,
            {"role": "assistant", "content": _text(third // 20)},
            {"role": "user", "content": "go on"},
        ]


def _first(kib: int) -> Iterator[bytes]:
    """Yield bodies of which nothing is known."""
    for _ in range(_TURNS):
        yield next(_session(kib, changes=False))


CASES: Final[dict[str, Callable[[int], Iterator[bytes]]]] = {
    "goes on": lambda kib: _session(kib, changes=False),
    "an id changes": lambda kib: _session(kib, changes=True),
    "nothing known": _first,
}


_ALL: Final = 1e6
"""The share of the time that looking may take here: nothing is left out."""


def _seconds(bodies: list[bytes]) -> float:
    """Return the CPU seconds that requests after the first one take, on average."""
    metrics = Metrics()
    watch = PromptWatch(clock=SystemClock(), observe=metrics, tasks=Tasks(), turns=Turns(), share=_ALL)
    requests = [
        Answered(
            endpoint=_MESSAGES,
            model="tiny",
            host="",
            fields=_FIELDS,
            category="",
            body=body,
            usage=Usage(prompt_tokens=len(body) // 4, output_tokens=100, prompt_seconds=1.0),
            begun=0.0,
        )
        for body in bodies
    ]
    watch.answered(requests[0], 1)
    begun = time.thread_time()
    for request in requests[1:]:
        watch.wants(request.endpoint, request.model, request.host, request.body)
        watch.answered(request, 1)
    return (time.thread_time() - begun) / (len(requests) - 1)


def say(line: str) -> None:
    """Write a line of the table."""
    sys.stdout.write(f"{line}\n")


def report(rounds: int) -> None:
    """Measure in so many rounds, and print a table."""
    say(f"{'prompt':>16} {'bytes':>10} {'µs':>9} {'µs a KiB':>9} {'2 + 2 a KiB':>12}")
    for name, made in CASES.items():
        for kib in (1, 4, 16, 64, 160):  # larger ones are read in turns of the event loop
            bodies: list[Any] = [*made(kib)]
            size = sum(map(len, bodies[1:])) / (len(bodies) - 1)
            best = min(_seconds(bodies) for _ in range(rounds)) * 1e6
            say(f"{name:>16} {size:10,.0f} {best:9.1f} {best / size * 1024:9.2f} {2 + 2 * size / 1024:12.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    report(parser.parse_args().rounds)
