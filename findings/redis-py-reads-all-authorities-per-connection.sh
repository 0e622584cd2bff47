#!/usr/bin/env bash
# Each TLS connection of redis-py reads all of the system's certificate authorities anew, also when it verifies none.
#
# One would guess: a pool has one SSLContext, as an httpx client has, and `ssl_cert_reqs="none"`, which verifies nothing, reads no
#   authorities; so a new TLS connection costs a handshake more than a plain one.
# What happens: every connection calls ssl.create_default_context(), which reads and parses the system's authorities (over a hundred
#   on Debian), and only then is ssl_cert_reqs or ssl_ca_certs applied to it. The asyncio client keeps the context for as long as
#   the connection object lives; the other client makes a new one also when the same object connects again. It takes tens of
#   milliseconds, and under asyncio the event loop stands still for them.
# So a pool that opens fifty connections after an outage stops its loop for fifty times as long in all. Neither client takes an
#   SSLContext that the caller made.
# Versions: redis 8.1.0 (`RedisSSLContext.get` in redis/asyncio/connection.py, `SSLConnection._wrap_socket_with_ssl` in
#   redis/connection.py), trustme 1.2.1 for the server's certificate, Python 3.11. Seen by running them; the times are only printed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check redis==8.1.0 trustme==1.2.1
"$folder/venv/bin/python" - "$folder/authority.pem" <<'PYTHON'
import asyncio
import ssl
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version

import redis
import redis.asyncio
import trustme

CONNECTIONS = 10
authority = trustme.CA()
authority.cert_pem.write_to_path(sys.argv[1])
certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("127.0.0.1").configure_cert(certificate)
reads = 0
read = ssl.SSLContext.load_default_certs


def counted(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
    global reads
    reads += 1
    read(context, purpose)


ssl.SSLContext.load_default_certs = counted


async def drain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read until the client closes: with RESP2 and no driver_info it sends nothing when it connects."""
    await reader.read()
    writer.close()


def serve(ready: threading.Event, ports: dict[bool, int]) -> None:
    async def main() -> None:
        for tls in True, False:
            server = await asyncio.start_server(drain, "127.0.0.1", 0, ssl=certificate if tls else None)
            ports[tls] = server.sockets[0].getsockname()[1]
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(main())


def by_sync(times: int, **options: object) -> None:
    pool = redis.Redis(protocol=2, driver_info=None, **options).connection_pool
    for _ in range(times):
        for connection in [pool.get_connection() for _ in range(CONNECTIONS)]:
            pool.release(connection)
        pool.disconnect()


def by_asyncio(times: int, **options: object) -> None:
    async def main() -> None:
        pool = redis.asyncio.Redis(protocol=2, driver_info=None, **options).connection_pool
        for _ in range(times):
            for connection in [await pool.get_connection() for _ in range(CONNECTIONS)]:
                await pool.release(connection)
            await pool.disconnect()

    asyncio.run(main())


def measured(name: str, client: Callable[..., None], *, times: int = 1, **options: object) -> int:
    before, started = reads, time.perf_counter()
    client(times, host="127.0.0.1", port=ports["ssl" in options], **options)
    each = (time.perf_counter() - started) * 1000 / CONNECTIONS / times
    print(f"{name:<50} authorities read {reads - before:>2} times, {each:6.1f} ms to connect")
    return reads - before


ready, ports = threading.Event(), {}
threading.Thread(target=serve, args=(ready, ports), daemon=True).start()
if not ready.wait(60):
    sys.exit("the server did not start")
print("redis", version("redis"), "trustme", version("trustme"), "Python", sys.version.split()[0], ssl.OPENSSL_VERSION)
own = {"ssl": True, "ssl_ca_certs": sys.argv[1]}
none = {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False}
found = [
    measured("asyncio, plain", by_asyncio),
    measured("asyncio, TLS, own authority", by_asyncio, **own),
    measured("asyncio, TLS, nothing verified", by_asyncio, **none),
    measured("asyncio, TLS, own authority, connected twice", by_asyncio, times=2, **own),
    measured("sync, plain", by_sync),
    measured("sync, TLS, own authority", by_sync, **own),
    measured("sync, TLS, nothing verified", by_sync, **none),
    measured("sync, TLS, own authority, connected twice", by_sync, times=2, **own),
]
holds = found == [0, *[CONNECTIONS] * 3, 0, *[CONNECTIONS] * 2, 2 * CONNECTIONS]
print("as described" if holds else "changed")
sys.exit(0 if holds else 1)
PYTHON
