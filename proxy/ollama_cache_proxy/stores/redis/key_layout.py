"""The names in Redis.

    ocp:1:generation              the current generation: a random token, 32 hexadecimal digits
    ocp:1:e:⟨generation⟩:⟨key⟩    an entry
    ocp:1:⟨name⟩                  a value that is no entry, or a hash of totals
    ocp:1:deletions               in a store that is kept: how many deletions there were
    ocp:1:start                   the same: a random token for each start of its server

The generation is part of an entry's name: a lookup finds nothing of an old one, and counting reads no values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_PREFIX: Final = "ocp:1:"
_ENTRIES: Final = _PREFIX + "e:"
GENERATION: Final = _PREFIX + "generation"
DELETIONS: Final = _PREFIX + "deletions"
START: Final = _PREFIX + "start"
PROBED: Final = (GENERATION, _PREFIX + "probe")
"""Two names in different slots of a cluster, for a lookup that finds out whether there can be any."""
WATCHED: Final = (_ENTRIES, GENERATION)
"""Prefixes of the names whose changes invalidate the hot tier."""
ANY: Final = "*"
"""In place of a generation or a key, in a pattern for SCAN."""


def entry_name(generation: str, key: str) -> str:
    """Return the name of an entry."""
    return f"{_ENTRIES}{generation}:{key}"


def value_name(name: str) -> str:
    """Return the name of a value that is no entry, or of a hash of totals."""
    return _PREFIX + name


def keys_of(generation: str, names: Iterable[bytes]) -> list[str]:
    """Return the keys of entries of this generation, from their names."""
    start = len(entry_name(generation, ""))
    return [name.decode("latin-1")[start:] for name in names]


def changed_keys(names: Sequence[bytes] | None) -> list[str] | None:
    """Return the keys of entries with these names; None where the generation is one of them, or for None (all)."""
    if names is None or GENERATION.encode() in names:
        return None
    return [name.decode("latin-1").rpartition(":")[2] for name in names]
