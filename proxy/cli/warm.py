"""`ollama-cache-proxy warm`: ask ahead what will be asked, so that it is in the cache when it is."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.cli.screen import Steps, steps
from proxy.cli.upstream import Answer, Api, proxy, session
from proxy.cli.work import FAILED, WRONG, CommandError, say, work
from proxy.toolbox.chunks import WAYS, chunks
from proxy.toolbox.requests import Asking, Outcome, embeddings, outcome, read, total

_OK: Final = 200
_NOT_CACHED: Final = 504
_GIVE_UP: Final = 10
"""Failures in a row after which the rest is left alone."""

_TOLD: Final = 5
"""Failures that are named one by one."""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "warm",
        help="fill the cache ahead of time",
        description="Ask the proxy what will be asked: requests from files of JSON lines, each"
        ' {"path": "/api/generate", "body": {...}, "headers": {...}}, or the texts of a directory, cut into chunks and'
        " embedded. What the cache knows is not asked again, so a run that was stopped goes on where it was.",
        epilog="examples: ollama-cache-proxy warm requests.jsonl --rate 2 |"
        " ollama-cache-proxy warm --embed src --model all-minilm --glob '**/*.py' --chunk functions",
    )
    parser.add_argument("files", metavar="FILE", nargs="*", help="JSON lines; - is standard input")
    parser.add_argument("--url", metavar="URL", help="the proxy (default: where serve listens)")
    parser.add_argument("--embed", metavar="DIR", help="embed the texts of this directory; hidden files are left out")
    parser.add_argument("--model", metavar="NAME", help="embeds them")
    parser.add_argument("--glob", metavar="PATTERN", default="**/*", help="which files (default: %(default)s)")
    parser.add_argument("--chunk", choices=tuple(WAYS), default="lines", help="how they are cut (default: %(default)s)")
    parser.add_argument("--lines", metavar="N", type=int, default=60, help="lines of a chunk, at most (%(default)d)")
    parser.add_argument("--batch", metavar="N", type=int, default=16, help="texts of a request (default: %(default)d)")
    parser.add_argument("--rate", metavar="N", type=float, help="requests a second to Ollama (default: no limit)")
    parser.add_argument("--concurrency", metavar="N", type=int, default=4, help="at once (default: %(default)d)")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    return work(_warm(arguments))


async def _warm(arguments: argparse.Namespace) -> int:
    for name in ("lines", "batch", "concurrency", "rate"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise CommandError(f"{name}: {value} is not allowed: must be above 0", WRONG)
    if bool(arguments.files) == bool(arguments.embed) or bool(arguments.embed) != bool(arguments.model):
        raise CommandError("warm takes either FILEs, or --embed DIR together with --model NAME", WRONG)
    askings = list(_from_directory(arguments) if arguments.embed else _from_files(arguments.files))
    async with session() as opened:
        api = proxy(opened, arguments.url)
        if "hitRate" not in await api.json("GET", "/api/cache/stats"):
            raise CommandError(f"{api.url} is no ollama-cache-proxy: name it with --url")
        warming = _Warming(api, arguments.rate)
        try:
            with steps() as progress:
                await warming.all(askings, arguments.concurrency, progress)
        finally:
            warming.tell(sum(asking.weight for asking in askings), as_json=arguments.json)
    return FAILED if warming.failed else 0


def _from_files(names: Sequence[str]) -> Iterator[Asking]:
    """Read requests; every line is looked at before anything is asked."""
    for name in names:
        try:
            data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise CommandError(f"{name!r} cannot be read: {error.strerror}", WRONG) from None
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                try:
                    yield read(line, f"{name}:{number}")
                except ValueError as error:
                    raise CommandError(str(error), WRONG) from None


def _from_directory(arguments: argparse.Namespace) -> Iterator[Asking]:
    folder = Path(arguments.embed)
    if not folder.is_dir():
        raise CommandError(f"embed: {arguments.embed!r} is not a directory", WRONG)
    try:
        files = sorted(path for path in folder.glob(arguments.glob) if path.is_file() and not _hidden(path, folder))
    except (ValueError, NotImplementedError) as error:
        raise CommandError(f"glob: {arguments.glob!r} is not allowed: {error}", WRONG) from None
    texts: list[str] = []
    skipped = 0
    for file in files:
        try:
            texts += chunks(file.read_text("utf-8"), arguments.chunk, arguments.lines)
        except (OSError, UnicodeDecodeError):
            skipped += 1
    if skipped:
        say(f"{skipped} of {len(files)} files were left out: no UTF-8, or not to be read")
    if not texts:
        raise CommandError(f"embed: {arguments.embed!r} has no text in files like {arguments.glob!r}", WRONG)
    yield from embeddings(texts, arguments.model, arguments.batch)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


class _Pace:
    """Lets as many pass in a second as it is told, evenly."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 0.0 if rate is None else 1 / rate
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for one's turn."""
        now = time.monotonic()
        mine = max(now, self._next)
        self._next = mine + self._gap
        if mine > now:
            await asyncio.sleep(mine - now)


