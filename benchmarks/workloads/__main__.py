"""How often requests that work really makes are known: `make hit-rates REPO=…`, `make hit-rates-sample`.

Any Git repository is an input. Its figures go to build/hit-rates/, or with `--publish` to
benchmarks/results/hit-rates/, of which `--report` makes the tables and pictures of docs/hit-rates.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.watched import run
from benchmarks.workloads import chunks, costs, figures, report, requests
from benchmarks.workloads.figures import Workload
from benchmarks.workloads.history import History, opened
from benchmarks.workloads.rates import Cache, Expiring, count
from benchmarks.workloads.replay import Measured, replay

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "build" / "hit-rates"
RESULTS: Final = ROOT / "benchmarks" / "results" / "hit-rates"
SAMPLES: Final = Path(__file__).parent / "samples"
PAGE: Final = ROOT / "docs" / "hit-rates.md"
PICTURES: Final = {"hit-rates.svg": report.rates_picture, "hit-rates-latency.svg": report.latency_picture}


@contextmanager
def bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how far something is, on standard error, and return what tells of one step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)


def measure(workload: Workload, given: argparse.Namespace, *, seconds: float, maxmemory: int = 0) -> Measured:
    """Send requests, first to the simulator alone and then through the proxy, so that Ollama works so many seconds."""
    asked = workload.asked
    whole = costs.total(asked, given.seed)
    scale = min(1.0, seconds / whole) if whole else 1.0
    sys.stderr.write(f"Ollama would work {whole:,.0f} s for {len(asked)} requests; scale {scale:.4f}\n")
    with bar("asking", 2 * len(asked) + len(workload.before)) as step:
        return run(replay(workload.before, asked, seed=given.seed, scale=scale, step=step, maxmemory=maxmemory))


def history_of(given: argparse.Namespace) -> AbstractContextManager[History]:
    """Read the history that is asked for."""
    folder = Path(given.repository)
    name = given.name or folder.resolve().name.removesuffix(".git")
    return opened(folder, name, last=given.last, revision=given.revision)


def repository(given: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of a repository."""
    with history_of(given) as history:
        workload = figures.usual(history)
        if not workload.asked:
            sys.exit(f"{history.name}: no commit wrote a source file in a language that is known here")
        rules = len(chunks.RULES) + len(requests.EXPLANATIONS) + len(figures.READERS) + len(requests.FIXES)
        with bar("deriving", rules) as step:
            found = figures.described(history) | {"derived": figures.derived(history, workload, step)}
    tail = workload.tail(given.requests)
    measured = measure(tail, given, seconds=given.seconds)
    sizes = figures.entry_sizes(tail, measured)
    half = measured.empty + (measured.memory - measured.empty) // 2
    # Not at once: the clock by which Redis and Valkey tell what was asked for last counts seconds.
    bounded = measure(tail, given, seconds=given.seconds, maxmemory=half)
    return found | {
        "seed": given.seed,
        "worked": figures.worked(workload, given.seed),
        "stored": figures.stored(workload, measured, sizes)
        | {"halved": figures.halved(tail, measured, sizes, bounded)},
        "replayed": figures.replayed(measured),
    }


def write(given: argparse.Namespace) -> None:
    """Write the last of the usual requests as JSONL, behind what was asked earlier and is asked again in them."""
    with history_of(given) as history, Path(given.jsonl).open("wb") as file:
        workload = figures.usual(history)
        chosen = workload.tail(given.requests)
        file.writelines(requests.line(one, counted=False) for one in chosen.before)
        file.writelines(requests.line(one, counted=True) for one in chosen.asked)


def sample(given: argparse.Namespace) -> bool:
    """Ask what is committed; whether the proxy knew just what was to be expected."""
    unlike, lines = 0, []
    for file in sorted(SAMPLES.glob("*.jsonl")):
        workload = Workload(*requests.read(file.read_bytes().splitlines()))
        measured = figures.replayed(measure(workload, given, seconds=given.seconds))
        tallies = count(workload.before, workload.asked, Cache(Expiring()))
        sys.stdout.write("\n".join(report.replay_table({file.stem: measured})) + "\n")
        unlike += measured["unlike"]
        lines.append(report.summary(file.stem, tallies, measured))
    sys.stdout.write("; ".join(lines) + f"; {unlike or 'none'} unlike what was derived\n")
    return not unlike


def kept() -> dict[str, Any]:
    """Read the published figures, by name."""
    return {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(RESULTS.glob("*.json"))}


def publish() -> None:
    """Make page and pictures of the published figures."""
    found = kept()
    PAGE.write_text(report.page(PAGE.read_text("utf-8"), found), "utf-8")
    for name, picture in PICTURES.items():
        (PAGE.parent / name).write_text(picture(found), "utf-8")


def main(given: argparse.Namespace) -> bool:
    """Do what is asked for; whether all was as it should be."""
    if given.sample:
        return sample(given)
    if given.jsonl:
        write(given)
        return True
    if given.repository:
        found = repository(given)
        folder = RESULTS if given.publish else BUILD
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{found['name']}.json").write_text(report.dumped(found), "utf-8")
        sys.stdout.write("\n".join(report.tables({found["name"]: found})) + "\n")
    if given.publish or given.report:
        publish()
    return True


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="make hit-rates", description=__doc__)
    made.add_argument("repository", nargs="?", help="folder of a Git repository, with a work tree or without")
    made.add_argument("--name", help="what to call it (default: its folder)")
    made.add_argument("--revision", default="HEAD", metavar="REV", help="up to where (default HEAD)")
    made.add_argument("--last", type=int, default=800, metavar="N", help="commits, merges left out (default 800)")
    made.add_argument("--requests", type=int, default=400, metavar="N", help="of them, to the proxy (default 400)")
    made.add_argument("--seconds", type=float, default=40.0, metavar="N", help="that Ollama works for them, scaled")
    made.add_argument("--seed", type=int, default=1, metavar="N", help="of how long each text takes (default 1)")
    made.add_argument("--jsonl", metavar="FILE", help="write the requests there, and stop")
    made.add_argument("--sample", action="store_true", help="ask what is committed")
    made.add_argument("--publish", action="store_true", help="keep the figures for docs/hit-rates.md")
    made.add_argument("--report", action="store_true", help="make docs/hit-rates.md anew, measure nothing")
    return made


if __name__ == "__main__":
    asked_for = parser().parse_args()
    if not (asked_for.repository or asked_for.sample or asked_for.report):
        parser().error("which repository? REPO=…")
    sys.exit(0 if main(asked_for) else 1)
