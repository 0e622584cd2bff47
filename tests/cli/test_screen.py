from __future__ import annotations

import pytest

from ollama_cache_proxy.cli.screen import Column, Screen, duration, printable, size, table

COLUMNS = (Column(title="a"), Column(title="b", spare=1), Column(title="c", spare=2), Column(title="d", right=True))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *[(0, "0 s"), (1.94, "1.9 s"), (10.4, "10 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min 59 s")],
        *[(3600, "1 h"), (86_400, "24 h"), (90_061, "25 h 1 min"), (36_000_000, "10,000 h")],
    ],
)
def test_durations_are_short(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_831_838_208, "4.8 GB"), (10**16, "10000.0 TB")]
)
def test_sizes_are_short(count: int, said: str) -> None:
    assert size(count) == said


def test_a_name_cannot_command_the_terminal() -> None:
    assert printable("tiny\x1b[2J\x07:é\nnext") == "tiny�[2J�:é\nnext"


@pytest.mark.parametrize(("width", "left"), [(80, "abcd"), (40, "abd"), (25, "ad"), (5, "ad")])
def test_spare_columns_go_first_where_room_is_short(width: int, left: str) -> None:
    screen = Screen()
    screen.width = width
    made = table(screen, COLUMNS, [("x" * 10, "x" * 10, "x" * 10, "x" * 10)])
    assert "".join(str(column.header) for column in made.columns) == left


def test_the_total_is_last_and_apart() -> None:
    made = table(Screen(), COLUMNS[:1], [("one",), ("two",), ("sum",)], total=True)
    assert [(row.style, row.end_section) for row in made.rows] == [(None, False), (None, True), ("bold", False)]


def test_cells_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.show(table(screen, COLUMNS[:1], [("\x1b[2J[bold]x[/bold]:smile:",)]))
    screen.say("\x1b[3J")
    assert capsys.readouterr().out == "a\n�[2J[bold]x[/bold]:smile:\n�[3J\n"
