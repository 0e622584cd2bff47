from __future__ import annotations

import itertools

from ollama_cache_proxy.policy.framing import frame, frames


def test_a_part_stands_after_its_length():
    assert frame(b"") == b"\0" * 8
    assert frame(b"abc") == b"\0\0\0\0\0\0\0\x03abc"
    assert frame(b"x" * 258) == b"\0\0\0\0\0\0\x01\x02" + b"x" * 258


def test_no_two_lists_of_parts_give_the_same_bytes():
    pieces = (b"", b"a", b"ab", b"\0" * 8, frame(b"a"))
    lists = [parts for count in range(4) for parts in itertools.product(pieces, repeat=count)]
    assert len({frames(*parts) for parts in lists}) == len(lists)
