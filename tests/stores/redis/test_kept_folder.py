"""The folder in which a private server keeps its entries: whose it may be, and what becomes of deletions."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ollama_cache_proxy.stores.redis.kept_folder import (
    FolderError,
    KeptFolder,
    UnknownDeletionsError,
    default_folder,
)


def kept(path: Path) -> KeptFolder:
    """A folder in which something is kept."""
    folder = KeptFolder.opened(path)
    folder.entries.mkdir(exist_ok=True)
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_new_one_is_for_this_person_alone(tmp_path: Path) -> None:
    folder = KeptFolder.opened(tmp_path / "above" / "kept")
    assert mode(folder.path) == mode(folder.path.parent) == 0o700
    assert sorted(file.name for file in folder.path.iterdir()) == ["CACHEDIR.TAG", "store.json"]
    assert {mode(file) for file in folder.path.iterdir()} == {0o600}
    assert (folder.path / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    assert folder.deletions() == 0
    assert not folder.holds_something


def test_one_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    kept(tmp_path / "kept").raise_deletions(7)
    (tmp_path / "kept").chmod(0o755)
    folder = KeptFolder.opened(tmp_path / "kept")
    assert (folder.deletions(), mode(folder.path)) == (7, 0o700)
    assert KeptFolder.found(tmp_path / "kept") is not None


def test_an_empty_one_of_ones_own_is_taken(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir(mode=0o755)
    assert mode(KeptFolder.opened(tmp_path / "kept").path) == 0o700


def test_one_in_which_a_full_disk_left_an_empty_tag_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.mkdir()
    (path / "CACHEDIR.TAG").touch()
    assert KeptFolder.opened(path).deletions() == 0
    (path / "CACHEDIR.TAG").write_bytes(b"")
    (path / "store.json").write_bytes(b"not the proxy's")
    with pytest.raises(FolderError, match="holds files that are not the proxy's"):
        KeptFolder.opened(path)


def test_a_link_of_ones_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "kept").symlink_to(tmp_path / "disk")
    assert KeptFolder.opened(tmp_path / "kept").deletions() == 0


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("letter.txt", "dear", "holds files that are not the proxy's"),
        ("store.json", "{}", "holds files that are not the proxy's"),
        ("store.json", '{"name": "another", "format": 1, "deletions": 0}', "holds files that are not the proxy's"),
        ("store.json", "not JSON", "holds files that are not the proxy's"),
        ("CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n", "holds files that are not the proxy's"),
        ("store.json", '{"name": "ollama-cache-proxy", "format": 2}', "is of another version of the proxy"),
    ],
)
def test_a_foreign_one_is_left_as_it_is(name: str, content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    path.mkdir(mode=0o755)
    (path / name).write_text(content)
    with pytest.raises(FolderError, match=told):
        KeptFolder.opened(path)
    assert [(file.name, file.read_text()) for file in path.iterdir()] == [(name, content)]
    assert mode(path) == 0o755


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    with pytest.raises(FolderError, match="is not a folder"):
        KeptFolder.opened(tmp_path / "kept")


def test_one_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    KeptFolder.opened(tmp_path / "kept")
    (tmp_path / "kept").chmod(0o770)
    with pytest.raises(FolderError, match="others can write to "):
        KeptFolder.opened(tmp_path / "kept")


def test_one_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KeptFolder.opened(tmp_path / "kept")
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(FolderError, match="belongs to another user"):
        KeptFolder.opened(tmp_path / "kept")


def test_one_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot be used: Not a directory"):
        KeptFolder.opened(tmp_path / "file" / "kept")


def test_what_is_not_there_is_not_found_and_not_made(tmp_path: Path) -> None:
    assert KeptFolder.found(tmp_path / "kept") is None
    assert not (tmp_path / "kept").exists()


def test_where_it_is_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_folder() == tmp_path / ".cache" / "ollama-cache-proxy"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_folder() == tmp_path / ".cache" / "ollama-cache-proxy"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert default_folder() == tmp_path / "caches" / "ollama-cache-proxy"


# Deletions.


def test_the_number_of_deletions_never_falls(tmp_path: Path) -> None:
    folder = kept(tmp_path / "kept")
    for number in (3, 2, 5, 5, 1):
        folder.raise_deletions(number)
    assert KeptFolder(folder.path).deletions() == 5


def test_many_may_raise_it_at_once(tmp_path: Path) -> None:
    folder = kept(tmp_path / "kept")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(folder.raise_deletions, [*range(100), *reversed(range(100))]))
    assert folder.deletions() == 99


def test_a_process_that_is_killed_leaves_a_number_that_can_be_read(tmp_path: Path) -> None:
    folder = kept(tmp_path / "kept")
    code = (
        "import sys, pathlib; from ollama_cache_proxy.stores.redis.kept_folder import KeptFolder\n"
        "folder = KeptFolder(pathlib.Path(sys.argv[1]))\n"
        "number = folder.deletions()\n"
        "while True:\n"
        "    number += 1\n"
        "    folder.raise_deletions(number)\n"
        "    print(number, flush=True)\n"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(3):
                said = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        assert folder.deletions() >= said


@pytest.mark.parametrize(
    "content",
    [b"", b'{"name": "ollama-cache-proxy", "form', b"[]", b'{"deletions": -1}', b'{"deletions": 9223372036854775807}'],
)
def test_a_number_that_cannot_be_read(content: bytes, tmp_path: Path) -> None:
    """The folder is still known as the proxy's, by its tag; what is in it may have been cleared."""
    KeptFolder.opened(tmp_path / "kept")
    (tmp_path / "kept" / "store.json").write_bytes(content)
    (tmp_path / "kept" / "entries").mkdir()
    (tmp_path / "kept" / "entries" / "file").write_bytes(b"may have been cleared")
    folder = KeptFolder.opened(tmp_path / "kept")
    with pytest.raises(UnknownDeletionsError):
        folder.deletions()
    with pytest.raises(UnknownDeletionsError):
        folder.raise_deletions(1)
    folder.start_anew()
    assert (folder.deletions(), folder.holds_something) == (0, False)


def test_dropping_deletes_what_is_kept_and_not_the_number(tmp_path: Path) -> None:
    folder = kept(tmp_path / "kept")
    folder.raise_deletions(4)
    (folder.entries / "file").write_bytes(b"kept")
    assert folder.holds_something
    folder.drop()
    assert (folder.deletions(), folder.holds_something) == (4, False)
    folder.raise_deletions(9)
    assert folder.deletions() == 4, "nothing is kept that could come back"
    assert json.loads((folder.path / "store.json").read_bytes())["name"] == "ollama-cache-proxy"
