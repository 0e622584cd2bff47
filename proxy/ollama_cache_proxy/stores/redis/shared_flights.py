"""Flights that the processes with one Redis share: a lease for each, and a channel on which its end is told.

A lease is a key with a random token, which expires soon and is renewed as long as its flight lasts: that of a process
that dies is free again within seconds. Its holder knows by its own clock for how long nobody else can have taken it,
and touches it for no longer. Each command has one key, so that the keys may be on several servers.

The end is told by PUBLISH. Whoever waits has subscribed before it looks at the lease, so that no end falls in between;
a message that is lost all the same costs it the time until the next look. For a second after its end a lease says that
the response is stored: whoever has looked for it a moment too early looks again.

A purge changes one token, which a lease notes when it begins: what began under another one is not waited for, and what
it stores is withdrawn.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ollama_cache_proxy.core.errors import unreachable
from ollama_cache_proxy.core.store_ports import Ended, Ending, Held, Lease, Streamed
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.messages import ResponseHead
from ollama_cache_proxy.stores.codecs import Codec
from ollama_cache_proxy.stores.redis.commands import Commands, is_refusal
from ollama_cache_proxy.stores.redis.company import Company
from ollama_cache_proxy.stores.redis.flight_parts import Part, Parts
from ollama_cache_proxy.stores.redis.guard import Guard
from ollama_cache_proxy.stores.redis.key_layout import PURGED, ears_of, flight_name
from ollama_cache_proxy.stores.redis.lane import Wire, connect
from ollama_cache_proxy.stores.redis.redis_client import FAILURES, Client

_LASTS: Final = 2
"""Seconds for which a lease is held that is not renewed."""
_RENEW_EVERY: Final = 0.7
_SURE_FOR: Final = 1.5
"""Seconds after taking or renewing a lease for which its holder touches it: it is its own for half a second more."""
_STORED_LASTS: Final = 1
"""Seconds for which a lease says that the response is stored: longer than from a lookup to asking for the lease."""
_STORED: Final = b" stored"
"""What the value of such a lease ends with."""
_LOOK_EVERY: Final = 1.0
"""Seconds without a message after which whoever waits looks at the lease."""
_TOKEN_BYTES: Final = 8
_PROCESS_BYTES: Final = 4
"""How many of these are those of its process."""
_SEND_AGAIN_AFTER: Final = 0.1
_MOST_EARLY: Final = 100
_OWN_PURGES: Final = 1000
"""Purges of its own that a process remembers."""


_ENDED_STORED: Final = Ended(ending=Ending.STORED, asks=0)

_Step: TypeAlias = Ended | Literal["more"] | None


class RedisFlights:
    """See store_ports.SharedFlights."""

    def __init__(self, client: Client, guard: Guard, commands: Commands, *, codec: Codec, tasks: Tasks) -> None:
        self.codec = codec
        self.streams: dict[bytes, _Lease] = {}
        """The leases of streams, by token."""
        self.lane = client.lane
        self.guard = guard
        self.tasks = tasks
        self.company = Company(client, guard, commands)
        self._commands = commands
        self._channels = _Channels(client)
        self._own = secrets.token_hex(_PROCESS_BYTES).encode()
        """What the tokens of this process begin with; part of the name of the channel on which it hears followers."""
        self._ears: _Channel | None = None
        self._early: dict[bytes, list[str]] = {}
        """Who wants to follow a lease, by its token, of which this process does not know yet that it has it."""
        self._purged = b""
        """The token of the last purge, as it was read last."""
        self._own_purges: dict[bytes, bytes] = {}
        """The tokens of this process's own purges, with those that they replaced."""
        client.on_change.append(self._channels.close)

    @property
    def within(self) -> float:
        """For how many seconds a request waits for a reply: as long as it may, since to ask Ollama costs more."""
        return self.guard.wait.longest

    def close(self) -> None:
        """Close the connection that gets messages."""
        self._channels.close()

    async def begin(self, name: str, *, streamed: bool = False) -> Lease | Held | None:
        """See store_ports.SharedFlights. A lease that nobody holds takes one round trip; a process alone needs none."""
        if self.company.alone or self._commands.refused("PUBLISH") is not None:
            return None
        if streamed and not await self._hears():
            return None
        own, purged = flight_name(name), self._purged
        token = self._own + secrets.token_hex(_TOKEN_BYTES - _PROCESS_BYTES).encode()
        asked = asyncio.get_running_loop().time()
        try:
            taken = await self.guard.write_value("flight", lambda: self._take(own, _value(token, purged)))
        except asyncio.CancelledError:
            self.tasks.spawn(self._give_back(own, token), "give a lease back")
            raise
        if taken is None:
            return None
        took, self._purged = taken
        if not took:
            return await self._follow(name, token)
        lease = _Lease(self, name, token, purged=self._purged, until=asked + _SURE_FOR)
        if streamed:
            self.streams[token] = lease
            for reply in self._early.pop(token, ()):
                lease.followed_by(reply)
        if purged != self._purged:
            lease.renew()  # so that it says under which purge it began
        return lease

    async def _take(self, own: str, value: bytes) -> tuple[bool, bytes]:
        """Return whether the lease was free and is taken, and the token of the last purge."""
        took, purged = await asyncio.gather(
            self.lane.ask("SET", own, value, "NX", "EX", _LASTS, within=self.within), self._read_purged()
        )
        return took is not None, purged

    async def _give_back(self, own: str, token: bytes) -> None:
        """Give up a lease that was just asked for, in case it was taken."""
        holder = await self.holder(own)
        if holder is not None and holder.startswith(token):
            with suppress(*FAILURES):  # it expires
                await self.lane.ask("DEL", own, within=self.within)

    async def _read_purged(self) -> bytes:
        found = await self.lane.ask("GET", PURGED, within=self.within)
        return found if isinstance(found, bytes) else b""

    async def purged_elsewhere(self, since: bytes) -> bool:
        """Return whether another process has begun a purge since the token was this one; no, if the store is silent."""
        token = await self.guard.read("flight", self._read_purged, since)
        while token != since and token in self._own_purges:
            token = self._own_purges[token]
        return token != since

    async def _follow(self, name: str, token: bytes) -> Lease | Held | None:
        """Return the lease as another process holds it; None where it cannot be waited for."""
        own = flight_name(name)
        channel = await self.subscribed(own)
        if channel is None:
            return None
        asked = asyncio.get_running_loop().time()
        holder = await self.holder(own)
        if holder is not None and holder.startswith(token):  # the reply to SET was lost, and it was sent again
            channel.close()
            return _Lease(self, name, token, purged=self._purged, until=asked)
        if holder is not None and holder.removesuffix(_STORED) != _value(holder.partition(b" ")[0], self._purged):
            channel.close()
            return None
        return _Held(self, name, holder, channel)

    async def _hears(self) -> bool:
        """Return whether this process hears who wants to follow its streams, which takes a subscription once."""
        if self._ears is None:
            ears = await self.subscribed(ears_of(self._own))
            if ears is None or self._ears is not None:
                return self._ears is not None
            self._ears = ears
            self.tasks.spawn(self._attend(ears), "hear followers", endless=True)
        return True

    async def _attend(self, ears: _Channel) -> None:
        """Tell leases who follows them, until the connection is lost; then hear again, as long as there are any."""
        while (message := await ears.messages.get()) is not None:
            token, _, reply = message.partition(b" ")
            lease, channel = self.streams.get(token), reply.decode("latin-1")
            if lease is not None:
                lease.followed_by(channel)
            else:
                if len(self._early) >= _MOST_EARLY:
                    self._early.clear()
                self._early.setdefault(token, []).append(channel)
        self._ears = None
        while self.streams and not await self._hears():  # noqa: ASYNC110 - the store tells nobody that it is back
            await asyncio.sleep(_LOOK_EVERY)

    async def subscribed(self, own: str, channel: _Channel | None = None) -> _Channel | None:
        """Subscribe to a channel, besides those of `channel` if it is given; return None where that failed."""
        try:
            async with asyncio.timeout(self.within):
                return await self._channels.subscribe(own, channel)
        except ResponseError as error:
            self.refused(error)
        except FAILURES:
            pass  # the store's own health reports it
        return None

    async def publish(self, channel: str, message: bytes) -> bool:
        """Send a message; return whether it need not be sent again: it was, or may not be."""
        try:
            await self.lane.ask("PUBLISH", channel, message, within=self.within)
        except ResponseError as error:
            self.refused(error)
        except FAILURES:
            return False  # those who wait look at the lease
        return True

    def refused(self, error: ResponseError) -> None:
        """Note that a message cannot be sent, or got: then nobody waits for any."""
        if is_refusal(error):
            self._commands.refuse("PUBLISH", error)

    async def holder(self, own: str) -> bytes | None:
        """Return the value of a lease; None where nobody holds it, or the store does not tell."""
        return await self.guard.read("flight", lambda: self._read_holder(own), None)

    async def _read_holder(self, own: str) -> bytes | None:
        found = await self.lane.ask("GET", own, within=self.within)
        return found if isinstance(found, bytes) else None

    async def purge_begins(self) -> None:
        """See store_ports.SharedFlights."""
        token = secrets.token_hex(_TOKEN_BYTES).encode()

        async def replace() -> Any:
            return await self._commands.run(
                ("GETSET", lambda: self.lane.ask("GETSET", PURGED, token, within=self.within)),
                ("SET", lambda: self.lane.ask("SET", PURGED, token, within=self.within)),
            )

        before = await self.guard.write_value("flight", replace)
        if len(self._own_purges) >= _OWN_PURGES:
            self._own_purges.clear()
        self._own_purges[token] = before if isinstance(before, bytes) else b""


