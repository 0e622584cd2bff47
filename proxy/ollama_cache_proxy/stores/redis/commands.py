"""The commands that are sent to the server, and what is done where it refuses one.

An access list, `rename-command`, another version or another product may take any of them away. COMMANDS has a row for
each, and nothing else is sent; docs/operations.md shows it. A refusal is an answer, and no fault of the server.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final, TypeVar

from redis.exceptions import NoPermissionError, ResponseError

from ollama_cache_proxy.core.facts import CommandRefused, Observer
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.policy.record import record

ASK_AGAIN_AFTER: Final = 10.0
"""Seconds for which a refused command is not sent again: permissions may change while the proxy runs."""
_UNKNOWN: Final = ("unknown command", "unknown subcommand", "unsupported command", "command not supported")
"""How servers say that they do not know a command, in lower case; redis-py removes "ERR"."""

T = TypeVar("T")


class Without(Enum):
    """What happens without a command."""

    REPLACED = "another command does it"
    LESS = "a function is off"
    NO_WRITES = "nothing is stored"
    UNUSABLE = "the store is not used"


@record
class Command:
    """A command that is sent, and what it is for. `effect` says what happens where the server refuses it."""

    name: str
    """As in an access list: "MGET", or "CLIENT TRACKING" for a subcommand."""
    purpose: str
    without: Without
    effect: str


COMMANDS: Final = {
    command.name: command
    for command in (
        Command(
            name="AUTH",
            purpose="the user and password of the URL",
            without=Without.UNUSABLE,
            effect="the store is not used where its URL has a password",
        ),
        Command(
            name="SELECT",
            purpose="the database of the URL, if not 0",
            without=Without.UNUSABLE,
            effect="the store is not used where its URL names another database than 0",
        ),
        Command(
            name="CLIENT SETINFO",
            purpose="the library's name in CLIENT LIST",
            without=Without.LESS,
            effect="CLIENT LIST does not show the library",
        ),
        Command(
            name="MGET",
            purpose="lookups",
            without=Without.REPLACED,
            effect="GET does it, once for each entry",
        ),
        Command(
            name="GET",
            purpose="values that are no entries",
            without=Without.REPLACED,
            effect="MGET does it; without both the store is not used",
        ),
        Command(
            name="SET",
            purpose="storing",
            without=Without.NO_WRITES,
            effect="nothing is stored",
        ),
        Command(
            name="GETSET",
            purpose="clearing",
            without=Without.REPLACED,
            effect="GET and SET do it",
        ),
        Command(
            name="UNLINK",
            purpose="purging, and removing what was cleared",
            without=Without.REPLACED,
            effect="DEL does it",
        ),
        Command(
            name="DEL",
            purpose="the same where UNLINK is refused, or left something",
            without=Without.LESS,
            effect="without UNLINK too, nothing is purged, and what was cleared stays in memory until its lifetime"
            " ends",
        ),
        Command(
            name="SCAN",
            purpose="counting, listing, purging by filters, and removing what was cleared",
            without=Without.LESS,
            effect="entries are neither counted nor listed, nor purged by filters; clearing all of them works, and"
            " those stay in memory until their lifetimes end",
        ),
        Command(
            name="GETRANGE",
            purpose="listing, and purging by filters",
            without=Without.LESS,
            effect="entries are not listed, nor purged by filters",
        ),
        Command(
            name="STRLEN",
            purpose="listing, and purging by filters",
            without=Without.LESS,
            effect="entries are not listed, nor purged by filters",
        ),
        Command(
            name="DBSIZE",
            purpose="correcting an old count",
            without=Without.LESS,
            effect="a count of many entries is that of the last scan",
        ),
        Command(
            name="TOUCH",
            purpose="keeping entries of the hot tier from eviction",
            without=Without.LESS,
            effect="entries that are often served from the hot tier may be evicted",
        ),
        Command(
            name="EXPIRE",
            purpose="renewing entries whose lifetime is idle",
            without=Without.LESS,
            effect="entries whose lifetime is idle end after their idle time, hits or not",
        ),
        Command(
            name="HINCRBY",
            purpose="statistics, and whether other proxies use the store",
            without=Without.LESS,
            effect="statistics are each process's own, and end with it; each miss takes a lease, in company or not",
        ),
        Command(
            name="HSETNX",
            purpose="statistics that the store has lost",
            without=Without.LESS,
            effect="statistics that the store has lost begin again",
        ),
        Command(
            name="HGETALL",
            purpose="statistics of other proxies, and whether there are any",
            without=Without.LESS,
            effect="statistics of other proxies, and of the time before the start, are seen late or not at all; each"
            " miss takes a lease",
        ),
        Command(
            name="PUBLISH",
            purpose="one flight for all proxies, with SUBSCRIBE to its channel",
            without=Without.LESS,
            effect="each proxy asks Ollama for itself what others are asking at the same time",
        ),
        Command(
            name="INFO",
            purpose="gauges of memory and evictions",
            without=Without.LESS,
            effect="the metrics of the store's size are missing",
        ),
        Command(
            name="ROLE",
            purpose="behind Sentinels, whether a server is the primary",
            without=Without.LESS,
            effect="a server that a Sentinel names is taken for the primary, whatever it is",
        ),
        Command(
            name="CLUSTER SLOTS",
            purpose="in a cluster, which node has what",
            without=Without.UNUSABLE,
            effect="a cluster is not used",
        ),
        Command(
            name="CLUSTER INFO",
            purpose="in a cluster, which node knows the latest",
            without=Without.UNUSABLE,
            effect="a cluster is not used",
        ),
        Command(
            name="ASKING",
            purpose="in a cluster, what is at another node already while its slot moves",
            without=Without.LESS,
            effect="entries whose slot moves at the moment are not found",
        ),
        Command(
            name="WATCH",
            purpose="in a cluster, replacing a generation only by a later one (with MULTI, EXEC and UNWATCH)",
            without=Without.NO_WRITES,
            effect="in a cluster nothing can be cleared, and nothing is stored in a new one",
        ),
        Command(
            name="PING",
            purpose="whether the connection of the hot tier still answers",
            without=Without.REPLACED,
            effect="a refusal is an answer too",
        ),
        Command(
            name="CLIENT ID",
            purpose="the hot tier",
            without=Without.LESS,
            effect="the hot tier is off: every hit asks the server",
        ),
        Command(
            name="CLIENT TRACKING",
            purpose="the hot tier",
            without=Without.LESS,
            effect="the hot tier is off: every hit asks the server",
        ),
        Command(
            name="SUBSCRIBE",
            purpose="the hot tier",
            without=Without.LESS,
            effect="the hot tier is off: every hit asks the server",
        ),
    )
}
"""By name."""


def is_refusal(error: BaseException) -> bool:
    """Return whether a server refused a command for what it is: it is not permitted, or not known."""
    if isinstance(error, NoPermissionError):
        return True
    return isinstance(error, ResponseError) and str(error).lower().removeprefix("err ").startswith(_UNKNOWN)


class Commands:
    """Which commands the server refuses. What it refuses is not sent for a while; each is reported once."""

    def __init__(self, *, clock: Clock, observe: Observer) -> None:
        self._clock = clock
        self._observe = observe
        self._refused: dict[str, tuple[float, ResponseError]] = {}
        """By name: until when it is not sent, and what the server said."""

    def refused(self, name: str) -> ResponseError | None:
        """Return the server's refusal of a command, None where it may be sent."""
        if name not in self._refused:  # the usual case, on the way of each lookup
            return None
        until, error = self._refused[name]
        return error if self._clock.monotonic() < until else None

    def note(self, name: str, error: ResponseError) -> None:
        """Take in an error that a command got. Raises it again if it is no refusal."""
        if not is_refusal(error):
            raise error
        self.refuse(name, error)

    def refuse(self, name: str, error: ResponseError) -> None:
        """Take an error for a refusal, whatever it says."""
        if name not in self._refused:
            self._observe(CommandRefused(command=name, effect=COMMANDS[name].effect))
        self._refused[name] = (self._clock.monotonic() + ASK_AGAIN_AFTER, error)

    def ask_again(self) -> None:
        """Have refused commands sent again, since somebody waits for what they do, and permissions may have changed."""
        self._refused = {name: (-math.inf, error) for name, (_, error) in self._refused.items()}

    async def run(self, *ways: tuple[str, Callable[[], Awaitable[T]]]) -> T:
        """Return the result of the first way whose command is not refused. Raises what the last one got.

        A way is a command's name, and a function that sends it.
        """
        refusal: ResponseError | None = None
        for name, send in ways:
            refusal = self.refused(name)
            if refusal is not None:
                continue
            try:
                return await send()
            except ResponseError as error:
                self.note(name, error)
                refusal = error
        assert refusal is not None  # noqa: S101 - there is at least one way
        raise refusal

    def checked(self, name: str, reply: Any) -> Any:
        """Return a reply out of a pipeline. Raises it where it is a refusal."""
        if isinstance(reply, ResponseError) and is_refusal(reply):
            self.note(name, reply)
            raise reply
        return reply


async def remove(pool: Any, commands: Commands, *names: str | bytes) -> int:
    """Delete these names; return how many there were. Raises what a command may raise.

    While another connection scans, UNLINK of KeyDB (6.3) may leave names and not count them: those get a DEL.
    """
    gone = int(await commands.run(("UNLINK", lambda: pool.unlink(*names)), ("DEL", lambda: pool.delete(*names))))
    if gone < len(names) and commands.refused("UNLINK") is None:
        gone += int(await permitted(lambda: commands.run(("DEL", lambda: pool.delete(*names))), 0))
    return gone


async def permitted(way: Callable[[], Awaitable[T]], otherwise: T) -> T:
    """Return the result of an operation, `otherwise` where the server refuses one of its commands."""
    try:
        return await way()
    except ResponseError as error:
        if not is_refusal(error):
            raise
        return otherwise
