"""The file of the seal key: who may read it, what it must hold, and that no key is ever written over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ollama_cache_proxy.service import seal_key_file
from ollama_cache_proxy.service.seal_key_file import key_in, make_key

DIGITS = "00112233445566778899aabbccddeeff" * 2


def holding(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_key_that_was_made_is_read_and_its_owner_s_alone(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    before = os.umask(0)
    try:
        make_key(one)
    finally:
        os.umask(before)
    make_key(two)
    assert Path(one).stat().st_mode & 0o777 == 0o600
    assert len(key_in(one)) == 32
    assert key_in(one) == key_in(one) != key_in(two)


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    path = holding(tmp_path / "key", DIGITS)
    with pytest.raises(FileExistsError):
        make_key(path)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        make_key(str(tmp_path / "link"))
    assert Path(path).read_text() == DIGITS
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("text", [DIGITS, DIGITS + "\n", DIGITS.upper() + "\r\n", f"  {DIGITS} \n\n"])
def test_digits_may_be_written_as_editors_and_openssl_do(text: str, tmp_path: Path) -> None:
    assert key_in(holding(tmp_path / "key", text)) == bytes.fromhex(DIGITS)


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", DIGITS[:-1], DIGITS + "0", DIGITS[:-1] + "g", DIGITS[:-1] + "٠", "key=" + DIGITS),
        *(f"{DIGITS}\n{DIGITS}", DIGITS[:32] + " " + DIGITS[32:], DIGITS + " " * 500, "x" * 100_000),
    ],
)
def test_anything_else_is_refused_without_being_told(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^must hold 64 hexadecimal digits and nothing else, as `") as refused:
        key_in(holding(tmp_path / "key", text))
    assert DIGITS[:20] not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666, 0o444])
def test_a_file_that_others_may_read_or_change_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^others may read or change it; `chmod 600` it"):
        key_in(holding(tmp_path / "key", DIGITS, mode))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_its_owner_alone_is_read(mode: int, tmp_path: Path) -> None:
    assert key_in(holding(tmp_path / "key", DIGITS, mode)) == bytes.fromhex(DIGITS)


@pytest.mark.parametrize(
    ("owner", "user", "refused"), [(0, 1000, 0o037), (0, 0, 0o077), (1000, 1000, 0o077), (1000, 0, 0o077)]
)
def test_the_group_may_read_a_secret_that_root_has_mounted(
    owner: int, user: int, refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert seal_key_file._closed_to_others(owner) == refused


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ValueError, match=r"^it is not a file$"):
        key_in(str(tmp_path / "pipe"))
    with pytest.raises((ValueError, IsADirectoryError)):
        key_in(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        key_in(str(tmp_path / "nothing"))


def test_a_link_leads_to_the_file(tmp_path: Path) -> None:
    holding(tmp_path / "key", DIGITS)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    assert key_in(str(tmp_path / "link")) == bytes.fromhex(DIGITS)
