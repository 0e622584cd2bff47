from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.support.processes import serve
from tests.support.rawhttp import ask
from tests.support.servers import Proxy, free_port, proxy_before
from tests.support.terminal import piped, terminal


def line(number: int, **more: object) -> str:
    body = {"model": "tiny", "prompt": f"question {number}", "stream": False}
    return json.dumps({"path": "/api/generate", "body": body, **more})


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "questions.jsonl"
    texts = [
        line(1),
        "",
        line(2),
        json.dumps({"path": "/api/embed", "body": {"model": "all-minilm", "input": ["a", "b"]}}),
    ]
    file.write_text("\n".join(texts) + "\n", "utf-8")
    return file


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "one.py").write_text("def a():\n    pass\n\ndef b():\n    pass\n", "utf-8")
    (folder / "deep" / "two.py").write_text("def a():\n    pass\n\ndef c():\n    pass\n", "utf-8")
    (folder / ".hidden" / "no.py").write_text("hidden", "utf-8")
    (folder / "notes.txt").write_text("no python", "utf-8")
    (folder / "broken.py").write_bytes(b"\xff\xfe")
    return folder


async def summary(*arguments: str, status: int = 0, given: bytes = b"") -> dict[str, object]:
    done = await piped("warm", *arguments, "--json", given=given)
    assert done.status == status, done.err
    told = json.loads(done.out)
    told.pop("seconds")
    return dict(told)


async def test_a_proxy_process_knows_afterwards_what_was_asked(simulator: Simulator, questions: Path) -> None:
    async with serve("--listen", "127.0.0.1:0", "--upstream", simulator.url) as proxy:
        url = await proxy.url()
        first = await piped("warm", str(questions), "--url", url)
        assert first.status == 0
        assert "Of 4: 4 sent and stored, 0 already stored, 0 failed" in first.err
        assert simulator.inferences == 3
        known = await ask(url, "POST", "/api/generate", body=json.dumps(json.loads(line(2))["body"]).encode())
        assert known.field("x-cache") == "HIT"


async def test_what_is_known_is_not_asked_again(proxy: Proxy, simulator: Simulator, questions: Path) -> None:
    every = {"known": 0, "asked": 4, "failed": 0, "unkept": {}, "skipped": {}, "wanted": 4}
    assert await summary(str(questions), "--url", proxy.url) == every
    again = await summary(str(questions), "-", "--url", proxy.url, given=line(3).encode())
    assert again == every | {"known": 4, "asked": 1, "wanted": 5}
    assert simulator.inferences == 4


async def test_requests_come_from_standard_input_with_their_headers(proxy: Proxy, simulator: Simulator) -> None:
    lines = (line(1, headers={"X-Cache-Namespace": "mine", "Cache-Control": "no-cache"}) + "\n").encode()
    for _ in range(2):
        told = await summary("-", "--url", proxy.url, given=lines)
        assert (told["known"], told["asked"]) in ((0, 1), (1, 0))
    entries = json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)["entries"]
    assert [entry["namespace"] for entry in entries] == ["mine"]


async def test_a_directory_is_embedded_text_by_text(proxy: Proxy, simulator: Simulator, sources: Path) -> None:
    how = ("--embed", str(sources), "--model", "all-minilm", "--glob", "**/*.py", "--chunk", "functions")
    done = await piped("warm", *how, "--url", proxy.url)
    assert done.status == 0
    assert "1 of 3 files were skipped: not UTF-8, or not readable" in done.err
    assert "Of 3: 3 sent and stored" in done.err
    inputs = [json.loads(one.body)["input"] for one in simulator.received if one.target == "/api/embed"]
    assert inputs == [["def a():\n    pass", "def c():\n    pass", "def b():\n    pass"]]
    (sources / "one.py").write_text("def a():\n    pass\n\ndef new():\n    pass\n", "utf-8")
    told = await summary(*how, "--url", proxy.url)
    assert told == {"known": 2, "asked": 1, "failed": 0, "unkept": {}, "skipped": {}, "wanted": 3}
    inputs = [json.loads(one.body)["input"] for one in simulator.received if one.target == "/api/embed"]
    assert inputs[1:] == [["def new():\n    pass"]]


async def test_texts_go_out_in_batches(proxy: Proxy, simulator: Simulator, sources: Path) -> None:
    how = ("--embed", str(sources), "--model", "all-minilm", "--glob", "*.py", "--lines", "1", "--batch", "2")
    assert (await summary(*how, "--url", proxy.url))["asked"] == 3
    inputs = [json.loads(one.body)["input"] for one in simulator.received if one.target == "/api/embed"]
    assert sorted(map(len, inputs)) == [1, 2]


async def test_a_rate_holds_back_what_is_asked_and_not_what_is_known(proxy: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(map(line, range(5))), "utf-8")
    done = await piped("warm", str(file), "--url", proxy.url, "--rate", "20", "--json")
    assert json.loads(done.out)["seconds"] >= 4 / 20, "the first goes at once, each other one after its turn"
    known = await summary(str(file), "--url", proxy.url, "--rate", "0.01")
    assert known["known"] == 5, "five turns would have taken minutes"


