from __future__ import annotations

import random

import pytest

from ollama_cache_proxy.policy import outline as module
from ollama_cache_proxy.policy.outline import MOST, QUICK_BYTES, Outline, counts, is_read_soon, masked, outline, quick
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
