"""A record is a value: equal by what it holds, made by name, and changed by nobody whose types are checked."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import field, replace
from pathlib import Path

import pytest

from ollama_cache_proxy.policy.record import changed, record


@record
class Point:
    x: int
    y: int = 0
    names: tuple[str, ...] = field(default_factory=tuple)


def test_records_are_equal_by_what_they_hold() -> None:
    assert Point(x=1) == Point(x=1, y=0) != Point(x=1, y=2)
    assert len({Point(x=1), Point(x=1), Point(x=2)}) == 2
    assert replace(Point(x=1), y=3) == Point(x=1, y=3)
    assert repr(Point(x=1)) == "Point(x=1, y=0, names=())"


@record
class Spot(Point):
    colour: str = "red"


def test_a_record_changes_into_another() -> None:
    spot = Spot(x=1, names=("a",))
    assert changed(spot, y=2, colour="blue") == Spot(x=1, y=2, names=("a",), colour="blue")
    assert changed(spot) == spot == Spot(x=1, names=("a",))
    with pytest.raises(AttributeError):
        changed(spot, z=2)


def test_records_are_made_by_name_and_hold_nothing_else() -> None:
    with pytest.raises(TypeError):
        Point(1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        Point(x=1).z = 2  # type: ignore[attr-defined]


def test_a_change_is_found_by_the_type_check(tmp_path: Path) -> None:
    text = """
from dataclasses import replace

from ollama_cache_proxy.policy.messages import Request

request = Request(method="GET", target="/", fields=())
request.target = "/other"
replace(request, targets="/")
Request("GET", "/", ())
"""
    file = tmp_path / "changes.py"
    file.write_text(text, "utf-8")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), file],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = re.findall(r"changes\.py:(\d+): error: .*\[(\S+)\]", checked.stdout)
    assert found == [("7", "misc"), ("8", "call-arg"), ("9", "call-arg")], checked.stdout
