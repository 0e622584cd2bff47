"""Lines of the log are written in a thread of their own: nobody waits for who reads them, and what is lost is said."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from ollama_cache_proxy.telemetry import line_writer
from ollama_cache_proxy.telemetry.line_writer import LineWriter


class Pipe:
    """A pipe with a writer; `read` gives all that has come until nothing more does for a while."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        self.lost: list[int] = []
        self.drops = 0
        self.writer = LineWriter(self.into, told=self.told, dropped=self.dropped)

    def told(self, lost: int) -> str:
        self.lost.append(lost)
        return f"{lost} lost\n"

    def dropped(self) -> None:
        self.drops += 1

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += os.read(self.out, 1 << 16)
        return data

    def close(self) -> None:
        for descriptor in (self.out, self.into):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    opened = Pipe()
    yield opened
    drains = threading.Thread(target=drain, args=(os.dup(opened.out),), daemon=True)
    drains.start()
    opened.writer.close()
    opened.close()
    drains.join(10)


def drain(descriptor: int) -> None:
    """Read a pipe to its end, through a file of its own: the number of another one may be used again meanwhile."""
    while os.read(descriptor, 1 << 16):
        pass
    os.close(descriptor)


def test_lines_come_in_order_as_they_were_written(pipe: Pipe) -> None:
    lines = [f"line {number} ü\n" for number in range(5000)]
    taken: list[bytes] = []
    reader = threading.Thread(target=lambda: taken.append(pipe.read(sum(len(line.encode()) for line in lines))))
    reader.start()
    for line in lines:
        pipe.writer.write(line)
    reader.join(10)
    assert b"".join(taken).decode() == "".join(lines)


def test_who_writes_does_not_wait_and_what_does_not_fit_is_counted_and_said(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe takes some itself, while the lines come; all others wait, up to the bound."""
    monkeypatch.setattr(line_writer, "MOST_BYTES", 200_000)
    line = "x" * 999 + "\n"
    for _ in range(1000):
        pipe.writer.write(line)
    dropped = pipe.drops
    assert 700 <= dropped <= 800
    taken = [pipe.read(1)]
    reader = threading.Thread(target=lambda: taken.append(until_end(pipe.out)))
    reader.start()
    deadline = time.monotonic() + 10
    while pipe.writer.waiting and time.monotonic() < deadline:
        time.sleep(0.001)
    for text in ("again\n", "more\n", "end\n"):
        pipe.writer.write(text)
    reader.join(10)
    lines = b"".join(taken).decode().splitlines(keepends=True)
    assert pipe.drops == dropped == sum(pipe.lost)
    assert lines.count(line) == 1000 - dropped
    notes = [f"{lost} lost\n" for lost in pipe.lost]
    assert [text for text in lines if text != line] == [*notes, "again\n", "more\n", "end\n"]


def until_end(descriptor: int) -> bytes:
    data = b""
    while not data.endswith(b"end\n"):
        data += os.read(descriptor, 1 << 16)
    return data


def test_the_end_waits_for_what_is_left_and_no_longer_than_it_may(pipe: Pipe) -> None:
    pipe.writer.write("last\n")
    pipe.writer.close()
    assert pipe.read(5) == b"last\n"
    pipe.writer.write("too late\n")
    other = Pipe()
    other.writer.write("x" * 1_000_000)
    begun = time.monotonic()
    other.writer.close(0.05)
    assert 0.04 < time.monotonic() - begun < 5
    other.close()


def test_a_log_that_nobody_has_open_is_no_error() -> None:
    pipe = Pipe()
    os.close(pipe.out)
    pipe.writer.write("a\n")
    pipe.writer.write("b\n")
    pipe.writer.close()
    assert not pipe.writer._lines
    assert pipe.writer.waiting == 0
    os.close(pipe.into)


def test_lines_of_several_processes_are_not_torn(pipe: Pipe) -> None:
    """Writes of at most PIPE_BUF bytes are not mixed up with others, and each has whole lines."""
    other = LineWriter(pipe.into, told=pipe.told)
    size = 2 * 3000 * 100
    taken: list[bytes] = []
    reader = threading.Thread(target=lambda: taken.append(pipe.read(size)))
    reader.start()
    for _ in range(3000):
        pipe.writer.write("a" * 99 + "\n")
        other.write("b" * 99 + "\n")
    reader.join(20)
    other.close()
    assert sorted(set(b"".join(taken).split(b"\n"))) == [b"", b"a" * 99, b"b" * 99]


def test_a_line_longer_than_one_write_is_whole(pipe: Pipe) -> None:
    line = "y" * 50_000 + "\n"
    pipe.writer.write("short\n")
    pipe.writer.write(line)
    assert pipe.read(50_007) == b"short\n" + line.encode()
