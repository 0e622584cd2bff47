#!/usr/bin/env bash
# A request with two User-Agent fields: aiohttp's server answers 400, from its own code and not from the parser's.
#
# One would guess: a field that may stand only once is joined, or the first or the last one wins, as in most servers; and
#   that aiohttp and httptools, which both wrap llhttp, take the same requests.
# What happens: aiohttp refuses a request in which Content-Type, Content-Location, Content-Range, ETag, Max-Forwards, Server or
#   User-Agent stands twice, with any values, also equal ones ("Duplicate 'User-Agent' header found"). Accept, which is a list, may
#   stand twice. httptools takes all of them. No setting of aiohttp changes it. A client that adds its own Content-Type to
#   the one of its HTTP library gets through to a server in Go and not through an aiohttp server in front of it.
# Versions: aiohttp 3.14.5, httptools 0.9.0, Python 3.11 and later. Seen by running them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check --quiet install aiohttp==3.14.5 httptools==0.9.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
from importlib.metadata import version

import httptools
from aiohttp import web

SINGLE = ("Content-Type", "Content-Location", "Content-Range", "ETag", "Max-Forwards", "Server", "User-Agent")
LIST = ("Accept", "Cache-Control", "X-Anything")


def request(name: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{name}: 1\r\n{name}: 1\r\n\r\n".encode()


async def status(port: int, data: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return int(line.split()[1])


class Taken:
    def __init__(self) -> None:
        self.complete = False

    def on_message_complete(self) -> None:
        self.complete = True


def taken(data: bytes) -> bool:
    protocol = Taken()
    httptools.HttpRequestParser(protocol).feed_data(data)
    return protocol.complete


async def main() -> int:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text="taken")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    print("aiohttp", version("aiohttp"), "httptools", version("httptools"), "Python", sys.version.split()[0])
    found = {name: (await status(port, request(name)), taken(request(name))) for name in SINGLE + LIST}
    for name, (code, by_httptools) in found.items():
        print(f"{name + ' twice':<24} aiohttp {code}   httptools {'takes it' if by_httptools else 'refuses'}")
    await runner.cleanup()
    expected = {name: (400, True) for name in SINGLE} | {name: (200, True) for name in LIST}
    return 0 if found == expected else 1


sys.exit(asyncio.run(main()))
PYTHON
