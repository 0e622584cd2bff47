"""Draw mutants of policy/ and core/ by seed, try each with the tests that are about it, and print the survivors.

A survivor that equivalent.toml names, with the reason why no test can notice it, does not count. The command fails when
more than `--at-most` percent of those tried survive otherwise, and when a name of that file fits no mutant any more.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.mutants.mutations import Mutant, mutants, mutated
from benchmarks.mutants.tests_of import SOURCE, tests_of
from benchmarks.mutants.trial import Fate, prepare, tried

EQUIVALENT: Final = Path(__file__).parent / "equivalent.toml"
SLOWER: Final = 5
"""How much longer than the module as it is a mutant may take."""
EVERY: Final = 25
"""Mutants after which it is said how far it is."""
AT_LEAST: Final = 10.0
"""Seconds that a trial has in any case."""
LONGEST: Final = 600.0
"""Seconds that tests may take with nothing changed."""
OWN_FAILS: Final = "its tests fail without a change"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant; `why` is the reason of one that is equivalent."""

    mutant: Mutant
    fate: Fate
    why: str = ""


def drawn(folders: Sequence[str], count: int, seed: int, only: str) -> list[Mutant]:
    """Return `count` mutants of the modules below some folders, at random by seed; all where there are no more."""
    found = [mutant for mutant in every(tuple(folders)) if only in mutant.name]
    return found if len(found) <= count else random.Random(seed).sample(found, count)  # noqa: S311 - a sample


@cache
def every(folders: tuple[str, ...]) -> list[Mutant]:
    """Return every mutant of the modules below some folders of the package."""
    paths = (path for folder in folders for path in sorted((SOURCE / folder).rglob("*.py")))
    named = ((path.relative_to(SOURCE).as_posix(), path.read_text("utf-8")) for path in paths)
    return [mutant for module, source in named for mutant in mutants(module, source)]


def read_equivalent() -> dict[str, str]:
    """Return the reasons of mutants that no test can notice, by their names."""
    rows = tomllib.loads(EQUIVALENT.read_text("utf-8"))["equivalent"]
    return {row["mutant"]: row["why"] for row in rows}


class Trials:
    """Tries mutants. How long tests take is measured with nothing changed; raises RuntimeError if they fail then."""

    def __init__(self) -> None:
        self._usual: dict[tuple[str, ...], float] = {}

    def __call__(self, mutant: Mutant, equivalent: Mapping[str, str]) -> Outcome:
        """Run the tests of a mutant until one step of them kills it."""
        if mutant.name in equivalent:
            return Outcome(mutant, Fate.SURVIVED, equivalent[mutant.name])
        tree = mutated(mutant, (SOURCE / mutant.module).read_text("utf-8"))
        for tests in tests_of(mutant.module):
            within = AT_LEAST + SLOWER * self.usual(mutant.module, tests)
            trial = tried(mutant.module, tree, tests, within)
            if trial.fate is not Fate.SURVIVED:
                return Outcome(mutant, trial.fate)
        return Outcome(mutant, Fate.SURVIVED)

    def usual(self, module: str, tests: Sequence[str]) -> float:
        """Return the seconds that tests take with nothing changed."""
        known = self._usual.get(tuple(tests))
        if known is None:
            trial = tried(module, None, tests, LONGEST)
            if trial.fate is not Fate.SURVIVED:
                raise RuntimeError(f"{' '.join(tests)}: {OWN_FAILS}\n{trial.said}")
            known = self._usual[tuple(tests)] = trial.seconds
        return known


def main(arguments: Sequence[str]) -> int:
    """Try mutants, and print what became of them; returns the exit status."""
    options = _options(arguments)
    prepare()
    equivalent = read_equivalent()
    if strange := equivalent.keys() - {mutant.name for mutant in every(("policy", "core"))}:
        say("\n".join(f"equivalent.toml names what is no mutant: {name}" for name in sorted(strange)))
        return 1
    sample = drawn(options.folders, options.count, options.seed, options.only)
    say(f"{len(sample)} of {len(every(tuple(options.folders)))} mutants, seed {options.seed}")
    begun, trials, outcomes = time.monotonic(), Trials(), list[Outcome]()
    for mutant in sample:
        outcomes.append(trials(mutant, equivalent))
        if outcomes[-1].fate is Fate.SURVIVED and not outcomes[-1].why:
            say(f"survived: line {mutant.line}: {mutant.name}")
        if not len(outcomes) % EVERY:
            say(f"{len(outcomes)} tried in {time.monotonic() - begun:.0f} s")
        if time.monotonic() - begun > options.minutes * 60:
            say(f"Stopped after {options.minutes:g} minutes")
            break
    text, well = report(outcomes, options.at_most)
    say(text)
    return 0 if well else 1


def report(outcomes: Sequence[Outcome], at_most: float) -> tuple[str, bool]:
    """Return what is to be said at the end, and whether few enough survived: `at_most` is in percent."""
    fates = Counter(outcome.fate for outcome in outcomes)
    equivalent = [outcome for outcome in outcomes if outcome.why]
    alive = [outcome for outcome in outcomes if outcome.fate is Fate.SURVIVED and not outcome.why]
    rate = 100 * len(alive) / max(1, len(outcomes))
    lines = [f"equivalent: {one.mutant.name}\n    {one.why}" for one in equivalent]
    lines += [f"survived: line {one.mutant.line}: {one.mutant.name}" for one in alive]
    lines.append(
        f"{len(outcomes)} tried: {fates[Fate.KILLED]} killed by a test, {fates[Fate.HUNG]} by the end of their time, "
        f"{len(equivalent)} equivalent, {len(alive)} survived: {rate:.1f}% (at most {at_most:g}%)"
    )
    return "\n".join(lines), bool(outcomes) and rate <= at_most


def say(text: str) -> None:
    """Write lines at once, also where the output goes to a file."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("folders", nargs="*", default=["policy"], help="policy (by default), core, or both")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="how many to try (by default 200)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="draw others")
    parser.add_argument("--only", default="", metavar="TEXT", help="only those with this text in their names")
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="stop after so long (by default 60)")
    parser.add_argument("--at-most", type=float, default=5, metavar="PERCENT", help="fail above it (by default 5)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
