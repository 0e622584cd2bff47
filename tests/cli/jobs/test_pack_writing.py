from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.jobs.pack_writing import PackWriter
from ollama_cache_proxy.policy.pack_records import MAX_ENTRY, record_of
from ollama_cache_proxy.workbench.pack_form import BLOCK
from tests.cli.jobs.test_pack_reading import ENTRIES, read, written
from tests.workbench.test_pack_form import ABOUT


def test_a_part_has_another_name_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    with PackWriter(tmp_path / "a") as writer:
        writer.begin(ABOUT)
        part = tmp_path / "a.part"
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
        with pytest.raises(Failed, match="another export is writing"):
            PackWriter(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    part.chmod(0o644)
    with PackWriter(tmp_path / "a"):
        assert stat.S_IMODE(part.stat().st_mode) == 0o600


def test_a_part_that_another_export_has_finished_meanwhile_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the part and locking it, the other one gives it its name, and lets it go."""
    whole = written(tmp_path / "whole")
    (tmp_path / "a.part").write_bytes(whole)
    lock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        (tmp_path / "a.part").rename(tmp_path / "a")
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(Failed, match="another export is writing"):
        PackWriter(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == whole


def test_names_that_cannot_be_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="cannot be written: File name too long"):
        PackWriter(tmp_path / ("a" * 300))
    os.mkfifo(tmp_path / "a.part")
    with pytest.raises(Failed, match="cannot be written: it is not a regular file"):
        PackWriter(tmp_path / "a")
    (tmp_path / "b").symlink_to("absent")
    with pytest.raises(Failed, match="exists"):
        PackWriter(tmp_path / "b")


def test_a_part_goes_on_where_its_last_whole_page_ended(tmp_path: Path) -> None:
    """Whatever is cut off of it, nothing is in the pack twice, and nothing is missing."""
    whole = written(tmp_path / "whole")
    for length in range(0, len(whole), 7):
        (tmp_path / "a.part").write_bytes(whole[:length])
        with PackWriter(tmp_path / "a") as writer:
            done = int(writer.cursor) + 1 if writer.cursor else 0
            if not done:
                assert writer.about is None
                writer.begin(ABOUT)
            assert writer.about == ABOUT
            for entry in ENTRIES[done:]:
                writer.add(entry)
            writer.end_page({"cursor": None, "leftOut": {}, "scopes": []})
            writer.finish(None)
            assert writer.size == (tmp_path / "a").stat().st_size
        assert read(tmp_path / "a").totals.entries == len(ENTRIES)
        (tmp_path / "a").unlink()


def test_a_part_that_is_damaged_goes_on_before_the_damage(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole")
    for at in range(len(whole)):
        (tmp_path / "a.part").write_bytes(whole[:at] + bytes([whole[at] ^ 0x21]) + whole[at + 1 :])
        with PackWriter(tmp_path / "a") as writer:
            end = (tmp_path / "a.part").stat().st_size
            assert not writer.cursor or end <= at or at >= len(whole) - 300, at
            writer.discard()


def test_a_large_entry_has_a_block_of_its_own(tmp_path: Path) -> None:
    large = record_of("ab" * 32, os.urandom(MAX_ENTRY))
    small = record_of("cd" * 32, os.urandom(BLOCK // 3))
    with PackWriter(tmp_path / "a") as writer:
        writer.begin(ABOUT)
        for entry in (small, large, small, small, small, small, large):
            writer.add(entry)
        writer.end_page({"cursor": None, "leftOut": {}, "scopes": []})
        writer.finish(None)
    assert read(tmp_path / "a").totals.entries == 7


@pytest.mark.parametrize("name", ["absent/a", "folder"])
def test_what_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.part").mkdir()
    with pytest.raises(Failed, match=r"cannot be written|exists"):
        PackWriter(tmp_path / name)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a.part").symlink_to(tmp_path / "precious")
    with pytest.raises(Failed, match="cannot be written"):
        PackWriter(tmp_path / "a")
    assert (tmp_path / "precious").read_text() == "mine"