class _Warming:
    """What was asked so far, and what became of it."""

    def __init__(self, api: Api, rate: float | None) -> None:
        self._api = api
        self._pace = _Pace(rate)
        self._outcomes: list[Outcome] = []
        self._in_a_row = 0
        self._begun = time.monotonic()

    @property
    def failed(self) -> int:
        """How many texts and completions failed."""
        return total(self._outcomes).failed

    async def all(self, askings: Sequence[Asking], concurrency: int, progress: Steps) -> None:
        """Ask everything; raises CommandError after many failures in a row."""
        progress.begin("Warming", sum(asking.weight for asking in askings))
        waiting = iter(askings)

        async def some() -> None:
            for asking in waiting:
                self._note(asking, await self._one(asking), progress)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(some())
        except ExceptionGroup as group_of_errors:
            raise group_of_errors.exceptions[0] from None

    async def _one(self, asking: Asking) -> Outcome:
        """Ask the cache alone first: what it knows costs Ollama nothing, and so takes no turn."""
        known = await self._ask(asking, {"Cache-Control": "only-if-cached"})
        if known.status == _NOT_CACHED:
            await self._pace.turn()
            known = await self._ask(asking, {})
        headers = known.headers
        return outcome(asking.weight, known.status, headers.get("X-Cache", ""), headers.get("Cache-Status", ""))

    async def _ask(self, asking: Asking, fields: dict[str, str]) -> Answer:
        return await self._api.ask("POST", asking.path, asking.body, {**asking.headers, **fields})

    def _note(self, asking: Asking, came: Outcome, progress: Steps) -> None:
        self._outcomes.append(came)
        progress.advance(asking.weight)
        self._in_a_row = self._in_a_row + 1 if came.failed else 0
        if came.failed and sum(bool(one.failed) for one in self._outcomes) <= _TOLD:
            progress.say(f"{asking.origin}: failed with {came.why}")
        if self._in_a_row >= _GIVE_UP:
            raise CommandError(f"{_GIVE_UP} requests in a row failed, the last with {came.why}: the rest is left")

    def tell(self, wanted: int, *, as_json: bool) -> None:
        """Say what became of everything."""
        summed, seconds = total(self._outcomes), time.monotonic() - self._begun
        reasons = Counter({"": 0})
        for one in self._outcomes:
            reasons[one.why] += one.unkept
        unkept = {why: count for why, count in reasons.items() if count}
        if as_json:
            counts = asdict(summed) | {"unkept": unkept, "wanted": wanted, "seconds": round(seconds, 3)}
            del counts["why"]
            sys.stdout.write(orjson.dumps(counts).decode() + "\n")
            sys.stdout.flush()
            return
        did = f"{summed.asked} asked and kept, {summed.known} known, {summed.failed} failed"
        say(f"Of {wanted}: {did}, in {seconds:.1f} s")
        for why, count in unkept.items():
            say(f"{count} asked, but not kept: {why} (see docs/cache-rules.md)")
        if sum((summed.asked, summed.known, summed.failed, summed.unkept)) < wanted:
            say("Start it again to go on: what is known is not asked again")
