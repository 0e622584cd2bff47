"""`ollama-cache-proxy plan`: how many proxies, how much store, how many GPUs, and which of them is full first."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE, WRONG, Failed
from ollama_cache_proxy.service.settings import Settings

if TYPE_CHECKING:
    from ollama_cache_proxy.workbench.capacity import Coefficients, Demand, Plan

_DEFAULTS: Final = {name: Settings.model_fields[name].default for name in ("hot_bytes", "ttl_completion")}
_GB: Final = 1e9
_BITS: Final = 8
_MINUTE: Final = 60


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "plan",
        run,
        help="say how many proxies, how much store and how many GPUs a load takes",
        description="Compute, from what was measured on one machine (docs/scaling.md), how busy each part is at a rate"
        " of requests, how many of it are needed so that none is busier than 70 %, and which is full first. Of each"
        " figure it says whether it lies within what was measured. Nothing is asked or started.",
        examples=(
            "plan --rate 5 --hit-rate 0.4 --gpus 2 --miss-seconds 3",
            "plan --clients 200 --per-client 4 --entry-bytes 4000",
            "plan --rate 10000 --hit-rate 0.9 --entries 1e9 --hosts 4 --workers 8 --store-nodes 40 --json",
        ),
    )
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--rate", metavar="N", type=_positive, default=1.0, help="requests a second (default: 1)")
    load.add_argument("--clients", metavar="N", type=_positive, help="clients, instead of a rate")
    parser.add_argument(
        "--per-client", metavar="N", type=_positive, default=2.0, help="requests a minute of each (default: 2)"
    )
    parser.add_argument("--hit-rate", metavar="SHARE", type=_share, default=0.5, help="hits, 0 to 1 (default: 0.5)")
    parser.add_argument(
        "--hot-share",
        metavar="SHARE",
        type=_share,
        help="hits in the hot tier, 0 to 1 (default: as if all entries were asked for equally often, which is the"
        " least)",
    )
    parser.add_argument(
        "--entry-bytes", metavar="N", type=_positive, default=2000.0, help="bytes of a response (default: 2000)"
    )
    parser.add_argument(
        "--request-bytes", metavar="N", type=_positive, default=2000.0, help="bytes of a request (default: 2000)"
    )
    parser.add_argument(
        "--entries", metavar="N", type=_positive, help="entries in the store (default: the misses of a lifetime)"
    )
    parser.add_argument(
        "--lifetime",
        metavar="SECONDS",
        type=_positive,
        default=float(_DEFAULTS["ttl_completion"]),
        help="how long an entry stays (default: %(default)g)",
    )
    parser.add_argument(
        "--miss-seconds", metavar="S", type=_positive, default=2.0, help="time of a GPU for a miss (default: 2)"
    )
    parser.add_argument(
        "--parallel", metavar="N", type=_positive, default=1.0, help="requests a GPU works on at once (default: 1)"
    )
    parser.add_argument("--gpus", metavar="N", type=_count, default=1, help="GPUs (default: 1)")
    parser.add_argument("--hosts", metavar="N", type=_count, default=1, help="hosts with a proxy (default: 1)")
    parser.add_argument("--workers", metavar="N", type=_count, default=1, help="workers of each (default: 1)")
    parser.add_argument(
        "--hot-bytes",
        metavar="N",
        type=_bytes,
        default=float(_DEFAULTS["hot_bytes"]),
        help="the hot tier of each host, shared by its workers; 0: none (default: %(default)g)",
    )
    parser.add_argument("--store-nodes", metavar="N", type=_count, default=1, help="primaries of Redis (default: 1)")
    parser.add_argument(
        "--node-gb", metavar="GB", type=_positive, default=16.0, help="memory of each for entries (default: 16)"
    )
    parser.add_argument("--gbit", metavar="N", type=_positive, default=10.0, help="network of a host (default: 10)")
    options.add_json(parser)


def _positive(text: str) -> float:
    """Return a number above 0, such as 1e6."""
    return _checked(text, "a number above 0", lambda value: 0 < value < math.inf)


def _bytes(text: str) -> float:
    """Return a number of bytes that may be 0."""
    return _checked(text, "a number from 0", lambda value: 0 <= value < math.inf)


def _share(text: str) -> float:
    """Return a number from 0 to 1."""
    return _checked(text, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def _count(text: str) -> int:
    """Return a whole number from 1."""
    return int(_checked(text, "a whole number from 1", lambda value: 1 <= value < math.inf and value == int(value)))


def _checked(text: str, what: str, allowed: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not allowed(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.screen import Screen, write_json
    from ollama_cache_proxy.workbench.capacity import document, plan
    from ollama_cache_proxy.workbench.coefficients import MEASURED

    demand = _demand(arguments, MEASURED)
    made = plan(demand, MEASURED)
    if arguments.json:
        write_json(document(made))
        return DONE
    _print(Screen(), demand, made, MEASURED)
    return DONE


def _demand(arguments: argparse.Namespace, known: Coefficients) -> Demand:
    from ollama_cache_proxy.workbench.capacity import Demand, favouring, mix_of

    rate = arguments.clients * arguments.per_client / _MINUTE if arguments.clients else arguments.rate
    grows = arguments.entries is None
    entries = rate * (1 - arguments.hit_rate) * arguments.lifetime if grows else arguments.entries
    mix = mix_of(
        hit=arguments.hit_rate,
        body=arguments.entry_bytes,
        entries=entries,
        hot_bytes=arguments.hot_bytes / arguments.workers,
        known=known,
    )
    if arguments.hot_share is not None:
        if not mix.tier:
            raise Failed("--hot-share: there is no hot tier with --hot-bytes 0", status=WRONG)
        mix = favouring(mix, arguments.hot_share)
    return Demand(
        rate=rate,
        mix=replace(mix, leased=arguments.hosts * arguments.workers > 1),
        request=arguments.request_bytes,
        entries=entries,
        lifetime=arguments.lifetime if grows else None,
        miss_seconds=arguments.miss_seconds,
        parallel=arguments.parallel,
        gpus=arguments.gpus,
        hosts=arguments.hosts,
        workers=arguments.workers,
        nodes=arguments.store_nodes,
        node_bytes=arguments.node_gb * _GB,
        link=arguments.gbit * _GB / _BITS,
    )


def _print(screen: Any, demand: Demand, made: Plan, known: Coefficients) -> None:
    from ollama_cache_proxy.cli.screen import Column, size, table

    mix = demand.mix
    screen.say(
        f"{_number(demand.rate)} requests a second, {mix.hit:.0%} of them hits ({mix.hot:.0%} of these in the hot"
        f" tier), {_number(made.misses)} misses; {demand.entries:,.0f} entries of {size(round(made.entry))}."
    )
    first = made.first
    if first.full_at is None:
        screen.say(f"Too small at any rate: {first.name}.")
    else:
        screen.say(f"Full first: {first.name}, at {_number(first.full_at)} requests a second.")
    screen.print()
    columns = [
        Column(title="Part"),
        Column(title="There", right=True),
        Column(title="Busy", right=True),
        Column(title="Full at, /s", right=True),
        Column(title="Needed", right=True),
        Column(title="Basis", spare=1),
    ]
    rows = [
        (
            part.name,
            f"{part.have:,}",
            _busy(part.busy),
            "–" if part.full_at is None else _number(part.full_at),
            "more do not help" if part.needed is None else f"{part.needed:,}",
            part.basis.value,
        )
        for part in made.parts
    ]
    screen.show(table(screen, columns, rows))
    screen.print()
    figures = [
        ("Proxy, CPU of a request", f"{_number(made.costs.proxy)} µs"),
        ("Proxy, hosts needed", "–" if made.hosts is None else f"{made.hosts:,}"),
        ("Store, CPU of a request", f"{_number(made.costs.store)} µs"),
        ("Store, commands a second", _number(made.commands)),
        ("Store, traffic a second", size(round(made.traffic))),
        ("Store, memory", size(round(made.memory))),
    ]
    screen.show(table(screen, [Column(title="Figure"), Column(title="Value", right=True)], figures))
    screen.print()
    least, most = known.bodies
    screen.say(
        f"Needed: so many that each is busy for 70 % at most. Measured: responses of {least:,} to {most:,} bytes, up to"
        f" {known.entries:,} entries and {known.workers} workers, one store (docs/scaling.md); beyond that it is"
        " extrapolated."
    )


def _number(value: float) -> str:
    """Return a number with three digits that count."""
    if not value:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}" if digits == 0 else f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _busy(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}" if share >= 0.001 else "< 0.1%"  # noqa: PLR2004
