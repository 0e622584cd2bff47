"""Reading the settings anew while the proxy runs (SIGHUP): which may change, and what becomes of the others.

A reload changes all that may change, or nothing: what can fail, files above all, is read before anything is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.service.settings import Settings, SettingsError

RESTART: Final = frozenset(
    {
        *("listen", "workers", "max_connections", "drain_timeout"),
        *("upstream", "upstreams", "changes_to", "upstream_authorization_for", "connect_timeout", "upstream_timeout"),
        *(
            "store",
            "store_deadline",
            "redis_url",
            "redis_ca",
            "keep",
            "store_dir",
            "store_stop_timeout",
            "seal_key_file",
            "private_redis_bytes",
            "memory_bytes",
            "hot_bytes",
            "max_buffered_bytes",
            "collapse_across_proxies",
        ),
        *(name for name in Settings.model_fields if name.startswith("lanes")),
        *("explain", "audit", "audit_completions"),
        *("log", "log_requests", "development"),
    }
)
"""Settings that only a restart changes: what they decide is made once, at the start. All others change by a reload."""
_WITH_TLS: Final = ("tls_cert", "tls_key")
"""Other files may take their place, but whether the listener speaks TLS is decided at the start."""


@record
class Changes:
    """The settings after a reload: names of those that change, and of those that would take a restart."""

    settings: Settings
    changed: tuple[str, ...]
    left_out: tuple[str, ...]


def changes(old: Settings, new: Settings) -> Changes:
    """Return what becomes of settings that were read anew; those that take a restart stay as they are."""
    differ = [name for name in Settings.model_fields if getattr(old, name) != getattr(new, name)]
    fixed = RESTART if (old.tls_cert is None) == (new.tls_cert is None) else RESTART.union(_WITH_TLS)
    left_out = tuple(name for name in differ if name in fixed)
    return Changes(
        settings=new.model_copy(update={name: getattr(old, name) for name in left_out}),
        changed=tuple(name for name in differ if name not in fixed),
        left_out=left_out,
    )


class Reloads:
    """Reads the settings anew when it is called, one reload at a time.

    `read` returns the settings, and `apply` puts them in the place of the current ones; both may raise SettingsError.
    `say` writes a log line, True for a warning; `busy` is told when a reload begins and when it has ended.
    """

    def __init__(  # noqa: PLR0913 - what a reload reads, changes and tells
        self,
        settings: Settings,
        *,
        read: Callable[[], Settings],
        apply: Callable[[Settings], Awaitable[None]],
        say: Callable[[str, bool], None],
        busy: Callable[[bool], None],
        tasks: Tasks,
    ) -> None:
        self._settings = settings
        self._read = read
        self._apply = apply
        self._say = say
        self._busy = busy
        self._tasks = tasks
        self._running = False
        self._again = False

    def __call__(self) -> None:
        """Start a reload; what is asked for during one is done once, after it."""
        self._again = True
        if not self._running:
            self._running = True
            self._tasks.spawn(self._run(), "reload")

    async def _run(self) -> None:
        self._busy(True)  # noqa: FBT003 - see the class
        try:
            while self._again:
                self._again = False
                await self._reload()
        finally:
            self._running = False
            self._busy(False)  # noqa: FBT003

    async def _reload(self) -> None:
        try:
            found = changes(self._settings, await asyncio.to_thread(self._read))
            await self._apply(found.settings)
        except (SettingsError, OSError) as error:
            self._say(f"Not reloaded, everything stays as it was: {error}", True)  # noqa: FBT003
            return
        self._settings = found.settings
        what = f"{', '.join(found.changed)} changed" if found.changed else "no setting has changed"
        self._say(f"Reloaded: {what}; certificates and credentials were read anew", False)  # noqa: FBT003
        if found.left_out:
            self._say(f"Not changed, since that takes a restart: {', '.join(found.left_out)}", True)  # noqa: FBT003
