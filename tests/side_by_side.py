"""Lint, types and all tests, as many at once as two cores take: `make test`.

Each folder of tests is a run of its own, and so are the unit tests on another Python (tests/pythons.py). The longest
begin first; most of them wait more than they compute. What is marked `alone`, because it measures times, runs after all
else. Of what passed one line is shown, and what it left out; the output of what failed comes last. That every test has
run once is counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
BIN: Final = Path(sys.executable).parent
ENDS_WITHIN: Final = 1500.0
"""Seconds; a test that hangs ends its run long before (tests/support/hangs.py)."""
AT_ONCE: Final = 4
_LONGEST: Final = ("tests/cli", "tests/e2e/faults", "tests/e2e/cache", "tests/stores", "tests/admin")
"""Folders whose tests take longest, in order."""
NO_TESTS: Final = 5
"""pytest's exit status where it was asked for tests that another run has."""
OVERDUE: Final = 124
LEFT_OUT: Final = "short test summary info"


@dataclass(frozen=True, slots=True)
class Job:
    """A command with a name; `tally` is the file in which pytest notes the tests that it found and ran."""

    name: str
    command: tuple[str, ...]
    tally: Path | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a job: its exit status, all that it said, and its time in seconds."""

    job: Job
    status: int
    said: str
    seconds: float

    @property
    def well(self) -> bool:
        """Whether it passed, or had nothing to do."""
        return self.status == 0 or (self.status == NO_TESTS and self.job.tally is not None)


def folders() -> list[str]:
    """Return the folders of tests, none of which is in another, and the files beside them; those that take longest first."""
    root = ROOT / "tests"
    files = [path.relative_to(ROOT) for path in root.rglob("test_*.py") if "node_modules" not in path.parts]
    found = {str(path if len(path.parts) < 4 and path.parts[1] == "e2e" else _folder(path)) for path in files}
    return sorted(found, key=lambda name: (_LONGEST.index(name) if name in _LONGEST else len(_LONGEST), name))


def _folder(path: Path) -> Path:
    """Return the folder whose tests run together: tests/core, or tests/e2e/cache."""
    return Path(*path.parts[: 3 if path.parts[1] == "e2e" else 2])


def steps(tallies: Path, arguments: Sequence[str]) -> list[list[Job]]:
    """Return what to run: the jobs of a step run beside each other, the steps one after the other."""

    def tests(which: str, *paths: str) -> Job:
        name = paths[0] if which == "not alone" else which
        tally = tallies / name.replace("/", ".")
        pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, f"--tally={tally}")
        return Job(name, (*pytest, *paths, *arguments), tally)

    ruff = str(BIN / "ruff")
    first, *others = [tests("not alone", path) for path in folders()]
    at_once = [
        Job("ruff check", (ruff, "check", ".")),
        Job("ruff format", (ruff, "format", "--check", ".")),
        first,
        *(
            []
            if arguments
            else [Job("another Python", (sys.executable, str(ROOT / "tests" / "pythons.py"), "--others"))]
        ),
        Job("mypy", (str(BIN / "mypy"),)),
        *others,
    ]
    return [at_once, [tests("alone", "tests")]]


def run(job: Job) -> Ended:
    """Run a job to its end, or for `ENDS_WITHIN` seconds."""
    begun = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(
            job.command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=ENDS_WITHIN,
            check=False,
        )
        status, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        said = late.output if isinstance(late.output, str) else (late.output or b"").decode(errors="replace")
        status, said = OVERDUE, f"{said}\n{job.name} has not ended within {ENDS_WITHIN:g} s\n"
    except OSError as error:
        status, said = 127, f"{error}\n"
    return Ended(job, status, said, time.monotonic() - begun)


def line(ended: Ended) -> str:
    """Return how a job ended, and what it left out."""
    told = ended.said.rstrip()
    summary = told[told.find(LEFT_OUT) :].partition("\n")[2].splitlines() if LEFT_OUT in told else []
    last = told.rpartition("\n")[2]
    state = "passed" if ended.well else f"FAILED with status {ended.status}"
    left_out = "".join(f"    {text}\n" for text in summary[:-1] if text.startswith("SKIPPED"))
    return f"{ended.job.name}: {state} after {ended.seconds:.0f} s: {last}\n{left_out if ended.well else ''}"


def not_run_once(tallies: Iterable[Mapping[str, Sequence[str]]]) -> tuple[int, list[str]]:
    """Return how many tests were found, and those that no run or more than one had."""
    found: set[str] = set()
    ran: Counter[str] = Counter()
    for tally in tallies:
        found.update(tally["found"])
        ran.update(tally["ran"])
    return len(found), sorted(name for name in found | set(ran) if ran[name] != 1)


def main(arguments: Sequence[str]) -> int:
    """Run everything; returns 0 where all of it passed and each test ran once."""
    ended: list[Ended] = []
    with tempfile.TemporaryDirectory() as folder:
        for jobs in steps(Path(folder), arguments):
            say(f"Running {', '.join(job.name for job in jobs)}\n")
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for future in as_completed([pool.submit(run, job) for job in jobs]):
                    ended.append(future.result())
                    say(line(ended[-1]))
        failed = [one for one in ended if not one.well]
        for one in failed:
            say(f"\n{' ' + one.job.name + ' ':=^100}\n{one.said}")
        if failed:
            say(f"\nFAILED: {', '.join(one.job.name for one in failed)}\n")
            return 1
        tallies = [json.loads(one.job.tally.read_text("utf-8")) for one in ended if one.job.tally]
        count, wrong = not_run_once(tallies)
    if arguments:
        say("All passed of what was asked for\n")
        return 0
    if wrong or not count:
        say("\n".join((*wrong[:50], f"FAILED: of {count} tests {len(wrong)} did not run once\n")))
        return 1
    say(f"All passed: {count} tests, each has run once\n")
    return 0


def say(text: str) -> None:
    """Show it at once, also where the output goes to a file."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
