"""HTTP/1.1 towards clients: the listening socket, its connections, the requests in progress, and the drain.

A connection (client_connection.py) feeds what it receives to its gate (gate.py), then to aiohttp's parser; each parsed
request is one exchange (http_client.py). No line of a request is ever logged, and no text of an internal error is sent
to a client.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias, cast

from aiohttp import web

from ollama_cache_proxy.core.errors import ClientLeft
from ollama_cache_proxy.core.ports import Client, Clock, FastPath
from ollama_cache_proxy.downstream.client_connection import CLOSE_AFTER, KEEP_OPEN, Abortable, ClientConnection
from ollama_cache_proxy.downstream.http_client import HttpClient
from ollama_cache_proxy.downstream.places import Closing, Occupant, Places
from ollama_cache_proxy.downstream.refusals import BAD_REQUEST, refusal
from ollama_cache_proxy.policy.fields import with_host
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.target import split

Handler: TypeAlias = Callable[[Request, Client], Awaitable[None]]

BACKLOG: Final = 1024
"""Connections that may wait in the kernel to be accepted."""
_SHUTDOWN_SECONDS: Final = 0.01
"""Seconds that aiohttp may take to close what is left after a drain; 0 would mean no limit."""


class Listener:
    """One listening socket and its connections. Times are seconds.

    `keep_alive` is how long an idle connection stays open, None for no limit. `counted` is called with the number of
    connected clients whenever it changes, `evicted` for each connection that is closed while idle, or refused.
    """

    def __init__(  # noqa: PLR0913 - each is a setting
        self,
        handler: Handler,
        *,
        fast_path: FastPath,
        clock: Clock,
        head_timeout: float,
        body_timeout: float,
        keep_alive: float | None = None,
        max_connections: int,
        evicted: Callable[[Closing], None],
        failed: Callable[[str], None],
        counted: Callable[[int], None] | None = None,
    ) -> None:
        self.fast_path = fast_path
        self.clock = clock
        self.head_timeout = head_timeout
        self.body_timeout = body_timeout
        self.keep_alive = keep_alive
        self.draining = False
        self.failed = failed
        self._counted = counted
        self._handler = handler
        self._evicted = evicted
        self._places = Places(max_connections, clock=clock, closed=evicted)
        self._in_progress: set[Abortable] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._server = web.Server(self._handle, handler_cancellation=True)
        self._sockets: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return self._places.taken

    @property
    def idle(self) -> int:
        """The number of connected clients without a request in progress."""
        return max(0, self._places.taken - len(self._in_progress))

    @property
    def places(self) -> int:
        """How many clients may be connected."""
        return self._places.places

    def opened(self, connection: Occupant) -> bool:
        """Count a new connection; return False if there are too many."""
        if not self._places.take(connection):
            return False
        self._empty.clear()
        if self._counted is not None:
            self._counted(self._places.taken)
        return True

    def closed(self, connection: Occupant) -> None:
        """Count a closed connection."""
        self._places.free(connection)
        if not self._places.taken:
            self._empty.set()
        if self._counted is not None:
            self._counted(self._places.taken)

    def timed_out(self) -> None:
        """Count a connection that was idle for as long as `keep_alive` allows."""
        self._evicted(Closing.KEEP_ALIVE)

    def follow(
        self,
        handler: Handler,
        *,
        fast_path: FastPath,
        head_timeout: float,
        body_timeout: float,
        keep_alive: float | None,
    ) -> None:
        """Serve by another handler, and with other times, all requests that come from now on."""
        self._handler = handler
        self.fast_path = fast_path
        self.head_timeout = head_timeout
        self.body_timeout = body_timeout
        self.keep_alive = keep_alive
        for connection in self._server.connections:
            cast("ClientConnection", connection).follow()

    def track(self, work: Abortable) -> None:
        """Add a response in progress; a drain waits for it."""
        self._in_progress.add(work)
        self._idle.clear()

    def untrack(self, work: Abortable) -> None:
        """Remove a response that has ended."""
        self._in_progress.discard(work)
        if not self._in_progress:
            self._idle.set()

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on a bound socket, over TLS if `tls` is given."""
        self._sockets = await asyncio.get_running_loop().create_server(
            self._connection,
            sock=sock,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else self.head_timeout,
        )

    async def serve_accepted(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Serve a connection that another process has accepted."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connection,
                sock,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else self.head_timeout,
            )
        except (OSError, TimeoutError):  # the client has left, or does not speak TLS
            sock.close()

    def _connection(self) -> ClientConnection:
        return ClientConnection(self, self._server, asyncio.get_running_loop())

    async def drain(self, seconds: float, grace: float = 0.25) -> None:
        """Accept no new connections, and wait for requests in progress, whose responses say `Connection: close`.

        Requests have `seconds` to finish. Idle keep-alive connections have `grace` seconds, in which a request that was
        already sent is still answered. What is left after that is reset.
        """
        self.draining = True
        if self._sockets is not None:
            self._sockets.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._empty.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._in_progress:
                    await self._idle.wait()
        for work in tuple(self._in_progress):
            work.abort()
        await self._server.shutdown(_SHUTDOWN_SECONDS)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        client = HttpClient(request, self)
        self.track(client)
        try:
            refused, read = refusal(request), split(request.raw_path)
            if refused is not None or read is None:
                client.refuse(refused or BAD_REQUEST)
            else:
                target, authority = read
                lines = request.raw_headers if authority is None else with_host(request.raw_headers, authority)
                await self._handler(Request(method=request.method, target=target, fields=lines), client)
        except ClientLeft:
            client.abort()
        except Exception as error:  # noqa: BLE001 - last resort: reset the connection, log the type of the error
            self.failed(type(error).__name__)
            client.abort()
        finally:
            if not client.ended:
                client.abort()
            client.close()
            client.drop_raw()
            self.untrack(client)
        return KEEP_OPEN if client.keep_alive else CLOSE_AFTER
