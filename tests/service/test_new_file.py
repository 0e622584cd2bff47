from __future__ import annotations

import os
from pathlib import Path

import pytest

from ollama_cache_proxy.service.new_file import write_new


def test_a_file_has_its_bytes_and_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "new"
    write_new(path, b"text", 0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"text", 0o600)
    with pytest.raises(FileExistsError):
        write_new(path, b"other", 0o600)
    assert path.read_bytes() == b"text"


def test_what_could_not_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_new(tmp_path / "new", b"text", 0o600)
    assert list(tmp_path.iterdir()) == []
