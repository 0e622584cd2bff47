"""The Protocols of what an exchange needs; those of the store are in store_ports.py.

The rooms for neighbours implement them; core/ knows nothing else of those rooms.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from ollama_cache_proxy.policy.context_lengths import UNKNOWN, Contexts
from ollama_cache_proxy.policy.hosts import Hosts
from ollama_cache_proxy.policy.messages import Request, ResponseHead
from ollama_cache_proxy.policy.record import record


class Clock(Protocol):
    """Time, in seconds: `now` is Unix time; `monotonic` has no epoch and never goes back."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


Reserve: TypeAlias = Callable[[int], bool]
"""Hold so many bytes more in memory; return False where there is no room for them (see policy/buffers.py)."""


Sink: TypeAlias = Callable[[bytes, bytes | None], bool]
"""Take a piece of a body, and the same piece framed as a chunk (RFC 9112, section 7.1) where it arrived as one.

Return whether it can take more now. Raises nothing.
"""


class Client(Protocol):
    """The client's side of one exchange.

    `length` is the Content-Length that the head announces, None for a body of unknown length. Each `write` is sent
    without delay, as one chunk where the body is chunked, and waits while the client reads too slowly. Every method but
    `abort` may raise ClientLeft.
    """

    @property
    def first_byte_at(self) -> float | None:
        """Monotonic time of the first byte of the response, in seconds; None before."""

    @property
    def address(self) -> str:
        """The IP address from which the client has connected; empty where it is not known."""

    @property
    def sent(self) -> int:
        """Bytes of the response's body sent so far."""

    @property
    def raw(self) -> bytes | None:
        """The request as it arrived, body included; None where the next one of these bytes may mean something else."""

    async def body(self, limit: int, reserve: Reserve) -> bytes | None:
        """Read and return the whole body; None when it is over `limit` bytes or `reserve` refuses.

        `stream` yields all of it after that. Raises ProxyError when it does not arrive in time.
        """

    def stream(self) -> AsyncIterator[bytes] | None:
        """Return the body as it arrives, with what `body` has read; None for a request without a body."""

    async def begin(self, head: ResponseHead, length: int | None) -> None: ...
    async def write(self, chunk: bytes) -> None: ...
    def put(self, chunk: bytes, framed: bytes | None) -> bool:
        """Write without waiting; a Sink. After False, `flush` has to be awaited before the next `put`."""

    async def flush(self) -> None: ...
    async def finish(self, last: bytes = b"") -> None:
        """End the body, with the `last` chunk in the same write; a client that is gone has had all others."""

    async def send(self, head: ResponseHead, body: bytes) -> None:
        """Send a whole response in one write; `head` has its Content-Length already."""

    def close_after_response(self) -> None:
        """Close the connection after the response, which says so; to be called before it begins."""

    def abort(self) -> None:
        """Reset the connection, so that nobody takes what was sent for a whole response."""


class UpstreamResponse(Protocol):
    """Ollama's response while it arrives. `length` is its Content-Length in bytes, None where it has none."""

    head: ResponseHead
    length: int | None
    host: str
    """Which of several Ollamas has answered; empty where there is one, or where several have."""

    def whole_body(self) -> bytes | None:
        """Return the body where its length is known and all of it has arrived, else None. Raises ProxyError."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body piece by piece as it arrives. Raises ProxyError when it breaks off."""

    async def relay(self, sink: Sink) -> bool:
        """Hand each piece to `sink` as it arrives, chunks in the same turn of the event loop, until it returns False.

        Return True at the end of the body, False where `sink` did. Raises ProxyError when the body breaks off.
        """


Body: TypeAlias = bytes | AsyncIterator[bytes] | None


