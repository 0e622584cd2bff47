"""The bench of agents: its sessions and traces, what it reads from responses, and the simulated prompt cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks import lanes, prompt_watch
from benchmarks.agents import __main__ as agents
from benchmarks.agents import report, told, traces, ways
from benchmarks.agents.__main__ import main, simulated
from benchmarks.agents.player import Player, PlayError, RunnerLog
from benchmarks.agents.prompt_speed import PromptSpeed, fitted
from benchmarks.agents.scenarios import SCENARIOS, Change, Scenario
from benchmarks.agents.sessions import Session
from benchmarks.agents.ways import Run, Way, played, replayed
from ollama_cache_proxy.simulator import RELEASES
from ollama_cache_proxy.workbench.requests import Request, read

CODER = "coder"
NAMED = {scenario.name: scenario for scenario in SCENARIOS}
TURNS = 7


def session(scenario: Scenario, **changed: Any) -> Session:
    return Session(scenario=scenario, model=CODER, turns=TURNS, **changed)


async def runs_of(name: str, *chosen: Way, release: str = "0.24", **behaviour: Any) -> dict[str, Run]:
    async with simulated(release, **behaviour) as simulator, Player(simulator.url) as player:
        return {run.way: run for run in await played(player, session(NAMED[name]), chosen)}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=list(NAMED))
def test_a_session_is_a_function_of_its_seed_and_of_the_answers(scenario: Scenario) -> None:
    answers = [f"answer {turn}" for turn in range(TURNS)]
    made = [session(scenario).request(turn, answers) for turn in range(TURNS)]
    assert made == [session(scenario).request(turn, answers) for turn in range(TURNS)]
    assert made != [session(scenario, seed=1).request(turn, answers) for turn in range(TURNS)]
    assert made[3].body != session(scenario).request(3, ["other"] * 3).body
    assert [len(one.body) for one in made] == sorted(len(one.body) for one in made) or scenario.change is Change.ELIDED
    still = [session(scenario).request(turn, answers, still=True) for turn in range(TURNS)]
    assert still[0] == made[0]
    grows = scenario.change in (Change.NOTHING, Change.ASIDE, Change.OVERFLOW)
    assert (still == made) is grows


def test_texts_are_as_long_as_one_likes() -> None:
    short, long = (len(session(NAMED["steady"], size=size).request(2, ["", ""]).body) for size in (0.3, 2.0))
    assert long > 2 * short


LEAST = 0.88
"""Of the prompts after the first one: the rest is what each turn adds."""


@pytest.mark.parametrize(
    ("name", "release", "lowest", "highest"),
    [
        *((name, release, LEAST, 1.0) for name in ("steady",) for release in RELEASES),
        *((name, release, 0.0, 0.05) for name in ("mark", "counter", "clock") for release in RELEASES),
        ("tool-id", "0.24", 0.1, 0.5),
        ("tool-order", "0.24", 0.1, 0.6),
        ("elided", "0.24", 0.6, 0.93),
        ("countdown", "0.24", 0.1, 0.5),
        ("aside", "0.24", 0.0, 0.05),
        ("aside", "0.33", LEAST, 1.0),  # its llama.cpp keeps the prompt in main memory meanwhile
    ],
)
async def test_what_changes_costs_what_is_behind_it(name: str, release: str, lowest: float, highest: float) -> None:
    runs = await runs_of(name, Way.STILL, release=release)
    assert lowest <= runs["direct"].share <= highest
    assert runs["still"].share >= LEAST
    assert runs["still"].share >= runs["direct"].share


async def test_the_proxy_changes_nothing_but_what_it_has_a_rule_for() -> None:
    for name in ("clock", "mark"):
        runs = await runs_of(name, *Way)
        assert [turn.prompt for turn in runs["proxy"].turns] == [turn.prompt for turn in runs["direct"].turns]
        assert runs["proxy"].reused == runs["direct"].reused
        assert runs["proxy"].same_answers == runs["direct"].same_answers == TURNS
        assert (runs["pinned"].share > LEAST) is (name == "mark")
    assert runs["pinned"].reused >= 0.95 * runs["still"].reused


async def test_what_is_not_told_is_inferred_from_the_time_that_the_prompt_took() -> None:
    for name in ("clock", "aside"):
        found = []
        for is_told in (True, False):
            behaviour = {"tells_cached": is_told, "prompt_rate": 100_000.0, "prompt_doubling": 2_000.0}
            async with simulated("0.24", **behaviour) as simulator, Player(simulator.url) as player:
                await player.measure_speed(CODER)
                (run,) = await played(player, session(NAMED[name]), [])
            assert {turn.told for turn in run.turns} == {is_told}
            found.append([turn.reused for turn in run.turns])
        for told_count, inferred in zip(*found, strict=True):
            assert inferred == pytest.approx(told_count, abs=3)


def test_the_speed_of_cold_runs() -> None:
    even = fitted([(100, 1.0), (400, 4.0)])
    assert even == PromptSpeed(each=0.01)
    assert fitted([(100, 1.0)]) == even
    assert fitted([(100, 1.0), (400, 3.0)]).looking_back == 0.0, "no server reads long prompts faster by token"
    real = PromptSpeed(each=2e-3, looking_back=1e-6)
    found = fitted([(count, real.seconds(count)) for count in (100, 500, 2000)])
    assert (found.each, found.looking_back) == (pytest.approx(2e-3), pytest.approx(1e-6))
    for reused in (0, 700, 1999):
        assert real.reused(2000, real.seconds(2000) - real.seconds(reused)) == reused
    assert real.reused(2000, 0.0) == 1999
    assert real.reused(2000, 1e9) == 0


CHAT = b'{"model":"m","message":{"role":"assistant","content":"%s"},"done":%s}\n'
LAST = b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"prompt_eval_count":9,%s"prompt_eval_duration":2000000,"eval_count":3}\n'
USAGE = b'"usage":{"prompt_tokens":9,%s"completion_tokens":3,"total_tokens":12}'


@pytest.mark.parametrize(
    ("body", "text", "reused", "work"),
    [
        (CHAT % (b"a", b"false") + CHAT % (b"b", b"false") + LAST % b"", "ab", None, 0.002),
        (CHAT % (b"a", b"false") + LAST % b'"prompt_eval_cached_count":4,', "a", 4, 0.002),
        (b'{"response":"a","done":true,"prompt_eval_count":9,"prompt_eval_duration":0,"eval_count":3}', "a", None, 0.0),
        (
            b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[],'
            + USAGE % b""
            + b"}\n\ndata: [DONE]\n\n",
            "a",
            None,
            None,
        ),
        (
            b'{"choices":[{"message":{"content":"a"}}],'
            + USAGE % b'"prompt_tokens_details":{"cached_tokens":5},'
            + b"}",
            "a",
            5,
            None,
        ),
        (
            (
                b'event: x\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}\n\n'
                b'data: {"type":"message_delta","usage":{"input_tokens":7,"cache_read_input_tokens":2,"output_tokens":3}}\n\n'
            ),
            "a",
            2,
            None,
        ),
        (
            b'{"type":"message","content":[{"type":"text","text":"a"}],"usage":{"input_tokens":9,"output_tokens":3}}',
            "a",
            None,
            None,
        ),
        (
            (
                b'data: {"type":"response.output_text.delta","delta":"a"}\n\ndata: {"type":"response.completed","response":'
                b'{"usage":{"input_tokens":9,"output_tokens":3,"input_tokens_details":{"cached_tokens":0}}}}\n\n'
            ),
            "a",
            None,
            None,
        ),
    ],
)
def test_what_responses_tell(body: bytes, text: str, reused: int | None, work: float | None) -> None:
    assert told.read(body) == told.Told(text=text, prompt=9, reused=reused, work=work, output=3)


def test_a_response_without_counts_is_none() -> None:
    for body in (b"", b'{"error":"no"}', CHAT % (b"a", b"false")):
        with pytest.raises(ValueError, match="counts"):
            told.read(body)


def test_a_written_trace_is_what_is_read(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    assert main(["--write-trace", str(file), "--turns", "3", "--scenario", "mark", "--scenario", "clock"]) == 0
    requests = traces.read(file)
    assert [request.path for request in requests] == ["/v1/messages"] * 3 + ["/api/chat"] * 3
    first = session(NAMED["mark"]).request(0, [])
    assert (requests[0].body, requests[0].headers) == (first.body, first.headers)
    for text in file.read_bytes().splitlines():  # the form of `warm`
        assert read(text, "here").path in ("/v1/messages", "/api/chat")


def test_traces_of_ollama_and_of_the_proxy_are_read_in_order(tmp_path: Path) -> None:
    for number, endpoint in enumerate(("api_chat", "api_embed", "v1_messages")):
        name = f"20260302T091500.{number:09}Z-{number:06}_{endpoint}_body.json"
        (tmp_path / name).write_bytes(b'{"model":"m","n":%d}' % number)
    lines = [{"path": path, "body": '{"model":"m"}', "headers": {}} for path in ("/api/embed", "/v1/completions")]
    (tmp_path / "requests-1.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)) + b"\nnot JSON\n")
    (tmp_path / "notes.txt").write_text("nothing")
    found = [request.path for request in traces.read(tmp_path)]
    assert found == ["/api/chat", "/v1/messages", "/v1/completions"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no requests"):
        traces.read(tmp_path / "empty")


def test_another_model_is_all_that_changes_in_a_trace() -> None:
    asked = Request(origin="", path="/api/chat", body=b'{ "messages":[], "model":"old" , "x":1}')
    assert traces.for_model(asked, "new").body == b'{ "messages":[], "model":"new" , "x":1}'
    spaced = Request(origin="", path="/api/chat", body=b'{"model": "old"}')
    assert json.loads(traces.for_model(spaced, "new").body) == {"model": "new"}


async def test_a_trace_is_played_as_it_is(tmp_path: Path) -> None:
    async with simulated("0.24") as simulator, Player(simulator.url) as player:
        (direct,) = await played(player, session(NAMED["clock"]), [])
        answers = [turn.text for turn in direct.turns]
        requests = [session(NAMED["clock"]).request(turn, answers) for turn in range(TURNS)]
        simulator.received.clear()
        runs = await replayed(player, "own", requests, list(Way))
        bodies = [one.body for one in simulator.received if one.target == "/api/chat"]
    assert bodies[-2 * TURNS :] == 2 * [request.body for request in requests]
    assert [run.way for run in runs] == ["direct", "proxy", "pinned"]
    assert {run.reused for run in runs} == {direct.reused}


async def test_what_fails_ends_the_bench() -> None:
    async with simulated() as simulator, Player(simulator.url) as player:
        with pytest.raises(PlayError, match="status 404"):
            await played(player, Session(scenario=NAMED["steady"], model="nope"), [])
        await player.empty(CODER)
        with pytest.raises(PlayError, match="turn 1: the response tells no counts"):
            await player.play(Request(origin="turn 1", path="/api/chat", body=b'{"model":"coder","messages":[]}'))
    async with Player(simulator.url) as player:
        with pytest.raises(PlayError, match="loading: Client"):
            await player.empty(CODER)


def test_the_runners_log_says_what_was_used(tmp_path: Path) -> None:
    file = tmp_path / "log"
    line = 'level=DEBUG source=cache.go:104 msg="loading cache slot" id=0 cache=0 prompt={} used={} remaining=1\n'
    file.write_text(line.format(20, 4))
    log = RunnerLog(file)
    assert log.used(20) is None, "that was before"
    with file.open("a") as more:
        more.write(line.format(30, 7) + "other\n")
    assert [log.used(30), log.used(30)] == [7, None]
    with file.open("a") as more:
        more.write(line.format(31, 7))
    assert log.used(30) is None, "another prompt's"
    batches = "new prompt, n_keep = 4, task.n_tokens = {}\nother\ncached n_tokens = {}, [x\ncached n_tokens = 29, [x\n"
    with file.open("a") as more:
        more.write(batches.format(20, 3) + batches.format(30, 5))
    assert log.used(30) == 5, "of llama.cpp's server, which says it again for each batch"
    with file.open("a") as more:
        more.write("new prompt, task.n_tokens = 30\n" + batches.format(31, 5))
    assert log.used(30) is None


def test_the_command_prints_a_table_and_says_what_was_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert main(["--scenario", "mark", "--turns", "6", "--json", str(file)]) in (0, 1)
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[:5] == ["reused", "scenario", "mark", "ok", "ok"]
    assert lines[6:] == ["ok", "ok"], "line 5 is of times"
    kept = json.loads(file.read_text())
    assert [(run["way"], len(run["turns"]["prompt"])) for run in kept["runs"]] == [(way.value, 6) for way in Way]
    assert "Find out why" not in file.read_text(), "figures, no texts"
    assert main(["--trace", str(tmp_path / "none.jsonl")]) == 2


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        (b"", None),
        (b'ocp_prompt_forecast_tokens_total{endpoint="chat",model="m",source="computed"} 30.0\n', 0),
        (
            (
                b'ocp_prompt_forecast_tokens_total{endpoint="chat",model="m",source="computed"} 30.0\n'
                b'ocp_prompt_forecast_tokens_total{endpoint="chat",model="m",source="reused"} 1.5e+03\n'
                b'ocp_prompt_forecast_tokens_total{endpoint="v1-chat",model="m",source="reused"} 2.0\n'
            ),
            1502,
        ),
    ],
    ids=["no forecast", "nothing reused", "two endpoints"],
)
def test_what_the_proxy_has_seen(lines: bytes, seen: int | None) -> None:
    assert ways._forecast(lines) == seen


async def test_a_forecast_is_judged_by_the_share_of_the_prompts_that_it_is_wrong_by() -> None:
    direct = (await runs_of("clock"))["direct"]
    for wrong, is_reached in ((0, True), (direct.prompt // 20, True), (direct.prompt // 5, False)):
        ((text, reached),) = report.verdicts([replace(direct, way="proxy", seen=direct.reused + wrong)])
        assert (reached, "in clock" in text) == (is_reached, True)
        assert "%" in "\n".join(report.table([replace(direct, way="proxy", seen=direct.reused + wrong)]))


LOOKS = 20
REAL = ("--ollama", "http://127.0.0.1:1", "--model", "m")


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], [LOOKS, (10_000, lanes.SIMULATED)]),
        (["--lanes", "0"], [LOOKS]),
        (["--scenario", "clock"], []),
        (["--scenario", "clock", "--lanes", "2000"], [(2000, lanes.SIMULATED)]),
        (["--way", "proxy"], []),
        ([*REAL], [LOOKS]),
        ([*REAL, "--embed", "e"], [LOOKS, (10_000, lanes.Behind("http://127.0.0.1:1", "m", "e"))]),
    ],
    ids=["all", "no lanes", "a scenario", "a scenario and lanes", "a way", "real", "real, with an indexer"],
)
def test_behind_all_sessions_come_the_cost_of_looking_and_lanes(
    monkeypatch: pytest.MonkeyPatch, options: list[str], asked: list[Any]
) -> None:
    async def chatted(texts: int, scale: float, only: list[str], behind: lanes.Behind) -> int:
        assert (scale, only) == (1.0, []), "at the times of the goals"
        found.append((texts, behind))
        return 1

    async def played(_: object) -> tuple[list[Run], list[tuple[int, float]]]:
        return [], []

    found: list[Any] = []
    monkeypatch.setattr(agents, "measure", played)
    monkeypatch.setattr(lanes, "main", chatted)
    monkeypatch.setattr(prompt_watch, "report", found.append)
    ended = main(options)
    assert found == asked
    assert ended == any(one != LOOKS for one in asked), "a goal of lanes that is missed counts"


async def test_what_is_missed_is_said() -> None:
    runs = await runs_of("mark", *Way)
    reached = [reached for _, reached in report.verdicts(list(runs.values()))]
    assert reached[:2] == [True, True]
    swapped = [Run(scenario="mark", way=way, turns=runs["direct"].turns, same_answers=0) for way in runs]
    assert [is_reached for _, is_reached in report.verdicts(swapped)] == [True, True, False, True]
    assert report.verdicts(list(runs.values())[:2]) == [], "only of a scenario that was played all ways"
