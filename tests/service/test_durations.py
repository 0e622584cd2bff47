from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ollama_cache_proxy.service.durations import Duration

READ: TypeAdapter[int] = TypeAdapter(Duration)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0),
        (86_400, 86_400),
        ("3600", 3600),
        ("90d", 7_776_000),
        ("12h", 43_200),
        ("30m", 1800),
        ("45s", 45),
        (" 1d ", 86_400),
        ("0d", 0),
        ("365d", 31_536_000),
        (60.0, 60),
    ],
)
def test_a_time_is_seconds_or_a_number_with_a_unit(given: Any, seconds: int) -> None:
    assert READ.validate_python(given) == seconds


@pytest.mark.parametrize(
    "given", ["", "d", "1w", "1D", "1.5h", "1h30m", "-1d", "1 d", "366d", -1, 31_536_001, 1.5, None, []]
)
def test_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        READ.validate_python(given)