class _Lease:
    """See store_ports.Lease. `until` is the loop's time until which nobody else can have taken it."""

    def __init__(self, flights: RedisFlights, name: str, token: bytes, *, purged: bytes, until: float) -> None:
        self._flights = flights
        self._own = flight_name(name)
        self._token = token
        self._purged = purged
        self._until = until
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._timer = self._loop.call_later(_RENEW_EVERY, self.renew)
        self._stream = _Sender(flights, name, token)

    async def purged_elsewhere(self) -> bool:
        """See store_ports.Lease."""
        return await self._flights.purged_elsewhere(self._purged)

    def renew(self) -> None:
        """Hold the lease for longer, from now on; one that may be another's by now is left alone."""
        self._timer.cancel()
        if not self._ended and self._loop.time() < self._until:
            self._timer = self._loop.call_later(_RENEW_EVERY, self.renew)
            self._flights.tasks.spawn(self._renew(), "renew a lease")

    async def _renew(self) -> None:
        asked, flights = self._loop.time(), self._flights
        command = ("SET", self._own, _value(self._token, self._purged), "EX", _LASTS)
        if await flights.guard.write_value("flight", lambda: flights.lane.ask(*command, within=flights.within)):
            self._until = asked + _SURE_FOR

    def show(self, head: ResponseHead, followed: Callable[[], None]) -> None:
        """See store_ports.Lease."""
        self._stream.show(head, followed)

    def add(self, chunk: bytes) -> None:
        """See store_ports.Lease."""
        self._stream.add(chunk)

    def close_to_new(self) -> None:
        """See store_ports.Lease."""
        self._stream.close_to_new()

    def followed_by(self, reply: str) -> None:
        """Take in that another process follows; what it has missed goes to the channel `reply`."""
        if self._ended or not self._stream.take(reply):
            unshared = _message(self._token, Ended(ending=Ending.UNSHARED, asks=0))
            self._flights.tasks.spawn(self._flights.publish(reply, unshared), "refuse a follower")

    def end(self, ended: Ended) -> None:
        """See store_ports.Lease."""
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self._flights.streams.pop(self._token, None)
            self._flights.tasks.spawn(self._end(ended), "end a lease")

    async def _end(self, ended: Ended) -> None:
        """Give the lease up, and then tell its end: whoever hears it may take the lease."""
        await self._stream.finish()
        lane, within = self._flights.lane, self._flights.within
        stored = ("SET", self._own, _value(self._token, self._purged) + _STORED, "EX", _STORED_LASTS)
        command = stored if ended.ending is Ending.STORED else ("DEL", self._own)
        with suppress(*FAILURES):  # it expires
            if self._loop.time() < self._until:
                await lane.ask(*command, within=within)
        await self._flights.publish(self._own, _message(self._token, ended))


