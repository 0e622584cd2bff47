"""Hit rates of realistic requests: `make hit-rates REPO=…`, `make hit-rates-sample`.

The input is any Git repository. Its figures go to build/hit-rates/, or with `--publish` to
benchmarks/results/hit-rates/, from which `--report` makes the tables and pictures of docs/hit-rates.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.watched import run
from benchmarks.workloads import chunks, costs, figures, report, requests
from benchmarks.workloads.figures import Workload
from benchmarks.workloads.forecasts import Row, compared
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
    """Show a progress bar on standard error; yield a function that advances it by a step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)


def measure(workload: Workload, given: argparse.Namespace, *, seconds: float, maxmemory: int = 0) -> Measured:
    """Send requests to the simulator, then through the proxy, scaled so that Ollama works `seconds` in all."""
    asked = workload.asked
    whole = costs.total(asked, given.seed)
    scale = min(1.0, seconds / whole) if whole else 1.0
    sys.stderr.write(f"Ollama would work {whole:,.0f} s for {len(asked)} requests; scale {scale:.4f}\n")
    with bar("asking", 2 * len(asked) + len(workload.before)) as step:
        return run(replay(workload.before, asked, seed=given.seed, scale=scale, step=step, maxmemory=maxmemory))


def history_of(given: argparse.Namespace) -> AbstractContextManager[History]:
    """Open the history that the arguments select."""
    folder = Path(given.repository)
    name = given.name or folder.resolve().name.removesuffix(".git")
    return opened(folder, name, last=given.last, revision=given.revision)


def say_forecasts(name: str, rows: Iterable[Row]) -> None:
    """Print each forecast of the proxy beside what a replay with that setting gives."""
    for row in rows:
        shown = f"{row.forecast:5.1f} {row.replay:5.1f} {row.points:+5.1f}"
        sys.stdout.write(f"{name}: forecast, replay, points: {shown}  {row.setting}, {row.of}\n")


def forecasts_of(history: History, workload: Workload) -> list[dict[str, Any]]:
    """Return forecasts beside replays, those without line numbers for requests that have them."""
    lined = figures.lined(history)
    rows = [row for row in compared(workload.before, workload.asked) if not row.plain]
    rows += [row for row in compared(lined.before, lined.asked) if row.plain]
    return [asdict(row) for row in rows]


def forecasts(given: argparse.Namespace) -> None:
    """Measure the forecasts of a repository again, and leave its other published figures as they are."""
    with history_of(given) as history:
        file = RESULTS / f"{history.name}.json"
        found = json.loads(file.read_text("utf-8"))
        if (found["head"], found["commits"]) != (history.head, len(history.commits)):
            sys.exit(f"{history.name}: the published figures are of {found['commits']} commits up to {found['head']}")
        found["forecasts"] = forecasts_of(history, figures.usual(history))
        sys.stdout.write("\n".join(report.forecasts({history.name: found})) + "\n")
        replayed = found.pop("replayed")  # as the last one, since it has the rows
        file.write_text(report.dumped(found | {"replayed": replayed}), "utf-8")


def repository(given: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of a repository."""
    with history_of(given) as history:
        workload = figures.usual(history)
        if not workload.asked:
            sys.exit(f"{history.name}: no commit wrote a source file in a supported language")
        rules = len(chunks.RULES) + len(requests.EXPLANATIONS) + len(figures.READERS) + len(requests.FIXES)
        with bar("deriving", rules) as step:
            found = figures.described(history) | {"derived": figures.derived(history, workload, step)}
        found |= {"forecasts": forecasts_of(history, workload)}
    tail = workload.tail(given.requests)
    measured = measure(tail, given, seconds=given.seconds)
    sizes = figures.entry_sizes(tail, measured)
    half = measured.empty + (measured.memory - measured.empty) // 2
    # Wait in between: the LRU clock of Redis and Valkey counts seconds.
    bounded = measure(tail, given, seconds=given.seconds, maxmemory=half)
    return found | {
        "seed": given.seed,
        "worked": figures.worked(workload, given.seed),
        "stored": figures.stored(workload, measured, sizes)
        | {"halved": figures.halved(tail, measured, sizes, bounded)},
        "replayed": figures.replayed(measured),
    }


def write(given: argparse.Namespace) -> None:
    """Write the last of the usual requests as JSONL, after the earlier requests that they repeat."""
    with history_of(given) as history, Path(given.jsonl).open("wb") as file:
        workload = figures.usual(history)
        chosen = workload.tail(given.requests)
        file.writelines(requests.line(one, counted=False) for one in chosen.before)
        file.writelines(requests.line(one, counted=True) for one in chosen.asked)


def sample(given: argparse.Namespace) -> bool:
    """Replay the committed requests; return whether the hits were exactly the expected ones."""
    unlike, lines = 0, []
    for file in sorted(SAMPLES.glob("*.jsonl")):
        workload = Workload(*requests.read(file.read_bytes().splitlines()))
        measured = figures.replayed(measure(workload, given, seconds=given.seconds))
        say_forecasts(file.stem, compared(workload.before, workload.asked))
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
    """Write page and pictures from the published figures."""
    found = kept()
    PAGE.write_text(report.page(PAGE.read_text("utf-8"), found), "utf-8")
    for name, picture in PICTURES.items():
        (PAGE.parent / name).write_text(picture(found), "utf-8")


def main(given: argparse.Namespace) -> bool:
    """Run what the arguments select; return whether all was as expected."""
    if given.sample:
        return sample(given)
    if given.jsonl:
        write(given)
        return True
    if given.forecasts:
        forecasts(given)
    elif given.repository:
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
    made.add_argument("repository", nargs="?", help="directory of a Git repository, bare or not")
    made.add_argument("--name", help="its name (default: of its directory)")
    made.add_argument("--revision", default="HEAD", metavar="REV", help="the last revision (default HEAD)")
    made.add_argument(
        "--last", type=int, default=800, metavar="N", help="number of commits, without merges (default 800)"
    )
    made.add_argument(
        "--requests",
        type=int,
        default=400,
        metavar="N",
        help="how many of the requests to send to the proxy (default 400)",
    )
    made.add_argument("--seconds", type=float, default=40.0, metavar="N", help="scaled time that Ollama works for them")
    made.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the times of texts (default 1)")
    made.add_argument("--jsonl", metavar="FILE", help="only write the requests to this file")
    made.add_argument("--sample", action="store_true", help="replay the committed requests")
    made.add_argument("--forecasts", action="store_true", help="only measure forecasts, and publish these")
    made.add_argument("--publish", action="store_true", help="store the figures for docs/hit-rates.md")
    made.add_argument("--report", action="store_true", help="only write docs/hit-rates.md")
    return made


if __name__ == "__main__":
    asked_for = parser().parse_args()
    if not (asked_for.repository or asked_for.sample or asked_for.report):
        parser().error("which repository? REPO=…")
    sys.exit(0 if main(asked_for) else 1)
