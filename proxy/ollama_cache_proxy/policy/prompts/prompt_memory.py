"""The latest prompts of one model: how much of a new one Ollama had worked on already, and what it has lost.

Ollama holds what it worked on last, prompt and answer, once for each slot (OLLAMA_NUM_PARALLEL), while the model is
loaded. A request gets the slot with which it shares most, and what they share from the beginning is not computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.prompts.prompt_parts import Prompt, Text
from ollama_cache_proxy.policy.prompts.prompt_places import Place, place
from ollama_cache_proxy.policy.prompts.prompt_prints import BLOCK, PRINT, alike, packed, prints, shared, unpacked
from ollama_cache_proxy.policy.prompts.prompt_shapes import Shape, shape

MOST_BYTES: Final = 1 << 20
"""Bytes of fingerprints, and of what goes with them, that are held for a model."""
MOST_PROMPTS: Final = 16
"""Prompts of a model that are held; one that goes on with another takes its place."""
_PART_BYTES: Final = 200
_PROMPT_BYTES: Final = 400
"""Bytes that a part, and a prompt, take beside their fingerprints."""
_LEAST: Final = 256
"""Bytes below which a loss is none: templates, and the places where blocks begin, blur less than that."""
_LOADED: Final = 0.5
"""Seconds of loading from which on the model was not loaded before; a loaded one reports some hundredths."""
_IDLE: Final = 240.0
"""Seconds without a request after which a model may have been unloaded: Ollama does so after five minutes."""
_GOES_ON: Final = 32
"""Blocks behind a difference that tell whether the text goes on as before."""
_LONG: Final = 1024
"""Bytes of a text that is new from which on it is looked whether it is an earlier one with a difference."""
_TRIED: Final = 4
"""Prompts, from the latest on, of which the text behind a difference is compared."""
_ENOUGH: Final = 0.8
"""The share of what is behind a difference that a prompt has to have, too, for no older one to be looked at."""
_PLACES: Final = 32
"""Places of which the latest differing block is held."""
_SOME: Final = 32
"""Computed tokens from which on their time tells the speed."""
_ALIKE: Final = 2
"""How many times as long as those that tell the speed a prompt may be, or as short."""
_AS_SLOW: Final = 0.5
"""A prompt that takes a smaller share of the usual time for each token was reused in part."""
_WEIGHT: Final = 0.2
"""How much the latest figure counts in a running average."""
_BYTES_A_TOKEN: Final = 4.0
"""Before any response has told."""
_MARKS: Final = 8
"""Prompts that one goes on with of which bytes and tokens are held."""
_TOLD_LESS: Final = 0.1
"""The share of a prompt by which Ollama may reuse less than expected before that is a loss of its own."""
_FULLER: Final = 0.9
"""The share of what was expected that is reused where nothing was left out."""
_LESS: Final = 0.5
"""A prompt with fewer tokens more than this share of what its bytes would be more has lost messages."""
_LESS_IF_TOLD: Final = 0.85
"""Likewise where Ollama has told that it reused less than expected."""
_LEFT: Final = 0.25
"""By the time, less than this share of the system's tokens has to be reused of a prompt that was cut to be believed:
those behind many others take longer, each, than those that tell the speed."""
_SIMILAR: Final = 0.1
_LOSES_MOST: Final = 0.5
_COMES_BACK: Final = 0.25
"""When llama.cpp's server keeps and brings back prompts: see simulator/prompt_slots.py."""


class LossCause(StrEnum):
    """Why Ollama reads again what it has read before; a label of a metric."""

    CHANGED = "changed"
    """The beginning differs in one place from that of the latest prompt, and goes on as before."""
    DISPLACED = "displaced"
    """Another prompt has taken its slot."""
    UNLOADED = "unloaded"
    """The model was unloaded, since nobody had asked it for longer than its `keep_alive`."""
    SWAPPED = "swapped"
    """The model was unloaded, since another one was asked."""
    CUT = "cut"
    """The prompt does not fit into the context length, so Ollama leaves out messages behind the system's."""
    NOT_REUSED = "not-reused"
    """Ollama says that it reused less, and nothing here tells why."""


class Loss(NamedTuple):
    """Prompt tokens that Ollama reads again, by one cause."""

    cause: LossCause
    tokens: int
    """Estimated."""
    place: Place | None = None
    shape: Shape = Shape.UNKNOWN


