"""The names in Redis.

    ocp:1:generation              the current generation: a random token, 32 hexadecimal digits
    ocp:1:e:⟨generation⟩:⟨key⟩    an entry
    ocp:1:f:⟨generation⟩:⟨key⟩    the lease of a flight that proxies share, and the channel of its end
    ocp:1:f:at:⟨process⟩          the channel on which a process hears who follows its streams
    ocp:1:purged                  a random token for each purge that began
    ocp:1:processes               a number for each process, by which others see that it is there
    ocp:1:⟨name⟩                  a value that is no entry, or a hash of totals
    ocp:1:deletions               in a store that is kept: how many deletions there were
    ocp:1:start                   the same: a random token for each start of its server

The generation is part of an entry's name: a lookup finds nothing of an old one, and counting reads no values.

In a cluster, entries are spread over 32 hash tags, and beside those of each there is a copy of the generation, so that
one command reads both:

    {ocp:⟨tag⟩}:1:generation              a copy of the current generation
    {ocp:⟨tag⟩}:1:e:⟨generation⟩:⟨key⟩    an entry
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Iterable, Sequence
from typing import Final

_PREFIX: Final = "ocp:1:"
_ENTRIES: Final = _PREFIX + "e:"
FLIGHTS: Final = _PREFIX + "f:"
PURGED: Final = _PREFIX + "purged"
PROCESSES: Final = _PREFIX + "processes"
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


def flight_name(flight: str) -> str:
    """Return the name of a flight's lease, which is that of its channel too."""
    return FLIGHTS + flight


def ears_of(process: bytes) -> str:
    """Return the name of the channel on which a process hears who wants to follow its streams."""
    return f"{FLIGHTS}at:{process.decode('latin-1')}"


def value_name(name: str) -> str:
    """Return the name of a value that is no entry, or of a hash of totals."""
    return _PREFIX + name


class Layout:
    """The names of entries and of the generation: all of them with one prefix, or spread over several."""

    def __init__(self, prefixes: Sequence[str], *, watched: tuple[str, ...], any_prefix: str) -> None:
        self.generations = tuple(f"{prefix}generation" for prefix in prefixes)
        """The name of each copy of the generation."""
        self.watched = watched
        """Prefixes of the names whose changes invalidate the hot tier."""
        self._prefixes = prefixes
        self._any_prefix = any_prefix
        self._skipped = len(prefixes[0])
        self._watched_generations = frozenset(name.encode() for name in self.generations)

    def entry_name(self, generation: str, key: str) -> str:
        """Return the name of an entry."""
        return f"{self._prefixes[self._place_of(key)]}e:{generation}:{key}"

    def entries_of(self, generation: str) -> str:
        """Return a pattern for SCAN, of the names of all entries of a generation, or of ANY."""
        return f"{self._any_prefix}e:{generation}:{ANY}"

    def generation_beside(self, key: str) -> str:
        """Return the name of the copy of the generation that one command reads together with this entry."""
        return self.generations[self._place_of(key)]

    def probe_name(self, key: str) -> str:
        """Return the name of a value that is written, and deleted, to see whether an entry of this key could be."""
        return f"{self._prefixes[self._place_of(key)]}probe"

    def keys_of(self, generation: str, names: Iterable[bytes]) -> list[str]:
        """Return the keys of entries of this generation, from their names."""
        start = len(self.entry_name(generation, ""))
        return [name.decode("latin-1")[start:] for name in names]

    def own(self, generation: str, names: Iterable[bytes]) -> list[bytes]:
        """Return those of these names of entries that are of this generation."""
        common, skipped = f"e:{generation}:".encode("latin-1"), self._skipped
        return [name for name in names if name.startswith(common, skipped)]

    def changed_keys(self, names: Sequence[bytes] | None) -> list[str] | None:
        """Return the keys of entries with these names; None where a generation is among them, or for None (all)."""
        if names is None or not self._watched_generations.isdisjoint(names):
            return None
        return [name.decode("latin-1").rpartition(":")[2] for name in names]

    def _place_of(self, key: str) -> int:
        return crc32(key.encode()) % len(self._prefixes) if len(self._prefixes) > 1 else 0


TAGS: Final = [
    "q6",
    "yc",
    "jb",
    "b7",
    "h9",
    "34",
    "ly",
    "8u",
    "xe",
    "ha",
    "dt",
    "s5",
    "aj",
    "5f",
    "9s",
    "6c",
    "3c",
    "go",
    "kz",
    "dj",
    "nd",
    "f1",
    "18",
    "9m",
    "fi",
    "iy",
    "95",
    "uh",
    "g7",
    "w3",
    "d2",
    "lg",
]
"""The hash tags in a cluster: one in the middle of each 32nd part of the 16,384 slots. Primaries have about equal parts
of the slots, and so of the entries."""

ONE_SERVER: Final = Layout((_PREFIX,), watched=WATCHED, any_prefix=_PREFIX)
CLUSTER: Final = Layout([f"{{ocp:{tag}}}:1:" for tag in TAGS], watched=("{ocp:",), any_prefix=f"{{ocp:{ANY}}}:1:")
