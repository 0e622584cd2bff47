"""The gate step by step; and no cut of the bytes and no order of events mixes up two requests."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_cache_proxy.downstream import gate as module
from ollama_cache_proxy.downstream.gate import MAX_RAW_BYTES, Gate, Hold, Lookup, Pass, Phase, Queue, Responses, Wait

HEAD = b"POST /known HTTP/1.1\r\nContent-Length: 5\r\n\r\n"
KNOWN = HEAD + b"hello"
STORED = b"POST /known HTTP/1.1\r\nContent-Length: 5\r\n\r\nstore"
"""A known request whose response has to be looked up in the store."""
OTHER = b"GET /other HTTP/1.1\r\n\r\n"
NEW = b"POST /new HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
PLAIN = b"POST /plain HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
"""A request that is not known, of which it is certain where it ends."""
CHUNKED = b"POST /new HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
FOUND = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"


class Pending:
    """A lookup that has not ended."""

    def __await__(self) -> Any:
        raise AssertionError


PENDING = Pending()


class Known:
    """A fast path that knows two requests."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def answer(self, raw: bytes) -> Any:
        self.asked.append(raw)
        return {KNOWN: RESPONSE, STORED: PENDING}.get(raw)

    def first(self, data: bytes) -> tuple[int, bool]:
        if data.startswith(PLAIN[:-5]):
            return len(PLAIN), False
        return (len(KNOWN), True) if data.startswith(HEAD) else (0, False)

    def knows_head(self, data: bytes) -> bool:
        return data == HEAD


# Step by step: each event is a call of the gate, with the result that is expected.

Event = Callable[[Gate], Any]


def came(data: bytes, *, ready: bool = True) -> Event:
    return lambda gate: gate.feed(data, ready=ready)


def found(response: bytes | None, *, ready: bool = True) -> Event:
    return lambda gate: gate.lookup_done(response, ready=ready)


def parsed(begun: int, length: int | None = None, *, ended: bool = True, chunked: bool = False) -> Event:
    return lambda gate: gate.parsed(begun, length, ended=ended, chunked=chunked)


def chunks(data: bytes, begun: int = 1, *, ended: bool = True) -> list[tuple[Event, Any]]:
    """Return the steps of a request with a chunked body, or a part of one."""
    return [(came(data), Pass(data=data)), (parsed(begun, ended=ended, chunked=begun > 0), None)]


def raw(number: int) -> Event:
    return lambda gate: gate.raw(number)


RELEASED, BEHIND = Gate.release, Gate.behind
QUEUED, IDLE, SERVING, PHASE, HOLDS = map(attrgetter, ("queued", "is_idle", "serving", "phase", "_parts"))
GOES_ON = attrgetter("may_go_on")


def RESPONDED(gate: Gate) -> None:  # noqa: N802 - an event like the others
    assert gate.responded() == gate.may_go_on


def WENT_ON(gate: Gate) -> Any:  # noqa: N802 - an event like the others
    return gate.go_on(ready=True)


def dropped(number: int) -> Event:
    return lambda gate: gate.drop_raw(number)


def passes(data: bytes, begun: int = 1, length: int | None = 0, *, ended: bool = True) -> list[tuple[Event, Any]]:
    """Return the steps of one request, or a part of one, that is passed to the parser."""
    return [(came(data), Pass(data=data)), (parsed(begun, length, ended=ended), None)]


ANSWERED = (came(KNOWN), RESPONSE)
LOOKED_UP = (came(STORED), Lookup(pending=PENDING))
SERVED = [*passes(NEW, length=5), (RESPONDED, None)]
HELD = (came(HEAD), Hold())