class _Sender:
    """Sends the chunks of a stream to those who follow it: nothing as long as nobody does."""

    def __init__(self, flights: RedisFlights, name: str, token: bytes) -> None:
        self._flights = flights
        self._own = flight_name(name)
        self._token = token
        self._parts = Parts(flights.codec, name, token)
        self._head: ResponseHead | None = None
        self._followed: Callable[[], None] | None = None
        self._chunks: list[bytes] = []
        self._dropped = 0
        """How many first chunks are not held any more."""
        self._sent = 0
        """The number of the next chunk for all who follow."""
        self._joining: list[str] = []
        """The channels of those who have missed what was sent to all."""
        self._closed = False
        self._done = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def show(self, head: ResponseHead, followed: Callable[[], None]) -> None:
        """Begin, with this head; `followed` is called when somebody follows."""
        self._head, self._followed = head, followed
        if self._task is not None:
            followed()
            self._wake.set()

    def add(self, chunk: bytes) -> None:
        """Take one more chunk; an empty one is the end."""
        if self._closed and self._task is None:
            return
        self._chunks.append(chunk)
        self._wake.set()

    def close_to_new(self) -> None:
        """Let nobody follow from now on: the beginning is not held any more."""
        self._closed = True
        if self._task is None:
            self._chunks.clear()

    def take(self, reply: str) -> bool:
        """Have somebody follow, and send what was missed to this channel; return whether that can be."""
        if self._closed:
            return False
        self._joining.append(reply)
        self._wake.set()
        if self._task is None:
            self._sent = len(self._chunks)
            self._task = self._flights.tasks.spawn(self._send(), "send a stream")
            if self._followed is not None:
                self._followed()
        return True

    async def finish(self) -> None:
        """Wait until all is sent, for a while."""
        if self._task is not None:
            self._done = True
            self._wake.set()
            await asyncio.wait((self._task,), timeout=self._flights.within)
            self._task.cancel()

    async def _send(self) -> None:
        while True:
            self._wake.clear()
            if self._head is not None:
                while self._joining:
                    await self._publish(self._joining.pop(), 0, self._sent)
                last = self._dropped + len(self._chunks)
                await self._publish(self._own, self._sent, last)
                self._sent = last
                if self._closed and not self._joining:
                    del self._chunks[: self._sent - self._dropped]
                    self._dropped = self._sent
                if self._joining or self._sent < self._dropped + len(self._chunks):
                    continue
            if self._done:
                return
            await self._wake.wait()

    async def _publish(self, channel: str, first: int, last: int) -> None:
        """Send the chunks from `first` to before `last`; try again where that fails. Without them there is no end."""
        chunks = self._chunks[first - self._dropped : last - self._dropped]
        if not chunks or self._head is None:
            return
        part = self._parts.encode(Part(first=first, head=self._head, chunks=chunks))
        message = b"%b part %d %b" % (self._token, first, part)
        while not await self._flights.publish(channel, message):  # noqa: ASYNC110 - likewise
            await asyncio.sleep(_SEND_AGAIN_AFTER)


