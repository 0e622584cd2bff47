"""What each way of keeping a private store costs, and what a kill loses: `python -m benchmarks.persistence`.

The private server's own binary runs without persistence, with RDB files, and with an append-only file (AOF). The ways
take turns; a ratio is of one round. `--publish` writes benchmarks/results/persistence.json, whose figures are in
docs/decisions/0035-a-kept-store-appends.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

import redis

from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.stores.entry_codec import encode
from ollama_cache_proxy.stores.redis.private_server import find_server

RESULTS: Final = Path(__file__).parent / "results" / "persistence.json"
_INTERVAL: Final = 60
"""Seconds between two RDB files, if anything was written."""
WAYS: Final = {
    "none": ("--save", "", "--appendonly", "no"),
    "rdb": ("--save", f"{_INTERVAL} 1", "--appendonly", "no"),
    "aof": ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
    "aof-always": ("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
}
"""The arguments of the server for each way."""
_SIZES: Final = ((10_000, 4096), (100_000, 4096), (1_000_000, 256))
"""Entries, and the bytes of the body of each."""
_WRITES: Final = 20_000
_BYTES: Final = 4096
_PER_PIPELINE: Final = 64
_WITHIN: Final = 120.0
"""Seconds for anything that is waited for."""
_RATE: Final = 500
"""Entries a second that are written until the server is killed."""
_KILLED_AFTER: Final = 5.0
"""Seconds."""


class Server:
    """A server of its own on a Unix socket, in a folder that outlives it."""

    def __init__(self, way: str, folder: Path, *more: str) -> None:
        binary = find_server()
        if binary is None:
            sys.exit("neither valkey-server nor redis-server was found")
        self.folder = folder
        socket = folder / "redis.sock"
        self._command = [
            *(binary, "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--dir", str(folder)),
            *("--maxmemory", str(2 << 30), "--maxmemory-policy", "allkeys-lru", *WAYS[way], *more),
        ]
        self.client: Any = redis.Redis(unix_socket_path=str(socket), socket_timeout=_WITHIN)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it; return how many seconds it took until it answered commands."""
        begun = time.perf_counter()
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)  # noqa: S603 - the server of the package
        while time.perf_counter() - begun < _WITHIN:
            with suppress(redis.RedisError):
                if self.client.ping():
                    return time.perf_counter() - begun
            time.sleep(0.002)
        sys.exit("the server did not start")

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """End it with a signal; return how many seconds that took."""
        assert self.process is not None
        begun = time.perf_counter()
        os.kill(self.process.pid, number)
        self.process.wait(_WITHIN)
        return time.perf_counter() - begun

    def cpu(self) -> float:
        """Return the seconds of CPU that all its threads have taken, without its children's."""
        assert self.process is not None
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def children_cpu(self) -> float:
        """Return the seconds of CPU that its children have taken that have ended."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def info(self, name: str) -> Any:
        """Return one figure of its own."""
        return self.client.info("persistence")[name]

    def until_idle(self) -> None:
        """Wait until it writes no file anew."""
        ends = time.monotonic() + _WITHIN
        while self.info("rdb_bgsave_in_progress") or self.info("aof_rewrite_in_progress"):
            if time.monotonic() > ends:
                sys.exit("the server is still writing a file")
            time.sleep(0.01)

    def size(self) -> int:
        """Return the bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@contextmanager
def served(way: str, *more: str) -> Iterator[Server]:
    """Run a server in a folder of its own, which is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ocp-bench-"))
    server = Server(way, folder, *more)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.end(signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def entry(number: int, size: int, source: Random) -> tuple[str, bytes]:
    """Return the name and the bytes of an entry: a vector as Ollama writes it, `size` bytes long."""
    numbers: list[str] = []
    length = 0
    while length < size:
        numbers.append(f"{source.uniform(-0.2, 0.2):.9g}")
        length += len(numbers[-1]) + 1
    stored = StoredResponse(
        status=200,
        reason="OK",
        fields=((b"Content-Type", b"application/json; charset=utf-8"),),
        body=",".join(numbers).encode()[:size],
        stored_at=time.time(),
        lifetime=86_400,
        took=0.02,
        operation="embed",
        model="registry.ollama.ai/library/all-minilm:latest",
        category="",
        namespace="",
        prompt_tokens=10,
        output_tokens=None,
    )
    key = sha256(b"%d" % number).hexdigest()
    return f"ocp:1:e:{'0' * 32}:{key}", encode(key, stored)


_VALUES: Final = 200
"""Different values; a million would take longer to make than to write."""


def fill(server: Server, count: int, size: int, *, begin: int = 0) -> None:
    """Write so many entries, each under a name of its own."""
    source = Random(20)  # noqa: S311 - not secret
    values = [entry(number, size, source)[1] for number in range(min(count, _VALUES))]
    prefix = f"ocp:1:e:{'0' * 32}:"
    for start in range(begin, begin + count, _PER_PIPELINE):
        pipeline = server.client.pipeline(transaction=False)
        for number in range(start, min(start + _PER_PIPELINE, begin + count)):
            name = prefix + sha256(b"%d" % number).hexdigest()
            pipeline.set(name, values[number % len(values)], ex=86_400)
        pipeline.execute()


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What writes took of the server: medians of all rounds, with the least and the most of the ratios to none."""

    way: str
    microseconds: float
    ratio: float
    least: float
    most: float


