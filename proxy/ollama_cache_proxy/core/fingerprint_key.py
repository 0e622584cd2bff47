"""The key of the fingerprints that are stored with entries: random, and kept in the store alone. Off by default.

Where entries are sealed, it is derived from the key that seals them, and not stored.
"""

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
    """Makes fingerprints, where they are `on`, with `secret`, or else with a key that the store has."""

    def __init__(self, store: ValueStore, *, on: bool, secret: bytes | None = None) -> None:
        self._store = store
        self.on = on
        self._given = secret
        self._secret: bytes | None = None

    async def renew(self) -> None:
        """Read the key again: the store may have lost it, and another proxy set a new one."""
        self._secret = self._given
        if self.on and self._given is None:
            self._secret = await self._store.set_default(_NAME, secrets.token_bytes(_BYTES))

    async def of(self, candidate: Candidate, text: str | None, scope: Scope, fields: Fields) -> Mapping[str, str]:
        """Return the fingerprints of a request, or of one text of its list; none where there is no key."""
        if self.on and self._secret is None:
            await self.renew()
        return {} if self._secret is None else fingerprints(candidate, text, scope, fields, self._secret)