async def test_what_is_never_kept_is_not_sent_and_that_is_told_with_the_reason(
    proxy: Proxy, simulator: Simulator, tmp_path: Path
) -> None:
    file = tmp_path / "streams.jsonl"
    chat = {
        "path": "/api/chat",
        "body": {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stream": False},
    }
    file.write_text(f"{json.dumps(chat)}\n{line(1)}\n", "utf-8")
    told = await summary(str(file), "--url", proxy.url)
    assert (told["asked"], told["skipped"]) == (1, {"opt-in": 1})
    done = await piped("warm", str(file), "--url", proxy.url)
    assert "1 not sent, since never stored: opt-in" in done.err
    assert "Run it again" not in done.err
    assert simulator.inferences == 1


async def test_what_is_not_kept_is_told_with_the_reason(simulator: Simulator, tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(line(1), "utf-8")
    async with proxy_before(simulator.url, cache_generate="read-only") as proxy:
        assert (await summary(str(file), "--url", proxy.url))["unkept"] == {"read-only": 1}
        done = await piped("warm", str(file), "--url", proxy.url)
    assert "1 sent, but not stored: read-only (see docs/cache-rules.md)" in done.err


async def test_with_redis_down_nothing_is_kept_and_that_is_told(simulator: Simulator, questions: Path) -> None:
    async with proxy_before(simulator.url, redis_url=f"redis://127.0.0.1:{free_port()}/0") as proxy:
        told = await summary(str(questions), "--url", proxy.url)
    assert (told["asked"], told["known"], told["unkept"]) == (0, 0, {"store-unavailable": 4})


async def test_a_wrong_model_fails_and_the_rest_goes_on(proxy: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    wrong = {"path": "/api/generate", "body": {"model": "nosuch", "prompt": "a secret", "stream": False}}
    file.write_text(f"{json.dumps(wrong)}\n{line(1)}\n", "utf-8")
    done = await piped("warm", str(file), "--url", proxy.url)
    assert done.status == 1
    assert f"{file}:1: failed with status 404" in done.err
    assert "Of 2: 1 sent and stored, 0 already stored, 1 failed" in done.err
    assert "a secret" not in done.err


async def test_without_ollama_it_gives_up_soon(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(map(line, range(100))), "utf-8")
    async with proxy_before(f"http://127.0.0.1:{free_port()}") as proxy:
        done = await piped("warm", str(file), "--url", proxy.url)
    assert done.status == 1
    last = done.err.splitlines()[-1]
    assert last.startswith("ollama-cache-proxy: 10 requests in a row failed, the last with status 502; ")
    assert done.err.count("failed with status 502") == 5, "the first five are named"
    assert re.search("Of 100: 0 sent and stored, 0 already stored, 1[0-3] failed", done.err), (
        "three more were under way"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "warm needs either FILEs, or --embed DIR together with --model NAME"),
        (("{file}", "--embed", "{folder}", "--model", "m"), 2, "warm needs either FILEs"),
        (("--embed", "{folder}"), 2, "warm needs either FILEs"),
        (("{file}", "--rate", "0"), 2, "--rate: 0.0 is not allowed: must be above 0"),
        (("{file}", "--concurrency", "-1"), 2, "--concurrency: -1 is not allowed"),
        (("nosuch.jsonl",), 2, "'nosuch.jsonl' cannot be read: No such file or directory"),
        (("--embed", "{file}", "--model", "m"), 2, "--embed: '{file}' is not a directory"),
        (("--embed", "{folder}", "--model", "m", "--glob", "*.go"), 2, "has no text in files that match '*.go'"),
        (("--embed", "{folder}", "--model", "m", "--glob", "/x"), 2, "--glob: '/x' is not allowed"),
        (("{file}", "--url", "{closed}"), 1, "no proxy answers at {closed}"),
        (("{file}", "--url", "{ollama}"), 1, "the server at {ollama} is not ollama-cache-proxy"),
    ],
)
async def test_what_is_wrong_is_one_line(
    arguments: tuple[str, ...],
    status: int,
    says: str,
    *,
    proxy: Proxy,
    simulator: Simulator,
    questions: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"file": questions, "folder": tmp_path / "empty", "ollama": simulator.url}
    names |= {"closed": f"http://127.0.0.1:{free_port()}"}
    done = await piped("warm", "--url", proxy.url, *(argument.format(**names) for argument in arguments))
    assert (done.status, done.out) == (status, "")
    assert says.format(**names) in done.err
    assert done.err.count("\n") == 1
    assert simulator.inferences == 0


async def test_a_line_that_is_no_request_stops_everything_before_it_begins(proxy: Proxy, simulator: Simulator) -> None:
    done = await piped("warm", "-", "--url", proxy.url, given=f"{line(1)}\n{{\n".encode())
    assert (done.status, done.err) == (2, "ollama-cache-proxy: -:2: not JSON\n")
    assert simulator.inferences == 0


async def test_after_ctrl_c_it_goes_on_where_it_was(proxy: Proxy, simulator: Simulator, tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(map(line, range(30))), "utf-8")
    async with terminal("warm", str(file), "--url", proxy.url, "--concurrency", "1", "--rate", "20") as shown:
        await shown.shows("Warming")
        await simulator.arrived(4)
        shown.type("\x03")
        assert await shown.end() == 130
    assert "Traceback" not in shown.text
    assert "Run it again to continue: stored responses are not requested again" in shown.text
    before = simulator.inferences
    told = await summary(str(file), "--url", proxy.url)
    assert (told["failed"], told["wanted"]) == (0, 30)
    known, asked = int(str(told["known"])), int(str(told["asked"]))
    assert known >= 3
    assert known + asked == 30
    assert simulator.inferences == before + asked
