"""What a cache would have known, by arithmetic on texts alone.

Two requests have one key where their texts are the same (policy/key.py): model, fields and all else are the same here.
Time is an argument, that of the commits, so hours pass between two requests in no time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from benchmarks.workloads.requests import CATEGORIES, EMBED, Asked


class Contents(Protocol):
    """What a cache holds."""

    def knows(self, key: Hashable, now: int) -> bool:
        """Whether an entry of this key may answer."""

    def store(self, key: Hashable, now: int, size: int) -> None:
        """Store an entry of so many bytes."""


class Expiring:
    """Keeps everything for `lifetime` seconds from when it was stored (RFC 9111, section 4.2), or for ever."""

    def __init__(self, lifetime: int | None = None) -> None:
        self._lifetime = lifetime
        self._stored: dict[Hashable, int] = {}

    def knows(self, key: Hashable, now: int) -> bool:
        stored = self._stored.get(key)
        return stored is not None and (self._lifetime is None or now - stored < self._lifetime)

    def store(self, key: Hashable, now: int, size: int) -> None:  # noqa: ARG002 - room is not what ends here
        self._stored[key] = now


class Bounded:
    """Keeps what was asked for last, up to `room` bytes. Redis' own allkeys-lru comes close to it by samples."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._sizes: dict[Hashable, int] = {}
        self.held = 0
        self.evicted = 0

    @property
    def entries(self) -> int:
        """How many there are."""
        return len(self._sizes)

    def knows(self, key: Hashable, now: int) -> bool:  # noqa: ARG002 - time is not what ends here
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


@dataclass(slots=True)
class Tally:
    """Requests and their items, and how many of them were known; a request is known when all of its items are."""

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
        """Hits in percent of the requests, None where there are none."""
        return percent(self.request_hits, self.requests)

    @property
    def by_item(self) -> float | None:
        """Hits in percent of the items, None where there are none."""
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
        """All of them as one."""
        every = self.by_category.values()
        return Tally(
            requests=sum(one.requests for one in every),
            request_hits=sum(one.request_hits for one in every),
            items=sum(one.items for one in every),
            item_hits=sum(one.item_hits for one in every),
        )


_NO_SIZES: Final[Mapping[str, int]] = dict.fromkeys(CATEGORIES, 0)


class Cache:
    """What answers as the proxy does; `sizes` are the bytes of an entry by category.

    Without `itemwise` a list is known as a whole or not at all.
    """

    def __init__(self, contents: Contents, *, itemwise: bool = True, sizes: Mapping[str, int] = _NO_SIZES) -> None:
        self._contents, self._itemwise, self._sizes = contents, itemwise, sizes
        self._exact: set[str] = set()

    def ask(self, one: Asked) -> tuple[str, ...]:
        """Return the texts that have to be asked of Ollama, each once: none for a hit. They are known from then on."""
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
        """Whether an item may answer: a single text needs the count of tokens that only its own request brings."""
        return self._contents.knows(text, now) and (not alone or text in self._exact)


def count(before: Iterable[Asked], asked: Iterable[Asked], cache: Cache) -> Tallies:
    """Ask `before` uncounted and the rest counted."""
    for one in before:
        cache.ask(one)
    tallies = Tallies()
    for one in asked:
        missing = set(cache.ask(one))
        tallies.by_category[one.category].add(sum(text not in missing for text in one.texts), len(one.texts))
    return tallies


def shared_beginning(prompts: Iterable[str]) -> float | None:
    """Return how much of what is asked of Ollama begins as the prompt before it did, in percent of its characters.

    That much Ollama itself need not read again, where the prompt before it is still in its own cache.
    """
    last, shared, whole = "", 0, 0
    for prompt in prompts:
        pairs = enumerate(zip(last, prompt, strict=False))
        shared += next((at for at, (one, other) in pairs if one != other), min(len(last), len(prompt)))
        whole += len(prompt)
        last = prompt
    return percent(shared, whole)