class _Held:
    """See store_ports.Held. `holder` is the value of the lease; None where it is free by now."""

    def __init__(self, flights: RedisFlights, name: str, holder: bytes | None, channel: _Channel) -> None:
        self._flights = flights
        self._own = flight_name(name)
        self._holder = holder
        self._token = (holder or b"").partition(b" ")[0]
        self._is_stored = (holder or b"").endswith(_STORED)
        self._channel = channel
        self._parts = Parts(flights.codec, name, self._token)
        self._waiting: dict[int, Part] = {}
        """Parts that came before others that precede them, by the number of their first chunk."""
        self._next = 0
        self._ready: deque[bytes] = deque()
        self._reply = ""
        self.head = ResponseHead(status=0, reason="", fields=())

    async def ended(self) -> Ended | None:
        """See store_ports.Held."""
        try:
            if self._is_stored:
                return _ENDED_STORED
            while (step := await self._step()) == "more":
                pass
            return step
        finally:
            self.close()

    async def streamed(self) -> Streamed | Ended | None:
        """See store_ports.Held."""
        step: _Step = None
        try:
            if self._is_stored:
                return _ENDED_STORED
            self._reply = f"{self._own}:{secrets.token_hex(_PROCESS_BYTES)}"
            if self._holder is not None and await self._flights.subscribed(self._reply, self._channel) is not None:
                await self._announce()
                step = await self._step()
            return self if step == "more" else step
        finally:
            if step != "more":
                self.close()

    async def chunks(self) -> AsyncIterator[bytes]:
        """See store_ports.Streamed."""
        while True:
            while self._ready:
                chunk = self._ready.popleft()
                if not chunk:
                    return
                yield chunk
            if await self._step() != "more":
                raise unreachable("the request to Ollama, which another proxy had made, broke off")

    def close(self) -> None:
        """See store_ports.Streamed."""
        self._channel.close()

    async def _announce(self) -> None:
        """Ask the holder for its stream: all that it has had already, and what comes."""
        ears = ears_of(self._token[: 2 * _PROCESS_BYTES])
        await self._flights.publish(ears, b"%b %b" % (self._token, self._reply.encode()))

    async def _step(self) -> _Step:
        """Wait for more of the stream, or for the end; None where that was not told, or a part is missing."""
        while self._holder is not None:
            try:
                async with asyncio.timeout(_LOOK_EVERY):
                    message = await self._channel.messages.get()
            except TimeoutError:
                if self._waiting or await self._flights.holder(self._own) != self._holder:
                    return None
                if self._reply and not self._next:
                    await self._announce()
                continue
            if message is None:
                return None
            if self._take(message):
                return "more"
            ended = _read(message, self._token)
            if ended is not None:
                return ended
        return None

    def _take(self, message: bytes) -> bool:
        """Take in a part, where the message is one; return whether there are more chunks now. Each is taken once."""
        words = message.split(b" ", 3)
        if len(words) < 4 or words[0] != self._token or words[1] != b"part" or not words[2].isdigit():  # noqa: PLR2004 - see _Sender
            return False
        part = self._parts.decode(int(words[2]), words[3])
        if part is None:
            return False
        self._waiting[part.first] = part
        more = False
        while (part := self._next_part()) is not None:
            new = part.chunks[self._next - part.first :]
            if new:
                self.head, more = part.head, True
                self._next += len(new)
                self._ready.extend(new)
        return more

    def _next_part(self) -> Part | None:
        first = next((first for first in self._waiting if first <= self._next), None)
        return None if first is None else self._waiting.pop(first)


