"""Where sockets are: short, and of this person alone."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from ollama_cache_proxy.stores.redis.runtime_folder import is_private, socket_place


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short name, in which temporary ones are made."""
    folder = Path(tempfile.mkdtemp(prefix="ocp-"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    yield folder
    rmtree(folder)


def test_it_is_in_the_folder_of_the_session_if_there_is_one(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert socket_place("a.sock") == short / f"ocp-{os.getuid()}" / "a.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    assert socket_place("a.sock") == short / "ollama-cache-proxy" / "a.sock"
    assert stat.S_IMODE((short / "ollama-cache-proxy").stat().st_mode) == 0o700


@pytest.mark.parametrize("taken", ["a file", "of others too", "a link"])
def test_one_that_others_can_use_is_not_used(taken: str, short: Path) -> None:
    path = short / f"ocp-{os.getuid()}"
    if taken == "a file":
        path.write_text("")
    elif taken == "a link":
        path.symlink_to(short)
    else:
        path.mkdir()
        path.chmod(0o770)
    assert not is_private(path)
    place = socket_place("a.sock")
    assert place.parent not in (path, short)
    assert is_private(place.parent)


def test_one_with_a_long_name_is_not_used(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = short / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert socket_place("a.sock").parent == short / f"ocp-{os.getuid()}"
