"""Flights that the processes with one Redis share: a lease for each, and a channel on which its end is told.

A lease is a key with a random token, which expires soon and is renewed as long as its flight lasts: that of a process
that dies is free again within seconds. Its holder knows by its own clock for how long nobody else can have taken it,
and touches it for no longer. Each command has one key, so that the keys may be on several servers.

The end is told by PUBLISH. Whoever waits has subscribed before it looks at the lease, so that no end falls in between;
a message that is lost all the same costs it the time until the next look. A purge changes one token, which a lease
notes when it begins: what began under another one is not waited for, and what it stores is withdrawn.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ollama_cache_proxy.core.store_ports import Ended, Ending, Held, Lease
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.redis.commands import Commands, is_refusal
from ollama_cache_proxy.stores.redis.company import Company
from ollama_cache_proxy.stores.redis.guard import Guard
from ollama_cache_proxy.stores.redis.key_layout import PURGED, flight_name
from ollama_cache_proxy.stores.redis.lane import Wire, connect
from ollama_cache_proxy.stores.redis.redis_client import FAILURES, Client

_LASTS: Final = 2
"""Seconds for which a lease is held that is not renewed."""
_RENEW_EVERY: Final = 0.7
_SURE_FOR: Final = 1.5
"""Seconds after taking or renewing a lease for which its holder touches it: it is its own for half a second more."""
_LOOK_EVERY: Final = 1.0
"""Seconds without a message after which whoever waits looks at the lease."""
_TOKEN_BYTES: Final = 8
_OWN_PURGES: Final = 1000
"""Purges of its own that a process remembers."""


class RedisFlights:
    """See store_ports.SharedFlights."""

    def __init__(self, client: Client, guard: Guard, commands: Commands, *, tasks: Tasks) -> None:
        self.lane = client.lane
        self.guard = guard
        self.tasks = tasks
        self.company = Company(client, guard, commands)
        self._commands = commands
        self._channels = _Channels(client)
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

    async def begin(self, name: str) -> Lease | Held | None:
        """See store_ports.SharedFlights. A lease that nobody holds takes one round trip; a process alone needs none."""
        if self.company.alone or self._commands.refused("PUBLISH") is not None:
            return None
        own, token, purged = flight_name(name), secrets.token_hex(_TOKEN_BYTES).encode(), self._purged
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
            return await self._follow(own, token)
        lease = _Lease(self, own, token, purged=self._purged, until=asked + _SURE_FOR)
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

    async def _follow(self, own: str, token: bytes) -> Lease | Held | None:
        """Return the lease as another process holds it; None where it cannot be waited for."""
        channel = await self._subscribed(own)
        if channel is None:
            return None
        asked = asyncio.get_running_loop().time()
        holder = await self.holder(own)
        if holder is not None and holder.startswith(token):  # the reply to SET was lost, and it was sent again
            channel.close()
            return _Lease(self, own, token, purged=self._purged, until=asked)
        if holder is not None and holder != _value(holder.partition(b" ")[0], self._purged):
            channel.close()
            return None
        return _Held(self, own, holder, channel)

    async def _subscribed(self, own: str) -> _Channel | None:
        """Subscribe to the end of a flight; return None where that failed."""
        try:
            async with asyncio.timeout(self.within):
                return await self._channels.subscribe(own)
        except ResponseError as error:
            self.refused(error)
        except FAILURES:
            pass  # the store's own health reports it
        return None

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

    def __init__(self, flights: RedisFlights, own: str, token: bytes, *, purged: bytes, until: float) -> None:
        self._flights = flights
        self._own = own
        self._token = token
        self._purged = purged
        self._until = until
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._timer = self._loop.call_later(_RENEW_EVERY, self.renew)

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

    def end(self, ended: Ended) -> None:
        """See store_ports.Lease."""
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self._flights.tasks.spawn(self._end(ended), "end a lease")

    async def _end(self, ended: Ended) -> None:
        """Give the lease up, and then tell its end: whoever hears it may take the lease."""
        lane, within = self._flights.lane, self._flights.within
        with suppress(*FAILURES):  # it expires
            if self._loop.time() < self._until:
                await lane.ask("DEL", self._own, within=within)
        try:
            await lane.ask("PUBLISH", self._own, _message(self._token, ended), within=within)
        except ResponseError as error:
            self._flights.refused(error)
        except FAILURES:
            pass  # those who wait look at the lease


class _Held:
    """See store_ports.Held. `holder` is the value of the lease; None where it is free by now."""

    def __init__(self, flights: RedisFlights, own: str, holder: bytes | None, channel: _Channel) -> None:
        self._flights = flights
        self._own = own
        self._holder = holder
        self._channel = channel

    async def ended(self) -> Ended | None:
        """See store_ports.Held."""
        try:
            while self._holder is not None:
                try:
                    async with asyncio.timeout(_LOOK_EVERY):
                        message = await self._channel.messages.get()
                except TimeoutError:
                    if await self._flights.holder(self._own) != self._holder:
                        return None
                    continue
                if message is None:
                    return None
                ended = _read(message, self._holder.partition(b" ")[0])
                if ended is not None:
                    return ended
            return None
        finally:
            self._channel.close()


class _Channel:
    """The messages of one channel, as they come; None when no more will come."""

    def __init__(self, channels: _Channels, name: bytes) -> None:
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.name = name
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

    async def subscribe(self, name: str) -> _Channel:
        """Return the messages of a channel, from now on. Raises what a command may raise."""
        channel = _Channel(self, name.encode())
        async with self._opening:
            wire = self._wire
            if wire is None or not wire.is_open:
                wire = self._wire = _Messages(await self._connected(), self._heard, self._lost)
            self._open.setdefault(channel.name, set()).add(channel)
        try:
            await wire.ask("SUBSCRIBE", channel.name)
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
        """Send a channel no more messages; unsubscribe where it was the last one of its name."""
        others = self._open.get(channel.name, set())
        others.discard(channel)
        if not others and self._open.pop(channel.name, None) is not None and self._wire is not None:
            with suppress(*FAILURES):
                self._wire.write("UNSUBSCRIBE", channel.name)

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
