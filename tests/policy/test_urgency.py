from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.urgency import USUAL, urgency


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], USUAL),
        ([b""], USUAL),
        ([b"u=0"], 0),
        ([b"u=7"], 7),
        ([b"u=5, i"], 5),
        ([b"i,u=2"], 2),
        ([b"i"], USUAL),
        ([b" u=6 ;x=1"], 6),
        ([b"u=1, u=4"], 4),
        ([b"u=1", b"u=6"], 6),
        ([b"u=5, u=9"], 5),
        ([b"u=8"], USUAL),
        ([b"u=-1"], USUAL),
        ([b"u=5.0"], USUAL),
        ([b"u"], USUAL),
        ([b"U=5"], USUAL),
        ([b"u=55"], USUAL),
        ([b"xu=5"], USUAL),
        ([b"\xff\x00, u=4"], 4),
    ],
)
def test_the_last_urgency_that_is_one_counts(values: list[bytes], expected: int) -> None:
    assert urgency(tuple((b"Priority", value) for value in values)) == expected


def test_the_name_of_the_field_is_read_in_any_case() -> None:
    assert urgency(((b"X-Priority", b"u=1"), (b"pRIORITY", b"u=6"))) == 6
