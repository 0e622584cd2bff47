"""Many heads of requests, drawn by seed, through the fast path and the ordinary way: no answer may differ.

python -m benchmarks.heads --count 100000 --seed 1
"""

from __future__ import annotations

import argparse
import sys
import time
from random import Random

import uvloop

from tests.support import heads
from tests.support.both_ways import BothWays
from tests.support.known_requests import ALL, SETTINGS

_SHOWN = 5
_SPLIT = 10
"""One request of so many comes in two segments."""


async def compare(count: int, seed: int) -> int:
    """Ask for so many, and print what came of it; returns the exit status."""
    both, source, begun = await BothWays.open(*ALL, **SETTINGS), Random(seed), time.monotonic()  # noqa: S311 - drawn by seed
    differing = 0
    for number in range(1, count + 1):
        request = heads.drawn(source.choice(ALL), source)
        at = source.randrange(1, len(request)) if number % _SPLIT == 0 else len(request)
        found = await both.differ(*filter(None, (request[:at], request[at:])))
        if found:
            differing += 1
            if differing <= _SHOWN:
                sys.stdout.write(f"differs: {request[:1000]!r}\n    {found[0][:300]!r}\n    {found[1][:300]!r}\n")
        if number % 10_000 == 0:
            sys.stderr.write(f"{number} of {count}, {time.monotonic() - begun:.0f} s\n")
    counted = await both.counts()
    sys.stdout.write(f"{count:,} heads, seed {seed}: {both.taken:,} by the fast path, {differing} differ\n")
    sys.stdout.write(f"counted: {counted[0]}\n" if counted[0] == counted[1] else f"counted otherwise: {counted}\n")
    await both.close()
    return 1 if differing or counted[0] != counted[1] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sys.exit(uvloop.run(compare(given.count, given.seed)))
