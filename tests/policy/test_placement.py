from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_cache_proxy.policy.placement import LOAD, STAY, Host, candidates, score

A, B, C = (Host(name=name) for name in "abc")


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        pytest.param((A, replace(B, loaded=True), C), "b", id="where it is loaded"),
        pytest.param((A, replace(B, loaded=True, in_flight=int(LOAD)), C), "b", id="also where others are idle"),
        pytest.param(
            (replace(A, loaded=True, in_flight=1), replace(B, loaded=True)), "b", id="where least is in flight"
        ),
        pytest.param(
            (replace(A, loaded=True, in_flight=3, weight=4), replace(B, loaded=True, in_flight=1)), "a", id="by weight"
        ),
        pytest.param((replace(A, present=False), B), "b", id="where it is present"),
        pytest.param((replace(A, models=2), replace(B, models=1)), "b", id="where fewer models are loaded"),
        pytest.param((replace(A, serves=False, loaded=True), B), "b", id="where it may be served"),
        pytest.param((replace(A, well=False, loaded=True), B), "b", id="not where the host is ejected"),
        pytest.param((replace(A, draining=True, loaded=True), B), "b", id="nor where it is draining"),
        pytest.param((replace(A, draining=True), replace(B, well=False)), "b", id="ejected before draining"),
    ],
)
def test_the_best_host_comes_first(hosts: tuple[Host, ...], expected: str) -> None:
    assert candidates(hosts, "m")[0] == expected


def test_a_host_that_has_much_more_in_flight_is_left_for_one_that_has_to_load_the_model() -> None:
    loaded = replace(A, loaded=True, in_flight=int(LOAD) + 1)
    assert candidates((loaded, B), "m") == ["b", "a"]


def test_a_model_that_no_host_has_goes_to_the_first_one_alone() -> None:
    absent = [replace(host, present=False) for host in (A, B, C)]
    assert candidates(absent, "m") == ["a"]
    assert candidates([replace(absent[0], well=False), *absent[1:]], "m") == ["b"]


def test_all_hosts_that_have_it_are_candidates() -> None:
    assert candidates((A, replace(B, loaded=True), replace(C, present=False)), "m") == ["b", "a"]


LOADED = tuple(replace(host, loaded=True) for host in (A, B, C))


def test_a_conversation_stays_unless_its_host_is_busier_by_the_bound() -> None:
    own = candidates(LOADED, "m", b"talk")[0]
    busy = [replace(host, in_flight=int(STAY)) if host.name == own else host for host in LOADED]
    assert candidates(busy, "m", b"talk")[0] == own
    busier = [replace(host, in_flight=int(STAY) + 1) if host.name == own else host for host in LOADED]
    assert candidates(busier, "m", b"talk")[0] != own


def test_conversations_are_shared_by_weight_and_few_of_them_move_when_a_host_goes() -> None:
    hosts = (*LOADED[:2], replace(LOADED[2], weight=2.0))
    talks = [b"%d" % number for number in range(2000)]
    before = [candidates(hosts, "m", talk)[0] for talk in talks]
    assert before.count("c") == pytest.approx(1000, abs=100)
    after = [candidates(hosts[:2], "m", talk)[0] for talk in talks]
    assert all(was == "c" for was, now in zip(before, after, strict=True) if was != now)


def test_a_score_is_a_number_whatever_is_hashed() -> None:
    assert all(score(A, b"%d" % number) > 0 for number in range(1000))
