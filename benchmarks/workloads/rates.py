"""The hits that a cache would have had, computed from texts only.

Two requests have the same key if their texts are equal (policy/key.py), since model and fields are always the same
here. The time is an argument, that of the commits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from benchmarks.workloads.requests import CATEGORIES, EMBED, Asked


class Contents(Protocol):
    """The contents of a cache."""

    def knows(self, key: Hashable, now: int) -> bool:
        """Return whether there is a fresh entry with this key."""

    def store(self, key: Hashable, now: int, size: int) -> None:
        """Store an entry of `size` bytes."""


class Expiring:
    """Entries that are fresh for `lifetime` seconds after they were stored (RFC 9111, section 4.2), or forever."""

    def __init__(self, lifetime: int | None = None) -> None:
        self._lifetime = lifetime
        self._stored: dict[Hashable, int] = {}

    def knows(self, key: Hashable, now: int) -> bool:
        stored = self._stored.get(key)
        return stored is not None and (self._lifetime is None or now - stored < self._lifetime)

    def store(self, key: Hashable, now: int, size: int) -> None:  # noqa: ARG002 - nothing is evicted here
        self._stored[key] = now


class Idle:
    """Entries that are fresh for `lifetime` seconds after they were stored or asked for, and `most` after storing."""

    def __init__(self, lifetime: int, most: int) -> None:
        self._lifetime, self._most = lifetime, most
        self._stored: dict[Hashable, int] = {}
        self._used: dict[Hashable, int] = {}

    def knows(self, key: Hashable, now: int) -> bool:
        stored = self._stored.get(key)
        known = stored is not None and now - stored < self._most and now - self._used[key] < self._lifetime
        if known:
            self._used[key] = now
        return known

    def store(self, key: Hashable, now: int, size: int) -> None:  # noqa: ARG002 - nothing is evicted here
        self._stored[key] = self._used[key] = now


class Versions:
    """Entries of the current version of Ollama, which is part of every key; a new one comes every so many seconds."""

    def __init__(self, make: Callable[[], Contents], every: int) -> None:
        self._make, self._every = make, every
        self._contents, self._version = make(), -1

    def knows(self, key: Hashable, now: int) -> bool:
        return self._current(now).knows(key, now)

    def store(self, key: Hashable, now: int, size: int) -> None:
        self._current(now).store(key, now, size)

    def _current(self, now: int) -> Contents:
        version = now // self._every
        if version != self._version:
            self._contents, self._version = self._make(), version
        return self._contents


class Bounded:
    """The most recently used entries, up to `room` bytes, which Redis' allkeys-lru approximates by samples."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._sizes: dict[Hashable, int] = {}
        self.held = 0
        self.evicted = 0

    @property
    def entries(self) -> int:
        """The number of entries."""
        return len(self._sizes)

    def knows(self, key: Hashable, now: int) -> bool:  # noqa: ARG002 - nothing expires here
        size = self._sizes.pop(key, None)
        if size is not None:
            self._sizes[key] = size
        return size is not None

    def store(self, key: Hashable, now: int, size: int) -> None:  # noqa: ARG002 - likewise
        self.held += size - self._sizes.pop(key, 0)
        self._sizes[key] = size
        while self.held > self._room and self._sizes:
            self.held -= self._sizes.pop(next(iter(self._sizes)))
            self.evicted += 1


class ExpiringBounded(Bounded):
    """The same, where entries are also fresh for `lifetime` seconds only."""

    def __init__(self, lifetime: int, room: int) -> None:
        super().__init__(room)
        self._expiring = Expiring(lifetime)

    def knows(self, key: Hashable, now: int) -> bool:
        return super().knows(key, now) and self._expiring.knows(key, now)

    def store(self, key: Hashable, now: int, size: int) -> None:
        super().store(key, now, size)
        self._expiring.store(key, now, size)


@dataclass(slots=True)
class Tally:
    """Counts of requests and items, and of hits; a request is a hit if all of its items are."""

    requests: int = 0
    request_hits: int = 0
    items: int = 0
    item_hits: int = 0

    def add(self, known: int, items: int) -> None:
        """Count a request."""
        self.requests += 1
        self.request_hits += known == items
        self.items += items
        self.item_hits += known

    @property
    def by_request(self) -> float | None:
        """Hits in percent of requests, None without requests."""
        return percent(self.request_hits, self.requests)

    @property
    def by_item(self) -> float | None:
        """Hits in percent of items, None without items."""
        return percent(self.item_hits, self.items)


def percent(part: float, whole: float) -> float | None:
    """Return a share in percent with one decimal."""
    return round(100 * part / whole, 1) if whole else None


@dataclass(slots=True)
class Tallies:
    """A Tally for each category."""

    by_category: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in CATEGORIES})

    @property
    def overall(self) -> Tally:
        """The sum of all categories."""
        return self.of(CATEGORIES)

    def of(self, categories: Iterable[str]) -> Tally:
        """Return the sum of some categories."""
        every = [self.by_category[name] for name in categories]
        return Tally(
            requests=sum(one.requests for one in every),
            request_hits=sum(one.request_hits for one in every),
            items=sum(one.items for one in every),
            item_hits=sum(one.item_hits for one in every),
        )


_NO_SIZES: Final[Mapping[str, int]] = dict.fromkeys(CATEGORIES, 0)


class Cache:
    """A cache with the rules of the proxy; `sizes` are the bytes of an entry by category.

    Without `itemwise` a list is one entry.
    """

    def __init__(self, contents: Contents, *, itemwise: bool = True, sizes: Mapping[str, int] = _NO_SIZES) -> None:
        self._contents, self._itemwise, self._sizes = contents, itemwise, sizes
        self._exact: set[str] = set()

    def ask(self, one: Asked) -> tuple[str, ...]:
        """Return the texts that must be sent to Ollama, each once, none for a hit; they are stored afterwards."""
        size = self._sizes[one.category]
        if one.category != EMBED or not self._itemwise:
            whole = (one.category, one.texts)
            if self._contents.knows(whole, one.at):
                return ()
            self._contents.store(whole, one.at, size * len(one.texts))
            return tuple(dict.fromkeys(one.texts))
        texts = tuple(dict.fromkeys(one.texts))
        missing = tuple(text for text in texts if not self._may_answer(text, one.at, alone=len(one.texts) == 1))
        for text in missing:
            self._contents.store(text, one.at, size)
        if len(missing) == 1:
            self._exact.add(missing[0])
        else:
            self._exact.difference_update(missing)
        return missing

    def _may_answer(self, text: str, now: int, *, alone: bool) -> bool:
        """Return whether an item can be used: a single text needs a token count from a request of its own."""
        return self._contents.knows(text, now) and (not alone or text in self._exact)


def count(before: Iterable[Asked], asked: Iterable[Asked], cache: Cache) -> Tallies:
    """Return the counts for `asked`, after `before` has been sent uncounted."""
    for one in before:
        cache.ask(one)
    tallies = Tallies()
    for one in asked:
        missing = set(cache.ask(one))
        tallies.by_category[one.category].add(sum(text not in missing for text in one.texts), len(one.texts))
    return tallies


def shared_beginning(prompts: Iterable[str]) -> float | None:
    """Return the share of characters that each prompt has in common with the start of the previous one, in percent.

    Ollama need not process that part again if the previous prompt is still in its own cache.
    """
    last, shared, whole = "", 0, 0
    for prompt in prompts:
        pairs = enumerate(zip(last, prompt, strict=False))
        shared += next((at for at, (one, other) in pairs if one != other), min(len(last), len(prompt)))
        whole += len(prompt)
        last = prompt
    return percent(shared, whole)
