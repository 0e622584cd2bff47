from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.crowding import least_idle, reserve


@pytest.mark.parametrize(("places", "expected"), [(1, 1), (9, 1), (10, 1), (11, 2), (448, 45), (4096, 410)])
def test_a_tenth_of_the_places_is_to_be_free(places: int, expected: int) -> None:
    assert reserve(places) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(1, None), (89, None), (90, None), (91, 1.0), (99, 1.0), (100, 1.0), (101, 0.0), (120, 0.0)],
)
def test_how_long_a_connection_must_be_idle_to_make_room(wanted: int, expected: float | None) -> None:
    assert least_idle(100, wanted) == expected


@pytest.mark.parametrize(("wanted", "expected"), [(0, None), (1, 1.0), (2, 0.0)])
def test_the_only_place_goes_to_the_next_client(wanted: int, expected: float | None) -> None:
    assert least_idle(1, wanted) == expected
