"""Faults around the proxy must never make it wrong: `make chaos`.

Under load, short faults are drawn from a seed and injected one after the other: in Redis, on the way to it, in Ollama,
in models, by clients. Every response is checked by itself: never a wrong body, never a truncated one that looks
complete, never a 500 of the proxy's own, another 5xx or a reset only if Ollama had a fault during the request, and no
wait past a bound. After each fault the proxy is healthy, serves hits again and stores new entries. Otherwise exit with
1 and name the fault; the seed repeats the same faults.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from http import HTTPStatus
from random import Random
from typing import Any, Final

import orjson
from redis.exceptions import ResponseError

from benchmarks.load import TEXT_MODEL, VECTOR_MODEL, Endpoint, LoadClient, Oracle, Outcome, Question, Questions, seeded
from benchmarks.simulated import SHIFTING, VARIANTS, with_variants
from benchmarks.store_path import Path
from benchmarks.trial import Clients, Ending, Mix, Row, Seen, end, small_redis, table, verdict
from benchmarks.watched import Secrets, Watched, proxy, run
from ollama_cache_proxy.simulator import Fault
from ollama_cache_proxy.simulator.registry import Model
from ollama_cache_proxy.stores import entry_codec
from tests.support import canary
from tests.support.rawhttp import RawAnswer, RawConnection, ask, request_bytes
from tests.support.servers import free_port

BOUND: Final = 5.0
"""Seconds that a request may take at most."""

RECOVERY: Final = 7.0
"""Seconds after a fault within which the proxy must serve hits again: until its next probe of Ollama, and a bit."""

MIX: Final = Mix(hits=0.5, misses=0.2)
_MAX_PAUSE: Final = 0.01
"""Maximum seconds between two questions of a client."""

SHORTEST, LONGEST = 0.05, 0.6
"""Seconds that a fault lasts."""

_PAUSE_BETWEEN_FAULTS: Final = 0.2
"""Seconds between two faults, for new entries to be stored."""

_UPSTREAM_TIMEOUT: Final = 2
"""The proxy's `upstream_timeout` in seconds."""

_WRITE_WINDOW: Final = 0.05
"""Seconds in which a lookup may find an entry in the write buffer that cannot be written."""

_JOIN_WINDOW: Final = 0.5
"""Seconds after a fault of Ollama in which a request can still join a flight that met it."""

_MAX_UNNOTICED: Final = 15.0
"""Seconds that a change of a model that bypasses the proxy may go unnoticed."""

_BIG_BODY: Final = 9 << 20
"""Bytes, over `max_request_bytes`."""

_PLACES: Final = 300
"""The proxy's `max_connections`."""

_AUDITED: Final = "10%"
"""The proxy's `audit`."""

_FOUND_WITHIN: Final = 20.0
"""Seconds within which a planted entry is found by the audit, while nobody else asks."""

_PROBE: Final = Question(endpoint=Endpoint.GENERATE, model=TEXT_MODEL, texts=(f"{canary.PROMPT} probe",))
_COMPLETIONS: Final = (Endpoint.GENERATE, Endpoint.CHAT, Endpoint.V1_COMPLETIONS, Endpoint.V1_CHAT)
_BROKEN: Final = (b"llama runner process has terminated: exit status 2", b"unexpected EOF")
"""Texts in the simulator's own 500s."""

_MALFORMED: Final = (
    b"GET\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n{}",
    b"GET /api/tags HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\nX: " + canary.PROMPT.encode() + b"\x00\r\n\r\n",
    b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n",
)


_MOST_CROSSED: Final = 5
"""Requests of a run that may cross the close of an idle connection; it is seldom."""


class Side(Enum):
    """Where a fault is, and so which failures it explains."""

    STORE = "Redis"
    UPSTREAM = "Ollama"
    MODELS = "models"
    CLIENT = "clients"


@dataclass(slots=True, kw_only=True)
class Window:
    """The monotonic time of a fault; requests that join a flight can meet it `joined` seconds longer."""

    number: int
    name: str
    side: Side
    fault: Fault | None = None
    joined: float = _JOIN_WINDOW
    begun: float = field(default_factory=time.monotonic)
    ended: float = float("inf")

    def met(self, outcome: Outcome) -> bool:
        """Return whether a request was in flight during the fault, or could have joined one that was."""
        return outcome.sent <= self.ended + self.joined and outcome.ended >= self.begun


@dataclass(slots=True)
class Shift:
    """The time in which a variant may answer for the shifting name."""

    variant: int
    begun: float
    ended: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear:
    """A clear: a request after its response must not get an entry made before it was sent."""

    sent: float
    answered: float
    model: str | None = None


@dataclass(slots=True)
class Tally(Seen):
    """Counts of outcomes."""

    drawn: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    crossed: int = 0
    """Requests that crossed the close of an idle connection."""
    told: list[str] = field(default_factory=list)


