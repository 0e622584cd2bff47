"""How much of a prompt a small fake of Ollama's prompt cache has worked on, and what is said of it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.endpoints import ENDPOINTS
from ollama_cache_proxy.policy.prompts.prompt_memory import MOST_BYTES, MOST_PROMPTS, LossCause, ModelMemory, Reading
from ollama_cache_proxy.policy.prompts.prompt_parts import parts_of
from ollama_cache_proxy.policy.prompts.prompt_places import Where
from ollama_cache_proxy.policy.prompts.prompt_shapes import Shape

CHAT = next(row for row in ENDPOINTS if row.operation == "chat")
GENERATE = next(row for row in ENDPOINTS if row.operation == "generate")
_DRAWN = random.Random(5)


def text(size: int) -> str:
    """Return so many bytes that no other text begins with."""
    return "".join(_DRAWN.choices("abcdefgh ijklmnop", k=size))


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


class Talk:
    """Requests to one model, one after the other; a token has four bytes."""

    def __init__(self, *, told: bool = False, slots: int = 1) -> None:
        self.memory = ModelMemory()
        self.at = 0.0
        self.told = told
        self.slots = slots

    def ask(self, *messages: dict[str, str], rival: bool = False, begun: float | None = None, **usage: Any) -> Reading:
        prompt = parts_of(CHAT, {"model": "tiny", "messages": [*messages]})
        assert prompt is not None
        size = sum(len(message["content"]) for message in messages)
        self.at += 1
        found = Usage(**{"prompt_tokens": size // 4, **usage})
        begun = self.at if begun is None else begun
        return self.memory.read(prompt, found, begun=begun, now=self.at + 0.5, slots=self.slots, rival=rival)


SYSTEM = said("system", text(4000))


def test_a_conversation_goes_on_with_what_was_read_and_with_its_answer() -> None:
    talk = Talk()
    first = said("user", text(800))
    begin = talk.ask(SYSTEM, first, output_tokens=100)
    answer, more = said("assistant", text(400)), said("user", text(100))
    then = talk.ask(SYSTEM, first, answer, more)
    assert (begin.shared, begin.reused, begin.tokens, begin.losses) == (0, 0, 1200, ())
    assert (then.size, then.shared, then.losses) == (5300, 4800, ())
    assert then.reused == 1200 + 100


@pytest.mark.parametrize(("output", "size"), [(2000, 400), (0, 400), (100, 0)])
def test_an_answer_that_was_thought_about_or_is_not_known_is_read(output: int, size: int) -> None:
    talk = Talk()
    talk.ask(SYSTEM, output_tokens=output)
    answer = [said("assistant", text(size))] if size else []
    assert talk.ask(SYSTEM, *answer, said("user", text(100))).reused == 1000


def test_the_same_prompt_again_leaves_one_token_to_compute() -> None:
    talk = Talk()
    talk.ask(SYSTEM)
    again = talk.ask(SYSTEM)
    assert (again.shared, again.reused, again.losses) == (4000, 999, ())


def test_a_shorter_prompt_is_all_known() -> None:
    talk = Talk()
    talk.ask(SYSTEM, said("user", text(1000)))
    shorter = talk.ask(SYSTEM)
    assert (shorter.shared, shorter.reused, shorter.losses) == (4000, 999, ())


def test_another_conversation_shares_the_beginning_alone_and_has_lost_nothing() -> None:
    talk = Talk()
    talk.ask(SYSTEM, said("user", text(1000)))
    other = talk.ask(SYSTEM, said("user", text(1000)))
    assert (other.shared, other.reused, other.losses) == (4000, 1000, ())


def changing(text_of: Any, *, turns: int = 4) -> list[Reading]:
    """Return what becomes of turns of a conversation whose system prompt changes with each."""
    talk, messages = Talk(), [said("user", text(500))]
    found = []
    for turn in range(turns):
        found.append(talk.ask(said("system", text_of(turn)), *messages))
        messages += [said("assistant", text(300)), said("user", text(300))]
    return found


BEFORE, AFTER = text(200), text(3000)


@pytest.mark.parametrize(
    ("system", "shape"),
    [
        (lambda turn: f"{BEFORE} message {turn + 5} of {AFTER}", Shape.NUMBER),
        (lambda turn: f"{BEFORE} message {turn + 98} of {AFTER}", Shape.NUMBER),
        (lambda turn: f"{BEFORE} cch={turn * 7919:05x}; {AFTER}", Shape.ID),
        (lambda turn: f"{BEFORE} on 2026-01-0{turn + 1}, {AFTER}", Shape.DATE),
    ],
)
def test_a_beginning_that_changes_is_named_by_place_and_shape(system: Any, shape: Shape) -> None:
    first, *others = changing(system)
    assert first.losses == ()
    for number, reading in enumerate(others):
        (loss,) = reading.losses
        assert loss.cause is LossCause.CHANGED
        assert loss.place is not None
        assert (loss.place.where, loss.place.path, loss.place.at) == (Where.SYSTEM, "messages[0].content", 192)
        assert loss.shape is (shape if number else Shape.UNKNOWN)
        assert reading.shared == 192
        behind = 3000 + 500 + 600 * number - 64
        assert behind / 4 - 40 <= loss.tokens <= behind / 4 + 40


def test_history_that_is_left_out_moves_all_behind_it() -> None:
    talk = Talk()
    messages = [said("user", text(900)) for _ in range(6)]
    talk.ask(SYSTEM, *messages)
    (loss,) = talk.ask(SYSTEM, *messages[2:], said("user", text(300))).losses
    assert (loss.cause, loss.shape, loss.tokens) == (LossCause.CHANGED, Shape.MOVED, 900)
    assert loss.place is not None
    assert loss.place.path == "messages[1].content"


def test_prompts_of_one_text_that_end_differently_have_lost_nothing() -> None:
    memory, begin = ModelMemory(), text(2000)
    readings = []
    for _ in range(4):
        prompt = parts_of(GENERATE, {"prompt": begin + text(2000)})
        assert prompt is not None
        readings.append(memory.read(prompt, Usage(prompt_tokens=1000), begun=0, now=1))
    assert [reading.losses for reading in readings] == [()] * 4
    assert [reading.shared for reading in readings[1:]] == [1984] * 3


def test_two_conversations_in_turn_displace_each_other() -> None:
    talk = Talk()
    one, other = [said("user", text(3000))], [said("user", text(2000))]
    for messages in (one, other):
        talk.ask(*messages)
    one += [said("assistant", text(400)), said("user", text(400))]
    found = talk.ask(*one)
    (loss,) = found.losses
    assert (found.reused, loss.cause, loss.tokens, loss.place) == (0, LossCause.DISPLACED, 750, None)


def test_a_second_slot_holds_what_was_asked_at_the_same_time() -> None:
    talk = Talk(slots=2)
    one, other = [said("user", text(3000))], [said("user", text(2000))]
    talk.ask(*one)
    talk.ask(*other, begun=1.0)  # while the first one was under way
    for messages in (one, other):
        messages += [said("assistant", text(400)), said("user", text(400))]
        found = talk.ask(*messages)
        assert found.losses == ()
        assert found.shared >= 2000


@pytest.mark.parametrize(("rival", "cause"), [(False, LossCause.UNLOADED), (True, LossCause.SWAPPED)])
def test_a_model_that_was_loaded_anew_knows_nothing(rival: bool, cause: LossCause) -> None:
    talk = Talk()
    talk.ask(SYSTEM, load_seconds=3.0)
    found = talk.ask(SYSTEM, said("user", text(400)), load_seconds=3.0, rival=rival)
    assert (found.reused, found.shared) == (0, 0)
    assert [(loss.cause, loss.tokens) for loss in found.losses] == [(cause, 1000)]
    assert talk.ask(SYSTEM, said("user", text(400)), load_seconds=0.05).reused == 1000


def test_a_prompt_that_does_not_fit_is_cut_behind_the_system_prompt() -> None:
    talk, messages = Talk(), [said("user", text(1000)) for _ in range(6)]
    talk.ask(SYSTEM, *messages)
    messages += [said("assistant", text(1000)), said("user", text(1000))]
    cut = talk.ask(SYSTEM, *messages, prompt_tokens=2400)
    assert [loss.cause for loss in cut.losses] == [LossCause.CUT]
    assert cut.reused <= 1000
    more = talk.ask(SYSTEM, *messages, said("user", text(400)), prompt_tokens=2500)
    assert (more.reused, more.losses) == (2400, ())


def test_of_a_prompt_that_was_cut_as_much_is_reused_as_of_the_one_before() -> None:
    talk, messages = Talk(), [SYSTEM, *[said("user", text(1000)) for _ in range(6)]]
    talk.ask(*messages, cached_tokens=0)
    found = []
    for tokens, told in ((2600, 4), (2600, 4), (2650, 4)):
        messages.append(said("user", text(1000)))
        found.append(talk.ask(*messages, prompt_tokens=tokens, cached_tokens=told))
    assert [one.losses[0].cause for one in found] == [LossCause.CUT] * 3
    assert [one.reused for one in found[1:]] == [4, 4]


def test_by_the_time_the_system_prompt_is_reused_of_what_was_cut_though_tokens_behind_it_take_longer() -> None:
    """As a real 0.33 does, which tells no cached tokens up to 0.33.2."""
    talk, messages = Talk(), [SYSTEM, *[said("user", text(1000)) for _ in range(4)]]
    talk.ask(*messages, prompt_seconds=2000 * 1e-4)
    found = []
    for _ in range(4):
        messages.append(said("user", text(1000)))
        found.append(talk.ask(*messages, prompt_tokens=2000, prompt_seconds=1000 * 1.7e-4).reused)
    assert found == [1000] * 4
    messages.append(said("user", text(1000)))
    forgotten = talk.ask(*messages, prompt_tokens=2000, prompt_seconds=1990 * 1e-4)
    messages.append(said("user", text(1000)))
    assert (forgotten.told, talk.ask(*messages, prompt_tokens=2000).reused) == (10, 10), "if next to nothing is left"


def test_an_ollama_that_keeps_prompts_brings_them_back() -> None:
    """Since 0.33, which tells what was reused."""
    talk = Talk()
    session = [SYSTEM, said("user", text(800))]
    for _ in range(3):
        found = talk.ask(*session, cached_tokens=sum(len(one["content"]) for one in session) // 4)
        aside = talk.ask(said("user", text(600)), cached_tokens=0)
        session += [said("user", text(400))]
        assert (found.losses, aside.losses) == ((), ())
    assert found.reused == 1300


def test_whether_prompts_are_kept_is_seen_by_what_is_told() -> None:
    talk = Talk()
    one, other = [said("user", text(3000))], [said("user", text(2000))]
    forecasts = []
    for _ in range(4):
        for messages in (one, other):
            forecasts.append(talk.ask(*messages, cached_tokens=0).reused)
            messages.append(said("user", text(400)))
    assert forecasts[2] > 700, "it tells, so it is taken for one that keeps prompts"
    assert forecasts[3:] == [0] * 5


def test_the_time_tells_what_was_reused_where_ollama_does_not() -> None:
    talk = Talk()
    first = talk.ask(SYSTEM, said("user", text(400)), prompt_seconds=1.1)
    then = talk.ask(SYSTEM, said("user", text(400)), prompt_seconds=0.1)
    assert (first.told, first.exact, first.seconds) == (0, False, 0.001)
    assert (then.told, then.exact, then.reused) == (1000, False, 1000)


def test_a_prompt_that_was_read_much_sooner_was_reused_whatever_was_expected() -> None:
    """As where an Ollama keeps prompts, and does not tell."""
    talk = Talk()
    session = [SYSTEM, said("user", text(800))]
    found = []
    for _ in range(4):
        size = sum(len(one["content"]) for one in session) // 4
        found.append(talk.ask(*session, prompt_seconds=0.1 if found else size / 1000))
        talk.ask(said("user", text(600)), prompt_seconds=0.15)
        session.append(said("user", text(400)))
    assert [one.told for one in found] == [0, 1200, 1300, 1400]
    assert [one.reused for one in found] == [0, 0, 1300, 1400]
    assert found[-1].seconds == pytest.approx(0.001)


def test_a_short_prompt_that_took_less_for_each_token_was_not_reused_for_that() -> None:
    """Each token looks back at all before it, as measured on a real Ollama."""
    talk = Talk()
    session = [SYSTEM, said("user", text(800))]
    found = []
    for _ in range(4):
        size = sum(len(one["content"]) for one in session) // 4
        found.append(talk.ask(*session, prompt_seconds=size / 1000))
        aside = talk.ask(said("system", "name it " * 70), said("user", text(100)), prompt_seconds=0.04)
        assert aside.told is None
        session.append(said("user", text(400)))
    assert [one.reused for one in found] == [0] * 4
    assert [one.told for one in found] == [0] * 4


def test_ollamas_own_word_counts_and_what_it_reused_less_is_told() -> None:
    talk = Talk()
    talk.ask(SYSTEM, cached_tokens=0, prompt_seconds=2.0)
    right = talk.ask(SYSTEM, said("user", text(400)), cached_tokens=1000)
    assert (right.told, right.exact, right.reused, right.losses) == (1000, True, 1000, ())
    wrong = talk.ask(SYSTEM, said("user", text(400)), cached_tokens=100)
    assert [(loss.cause, loss.tokens) for loss in wrong.losses] == [(LossCause.NOT_REUSED, 900)]


@pytest.mark.parametrize(
    ("idle", "rival", "told", "cause"),
    [
        (300, False, 0, LossCause.UNLOADED),
        (100, False, 0, LossCause.NOT_REUSED),
        (300, False, 400, LossCause.NOT_REUSED),
        (1, True, 0, LossCause.SWAPPED),
        (1, True, 400, LossCause.NOT_REUSED),
    ],
)
def test_a_dialect_without_a_time_of_loading_tells_by_what_was_forgotten(
    idle: float, rival: bool, told: int, cause: LossCause
) -> None:
    talk = Talk()
    talk.ask(SYSTEM, cached_tokens=0)
    talk.at += idle
    found = talk.ask(SYSTEM, said("user", text(400)), cached_tokens=told, rival=rival)
    assert [loss.cause for loss in found.losses] == [cause]


def test_tokens_are_estimated_by_earlier_responses_where_one_tells_none() -> None:
    talk = Talk()
    assert talk.ask(SYSTEM, prompt_tokens=None).tokens == 1000
    talk.ask(SYSTEM, prompt_tokens=500)
    assert talk.ask(SYSTEM, said("user", text(4000)), prompt_tokens=None).tokens == 1000


def test_no_more_prompts_are_held_than_so_many() -> None:
    talk = Talk()
    first = said("user", text(3000))
    talk.ask(first)
    for _ in range(MOST_PROMPTS):
        talk.ask(said("user", text(3000)))
    assert talk.ask(first, said("user", text(3000))).losses == ()


def test_memory_is_bounded_whatever_is_asked() -> None:
    talk = Talk()
    for size in (1 << 20, 3 << 20, 1 << 16, 6 << 20, 12 << 20, 1 << 20):
        big = said("user", text(1 << 10) * (size >> 10))
        talk.ask(big, *[said("user", f"{number} {text(20)}") for number in range(300)])
        talk.ask(big, said("user", text(300)))
        assert talk.memory.used <= MOST_BYTES
        seen = talk.ask(SYSTEM)
        assert seen.shared <= seen.size


def test_what_is_held_stays_right_when_others_were_forgotten() -> None:
    talk = Talk()
    for _ in range(40):
        first = said("user", text(1 << 10) * 256)
        talk.ask(first)
        assert talk.ask(first, said("user", text(1000))).shared == 1 << 18
    assert talk.memory.used <= MOST_BYTES
