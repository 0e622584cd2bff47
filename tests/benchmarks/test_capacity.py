"""The coefficients of `plan` follow from runs, and its errors from cases that are none of those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from benchmarks.capacity.measuring import CHECKED, FIT, MEMORY, Case, key_of
from benchmarks.capacity.report import checks, coefficients, module
from ollama_cache_proxy.workbench.capacity import Coefficients, Cost, Costs, costs, mix_of

NAMES = [field.name for field in fields(Coefficients) if field.name not in ("bodies", "entries", "workers")]


def known(**changed: Any) -> Coefficients:
    """Return coefficients that one would like to find again in what they lead to."""
    all_ = Coefficients(
        noted=Cost(fixed=20, byte=0.001),
        disturbed=30,
        posed=100,
        noting=50,
        parsed=300,
        stored=Cost(fixed=10, byte=0.002),
        missed=Cost(fixed=500, byte=0.003),
        lease=Costs(proxy=200, store=10, commands=5, wire=600),
        several=1.1,
        notice=4,
        notes=9362,
        store_found=Cost(fixed=4, byte=0.001),
        store_parsed=9,
        store_missed=Cost(fixed=20, byte=0.002),
        store_notice=2,
        commands_found=0.25,
        commands_missed=2,
        wire_found=600,
        wire_missed=800,
        entry=650,
        hot_entry=1100,
        bodies=(400, 32_000),
        entries=1_000_000,
        workers=2,
        store_busy=0.25,
    )
    return replace(all_, **changed)


def results(model: Coefficients) -> dict[str, Any]:
    """Return runs that the model is right about, each between a better and a much worse one."""

    def rows(cases: Sequence[Case]) -> list[dict[str, Any]]:
        found = []
        for case in cases:
            hot_bytes = 64 * 1024 * 1024 * case.hot / case.workers
            mix = mix_of(hit=case.hit, body=case.body, entries=case.entries, hot_bytes=hot_bytes, known=model)
            cost = costs(mix, model, processes=case.workers, several=case.workers > 1)
            run = {"proxy": cost.proxy, "store": cost.store, "commands": cost.commands, "bytes": cost.wire}
            runs = [{name: part * value for name, value in run.items()} for part in (0.9, 1, 1.4)]
            found.append(asdict(case) | {"runs": [each | {"rate": 10.0, "store_busy": 0.25} for each in runs]})
        return found

    return {
        "fit": rows(FIT),
        "checked": rows(CHECKED),
        "notices": [{"proxy": model.notice, "store": model.store_notice}],
        "leases": [{"proxy": 200.0, "store": 10.0, "commands": 5.0, "bytes": 600.0}],
        "memory": [{"entries": 1000, "body": size, "bytes": size + model.entry} for size in MEMORY],
    }


@pytest.mark.parametrize("name", NAMES)
def test_what_the_runs_are_made_of_is_found_in_them(name: str) -> None:
    wanted, found = getattr(known(), name), getattr(coefficients(results(known())), name)
    if isinstance(wanted, Cost):
        assert (found.fixed, found.byte) == (
            pytest.approx(wanted.fixed, rel=0.02),
            pytest.approx(wanted.byte, rel=0.05),
        )
    elif isinstance(wanted, Costs):
        assert found == wanted
    else:
        assert found == pytest.approx(wanted, rel=0.02)


def test_the_bounds_are_those_of_the_cases() -> None:
    found = coefficients(results(known()))
    assert (found.bodies, found.entries, found.workers) == ((400, 32_000), 1_000_000, 2)


def test_no_case_is_both_what_the_model_is_made_of_and_what_it_is_checked_against() -> None:
    assert not set(FIT) & set(CHECKED)


def test_the_error_is_what_the_model_deviates_by() -> None:
    runs = results(known())
    found = list(checks(runs, known(missed=Cost(fixed=1000, byte=0.006))))
    assert [case for case, _, _ in found] == list(CHECKED)
    case, proxy, store = found[0]
    assert case.hit == 0
    assert (proxy.error, store.error) == (pytest.approx(1), pytest.approx(0))
    assert (proxy.least, proxy.most) == (pytest.approx(0.9 * proxy.measured), pytest.approx(1.4 * proxy.measured))


def test_the_module_is_python_that_makes_the_same_coefficients() -> None:
    given = known()
    made: dict[str, Any] = {}
    exec(module(given), made)
    assert made["MEASURED"] == given


def test_questions_have_keys_of_their_own() -> None:
    assert len({key_of(number) for number in (0, 1, 999_999, 1_000_000)}) == 4
