"""A minimal HTTP/1 client for tests that keeps what others tidy away: field order and case, chunk boundaries."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

DEFAULT_FIELDS: Mapping[str, str | None] = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """An answer as it came; `chunks` is empty unless the body was chunked, `closed` says that the end closed it."""

    status_line: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    chunks: tuple[bytes, ...] = ()
    closed: bool = False

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.status_line.split(" ")[1])

    def field(self, name: str) -> str | None:
        """Return the first field of a name, in any case."""
        return next((value for field, value in self.fields if field.lower() == name.lower()), None)


def request_bytes(
    method: str,
    target: str,
    *,
    host: str,
    fields: Mapping[str, str | None] | None = None,
    body: bytes | None = None,
    version: str = "1.1",
) -> bytes:
    """Return a request; a field given as None is left out, Content-Length is added where there is a body."""
    given = {"Host": host, **(DEFAULT_FIELDS if body is not None else {}), **(fields or {})}
    if body is not None and "Transfer-Encoding" not in given:
        given.setdefault("Content-Length", str(len(body)))
    lines = [
        f"{method} {target} HTTP/{version}",
        *(f"{name}: {value}" for name, value in given.items() if value is not None),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


class RawConnection:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader, self.writer, self.host = reader, writer, host

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to the host and port of a URL."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 24)
        return cls(reader, writer, parts.netloc)

    async def __aenter__(self) -> Self:
        """Use it open."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Leave at once."""
        self.writer.close()

    def send(
        self,
        method: str,
        target: str,
        *,
        fields: Mapping[str, str | None] | None = None,
        body: bytes | None = None,
        version: str = "1.1",
    ) -> None:
        """Send a request without waiting for the answer."""
        self.writer.write(request_bytes(method, target, host=self.host, fields=fields, body=body, version=version))

    async def head(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Read a status line and its fields."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = text[:-4].split("\r\n")
        return status_line, tuple((name, value) for name, _, value in (line.partition(": ") for line in lines))

    async def chunk(self) -> bytes:
        """Read one chunk, empty for the last one."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def answer(self, method: str = "GET") -> RawAnswer:
        """Read one whole answer."""
        status_line, fields = await self.head()
        names = {name.lower(): value for name, value in fields}
        if method == "HEAD" or status_line.split(" ")[1] == "204":
            return RawAnswer(status_line=status_line, fields=fields, body=b"")
        if names.get("transfer-encoding") == "chunked":
            chunks: list[bytes] = []
            while data := await self.chunk():
                chunks.append(data)
            return RawAnswer(status_line=status_line, fields=fields, body=b"".join(chunks), chunks=tuple(chunks))
        if "content-length" in names:
            body = await self.reader.readexactly(int(names["content-length"]))
            return RawAnswer(status_line=status_line, fields=fields, body=body)
        return RawAnswer(status_line=status_line, fields=fields, body=await self.reader.read(), closed=True)


async def ask(
    url: str,
    method: str,
    target: str,
    *,
    fields: Mapping[str, str | None] | None = None,
    body: bytes | None = None,
    version: str = "1.1",
) -> RawAnswer:
    """Send one request over a connection of its own and return the answer."""
    async with await RawConnection.open(url) as connection:
        connection.send(method, target, fields=fields, body=body, version=version)
        return await connection.answer(method)
