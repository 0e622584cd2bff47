"""Neighbours that are no Redis, or break off: each takes connections on loopback and does one thing with every one."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias

Behaviour: TypeAlias = Callable[[socket.socket], None]
"""What is done with a connection before it is closed."""

_WAITS: Final = 10.0
"""Seconds that a connection may wait for its client."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER, on for no time: closing sends a reset (socket(7))."""


def resets(connection: socket.socket) -> None:
    """Reset at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def resets_after_the_first_bytes(connection: socket.socket) -> None:
    """Reset when something was received: with TLS in the middle of the handshake."""
    connection.recv(65_536)
    resets(connection)


def closes_with_unread_bytes(connection: socket.socket) -> None:
    """Read one byte of the first command, reply to it, and close: the rest makes the close a reset."""
    connection.recv(1)
    connection.sendall(b"+OK\r\n")


def closes(connection: socket.socket) -> None:
    """Close when something was received."""
    connection.recv(65_536)


def is_silent(connection: socket.socket) -> None:
    """Take what comes, and say nothing."""
    while connection.recv(65_536):
        pass


def says(reply: bytes) -> Behaviour:
    """Reply to all that is received with these bytes."""

    def reply_to_all(connection: socket.socket) -> None:
        while connection.recv(65_536):
            connection.sendall(reply)

    return reply_to_all


HTTP: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextmanager
def odd_server(behaviour: Behaviour, port: int = 0) -> Iterator[int]:
    """Behave so on a port of loopback until the block ends; gives the port."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        taken: list[socket.socket] = []

        def handle(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.settimeout(_WAITS)
                behaviour(connection)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])
                    threading.Thread(target=handle, args=(taken[-1],), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # ends accept
            accepting.join(_WAITS)
            for connection in taken:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