class Reading(NamedTuple):
    """What became of one prompt. Tokens are estimated, unless they are said to be told."""

    size: int
    """Bytes."""
    shared: int
    """Bytes from the beginning on that Ollama had worked on."""
    tokens: int
    """Of the whole prompt."""
    reused: int
    """Those that Ollama had worked on, by the fingerprints."""
    told: int | None
    """Those that it has reused, by its own word, or by the time that it took; None where neither is known."""
    exact: bool
    """Whether that is its own word."""
    seconds: float
    """A token's share of the time that prompts take to be read; 0 where that is not known."""
    losses: tuple[Loss, ...] = ()


class _New(NamedTuple):
    """A prompt that is taken in, beside the slot that it gets."""

    prompt: Prompt
    hashes: list[int]
    """Of its parts."""
    keys: bytes
    """The same, 8 bytes of each."""
    slot: _Held | None
    """What its slot holds; None where that is nothing."""
    parts: int
    """How many parts the two share from the beginning on, and likewise bytes."""
    common: int
    size: int
    """Its own bytes."""
    known: int
    """No part from this one on was in a prompt before."""
    goes_on: bool
    """Whether it begins with all that its slot holds."""
    taken: _Held | None
    """What was in the slot before something else was brought back."""


class _Lost(NamedTuple):
    """Bytes of a prompt that were lost, and where."""

    displaced: int
    """Those that an earlier prompt shares beyond what its slot does."""
    behind: int = 0
    """Those behind a difference that an earlier prompt has, too."""
    part: int = 0
    block: int = 0
    """Where that difference is."""
    moved: bool = False
    """Whether what stands there stood elsewhere before."""


@dataclass(slots=True, eq=False)
class _Held:
    """A prompt that is remembered: the fingerprints of its parts, 8 bytes of each, and its figures."""

    keys: bytes
    parts: int
    size: int
    tokens: int | None
    output: int
    """Tokens of its answer; 0 where they are not known."""
    ended: float
    """Monotonic time, in seconds."""
    cut: bool
    marks: tuple[tuple[int, int], ...]
    """Bytes and tokens of its beginnings, as far as they are known."""
    kept: bool = True
    """Whether Ollama may still have it when it is in no slot."""