class Upstream(Protocol):
    """Ollama. Leaving the context early closes the connection, which makes Ollama stop generating."""

    def ask(
        self, request: Request, body: Body, *, repeatable: bool = False, spent: float = 0.0, patient: bool = False
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Send a request whose fields are already those for the upstream. Raises ProxyError.

        A request is sent once more if a pooled connection closes before any byte of the response; one that is
        `repeatable` also where that is only likely. `spent` is how many seconds of Ollama's deadline have passed; one
        that is `patient` has no deadline.
        """


class Stability(Protocol):
    """Whether no change of any model has been seen since a digest was handed out."""

    def unchanged(self) -> bool: ...


@record
class Identity:
    """What a model's name stands for: its digest and Ollama's version; `stability` tells whether that still holds."""

    model: str
    digest: str
    version: str
    stability: Stability
    width: int | None = None
    """How many numbers its vectors have; None where Ollama does not tell (`embedding_length`, since 0.30)."""
    contexts: Contexts = UNKNOWN
    """With which context length it is loaded."""
    epoch: str | None = None
    """In place of the setting of that name; None where the setting holds."""
    hosts: Hosts | None = None
    """Which of several Ollamas have it; None where there is one."""
    others: tuple[Identity, ...] = ()
    """What the name stands for on other hosts, which could answer too."""


class Templates(Protocol):
    """What the templates of models do."""

    def writes_date(self, identity: Identity) -> bool | None:
        """Return whether a model's template may write the date into prompts; None where that is not known yet."""


@record
class Runner:
    """A model that Ollama has loaded (`GET /api/ps`)."""

    expires: float
    """Unix time in seconds at which it will be unloaded, if nobody uses it."""
    context: int | None
    """Its context length in tokens; None where Ollama does not tell."""


class Runners(Protocol):
    """The loaded models, asked each time. No method raises for a fault of Ollama."""

    async def loaded(self, identity: Identity) -> Runner | None:
        """Return how the model of this digest is loaded, None where it is not, or where that cannot be known."""

    async def template(self, identity: Identity) -> str | None:
        """Return a hash of what a model's prompts are made with (`POST /api/show`), None where it cannot be known."""

    async def unload(self, identity: Identity) -> None:
        """Have Ollama unload the model."""


class Models(Protocol):
    """Model names to digests, kept fresh."""

    async def identify(self, name: str) -> Identity | None:
        """Return what `name` stands for, None where that is not known."""

    async def is_current(self, identity: Identity) -> bool:
        """Probe Ollama, and return whether the name still stands for this digest."""

    def edition(self, moment: float) -> int | None:
        """Return a number that changes whenever some name may stand for another digest; None where a probe is due.

        `moment` is the monotonic time for which this is asked, in seconds.
        """

    def begin_change(self, name: str | None) -> object:
        """Note that a request will be sent that changes this model (None: any); return a token for `end_change`."""

    async def change_known(self, token: object) -> None:
        """Wait until every process of this proxy knows of the change, or has had time enough to."""

    def end_change(self, token: object) -> None: ...

    def confirm(self, identity: Identity, withdraw: Callable[[], None], *, keys: int, plain: bool) -> None:
        """Call `withdraw` if the next probe that starts shows another digest, or a later one another context length.

        It withdraws so many keys. `plain` tells that the request left it to Ollama how the model is loaded, and that
        its response has just ended; what others store shows nothing of that length.
        """


class Topic(StrEnum):
    """A message between the processes of one proxy, with its value."""

    CHANGE_BEGINS = "change-begins"
    """`[token, model]`."""
    CHANGE_ENDS = "change-ends"
    """The token."""
    CONTEXT = "context"
    """`[digest, contexts]`: a model has another context length. They are as `context_lengths.packed` writes them."""
    PURGE = "purge"
    """The filter, as JSON."""
    DISCARD = "forget"
    """Nothing. The hot tier and the write buffer are to be emptied."""
    AUDIT_BEGINS = "audit-begins"
    """Nothing. The sender is about to ask Ollama for the audit."""
    AUDIT_STOPS = "audit-stops"
    """Nothing. Clients' requests come first: who audits is to stop."""
    DRAIN = "drain-upstream"
    """`[name, draining]`: one of several Ollamas gets no more requests, or does again."""
    LANES_BUSY = "lanes-busy"
    """The name of an Ollama: interactive requests are under way there, or wait for it."""
    FLUSH = "flush"
    """Nothing. Counts that are not yet written are to be."""
    TOTALS = "totals"
    """The totals of the statistics, by name."""


class Siblings(Protocol):
    """The other processes of a proxy that has several. No method raises where one of them cannot be reached."""

    def send(self, topic: Topic, value: Any = None) -> None:
        """Send a message to all of them, without waiting."""

    async def send_and_wait(self, topic: Topic, value: Any = None) -> None:
        """Send a message to all of them, and wait until they have acted on it, for 0.25 s at most."""


class FastPath(Protocol):
    """Responses to requests that are known by their bytes, on a connection without another request in progress."""

    def answer(self, raw: bytes) -> bytes | asyncio.Future[bytes | None] | None:
        """Return the whole response to a whole request, or a future of it; None where the request has to be parsed."""

    def knows_head(self, data: bytes) -> bool:
        """Return whether these bytes are the head of a known request, whose body is still to arrive."""

    def first(self, data: bytes) -> tuple[int, bool]:
        """Return how many bytes the first request in `data` has, and whether its head is that of a known one.

        The size is 0 where it is not certain: the head is not whole, or not plain, or a body of unknown length follows,
        or nothing that follows is for this server. It is not said to be known where it is all that there is.
        """
