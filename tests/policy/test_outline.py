from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ollama_cache_proxy.policy import outline as module
from ollama_cache_proxy.policy.outline import (
    MOST,
    QUICK_BYTES,
    Counts,
    Outline,
    counts,
    is_read_soon,
    masked,
    outline,
    quick,
)
from ollama_cache_proxy.policy.steps import finish


def seen(body: bytes) -> Outline:
    found = finish(outline(body))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (b"", 0, 0, True)),
        (b'{"a":1}', (b'{":1}', 1, 0, True)),
        (b'{"a":["b","",",:[{"]}', (b'{":[",","]}', 4, 0, True)),
        (rb'["\"","\\","\\\""]', (b'[",","]', 3, 6, True)),
        (b'["a', (b'["', 1, 0, False)),
        (b'["a\\"]', (b'["', 1, 1, False)),
        (b"\\" * 9, (b"_" * 8 + b"\\", 0, 9, True)),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_structure_is_what_stands_outside_of_strings(
    body: bytes, expected: tuple[bytes, int, int, bool], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE", size)
    found = seen(body)
    assert (found.structure, found.strings, found.escapes, found.closed) == expected


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_each_quote_has_its_place(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", size)
    source = random.Random(size)
    for _ in range(200):
        body = bytes(source.choices(b'"\\,[]aX', k=source.randrange(1, 40)))
        found = seen(body)
        text = masked(body)
        places = [at for at, byte in enumerate(text) if byte == ord('"')]
        assert found.strings == (len(places) + 1) // 2
        assert [found.place(body, number) for number in range(len(places))] == places


def test_a_body_of_other_bytes_than_ascii_takes_longer() -> None:
    plain, wide = seen(b'["a"]'), seen('["ä"]'.encode())
    assert wide.nanoseconds(1000) > plain.nanoseconds(1000)


@pytest.mark.parametrize("part", [b"1,", b"[],", b"{},", b'"a":1,', b"["])
def test_a_body_of_many_small_values_is_slow_and_one_text_of_them_is_not(part: bytes) -> None:
    body = part * (8_000_000 // len(part))
    assert not quick(body)
    assert finish(outline(body)) is None
    text = b'["' + body.replace(b'"', b"") + b'"]'
    assert seen(text).nanoseconds(len(text)) < MOST


def test_bodies_as_clients_send_them_are_quick() -> None:
    prose = b"It was the best of times, it was the worst of times: and so on. " * 64  # 4 KiB
    assert quick(b'{"model":"m","input":[' + b",".join([b'"%b"' % prose] * 64) + b"]}")
    assert quick(b"[" * QUICK_BYTES)
    assert not quick(b"[" * (QUICK_BYTES + 1))
    assert not quick(b"a" * (1 << 20))


@pytest.mark.parametrize(
    ("most", "of"),
    [
        pytest.param(120_000, lambda count: Counts(commas=count, colons=0, arrays=0, objects=0), id="values"),
        pytest.param(80_000, lambda count: Counts(commas=0, colons=count, arrays=0, objects=0), id="members"),
        pytest.param(30_000, lambda count: Counts(commas=0, colons=0, arrays=count, objects=0), id="arrays"),
        pytest.param(60_000, lambda count: Counts(commas=0, colons=0, arrays=0, objects=count), id="objects"),
    ],
)
def test_so_many_of_each_are_read_in_one_step(most: int, of: Callable[[int], Counts]) -> None:
    assert of(most).nanoseconds <= MOST < of(most + 1).nanoseconds


@pytest.mark.parametrize(("character", "most"), [("a", 10_909_000), ("ä", 4_615_000), ("\\", 1_690_000)])
def test_a_text_of_so_many_bytes_is_read_in_one_step(character: str, most: int) -> None:
    """Of ASCII, of other characters, and of escapes: as orjson takes longer for each."""

    def takes(size: int) -> float:
        text = (character * size).encode()[:size]
        return seen(b'"' + text[: size // 2 * 2] + b'"').nanoseconds(size)

    assert takes(most) <= MOST < takes(most + 2_000)


def test_where_a_look_at_the_structure_begins() -> None:
    assert quick(b"a" * 749_999)
    assert not quick(b"a" * 750_000)
    assert quick(b"a" * 749_972 + b",,")
    assert not quick(b"a" * 749_973 + b",,"), "a value takes as long as some bytes"
    assert counts(b"[]," * (QUICK_BYTES // 3)).nanoseconds < 10e6, "no body that is read without a look takes long"


def test_small_values_weigh_many_times_their_text() -> None:
    assert counts(b'"' + b"x" * 1000 + b'"').weight == 0
    for value, at_least in ((b"[]", 56), (b"{}", 64), (b'{"a":1}', 232), (b"1.5", 24)):
        assert counts(b"[" + b",".join([value] * 1000) + b"]").weight >= 1000 * (at_least + 8)


@pytest.mark.parametrize("part", [b"1.5,", b"[],", b"{},", b'"a":1,'])
def test_a_response_of_very_many_values_is_not_read(part: bytes) -> None:
    def is_soon(size: int) -> bool:
        return finish(is_read_soon(b'{"a":[' + part * (size // len(part)) + b"1]}"))

    assert is_soon(100_000)
    assert not is_soon(10_000_000)
    assert finish(is_read_soon(b'{"response":"' + b"a, [b]: {c} " * 400_000 + b'"}'))


def test_a_response_is_read_where_orjson_alone_takes_no_longer_than_a_step_may() -> None:
    """That is about half of what all steps of a request take, so twice as much is read."""
    assert finish(is_read_soon(b"[" * 59_600))
    assert not finish(is_read_soon(b"[" * 59_700))