SCRIPTS: dict[str, list[tuple[Event, Any]]] = {
    # Known requests.
    "a known request, again and again": [ANSWERED, ANSWERED, ANSWERED, (PHASE, Phase.BETWEEN)],
    "a head alone is held back, its body completes it": [HELD, (PHASE, Phase.HELD), (came(b"hello"), RESPONSE), ANSWERED],
    "what is held is not held again": [HELD, (came(b"hel"), Pass(data=HEAD + b"hel")), (parsed(1, 5, ended=False), None), (came(b"lo"), Pass(data=b"lo"))],
    "a held head with another body": [HELD, (came(b"other"), Pass(data=HEAD + b"other")), (parsed(1, 5), None), (raw(1), HEAD + b"other")],
    "a held head with a body that the store is asked for": [HELD, (came(b"store"), Lookup(pending=PENDING)), (found(FOUND), (FOUND, b"")), ANSWERED],
    "a held head with a body and more": [HELD, (came(b"hello" + OTHER), Responses(data=RESPONSE, rest=OTHER)), (PHASE, Phase.BETWEEN), *passes(OTHER)],
    "several known requests": [(came(KNOWN * 3), Responses(data=RESPONSE * 3, rest=b"")), ANSWERED],
    "known requests and a part of one": [(came(KNOWN * 2 + HEAD), Responses(data=RESPONSE * 2, rest=HEAD)), HELD, (came(b"hello"), RESPONSE)],
    "known requests, and one that the store is asked for": [
        (came(KNOWN + STORED + KNOWN), Lookup(pending=PENDING, before=RESPONSE)),
        (found(FOUND), (FOUND, KNOWN)),
        ANSWERED,
    ],
    "several requests that are not known, one after the other": [
        (came(PLAIN * 2 + KNOWN), Pass(data=PLAIN)), (parsed(1, 5), None), (raw(1), PLAIN), (QUEUED, len(PLAIN + KNOWN)),
        (came(OTHER), Wait()), (GOES_ON, False), (RESPONDED, None), (GOES_ON, True), (IDLE, False),
        (WENT_ON, Pass(data=PLAIN)), (parsed(1, 5), None), (raw(2), PLAIN), (RESPONDED, None), (GOES_ON, True),
        (WENT_ON, Responses(data=RESPONSE, rest=OTHER)), (GOES_ON, False), *passes(OTHER),
    ],
    "very much behind a request": [
        (came(PLAIN + OTHER), Pass(data=PLAIN)), (parsed(1, 5), None), (came(b"x" * MAX_RAW_BYTES), Queue()), (came(b""), Pass(data=b"")),
    ],
    "several requests, and the parser says something else of the first": [
        (came(PLAIN + KNOWN), Pass(data=PLAIN)), (parsed(1, 5, ended=False), None), (BEHIND, KNOWN), (BEHIND, b""), (QUEUED, 0),
        (parsed(1, 5), None), (PHASE, Phase.PARSED),
    ],
    "a request that is not known, with a part of another": [
        (came(PLAIN + HEAD), Pass(data=PLAIN)), (parsed(1, 5), None), (BEHIND, b""), (RESPONDED, None),
        (WENT_ON, Hold()), (came(b"hello"), RESPONSE), ANSWERED,
    ],
    "a request that is not known, and a part of it": passes(PLAIN[:-1], length=5, ended=False),
    "several requests, and the client reads no more": [(came(PLAIN * 2, ready=False), Pass(data=PLAIN * 2)), (parsed(2, 5), None)],
    "a known head and a part of its body": [(came(KNOWN[:-1]), Hold()), (came(b"o"), RESPONSE), ANSWERED],
    "a known head, and its body in many parts": [
        (came(KNOWN[:-2]), Hold()),
        (came(b"l"), Pass(data=KNOWN[:-1])),
        (parsed(1, 5, ended=False), None),
        *passes(b"o", 0),
    ],
    "known requests, and the client reads no more": [(came(KNOWN * 2, ready=False), Pass(data=KNOWN * 2)), (parsed(2, 5), None)],
    "a held head whose body does not come in time": [HELD, (RELEASED, Pass(data=HEAD)), (parsed(1, 5, ended=False), None), (came(b"hello"), Pass(data=b"hello")), (parsed(0), None), (raw(1), KNOWN), (RESPONDED, None), ANSWERED],
    "a held head, and meanwhile the client reads no more": [HELD, (came(b"hello", ready=False), Pass(data=KNOWN))],
    "a held head, and the parser may go on": [HELD, (came(b""), Pass(data=HEAD))],
    "a head that nobody knows is not held back": passes(NEW[:-5], length=5, ended=False),
    # How a request arrives.
    "a new request in one segment": [*SERVED, (raw(1), NEW), ANSWERED],
    "a new request in two segments": [*passes(NEW[:-5], length=5, ended=False), (raw(1), None), *passes(b"hello", 0), (raw(1), NEW), (RESPONDED, None), ANSWERED],
    "a new request byte by byte": [
        *[step for byte in NEW[:-6] for step in passes(bytes([byte]), 0, None)], *passes(NEW[-6:-5], length=5, ended=False),
        *[step for byte in NEW[-5:-1] for step in passes(bytes([byte]), 0, ended=False)], *passes(NEW[-1:], 0), (raw(1), NEW), (RESPONDED, None), ANSWERED,
    ],
    "a known request in two segments that are not head and body": [*passes(KNOWN[:9], 0, None), (came(KNOWN[9:]), Pass(data=KNOWN[9:])), (parsed(1, 5), None), (raw(1), KNOWN), (RESPONDED, None), ANSWERED],
    "the second of two requests in turn has the second's bytes": [*SERVED, *passes(OTHER), (SERVING, 2), (raw(1), None), (raw(2), OTHER)],
    "nothing came, but the parser may go on": [*passes(b"", 0, None), ANSWERED],
    "in a body nothing is known": [*passes(b"POST / HTTP/1.1\r\nContent-Length: 60\r\n\r\n", length=60, ended=False), (came(KNOWN), Pass(data=KNOWN))],
    "behind an empty line nothing is known": [*SERVED, *passes(b"\r\n", 0), (came(KNOWN), Pass(data=KNOWN))],
    "an empty line before a request": [*passes(b"\r\n" + NEW, length=5), (raw(1), b"\r\n" + NEW), (RESPONDED, None), ANSWERED],
    "two empty lines before a request, and its end is not known": [*passes(b"\r\n\r\n" + NEW, length=5), (raw(1), None), (RESPONDED, None), (came(KNOWN), Pass(data=KNOWN))],
    # Once two requests could be taken for one, the fast path is not used any more.
    "two requests in one segment": [*passes(OTHER + OTHER, 2), (HOLDS, None), (RESPONDED, None), (RESPONDED, None), (IDLE, True), (raw(1), None), (raw(2), None), (came(KNOWN), Pass(data=KNOWN))],
    "a request and the beginning of another": [*passes(OTHER + b"GET", 1), (raw(1), None), (RESPONDED, None), (came(KNOWN), Pass(data=KNOWN)), (parsed(0), None), (PHASE, Phase.PARSED)],
    "a second request in the bytes of a first": [*passes(OTHER + b"GET", 1), (RESPONDED, None), *passes(b" / HTTP/1.1\r\n\r\n"), (HOLDS, None), (RESPONDED, None), (raw(2), None), (came(KNOWN), Pass(data=KNOWN))],
    "a body in chunks": [*chunks(CHUNKED), (HOLDS, None), (raw(1), None), (RESPONDED, None), ANSWERED],
    "chunks in segments": [*chunks(CHUNKED[:-5] + b"5\r\n", ended=False), *chunks(b"hello\r\n0", 0, ended=False), *chunks(b"\r\n\r", 0, ended=False), (PHASE, Phase.PARSED), *chunks(b"\n", 0), (PHASE, Phase.BETWEEN), (RESPONDED, None), ANSWERED],
    "chunks that look like their end": [*chunks(CHUNKED[:-5] + b"5\r\n0\r\n\r\n", ended=False), (PHASE, Phase.PARSED)],
    "chunks and an empty line": [*chunks(CHUNKED + b"\r\n"), (RESPONDED, None), (came(KNOWN), Pass(data=KNOWN))],
    "chunks with an extension at their end": [*chunks(CHUNKED[:-5] + b"0;a\r\n\r\n"), (RESPONDED, None), (came(KNOWN), Pass(data=KNOWN))],
    "chunks and another request": [*chunks(CHUNKED + OTHER, 2), (PHASE, Phase.PARSED), (RESPONDED, None), (RESPONDED, None), (came(KNOWN), Pass(data=KNOWN))],
    "chunks and the beginning of another, whose end looks like theirs": [*chunks(CHUNKED + OTHER[:-4]), (PHASE, Phase.PARSED), *passes(b"\r\nX: 0\r\n\r\n", 1), (PHASE, Phase.PARSED)],
    "other chunks behind a pipelined request": [*passes(OTHER + OTHER, 2), *chunks(CHUNKED), (PHASE, Phase.PARSED)],
    # Which bytes a head can be read from once more.
    "a head in segments": [(came(OTHER[:5]), Pass(data=OTHER[:5])), (parsed(0, ended=False), None), (came(OTHER[5:]), Pass(data=OTHER[5:])), (parsed(1, 0), None)],
    "the second request of a segment": [*passes(OTHER + NEW[:9], 1), (came(NEW[9:]), Pass(data=NEW[9:]))],
    "a request behind chunks": [*chunks(CHUNKED), (came(OTHER), Pass(data=OTHER))],
    "no HTTP": [*passes(b"\x16\x03\r\n\r\n", length=None), (IDLE, False), (came(KNOWN), Pass(data=KNOWN))],
    "a body that the parser has not read to its end": [*passes(NEW, length=5, ended=False), (RESPONDED, None), (came(KNOWN), Pass(data=KNOWN)), (PHASE, Phase.PARSED)],
    "a body that the parser reads to its end later": [*passes(NEW, length=5, ended=False), *passes(b"", 0), (RESPONDED, None), ANSWERED],
    # The fast path is used only if every request has had its response.
    "a known request while another one is answered": [*passes(OTHER), (IDLE, False), (came(KNOWN), Pass(data=KNOWN)), (parsed(1, 5), None), (raw(1), None), (raw(2), KNOWN), (RESPONDED, None), (IDLE, False), (came(KNOWN), Pass(data=KNOWN)), (parsed(1, 5), None), (RESPONDED, None), (RESPONDED, None), ANSWERED],
    "a head while another request is answered": [*passes(OTHER), (came(HEAD), Pass(data=HEAD))],
    "a response that ended with its connection": [*passes(OTHER), (came(KNOWN), Pass(data=KNOWN))],
    "the client reads no more, or the connection ends": [*SERVED, (came(KNOWN, ready=False), Pass(data=KNOWN)), (parsed(1, 5), None), (RESPONDED, None), ANSWERED],
    "draining begins with a head that is not held": [*SERVED, (came(HEAD, ready=False), Pass(data=HEAD))],
    # During a lookup.
    "the store has it": [LOOKED_UP, (PHASE, Phase.LOOKUP), (found(FOUND), (FOUND, b"")), ANSWERED],
    "the store has it no more": [LOOKED_UP, (found(None), (Pass(data=STORED), b"")), (parsed(1, 5), None), (raw(1), STORED), (IDLE, False), (RESPONDED, None), ANSWERED],
    "what comes behind it waits": [LOOKED_UP, (came(OTHER), Queue()), (came(KNOWN), Queue()), (QUEUED, len(OTHER + KNOWN)), (found(FOUND), (FOUND, OTHER + KNOWN)), (QUEUED, 0), ANSWERED],
    "what comes behind one that the store has not waits": [LOOKED_UP, (came(KNOWN), Queue()), (found(None), (Pass(data=STORED), KNOWN)), (parsed(1, 5), None), (came(KNOWN), Pass(data=KNOWN))],
    "draining begins while the store is asked": [LOOKED_UP, (found(FOUND, ready=False), (Pass(data=STORED), b"")), (parsed(1, 5), None)],
    "nothing is looked up behind a lookup": [LOOKED_UP, (came(STORED), Queue()), (found(FOUND), (FOUND, STORED)), LOOKED_UP],
    "the last request's bytes outlive a hold and a lookup": [*SERVED, HELD, (raw(1), NEW), (came(b"store"), Lookup(pending=PENDING)), (raw(1), NEW), (found(FOUND), (FOUND, b"")), (raw(1), NEW)],
    # Which bytes are kept.
    "nothing is kept of one that was let go": [*SERVED, (dropped(1), None), (raw(1), None), ANSWERED],
    "another one's bytes stay": [*SERVED, *passes(OTHER), (dropped(1), None), (raw(2), OTHER), (dropped(3), None), (raw(2), OTHER)],
    "a request of the most bytes": [*passes(b"x" * (MAX_RAW_BYTES - len(OTHER)) + OTHER), (raw(1), b"x" * (MAX_RAW_BYTES - len(OTHER)) + OTHER)],
    "a larger one is not kept, but its end is known": [*passes(NEW[:-5] + b"y" * MAX_RAW_BYTES, length=MAX_RAW_BYTES), (raw(1), None), (RESPONDED, None), ANSWERED],
    "a larger one in segments": [*passes(NEW[:-5], length=MAX_RAW_BYTES + 1, ended=False), *passes(b"y" * MAX_RAW_BYTES, 0, ended=False), *passes(b"y", 0), (raw(1), None), (RESPONDED, None), ANSWERED],
    "a head of more bytes, and its end is not known": [*passes(b"x" * (MAX_RAW_BYTES + 1), 0, None), *passes(OTHER), (raw(1), None), (RESPONDED, None), (came(KNOWN), Pass(data=KNOWN))],
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_step_by_step(name: str) -> None:
    gate = Gate(Known())
    for number, (event, expected) in enumerate(SCRIPTS[name]):
        assert event(gate) == expected, f"step {number}"


def test_the_fast_path_is_asked_once_and_for_whole_segments() -> None:
    known = Known()
    gate = Gate(known)
    for data in (HEAD, b"hello", KNOWN, NEW):
        gate.feed(data, ready=True)
    assert known.asked == [KNOWN, KNOWN, NEW]
    gate.feed(KNOWN, ready=True)
    assert known.asked == [KNOWN, KNOWN, NEW]


# Random cuts and orders of events.


@dataclass
class Simulated:
    """A connection: a parser of requests with a length, a server that responds in turn, and a slow store."""

    gate: Gate = field(default_factory=lambda: Gate(Known()))
    buffer: bytes = b""
    body: int = 0
    chunking: bool = False
    unanswered: list[bytes] = field(default_factory=list)
    responses: list[bytes] = field(default_factory=list)
    looking: bool = False

    def feed(self, data: bytes) -> None:
        self.act(self.gate.feed(data, ready=True))

    def act(self, step: Any) -> None:
        match step:
            case Pass(data=data):
                self.parse(data)
            case bytes(data):
                assert not self.unanswered
                self.responses.append(data)
            case Lookup(before=before):
                assert not self.looking
                assert not before or not self.unanswered
                self.several(before)
                self.looking = True
            case Hold():
                assert not self.unanswered
            case Queue():
                assert self.looking
            case Wait():
                assert self.unanswered
            case Responses(data=data, rest=rest):
                assert not self.unanswered
                self.several(data)
                if rest:
                    self.feed(rest)

    def several(self, data: bytes) -> None:
        """Take responses that were written at once; each is that of a known request."""
        count = len(data) // len(RESPONSE)
        assert data == RESPONSE * count
        self.responses += [RESPONSE] * count

    def parse(self, data: bytes) -> None:
        begun, lengths, chunked = 0, [], False
        self.buffer += data
        while True:
            if self.chunking and not self.chunk():
                break
            if self.body:
                taken, self.buffer = self.buffer[: self.body], self.buffer[self.body :]
                self.body -= len(taken)
                self.unanswered[-1] += taken
                if self.body:
                    break
            head, end, rest = self.buffer.lstrip(b"\r\n").partition(b"\r\n\r\n")
            if not end:
                break
            self.buffer = rest
            self.chunking = b"chunked" in head
            chunked = chunked or (self.chunking and not begun)
            self.body = int(head.partition(b"Content-Length: ")[2] or 0)
            self.unanswered.append(head + end)
            lengths.append(self.body)
            begun += 1
        length = None if chunked or not begun else lengths[0]
        self.gate.parsed(begun, length, ended=not (self.body or self.chunking), chunked=chunked)
        if behind := self.gate.behind():
            self.parse(behind)

    def chunk(self) -> bool:
        """Read chunks up to the last one; return whether it was there."""
        while self.chunking:
            size, end, rest = self.buffer.partition(b"\r\n")
            if not end or len(rest) < int(size, 16) + 2:
                return False
            at = len(size) + 4 + int(size, 16)
            self.unanswered[-1] += self.buffer[:at]
            self.buffer, self.chunking = self.buffer[at:], int(size, 16) > 0
        return True

    def respond(self) -> None:
        """Answer the first request that the parser has read to its end."""
        whole = self.unanswered[: -1 if self.body or self.chunking else None]
        if whole:
            raw = self.gate.raw(self.gate.serving)
            assert raw is None or raw.lstrip(b"\r\n") == whole[0]
            self.responses.append({KNOWN: RESPONSE, STORED: FOUND}.get(whole[0], whole[0]))
            del self.unanswered[0]
            if self.gate.responded():
                self.act(self.gate.go_on(ready=True))

    def release(self) -> None:
        if self.gate.phase is Phase.HELD:
            self.act(self.gate.release())

    def find(self, *, there: bool) -> None:
        if self.looking:
            self.looking = False
            step, behind = self.gate.lookup_done(FOUND if there else None, ready=True)
            self.act(step)
            if behind:
                self.feed(behind)


INSIDE = b"POST /new HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(KNOWN), KNOWN)
IN_CHUNKS = b"POST /new HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
    b"%x\r\n%b\r\n" % (len(part), part) for part in (b"0\r\n\r\n", KNOWN, b"")
)
REQUESTS = [KNOWN, STORED, OTHER, NEW, PLAIN, INSIDE, b"\r\n" + OTHER, CHUNKED, IN_CHUNKS]


