"""Which node has which slots, by what nodes say, and which of their views counts."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import InvalidResponse

from ollama_cache_proxy.stores.redis.cluster_topology import SLOTS, View, latest, owners, read_view

ASKED = ("10.0.0.9", 7009)
INFO = b"cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_current_epoch:12\r\n"


def node(host: bytes | None, port: int) -> list[Any]:
    return [host, port, b"0" * 40, []]


def view(epoch: int, *, well: bool = True, port: int = 7000) -> View:
    return View(well=well, epoch=epoch, ranges=((0, SLOTS - 1, ("h", port)),), replicas=frozenset())


def test_a_view_has_the_primaries_in_the_order_of_their_slots():
    slots = [
        [8192, 16383, node(b"10.0.0.2", 7002), node(b"10.0.0.4", 7004)],
        [0, 8191, node(b"10.0.0.1", 7001), node(b"10.0.0.3", 7003)],
    ]
    found = read_view(ASKED, INFO, slots)
    assert (found.well, found.epoch, found.covered) == (True, 12, SLOTS)
    assert found.primaries == (("10.0.0.1", 7001), ("10.0.0.2", 7002))
    assert found.replicas == {("10.0.0.3", 7003), ("10.0.0.4", 7004)}
    assert {slot: owners(found)[slot] for slot in (0, 8191, 8192, 16383)} == {
        0: ("10.0.0.1", 7001),
        8191: ("10.0.0.1", 7001),
        8192: ("10.0.0.2", 7002),
        16383: ("10.0.0.2", 7002),
    }


@pytest.mark.parametrize("host", [b"", b"?", None])
def test_a_node_that_does_not_know_its_own_host_is_where_it_was_asked(host: bytes | None):
    assert read_view(ASKED, INFO, [[0, 16383, node(host, 7001)]]).primaries == (("10.0.0.9", 7001),)


@pytest.mark.parametrize(
    ("info", "slots"),
    [
        (b"", []),
        (b"cluster_state:ok", []),
        (b"cluster_current_epoch:1\r\ncluster_state", []),
        (INFO.replace(b"12", b"x"), []),
        (None, []),
        (b"\xff\xff:", []),
        (INFO, None),
        (INFO, [[0, 1]]),
        (INFO, [[0, 16384, node(b"h", 1)]]),
        (INFO, [[2, 1, node(b"h", 1)]]),
        (INFO, [[b"a", 1, node(b"h", 1)]]),
        (INFO, [[0, 1, [b"h"]]]),
        (INFO, b"OK"),
    ],
)
def test_what_no_node_says_is_none(info: Any, slots: Any):
    with pytest.raises(InvalidResponse):
        read_view(ASKED, info, slots)


@pytest.mark.parametrize(
    ("views", "port"),
    [
        pytest.param([view(3, port=3), view(7, port=7), view(5, port=5)], 7, id="the latest epoch"),
        pytest.param([view(9, well=False, port=9), view(7, port=7)], 7, id="one that is in order"),
        pytest.param([view(9, well=False, port=9), view(7, well=False, port=7)], 9, id="none is in order"),
        pytest.param([View(well=True, epoch=99, ranges=(), replicas=frozenset()), view(1, port=1)], 1, id="with slots"),
    ],
)
def test_the_view_that_counts(views: list[View], port: int):
    found = latest(views)
    assert found is not None
    assert found.primaries == (("h", port),)
    assert latest([]) is None
