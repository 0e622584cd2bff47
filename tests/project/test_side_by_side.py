"""`make test` runs each test once, shows what failed last, and fails where anything did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import side_by_side
from tests.side_by_side import Ended, Job, folders, line, main, not_run_once, steps

ROOT = Path(__file__).parents[2]


def said(name: str, code: str, tally: Path | None = None) -> Job:
    return Job(name, (sys.executable, "-c", code), tally)


def tallied(folder: Path, name: str, *, found: list[str], ran: list[str]) -> Job:
    told = json.dumps({"found": found, "ran": ran})
    return said(name, f"import pathlib; pathlib.Path({str(folder / name)!r}).write_text({told!r})", folder / name)


def given(monkeypatch: pytest.MonkeyPatch, *jobs: list[Job]) -> None:
    monkeypatch.setattr(side_by_side, "steps", lambda _folder, _arguments: list(jobs))


def test_every_test_is_in_the_paths_of_one_run(tmp_path: Path) -> None:
    (at_once, last) = steps(tmp_path, ())
    paths = [path for job in at_once if job.tally for path in job.command if path.startswith("tests/")]
    assert paths == folders()
    assert {"tests/core", "tests/e2e/cache", "tests/e2e/test_serve.py"} <= set(paths)
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    files = [file for file in files if "node_modules" not in file]
    assert len(files) > 100
    assert [file for file in files if sum(file == path or file.startswith(f"{path}/") for path in paths) != 1] == []
    chosen = {job.command[job.command.index("-m", 3) + 1] for job in at_once if job.tally}
    assert chosen == {"not alone"}
    assert last[0].command[-1] == "tests"
    assert last[0].command[last[0].command.index("-m", 3) + 1] == "alone"
    assert len({job.tally for job in (*at_once, *last)}) == len(paths) + 2  # one of them None: of lint and types


def test_those_that_take_longest_begin_first(tmp_path: Path) -> None:
    assert folders()[:2] == ["tests/cli", "tests/e2e/faults"]
    assert all((ROOT / name).is_dir() for name in side_by_side._LONGEST)
    names = [job.name for job in steps(tmp_path, ())[0]]
    assert names.index("another Python") < names.index("tests/stores")
    assert "another Python" not in [job.name for job in steps(tmp_path, ("-k", "a"))[0]]


def test_what_measures_the_time_of_a_fault_runs_alone_and_pytest_notes_what_it_found_and_ran(tmp_path: Path) -> None:
    noted = {}
    for which in ("alone", "not alone"):
        tally = tmp_path / which
        command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, f"--tally={tally}")
        file = "tests/e2e/faults/test_store_faults.py"
        chosen = ("-k", "uvloop and (that_refuses_adds or emptied_or_restarted)")
        done = subprocess.run((*command, *chosen, file), cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode()
        noted[which] = json.loads(tally.read_text())
    assert noted["alone"]["found"] == noted["not alone"]["found"]
    assert len(noted["alone"]["found"]) > 20
    for which, name in (("alone", "that_refuses_adds"), ("not alone", "emptied_or_restarted")):
        (ran,) = noted[which]["ran"]
        assert name in ran


def test_all_is_well_where_each_test_has_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tallied(tmp_path, "one", found=["a", "b"], ran=["a"])
    two = tallied(tmp_path, "two", found=["a", "b"], ran=["b"])
    given(monkeypatch, [one, said("lint", "print('clean')")], [two])
    assert main([]) == 0
    told = capsys.readouterr().out
    assert "lint: passed after 0 s: clean\n" in told
    assert told.endswith("All passed: 2 tests, each has run once\n")


@pytest.mark.parametrize(
    ("ran", "wrong"), [(["a"], "b"), (["a", "b", "b"], "b"), (["a", "b", "c"], None)], ids=["none", "twice", "all"]
)
def test_a_test_that_has_not_run_or_has_run_twice_is_a_failure(
    ran: list[str],
    wrong: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = ["a", "b", "c"] if wrong is None else ["a", "b"]
    given(monkeypatch, [tallied(tmp_path, "one", found=found, ran=ran)])
    assert main([]) == (wrong is not None)
    assert wrong is None or f"{wrong}\nFAILED: of 2 tests 1 did not run once\n" in capsys.readouterr().out
    assert not_run_once([]) == (0, [])


@pytest.mark.parametrize("status", [1, 2, 3, 4, 5, 70, -9])
def test_what_failed_comes_last_and_in_full(
    status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    end = "os.kill(os.getpid(), 9)" if status < 0 else f"os._exit({status})"
    code = f"import os; print('the reason\\n' * 3, end='', flush=True); {end}"
    given(monkeypatch, [said("bad", code), said("good", "print('fine')")], [said("later", "print('ran all the same')")])
    assert main([]) == 1
    told = capsys.readouterr().out
    assert f"bad: FAILED with status {status} after" in told
    assert "later: passed" in told
    assert told.endswith("= bad =" + "=" * 47 + "\n" + "the reason\n" * 3 + "\nFAILED: bad\n")


def test_what_hangs_or_cannot_be_started_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(side_by_side, "ENDS_WITHIN", 0.5)
    given(monkeypatch, [said("hangs", "import time; time.sleep(60)"), Job("nowhere", ("/no/such/command",))])
    assert main([]) == 1
    told = capsys.readouterr().out
    assert "hangs has not ended within 0.5 s" in told
    assert "No such file or directory: '/no/such/command'" in told


def test_tests_that_another_run_has_are_no_failure(tmp_path: Path) -> None:
    assert Ended(said("a", "", tmp_path), 5, "", 0.0).well
    assert not Ended(said("a", ""), 5, "", 0.0).well


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    text = (
        "..s\n=== short test summary info ===\nSKIPPED [1] a.py:3: no npm\nXFAIL a.py::b\n1 passed, 1 skipped in 1 s\n"
    )
    assert line(Ended(said("a", ""), 0, text, 7.4)) == (
        "a: passed after 7 s: 1 passed, 1 skipped in 1 s\n    SKIPPED [1] a.py:3: no npm\n"
    )