@given(
    st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=8),
    st.lists(st.tuples(st.sampled_from([1, 2, 5, len(HEAD), len(KNOWN), 200]), st.sampled_from(range(8)))),
    st.data(),
)
def test_every_request_has_its_own_response_in_its_turn(
    requests: list[bytes], cuts: list[tuple[int, int]], chance: st.DataObject
) -> None:
    connection, stream = Simulated(), b"".join(requests)
    events: list[Callable[[], None]] = [
        connection.respond, connection.release, lambda: connection.find(there=True), lambda: connection.find(there=False),
    ]  # fmt: skip
    at = 0
    while at < len(stream):
        size, happens = cuts.pop() if cuts else (chance.draw(st.integers(1, 200)), chance.draw(st.integers(0, 7)))
        connection.feed(stream[at : at + size])
        at += size
        for _ in range(happens):
            chance.draw(st.sampled_from(events))()
    for _ in requests:  # a response may let go on what waits for it, and that may be held or looked up
        for event in (connection.release, lambda: connection.find(there=True), connection.respond):
            event()
    connection.release()
    connection.find(there=True)
    plain = [request.lstrip(b"\r\n") for request in requests]
    assert connection.responses == [{KNOWN: RESPONSE, STORED: FOUND}.get(request, request) for request in plain]


def test_the_gate_needs_no_sockets_timers_or_parser() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)])
    }
    assert imported == {"__future__", "collections", "enum", "typing", "ollama_cache_proxy"}
