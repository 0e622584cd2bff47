"""The server of the simulator: aiohttp listens and parses; `call` writes all output."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from html import escape
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from ollama_cache_proxy.simulator import gatekeeping, routes, wire
from ollama_cache_proxy.simulator.call import AlreadySent, Call, ClientLeftError, Fault, Received
from ollama_cache_proxy.simulator.goreader import REFUSAL, GoReader, Target, expects_continue, read_target
from ollama_cache_proxy.simulator.single_gpu import SingleGpu
from ollama_cache_proxy.simulator.state import Behaviour, State

_MAX_RECEIVED = 10_000
"""Requests that `received` holds."""

_LINGER = 0.5
"""Seconds that a closing connection still reads what the client sends, as Go does."""

_SHUTDOWN = 0.05
"""Seconds that `stop` waits for connections."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: closing sends a reset."""


class Connection(web.RequestHandler):
    """A client connection, whose requests are read as Go reads them."""

    __slots__ = ()

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, access_log=None, lingering_time=_LINGER)  # type: ignore[arg-type]
        self._parser = GoReader(self, loop)  # type: ignore[assignment] # it has the methods that are called


class Tally:
    """A counter that tests can wait for."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def add(self) -> None:
        """Count one more."""
        self.count += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def reached(self, count: int) -> None:
        """Wait until the count is reached."""
        while self.count < count:
            await self._changed.wait()


class Simulator(State):
    """A simulated Ollama in this process; an async context manager, or use `start` and `stop`."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        super().__init__(behaviour or Behaviour())
        self.fault: Callable[[Received], Fault | None] | None = None
        self.pace: Callable[[Received], float] | None = None
        """Returns how many seconds a whole response takes, instead of the delays of the behaviour."""
        self.url = ""
        self.port = 0
        self._received: deque[Received] = deque(maxlen=_MAX_RECEIVED)
        self._gpu = SingleGpu()
        self._inferences = Tally()
        self._departures = Tally()
        self._stopping = False
        self._server: web.Server | None = None
        self._listener: asyncio.Server | None = None

    @property
    def received(self) -> list[Received]:
        """The last requests in the order of arrival, with their bodies except of blob uploads."""
        return list(self._received)

    @property
    def inferences(self) -> int:
        """The number of inference requests so far."""
        return self._inferences.count

    @property
    def cancelled(self) -> int:
        """The number of requests whose client left before the response was complete."""
        return self._departures.count

    async def arrived(self, count: int) -> None:
        """Wait until that many inference requests in total have arrived."""
        await self._inferences.reached(count)

    async def departed(self, count: int) -> None:
        """Wait until that many clients in total have left before their response was complete."""
        await self._departures.reached(count)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 is any free one. Raise OSError if the address cannot be used."""
        self._stopping = False
        loop = asyncio.get_running_loop()
        self._server = server = web.Server(self._handle, handler_cancellation=True)
        self._listener = await loop.create_server(lambda: Connection(server, loop), host, port)
        self.port = int(self._listener.sockets[0].getsockname()[1])
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def stop(self) -> None:
        """Close the listener and every connection; responses in progress are cut off."""
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            await self._server.shutdown(_SHUTDOWN)
        if self._listener is not None:
            await self._listener.wait_closed()
        self._listener = self._server = None

    async def __aenter__(self) -> Self:
        """Start on a free port of the loopback interface."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        refusal = next((value for name, value in request.raw_headers if name == REFUSAL), None)
        if refusal is not None:
            self._refuse(request, refusal.decode())
            return AlreadySent(keep=False)
        target = read_target(request.raw_path.encode("utf-8", "surrogateescape"))
        call = Call(simulator=self, request=request, path=target.decoded, keep=bool(request.keep_alive))
        try:
            await self._answer(call, target)
            if not call.keep and not request.content.is_eof() and call.transport.can_write_eof():
                # The client may still be sending; it should see the end of the response.
                call.transport.write_eof()
        except asyncio.CancelledError:
            self._note_departure(call)
            raise
        except ClientLeftError:
            self._note_departure(call)
            call.keep = False
        return AlreadySent(keep=call.keep)

    def _note_departure(self, call: Call) -> None:
        if not self._stopping and not call.finished:
            self._departures.add()

    @staticmethod
    def _refuse(request: web.BaseRequest, refusal: str) -> None:
        """Answer what is no request, as `conn.serve` in Go's `net/http/server.go` does."""
        status, _, text = refusal.partition("\n")
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
        if request.transport is not None:
            request.transport.write((head + (text or status)).encode("latin-1"))

    def _answer_before_routes(self, call: Call, target: Target) -> bool:
        """Answer what does not come to Ollama's router; return whether that was so."""
        method, expect = call.request.method, call.header("Expect")
        if expect and not expects_continue(expect):
            call.keep = False
            close = (("Connection", "close"),) if call.http10 else ()
            call.whole(HTTPStatus.EXPECTATION_FAILED, fields=close)
        elif target.path is None:
            is_options = method == "OPTIONS"
            call.keep = call.keep and (is_options or call.http10)
            call.whole(HTTPStatus.OK if is_options else HTTPStatus.BAD_REQUEST)
        elif method != "CONNECT" and target.path != routes.cleaned(target.path):
            self._redirect(call, routes.cleaned(target.path).decode("latin-1"), HTTPStatus.TEMPORARY_REDIRECT)
        return call.finished

    async def _answer(self, call: Call, target: Target) -> None:
        if self._answer_before_routes(call, target):
            return
        method = call.request.method
        where = routes.match(method, call.path)
        route = where.route
        if (
            route is None and call.header("Expect") and call.request.body_exists and not call.http10
        ):  # nobody reads it, and nobody tells the client to send it
            call.keep = False
        elif route is None or not route.late_body:
            call.body = await call.read()
        fault = self._arrive(call, route)
        if fault is not None and await self._fail(call, fault):
            return
        if where.redirect:
            status = HTTPStatus.MOVED_PERMANENTLY if method == "GET" else HTTPStatus.TEMPORARY_REDIRECT
            self._redirect(call, target.before.decode("latin-1") + where.redirect, status)
            return
        if where.allowed:
            call.fields = (("Allow", ", ".join(where.allowed)),)
        if self._refused(call):
            return
        if route is not None:
            call.parameter = where.parameter
            await self._gpu.run(call, route)
        elif where.allowed:
            call.whole(HTTPStatus.METHOD_NOT_ALLOWED, b"405 method not allowed", wire.PLAIN)
        else:
            call.whole(HTTPStatus.NOT_FOUND, b"404 page not found", wire.PLAIN)

    def _arrive(self, call: Call, route: routes.Route | None) -> Fault | None:
        """Record the request; return the fault that a test wants for it."""
        received = Received(
            method=call.request.method,
            target=call.request.raw_path,
            fields=tuple(call.request.raw_headers),
            body=call.body,
        )
        self._received.append(received)
        if route is not None and route.inference:
            self._inferences.add()
            if self.pace is not None:
                call.seconds = self.pace(received)
        return self.fault(received) if self.fault is not None else None

    def _redirect(self, call: Call, path: str, status: HTTPStatus) -> None:
        _, mark, query = call.request.raw_path.partition("?")
        location = f"{path}{mark}{query}"
        has_text = call.request.method in ("GET", "HEAD")
        text = escape(location)
        body = f'<a href="{text}">{status.phrase}</a>.\n\n'.encode() if has_text else b""
        fields = (("Location", location),)
        call.whole(status, body, "text/html; charset=utf-8" if has_text else "", fields=fields)

    def _refused(self, call: Call) -> bool:
        """Apply the rules of Origin and Host; return whether the request was refused."""
        host, origin = call.header("Host"), call.header("Origin")
        is_options = call.request.method == "OPTIONS"
        if gatekeeping.is_cross_origin(origin, host):
            if not gatekeeping.origin_allowed(origin):
                call.whole(HTTPStatus.FORBIDDEN)
                return True
            if is_options:
                call.whole(HTTPStatus.NO_CONTENT, fields=gatekeeping.preflight(origin))
                return True
            call.fields = (*call.fields, *gatekeeping.cors_fields(origin))
        if not self.behaviour.loopback or gatekeeping.host_by_address(host):
            return False
        if not gatekeeping.host_by_name(host):
            call.whole(HTTPStatus.FORBIDDEN)
            return True
        if is_options:
            call.whole(HTTPStatus.NO_CONTENT)
        return is_options

    async def _fail(self, call: Call, fault: Fault) -> bool:
        """Inject a fault; return False if the endpoint itself has to."""
        transport = call.transport
        match fault:
            case Fault.ERROR_LINE | Fault.NO_END:
                call.fault = fault
                return False
            case Fault.HANG:
                await asyncio.Event().wait()
            case Fault.STATUS_500:
                call.error(HTTPStatus.INTERNAL_SERVER_ERROR, "llama runner process has terminated: exit status 2")
                return True
            case Fault.JUNK:
                transport.write(b"\x15\x03\x01\x00\x02\x02\x16 this is no HTTP\r\n\r\n")
            case Fault.TWO_LENGTHS:
                transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                transport.write(b'Content-Length: 2\r\nContent-Length: 7\r\n\r\n{"a":1}')
            case Fault.RESET_MID_BODY:
                await self._reset_mid_body(transport)
            case Fault.REFUSE:
                pass
        call.finished, call.keep = True, False
        return True

    @staticmethod
    async def _reset_mid_body(transport: asyncio.Transport) -> None:
        body = wire.dumps({"model": "tiny", "response": "half of this text never comes", "done": True}).encode()
        head = wire.Head(status=200, fields=(("Content-Type", wire.JSON),), length=len(body))
        transport.write(head.render() + body[: len(body) // 2])
        await asyncio.sleep(0)
        connection: Any = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
