"""The components of compose.yml without containers: `make stack`.

Redis or Valkey with the same limits, the proxy in front of your Ollama, the GPU exporter and Prometheus with its rules,
each as a process that ends with this one. When one ends, all end. `--simulate` uses a simulated Ollama and a recorded
GPU instead of yours; `--any-port` uses free ports instead of the usual ones. Grafana is not in Debian: import
dashboards/ollama-cache-proxy.json into yours.

`--cluster` is the same past one machine: three simulated Ollamas, two proxies with two workers each, three nodes of a
Redis Cluster, and Prometheus, on free ports. With `--chaos MINUTES` it ends after so long, in which its parts are
killed and stopped under load (benchmarks/distributed_chaos.py); it fails if a response is wrong or an error is the
proxies' own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ollama_cache_proxy.service.settings import DEFAULT_PORT
from ollama_cache_proxy.stores.redis.private_server import find_server

ROOT: Final = Path(__file__).parents[1]
_CONFIG: Final = ROOT / "config" / "prometheus"
_USUAL: Final = {"redis": 6379, "ollama": 11434, "proxy": DEFAULT_PORT, "gpu": 9400, "prometheus": 9090}
_END_DEADLINE: Final = 45.0
"""Seconds for a process to end."""


class StackError(Exception):
    """The stack cannot run; the text is one line with a fix."""


def _ports(*, anywhere: bool) -> dict[str, int]:
    """Return a port for each component. Raise StackError if a usual one is in use."""
    ports = {}
    for name, usual in _USUAL.items():
        with socket.socket() as sock:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("127.0.0.1", 0 if anywhere else usual))
            except OSError:
                if name != "ollama":  # yours uses it
                    raise StackError(
                        f"port {usual} of {name} is in use: stop the program that listens there, or use --any-port"
                    ) from None
            ports[name] = int(sock.getsockname()[1]) or usual
    return ports


def _program(name: str) -> str:
    unpacked = Path(sys.prefix) / "prometheus" / "usr" / "bin"
    found = shutil.which(name) or shutil.which(name, path=str(unpacked))
    if found is None:
        raise StackError(f"{name} was not found: run `make metrics-tools`, or install it")
    return found


def _prometheus(folder: Path, ports: dict[str, int]) -> Sequence[str]:
    """Write the configuration with the addresses of this stack; return the command."""
    text = (_CONFIG / "prometheus.yml").read_text("utf-8").replace("rules/*.yml", f"{_CONFIG}/rules/*.yml")
    for name in ("proxy", "gpu", "prometheus"):
        text = text.replace(f"127.0.0.1:{_USUAL[name]}", f"127.0.0.1:{ports[name]}")
    file = folder / "prometheus.yml"
    file.write_text(text, "utf-8")
    storage = f"--storage.tsdb.path={folder / 'prometheus'}"
    listen = f"--web.listen-address=127.0.0.1:{ports['prometheus']}"
    return (_program("prometheus"), f"--config.file={file}", storage, listen, "--log.level=warn")


def _cluster_prometheus(folder: Path, port: int, proxies: Sequence[int]) -> Sequence[str]:
    """Return the command of a Prometheus at `port` that scrapes proxies at these ports."""
    ports = _USUAL | {"prometheus": port, "proxy": proxies[0]}
    command = _prometheus(folder, ports)
    file = folder / "prometheus.yml"
    own = f"127.0.0.1:{proxies[0]}"
    others = ", ".join(f'"127.0.0.1:{number}"' for number in proxies)
    file.write_text(file.read_text("utf-8").replace(f'"{own}"', others), "utf-8")
    return command


def _redis(folder: Path, port: int) -> Sequence[str]:
    server = find_server()
    if server is None:
        raise StackError("neither valkey-server nor redis-server was found: install one, or run `make install`")
    limits = ("--maxmemory", "2gb", "--maxmemory-policy", "allkeys-lru", "--save", "", "--appendonly", "no")
    return (server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--loglevel", "warning", *limits)


def _commands(folder: Path, ports: dict[str, int], *, simulated: bool) -> dict[str, Sequence[str]]:
    """Return the command of each component, in the order in which they start."""
    own = (sys.executable, "-m", "ollama_cache_proxy")
    cards = ("--replay", "h100") if simulated else ()
    listen = {name: ("--listen", f"127.0.0.1:{ports[name]}") for name in ports}
    store = ("--redis-url", f"redis://127.0.0.1:{ports['redis']}/0")
    upstream = ("--upstream", f"http://127.0.0.1:{ports['ollama']}") if simulated else ()
    return {
        "redis": _redis(folder, ports["redis"]),
        **({"ollama": (*own, "simulate", *listen["ollama"])} if simulated else {}),
        "proxy": (*own, "serve", *listen["proxy"], *store, *upstream),
        "gpu": (*own, "gpu", *listen["gpu"], *cards),
        "prometheus": _prometheus(folder, ports),
    }


async def _run(commands: dict[str, Sequence[str]], ports: dict[str, int]) -> int:
    """Run all processes until a signal or the end of one; return the exit status."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    running: dict[str, asyncio.subprocess.Process] = {}
    try:
        for name, command in commands.items():
            running[name] = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
            )
        sys.stderr.write(
            f"Clients use http://127.0.0.1:{ports['proxy']}; Prometheus is at http://127.0.0.1:{ports['prometheus']},"
            f" GPU metrics at http://127.0.0.1:{ports['gpu']}/metrics. Ctrl-C ends all.\n"
        )
        ends = {asyncio.ensure_future(process.wait()): name for name, process in running.items()}
        signalled = asyncio.ensure_future(told.wait())
        done, _ = await asyncio.wait({signalled, *ends}, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        ended = [ends[future] for future in done if future in ends]
        if ended:
            sys.stderr.write(f"{', '.join(ended)} ended, so everything ends\n")
        return 1 if ended else 0
    finally:
        for process in reversed(running.values()):  # clients before servers
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _END_DEADLINE)
            if process.returncode is None:
                process.kill()


def main() -> int:
    """Run the stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true", help="use a simulated Ollama and a recorded GPU")
    parser.add_argument("--cluster", action="store_true", help="use three Ollamas, two proxies and a Redis Cluster")
    parser.add_argument("--chaos", type=float, default=0.0, metavar="MINUTES", help="break its parts, for so long")
    parser.add_argument("--seed", type=int, default=1, help="what is broken, and when")
    parser.add_argument("--any-port", action="store_true", help="use free ports instead of the usual ones")
    given = parser.parse_args()
    if given.chaos and not given.cluster:
        parser.error("--chaos needs --cluster")
    if given.cluster:
        from benchmarks.distributed_chaos import run as run_cluster  # noqa: PLC0415 - it takes what tests need

        return asyncio.run(run_cluster(minutes=given.chaos, seed=given.seed, prometheus=_cluster_prometheus))
    with tempfile.TemporaryDirectory(prefix="ollama-cache-proxy-") as folder:
        try:
            ports = _ports(anywhere=given.any_port)
            commands = _commands(Path(folder), ports, simulated=given.simulate)
        except StackError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
        return asyncio.run(_run(commands, ports))


if __name__ == "__main__":
    sys.exit(main())
