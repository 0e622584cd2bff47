"""Model names to digests, from Ollama's own table (`GET /api/tags`, `GET /api/version`), kept fresh.

The table is looked at every `POLL` seconds while candidates arrive, and while what was asked is waited for. A candidate
that finds it older than `STALE` waits up to `MAX_WAIT` for a fresh look; only where Ollama cannot be reached, or says
nothing for `POLL` seconds, does the old table serve on. While a request that changes a model passes, and until a look
begun after it ended, that model has no digest.
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ollama_cache_proxy.core.errors import ProxyError
from ollama_cache_proxy.core.ports import Clock, Identity, Siblings, Topic, Upstream
from ollama_cache_proxy.core.store_ports import ValueStore
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy import model_names
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.record import record

POLL: Final = 5.0
STALE: Final = 10.0
MAX_WAIT: Final = 1.0
_OK: Final = 200

ANY: Final = "*"
"""Stands for every model, where a change did not say which one it is about."""


@record
class _Table:
    """One probe: canonical names to digests. `started_at` is monotonic; a name with the digest "" is not reused."""

    started_at: float
    version: str
    digests: dict[str, str]


@dataclass(slots=True, eq=False)
class _Change:
    """A change under way, or ended and not yet looked at since; `token` names it where siblings were told of it."""

    model: str
    ended: float | None = None
    token: str = ""


@record
class _Pending:
    """An answer kept under a digest that the next look has to confirm."""

    responded_at: float
    identity: Identity
    withdraw: Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class _Stability:
    """See ports.Stability: no change through the proxy has begun or ended since, and no look has seen another table."""

    models: OllamaModels
    edition: int

    def unchanged(self) -> bool:
        return self.models.current_edition == self.edition


class OllamaModels:
    """See ports.Models.

    What was seen last is kept in the store under `name`. A look may take `deadline` seconds, longer than a connection.
    Nobody waits longer than `max_wait` for one.
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
    ) -> None:
        self._upstream = upstream
        self._store = store
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
        return Identity(model=model, digest=digest, version=table.version, stability=stability)

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
        """See ports.Models; `name` is canonical."""
        change = _Change(name or ANY)
        self._changes.append(change)
        self.current_edition += 1
        return change

    async def change_known(self, token: object) -> None:
        """See ports.Models."""
        assert isinstance(token, _Change)  # noqa: S101 - for the type checker; it came from begin_change
        if self._siblings is not None:
            token.token = secrets.token_hex(8)
            await self._siblings.send_and_wait(Topic.CHANGE_BEGINS, [token.token, token.model])

    def end_change(self, token: object) -> None:
        """See ports.Models. Looks at once, so that the model is known again soon."""
        assert isinstance(token, _Change)  # noqa: S101 - for the type checker; it came from begin_change
        if self._siblings is not None and token.token:
            self._siblings.send(Topic.CHANGE_ENDS, token.token)
        token.ended = self._clock.monotonic()
        self.current_edition += 1
        self._tasks.spawn(self._probe_after_change(), "look at models after a change")

    async def sibling_change_began(self, change: tuple[str, str]) -> None:
        """Know of a change that passes through a sibling: its token and model."""
        token, model = change
        if token not in self._sibling_changes:
            self._sibling_changes[token] = self.begin_change(model)

    async def sibling_change_ended(self, token: str) -> None:
        """Know that a sibling's change has ended."""
        change = self._sibling_changes.pop(token, None)
        if change is not None:
            self.end_change(change)

    def confirm(self, identity: Identity, withdraw: Callable[[], None]) -> None:
        """See ports.Models."""
        self._pending.append(_Pending(responded_at=self._clock.monotonic(), identity=identity, withdraw=withdraw))
        self._schedule()

    def close(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()

    def _changing(self, model: str) -> bool:
        return any(change.model in (model, ANY) for change in self._changes)

    def _changed_since_probe(self, model: str) -> bool:
        """Whether a change of this model has ended that no look was begun after."""
        return any(
            change.ended is not None and change.ended >= self._last_probe()
            for change in self._changes
            if change.model in (model, ANY)
        )

    def _last_probe(self) -> float:
        started_at = self._table.started_at if self._table is not None else float("-inf")
        return max(started_at, self._failed_at)

    async def _table_since(self, moment: float, model: str) -> _Table | None:
        """Give a table from a look begun after `moment`; the old one where Ollama cannot be reached; else None."""
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
        """Whether Ollama has said nothing for so long that it will not: it is stopped, or the way to it is."""
        in_progress = self._probing is not None and not self._probing.done()
        return in_progress and self._clock.monotonic() - self._probing_since > POLL

    async def _probe_after_change(self) -> None:
        if (
            self._probing is not None and not self._probing.done()
        ):  # begun before the change ended: what it sees may be the old state
            await asyncio.wait({self._probing})
        await asyncio.shield(self._probe())

    def _probe(self) -> asyncio.Task[None]:
        """Join the look under way, or begin one."""
        if self._probing is None or self._probing.done():
            self._probing_since = self._clock.monotonic()
            self._probing = self._tasks.spawn(self._probe_once(), "look at models")
        return self._probing

    async def _probe_once(self) -> None:
        started_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._deadline):
                tags, version = await asyncio.gather(self._get("/api/tags"), self._get("/api/version"))
            table = _Table(started_at=started_at, version=_version(version), digests=_digests(tags))
        except (ProxyError, TimeoutError):
            if self._table is None:
                self._table = await self._load_saved()
            self._failed_at, self._unreachable = started_at, True
            return
        except (ValueError, KeyError, TypeError, AttributeError):  # no answer of Ollama's
            self._failed_at, self._unreachable = started_at, False
            return
        value = orjson.dumps({"version": table.version, "digests": table.digests})
        if value != self._saved:
            self._tasks.spawn(self._save(value), "save the digests")
        known = self._table
        if known is not None and (known.digests, known.version) != (table.digests, table.version):
            self.current_edition += 1
        self._table, self._unreachable = table, False
        self._changes = [change for change in self._changes if change.ended is None or change.ended >= started_at]
        self._withdraw_outdated(table)

    async def _save(self, value: bytes) -> None:
        """Keep the digests in the store; what fails is tried again after the next look."""
        if await self._store.save(self._name, value):
            self._saved = value

    async def _load_saved(self) -> _Table | None:
        """Give the table that was saved last: a proxy that starts while Ollama is down goes on with it."""
        value = await self._store.load(self._name)
        try:
            saved = orjson.loads(value or b"")
            digests = {str(model): str(digest) for model, digest in saved["digests"].items()}
            return _Table(started_at=float("-inf"), version=str(saved["version"]), digests=digests)
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
            return None

    def _withdraw_outdated(self, table: _Table) -> None:
        """Withdraw what was kept under a digest that has gone."""
        due = [pending for pending in self._pending if pending.responded_at < table.started_at]
        self._pending = [pending for pending in self._pending if pending.responded_at >= table.started_at]
        for pending in due:
            if table.digests.get(pending.identity.model) != pending.identity.digest:
                pending.withdraw()

    async def _get(self, path: str) -> Any:
        request = Request(method="GET", target=path, fields=((b"User-Agent", b"ollama-cache-proxy"),))
        async with self._upstream.ask(request, None) as response:
            body = b"".join([chunk async for chunk in response.chunks()])
            if response.head.status != _OK:
                raise ValueError(path)
        return orjson.loads(body)

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._pending or self._stabilities or self._clock.monotonic() - self._asked_at < STALE:
            self._probe()
            self._schedule()


def _version(document: Any) -> str:
    return str(document["version"])


def _digests(document: Any) -> dict[str, str]:
    """Give canonical names to digests; "" for what another machine serves, and for names that differ only in case."""
    digests: dict[str, str] = {}
    for row in document["models"] or []:
        model = model_names.canonical(row["name"])
        if model is None:
            continue
        remote = row.get("remote_host") or row.get("remote_model") or model_names.is_remote(row["name"])
        digests[model] = "" if remote or model in digests else str(row["digest"])
    return digests
