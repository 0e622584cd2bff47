"""The matrix has every row, and every row has a test."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.e2e.faults.matrix import LATER, MATRIX, Table


def rows_of_tests() -> set[int]:
    """Give the rows that tests are marked with: `row(1, 2)`, in whatever way the marker is named."""
    calls = (
        node
        for path in Path(__file__).parents[1].rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) == "row"
    )
    return {argument.value for call in calls for argument in call.args if isinstance(argument, ast.Constant)}


def test_each_number_has_its_row_and_each_row_its_test() -> None:
    assert sorted(MATRIX | LATER) == list(range(1, 53))
    assert not MATRIX.keys() & LATER.keys()
    assert rows_of_tests() == MATRIX.keys()


def test_the_table_has_each_row_in_order_and_those_of_later() -> None:
    table = Table()
    lines, well = table.lines()
    numbers = [int(line[:2]) for line in lines[1:]]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 53))
    assert [int(line[:2]) for line in lines[1:] if line.endswith("later")] == sorted(LATER)
    assert not well, "nothing has run"
    for number, row in MATRIX.items():
        for name in row.figures:
            table.measured(number, name, 0)
    assert table.lines()[1]
    table.failed.add(1)
    assert not table.lines()[1]
