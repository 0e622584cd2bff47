"""Folders of logged requests: found in one pass, and read again one by one when they are sent.

Bodies are never all in memory: of each request its place in a file is kept. What else lies in a folder, what is damaged
and what is still being written is left out and counted, never followed or waited for.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import stat
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ollama_cache_proxy.cli.ending import WRONG, Failed
from ollama_cache_proxy.workbench.request_logs import (
    LeftOut,
    fingerprint,
    is_body,
    is_lines,
    is_replay,
    request_in,
)
from ollama_cache_proxy.workbench.requests import Request

MAX_REQUESTS: Final = 100_000
"""Requests, and files, of one folder; of more, the newest by their names."""
_ESCAPED: Final = 2
"""How many times larger than a body its line may be, with its quotes and escapes."""
_LINE_MORE: Final = 64 * 1024
"""Bytes of a line that are not its body's."""
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request stands."""

    name: str
    number: int
    """Of its line, from 1; 0 where the file is the body."""
    begin: int
    size: int
    weight: int
    mark: bytes
    """Its fingerprint."""


class RequestFolder:
    """The requests in one folder; `limit` is how many bytes a body may have."""

    def __init__(self, name: str, limit: int) -> None:
        self.left_out: Counter[LeftOut] = Counter()
        self.of_ollama = False
        """Whether Ollama has written any of it."""
        self._folder = Path(name)
        self._limit = limit
        self._places: deque[_Place] = deque()
        self._marks: set[bytes] = set()
        self._gone = 0

    @property
    def weight(self) -> int:
        """The number of texts and completions; less where a request turned out to be gone when it was to be sent."""
        return sum(place.weight for place in self._places) - self._gone

    async def find(self) -> None:
        """Find the requests. Raise Failed if the folder cannot be read."""
        try:
            names = heapq.nlargest(MAX_REQUESTS, self._names())
        except OSError as error:
            raise Failed(f"{str(self._folder)!r} cannot be read: {error.strerror}", status=WRONG) from None
        for name in reversed(names):
            for _ in self._found_in(name):
                await asyncio.sleep(0)  # a signal may end it

    def __iter__(self) -> Iterator[Request]:
        """Yield the requests, read anew; those that are no longer there are left out."""
        for place in self._places:
            request = self._again(place)
            if request is None:
                self._gone += place.weight
                self.left_out[LeftOut.CHANGED] += 1
            else:
                yield request

    def _again(self, place: _Place) -> Request | None:
        """Return a request that was found, None where it is no longer there."""
        origin = f"{self._folder / place.name}:{place.number}" if place.number else str(self._folder / place.name)
        try:
            with self._opened(place.name) as file:
                file.seek(place.begin)
                request = request_in(place.name, file.read(place.size), origin)
        except OSError:
            return None
        return request if isinstance(request, Request) and fingerprint(request) == place.mark else None

    def _names(self) -> Iterator[str]:
        """Yield the names of files that may hold requests."""
        found = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = entry.name
                if is_replay(name):
                    continue
                if (is_body(name) or is_lines(name)) and entry.is_file(follow_symlinks=False):
                    found += 1
                    yield name
                else:
                    self.left_out[LeftOut.FOREIGN] += 1
        self.left_out[LeftOut.OLDER] += max(0, found - MAX_REQUESTS)

    def _found_in(self, name: str) -> Iterator[None]:
        """Note the requests in a file; yields after each."""
        try:
            with self._opened(name) as file:
                if is_body(name):
                    self.of_ollama = True
                    self._note(name, 0, 0, file.read(self._limit + 1))
                    yield
                else:
                    yield from self._lines(name, file)
        except OSError:
            self.left_out[LeftOut.UNREADABLE] += 1

    def _lines(self, name: str, file: BinaryIO) -> Iterator[None]:
        most = _ESCAPED * self._limit + _LINE_MORE
        begin = number = 0
        while line := file.readline(most):
            number += 1
            if len(line) == most and not line.endswith(b"\n"):
                self.left_out[LeftOut.TOO_LARGE] += 1
                while (line := file.readline(most)) and not line.endswith(b"\n"):
                    yield
            elif line.strip():
                self._note(name, number, begin, line)
            begin = file.tell()
            yield

    def _note(self, name: str, number: int, begin: int, data: bytes) -> None:
        """Note the request in the data, or why there is none."""
        request = LeftOut.TOO_LARGE if not number and len(data) > self._limit else request_in(name, data, "")
        if isinstance(request, Request) and len(request.body) > self._limit:
            request = LeftOut.TOO_LARGE
        if isinstance(request, Request) and (mark := fingerprint(request)) in self._marks:
            request = LeftOut.DUPLICATE
        if isinstance(request, LeftOut):
            self.left_out[request] += 1
            return
        self._marks.add(mark)
        self._places.append(_Place(name, number, begin, len(data), request.weight, mark))
        if len(self._places) > MAX_REQUESTS:
            self._marks.remove(self._places.popleft().mark)
            self.left_out[LeftOut.OLDER] += 1

    def _opened(self, name: str) -> BinaryIO:
        """Open a regular file. Raise OSError for anything else that has taken its place."""
        file = os.fdopen(os.open(self._folder / name, _FLAGS), "rb")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError
        return file
