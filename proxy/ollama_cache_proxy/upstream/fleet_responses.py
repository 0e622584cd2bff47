"""Responses that are made of those of several Ollamas; see ports.UpstreamResponse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from types import TracebackType
from typing import Final

import orjson

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.ports import Sink, UpstreamResponse
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.fields import without_body_fields
from ollama_cache_proxy.policy.merged_progress import MergedProgress
from ollama_cache_proxy.policy.messages import ResponseHead, first
from ollama_cache_proxy.policy.record import changed

_LINES: Final = b"application/x-ndjson"
_WAITING: Final = 64
"""Lines of the hosts together that wait to be handed on."""


class Made:
    """A whole response."""

    host = ""

    def __init__(self, head: ResponseHead, body: bytes) -> None:
        self.head = head
        self.body = body
        self.length: int | None = len(body)

    def whole_body(self) -> bytes | None:
        """See ports.UpstreamResponse."""
        return self.body

    async def chunks(self) -> AsyncIterator[bytes]:
        """See ports.UpstreamResponse."""
        yield self.body

    async def relay(self, sink: Sink) -> bool:
        """See ports.UpstreamResponse."""
        sink(self.body, None)
        return True


def merged_head(head: ResponseHead, length: int) -> ResponseHead:
    """Return the head for a body of this length in bytes, after that of one host."""
    lines = (*without_body_fields(head.fields), (b"Content-Length", b"%d" % length))
    return changed(head, fields=tuple(line for line in lines if line[0].lower() != b"transfer-encoding"))


class Everywhere(AbstractAsyncContextManager[UpstreamResponse]):
    """One change on several hosts, by name: progress as it comes, or what one response says of all.

    `failed` says why a host has given no response.
    """

    def __init__(self, responses: Mapping[str, UpstreamResponse], failed: Mapping[str, str], background: Tasks) -> None:
        self._background = background
        self._responses = responses
        self._failed = failed
        self._progress = MergedProgress([*responses])
        for name, reason in failed.items():
            self._progress.fail(name, reason)
        self._lines: asyncio.Queue[tuple[str, bytes | None]] = asyncio.Queue(_WAITING)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> UpstreamResponse:
        flowing = {name: one for name, one in self._responses.items() if _is_progress(one)}
        if not flowing:
            return await self._whole()
        for name, response in self._responses.items():
            reading = self._background.spawn(self._read(name, response), "read progress", endless=True)
            self._tasks.append(reading)
        return _Flowing(next(iter(flowing.values())).head, self._merged())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _whole(self) -> Made:
        """Return the first response that tells of a failure, or else the first one."""
        made = [Made(one.head, await body_of(one)) for one in self._responses.values()]
        worst = next((one for one in made if one.head.status >= HTTPStatus.BAD_REQUEST), None)
        if worst is None and self._failed:
            body = self._progress.last()
            fields = ((b"Content-Type", b"application/json; charset=utf-8"), (b"Content-Length", b"%d" % len(body)))
            return Made(ResponseHead(status=HTTPStatus.BAD_GATEWAY, reason="Bad Gateway", fields=fields), body)
        chosen = worst or next((one for one in made if one.head.status == HTTPStatus.CREATED), made[0])
        return Made(merged_head(chosen.head, len(chosen.body)), chosen.body)

    async def _read(self, name: str, response: UpstreamResponse) -> None:
        """Queue the lines of a host, and None at the end."""
        try:
            if _is_progress(response):
                async for line in _lines_of(response):
                    await self._lines.put((name, line))
            else:
                await self._lines.put((name, orjson.dumps({"error": _said(await body_of(response))})))
        except ProxyError as error:
            await self._lines.put((name, orjson.dumps({"error": error.message})))
        await self._lines.put((name, None))

    async def _merged(self) -> AsyncIterator[bytes]:
        going = len(self._responses)
        while going:
            name, line = await self._lines.get()
            if line is None:
                going -= 1
                self._progress.ended(name)
            elif (merged := self._progress.add(name, line)) is not None:
                yield merged + b"\n"
        yield self._progress.last() + b"\n"


class _Flowing:
    """A response that is still arriving."""

    length: int | None = None
    host = ""

    def __init__(self, head: ResponseHead, lines: AsyncIterator[bytes]) -> None:
        self.head = changed(head, fields=without_body_fields(head.fields))
        self._lines = lines

    def whole_body(self) -> bytes | None:
        """See ports.UpstreamResponse."""
        return None

    def chunks(self) -> AsyncIterator[bytes]:
        """See ports.UpstreamResponse."""
        return self._lines

    async def relay(self, sink: Sink) -> bool:
        """See ports.UpstreamResponse."""
        async for line in self._lines:
            if not sink(line, None):
                return False
        return True


def _is_progress(response: UpstreamResponse) -> bool:
    kind = (first(response.head.fields, b"content-type") or b"").partition(b";")[0].strip().lower()
    return response.head.status == HTTPStatus.OK and kind == _LINES


async def _lines_of(response: UpstreamResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in response.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in filter(None, lines):
            yield line
    if rest:
        yield rest


async def body_of(response: UpstreamResponse) -> bytes:
    """Return a whole body. Raises ProxyError when it breaks off."""
    return b"".join([chunk async for chunk in response.chunks()])


def _said(body: bytes) -> str:
    """Return what an error of Ollama says."""
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "it refused"
