"""Parts of streams as bytes: what was encoded is decoded, in its place and nowhere else."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.messages import ResponseHead
from ollama_cache_proxy.stores.codecs import Codec, PlainCodec
from ollama_cache_proxy.stores.redis.flight_parts import Part, Parts
from ollama_cache_proxy.stores.sealed_codec import SealedCodec

HEAD = ResponseHead(status=200, reason="OK", fields=((b"Content-Type", b"application/x-ndjson"),))
PART = Part(first=3, head=HEAD, chunks=[b"one", b"two words", b"\x00\xff", b""])
CODECS = pytest.mark.parametrize("codec", [PlainCodec(), SealedCodec(bytes(32))], ids=["plain", "sealed"])


@CODECS
def test_a_part_comes_out_as_it_went_in(codec: Codec) -> None:
    parts = Parts(codec, "generation:key", b"token")
    assert parts.decode(3, parts.encode(PART)) == PART


@CODECS
def test_a_part_is_none_in_another_place_or_stream(codec: Codec) -> None:
    value = Parts(codec, "generation:key", b"token").encode(PART)
    others = [("generation:key", b"other", 3), ("generation:other", b"token", 3), ("generation:key", b"token", 4)]
    for name, token, first in others:
        assert Parts(codec, name, token).decode(first, value) is None


@CODECS
@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_damage_is_none(cut: int, codec: Codec) -> None:
    parts = Parts(codec, "generation:key", b"token")
    assert parts.decode(3, parts.encode(PART)[:cut]) is None


def test_a_sealed_part_shows_nothing() -> None:
    value = Parts(SealedCodec(bytes(32)), "generation:key", b"token").encode(PART)
    assert b"two words" not in value
    assert b"ndjson" not in value