class Judge:
    """Checks every outcome."""

    def __init__(self, secrets: Secrets) -> None:
        self.models = with_variants()
        self.oracle = Oracle(self.models)
        self.secrets = secrets
        self.tally = Tally()
        self.windows: list[Window] = []
        self.shifts = [Shift(0, 0.0)]
        self.clears: list[Clear] = []

    def breaks(self, what: str, detail: str) -> None:
        """Record a broken invariant."""
        self.tally.broken[what] += 1
        window = self.windows[-1] if self.windows else None
        scene = f"fault {window.number} ({window.name})" if window else "before the first fault"
        self.tally.told.append(f"{scene}: {what}: {detail}")

    def __call__(self, kind: str, question: Question, outcome: Outcome) -> None:
        """Check one outcome."""
        self.tally.asked[kind] += 1
        answer = outcome.answer
        if outcome.why == "timeout":
            self.breaks("a wait past the bound", f"{_short(question)}: {outcome.ended - outcome.sent:.1f} s")
        elif answer is None and self._crossed(outcome) and self.tally.crossed < _MOST_CROSSED:
            self.tally.crossed += 1
        elif answer is None:
            self._excuse("a reset", question, outcome)
        elif answer.status == HTTPStatus.OK:
            self.tally.cache[re.sub(r"(ttl|known|of)=\d+", r"\1", outcome.details.partition("; ")[2])] += 1
            self._body(question, outcome, answer)
        elif answer.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self._internal(question, outcome, answer)
        elif answer.status > HTTPStatus.INTERNAL_SERVER_ERROR:
            self.secrets.search(answer.body, "an error")
            self._excuse(f"a {answer.status}", question, outcome)
        else:
            self.breaks("another status", f"{_short(question)}: {answer.status} {answer.body[:200]!r}")

    def _met(self, outcome: Outcome, *faults: Fault) -> bool:
        """Return whether Ollama had a fault, or one of these, during a request."""
        return any(
            window.side is Side.UPSTREAM and window.met(outcome) and (not faults or window.fault in faults)
            for window in reversed(self.windows[-20:])
        )

    def _crossed(self, outcome: Outcome) -> bool:
        """Return whether a request was lost while others took all places.

        Then the connection that is idle longest is closed, and a request may be on its way just then: its client sends
        it again (policy/crowding.py).
        """
        return outcome.reused and any(
            window.name == "idle-clients" and window.met(outcome) for window in self.windows[-2:]
        )

    def _excuse(self, what: str, question: Question, outcome: Outcome) -> None:
        if self._met(outcome):
            self.tally.explained[what] += 1
        else:
            detail = f"{_short(question)}: {outcome.why or outcome.details} {(outcome.answer or _NONE).body[:120]!r}"
            self.breaks(f"{what} that no fault of Ollama's explains", detail)

    def _internal(self, question: Question, outcome: Outcome, answer: RawAnswer) -> None:
        own = not any(text in answer.body for text in _BROKEN)
        if own or not self._met(outcome, Fault.STATUS_500, Fault.ERROR_LINE):
            self.breaks("a 500 of the proxy's own", f"{_short(question)}: {answer.body[:200]!r}")
        else:
            self.tally.explained["a 500 of Ollama's"] += 1

    def _body(self, question: Question, outcome: Outcome, answer: RawAnswer) -> None:
        models = self._possible_models(outcome) if question.model == SHIFTING else [None]
        found = [self.oracle.wrong(question, answer.body, counted=outcome.counted, model=model) for model in models]
        said = "no framing" if answer.closed else min(found, key=len)
        if said and self._is_as_ollama_ended_it(question, outcome, answer.body):
            self.tally.explained["a response that ends as Ollama ended it"] += 1
        elif said:
            stale = question.model == SHIFTING and self._is_from_any_model(question, answer.body)
            self.breaks("a stale body" if stale else "a wrong body", f"{_short(question)} ({outcome.details}): {said}")
        elif outcome.cache == "HIT" and (clear := self._cleared_at(question, outcome, answer.body)):
            since = clear - _made(answer.body)
            self.breaks("a hit from before a clear", f"{_short(question)} ({outcome.details}): {since:.3f} s older")

    def _possible_models(self, outcome: Outcome) -> list[Model | None]:
        """Return the models that may have answered for the shifting name."""
        numbers = {
            reign.variant for reign in self.shifts if reign.begun <= outcome.ended and reign.ended >= outcome.sent
        }
        return [self.models.get(VARIANTS[number]) for number in sorted(numbers)]

    def _is_from_any_model(self, question: Question, body: bytes) -> bool:
        return any(
            not self.oracle.wrong(question, body, counted=True, model=self.models.get(name)) for name in VARIANTS
        )

    def _is_as_ollama_ended_it(self, question: Question, outcome: Outcome, body: bytes) -> bool:
        """Return whether a completion has no end, and Ollama ended some so; it may be shared, but not be stored."""
        if question.endpoint not in _COMPLETIONS or b'"done":true' in body or b"[DONE]" in body:
            return False
        if "; hit" not in outcome.details and self._met(outcome, Fault.NO_END):
            return True
        return question.stream and self._met(outcome, Fault.ERROR_LINE)

    def _cleared_at(self, question: Question, outcome: Outcome, body: bytes) -> float:
        """Return when the clear was sent that should have dropped a hit, 0 if there was none."""
        if question.endpoint not in (Endpoint.GENERATE, Endpoint.CHAT):
            return 0.0
        meant = (
            clear.sent
            for clear in self.clears
            if clear.answered < outcome.sent and clear.model in (None, question.model)
        )
        latest = max(meant, default=0.0)
        return latest if _made(body) < latest else 0.0


_NONE: Final = RawAnswer(status_line="", fields=(), body=b"")