@dataclass(slots=True, eq=False)
class ModelMemory:
    """What is remembered of one model at one Ollama."""

    used: int = 0
    """Bytes, about."""
    latest: float = 0.0
    """Monotonic time at which the latest response ended, in seconds."""
    _prompts: deque[_Held] = field(default_factory=deque)
    _slots: list[_Held] = field(default_factory=list)
    """What Ollama holds; the one that was used last is the last."""
    _known: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """The fingerprints of the blocks of each part, and its bytes, by the hash of it all."""
    _blocks: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """By path: where the latest difference was, and what stood there."""
    _keeps: bool | None = None
    """Whether Ollama keeps prompts that have lost their slot; None before that was seen."""
    _left_by_cuts: int | None = None
    """How many tokens of the latest prompt that was cut were reused; None where the system's were, or nothing tells."""
    _bytes_a_token: float = 0.0
    _speed: float = 0.0
    """Seconds that a prompt token takes to be computed."""
    _timed: float = 0.0
    """How many tokens the prompts had that told it."""

    def read(  # noqa: PLR0913 - what is known of one response
        self,
        prompt: Prompt,
        usage: Usage,
        *,
        begun: float,
        now: float,
        waited: float | None = None,
        slots: int = 1,
        rival: bool = False,
    ) -> Reading:
        """Take in a prompt that Ollama has worked on, and return what became of it.

        `begun` and `now` are monotonic times of its request and of the end of its response; `waited` is how many
        seconds it took to the first output, where that is known. `slots` is how many Ollama has, `rival` tells whether
        another model was asked since the latest response.
        """
        loaded = usage.load_seconds is not None and usage.load_seconds >= _LOADED and not usage.cached_tokens
        lost = self._unloaded() if loaded else False
        seen = self._fitted(prompt, begun, slots)
        back = self._back(seen)
        keeps = usage.cached_tokens is not None if self._keeps is None else self._keeps
        new = back if back is not None and keeps else seen
        slot, size, tokens = new.slot, new.size, usage.prompt_tokens
        less = self._has_less(new, tokens)
        cut = less or (slot is not None and slot.cut and new.goes_on)
        if tokens and not cut:
            self._bytes_a_token = _average(self._bytes_a_token, size / tokens)
        whole = tokens or max(1, round(size / self._ratio))
        reused = self._reused(new, whole)
        losses: list[Loss] = []
        expected = reused
        if less and not (usage.cached_tokens or 0) > _FULLER * reused:
            reused = min(reused, self._left(new))
            losses.append(Loss(LossCause.CUT, expected - reused))
        elif size - new.common >= _LEAST:
            cause = (LossCause.SWAPPED if rival else LossCause.UNLOADED) if lost else LossCause.DISPLACED
            losses = self._losses(self._lost(new), prompt, size / whole, cause)
        told, exact = self._told(usage, waited, whole, reused)
        if told is not None and back is not None:
            least = _SOME if exact else max(_SOME, whole // 4)
            self._learn_whether_kept(told, self._reused(seen, whole), self._reused(back, whole), least)
        if cut and told is not None:
            self._left_by_cuts = told if exact or told < _LEFT * self._system(new) else None
        if exact and told is not None and reused - told > max(_SOME, _TOLD_LESS * whole) and not losses:
            losses = [Loss(self._why_less(new, tokens, told, begun, rival=rival), reused - told)]
        marks = self._marks(new, told if exact else None)
        held = _Held(new.keys, len(new.hashes), size, tokens, usage.output_tokens or 0, now, cut, marks)
        self._hold(held, new, slots, swapped=back is not None)
        self.latest = now
        return Reading(size, new.common, whole, reused, told, exact, self._speed, tuple(losses))

    @property
    def _ratio(self) -> float:
        return self._bytes_a_token or _BYTES_A_TOKEN

    # What Ollama holds.

    def _fitted(self, prompt: Prompt, begun: float, slots: int) -> _New:
        """Return a prompt beside the slot that it gets, and remember its parts."""
        texts = prompt.texts
        hashes = [*map(hash, texts)]
        keys = packed(hashes)
        slot, parts = self._slot(keys, begun, slots)
        goes_on = slot is not None and parts == slot.parts
        known = self._learn(hashes, texts, parts)
        if slot is not None and goes_on:
            common = slot.size
            size = common + self._sum(hashes[parts:])
        else:
            size = self._sum(hashes)
            common = 0 if slot is None else self._common(hashes, slot, parts)
        return _New(prompt, hashes, keys, slot, parts, common, size, known, goes_on, slot)

    def _unloaded(self) -> bool:
        """Forget what Ollama holds; return whether that was anything."""
        had, self._slots = bool(self._slots), []
        for held in self._prompts:
            held.kept = False
        return had

    def _back(self, new: _New) -> _New | None:
        """Return a prompt beside what an Ollama that keeps prompts puts into its slot; None where that stays as it is.

        Since 0.33 it runs llama.cpp's server, which puts a prompt most of which would be lost into main memory, and
        brings back what the new one shares more with (`get_available_slot`, `server_prompt_cache`).
        """
        slot, size, common = new.slot, new.size, new.common
        if slot is None or new.goes_on or (common > _SIMILAR * size and common >= _LOSES_MOST * slot.size):
            return None
        found, share = new, common / slot.size if slot.size else 0.0
        for held in self._prompts:
            if held.kept and held not in self._slots:
                parts = _parts(new.keys, held)
                if self._sum(new.hashes[: parts + 1]) <= max(found.common, _COMES_BACK * held.size):
                    continue  # whatever else the two share
                useful = self._common(new.hashes, held, parts)
                if useful > found.common and useful > max(share, _COMES_BACK) * held.size:
                    share = useful / held.size
                    found = new._replace(slot=held, parts=parts, common=useful, goes_on=parts == held.parts)
        return found

    def _learn_whether_kept(self, told: int, without: int, kept: int, least: int) -> None:
        """Take in how much was reused, where it would have been so much without, and with prompts that are kept.

        They have to differ by `least`.
        """
        if abs(without - kept) >= least:
            self._keeps = abs(told - kept) < abs(told - without)

    def _slot(self, keys: bytes, begun: float, slots: int) -> tuple[_Held | None, int]:
        """Return what the slot holds that a prompt gets, and how many parts the two share."""
        held = self._slots
        if not held:
            return None, 0
        if slots > 1:
            free = [one for one in held if one.ended <= begun]
            if not free and len(held) < slots:
                return None, 0
            held = free or held
        if len(held) == 1:
            return held[0], _parts(keys, held[0])
        best = max(held, key=lambda one: _parts(keys, one))
        return best, _parts(keys, best)

    def _reused(self, new: _New, whole: int) -> int:
        """Return how many tokens of a prompt, of so many, its slot holds."""
        slot = new.slot
        if slot is None:
            return 0
        if slot.tokens is None:
            found = new.common * whole / max(1, new.size)
        elif new.goes_on:
            found = slot.tokens + self._answer(new.prompt, slot, new.parts)
        else:
            found = _between((*slot.marks, (slot.size, slot.tokens)), new.common)
        return max(0, min(round(found), whole - 1))

    def _answer(self, prompt: Prompt, slot: _Held, parts: int) -> float:
        """Return how many tokens of its answer a prompt goes on with, as far as that is the answer that was given."""
        if not slot.output or not prompt.is_answer(parts):
            return 0
        written = self._known[hash(prompt.texts[parts])][1] / self._ratio
        return slot.output if slot.output <= 2 * written + _SOME else 0

    def _left(self, new: _New) -> int:
        """Return how many tokens are reused of a prompt that was cut: as many as of the latest one, or the system's."""
        return self._system(new) if self._left_by_cuts is None else self._left_by_cuts

    def _system(self, new: _New) -> int:
        """Return how many tokens of a prompt are the system's."""
        return round(self._sum(new.hashes[: new.prompt.leading()]) / self._ratio)

    def _why_less(self, new: _New, tokens: int | None, told: int, begun: float, *, rival: bool) -> LossCause:
        """Return why less was reused than expected. A model that has forgotten all of it was unloaded."""
        if told < _SOME and rival:
            return LossCause.SWAPPED
        if told < _SOME and begun - self.latest >= _IDLE:
            return LossCause.UNLOADED
        return LossCause.CUT if self._has_less(new, tokens, _LESS_IF_TOLD) else LossCause.NOT_REUSED

    def _has_less(self, new: _New, tokens: int | None, share: float = _LESS) -> bool:
        """Return whether messages were left out: what goes on with another prompt has as many more tokens otherwise."""
        slot = new.slot
        if slot is None or not (tokens and slot.tokens and new.goes_on) or new.size - slot.size < _LEAST:
            return False
        return tokens - slot.tokens < share * (new.size - slot.size) / self._ratio

    @staticmethod
    def _marks(new: _New, told: int | None) -> tuple[tuple[int, int], ...]:
        """Return how many tokens the beginnings of a prompt have, by what it goes on with, or what was told reused."""
        slot = new.slot
        if slot is None:
            return ()
        if new.goes_on:
            return (*slot.marks[-_MARKS:], (slot.size, slot.tokens)) if slot.tokens else ()
        before = [mark for mark in slot.marks if mark[0] < new.common]
        return (*before, (new.common, told)) if told else (*before,)

    def _told(self, usage: Usage, waited: float | None, whole: int, reused: int) -> tuple[int | None, bool]:
        """Return how many tokens were reused, by Ollama's word or by its time, and whether it is its word.

        A prompt of which little was reused tells the speed, by the time to the first output where there is no other;
        one that was much quicker than others was reused, whatever was expected.
        """
        told, seconds = usage.cached_tokens, usage.prompt_seconds
        computed = whole - (reused if told is None else told)
        timed = waited if seconds is None else seconds
        if timed and computed >= _SOME and (told is not None or reused <= whole // _SOME):
            self._time(timed / computed, whole, certain=told is not None)
        if told is not None:
            return told, True
        if not (seconds and usage.prompt_tokens and self._is_comparable(whole)):
            return None, False
        return max(0, whole - round(seconds / self._speed)), False

    def _time(self, each: float, whole: int, *, certain: bool) -> None:
        """Take in how many seconds each token took of a prompt of so many.

        The longer a prompt, the longer each takes: each looks back at all before it.
        """
        if not self._speed or whole > _ALIKE * self._timed:
            self._speed, self._timed = each, whole
        elif self._is_comparable(whole) and (certain or each >= _AS_SLOW * self._speed):
            self._speed, self._timed = _average(self._speed, each), _average(self._timed, whole)

    def _is_comparable(self, whole: int) -> bool:
        """Return whether the speed holds for a prompt of so many tokens."""
        return self._timed <= _ALIKE * whole and whole <= _ALIKE * self._timed

    # What is lost.

    def _lost(self, new: _New) -> _Lost:
        """Return what of a prompt was lost: what others shared with it, and what goes on behind a difference."""
        hashes, keys, parts, goes_on = new.hashes, new.keys, new.parts, new.goes_on
        farthest = new.common
        for held in self._prompts:
            if held.size > farthest and keys.startswith(held.keys):
                farthest, parts, goes_on = held.size, max(parts, held.parts), True
        unknown = new.known <= parts
        if unknown and (goes_on or self._known[hashes[parts]][1] < _LONG):
            return _Lost(farthest - new.common)
        best, tried = _Lost(0), _TRIED
        for held in reversed(self._prompts):
            theirs = _parts(keys, held)
            if theirs >= min(held.parts, len(hashes)):
                farthest = max(farthest, held.size if theirs == held.parts else new.size)
            elif not unknown or (theirs >= parts and tried):
                reach = self._common(hashes, held, theirs)
                farthest = max(farthest, reach)
                found = self._behind(new, held, theirs, compare=tried > 0)
                best = max(best, found, key=lambda one: one.behind)
                tried -= 1
                if best.behind >= _ENOUGH * (new.size - reach):
                    break
        return best._replace(displaced=farthest - new.common)

    def _losses(self, lost: _Lost, prompt: Prompt, bytes_a_token: float, elsewhere: LossCause) -> list[Loss]:
        """Return the losses; what others shared has the cause `elsewhere`."""
        losses: list[Loss] = []
        if lost.displaced >= _LEAST:
            losses.append(Loss(elsewhere, round(lost.displaced / bytes_a_token)))
        if lost.behind >= _LEAST:
            at = place(prompt, lost.part, lost.block)
            changes = Shape.MOVED if lost.moved else self._shape(at, prompt, lost.part, lost.block)
            losses.append(Loss(LossCause.CHANGED, round(lost.behind / bytes_a_token), at, changes))
        return losses

    def _behind(self, new: _New, held: _Held, parts: int, *, compare: bool) -> _Lost:
        """Return where a prompt first differs from one that is held, and how many bytes behind that both have."""
        theirs = unpacked(held.keys[parts * PRINT :])
        others, rest = {*theirs}, new.hashes[parts:]
        more = sum([self._known[one][1] for one in rest if one in others])
        if rest[0] in others:
            return _Lost(0, more, parts, 0, moved=True)
        mine, other = self._known[rest[0]], self._known[theirs[0]]
        block = shared(mine[0], other[0])
        if (compare or more) and abs(mine[1] - other[1]) <= BLOCK:
            more += self._goes_on(new.prompt.texts[parts], block, mine, other)
        return _Lost(0, more, parts, block)

    def _goes_on(self, text: Text, block: int, mine: tuple[bytes, int], other: tuple[bytes, int]) -> int:
        """Return how many bytes of a part are the same behind a difference, which may have changed its length."""
        longer = mine[1] - other[1]
        begin = (block + 1) * BLOCK + longer
        rest = other[0][(block + 1) * PRINT :][: _GOES_ON * PRINT]
        if not rest or begin < 0:
            return 0
        data = text.encode() if isinstance(text, str) and not text.isascii() else text
        there = data[begin : begin + _GOES_ON * BLOCK]
        same = alike(prints(there.encode() if isinstance(there, str) else there), rest)
        return mine[1] - begin if 2 * same * PRINT >= len(rest) else 0

    def _shape(self, at: Place, prompt: Prompt, part: int, block: int) -> Shape:
        """Return what changes in a place, and remember what stands there now."""
        text = prompt.texts[part]
        data = text.encode() if isinstance(text, str) else text
        now = data[block * BLOCK : (block + 1) * BLOCK]
        before = self._blocks.pop(at.path, None)
        self._blocks[at.path] = (at.at, now)
        if len(self._blocks) > _PLACES:
            del self._blocks[next(iter(self._blocks))]
        if before is None or before[0] != at.at:
            return Shape.UNKNOWN
        return shape(before[1], now, data, block * BLOCK)

    def _common(self, hashes: list[int], held: _Held, parts: int) -> int:
        """Return how many bytes a prompt shares with one that is held, from the beginning on; `parts` are the same."""
        if parts == held.parts:
            return held.size
        size = self._sum(hashes[:parts])
        if parts == len(hashes):
            return size
        (theirs,) = unpacked(held.keys[parts * PRINT : (parts + 1) * PRINT])
        mine, other = self._known[hashes[parts]], self._known[theirs]
        return size + min(shared(mine[0], other[0]) * BLOCK, mine[1], other[1])

    # What is remembered.

    def _sum(self, hashes: Sequence[int]) -> int:
        known = self._known
        return sum([known[one][1] for one in hashes])

    def _learn(self, hashes: Sequence[int], texts: Sequence[Text], first: int) -> int:
        """Remember the fingerprints of the parts from `first` on; without them where there is no room.

        Return from which part on none was known before; short ones do not count, such as "yes".
        """
        known, new, has_forgotten = self._known, first, False
        for number in range(first, len(hashes)):
            one, text = hashes[number], texts[number]
            if one in known:
                if len(text) >= BLOCK:
                    new = number + 1
                continue
            data = text.encode() if isinstance(text, str) else text
            room = len(data) // BLOCK * PRINT + _PART_BYTES
            if self.used + room > MOST_BYTES and not has_forgotten:  # once: what is left then is needed
                self._forget(room, hashes)
                known, has_forgotten = self._known, True
            found = prints(data) if self.used + room <= MOST_BYTES else b""
            known[one] = (found, len(data))
            self.used += len(found) + _PART_BYTES
        return new

    def _forget(self, room: int, hashes: Sequence[int]) -> None:
        """Forget the oldest prompts, until there is room for so many bytes and more; those of slots stay."""
        known, most = self._known, MOST_BYTES * 3 // 4 - room
        kept: dict[int, tuple[bytes, int]] = {}
        self.used = 0

        def keep(parts: Iterable[int], more: int) -> bool:
            new = {one: known[one] for one in {*parts} if one in known and one not in kept}
            size = sum(len(found) + _PART_BYTES for found, _ in new.values()) + more
            if more and self.used + size > most:
                return False
            kept.update(new)
            self.used += size
            return True

        keep(hashes, 0)
        for held in self._slots:
            keep(unpacked(held.keys), 0)
        prompts, self._prompts = self._prompts, deque()
        for held in reversed(prompts):
            if not keep(unpacked(held.keys), _room(held)) and held not in self._slots:
                break
            self._prompts.appendleft(held)
        self._known = kept

    def _hold(self, held: _Held, new: _New, slots: int, *, swapped: bool) -> None:
        """Remember a prompt in the place of those that it goes on with, and in the slot that it got.

        What was there is kept by some, if it was `swapped`; else only as much as the two share.
        """
        if new.taken is not None:
            new.taken.kept = swapped
            self._slots.remove(new.taken)
        self._slots.append(held)
        del self._slots[:-slots]
        if new.goes_on and new.slot is not None:
            over = [new.slot]
        else:
            over = [one for one in self._prompts if held.keys.startswith(one.keys)]
        for one in over:
            if one in self._prompts:
                self._prompts.remove(one)
                self.used -= _room(one)
        self._prompts.append(held)
        self.used += _room(held)
        if len(self._prompts) > MOST_PROMPTS:
            self.used -= _room(self._prompts.popleft())


def _room(held: _Held) -> int:
    """Return how many bytes a prompt takes beside its parts."""
    return len(held.keys) + _PROMPT_BYTES


def _parts(keys: bytes, held: _Held) -> int:
    """Return how many parts a prompt shares with one that is held, from the first on."""
    if keys[:PRINT] != held.keys[:PRINT]:  # mostly
        return 0
    return held.parts if keys.startswith(held.keys) else shared(keys, held.keys)


def _between(marks: Sequence[tuple[int, int]], size: int) -> float:
    """Return how many tokens so many bytes are, by the bytes and tokens of others, in their order."""
    before = (0, 0)
    for mark in marks:
        if size <= mark[0]:
            more = mark[0] - before[0]
            return before[1] + (mark[1] - before[1]) * (size - before[0]) / more if more else mark[1]
        before = mark
    return before[1]


def _average(before: float, now: float) -> float:
    return before + _WEIGHT * (now - before) if before else now
