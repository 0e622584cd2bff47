#!/usr/bin/env bash
# A request that asks for h2c, and one behind it in the same segment: aiohttp's server answers the first and loses the second.
#
# One would guess: a server that does not speak h2c ignores the Upgrade (RFC 9110, section 7.8) and goes on with HTTP/1.1; the second
#   request, which a client may send without waiting (RFC 9112, section 9.3.2), gets its answer. Go's server, and with it Ollama, does so.
# What happens: the first request gets its 200, the connection stays open without `Connection: close`, and the second request is never
#   seen: its client waits for ever. llhttp stops at the upgrade; aiohttp lets it go on, but drops the rest of the bytes that it was
#   fed, unless the upgrade is one that it supports. So with `Upgrade: websocket` both requests are answered. A second request in a
#   segment of its own is answered too. Java's HttpClient asks for h2c with every request, though it does not pipeline.
# Versions: aiohttp 3.14.5, Python 3.11 and later. Seen by running it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check --quiet install aiohttp==3.14.5
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
from importlib.metadata import version

from aiohttp import web

UPGRADES = {
    "none": b"",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
}


async def received(port: int, *segments: bytes) -> bytes:
    """Send each segment a moment after the one before; return what comes until nothing more does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b""
    try:
        for segment in segments:
            writer.write(segment)
            await asyncio.sleep(0.5)
        while more := await asyncio.wait_for(reader.read(65536), 2):
            data += more
        data += b"<closed>"
    except TimeoutError:
        data += b"<waits>"
    writer.close()
    return data


async def main() -> int:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text=f"seen {request.path}")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    print("aiohttp", version("aiohttp"), "Python", sys.version.split()[0])
    found = {}
    for name, lines in UPGRADES.items():
        first = b"GET /first HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"
        second = b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
        for how, segments in (("one segment", [first + second]), ("two segments", [first, second])):
            data = await received(port, *segments)
            seen = [target for target in ("first", "second") if f"seen /{target}".encode() in data]
            said = "closed" if b"onnection: close" in data or data.endswith(b"<closed>") else "stays open"
            found[name, how] = seen
            print(f"upgrade {name:<10} {how:<13} answered: {', '.join(seen):<14} the connection {said}")
    await runner.cleanup()
    both = ["first", "second"]
    expected = dict.fromkeys(found, both) | {("h2c", "one segment"): ["first"]}
    return 0 if found == expected else 1


sys.exit(asyncio.run(main()))
PYTHON