def _short(question: Question) -> str:
    return (
        f"{question.endpoint.value} {question.model}{' stream' if question.stream else ''} {question.texts[0][:60]!r}"
    )


def _made(body: bytes) -> float:
    """Return the Unix time at which Ollama wrote the first line of a response."""
    text = str(orjson.loads(body.split(b"\n", 1)[0])["created_at"])
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


class Scene:
    """The processes and the load; faults are injected here."""

    def __init__(self, stack: ExitStack, judge: Judge) -> None:
        self.judge = judge
        self.secrets = judge.secrets
        self.redis = small_redis(stack)
        self.port = free_port()
        self.variant = 0
        self.ollama: Watched | None = None
        self.way: Watched | None = None
        self.asks = asyncio.Event()
        """Set while the clients ask."""
        self.asks.set()
        self._stack = stack
        self.url = ""
        self.process: Watched | None = None
        self.questions = Questions(seeded("chaos"), text_models={TEXT_MODEL: 24, SHIFTING: 8}, lists=4)

    async def open(self) -> None:
        """Start all but Redis, and ask once for everything that is to be a hit."""
        self._stack.callback(self._close)
        await self.start_ollama()
        begins = free_port()
        ports = ("--port", str(begins), "--redis", str(self.redis.port))
        self.way = Watched("-m", "benchmarks.store_path", *ports, secrets=Secrets())
        await self.way.wait_for("begins at ")
        self.process = proxy(
            f"http://127.0.0.1:{self.port}",
            self.redis.url.replace(f":{self.redis.port}/", f":{begins}/"),
            secrets=self.secrets,
            upstream_timeout=str(_UPSTREAM_TIMEOUT),
            max_connections=str(_PLACES),
            audit=_AUDITED,
            audit_completions="true",
            cache_chat="always",
            cache_streams="true",
            development="true",
        )
        self.url = await self.process.wait_for("listens on ")
        await self.clients.warm((_PROBE, *self.questions.hot))

    @property
    def clients(self) -> Clients:
        """The clients of the running proxy."""
        return Clients(url=self.url, bound=BOUND, judge=self.judge)

    def _close(self) -> None:
        for process in (self.process, self.way, self.ollama):
            if process is not None:
                process.close()

    async def start_ollama(self) -> None:
        """Start the simulator on its port, with the same variant as when it ended."""
        arguments = ("--port", str(self.port), "--variant", str(self.variant))
        self.ollama = Watched("-m", "benchmarks.simulated", *arguments, secrets=Secrets())
        await self.ollama.wait_for("answers at ")

    async def send_line(self, line: str) -> None:
        """Send a line to the simulator."""
        assert self.ollama is not None
        await self.ollama.send_line(line)

    async def on_the_way(self, path: Path) -> None:
        """Change what becomes of connections to Redis."""
        assert self.way is not None
        await self.way.send_line(f"be {path.value}")

    async def redis_commands(self, *commands: tuple[object, ...]) -> Any:
        """Send Redis some commands over one connection, and return the last reply."""

        def send() -> Any:
            with self.redis.client() as client:
                connection = client.client()
                with connection:
                    return [connection.execute_command(*command) for command in commands][-1]

        return await asyncio.to_thread(send)

    async def load(self, number: int, seed: int, ended: asyncio.Event) -> None:
        """Ask as one client; some streams are asked by several."""
        source = seeded(seed, "client", number)
        while not ended.is_set():
            await self.clients.ask(
                lambda: MIX.draw(source, self.questions, lambda: self.streamed(source)),
                goes_on=lambda: self.asks.is_set() and not ended.is_set(),
                pause=lambda: source.random() * _MAX_PAUSE,
            )
            await self.asks.wait()

    def streamed(self, source: Random) -> Question:
        """Return a streamed question for the shifting model or the stable one."""
        return self.questions.streamed(source.choice((TEXT_MODEL, SHIFTING)), again=source.random() < 0.5)  # noqa: PLR2004

    async def probe(self, ended: asyncio.Event) -> None:
        """Request the proxy's own routes all the time, as a dashboard would."""
        while not ended.is_set():
            for path in ("/metrics", "/api/cache/stats", "/readyz", "/healthz", "/api/cache/entries?limit=20"):
                try:
                    async with asyncio.timeout(BOUND):
                        answer = await ask(self.url, "GET", path, fields={"Authorization": f"Bearer {canary.TOKEN}"})
                except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
                    self.judge.breaks("no response from an own route", f"{path}: {type(error).__name__}")
                    continue
                self.judge.tally.asked["requests of own routes"] += 1
                self.secrets.search(answer.body, path)
                bad = answer.status != HTTPStatus.OK and "entries" not in path
                if bad or answer.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                    self.judge.breaks("a bad response from an own route", f"{path}: {answer.status}")
            await asyncio.sleep(0.5)


