from __future__ import annotations

from ollama_cache_proxy.core.facts import NOTHING, Exchange, Health, Part, Saved, fan_out
from ollama_cache_proxy.policy.status import Detail, bypass


def test_everyone_is_told_in_order() -> None:
    told: list[tuple[str, object]] = []
    event = Health(part=Part.STORE, well=True, name="x")
    fan_out([lambda event: told.append(("a", event)), lambda event: told.append(("b", event))])(event)
    assert told == [("a", event), ("b", event)]


def test_an_exchange_saves_nothing_unless_it_says_so():
    exchange = Exchange(
        method="GET",
        operation="tags",
        model="",
        cache=bypass(Detail.ENDPOINT),
        status=200,
        seconds=0.1,
        first_byte=None,
        bytes_sent=0,
    )
    assert exchange.saved == NOTHING == Saved(seconds=0.0, prompt_tokens=0, output_tokens=0)
    assert (exchange.prompt_tokens, exchange.output_tokens, exchange.category) == (None, None, "")
