"""A line that is wrong is noticed, and `make mutants` says so where it is not."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mutants import tests_of as choice
from benchmarks.mutants.mutations import Mutant, mutants, mutated

ROOT = Path(__file__).parents[2]
SOURCE = '''\
"""Two words."""
from typing import Final

LIMIT: Final = 3
NAMES = ("a", "two words", b"c")


def over(size: int, *, strict: bool = True) -> bool:
    """Return whether it is over the limit."""
    assert size >= 0
    if not strict:
        return size > LIMIT
    return size > LIMIT and size != 7
'''
EXPECTED = [
    "module: LIMIT: Final = 3 -> LIMIT: Final = 4",
    "module: ('a', 'two words', b'c') -> ('aX', 'two words', b'c')",
    "module: ('a', 'two words', b'c') -> ('a', 'two words', b'cX')",
    "over: True -> False",
    "over: not strict -> strict",
    "over: return size > LIMIT -> return None",
    "over: return size > LIMIT -> return size >= LIMIT",
    "over: return size > LIMIT and size != 7 -> return None",
    "over: size > LIMIT and size != 7 -> size > LIMIT or size != 7",
    "over: size > LIMIT and size != 7 -> size != 7",
    "over: size > LIMIT and size != 7 -> size > LIMIT",
    "over: size > LIMIT and size != 7 -> size >= LIMIT and size != 7",
    "over: size > LIMIT and size != 7 -> size > LIMIT and size == 7",
    "over: size != 7 -> size != 8",
]


def test_each_expression_is_changed_once_and_texts_annotations_and_asserts_are_not() -> None:
    found = list(mutants("m.py", SOURCE))
    assert [mutant.name for mutant in found] == [f"m.py {name}" for name in EXPECTED]
    written = {ast.unparse(mutated(mutant, SOURCE)) for mutant in found}
    assert len(written) == len(found)
    assert ast.unparse(ast.parse(SOURCE)) not in written


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a[1:]", "a[:]"),
        ("a if b else c", "c"),
        ("min(a)", "max(a)"),
        ("a + b", "a - b"),
        ("a is None", "a is not None"),
        ("a not in b", "a in b"),
        ("f()", "pass"),
        ("a += b", "a -= b"),
        ("a += b", "pass"),
        ("raise a", "pass"),
        ("del a", "pass"),
        ("a = 1.5", "a = 2.5"),
    ],
)
def test_what_a_change_is(before: str, after: str) -> None:
    found = [ast.unparse(mutated(mutant, before)) for mutant in mutants("m.py", before)]
    assert after in found


def test_a_strict_zip_is_not_changed_and_one_that_is_not_strict_is() -> None:
    assert list(mutants("m.py", "zip(a, b, strict=True)[c]")) == []
    assert [mutant.name for mutant in mutants("m.py", "a = zip(b, c, strict=False)")] == ["m.py module: False -> True"]


def test_a_name_stays_the_same_when_other_lines_move_and_equal_ones_are_numbered() -> None:
    source = "def f():\n    a = 1\n    a = 1\n"
    names = [mutant.name for mutant in mutants("m.py", source)]
    assert names == ["m.py f: a = 1 -> a = 2", "m.py f: a = 1 -> a = 2 (2)"]
    assert [mutant.name for mutant in mutants("m.py", f"import os\n\n\n{source}")] == names
    long = f"a = f({', '.join(f'x{number}' for number in range(60))}, 1)"
    (mutant,) = (mutant for mutant in mutants("m.py", long) if "1" in mutant.name)
    assert mutant.name == "m.py module: …x54, x55, x56, x57, x58, x59, 1) -> …x54, x55, x56, x57, x58, x59, 2)"


def test_the_tests_of_a_module_are_its_own_and_those_that_reach_it() -> None:
    own, others = choice.tests_of("policy/host_names.py")
    assert own == ["tests/policy/test_host_names.py"]
    assert "tests/policy/test_fields.py" in others
    assert "tests/policy/test_trace.py" not in others
    assert "policy/host_names.py" in choice.reached(ROOT / "tests/policy/test_fields.py")
    assert choice.tests_of("core/flights.py")[0] == ["tests/core/test_flights.py"]


PLANTED = """
import ast, sys
from benchmarks.mutants import __main__ as command
from benchmarks.mutants.mutations import Mutant

def planted(folders):
    return [Mutant(module="policy/trace.py", name=name, line=1, place=0, number=0) for name in ("found", "alive", "hangs", "known")]

def changed(mutant, source):
    more = {"found": "raise ZeroDivisionError", "hangs": "while True: pass"}.get(mutant.name, "UNREAD = 1")
    return ast.parse(source + "\\n" + more)

command.every, command.mutated, command.AT_LEAST, command.SLOWER = planted, changed, 1.0, 3
command.read_equivalent = lambda: {"known": "nobody reads it"}
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("at_most", "status"), [("24", 1), ("25", 0)])
def test_a_planted_survivor_is_named(at_most: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLANTED, "--at-most", at_most], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert "survived: line 1: alive\n" in done.stdout
    assert "survived: line 1: found" not in done.stdout
    assert "equivalent: known\n    nobody reads it\n" in done.stdout
    assert done.stdout.endswith(
        "4 tried: 1 killed by a test, 1 by the end of their time, 1 equivalent, 1 survived: 25.0% "
        f"(at most {at_most}%)\n"
    )


def test_a_reason_for_what_is_no_mutant_is_refused() -> None:
    code = PLANTED.replace('"known": "nobody', '"gone": "nobody')
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "equivalent.toml names what is no mutant: gone\n")


def test_tests_that_fail_without_a_change_end_the_run() -> None:
    code = PLANTED.replace(
        "command.read_equivalent", 'command.tests_of = lambda _: [["tests/no/such/test.py"]]\ncommand.read_equivalent'
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "its tests fail without a change" in done.stderr


def test_a_mutant_says_where_it_is() -> None:
    assert [mutant.line for mutant in mutants("m.py", "a = 1\n\nb = 2")] == [1, 3]
    assert Mutant(module="m", name="n", line=1, place=0, number=0).module == "m"
