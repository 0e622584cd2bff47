from __future__ import annotations

from pathlib import Path

import pytest

from ollama_cache_proxy.cli.checks.seen import Seen, observe, read, state_file, write


def test_a_context_that_changed_is_told_of_until_entries_of_before_have_gone() -> None:
    first, stale = observe(None, 4096, "", 0, 100)
    assert not stale
    same, stale = observe(first, 4096, "", 50, 100)
    assert (same, stale) == (first, False)
    changed, stale = observe(first, 8192, "", 60, 100)
    assert (changed.before, changed.since, stale) == (4096, 60, True)
    assert observe(changed, 8192, "", 159, 100) == (changed, True)
    assert observe(changed, 8192, "", 160, 100) == (changed, False)
    assert observe(changed, 8192, "new epoch", 61, 100)[1] is False
    assert observe(changed, 4096, "", 70, 100)[1] is True


@pytest.mark.parametrize("content", ["", "{", "[]", '{"u": 1}', '{"u": {"d": {"context": 1}}}'])
def test_a_file_that_is_none_is_as_good_as_no_file(content: str, tmp_path: Path) -> None:
    file = tmp_path / "doctor.json"
    file.write_text(content)
    assert read(file, "u") == {}
    seen = {"d": Seen(context=1, epoch="", since=0, before=1)}
    write(file, "u", seen)
    assert read(file, "u") == seen
    write(tmp_path / "doctor.json" / "below", "u", seen)  # cannot be, and harms nobody


def test_the_file_lies_where_programs_keep_such_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_file() == tmp_path / "ollama-cache-proxy" / "doctor.json"
