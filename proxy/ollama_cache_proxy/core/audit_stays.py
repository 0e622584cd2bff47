"""Has models leave memory when they would have left it without the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ollama_cache_proxy.core.ports import Clock, Identity, Runner, Runners
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy import audit_stay
from ollama_cache_proxy.policy.audit_stay import Stay

_LONGEST: Final = 86_400.0
"""Seconds. A model that is loaded for longer is not unloaded."""
_LOOK: Final = 1.0
"""Seconds after which it looks again whether clients' requests are under way."""
_TRIES: Final = 60
_SHORTEST: Final = 0.05
"""Seconds that it sleeps at least: timers of uvloop end up to half a millisecond early, which used up the tries."""
_LOOKS: Final = 5
_BETWEEN_LOOKS: Final = 0.05
"""How often, and seconds between: Ollama may set the time of expiry when it begins, and a moment after it responded."""


class Stays:
    """By digest, until when models would be loaded. `quiet` tells whether no client's request is under way."""

    def __init__(self, runners: Runners, quiet: Callable[[], Awaitable[bool]], *, clock: Clock, tasks: Tasks) -> None:
        self._runners = runners
        self._quiet = quiet
        self._clock = clock
        self._tasks = tasks
        self._stays: dict[str, Stay] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}

    def may_ask(self, identity: Identity, runner: Runner) -> bool:
        """Return whether a loaded model would be loaded without the audit too; note that it is about to be asked."""
        stay = audit_stay.before(self._stays.get(identity.digest), runner.expires)
        self._stays[identity.digest] = stay
        return self._clock.now() < stay.natural

    async def asked(self, identity: Identity) -> Runner | None:
        """Note that a model has been asked; return how it is loaded now. It leaves when it would have."""
        runner, stay = await self._runners.loaded(identity), self._stays.get(identity.digest)
        for _ in range(_LOOKS):
            if runner is None or stay is None:
                break
            seen = runner.expires
            await self._clock.sleep(_BETWEEN_LOOKS)
            runner = await self._runners.loaded(identity)
            if runner is not None and runner.expires == seen != (stay.ours or stay.natural):
                break
        if runner is None or stay is None:
            self.forget(identity)
            return runner
        self._stays[identity.digest] = audit_stay.after(stay, runner.expires)
        left = stay.natural - self._clock.now()
        if identity.digest not in self._leaving and left <= _LONGEST:
            leaving = self._tasks.spawn(self._leave(identity), "unload an audited model", endless=True)
            self._leaving[identity.digest] = leaving
        return runner

    def forget(self, identity: Identity) -> None:
        """Take the model's time of expiry as it is: it is not known whose it is."""
        self._stays.pop(identity.digest, None)

    async def _leave(self, identity: Identity) -> None:
        """Unload a model when its time has come, unless others have used it; give up where they always do."""
        try:
            for _ in range(_TRIES):
                stay = self._stays.get(identity.digest)
                if stay is None:
                    return
                left = stay.natural - self._clock.now()
                if left > 0:
                    await self._clock.sleep(max(left, _SHORTEST))
                elif not await self._quiet():
                    await self._clock.sleep(_LOOK)
                else:
                    await self._unload(identity)
                    return
        finally:
            del self._leaving[identity.digest]
            self.forget(identity)

    async def _unload(self, identity: Identity) -> None:
        runner, stay = await self._runners.loaded(identity), self._stays.get(identity.digest)
        if runner is not None and stay is not None and audit_stay.is_over(stay, runner.expires, self._clock.now()):
            await self._runners.unload(identity)