Inject = Callable[[Scene, Random, float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault; `do` injects it, waits, and heals it."""

    name: str
    side: Side
    do: Inject
    fault: Fault | None = None
    joined: float = _JOIN_WINDOW


async def redis_killed(scene: Scene, _: Random, seconds: float) -> None:
    """Kill Redis, and start it again, empty."""
    scene.redis.kill()
    await asyncio.sleep(seconds)
    scene.redis.start()  # not in a thread: a cancelled task must know the process


async def redis_stopped(scene: Scene, _: Random, seconds: float) -> None:
    """Stop Redis for a while (SIGSTOP)."""
    scene.redis.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        scene.redis.signal(signal.SIGCONT)


async def redis_paused(scene: Scene, _: Random, seconds: float) -> None:
    """Let Redis keep its clients waiting (CLIENT PAUSE)."""
    await scene.redis_commands(("CLIENT", "PAUSE", int(seconds * 1000)))
    await asyncio.sleep(seconds)


async def redis_emptied(scene: Scene, _: Random, seconds: float) -> None:
    """Delete all keys."""
    await scene.redis_commands(("FLUSHALL",))
    await asyncio.sleep(seconds / 2)


async def redis_disconnects(scene: Scene, _: Random, seconds: float) -> None:
    """Close all connections of Redis, again and again."""
    for _turn in range(5):
        await scene.redis_commands(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
        await asyncio.sleep(seconds / 5)


def configured(name: str, value: str, back: str, *first: tuple[str, str]) -> Inject:
    """Return a fault by a setting of Redis; its existing connections are closed."""

    async def do(scene: Scene, _: Random, seconds: float) -> None:
        with scene.redis.client() as client, client.client() as connection:
            for other in first:
                await asyncio.to_thread(connection.execute_command, "CONFIG", "SET", *other)
            await asyncio.to_thread(connection.execute_command, "CONFIG", "SET", name, value)
            try:
                kill = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                if name in ("maxclients", "requirepass"):
                    await asyncio.to_thread(connection.execute_command, *kill)
                await asyncio.sleep(seconds)
            finally:
                connection.execute_command("CONFIG", "SET", name, back)
                connection.execute_command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

    return do


async def redis_readonly(scene: Scene, _: Random, seconds: float) -> None:
    """Make Redis a replica of a missing master, which takes no writes."""
    await scene.redis_commands(("REPLICAOF", "127.0.0.1", "1"))
    try:
        await asyncio.sleep(seconds)
    finally:
        await scene.redis_commands(("REPLICAOF", "NO", "ONE"))


def on_the_way(path: Path) -> Inject:
    """Return a fault of the way to Redis; one that only slows it, or drops some connections, lasts longer."""

    async def do(scene: Scene, _: Random, seconds: float) -> None:
        await scene.on_the_way(path)
        try:
            await asyncio.sleep(seconds * (3 if path in (Path.SLOW, Path.DROPS) else 1))
        finally:
            await scene.on_the_way(Path.THROUGH)

    return do


async def redis_forbids(scene: Scene, source: Random, seconds: float) -> None:
    """Take commands from the proxy's user, which are missing at once, on open connections too (ACL SETUSER)."""
    forbidden = source.choice(("-@write", "-@read", "-mget", "-set", "-unlink", "-scan", "-client", "-watch", "-@all"))
    may_still = ("+auth", "+acl") if forbidden == "-@all" else ()
    with scene.redis.client() as client, client.client() as connection:
        await asyncio.to_thread(connection.execute_command, "ACL", "SETUSER", "default", forbidden, *may_still)
        try:
            await asyncio.sleep(seconds)
        finally:
            connection.execute_command("ACL", "SETUSER", "default", "+@all")


async def entries_damaged(scene: Scene, source: Random, seconds: float) -> None:
    """Flip bytes of entries, truncate, swap and enlarge them."""

    def damage() -> None:
        with scene.redis.client() as client:
            names = sorted(client.scan_iter("ocp:1:e:*", count=1000))
            for name in source.sample(names, min(len(names), 40)):
                try:
                    value, other = client.get(name), client.get(source.choice(names)) or b""
                except ResponseError:  # an earlier fault made it a list
                    continue
                if not value:
                    continue
                at = source.randrange(len(value))
                flipped = value[:at] + bytes([value[at] ^ (1 << source.randrange(8))]) + value[at + 1 :]
                older = value.replace(b"OCP1", b"OCP0", 1)
                client.set(name, source.choice((flipped, flipped, flipped, value[:at], value * 2, b"", other, older)))
            for name in source.sample(names, min(len(names), 2)):
                client.set(name, b"x" * (8 << 20))

    await asyncio.to_thread(damage)
    await asyncio.sleep(seconds / 2)


async def foreign_types(scene: Scene, source: Random, seconds: float) -> None:
    """Replace the proxy's strings by lists and hashes, and its hashes by strings."""

    def swap() -> None:
        with scene.redis.client() as client:
            entries = sorted(client.scan_iter("ocp:1:e:*", count=1000))
            others = sorted(set(client.scan_iter("ocp:*", count=1000)) - set(entries) - {b"ocp:1:generation"})
            for name in (*source.sample(entries, min(len(entries), 20)), *others):
                client.delete(name)
                match source.randrange(3):
                    case 0:
                        client.rpush(name, "x")
                    case 1:
                        client.hset(name, "x", "y")
                    case _:
                        client.set(name, "x")

    await asyncio.to_thread(swap)
    await asyncio.sleep(seconds / 2)


async def generation_damaged(scene: Scene, source: Random, seconds: float) -> None:
    """Damage the key that holds the generation."""

    def spoil() -> None:
        with scene.redis.client() as client:
            client.delete("ocp:1:generation")
            match source.randrange(4):
                case 0:
                    client.rpush("ocp:1:generation", "x")
                case 1:
                    client.set("ocp:1:generation", b"")
                case 2:
                    client.set("ocp:1:generation", b"\xff\x00:*\r\n" * 100)
                case _:
                    pass

    await asyncio.to_thread(spoil)
    await asyncio.sleep(seconds / 2)


async def ollama_killed(scene: Scene, _: Random, seconds: float) -> None:
    """Kill Ollama, and start it again on its port."""
    assert scene.ollama is not None
    scene.ollama.close()
    await asyncio.sleep(seconds)
    await scene.start_ollama()


async def ollama_stopped(scene: Scene, _: Random, seconds: float) -> None:
    """Stop Ollama: it accepts connections, but does not respond."""
    assert scene.ollama is not None
    scene.ollama.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        scene.ollama.signal(signal.SIGCONT)


def answering(fault: Fault) -> Inject:
    """Return a fault of Ollama for a share of the requests, sometimes for probes too."""

    async def do(scene: Scene, source: Random, seconds: float) -> None:
        scope = source.choice(("inference", "inference", "everything"))
        await scene.send_line(f"fault {fault.name} {source.choice((0.3, 1.0))} {scope}")
        await asyncio.sleep(seconds)
        await scene.send_line("fault")

    return do


async def equal_failures(scene: Scene, _: Random, seconds: float) -> None:
    """Let Ollama fail for equal requests that come at once, and work again for the next of them."""
    question = scene.questions.new()

    async def one() -> None:
        client = LoadClient(scene.url, BOUND)
        scene.judge("equal requests", question, await client.ask(question))
        client.close()

    await scene.send_line(f"fault {Fault.STATUS_500.name} 1.0 inference")
    await asyncio.gather(*(one() for _turn in range(30)))
    await asyncio.sleep(seconds / 4)
    await scene.send_line("fault")
    await one()


def copying(*targets: str) -> Inject:
    """Return a copy of another model to the shifting name by the proxy: from its response on the old one is gone."""

    async def do(scene: Scene, source: Random, seconds: float) -> None:
        variant = source.choice([number for number in range(len(VARIANTS)) if number != scene.variant])
        shifts = scene.judge.shifts
        old, new = shifts[-1], Shift(variant, time.monotonic())
        shifts.append(new)
        body = orjson.dumps({"source": VARIANTS[variant], "destination": SHIFTING})
        answer = await ask(scene.url, "POST", source.choice(targets), body=body)
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"the copy failed: {answer.status} {answer.body!r}")
        old.ended, scene.variant = min(old.ended, time.monotonic()), variant
        await asyncio.sleep(seconds / 2)

    return do


async def model_replaced(scene: Scene, source: Random, seconds: float) -> None:
    """Put another model under the shifting name without the proxy."""
    variant = source.choice([number for number in range(len(VARIANTS)) if number != scene.variant])
    shifts = scene.judge.shifts
    shifts.append(Shift(variant, time.monotonic()))
    await scene.send_line(f"stand-in {variant}")
    shifts[-2].ended, scene.variant = time.monotonic() + _MAX_UNNOTICED, variant
    await asyncio.sleep(seconds / 2)


def clearing(*models: str) -> Inject:
    """Return a clear of everything, or of a model's entries."""

    async def do(scene: Scene, source: Random, seconds: float) -> None:
        for _turn in range(source.randint(1, 4)):
            model = source.choice(models) if models else None
            sent = time.time()
            body = orjson.dumps({"model": model} if model else {})
            fields = {"Authorization": f"Bearer {canary.TOKEN}"}
            answer = await ask(scene.url, "POST", "/api/cache/clear", body=body, fields=fields)
            if answer.status != HTTPStatus.OK:
                scene.judge.breaks("a clear that failed", f"{answer.status} {answer.body!r}")
                return
            scene.judge.clears.append(Clear(sent=sent, answered=time.monotonic(), model=model))
            await asyncio.sleep(seconds / 4)

    return do


async def clients_leave(scene: Scene, source: Random, seconds: float) -> None:
    """Let clients close at any point: during their request, before the response, during it."""

    async def leave() -> None:
        question = source.choice((scene.questions.new, scene.questions.known, lambda: scene.streamed(source)))()
        data = request_bytes("POST", question.endpoint.value, host="localhost", body=question.body())
        async with await RawConnection.open(scene.url) as connection:
            whole = source.random() < 0.8  # noqa: PLR2004
            connection.writer.write(data if whole else data[: source.randrange(1, len(data))])
            await asyncio.sleep(source.random() * min(seconds, 0.1))
            if source.random() < 0.5:  # noqa: PLR2004
                connection.writer.transport.abort()

    for _turn in range(3):
        await asyncio.gather(*(leave() for _ in range(12)))


async def slow_heads(scene: Scene, source: Random, seconds: float) -> None:
    """Send heads a few bytes at a time; the responses must be as usual."""

    async def send(question: Question) -> None:
        sent = time.monotonic()
        data = request_bytes("POST", question.endpoint.value, host="localhost", body=question.body())
        cuts = sorted(source.sample(range(1, len(data)), 6))
        async with await RawConnection.open(scene.url) as connection:
            for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
                connection.writer.write(data[start:end])
                await asyncio.sleep(seconds / 7)
            await _answered(scene, "slow heads", question, connection, sent)

    await asyncio.gather(*(send(scene.questions.known()) for _ in range(30)))


async def _answered(scene: Scene, kind: str, question: Question, connection: RawConnection, sent: float) -> None:
    """Read a response, and check it."""
    answer, why = None, ""
    try:
        async with asyncio.timeout(BOUND):
            answer = await connection.answer()
    except TimeoutError:
        why = "timeout"
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        why = type(error).__name__
    scene.judge(kind, question, Outcome(answer=answer, why=why, sent=sent, ended=time.monotonic()))


async def slow_readers(scene: Scene, _: Random, seconds: float) -> None:
    """Leave responses unread for a while."""
    texts = tuple(
        text for question in scene.questions.hot for text in question.texts if question.endpoint is Endpoint.EMBED
    )
    question = Question(endpoint=Endpoint.EMBED, model=VECTOR_MODEL, texts=texts)

    async def read() -> None:
        sent = time.monotonic()
        host, port = scene.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=4096)
        async with RawConnection(reader, writer, f"{host}:{port}") as connection:
            connection.send("POST", question.endpoint.value, body=question.body())
            await asyncio.sleep(seconds)
            await _answered(scene, "slow readers", question, connection, sent)

    await asyncio.gather(*(read() for _ in range(4)))


