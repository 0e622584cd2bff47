"""Three unequal GPUs in simulated time: placement against random, round robin and least connections.

    python -m benchmarks.placing [SEED …]

There are two patterns of arrivals. "recorded" has the times and lengths of the first 4,000 requests of Azure's trace
of conversations of 16 November 2023 (placing_trace.csv), its times stretched so that three hosts can serve what a
data centre served; the trace does not say which requests belong together. "bursts" is made here after what is
published of such traces (BurstGPT, Wang et al. 2024): bursts that come by a Poisson process, times within a burst that
are exponential, lengths of prompts and outputs that are lognormal with a heavy tail. In both, models follow a Zipf law,
and conversations of several turns, whose prompts grow, are made by the seed.

A host serves one request at a time, in order, and holds so many
models; loading another takes seconds, and evicts the one that was used longest ago. A prompt whose conversation the
host served last is read from its prompt cache. What is loaded is seen once a second, as the proxy sees it.
"""

from __future__ import annotations

import csv
import heapq
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Final, NamedTuple, TypeAlias

from ollama_cache_proxy.policy.placement import Host, candidates

REQUESTS: Final = 4000
MODELS: Final = 8
PAUSE: Final = 40.0
"""Seconds between two bursts, on average."""
LOOKS_EVERY: Final = 1.0
"""Seconds."""
PROMPT_SPEED, OUTPUT_SPEED = 1500.0, 60.0
"""Tokens a second, of a GPU of speed 1."""
LOAD_SECONDS: Final = 6.0
AGAIN: Final = 0.6
"""How likely a request is the next turn of a conversation."""
STRETCHED: Final = 24
"""How much slower the recorded requests arrive than they did."""
REMEMBERED: Final = 4
"""Conversations whose prompts a host has in its prompt cache."""


class Gpu(NamedTuple):
    """What a host has: its speed, which is its weight, and how many models it holds."""

    name: str
    speed: float
    holds: int


GPUS: Final = (Gpu("small", 1.0, 1), Gpu("middle", 2.0, 2), Gpu("large", 4.0, 3))


class Arrival(NamedTuple):
    """One request; `at` is in seconds, lengths are in tokens."""

    at: float
    model: str
    talk: str
    prompt: int
    output: int


def arrivals(seed: int, number: int = REQUESTS) -> list[Arrival]:
    """Return requests in the order of their arrival."""
    random, made, at = Random(seed), list[Arrival](), 0.0  # noqa: S311 - a seed, not a secret
    talks: dict[str, tuple[str, int]] = {}
    weights = [1 / (rank + 1) for rank in range(MODELS)]
    while len(made) < number:
        at += random.expovariate(1 / PAUSE)
        moment = at
        for _ in range(1 + min(60, int(random.paretovariate(1.2)))):
            moment += random.expovariate(2.0)
            if talks and random.random() < AGAIN:
                talk = random.choice(list(talks)[-20:])
                model, length = talks[talk]
            else:
                talk, length = f"talk {len(talks)}", 200
                model = f"model {random.choices(range(MODELS), weights)[0]}"
            length = min(16_000, length + int(random.lognormvariate(4.6, 1.0)))
            talks[talk] = model, length
            made.append(Arrival(moment, model, talk, length, min(4000, 1 + int(random.lognormvariate(4.6, 0.9)))))
    return sorted(made)[:number]


def recorded(seed: int) -> list[Arrival]:
    """Return the requests of the recorded trace, with conversations and models of this seed."""
    random, made = Random(seed), list[Arrival]()  # noqa: S311
    talks: dict[str, tuple[str, int]] = {}
    weights = [1 / (rank + 1) for rank in range(MODELS)]
    with Path(__file__).with_name("placing_trace.csv").open(encoding="utf-8") as file:
        rows = [[int(field) for field in row] for row in csv.reader(file) if not row[0].startswith("#")]
    for at, prompt, output in rows:
        shorter = [talk for talk in list(talks)[-20:] if talks[talk][1] < prompt]
        if shorter and random.random() < AGAIN:
            talk = random.choice(shorter)
            model = talks[talk][0]
        else:
            talk, model = f"talk {len(talks)}", f"model {random.choices(range(MODELS), weights)[0]}"
        talks[talk] = model, prompt
        made.append(Arrival(at * STRETCHED / 1000, model, talk, prompt, output))
    return made


PATTERNS: Final[dict[str, Callable[[int], list[Arrival]]]] = {"recorded": recorded, "bursts": arrivals}


