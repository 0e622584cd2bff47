"""Model names to digests, from Ollama's own table (`GET /api/tags`, `GET /api/version`), kept fresh.

Ollama's table is probed every `POLL` seconds while candidates arrive, and while identities that were handed out are in
use. A candidate that finds the table older than `STALE` waits up to `MAX_WAIT` for a new probe. The old table is used
only if Ollama cannot be reached, or has not responded for `POLL` seconds. While a request that changes a model passes
through the proxy, and until a probe that was started after its end, that model has no digest.
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.ports import Clock, Identity, Siblings, Topic, Upstream
from ollama_cache_proxy.core.store_ports import ValueStore
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy import model_names, model_rows
from ollama_cache_proxy.policy.context_lengths import UNKNOWN
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.upstream.loaded_contexts import LoadedContexts
from ollama_cache_proxy.upstream.probes import read_json

POLL: Final = 5.0
"""Seconds between two probes."""
STALE: Final = 10.0
"""Seconds after which a table is not used without a new probe."""
MAX_WAIT: Final = 1.0
"""Seconds that a candidate waits for a probe at most."""

ANY: Final = "*"
"""Stands for every model, in a change that names none."""


@record
class _Table:
    """What one probe found."""

    started_at: float
    """Monotonic time in seconds."""
    version: str
    """Ollama's version."""
    digests: dict[str, str]
    """By canonical model name; "" for a name whose responses are not reused."""
    widths: dict[str, int]
    """Likewise, how many numbers a model's vectors have; without those of which Ollama does not tell it."""


@dataclass(slots=True, eq=False)
class _Change:
    """A change in progress, or ended with no probe started since."""

    model: str
    ended: float | None = None
    """Monotonic time in seconds."""
    token: str = ""
    """Its name among siblings; empty if they were not told."""


@record
class _Pending:
    """A stored response whose digest the next probe has to confirm."""

    responded_at: float
    """Monotonic time in seconds."""
    identity: Identity
    withdraw: Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class _Stability:
    """See ports.Stability: true until a change passes through the proxy, or a probe finds another table."""

    models: OllamaModels
    edition: int

    def unchanged(self) -> bool:
        return self.models.current_edition == self.edition