async def big_bodies(scene: Scene, source: Random, _: float) -> None:
    """Send bodies over the limits."""
    question = Question(endpoint=Endpoint.CHAT, model=TEXT_MODEL, texts=(scene.questions.new().texts[0],))

    async def send() -> None:
        sent = time.monotonic()
        async with await RawConnection.open(scene.url) as connection:
            connection.send("POST", question.endpoint.value, body=question.body() + b" " * _BIG_BODY)
            await _answered(scene, "big bodies", question, connection, sent)

    async def upload() -> None:
        data = source.randbytes(1 << 20) * 4
        answer = await ask(scene.url, "POST", f"/api/blobs/sha256:{hashlib.sha256(data).hexdigest()}", body=data)
        if answer.status not in (HTTPStatus.OK, HTTPStatus.CREATED):
            scene.judge.breaks("another status", f"an upload: {answer.status}")

    await asyncio.gather(send(), send(), upload())


_COUNTED: Final = (
    b"[" + b"1," * 100_000 + b"1]",
    b"[" + b"{}," * 50_000 + b"{}]",
    b"[" + b'"a",' * 100_000 + b'"a"]',
    b"[" + (b"[" * 50 + b"]" * 50 + b",") * 1_000 + b"1]",
)
"""What takes long to be read: numbers, objects, texts, depth."""


