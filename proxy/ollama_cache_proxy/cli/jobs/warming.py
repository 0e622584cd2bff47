"""The work of `warm`: send requests through the proxy, those that are not stored at a limited rate."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from http import HTTPStatus
from itertools import chain, filterfalse
from pathlib import Path
from typing import Final

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.asking import Response, client
from ollama_cache_proxy.cli.ending import DONE, FAILED, WRONG, Failed
from ollama_cache_proxy.cli.jobs.api import Api, proxy
from ollama_cache_proxy.cli.jobs.progress import Steps, steps
from ollama_cache_proxy.cli.jobs.request_folders import RequestFolder
from ollama_cache_proxy.cli.jobs.work import say
from ollama_cache_proxy.cli.screen import write_json
from ollama_cache_proxy.workbench.chunks import chunks
from ollama_cache_proxy.workbench.request_logs import LeftOut
from ollama_cache_proxy.workbench.requests import Outcome, Request, embeddings, never_stored, outcome, read, total

_MAX_FAILURES: Final = 10
"""Failures in a row after which the run stops."""

_MAX_NAMED: Final = 5
"""Failures that are reported one by one."""


async def warm(arguments: argparse.Namespace) -> int:
    """Send all requests, and report the outcome. Raise Failed."""
    for name in ("lines", "batch", "concurrency", "rate"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise Failed(f"--{name}: {value} is not allowed: must be above 0", status=WRONG)
    if bool(arguments.files) == bool(arguments.embed) or bool(arguments.embed) != bool(arguments.model):
        raise Failed("warm needs either FILEs, or --embed DIR together with --model NAME", status=WRONG)
    settings = options.settings_of(arguments)
    url = options.proxy_url(arguments, settings)
    found = [RequestFolder(name, settings.max_request_bytes) for name in filter(_is_folder, arguments.files)]
    listed = list(_from_directory(arguments) if arguments.embed else _from_files(arguments.files))
    for folder in found:
        await folder.find()
    if not listed and not any(folder.weight for folder in found) and _left_out(found):
        _say_left_out(found)
        raise Failed(f"there are no requests in {', '.join(map(repr, arguments.files))}", status=WRONG)
    async with client() as session:
        warming = _Warming(await proxy(session, url), listed, found, arguments.rate)
        try:
            with steps() as progress:
                await warming.all(arguments.concurrency, progress)
        finally:
            warming.show(as_json=arguments.json)
    return FAILED if warming.failed else DONE


def _from_files(names: Sequence[str]) -> Iterator[Request]:
    """Yield the requests of files. Raise Failed for a wrong line."""
    for name in filterfalse(_is_folder, names):
        try:
            data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise Failed(f"{name!r} cannot be read: {error.strerror}", status=WRONG) from None
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                try:
                    yield read(line, f"{name}:{number}")
                except ValueError as error:
                    raise Failed(str(error), status=WRONG) from None


def _is_folder(name: str) -> bool:
    return Path(name).is_dir()


def _say_left_out(folders: Sequence[RequestFolder]) -> None:
    """Print how much of the folders was left out, and why."""
    for reason, count in _left_out(folders).items():
        say(f"{count} left out: {reason.meaning}")
    if any(folder.of_ollama for folder in folders):
        say("Ollama logs no requests for embeddings; the proxy records them too (serve --record-requests)")


def _left_out(folders: Sequence[RequestFolder]) -> Counter[LeftOut]:
    return +sum((folder.left_out for folder in folders), Counter())


def _from_directory(arguments: argparse.Namespace) -> Iterator[Request]:
    folder = Path(arguments.embed)
    if not folder.is_dir():
        raise Failed(f"--embed: {arguments.embed!r} is not a directory", status=WRONG)
    try:
        files = sorted(path for path in folder.glob(arguments.glob) if path.is_file() and not _hidden(path, folder))
    except (ValueError, NotImplementedError) as error:
        raise Failed(f"--glob: {arguments.glob!r} is not allowed: {error}", status=WRONG) from None
    texts: list[str] = []
    skipped = 0
    for file in files:
        try:
            texts += chunks(file.read_text("utf-8"), arguments.chunk, arguments.lines)
        except (OSError, UnicodeDecodeError):
            skipped += 1
    if skipped:
        say(f"{skipped} of {len(files)} files were skipped: not UTF-8, or not readable")
    if not texts:
        raise Failed(f"--embed: {arguments.embed!r} has no text in files that match {arguments.glob!r}", status=WRONG)
    yield from embeddings(texts, arguments.model, arguments.batch)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


class _Pace:
    """Limits a rate: spaces turns evenly."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 0.0 if rate is None else 1 / rate
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next turn."""
        now = time.monotonic()
        mine = max(now, self._next)
        self._next = mine + self._gap
        if mine > now:
            await asyncio.sleep(mine - now)


class _Warming:
    """One run: sends requests and counts their outcomes."""

    def __init__(
        self, api: Api, listed: Sequence[Request], folders: Sequence[RequestFolder], rate: float | None
    ) -> None:
        self._api = api
        self._listed = listed
        self._folders = folders
        self._pace = _Pace(rate)
        self._outcomes: list[Outcome] = []
        self._in_a_row = 0
        self._begun = time.monotonic()

    @property
    def failed(self) -> int:
        """The number of texts and completions that failed."""
        return total(self._outcomes).failed

    def _wanted(self) -> int:
        """Return the number of texts and completions."""
        return sum(request.weight for request in self._listed) + sum(folder.weight for folder in self._folders)

    async def all(self, concurrency: int, progress: Steps) -> None:
        """Send all requests. Raise Failed after many failures in a row."""
        progress.begin("Warming", self._wanted())
        waiting = chain(self._listed, *self._folders)

        async def some() -> None:
            for request in waiting:
                self._note(request, await self._one(request), progress)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(some())
        except ExceptionGroup as group_of_errors:
            raise group_of_errors.exceptions[0] from None

    async def _one(self, request: Request) -> Outcome:
        """Return the outcome of a request; it is sent with `only-if-cached` first, since a hit needs no turn."""
        known = await self._ask(request, {"Cache-Control": "only-if-cached"})
        if known.status == HTTPStatus.GATEWAY_TIMEOUT:  # RFC 9111, section 5.2.1.7: not stored
            if why := never_stored(known.cache_status):
                return Outcome(skipped=request.weight, why=why)
            await self._pace.turn()
            known = await self._ask(request, {})
        return outcome(request, known.status, known.headers.get("X-Cache", ""), known.cache_status)

    async def _ask(self, request: Request, fields: dict[str, str]) -> Response:
        return (await self._api.timed(request.path, request.body, {**request.headers, **fields}))[1]

    def _note(self, request: Request, came: Outcome, progress: Steps) -> None:
        self._outcomes.append(came)
        progress.advance(request.weight)
        self._in_a_row = self._in_a_row + 1 if came.failed else 0
        if came.failed and sum(bool(one.failed) for one in self._outcomes) <= _MAX_NAMED:
            progress.say(f"{request.origin}: failed with {came.why}")
        if self._in_a_row >= _MAX_FAILURES:
            raise Failed(
                f"{_MAX_FAILURES} requests in a row failed, the last with {came.why}",
                "run `ollama-cache-proxy doctor`",
            )

    def show(self, *, as_json: bool) -> None:
        """Print the summary: counts, and reasons for what was not stored or not sent."""
        summed, seconds, wanted = total(self._outcomes), time.monotonic() - self._begun, self._wanted()
        unkept: Counter[str] = Counter()
        skipped: Counter[str] = Counter()
        for one in self._outcomes:
            unkept[one.why] += one.unkept
            skipped[one.why] += one.skipped
        unkept, skipped = +unkept, +skipped
        if as_json:
            left_out = {reason.value: count for reason, count in _left_out(self._folders).items()}
            counts = asdict(summed) | {"unkept": unkept, "skipped": skipped | Counter(left_out)}
            del counts["why"]
            write_json(counts | {"wanted": wanted, "seconds": round(seconds, 3)}, indent=False)
            return
        did = f"{summed.asked} sent and stored, {summed.known} already stored, {summed.failed} failed"
        say(f"Of {wanted}: {did}, in {seconds:.1f} s")
        for why, count in unkept.items():
            say(f"{count} sent, but not stored: {why} (see docs/cache-rules.md)")
        for why, count in skipped.items():
            refused = why.startswith("status ")
            say(f"{count} refused by Ollama: {why}" if refused else f"{count} not sent, since never stored: {why}")
        _say_left_out(self._folders)
        if sum((summed.asked, summed.known, summed.failed, summed.unkept, summed.skipped)) < wanted:
            say("Run it again to continue: stored responses are not requested again")
