"""What all parts of one process share: its settings and address, its clock, log, metrics and background tasks."""

from __future__ import annotations

import secrets
import socket
from typing import TextIO

from ollama_cache_proxy.core.facts import Health, Observer, Part, fan_out
from ollama_cache_proxy.core.fast_path import Each
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.log_setup import log_loop_errors, log_of
from ollama_cache_proxy.service.sealing import codec_of, seal_key
from ollama_cache_proxy.service.settings import Settings
from ollama_cache_proxy.service.siblings import SiblingProcesses
from ollama_cache_proxy.service.sockets import Address, address_of
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.stores.codecs import Codec
from ollama_cache_proxy.telemetry.log import Log
from ollama_cache_proxy.telemetry.metrics import Metrics
from ollama_cache_proxy.telemetry.recent import Recent


@record
class Context:
    """What every part is given. `siblings` are the other workers of this proxy; None without workers.

    `instance` tells this proxy from others in Via; all of its workers have the same.
    """

    settings: Settings
    address: Address
    clock: SystemClock
    tasks: Tasks
    log: Log
    metrics: Metrics
    recent: Recent
    siblings: SiblingProcesses | None
    instance: str
    codec: Codec
    """Makes bytes of entries, for a store outside this process."""

    @property
    def each(self) -> Each | None:
        """What is told of each hit of the fast path: the log, where it has a line for each request."""
        return self.log.again if self.log.requests else None

    def observer(self, *more: Observer) -> Observer:
        """Return an observer that passes facts to metrics, log and recent requests, and to `more`."""
        return fan_out((self.metrics, self.log, self.recent, *more))


def open_context(settings: Settings, sock: socket.socket, stream: TextIO, siblings: SiblingProcesses | None) -> Context:
    """Return the context of this process; raise SettingsError.

    From now on errors of the running event loop go to its log.
    """
    codec = codec_of(seal_key(settings) if siblings is None else siblings.seal_key)
    clock = SystemClock()
    metrics = Metrics()
    quiet = siblings is not None and not siblings.logs_start
    log = log_of(settings, stream, clock, quiet=quiet, dropped=metrics.log_line_dropped)
    log_loop_errors(log, clock)
    metrics(Health(part=Part.STORE, well=True, name=""))  # until a store reports otherwise; the memory store never does
    return Context(
        settings=settings,
        address=address_of(sock, settings),
        clock=clock,
        tasks=Tasks(),
        log=log,
        metrics=metrics,
        recent=Recent(clock.now),
        siblings=siblings,
        instance=new_instance() if siblings is None else siblings.instance,
        codec=codec,
    )


def new_instance() -> str:
    """Return what tells a proxy from all others: random, so that it says nothing of the machine."""
    return secrets.token_hex(8)
