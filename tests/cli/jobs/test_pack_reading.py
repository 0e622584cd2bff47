"""A file that was cut, changed or forged is one clear line, before anything of it is used, and in bounded memory."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.jobs.pack_keys import make_pair, name_of, private_key
from ollama_cache_proxy.cli.jobs.pack_reading import Checked, PackFile
from ollama_cache_proxy.cli.jobs.pack_writing import PackWriter
from ollama_cache_proxy.policy.pack_records import MAX_ENTRY, record_of
from ollama_cache_proxy.workbench import pack_form
from tests.workbench.test_pack_form import ABOUT

ENTRIES = [record_of(hashlib.sha256(bytes([number])).hexdigest(), b"entry" * number) for number in range(20)]


def written(path: Path, *, key: Path | None = None, entries: list[bytes] = ENTRIES) -> bytes:
    with PackWriter(path) as writer:
        writer.begin(ABOUT)
        for number, entry in enumerate(entries):
            writer.add(entry)
            if number % 7 == 6:
                writer.end_page({"cursor": str(number), "leftOut": {}, "scopes": [["", "", "", 7]]})
        writer.end_page({"cursor": None, "leftOut": {}, "scopes": []})
        writer.finish(None if key is None else private_key(key))
    return path.read_bytes()


def read(path: Path) -> Checked:
    with PackFile(path) as pack:
        return pack.check(lambda _: None)


def forged(*blocks: bytes) -> bytes:
    """Return a pack with these blocks between its head and a total that counts three entries."""
    before = pack_form.BEGIN + pack_form.text_block(pack_form.HEAD, ABOUT.document()) + b"".join(blocks)
    total = {"entries": 3, "bytes": 0, "leftOut": {}, "scopes": [], "sha256": hashlib.sha256(before).hexdigest()}
    return before + pack_form.text_block(pack_form.TOTAL, total)


def test_a_pack_comes_back(tmp_path: Path) -> None:
    key = tmp_path / "a.pem"
    name = make_pair(key)
    written(tmp_path / "a", key=key)
    with PackFile(tmp_path / "a") as pack:
        seen: list[float] = []
        checked = pack.check(seen.append)
        assert (checked.about, checked.totals.entries) == (ABOUT, 20)
        assert checked.signer is not None
        assert name_of(checked.signer) == name
        assert sum(seen) == pack.size - len(pack_form.BEGIN)
        assert b"".join(data for _, data in pack.entries()) == b"".join(ENTRIES)


@pytest.mark.parametrize("signed", [False, True])
def test_a_pack_that_is_cut_off_anywhere_says_so(signed: bool, tmp_path: Path) -> None:
    key = tmp_path / "a.pem"
    make_pair(key)
    path = tmp_path / "a"
    whole = written(path, key=key if signed else None)
    unsigned = len(whole) - (pack_form.PREFIX_BYTES + pack_form.SIGNATURE_BYTES if signed else 0)
    for length in range(len(whole) - 1, -1, -1):
        os.truncate(path, length)
        if signed and length == unsigned:
            assert read(path).signer is None, "without its signature it is one that is not signed"
            continue
        with pytest.raises(Failed, match=r"is not (whole|a pack)"):
            read(path)


def test_a_pack_with_any_byte_changed_says_so(tmp_path: Path) -> None:
    key = tmp_path / "a.pem"
    make_pair(key)
    path = tmp_path / "a"
    whole = written(path, key=key)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x21]) + whole[at + 1 :])
        with pytest.raises(Failed, match="; nothing of it was imported"):
            read(path)
    for more in (b"\0", b"E", whole):
        path.write_bytes(whole + more)
        with pytest.raises(Failed, match="nothing of it was imported"):
            read(path)


def test_entries_that_change_after_they_were_checked_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "a"
    written(path)
    other = written(tmp_path / "b", entries=[entry.replace(b"entry", b"other") for entry in ENTRIES])
    with PackFile(path) as pack:
        pack.check(lambda _: None)
        with path.open("r+b") as file:
            file.write(other)
        with pytest.raises(Failed, match="has changed since it was checked"):
            list(pack.entries())


def zeros(size: int) -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(size))


@pytest.mark.parametrize(
    ("blocks", "line"),
    [
        pytest.param([], "does not hold what was written", id="no entries"),
        pytest.param([pack_form.prefix(b"E", 2**32 - 1, 10)], "a block is too large", id="huge in the file"),
        pytest.param([pack_form.prefix(b"E", 5, 2**32 - 1)], "a block is too large", id="huge once decompressed"),
        pytest.param([pack_form.prefix(b"E", MAX_ENTRY, MAX_ENTRY)], "is not whole", id="more than there is"),
        pytest.param(
            [pack_form.prefix(b"E", len(zeros(2**30)), 1000) + zeros(2**30)], "holds more than it says", id="a bomb"
        ),
        pytest.param([pack_form.prefix(b"E", 4, 1000) + b"abcd"], "cannot be decompressed", id="no zstd"),
        pytest.param(
            [pack_form.prefix(b"E", 21, 1000) + b"\x28\xb5\x2f\xfd\x00\x58" + b"\0" * 15],
            "holds more than it says",
            id="zstd that does not tell its size",
        ),
        pytest.param(
            [pack_form.prefix(b"E", 16, 8) + b"\x50\x2a\x4d\x18\x08\0\0\0" + b"x" * 8],
            "is damaged",
            id="a frame to be skipped",
        ),
        pytest.param(
            [pack_form.prefix(b"E", len(zeros(100)), 100) + zeros(100)],
            "does not hold|too large|whole",
            id="no entries in it",
        ),
        pytest.param([pack_form.text_block(b"P", {})[:-2] + b"[]"], "is not JSON", id="no progress"),
    ],
)
def test_a_forged_pack_is_one_line_and_takes_no_memory(blocks: list[bytes], line: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(forged(*blocks))
    tracemalloc.start()
    try:
        with pytest.raises(Failed, match=line) as failed:
            read(path)
        assert "\n" not in str(failed.value)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_another_file_is_no_pack(tmp_path: Path) -> None:
    for path, line in ((tmp_path, "cannot be read"), (tmp_path / "absent", "cannot be read")):
        with pytest.raises(Failed, match=line):
            PackFile(path)
    for data in (b"", b"\n", b"PK\3\4", b"OCP1" + bytes(100)):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(Failed, match="is not a pack"):
            read(tmp_path / "a")
