"""What one exchange needs of the world, as Protocols; those of the store are in store_ports.py.

The rooms for neighbours implement them, and core/ knows only these.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from ollama_cache_proxy.policy.messages import Request, ResponseHead
from ollama_cache_proxy.policy.record import record


class Clock(Protocol):
    """Time, in seconds: `now` is Unix time, `monotonic` only measures."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


Reserve: TypeAlias = Callable[[int], bool]
"""Whether so many bytes more may be held in memory."""


Sink: TypeAlias = Callable[[bytes, bytes | None], bool]
"""What is given a piece of a body, and that piece framed as a chunk (RFC 9112, section 7.1) where it came so.

Says whether more may follow at once; raises nothing.
"""


class Client(Protocol):
    """The client's side of one exchange.

    `length` is the Content-Length that the head announces, None for a body of unknown length. Each `write` goes out at
    once, as one chunk where the body is chunked, and waits while the client reads too slowly. Every method but `abort`
    may raise ClientLeft.
    """

    @property
    def first_byte_at(self) -> float | None:
        """Monotonic time of the first byte of the answer; None before."""

    @property
    def sent(self) -> int:
        """Bytes of the answer's body so far."""

    @property
    def raw(self) -> bytes | None:
        """The whole request as it came, body included; None where the next one like it might mean something else."""

    async def body(self, limit: int, reserve: Reserve) -> bytes | None:
        """Read the whole body; None when it is larger than `limit` bytes or finds no `room`.

        Then `stream` gives all of it. Raises ProxyError when it does not come in time.
        """

    def stream(self) -> AsyncIterator[bytes] | None:
        """Give the body as it arrives, what `body` read included; None for a request without one."""

    async def begin(self, head: ResponseHead, length: int | None) -> None: ...
    async def write(self, chunk: bytes) -> None: ...
    def put(self, chunk: bytes, framed: bytes | None) -> bool:
        """Write without waiting; whether more may follow at once, see Sink. Else `flush` is to be waited for."""

    async def flush(self) -> None: ...
    async def finish(self, last: bytes = b"") -> None:
        """End the body, with its `last` chunk in one piece; who has left by then has had all of the others."""

    async def send(self, head: ResponseHead, body: bytes) -> None:
        """Send a whole answer in one piece; `head` already says its Content-Length."""

    def abort(self) -> None:
        """End with a reset, so that no one can take what was sent for a whole answer."""


class UpstreamResponse(Protocol):
    """Ollama's answer while it arrives. `length` is its Content-Length, None where it is not known ahead."""

    head: ResponseHead
    length: int | None

    def whole_body(self) -> bytes | None:
        """Give the whole body where all of it has come already, and its length was told; raises ProxyError."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the body piece by piece as it arrives; raises ProxyError when it breaks off."""

    async def relay(self, sink: Sink) -> bool:
        """Let `take` have each piece as it arrives, chunks in the very turn of it, as long as it says True.

        Gives True at the end of the body; raises ProxyError when it breaks off.
        """


Body: TypeAlias = bytes | AsyncIterator[bytes] | None


class Upstream(Protocol):
    """Ollama. Leaving the context early closes the connection, which makes Ollama stop generating."""

    def ask(
        self, request: Request, body: Body, *, repeatable: bool = False, spent: float = 0.0
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Send a request whose fields are already those for the upstream; raises ProxyError.

        A request is sent once more if a pooled connection closes before any byte of the answer; one that is
        `repeatable` also where that is only likely. Of the time that Ollama has, so many seconds are `spent`.
        """


class Stability(Protocol):
    """Whether a model has stayed what it was since a digest was handed out."""

    def unchanged(self) -> bool: ...


@record
class Identity:
    """What a model's name stands for now: its digest and Ollama's version, and a look at whether that still holds."""

    model: str
    digest: str
    version: str
    stability: Stability


class Models(Protocol):
    """Model names to digests, kept fresh."""

    async def identify(self, name: str) -> Identity | None:
        """Give what `name` stands for; None when that is not known."""

    async def is_current(self, identity: Identity) -> bool:
        """Look now, and say whether the name still stands for this digest."""

    def edition(self, moment: float) -> int | None:
        """Give a number that changes whenever a name may stand for something else; None where a look is due.

        `moment` is the monotonic time at which somebody wants to know.
        """

    def begin_change(self, name: str | None) -> object:
        """A request that changes this model (None: some model) will go upstream; returns a token for `end_change`."""

    async def change_known(self, token: object) -> None:
        """Return when every process that serves here knows that it has begun, or has had time enough to."""

    def end_change(self, token: object) -> None: ...

    def confirm(self, identity: Identity, withdraw: Callable[[], None]) -> None:
        """Call `withdraw` if the first look begun after this moment shows another digest."""


class Topic(StrEnum):
    """What the processes of one proxy tell each other, and what comes with it.

    A change is `[token, model]` when it begins, and its token when it has ended; a purge is its filter; totals are
    those of the statistics by name.
    """

    CHANGE_BEGINS = "change-begins"
    CHANGE_ENDS = "change-ends"
    PURGE = "purge"
    DISCARD = "forget"
    FLUSH = "flush"
    TOTALS = "totals"


class Siblings(Protocol):
    """The other processes of a proxy that has several. Nothing is raised where one of them does not hear."""

    def send(self, topic: Topic, value: Any = None) -> None:
        """Tell all of them, without waiting."""

    async def send_and_wait(self, topic: Topic, value: Any = None) -> None:
        """Tell all of them, and wait until they have done what it asks for: a quarter of a second at most."""


class FastPath(Protocol):
    """Answers for requests that are known by their bytes alone, on a connection on which nothing else is under way."""

    def answer(self, raw: bytes) -> bytes | asyncio.Future[bytes | None] | None:
        """Give the whole answer to a whole request, now or in a moment; None where it has to be read."""

    def knows_head(self, data: bytes) -> bool:
        """Whether these bytes are the head of a known request, of which the body is still to come."""
