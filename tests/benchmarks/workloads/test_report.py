"""From a repository to tables, and the page as it is committed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.workloads import __main__ as command
from benchmarks.workloads import figures, replay, report
from benchmarks.workloads.requests import Asked
from tests.support.repository import Repository

FUNCTION = "def f{0}():\n    return {1}\n\n\n"


@pytest.fixture
def work(repository: Repository) -> Path:
    """Ten functions, of which each commit changes one, and then changes it back."""
    values = [0] * 10
    for number in range(20):
        values[number % 5] = number % 2
        text = "".join(FUNCTION.format(at, value) for at, value in enumerate(values))
        repository.commit({"a.py": f"import os{number % 3}\n\n\n{text}"}, at=1_000 * number)
    return repository.folder


def given(*arguments: str) -> argparse.Namespace:
    return command.parser().parse_args(arguments)


def test_the_whole_way(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "BUILD", work.parent / "build")
    monkeypatch.setattr(replay, "_WRITE_DEADLINE", 0.05)  # half of next to nothing keeps next to nothing
    assert command.main(given(str(work), "--name", "it", "--requests", "20", "--seconds", "0.5"))
    out = capsys.readouterr()
    found = json.loads((work.parent / "build" / "it.json").read_text("utf-8"))
    assert out.out == "\n".join(report.tables({"it": found})) + "\n"
    assert "scale 0.0" in out.err
    assert found["replayed"]["unlike"] == 0
    assert found["replayed"]["requests"] == len(found["replayed"]["rows"]) == 20
    embedded = found["derived"]["embed"]["by function or class"]
    assert embedded["items"] == 19 * 11
    assert embedded["by_item"] > 80 > found["derived"]["embed"]["1,000 characters"]["by_item"]
    assert found["derived"]["usual"]["whole"]["embed"]["by_item"] < embedded["by_item"]
    ages = found["derived"]["lifetime"]
    assert ages["1 h"]["embed"]["by_item"] < ages["24 h"]["embed"]["by_item"] == ages["none"]["embed"]["by_item"]
    assert found["stored"]["maxmemory"]["2 GB"]["evicted"] == 0
    assert {row["with"] < row["without"] for row in found["worked"].values()} == {True}


def test_derived_figures_are_the_same_each_time(work: Path) -> None:
    def once() -> tuple[object, object]:
        with command.history_of(given(str(work), "--name", "it")) as history:
            workload = figures.usual(history)
            return figures.derived(history, workload, lambda: None), figures.worked(workload, 1)

    assert once() == once()


def test_requests_are_written_and_read(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = work.parent / "samples"
    samples.mkdir()
    assert command.main(given(str(work), "--requests", "12", "--jsonl", str(samples / "it.jsonl")))
    monkeypatch.setattr(command, "SAMPLES", samples)
    assert command.main(given("--sample", "--seconds", "0.2"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("it: embed ")
    assert last.endswith("; none unlike what was derived")


def test_of_the_tail_is_known_what_was_known_of_it_in_the_whole(work: Path) -> None:
    with command.history_of(given(str(work))) as history:
        whole = figures.usual(history)
    tail = whole.tail(15)
    cache, other = (figures.Cache(figures.Expiring()) for _ in range(2))
    for one in (*whole.before, *whole.asked[:-15]):
        cache.ask(one)
    for one in tail.before:
        other.ask(one)
    expected = [cache.ask(one) for one in tail.asked]
    assert expected == [other.ask(one) for one in tail.asked]
    assert () in expected


def test_latency() -> None:
    assert figures.latency([0.001 * number for number in range(1, 101)]) == {
        "average": 50.5,
        "p50": 50.5,
        "p95": 96.0,
        "rate": 19.8,
    }


def test_a_repository_without_sources_is_refused(repository: Repository) -> None:
    for number in range(3):
        repository.commit({"a.md": str(number)}, at=number)
    with pytest.raises(SystemExit, match="no commit wrote a source file"):
        command.main(given(str(repository.folder)))


def test_what_is_committed_is_known_as_derived(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quick form of `make hit-rates-sample`."""
    assert command.main(given("--sample", "--seconds", "0"))
    last = capsys.readouterr().out.splitlines()[-1]
    for text in ("hishel: embed 73.9 %, explain 41.9 %, fix 73.3 %", "ky: embed 87.9 %, explain 17.9 %"):
        assert text in last


def test_the_page_the_pictures_and_the_claims_are_made_from_the_figures() -> None:
    found = command.kept()
    assert len(found) >= 4
    written = command.PAGE.read_text("utf-8")
    assert report.page(written, found) == written
    for name, picture in command.PICTURES.items():
        assert (command.PAGE.parent / name).read_text("utf-8") == picture(found)
        ET.fromstring(picture(found))
    assert "\n".join(report.claims(found)) in (command.ROOT / "README.md").read_text("utf-8")


def test_a_request_alone_keeps_its_own_count() -> None:
    alone, listed = Asked(at=0, category="embed", texts=("a",)), Asked(at=0, category="embed", texts=("a", "b"))
    assert figures.Workload([listed], [alone, alone]).tail(1) == figures.Workload([listed_only("a"), alone], [alone])


def listed_only(text: str) -> Asked:
    return Asked(at=0, category="embed", texts=(text,))
