"""Files of recorded requests: whose they are, how large they get, and that no fault of theirs reaches a request."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.telemetry import request_recorder
from ollama_cache_proxy.telemetry.request_recorder import Place, RecordingsError, RecordingsFolder, RequestRecorder
from tests.support.waiting import until

MIB = 1 << 20


def place(folder: Path, limit: int = MIB, writers: int = 1) -> Place:
    return Place(folder=str(folder), limit=limit, writers=writers)


def lines(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("requests-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def recordings(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("requests-2*.jsonl") if not file.is_symlink())


class Recording:
    """A recorder, and what it has said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.recorder = RequestRecorder(self.said.append)

    def record(self, number: int, size: int = 10) -> None:
        body = json.dumps({"prompt": f"{number}".ljust(size)}).encode()
        self.recorder.record(f"key {number}", "/api/generate", {"X-Cache-Namespace": "n"}, body)


@pytest.fixture
def recording() -> Recording:
    return Recording()


@pytest.fixture
def umask() -> Iterator[None]:
    """One that would let others read everything."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_each_request_is_one_line_in_a_private_file(recording: Recording, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "recordings"
    assert recording.recorder.use(RecordingsFolder(place(folder)))
    for number in (1, 2, 1):
        recording.record(number)
    await recording.recorder.close()
    assert [line["path"] for line in lines(folder)] == ["/api/generate"] * 2
    assert [json.loads(line["body"])["prompt"].strip() for line in lines(folder)] == ["1", "2"]
    assert {json.dumps(line["headers"]) for line in lines(folder)} == {'{"X-Cache-Namespace": "n"}'}
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert recording.said == []


async def test_without_a_request_there_is_no_file(recording: Recording, tmp_path: Path) -> None:
    recording.recorder.use(RecordingsFolder(place(tmp_path / "a")))
    await recording.recorder.close()
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o777])
def test_an_empty_folder_of_ones_own_is_made_private_and_another_is_refused(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    folder.chmod(mode)
    RecordingsFolder(place(folder)).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "file").touch()
    folder.chmod(mode)
    with pytest.raises(RecordingsError, match="others can enter it, and it is not empty: chmod 700"):
        RecordingsFolder(place(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    folder.chmod(0o700)
    RecordingsFolder(place(folder)).close()


def test_links_files_and_folders_of_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(RecordingsError, match="it is no folder, or a link"):
            RecordingsFolder(place(tmp_path / name))
    with pytest.raises(RecordingsError, match="it is no folder, or a link"):
        RecordingsFolder(place(tmp_path / "file" / "below"))
    monkeypatch.setattr(os, "geteuid", lambda: real.stat().st_uid + 1)
    with pytest.raises(RecordingsError, match="it is another user's"):
        RecordingsFolder(place(real))


async def test_the_oldest_go_and_nothing_else(recording: Recording, tmp_path: Path) -> None:
    old = tmp_path / "requests-20200101T000000.000Z-1-1.jsonl"
    mine = tmp_path / "requests-mine.jsonl"
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(10 * MIB))
    for file in (old, mine):
        file.write_bytes(bytes(MIB))
    (tmp_path / "requests-20200101T000000.000Z-1-2.jsonl").symlink_to(outside)
    recording.recorder.use(RecordingsFolder(place(tmp_path)))
    for number in range(300):
        recording.record(number, 10_000)
        await asyncio.sleep(0)
    await recording.recorder.close()
    ours = recordings(tmp_path)
    total = sum(file.stat().st_size for file in ours)
    assert MIB // 2 < total <= MIB
    assert not old.exists()
    assert mine.stat().st_size == MIB
    assert outside.stat().st_size == 10 * MIB
    last = json.loads(ours[-1].read_text("utf-8").splitlines()[-1])
    assert int(json.loads(last["body"])["prompt"]) == 299
    assert recording.said == []


async def test_several_processes_share_the_limit(tmp_path: Path) -> None:
    both = [Recording(), Recording()]
    for one in both:
        one.recorder.use(RecordingsFolder(place(tmp_path / "a", writers=2)))
    for number in range(200):
        both[number % 2].record(number, 10_000)
        await asyncio.sleep(0)
    for one in both:
        await one.recorder.close()
        assert one.said == []
    assert sum(file.stat().st_size for file in (tmp_path / "a").iterdir()) <= MIB


async def test_what_is_larger_than_a_file_and_what_is_no_text_is_left_out(recording: Recording, tmp_path: Path) -> None:
    recording.recorder.use(RecordingsFolder(place(tmp_path / "a")))
    recording.record(1, MIB // 8)
    recording.recorder.record("key", "/api/generate", {}, b'{"prompt": "\xff"}')
    recording.record(2)
    await recording.recorder.close()
    assert [json.loads(line["body"])["prompt"].strip() for line in lines(tmp_path / "a")] == ["2"]


async def test_a_full_disk_ends_recording_with_one_line_and_no_torn_one(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = os.write

    def full(file: int, data: bytes) -> int:
        if os.fstat(file).st_size > 300:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(file, bytes(data)[:50])

    folder = tmp_path / "a"
    recording.recorder.use(RecordingsFolder(place(folder)))
    recording.record(0)
    await until(lambda: lines(folder))
    monkeypatch.setattr(os, "write", full)
    for number in range(1, 20):
        recording.record(number)
    await until(lambda: recording.said)
    for number in range(20, 40):
        recording.record(number)
    assert recording.said == [f"Requests are no longer recorded in {folder}: No space left on device"]
    assert 1 <= len(lines(folder)) < 5
    monkeypatch.undo()
    assert recording.recorder.use(RecordingsFolder(place(folder))), "a reload tries again"
    recording.record(50)
    await recording.recorder.close()
    assert json.loads(lines(folder)[-1]["body"])["prompt"].strip() == "50"
    assert len(recording.said) == 1


async def test_a_folder_that_goes_ends_recording_with_one_line(recording: Recording, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    recording.recorder.use(RecordingsFolder(place(folder)))
    recording.record(1)
    await until(lambda: folder.exists() and lines(folder))
    for file in folder.iterdir():
        file.unlink()
    recording.record(2)
    await until(lambda: lines(folder))
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    recording.record(3)
    await until(lambda: recording.said)
    recording.record(4)
    await recording.recorder.close()
    assert recording.said == [f"Requests are no longer recorded in {folder}: No such file or directory"]


async def test_a_disk_that_hangs_holds_up_nobody(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it is bounded, and what is over that is told once."""
    monkeypatch.setattr(request_recorder, "_MAX_WAITING", 10_000)
    hanging = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_file: int, _data: bytes) -> int:
        asyncio.run_coroutine_threadsafe(hanging.wait(), loop).result(20)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    recording.recorder.use(RecordingsFolder(place(tmp_path / "a")))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", hang)
        for number in range(1000):
            recording.record(number)
        assert recording.said == ["Some requests are not recorded: more come than the disk takes"]
        hanging.set()
        await until(lambda: len(recording.said) == 2)
    await recording.recorder.close()