def writes(rounds: int) -> list[Write]:
    """Measure the CPU of the server for each SET of an entry of 4 KB. Each round runs each way once, in turn."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        order = list(WAYS) if number % 2 else list(reversed(WAYS))
        for way in order:
            with served(way) as server:
                fill(server, 2_000, _BYTES)
                before = server.cpu()
                fill(server, _WRITES, _BYTES, begin=2_000)
                server.until_idle()
                time.sleep(1.2)  # the file is synced a second after
                taken[way].append((server.cpu() - before) / _WRITES * 1e6)
        sys.stderr.write(f"round {number + 1} of {rounds}\n")
    found = []
    for way, times in taken.items():
        ratios = [mine / none for mine, none in zip(times, taken["none"], strict=True)]
        found.append(
            Write(
                way=way,
                microseconds=statistics.median(times),
                ratio=statistics.median(ratios),
                least=min(ratios),
                most=max(ratios),
            )
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What keeping so many entries takes: seconds, and bytes on the disk."""

    way: str
    entries: int
    bytes_each: int
    size: int
    rewrite: float
    rewrite_cpu: float
    """Of the file that is written anew, RDB or AOF; its CPU is the child's."""
    rewritten: int
    fork: float
    end: float
    load: float
    load_appended: float | None
    """Before the AOF was written anew: it is read command by command."""


def kept(way: str, count: int, size: int, *more: str) -> Kept:
    """Measure one size of one way."""
    with served(way, "--auto-aof-rewrite-percentage", "0", *more) as server:
        fill(server, count, size)
        server.until_idle()
        appended, bytes_before = None, server.size()
        if way == "aof":
            server.end()
            appended = server.start()
        children = server.children_cpu()
        begun = time.perf_counter()
        server.client.execute_command("BGREWRITEAOF" if way == "aof" else "BGSAVE")
        server.until_idle()
        rewrite, cpu = time.perf_counter() - begun, server.children_cpu() - children
        fork = server.client.info("stats")["latest_fork_usec"] / 1e6
        time.sleep(0.5)  # files that are not used any more are removed in the background
        rewritten = server.size()
        fill(server, 1, size, begin=count)  # else an RDB is not saved again at the end
        end = server.end()
        load = server.start()
        found = server.client.dbsize()
        assert found == count + 1, f"{way}: {found} of {count + 1}"
        return Kept(
            way=way if not more else f"{way} {' '.join(more)}",
            entries=count,
            bytes_each=size,
            size=bytes_before,
            rewrite=rewrite,
            rewrite_cpu=cpu,
            rewritten=rewritten,
            fork=fork,
            end=end,
            load=load,
            load_appended=appended,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What SIGKILL of the server lost, of entries that were written at a steady rate."""

    way: str
    written: int
    lost: int
    seconds: float
    """How long before the kill the oldest of them was answered."""


def lost(way: str) -> Lost:
    """Write entries at a steady rate, kill the server at once, start it again and count."""
    source = Random(51)  # noqa: S311 - not secret
    with served(way) as server:
        answered: list[tuple[str, float]] = []
        begun = time.monotonic()
        while time.monotonic() - begun < _KILLED_AFTER:
            name, value = entry(len(answered), _BYTES, source)
            server.client.set(name, value, ex=86_400)
            answered.append((name, time.monotonic()))
            time.sleep(max(0.0, begun + len(answered) / _RATE - time.monotonic()))
        server.end(signal.SIGKILL)
        killed = time.monotonic()
        server.start()
        missing = [at for name, at in answered if not server.client.exists(name)]
        return Lost(way=way, written=len(answered), lost=len(missing), seconds=killed - min(missing, default=killed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """How long a deletion takes until it survives, in seconds: medians."""

    how: str
    median: float
    most: float


def deletions(count: int) -> list[Deletion]:
    """Measure the ways to make a deletion survive: by a number in a file beside the store, and by WAITAOF."""
    with served("aof") as server:
        fill(server, 1000, _BYTES)

        def numbered() -> None:
            number = server.client.incr("ocp:1:deletions")
            path = server.folder / "store.json"
            fresh = path.with_suffix(".new")
            with fresh.open("w") as file:
                file.write(json.dumps({"deletions": number}))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            folder = os.open(server.folder, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

        def waited() -> None:
            server.client.incr("ocp:1:deletions")
            server.client.execute_command("WAITAOF", 1, 0, 5000)

        found = []
        for how, delete in (("number", numbered), ("waitaof", waited)):
            times = []
            for number in range(count):
                time.sleep(0.137)  # at no fixed distance to the server's seconds
                fill(server, 1, _BYTES, begin=number)
                begun = time.perf_counter()
                delete()
                times.append(time.perf_counter() - begun)
            found.append(Deletion(how=how, median=statistics.median(times), most=max(times)))
        return found


def main() -> None:
    """Measure all of it, and show it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--largest", type=int, default=1_000_000, metavar="N", help="leave out larger stores")
    parser.add_argument("--publish", action="store_true")
    given = parser.parse_args()
    sizes = [(count, size) for count, size in _SIZES if count <= given.largest]
    with served("none") as server:
        version = server.client.info("server")
    found: dict[str, Any] = {
        "server": version.get("valkey_version") or version["redis_version"],
        "writes": [asdict(row) for row in writes(given.rounds)],
        "kept": [asdict(kept(way, *size)) for size in sizes for way in ("rdb", "aof")]
        + [asdict(kept("aof", *size, "--rdbcompression", "no")) for size in sizes],
        "lost": [asdict(lost(way)) for way in ("rdb", "aof")],
        "deletions": [asdict(row) for row in deletions(20)],
    }
    text = json.dumps(found, indent=1) + "\n"
    sys.stdout.write(text)
    if given.publish:
        RESULTS.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
