"""Log lines from facts: text, with colour on a terminal, or JSON. No line contains a prompt or a secret."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from http import HTTPStatus
from typing import Final, Protocol

import orjson

from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.core.facts import (
    KINDS,
    LOADING,
    Audited,
    CommandRefused,
    ContextChanged,
    Event,
    Exchange,
    Fault,
    Health,
    LaneEnd,
    LaneWaited,
    NotStored,
    OwnRefusal,
    Part,
    Repeated,
    StoreCall,
    Stored,
    StoreFault,
    UpstreamChanged,
    UpstreamState,
    Worked,
)
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.policy.audit_causes import MEANINGS
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import Detail, Result

TAG: Final = "[AI Cache]"
_SHORT: Final = 8
"""Characters of a key that are shown."""
_START_IT: Final = "start it with `ollama serve`, or name another with --upstream"
_FOREIGN: Final = "The store has entries of another seal key, or of none; here they are misses (seal_key_file)"
_RED, _GREEN, _YELLOW, _BLUE, _DIM, _PLAIN = ("\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[34m", "\x1b[2m", "\x1b[0m")
_SERVER_ERROR: Final = HTTPStatus.INTERNAL_SERVER_ERROR
_MAX_LETTERS: Final = 80
"""Characters of a model's name that are shown."""


