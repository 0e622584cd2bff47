"""`warm DIR`: folders of requests that Ollama has logged or the proxy has recorded, whatever else lies in them."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.jobs import request_folders
from ollama_cache_proxy.cli.jobs.request_folders import MAX_REQUESTS, RequestFolder
from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.workbench.request_logs import LeftOut
from tests.support import canary
from tests.support.ollama_logs import OllamaLog
from tests.support.rawhttp import ask
from tests.support.servers import Proxy, proxy_before
from tests.support.terminal import piped

LIMIT = 1 << 20


def generate(number: int, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": f"{canary.PROMPT} {number}", "stream": False, **more}


def line(body: dict[str, Any], path: str = "/api/generate", **headers: str) -> str:
    return json.dumps({"path": path, "body": json.dumps(body), "headers": headers}) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> OllamaLog:
    return OllamaLog(tmp_path)


async def found(folder: Path, limit: int = LIMIT) -> RequestFolder:
    requests = RequestFolder(str(folder), limit)
    await requests.find()
    return requests


async def warmed(*folders: Path, proxy: Proxy, status: int = 0) -> dict[str, Any]:
    done = await piped("warm", *map(str, folders), "--json", "--url", proxy.url)
    assert done.status == status, done.err
    canary.check(done.out + done.err, "what warm says")
    told: dict[str, Any] = json.loads(done.out)
    return told


async def test_a_log_of_ollama_fills_the_cache(proxy: Proxy, simulator: Simulator, log: OllamaLog) -> None:
    for number in (1, 2, 1):
        log.log("/api/generate", generate(number))
    log.log("/api/generate", {"model": "tiny", "prompt": "a stream"})
    log.log("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": False})
    log.log("/api/generate", generate(3, model="gone"))
    log.log("/api/generate", b"")
    told = await warmed(log.folder, proxy=proxy)
    assert (told["asked"], told["known"], told["failed"], told["wanted"]) == (2, 0, 0, 5)
    assert told["skipped"] == {"stream": 1, "opt-in": 1, "status 404": 1, "duplicate": 1, "cut-off": 1}
    known = await ask(proxy.url, "POST", "/api/generate", body=json.dumps(generate(2)).encode())
    assert known.field("X-Cache") == "HIT"
    assert simulator.inferences == 3, "one of them is refused: its model is gone"
    assert (await warmed(log.folder, proxy=proxy))["known"] == 2


async def test_what_is_left_out_is_told_in_words(proxy: Proxy, log: OllamaLog) -> None:
    log.log("/api/generate", generate(1))
    log.log("/api/generate", generate(1))
    log.log("/api/generate", generate(1, model="gone"))
    done = await piped("warm", str(log.folder), "--url", proxy.url)
    assert done.status == 0
    assert "1 left out: the same request again\n" in done.err
    assert "1 refused by Ollama: status 404\n" in done.err
    assert "Ollama logs no requests for embeddings" in done.err
    assert "Run it again" not in done.err


async def test_many_that_ollama_refuses_do_not_end_it(proxy: Proxy, log: OllamaLog) -> None:
    for number in range(25):
        log.log("/api/generate", generate(number, model="gone"))
    log.log("/api/generate", generate(1))
    told = await warmed(log.folder, proxy=proxy)
    assert (told["asked"], told["failed"], told["skipped"]) == (1, 0, {"status 404": 25})


async def test_lines_and_bodies_and_files_go_together(proxy: Proxy, log: OllamaLog, tmp_path: Path) -> None:
    log.log("/api/generate", generate(1))
    (log.folder / "requests-1.jsonl").write_text(
        line(generate(2), **{"X-Cache-Namespace": "mine"})
        + "\n"
        + line({"model": "all-minilm", "input": ["a", "b"]}, "/api/embed")
        + line(generate(2), **{"x-cache-namespace": "mine"})
        + "{\n"
        + line(generate(3))[:-9],
        "utf-8",
    )
    file = tmp_path / "more.jsonl"
    file.write_text(line(generate(4)), "utf-8")
    told = await warmed(log.folder, file, proxy=proxy)
    assert (told["asked"], told["wanted"]) == (5, 5)
    assert told["skipped"] == {"duplicate": 1, "cut-off": 2}
    entries = json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)["entries"]
    assert sum(entry["namespace"] == "mine" for entry in entries) == 1


async def test_a_small_file_of_lines_cut_off_anywhere_has_the_whole_lines_before(tmp_path: Path) -> None:
    lines = [line(generate(number)) for number in range(3)]
    whole = "".join(lines).encode()
    ends = [len("".join(lines[:number])) for number in range(1, 4)]
    for offset in range(len(whole) + 1):
        (tmp_path / "requests.jsonl").write_bytes(whole[:offset])
        requests = await found(tmp_path)
        complete = sum(offset >= end - 1 for end in ends)  # the line feed is not needed
        assert requests.weight == complete, offset
        assert [json.loads(one.body) for one in requests] == [generate(number) for number in range(complete)]
        assert requests.left_out[LeftOut.CUT_OFF] <= 1


async def test_nothing_but_regular_files_is_opened(log: OllamaLog, tmp_path: Path) -> None:
    """Neither links, also to files that would do, nor pipes, which would be waited for, nor folders, nor sockets."""
    log.log("/api/generate", generate(1))
    name = "20261129T120000.00000000{}Z-000009_api_generate_body.json".format
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps(generate(2)), "utf-8")
    (log.folder / name(1)).symlink_to(outside)
    (log.folder / name(2)).symlink_to("/dev/zero")
    os.mkfifo(log.folder / name(3))
    (log.folder / name(4)).mkdir()
    (log.folder / "nested.jsonl").mkdir()
    (log.folder / "notes.txt").write_text("no request", "utf-8")
    (log.folder / ".hidden.jsonl").write_text(line(generate(3)), "utf-8")
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(log.folder)
    listener.bind("s.jsonl")
    listener.close()
    requests = await found(log.folder)
    assert requests.weight == 1
    assert requests.left_out == {LeftOut.FOREIGN: 8, LeftOut.OLDER: 0}


async def test_a_link_that_takes_the_place_of_a_file_is_not_followed(log: OllamaLog, tmp_path: Path) -> None:
    first, second = (log.log("/api/generate", generate(number)) for number in (1, 2))
    requests = await found(log.folder)
    assert requests.weight == 2
    elsewhere = tmp_path / "elsewhere.json"
    first.rename(elsewhere)
    first.symlink_to(elsewhere)
    assert [json.loads(one.body) for one in requests] == [generate(2)]
    assert requests.left_out[LeftOut.CHANGED] == 1
    assert requests.weight == 1
    second.unlink()
    assert not list(requests)


async def test_what_changes_between_finding_and_sending_is_not_sent(log: OllamaLog) -> None:
    one = log.log("/api/generate", generate(1))
    requests = await found(log.folder)
    one.write_bytes(json.dumps(generate(2)).encode())
    assert not list(requests)
    assert requests.left_out[LeftOut.CHANGED] == 1


async def test_large_files_are_left_out_and_not_read(log: OllamaLog) -> None:
    """A body of a terabyte, most of it a hole, and a line without an end."""
    huge = log.log("/api/generate", b"{")
    os.truncate(huge, 1 << 40)
    log.log("/api/generate", generate(1, system="x" * LIMIT))
    with (log.folder / "requests.jsonl").open("w", encoding="utf-8") as file:
        file.write(line(generate(2)))
        file.write(line(generate(3, system="x" * 4 * LIMIT)))
        file.write(line(generate(4, system="x" * LIMIT)))
        file.write(line(generate(5)))
    requests = await found(log.folder)
    assert [json.loads(one.body) for one in requests] == [generate(2), generate(5)]
    assert requests.left_out == {LeftOut.TOO_LARGE: 4, LeftOut.OLDER: 0}


async def test_of_very_many_the_newest_are_taken(
    log: OllamaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_REQUESTS >= 10_000
    monkeypatch.setattr(request_folders, "MAX_REQUESTS", 3)
    for number in range(5):
        log.log("/api/generate", generate(number))
    requests = await found(log.folder)
    assert [json.loads(one.body) for one in requests] == [generate(number) for number in (2, 3, 4)]
    assert requests.left_out[LeftOut.OLDER] == 2
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "requests.jsonl").write_text("".join(line(generate(number)) for number in range(5)), "utf-8")
    requests = await found(tmp_path / "one")
    assert [json.loads(one.body) for one in requests] == [generate(number) for number in (2, 3, 4)]
    assert requests.left_out[LeftOut.OLDER] == 2


async def test_a_folder_that_holds_something_else_is_an_error_and_an_empty_one_is_none(
    proxy: Proxy, simulator: Simulator, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert (await warmed(folder, proxy=proxy))["wanted"] == 0
    (folder / "notes.txt").write_text("x", "utf-8")
    done = await piped("warm", str(folder), "--url", proxy.url)
    assert (done.status, done.out) == (2, "")
    assert done.err.splitlines()[-1] == f"ollama-cache-proxy: there are no requests in '{folder}'"
    assert simulator.inferences == 0


async def test_a_folder_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ollama's is, whose service runs as a user of its own."""

    def refusing(_folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(Failed) as failed:
        await found(tmp_path)
    assert str(failed.value) == f"'{tmp_path}' cannot be read: Permission denied"


async def test_a_file_that_may_not_be_read_is_counted(log: OllamaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    first = log.log("/api/generate", generate(1))
    log.log("/api/generate", generate(2))
    opened = os.open

    def refusing(path: Any, *more: Any, **others: Any) -> int:
        if Path(path) == first:
            raise PermissionError(13, "Permission denied")
        return opened(path, *more, **others)

    monkeypatch.setattr(os, "open", refusing)
    requests = await found(log.folder)
    assert requests.weight == 1
    assert requests.left_out[LeftOut.UNREADABLE] == 1


async def test_the_limit_is_that_of_the_settings(
    simulator: Simulator, log: OllamaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.log("/api/generate", generate(1))
    log.log("/api/generate", generate(2, system="x" * 2000))
    monkeypatch.setenv("OCP_MAX_REQUEST_BYTES", "1024")
    async with proxy_before(simulator.url, max_request_bytes=1024) as proxy:
        told = await warmed(log.folder, proxy=proxy)
    assert (told["asked"], told["skipped"]) == (1, {"too-large": 1})
