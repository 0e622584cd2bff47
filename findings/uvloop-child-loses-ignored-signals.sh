#!/usr/bin/env bash
# A signal that is ignored reaches a child process ignored under asyncio, and with its default action under uvloop.
#
# One would guess: uvloop is a drop-in replacement, so a child inherits ignored signals as POSIX says of exec, as one started by `nohup`
#   does; and `preexec_fn=lambda: signal.signal(SIGHUP, SIG_IGN)`, which runs in the child just before exec, has the last word.
# What happens: uvloop runs preexec_fn in its fork handler, and after that libuv sets signals 1 to 31 of the child to their default. So
#   neither holds: a worker that was meant to survive a closed terminal, or a reload signal sent to its group, ends with it.
#   `restore_signals=False` changes nothing. subprocess.run in the same program keeps the signals ignored.
# Not lost: what a child sets after exec, such as `trap '' HUP` in a shell, or the command `nohup` itself in front of it.
# Versions: uvloop 0.23.0 (`UVProcess._after_fork` in uvloop/handles/process.pyx), its libuv 1.52.1 (`uv__process_child_init`),
#   Python 3.11. Seen by running them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvloop==0.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import signal
import subprocess
import sys
from importlib.metadata import version

import uvloop

CHILD = "import signal; print(signal.getsignal(signal.SIGHUP).name, signal.getsignal(signal.SIGUSR1).name)"
COMMAND = (sys.executable, "-c", CHILD)
NOHUP = ("nohup", *COMMAND)


def ignore() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


async def child(*command: str, **options: object) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, **options)
    out, _ = await process.communicate()
    return out.decode().strip()


async def children() -> dict[str, str]:
    found = {"ignored in preexec_fn": await child(*COMMAND, preexec_fn=ignore)}
    before = [signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1)]
    ignore()
    found["ignored in the parent"] = await child(*COMMAND)
    found["... restore_signals=False"] = await child(*COMMAND, restore_signals=False)
    found["... by subprocess.run"] = subprocess.run(COMMAND, capture_output=True, text=True, check=True).stdout.strip()
    for number, action in zip((signal.SIGHUP, signal.SIGUSR1), before, strict=True):
        signal.signal(number, action)
    found["by the command nohup"] = await child(*NOHUP)
    return found


signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGUSR1, signal.SIG_DFL)
print("uvloop", version("uvloop"), "Python", sys.version.split()[0])
own, others = asyncio.run(children()), uvloop.run(children())
print(f"{'SIGHUP and SIGUSR1 of the child':<34}{'asyncio':<18}uvloop")
for name, actions in own.items():
    print(f"{name:<34}{actions:<18}{others[name]}")
KEPT, LOST, NOHUP_ONLY = "SIG_IGN SIG_IGN", "SIG_DFL SIG_DFL", "SIG_IGN SIG_DFL"
holds = list(own.values()) == [KEPT, KEPT, KEPT, KEPT, NOHUP_ONLY]
holds = holds and list(others.values()) == [LOST, LOST, LOST, KEPT, NOHUP_ONLY]
print("as described" if holds else "changed")
sys.exit(0 if holds else 1)
PYTHON
