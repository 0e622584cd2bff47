"""`ollama-cache-proxy simulate`: a simulated Ollama without models."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.loop import run as run_loop
from ollama_cache_proxy.cli.loop import until_signalled
from ollama_cache_proxy.service.settings import host_and_port
from ollama_cache_proxy.simulator import NEWEST, RELEASES, Behaviour, Simulator

_WRONG_SETTING = 2


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "simulate",
        run,
        help="run a simulated Ollama",
        description=f"Answer as Ollama {NEWEST} does, or as an older one, with delays and made-up text and vectors. The"
        " same seed gives the same responses.",
        examples=(
            "simulate",
            "simulate --ollama 0.24",
            "simulate --listen 127.0.0.1:11500 --completion-ms 500 --token-rate 50",
        ),
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", default="127.0.0.1:11434", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--ollama", choices=sorted(RELEASES), default=NEWEST, help="release to answer as (default: %(default)s)"
    )
    parser.add_argument(
        "--completion-ms", metavar="MS", type=float, default=2000.0, help="time of a completion (default: %(default)g)"
    )
    parser.add_argument(
        "--embedding-ms", metavar="MS", type=float, default=300.0, help="time of an embedding (default: %(default)g)"
    )
    parser.add_argument("--load-ms", metavar="MS", type=float, default=0.0, help="time to load a model (default: 0)")
    parser.add_argument("--token-rate", metavar="N", type=float, help="tokens a second in streams (default: no limit)")
    parser.add_argument(
        "--one-at-a-time",
        action="store_true",
        help="work on one request after the other, with the times of --text-ms and --prompt-ms",
    )
    parser.add_argument("--text-ms", metavar="MS", type=float, help="then: time of each text to embed")
    parser.add_argument(
        "--prompt-ms", metavar="MS", type=float, default=0.0, help="then: time before a completion (default: 0)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="seed of texts and vectors (default: %(default)d)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    try:
        host, port = host_and_port(arguments.listen)
        run_loop(_simulate(arguments, host, port))
    except ValueError as error:
        sys.stderr.write(f"ollama-cache-proxy: listen: {arguments.listen!r} is not allowed: {error}\n")
        return _WRONG_SETTING
    except OSError as error:
        sys.stderr.write(f"ollama-cache-proxy: listen: {arguments.listen!r} cannot be used: {error.strerror}\n")
        return _WRONG_SETTING
    return 0


async def _simulate(arguments: argparse.Namespace, host: str, port: int) -> None:
    behaviour = Behaviour(
        seed=arguments.seed,
        completion_delay=arguments.completion_ms / 1000,
        embedding_delay=arguments.embedding_ms / 1000,
        load_delay=arguments.load_ms / 1000,
        token_rate=arguments.token_rate,
        release=arguments.ollama,
        one_at_a_time=arguments.one_at_a_time,
        text_delay=None if arguments.text_ms is None else arguments.text_ms / 1000,
        prompt_delay=arguments.prompt_ms / 1000,
    )
    simulator = Simulator(behaviour)
    ended = asyncio.ensure_future(until_signalled())
    await simulator.start(host, port)
    sys.stderr.write(f"A simulated Ollama answers at {simulator.url}\n")
    await ended
    await simulator.stop()