class Stream(Protocol):
    """What lines are written to."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> None: ...


class Style(Enum):
    """The format of lines: plain text, text with colour, or one JSON object per line."""

    PLAIN = "plain"
    COLOUR = "colour"
    JSON = "json"


class Log:
    """Writes one line per fact. `development` adds bypasses, clients that left, and sizes of entries.

    Without `requests`, requests and entries are logged only if something went wrong. With `quiet`, another process logs
    the start.
    """

    def __init__(  # noqa: PLR0913 - each is a setting
        self,
        stream: Stream = sys.stderr,
        *,
        style: Style,
        development: bool,
        requests: bool = True,
        quiet: bool = False,
        clock: Clock,
        close: Callable[[], None] | None = None,
    ) -> None:
        self._stream = stream
        self._close = close
        self._style = style
        self._development = development
        self.requests = requests
        self.takes = KINDS.difference(_UNTOLD, () if requests else _USUAL)
        self.quiet = quiet
        self._unwell: set[Part] = set()
        self._told_of_foreign = False
        self._lines: dict[int, _Lines] = {}
        self._clock = clock

    def __call__(self, event: Event) -> None:
        """Write the line of a fact, if it has one."""
        if _is_untold(event) or (not self.requests and _is_usual(event)):
            return
        if self.quiet and isinstance(event, Health):
            if event.well and event.part not in self._unwell:
                return
            self._unwell.add(event.part)
        if self._style is Style.JSON:
            self._json(event)
        else:
            self._text(event)

    def again(self, exchange: Exchange, seconds: float) -> None:
        """Write the line of an exchange that is like this one, but took so many seconds.

        The same object is given many times, so that what its lines have in common is made once.
        """
        if self._style is not Style.JSON:
            self(_at_once(exchange, seconds))
            return
        if not self.requests and _is_usual(exchange):
            return
        lines = self._lines.get(id(exchange))
        if lines is None:
            lines = self._lines_like(exchange)
        took = orjson.dumps(seconds).decode()
        now = orjson.dumps(round(self._clock.now(), 6)).decode()
        self._write(f'{{"time":{now}{took.join(lines.parts)}')

    def _lines_like(self, exchange: Exchange) -> _Lines:
        """Return what the lines of exchanges like this one have in common, and remember it."""
        members = _members(_at_once(exchange, _SECONDS))
        lines = _Lines(exchange=exchange, parts=_TIMES.split(f',"event":"exchange",{members}'))
        if len(self._lines) >= _MOST_LINES:
            self._lines.clear()
        self._lines[id(exchange)] = lines
        return lines

    def _text(self, event: Event) -> None:
        match event:
            case Exchange():
                self._exchange(event)
            case Stored():
                size = f"{event.size} B" if self._development else ""
                self._line(
                    _BLUE, f"💾 Cached: {_short(event.key)} (TTL: {event.ttl}s)", event.model, event.operation, size
                )
            case NotStored():
                more = (event.model, event.operation)
                self._line(_YELLOW, f"🚫 Not cached: {_short(event.key)} ({event.detail.value})", *more)
            case Audited():
                self._audited(event)
            case StoreFault(kind=Fault.FOREIGN) if not self._told_of_foreign:
                self._told_of_foreign = True
                self._line(_YELLOW, f"⚠️  {_FOREIGN}")
            case ContextChanged():
                lengths = f"from {event.before:,} to {event.now:,} tokens"
                self._line(_YELLOW, f"⚠️  Context length changed {lengths}: older entries are not used", event.model)
            case UpstreamChanged() | LaneWaited():
                self._at_upstream(event)
            case StoreFault():
                pass  # the store's health is logged once
            case Health() | CommandRefused():
                self._health(event)

    def say(self, text: str, *, warning: bool = False) -> None:
        """Write a line about the start, the end or the state of the proxy itself."""
        if not self.quiet or warning:
            self._write(self.note(text, warning=warning))

    def note(self, text: str, *, warning: bool = True) -> str:
        """Return the line that `say` writes, without its end."""
        if self._style is Style.JSON:
            return orjson.dumps({"time": self._clock.now(), "event": "note", "text": text}).decode()
        return self._text_line(_YELLOW if warning else "", text)

    def close(self) -> None:
        """Write what is not yet written, within a bound; later lines may be lost."""
        if self._close is not None:
            self._close()

    def warn(self, text: str) -> None:
        """Write a line about what a person should change."""
        self.say(text, warning=True)

    def _exchange(self, event: Exchange) -> None:
        took = f"{event.seconds * 1000:.1f} ms"
        more = (event.model, event.operation, took)
        cache = event.cache
        if event.error is Source.CLIENT:
            if self._development:
                self._line(_DIM, "👋 LEFT: the client closed first", *more, f"{event.bytes_sent} B")
        elif event.error is not None or event.status >= _SERVER_ERROR:
            why = event.error.value if event.error is not None else cache.result.value
            self._line(_RED, f"⚠️  {event.status}: {why}", *more)
        elif cache.result is Result.HIT:
            how = " (collapsed)" if cache.collapsed else ""
            self._line(_GREEN, f"✅ HIT: {_short(event.key)}{how}", *more)
        elif cache.result is Result.MISS:
            why = cache.detail.value if cache.detail is not None else ""
            unstored = why if cache.stored or cache.detail in (None, Detail.RECORDING) else f"not stored: {why}"
            self._line(_YELLOW, f"❌ MISS: {_short(event.key)}", *more, unstored)
        elif self._development:
            detail = cache.detail.value if cache.detail is not None else ""
            rule = f" ({event.rule})" if event.rule else ""
            self._line(_DIM, f"➡️  BYPASS: {detail}{rule}", *more, f"{event.status}", f"{event.bytes_sent} B")

    def _waited(self, event: LaneWaited) -> None:
        """Write how long a request has waited, or that it was refused."""
        refused = event.end in _REFUSED
        text = f"⚠️  NOT SENT: {event.end.value}" if refused else f"⏳ WAITED: {event.seconds:.1f} s"
        colour, place = _RED if refused else _DIM, f"{event.lane.value} lane, {event.ahead} ahead"
        self._line(colour, text, event.model, event.operation, place, event.upstream)

    def _audited(self, event: Audited) -> None:
        """Write what was wrong, and what that looks like. What the log says of it holds nothing that was served."""
        looks = MEANINGS[event.cause] if event.cause is not None else ""
        entries = "an entry, which is" if event.wrong == 1 else f"{event.wrong} entries, which are"
        text = f"⚠️  WRONG: Ollama says something else than {entries} deleted; it looks like {looks}"
        self._line(_RED, text, event.model, event.operation)

    def _health(self, event: Health | CommandRefused) -> None:
        if isinstance(event, CommandRefused):
            self._line(_YELLOW, f"⚠️  The store refuses {event.command}: {event.effect}")
            return
        what = {Part.STORE: "", Part.STORE_WRITES: " for writing", Part.UPSTREAM: ""}[event.part]
        if event.well:
            self._line(_GREEN, f"✅ Connected to {event.name}{what}")
        elif event.reason == LOADING:
            self._line(_YELLOW, f"⏳ {event.name} loads what was kept; until then requests go to Ollama")
        elif event.refused:
            self._line(_RED, f"⚠️  {event.reason}; until then nothing is cached")
        elif event.part is Part.UPSTREAM:
            self._line(_RED, f"⚠️  {event.reason}; requests that need it get a 502 until it responds ({_START_IT})")
        else:
            self._line(_RED, f"⚠️  Lost {event.name}{what}: {event.reason}")

    def _at_upstream(self, event: UpstreamChanged | LaneWaited) -> None:
        """Write what has become of one of several Ollamas, or of a request that waited for one."""
        if isinstance(event, LaneWaited):
            self._waited(event)
            return
        match event.state:
            case UpstreamState.EJECTED:
                self._line(_RED, f"⚠️  {event.name} takes no requests for now: {event.reason}")
            case UpstreamState.BACK:
                self._line(_GREEN, f"✅ {event.name} takes requests again")
            case UpstreamState.DRAINED:
                self._line(_YELLOW, f"⏳ {event.name} is drained: no new requests go there")
            case UpstreamState.RESUMED:
                self._line(_GREEN, f"✅ {event.name} is no longer drained")

    def _line(self, colour: str, text: str, *more: str) -> None:
        self._write(self._text_line(colour, text, *more))

    def _text_line(self, colour: str, text: str, *more: str) -> str:
        rest = "  ".join(_printable(part) for part in more if part)
        if self._style is Style.COLOUR:
            rest = f"{_DIM}  {rest}{_PLAIN}" if rest else ""
            return f"{TAG} {colour}{text}{_PLAIN}{rest}"
        return f"{TAG} {text}  {rest}" if rest else f"{TAG} {text}"

    def _json(self, event: Event) -> None:
        begin = orjson.dumps({"time": round(self._clock.now(), 6), "event": type(event).__name__.lower()})[:-1]
        self._write(f"{begin.decode()},{_members(event)}")

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return  # a closed log must not stop a response


@record
class _Lines:
    """What the lines of several exchanges have in common: what stands before, between and after their times."""

    exchange: Exchange
    """Holds on to the object, so that no other one has its id."""
    parts: list[str]


_MOST_LINES: Final = 1024
_SECONDS: Final = 1234567.125
"""A time that no exchange takes."""
_TIMES: Final = re.compile("|".join(f'(?<="{name}":){_SECONDS}' for name in ("seconds", "first_byte", "first_token")))
"""The times of an exchange in JSON; inside of a text, quotes are escaped."""


def _at_once(exchange: Exchange, seconds: float) -> Exchange:
    """Return an exchange like this one whose response was sent in one write, after so many seconds."""
    token = None if exchange.first_token is None else seconds
    return replace(exchange, seconds=seconds, first_byte=seconds, first_token=token)


def _members(event: Event) -> str:
    """Return the members of a fact as JSON, with what ends the object."""
    members = orjson.dumps(event)[1:]
    return (_TRACE.sub(b"}", members) if isinstance(event, Exchange) else members).decode()


_UNTOLD: Final = (Worked, StoreCall, OwnRefusal, Repeated)
"""Where requests are logged, each of those that a fact stands for was a line already."""
_REFUSED: Final = (LaneEnd.FULL, LaneEnd.LATE)
_SLOW: Final = 1.0
"""Seconds that a request may wait in a lane without a line."""
_USUAL: Final = (Stored, NotStored)
_TRACE: Final = re.compile(rb',"trace":"[0-9a-f]*"\}$')
"""The last member of an exchange, which is for metrics alone."""


def _is_untold(event: Event) -> bool:
    """Return whether a fact has no line: metrics tell it, or nothing was wrong."""
    if isinstance(event, LaneWaited):
        return event.seconds < _SLOW and event.end not in _REFUSED
    return isinstance(event, _UNTOLD) or (isinstance(event, Audited) and not event.wrong)


def _is_usual(event: Event) -> bool:
    """Return whether a fact is about a request that did not fail."""
    if isinstance(event, Exchange):
        return event.error in (None, Source.CLIENT) and event.status < _SERVER_ERROR
    if isinstance(event, LaneWaited):
        return event.end not in _REFUSED
    return isinstance(event, _USUAL)


def _printable(text: str) -> str:
    """Return text without control characters and at most `_MAX_LETTERS` long: model names come from clients."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:_MAX_LETTERS])


def _short(key: str) -> str:
    return f"{key[:_SHORT]}..."