class OllamaModels:
    """See ports.Models.

    The latest table is saved in the store under `name`. A probe may take `deadline` seconds, which is more than opening
    a connection may take. No request waits longer than `max_wait` seconds for a probe. `contexts` knows how models are
    loaded; None where that does not matter.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each neighbour once
        self,
        upstream: Upstream,
        store: ValueStore,
        *,
        name: str,
        deadline: float,
        max_wait: float | None = None,
        clock: Clock,
        tasks: Tasks,
        siblings: Siblings | None = None,
        contexts: LoadedContexts | None = None,
    ) -> None:
        self._upstream = upstream
        self._store = store
        self._contexts = contexts
        if contexts is not None:
            contexts.on_change, contexts.digest_of = self._context_changed, self._digest_of
        self._siblings = siblings
        self._sibling_changes: dict[str, _Change] = {}
        self._name = f"models:{name}"
        self._deadline = deadline
        self._max_wait = float("inf") if max_wait is None else max_wait
        self._saved = b""
        self._clock = clock
        self._tasks = tasks
        self._table: _Table | None = None
        self._failed_at = float("-inf")
        self._unreachable = False
        self._probing: asyncio.Task[None] | None = None
        self._probing_since = float("-inf")
        self._stabilities: weakref.WeakSet[_Stability] = weakref.WeakSet()
        self._asked_at = float("-inf")
        self._changes: list[_Change] = []
        self.current_edition = 0
        self._pending: list[_Pending] = []
        self._timer: asyncio.TimerHandle | None = None

    async def identify(self, name: str) -> Identity | None:
        """See ports.Models."""
        model = model_names.canonical(name)
        if model is None:
            return None
        now = self._clock.monotonic()
        self._asked_at = now
        self._schedule()
        table = self._table
        if table is None or now - table.started_at > STALE or self._changed_since_probe(model):
            table = await self._table_since(now - POLL, model)
        if table is not None and model not in table.digests:
            table = await self._table_since(now, model)
        digest = table.digests.get(model) if table is not None else None
        if table is None or not digest or self._changing(model):
            return None
        stability = _Stability(self, self.current_edition)
        self._stabilities.add(stability)
        known = UNKNOWN
        if self._contexts is not None:
            known = self._contexts.known(digest) or await self._contexts.load(digest)
        return Identity(
            model=model,
            digest=digest,
            version=table.version,
            stability=stability,
            width=table.widths.get(model),
            contexts=known,
        )

    async def is_current(self, identity: Identity) -> bool:
        """See ports.Models."""
        asked = self._clock.monotonic()
        table = await self._table_since(asked, identity.model)
        if table is None or table.started_at <= asked or self._changing(identity.model):
            return False
        return (table.digests.get(identity.model), table.version) == (identity.digest, identity.version)

    def edition(self, moment: float) -> int | None:
        """See ports.Models."""
        self._asked_at = moment
        table = self._table
        if table is None or moment - table.started_at > STALE or self._timer is None:
            return None
        return self.current_edition

    def begin_change(self, name: str | None) -> _Change:
        """See ports.Models; `name` is canonical.

        What no probe has confirmed yet is withdrawn: none can any more, since the change may bring a digest back that
        another has replaced unseen.
        """
        change = _Change(name or ANY)
        self._changes.append(change)
        self.current_edition += 1
        for pending in self._taken(lambda pending: change.model in (pending.identity.model, ANY)):
            pending.withdraw()
        return change

    async def change_known(self, token: object) -> None:
        """See ports.Models."""
        assert isinstance(token, _Change)  # noqa: S101 - for the type checker; it came from begin_change
        if self._siblings is not None:
            token.token = secrets.token_hex(8)
            await self._siblings.send_and_wait(Topic.CHANGE_BEGINS, [token.token, token.model])

    def end_change(self, token: object) -> None:
        """See ports.Models. Starts a probe, so that the model is known again soon."""
        assert isinstance(token, _Change)  # noqa: S101 - for the type checker; it came from change_begins
        if self._siblings is not None and token.token:
            self._siblings.send(Topic.CHANGE_ENDS, token.token)
        token.ended = self._clock.monotonic()
        self.current_edition += 1
        self._tasks.spawn(self._probe_after_change(), "probe models after a change")

    async def sibling_change_began(self, change: tuple[str, str]) -> None:
        """Note a change that passes through a sibling: its token and model."""
        token, model = change
        if token not in self._sibling_changes:
            self._sibling_changes[token] = self.begin_change(model)

    async def sibling_change_ended(self, token: str) -> None:
        """Note the end of a sibling's change."""
        change = self._sibling_changes.pop(token, None)
        if change is not None:
            self.end_change(change)

    def confirm(self, identity: Identity, withdraw: Callable[[], None], *, keys: int, plain: bool) -> None:
        """See ports.Models."""
        if plain and self._contexts is not None:
            self._contexts.responded(identity, withdraw, keys)
        self._pending.append(_Pending(responded_at=self._clock.monotonic(), identity=identity, withdraw=withdraw))
        self._schedule()

    def close(self) -> None:
        """Stop probing."""
        if self._timer is not None:
            self._timer.cancel()

    def _context_changed(self) -> None:
        self.current_edition += 1

    def _digest_of(self, model: str) -> str | None:
        return None if self._table is None else self._table.digests.get(model)

    def _changing(self, model: str) -> bool:
        return any(change.model in (model, ANY) for change in self._changes)

    def _changed_since_probe(self, model: str) -> bool:
        """Return whether a change of this model has ended since the last probe was started."""
        return any(
            change.ended is not None and change.ended >= self._last_probe()
            for change in self._changes
            if change.model in (model, ANY)
        )

    def _last_probe(self) -> float:
        started_at = self._table.started_at if self._table is not None else float("-inf")
        return max(started_at, self._failed_at)

    async def _table_since(self, moment: float, model: str) -> _Table | None:
        """Return a table from a probe started after `moment`, or the old one if Ollama cannot be reached; else None."""
        try:
            async with asyncio.timeout(0 if self._is_unresponsive() else min(MAX_WAIT, self._max_wait)):
                while self._last_probe() <= moment or self._changed_since_probe(model):
                    before = self._last_probe()
                    await asyncio.shield(self._probe())
                    if self._failed_at > before:
                        break
        except TimeoutError:
            if not (self._unreachable or self._is_unresponsive()):
                return None
            return self._table
        failed = self._table is None or self._failed_at > self._table.started_at
        return None if failed and not self._unreachable else self._table

    def _is_unresponsive(self) -> bool:
        """Return whether the probe in progress has waited for more than `POLL` seconds: Ollama or the network hangs."""
        in_progress = self._probing is not None and not self._probing.done()
        return in_progress and self._clock.monotonic() - self._probing_since > POLL

    async def _probe_after_change(self) -> None:
        if self._probing is not None and not self._probing.done():  # it may find the state before the change ended
            await asyncio.wait({self._probing})
        await asyncio.shield(self._probe())

    def _probe(self) -> asyncio.Task[None]:
        """Return the probe in progress, or start one."""
        if self._probing is None or self._probing.done():
            self._probing_since = self._clock.monotonic()
            self._probing = self._tasks.spawn(self._probe_once(), "probe models")
        return self._probing

    async def _probe_once(self) -> None:
        started_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._deadline):
                tags, version = await asyncio.gather(self._get("/api/tags"), self._get("/api/version"))
            digests, widths = await _digests_and_widths(tags)
            table = _Table(started_at=started_at, version=_version(version), digests=digests, widths=widths)
        except (ProxyError, TimeoutError):
            if self._table is None:
                self._table = await self._load_saved()
            self._failed_at, self._unreachable = started_at, True
            return
        except (ValueError, KeyError, TypeError, AttributeError):  # not the response of an Ollama
            self._failed_at, self._unreachable = started_at, False
            return
        value = orjson.dumps({"version": table.version, "digests": table.digests, "widths": table.widths})
        if value != self._saved:
            self._tasks.spawn(self._save(value), "save the digests")
        known = self._table
        if known is not None and replace(known, started_at=started_at) != table:
            self.current_edition += 1
        self._table, self._unreachable = table, False
        self._changes = [change for change in self._changes if change.ended is None or change.ended >= started_at]
        self._withdraw_outdated(table)

    async def _save(self, value: bytes) -> None:
        """Save the digests in the store; after a failure the next probe tries again."""
        if await self._store.save(self._name, value):
            self._saved = value

    async def _load_saved(self) -> _Table | None:
        """Return the table that was saved last: a proxy that starts while Ollama is down uses it."""
        value = await self._store.load(self._name)
        try:
            saved = orjson.loads(value or b"")
            digests = {str(model): str(digest) for model, digest in saved["digests"].items()}
            widths = {str(model): int(width) for model, width in saved.get("widths", {}).items()}
            return _Table(started_at=float("-inf"), version=str(saved["version"]), digests=digests, widths=widths)
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
            return None

    def _withdraw_outdated(self, table: _Table) -> None:
        """Withdraw stored responses whose digest the table no longer confirms."""
        for pending in self._taken(lambda pending: pending.responded_at < table.started_at):
            if table.digests.get(pending.identity.model) != pending.identity.digest:
                pending.withdraw()

    def _taken(self, due: Callable[[_Pending], bool]) -> list[_Pending]:
        """Return the stored responses that are due, of which none is pending any more."""
        taken = [pending for pending in self._pending if due(pending)]
        self._pending = [pending for pending in self._pending if not due(pending)]
        return taken

    async def _get(self, path: str) -> Any:
        request = Request(method="GET", target=path, fields=((b"User-Agent", b"ollama-cache-proxy"),))
        return await read_json(self._upstream, request)

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._pending or self._stabilities or self._clock.monotonic() - self._asked_at < STALE:
            self._probe()
            self._schedule()