class _Channel:
    """The messages of some channels, as they come; None when no more will come."""

    def __init__(self, channels: _Channels) -> None:
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.names: set[bytes] = set()
        self._channels = channels

    def close(self) -> None:
        """Take no more messages."""
        self._channels.leave(self)


class _Channels:
    """Subscriptions, all of them over one connection, which is opened when it is first needed.

    It leads to any node of a cluster: a message goes to all of them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._wire: _Messages | None = None
        self._opening = asyncio.Lock()
        self._open: dict[bytes, set[_Channel]] = {}

    async def subscribe(self, text: str, channel: _Channel | None = None) -> _Channel:
        """Return the messages of a channel, from now on, with those of `channel`. Raises what a command may raise."""
        channel, name = channel or _Channel(self), text.encode()
        async with self._opening:
            wire = self._wire
            if wire is None or not wire.is_open:
                wire = self._wire = _Messages(await self._connected(), self._heard, self._lost)
            self._open.setdefault(name, set()).add(channel)
            channel.names.add(name)
        try:
            await wire.ask("SUBSCRIBE", name)
        except BaseException:
            channel.close()
            raise
        return channel

    async def _connected(self) -> redis.Connection:
        """Return a connection to the first server that can be reached. Raises what the last one did."""
        error: Exception = RedisConnectionError("no server is known")
        for make in self._client.sources().values():
            try:
                connection = make()
                await connect(connection)
            except FAILURES as failure:
                error = failure
            else:
                return connection
        raise error

    def leave(self, channel: _Channel) -> None:
        """Send it no more messages; unsubscribe from channels that nobody else listens to."""
        for name in channel.names:
            others = self._open.get(name, set())
            others.discard(channel)
            if not others and self._open.pop(name, None) is not None and self._wire is not None:
                with suppress(*FAILURES):
                    self._wire.write("UNSUBSCRIBE", name)
        channel.names.clear()

    def close(self) -> None:
        """Close the connection: it may lead to a server that is not the right one any more."""
        if self._wire is not None:
            self._wire.transport.abort()

    def _heard(self, name: bytes, message: bytes) -> None:
        for channel in self._open.get(name, ()):
            channel.messages.put_nowait(message)

    def _lost(self, wire: Wire) -> None:
        if wire is self._wire:
            self._wire = None
            lost, self._open = self._open, {}
            for channels in lost.values():
                for channel in channels:
                    channel.messages.put_nowait(None)


class _Messages(Wire):
    """A connection with subscriptions; `heard` is called with the channel and the text of each message."""

    def __init__(
        self, connection: redis.Connection, heard: Callable[[bytes, bytes], None], lost: Callable[[Wire], None]
    ) -> None:
        super().__init__(connection, lost)
        self._heard = heard

    def received(self, reply: Any) -> None:
        """See Replies. Nobody waits for the reply to UNSUBSCRIBE."""
        kind = reply[0] if isinstance(reply, list) else None
        if kind == b"message":
            self._heard(reply[1], reply[2])
        elif kind != b"unsubscribe":
            super().received(reply)


def _value(token: bytes, purged: bytes) -> bytes:
    """Return the value of a lease: its token, and that of the last purge when it began."""
    return token + b" " + purged


def _message(token: bytes, ended: Ended) -> bytes:
    return b"%b %b %d" % (token, ended.ending.encode(), ended.asks)


def _read(message: bytes, token: bytes) -> Ended | None:
    """Return what a message tells of the lease with this token, None where it is about another, or no such message."""
    words = message.split(b" ")
    with suppress(ValueError):
        of, ending, asks = words
        if of == token:
            return Ended(ending=Ending(ending.decode("latin-1")), asks=int(asks))
    return None
