from __future__ import annotations

import orjson

from ollama_cache_proxy.policy.sums import Snapshot, added, lasting

ONE: Snapshot = [
    ("hits", "total", [("hits_total", {"endpoint": "generate"}, 2.0)]),
    ("waiting", "sum", [("waiting", {}, 3.0)]),
    ("up", "least", [("up", {}, 1.0)]),
    ("info", "most", [("info", {"version": "1"}, 1.0)]),
]
OTHER: Snapshot = [
    ("hits", "total", [("hits_total", {"endpoint": "embed"}, 5.0), ("hits_total", {"endpoint": "generate"}, 1.0)]),
    ("waiting", "sum", [("waiting", {}, 4.0)]),
    ("up", "least", [("up", {}, 0.0)]),
    ("info", "most", [("info", {"version": "1"}, 1.0)]),
]


def test_each_family_is_added_up_as_it_wants() -> None:
    assert added([ONE, OTHER]) == [
        ("hits", "total", [("hits_total", {"endpoint": "generate"}, 3.0), ("hits_total", {"endpoint": "embed"}, 5.0)]),
        ("waiting", "sum", [("waiting", {}, 7.0)]),
        ("up", "least", [("up", {}, 0.0)]),
        ("info", "most", [("info", {"version": "1"}, 1.0)]),
    ]


def test_what_went_through_json_is_the_same() -> None:
    assert added(orjson.loads(orjson.dumps([ONE, OTHER]))) == added([ONE, OTHER])


def test_of_what_has_ended_only_what_was_counted_stays() -> None:
    assert lasting(ONE) == [("hits", "total", [("hits_total", {"endpoint": "generate"}, 2.0)])]


def test_no_snapshot_is_an_empty_sum() -> None:
    assert added([(), ()]) == []