def _version(document: Any) -> str:
    """Return Ollama's version, which is part of every key. Raise ValueError where none is told."""
    version = model_rows.version(document)
    if not version:
        raise ValueError("no version")
    return version


async def _digests_and_widths(document: Any) -> tuple[dict[str, str], dict[str, int]]:
    """Return digests, and how many numbers vectors have, by canonical name.

    A digest is "" for a model on another machine, for names that differ only in case, and where none is told. Widths
    are told since 0.30 (`details` in `api/types.go`). Yields to the event loop now and then: a table may have thousands
    of models.
    """
    digests: dict[str, str] = {}
    widths: dict[str, int] = {}
    for number, row in enumerate(document["models"] or [], 1):
        if not number % _MODELS_AT_ONCE:
            await asyncio.sleep(0)
        name = model_rows.named(row)
        model = model_names.canonical(name)
        if model is None:
            continue
        remote = row.get("remote_host") or row.get("remote_model") or model_names.is_remote(name)
        digests[model] = "" if remote or model in digests else model_rows.text(row, "digest")
        width = model_rows.figure(model_rows.part(row, "details"), "embedding_length")
        if width:
            widths[model] = width
    return digests, widths


_MODELS_AT_ONCE: Final = 1000
"""Models of a table that are read in one turn of the event loop."""