async def huge_bodies(scene: Scene, source: Random, _: float) -> None:
    """Send a body that takes long to be read, with a member that Ollama ignores: the response must be as usual."""
    question = Question(endpoint=Endpoint.GENERATE, model=TEXT_MODEL, texts=scene.questions.new().texts[:1])
    body = question.body()[:-1] + b', "extra": ' + source.choice(_COUNTED) + b"}"
    sent = time.monotonic()
    async with await RawConnection.open(scene.url) as connection:
        connection.send("POST", question.endpoint.value, body=body)
        await _answered(scene, "huge bodies", question, connection, sent)


async def malformed(scene: Scene, source: Random, seconds: float) -> None:
    """Send malformed requests: they are refused, and affect no other client."""
    for data in source.sample(_MALFORMED, len(_MALFORMED)):
        async with await RawConnection.open(scene.url) as connection:
            connection.writer.write(data)
            try:
                async with asyncio.timeout(BOUND):
                    answer = await connection.reader.read()
            except TimeoutError:
                scene.judge.breaks("a wait past the bound", f"{data[:60]!r}")
                continue
            except OSError:
                continue
            status = answer.split(b" ", 2)[1:2]
            if status and status[0][:1] != b"4" and status[0] not in (b"501", b"505"):
                scene.judge.breaks("no refusal", f"{data[:60]!r}: {answer[:60]!r}")
        await asyncio.sleep(seconds / len(_MALFORMED) / 2)


async def idle_clients(scene: Scene, _: Random, seconds: float) -> None:
    """Fill all places with clients that have asked, and then keep their connections: they make room for new ones."""
    connections: list[RawConnection] = []
    for _turn in range(_PLACES + 20):
        connections.append(await RawConnection.open(scene.url))
        connections[-1].send("GET", "/api/version")
        try:
            async with asyncio.timeout(BOUND):
                answer = await connections[-1].answer()
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            scene.judge.breaks("no place for a client beside idle ones", type(error).__name__)
            break
        if answer.status != HTTPStatus.OK:
            scene.judge.breaks("no place for a client beside idle ones", f"{answer.status}")
            break
    await asyncio.sleep(seconds / 2)
    for connection in connections:
        connection.close()


async def reloaded(scene: Scene, _: Random, seconds: float) -> None:
    """Tell the proxy to read its settings anew (SIGHUP): nobody notices."""
    assert scene.process is not None
    for _turn in range(2):
        scene.process.signal(signal.SIGHUP)
        await asyncio.sleep(seconds / 2)


