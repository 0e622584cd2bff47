"""The key of the fingerprints that are stored with entries: random, and kept in the store alone. Off by default."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

from ollama_cache_proxy.core.store_ports import ValueStore
from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.fingerprints import fingerprints
from ollama_cache_proxy.policy.key import Scope
from ollama_cache_proxy.policy.messages import Fields

_NAME: Final = "marks-key"
_BYTES: Final = 32


class Fingerprinting:
    """Makes fingerprints, where they are `on` and the store has a key for them."""

    def __init__(self, store: ValueStore, *, on: bool) -> None:
        self._store = store
        self.on = on
        self._secret: bytes | None = None

    async def renew(self) -> None:
        """Read the key again: the store may have lost it, and another proxy set a new one."""
        self._secret = await self._store.set_default(_NAME, secrets.token_bytes(_BYTES)) if self.on else None

    async def of(self, candidate: Candidate, text: str | None, scope: Scope, fields: Fields) -> Mapping[str, str]:
        """Return the fingerprints of a request, or of one text of its list; none where there is no key."""
        if self.on and self._secret is None:
            await self.renew()
        return {} if self._secret is None else fingerprints(candidate, text, scope, fields, self._secret)