@dataclass(slots=True)
class Machine:
    """A host in the simulation."""

    gpu: Gpu
    loaded: OrderedDict[str, None] = field(default_factory=OrderedDict)
    talks: OrderedDict[str, int] = field(default_factory=OrderedDict)
    waiting: deque[Arrival] = field(default_factory=deque)
    busy: bool = False
    seen: frozenset[str] = frozenset()
    """The models that the latest look has found loaded."""
    loads: int = 0

    def serve(self, request: Arrival) -> float:
        """Return how many seconds the request takes, and take it in."""
        seconds = request.output / OUTPUT_SPEED
        known = self.talks.pop(request.talk, 0) if request.model in self.loaded else 0
        seconds += (request.prompt - known) / PROMPT_SPEED
        self.talks[request.talk] = request.prompt
        if len(self.talks) > REMEMBERED:
            self.talks.popitem(last=False)
        seconds /= self.gpu.speed
        if request.model not in self.loaded:
            self.loads += 1
            seconds += LOAD_SECONDS
            if len(self.loaded) >= self.gpu.holds:
                self.loaded.popitem(last=False)
        self.loaded[request.model] = None
        self.loaded.move_to_end(request.model)
        return seconds

    def as_host(self, model: str) -> Host:
        """Return what the proxy knows of it."""
        running = [request.model for request in self.waiting]
        return Host(
            name=self.gpu.name,
            weight=self.gpu.speed,
            loaded=model in self.seen or model in running,
            in_flight=len(self.waiting),
            models=len(self.seen.union(running)),
        )


Choose: TypeAlias = Callable[[Sequence[Machine], Arrival], Machine]


class Figures(NamedTuple):
    """What a run has shown."""

    p95: float
    """Seconds from arrival to end."""
    median: float
    loads: int


def simulated(requests: Sequence[Arrival], choose: Choose) -> Figures:
    """Return the figures of these requests where each goes where `choose` says."""
    machines = [Machine(gpu) for gpu in GPUS]
    order = count()
    events: list[tuple[float, int, Arrival | Machine]] = [(one.at, next(order), one) for one in requests]
    heapq.heapify(events)
    taken: list[float] = []
    looked = 0.0

    def start(machine: Machine, now: float) -> None:
        machine.busy = True
        heapq.heappush(events, (now + machine.serve(machine.waiting[0]), next(order), machine))

    while events:
        now, _, event = heapq.heappop(events)
        if now >= looked + LOOKS_EVERY:
            looked = now
            for machine in machines:
                machine.seen = frozenset(machine.loaded)
        if isinstance(event, Arrival):
            machine = choose(machines, event)
            machine.waiting.append(event)
            if not machine.busy:
                start(machine, now)
        else:
            event.busy = False
            taken.append(now - event.waiting.popleft().at)
            if event.waiting:
                start(event, now)
    taken.sort()
    loads = sum(machine.loads for machine in machines)
    return Figures(p95=taken[len(taken) * 95 // 100], median=taken[len(taken) // 2], loads=loads)


def placed(machines: Sequence[Machine], request: Arrival) -> Machine:
    """Choose as the proxy does."""
    hosts = [machine.as_host(request.model) for machine in machines]
    best = candidates(hosts, request.model, request.talk.encode())[0]
    return next(machine for machine in machines if machine.gpu.name == best)


def least_connections(machines: Sequence[Machine], _: Arrival) -> Machine:
    """Choose the host with the fewest requests."""
    return min(machines, key=lambda machine: len(machine.waiting))


def policies(seed: int) -> dict[str, Choose]:
    """Return the ways to choose, by name."""
    random, turn = Random(seed), count()  # noqa: S311
    return {
        "random": lambda machines, _: random.choice(machines),
        "round robin": lambda machines, _: machines[next(turn) % len(machines)],
        "least connections": least_connections,
        "placement": placed,
    }


def compared(pattern: str, seed: int) -> dict[str, Figures]:
    """Return the figures of each way for the same arrivals."""
    requests = PATTERNS[pattern](seed)
    return {name: simulated(requests, choose) for name, choose in policies(seed).items()}


def lines(seeds: Sequence[int]) -> Iterator[str]:
    """Yield a table."""
    yield f"{'arrivals':<8}  {'seed':>4}  {'':<18} {'p95':>9} {'median':>9} {'loads':>6}"
    for pattern in PATTERNS:
        for seed in seeds:
            for name, figures in compared(pattern, seed).items():
                times = f"{figures.p95:>7.1f} s {figures.median:>7.1f} s"
                yield f"{pattern:<8}  {seed:>4}  {name:<18} {times} {figures.loads:>6}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines([int(seed) for seed in sys.argv[1:]] or [1, 2, 3])) + "\n")