async def planted(scene: Scene, source: Random, _: float) -> None:
    """Plant a wrong entry while nobody asks: the audit finds it, and the next response is right."""
    scene.asks.clear()
    try:
        texts = (f"{canary.PROMPT} planted {source.random()}",)
        question = Question(endpoint=Endpoint.EMBEDDINGS, model=VECTOR_MODEL, texts=texts)
        client = LoadClient(scene.url, BOUND)
        right = await client.ask(question)
        scene.judge("planted", question, right)
        if not await _plant(scene, question):
            scene.judge.breaks("nothing was stored to be made wrong", right.details)
            return
        begun = time.monotonic()
        while (outcome := await client.ask(question)).cache == "HIT" or not outcome.answer:
            if time.monotonic() - begun > _FOUND_WITHIN:
                scene.judge.breaks("a planted entry that no audit found", f"within {_FOUND_WITHIN:g} s")
                fields = {"Authorization": f"Bearer {canary.TOKEN}"}
                await ask(scene.url, "POST", "/api/cache/clear", body=b"{}", fields=fields)
                return
            await asyncio.sleep(0.05)
        scene.judge("planted", question, outcome)
        client.close()
    finally:
        scene.asks.set()


async def _plant(scene: Scene, question: Question) -> bool:
    """Turn the vector of a stored response around, once it is stored; returns whether it was."""
    asked = orjson.dumps({"path": question.endpoint.value, "body": orjson.loads(question.body())})
    key = str(orjson.loads((await ask(scene.url, "POST", "/api/cache/explain", body=asked)).body)["key"])

    def turn_around() -> bool:
        with scene.redis.client() as client:
            for name in client.scan_iter(f"ocp:1:e:*{key}*", count=1000):
                entry = entry_codec.decode(key, client.get(name) or b"")
                if entry is not None:
                    vector = orjson.loads(entry.body)["embedding"]
                    wrong = replace(entry, body=orjson.dumps({"embedding": vector[::-1]}))
                    client.set(name, entry_codec.encode(key, wrong), keepttl=True)
                    return True
        return False

    begun = time.monotonic()
    while not await asyncio.to_thread(turn_around):
        if time.monotonic() - begun > RECOVERY:
            return False
        await asyncio.sleep(_WRITE_WINDOW)
    return True


async def idle_connections(scene: Scene, _: Random, seconds: float) -> None:
    """Open many idle connections."""
    connections = [await RawConnection.open(scene.url) for _ in range(200)]
    await asyncio.sleep(seconds)
    for connection in connections:
        connection.close()


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind(name="redis-killed", side=Side.STORE, do=redis_killed),
        Kind(name="redis-stopped", side=Side.STORE, do=redis_stopped),
        Kind(name="redis-paused", side=Side.STORE, do=redis_paused),
        Kind(name="redis-emptied", side=Side.STORE, do=redis_emptied),
        Kind(name="redis-disconnects", side=Side.STORE, do=redis_disconnects),
        Kind(
            name="redis-full",
            side=Side.STORE,
            do=configured("maxmemory", "1", "64mb", ("maxmemory-policy", "noeviction")),
        ),
        Kind(name="redis-evicts", side=Side.STORE, do=configured("maxmemory", "1", "64mb")),
        Kind(name="redis-maxclients", side=Side.STORE, do=configured("maxclients", "1", "10000")),
        Kind(name="redis-password", side=Side.STORE, do=configured("requirepass", "another", canary.PASSWORD)),
        Kind(name="redis-readonly", side=Side.STORE, do=redis_readonly),
        Kind(name="redis-forbids", side=Side.STORE, do=redis_forbids),
        *(
            Kind(name=f"store-{path.value}", side=Side.STORE, do=on_the_way(path))
            for path in Path
            if path is not Path.THROUGH
        ),
        Kind(name="planted", side=Side.STORE, do=planted),
        Kind(name="entries-damaged", side=Side.STORE, do=entries_damaged),
        Kind(name="foreign-types", side=Side.STORE, do=foreign_types),
        Kind(name="generation-damaged", side=Side.STORE, do=generation_damaged),
        Kind(name="ollama-killed", side=Side.UPSTREAM, do=ollama_killed),
        Kind(name="ollama-stopped", side=Side.UPSTREAM, do=ollama_stopped),
        *(
            Kind(
                name=f"ollama-{fault.name.lower().replace('_', '-')}",
                side=Side.UPSTREAM,
                do=answering(fault),
                fault=fault,
                joined=_JOIN_WINDOW + (_UPSTREAM_TIMEOUT if fault is Fault.HANG else 0),
            )
            for fault in Fault
        ),
        Kind(name="equal-failures", side=Side.UPSTREAM, do=equal_failures, fault=Fault.STATUS_500),
        Kind(name="model-copied", side=Side.MODELS, do=copying("/api/copy")),
        Kind(
            name="model-copied-absolute",
            side=Side.MODELS,
            do=copying("x://localhost/api/copy", "http://localhost/api/copy", "FTP://127.0.0.1:1/api/copy"),
        ),
        Kind(name="model-replaced", side=Side.MODELS, do=model_replaced),
        Kind(name="cleared", side=Side.CLIENT, do=clearing()),
        Kind(name="purged", side=Side.CLIENT, do=clearing(TEXT_MODEL, SHIFTING)),
        Kind(name="clients-leave", side=Side.CLIENT, do=clients_leave),
        Kind(name="slow-heads", side=Side.CLIENT, do=slow_heads),
        Kind(name="slow-readers", side=Side.CLIENT, do=slow_readers),
        Kind(name="big-bodies", side=Side.CLIENT, do=big_bodies),
        Kind(name="huge-bodies", side=Side.CLIENT, do=huge_bodies),
        Kind(name="malformed", side=Side.CLIENT, do=malformed),
        Kind(name="idle-connections", side=Side.CLIENT, do=idle_connections),
        Kind(name="idle-clients", side=Side.CLIENT, do=idle_clients),
        Kind(name="reloaded", side=Side.CLIENT, do=reloaded),
    )
}