async def test_small_requests_that_wait_count_for_what_they_take(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes about a kilobyte of memory, however short its body is."""
    monkeypatch.setattr(request_recorder, "_MAX_WAITING", 100_000)
    hanging, begun, write = threading.Event(), threading.Event(), os.write

    def late(file: int, data: bytes) -> int:
        begun.set()
        hanging.wait(20)
        return write(file, data)

    recording.recorder.use(RecordingsFolder(place(tmp_path / "a")))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", late)
        recording.record(0)
        await until(begun.is_set)
        for number in range(1, 1000):
            recording.record(number)
        hanging.set()
        await recording.recorder.close()
    assert 50 < len(lines(tmp_path / "a")) <= 100


async def test_of_what_was_recorded_only_so_many_keys_are_remembered(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_recorder, "_MAX_SEEN", 2)
    recording.recorder.use(RecordingsFolder(place(tmp_path / "a")))
    for number in (1, 2, 1, 3, 1):
        recording.record(number)
    await recording.recorder.close()
    assert [json.loads(line["body"])["prompt"].strip() for line in lines(tmp_path / "a")] == ["1", "2", "3", "1"]


async def test_another_folder_takes_its_place_and_the_same_one_goes_on(recording: Recording, tmp_path: Path) -> None:
    assert not recording.recorder.use(None), "nothing was recorded before"
    assert recording.recorder.use(RecordingsFolder(place(tmp_path / "a")))
    recording.record(1)
    assert not recording.recorder.use(RecordingsFolder(place(tmp_path / "a")))
    recording.record(1)
    assert recording.recorder.use(RecordingsFolder(place(tmp_path / "b")))
    recording.record(1)
    assert recording.recorder.use(None)
    recording.record(2)
    await until(lambda: [len(lines(tmp_path / name)) for name in "ab"] == [1, 1])
    await recording.recorder.close()
    assert [len(lines(tmp_path / name)) for name in "ab"] == [1, 1]
