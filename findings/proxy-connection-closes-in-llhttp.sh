#!/usr/bin/env bash
# A request with `Proxy-Connection: close`: servers on llhttp close the connection, others keep it, even two parsers of one aiohttp.
#
# One would guess: no server acts on Proxy-Connection. RFC 9110, 7.6.1, names it among the fields that a proxy removes, and RFC 9112,
#   appendix C.2.2, encourages clients not to send it; neither gives it a meaning, and a server ignores a field that it does not know.
# What happens: llhttp, the parser in Node and in aiohttp, reads Proxy-Connection as it reads Connection. `close` ends an HTTP/1.1
#   connection after the response, and `keep-alive` keeps an HTTP/1.0 one. aiohttp's parser in Python, used where the extension is
#   not built or AIOHTTP_NO_EXTENSIONS is set, ignores the field, as Go's net/http does.
# So behind a proxy that passes the field on, a client gets a new connection for each request from one server and not from another.
# Versions: aiohttp 3.14.5 (extension and Python parser), Node 18 and later, Go 1.24 and later, Python 3.11. Seen by running them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check aiohttp==3.14.5
printf 'module probe\n\ngo 1.24\n' > go.mod
cat > main.go <<'GO'
package main

import (
    "fmt"
    "net"
    "net/http"
)

func main() {
    listener, err := net.Listen("tcp", "127.0.0.1:0")
    if err != nil {
        panic(err)
    }
    fmt.Println(listener.Addr().(*net.TCPAddr).Port)
    panic(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("taken")) })))
}
GO
cat > server.js <<'NODE'
const server = require("http").createServer((_, response) => {
  response.writeHead(200, { "Content-Length": 5 });
  response.end("taken");
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
NODE
cat > server.py <<'PYTHON'
import asyncio

from aiohttp import web


async def main() -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text="taken")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
PYTHON
go build -o server-go .
venv/bin/python - <<'PYTHON'
import os
import socket
import subprocess
import sys
from importlib.metadata import version

SERVERS = {
    "aiohttp, extension": (["venv/bin/python", "server.py"], {}),
    "Node": (["node", "server.js"], {}),
    "aiohttp, Python": (["venv/bin/python", "server.py"], {"AIOHTTP_NO_EXTENSIONS": "1"}),
    "Go": (["./server-go"], {}),
}
REQUESTS = [
    ("1.1", ""),
    ("1.1", "Connection: close\r\n"),
    ("1.1", "Proxy-Connection: close\r\n"),
    ("1.0", ""),
    ("1.0", "Connection: keep-alive\r\n"),
    ("1.0", "Proxy-Connection: keep-alive\r\n"),
]


def taken(connection: socket.socket, request: str) -> bool:
    """Return whether the request is answered, false if the connection is closed before or during it."""
    received = b""
    try:
        connection.sendall(request.encode())
        while b"taken" not in received and (data := connection.recv(65536)):
            received += data
    except (BrokenPipeError, ConnectionResetError):
        pass
    return b"taken" in received


def keeps(port: int, version: str, field: str) -> bool:
    """Return whether a second request on the same connection is answered."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        if not taken(connection, f"GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n"):
            sys.exit("the first request was not answered")
        return taken(connection, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")


def run(command: list[str], variables: dict[str, str]) -> list[bool]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | variables) as server:
        try:
            port = int(server.stdout.readline())
            return [keeps(port, *request) for request in REQUESTS]
        finally:
            server.kill()


print("aiohttp", version("aiohttp"), "Python", sys.version.split()[0])
for command in ["node", "--version"], ["go", "version"]:
    print(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
found = {name: run(*server) for name, server in SERVERS.items()}
print(f"{'connection after the response':<42}" + "".join(f"{name:<20}" for name in SERVERS))
for number, (http, field) in enumerate(REQUESTS):
    words = ("kept" if row[number] else "closed" for row in found.values())
    print(f"{'HTTP/' + http + ' ' + (field.strip() or '(neither field)'):<42}" + "".join(f"{word:<20}" for word in words))
OBEYS, IGNORES = [True, False, False, False, True, True], [True, False, True, False, True, False]
holds = list(found.values()) == [OBEYS, OBEYS, IGNORES, IGNORES]
print("as described" if holds else "changed")
sys.exit(0 if holds else 1)
PYTHON