async def recovered(scene: Scene) -> None:
    """Check that the proxy is healthy, and soon serves hits and stores new entries."""
    judge = scene.judge
    begun = time.monotonic()
    client = LoadClient(scene.url, BOUND)
    try:
        async with asyncio.timeout(BOUND):
            answer = await ask(scene.url, "GET", "/healthz")
        if answer.status != HTTPStatus.OK:
            judge.breaks("not healthy", f"{answer.status}")
        while True:
            outcome = await client.ask(_PROBE)
            judge("probes", _PROBE, outcome)
            if outcome.cache == "HIT":
                fresh = replace(_PROBE, texts=(f"{canary.PROMPT} probe {judge.tally.asked['probes']}",))
                for _turn in range(2):
                    outcome = await client.ask(fresh)
                    judge("probes", fresh, outcome)
                    await asyncio.sleep(_WRITE_WINDOW)
                if "; hit" in outcome.details:
                    return
            if time.monotonic() - begun > RECOVERY:
                judge.breaks("no recovery", f"after {RECOVERY:g} s: {outcome.why or outcome.details}")
                await scene.redis_commands(("FLUSHALL",))  # so that the next fault is judged by itself
                return
            await asyncio.sleep(0.05)
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        judge.breaks("not healthy", type(error).__name__)
    finally:
        client.close()


@asynccontextmanager
async def loaded(scene: Scene, seed: int, clients: int) -> AsyncIterator[None]:
    """Load the proxy; at the end every client gets its last response."""
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(scene.probe(ended))
        for number in range(clients):
            group.create_task(scene.load(number, seed, ended))
        try:
            yield
        finally:
            ended.set()


async def draw(scene: Scene, kinds: list[Kind], seed: int, count: int, alive: Callable[[], bool]) -> None:
    """Inject the faults, one after the other."""
    judge = scene.judge
    for number in range(1, count + 1):
        source = seeded(seed, "fault", number)
        kind = source.choice(kinds)
        seconds = source.uniform(SHORTEST, LONGEST)
        judge.tally.drawn[kind.name] += 1
        window = Window(number=number, name=kind.name, side=kind.side, fault=kind.fault, joined=kind.joined)
        judge.windows.append(window)
        try:
            await kind.do(scene, source, seconds)
        except Exception as error:
            error.add_note(f"in fault {number} ({kind.name}) of seed {seed}")
            raise
        window.ended = time.monotonic()
        if not alive():
            judge.breaks("the proxy ended", kind.name)
            return
        await recovered(scene)
        await asyncio.sleep(_PAUSE_BETWEEN_FAULTS)


async def chaos(arguments: argparse.Namespace) -> bool:
    """Run everything; return whether no invariant broke."""
    sys.stdout.write(f"seed {arguments.seed}\n")
    sys.stdout.flush()
    secrets = Secrets()
    judge = Judge(secrets)
    kinds = [KINDS[name] for name in arguments.only or KINDS]
    async with AsyncExitStack() as outer:
        stack = outer.enter_context(ExitStack())
        scene = Scene(stack, judge)
        await scene.open()
        process = scene.process
        assert process is not None
        async with loaded(scene, arguments.seed, arguments.clients):
            await draw(scene, kinds, arguments.seed, arguments.faults, lambda: process.alive)
        return report(judge, await end(scene.url, process, secrets), arguments)


def report(judge: Judge, ending: Ending, arguments: argparse.Namespace) -> bool:
    """Print the tables; return whether no invariant broke."""
    tally = judge.tally
    write = sys.stdout.write
    drawn: list[Row] = [*sorted(tally.drawn.items())]
    write("\nfaults drawn\n" + table(drawn))
    write(
        "\nseen\n"
        + table(
            [
                *tally.rows(),
                *((f"{what}, explained by a fault of Ollama's", n) for what, n in sorted(tally.explained.items())),
                ("requests that crossed the close of an idle connection", tally.crossed),
                ("wrong bodies", tally.broken["a wrong body"] + tally.broken["a stale body"]),
                ("500 of the proxy's own", tally.broken["a 500 of the proxy's own"]),
                ("5xx and resets unexplained", sum(n for what, n in tally.broken.items() if "explains" in what)),
                *ending.rows(),
                *((f"BROKEN: {what}", count) for what, count in sorted(tally.broken.items())),
            ]
        )
    )
    well = verdict({"broken": tally.told, **ending.failures()})
    if not well:
        only = f" --only {' '.join(arguments.only)}" if arguments.only else ""
        write(f'Again: make chaos ARGS="--seed {arguments.seed} --faults {arguments.faults}{only}"\n')
    return well


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=400, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--clients", type=int, default=6, metavar="N")
    parser.add_argument("--only", nargs="+", choices=sorted(KINDS), metavar="KIND", help="draw only these")
    sys.exit(0 if run(chaos(parser.parse_args())) else 1)
