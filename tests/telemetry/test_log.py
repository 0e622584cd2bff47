from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from ollama_cache_proxy.core.errors import Source
from ollama_cache_proxy.core.facts import (
    Audited,
    CommandRefused,
    Exchange,
    Fault,
    Health,
    LaneEnd,
    LaneWaited,
    NotStored,
    Part,
    StoreCall,
    Stored,
    StoreFault,
    Unaudited,
    UpstreamChanged,
    UpstreamState,
    Worked,
)
from ollama_cache_proxy.policy.audit_causes import Cause
from ollama_cache_proxy.policy.audit_comparison import Kind
from ollama_cache_proxy.policy.dialects.dialect import Usage
from ollama_cache_proxy.policy.status import CacheStatus, Detail, FwdReason, Result, bypass
from ollama_cache_proxy.policy.tickets import Lane
from ollama_cache_proxy.telemetry.log import Log, Style
from tests.support import exchanges
from tests.support.exchanges import EXCHANGE

KEY = EXCHANGE.key
MISS = replace(exchanges.MISS, stored=True, ttl=5)
STORED = Stored(key=KEY, operation="generate", model="tiny", ttl=3600, size=512)


class Clock:
    def now(self) -> float:
        return 1_700_000_000.1234567

    def monotonic(self) -> float:
        return 0.0


def written(*events, style: Style = Style.PLAIN, development: bool = False) -> str:
    stream = io.StringIO()
    log = Log(stream, style=style, development=development, clock=Clock())
    for event in events:
        log(event)
    return stream.getvalue()


def failed(**changes) -> Exchange:
    return replace(EXCHANGE, cache=MISS, **changes)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        pytest.param(EXCHANGE, "✅ HIT: 01234567...  tiny  generate  12.3 ms", id="hit"),
        pytest.param(
            replace(EXCHANGE, cache=exchanges.COLLAPSED),
            "✅ HIT: 01234567... (collapsed)  tiny  generate  12.3 ms",
            id="collapsed",
        ),
        pytest.param(replace(EXCHANGE, cache=MISS), "❌ MISS: 01234567...  tiny  generate  12.3 ms", id="miss"),
        pytest.param(
            replace(EXCHANGE, cache=replace(MISS, stored=False, detail=Detail.INCOMPLETE)),
            "❌ MISS: 01234567...  tiny  generate  12.3 ms  not stored: incomplete",
            id="miss that is not kept",
        ),
        pytest.param(STORED, "💾 Cached: 01234567... (TTL: 3600s)  tiny  generate", id="stored"),
        pytest.param(
            failed(status=502, error=Source.UPSTREAM), "⚠️  502: upstream  tiny  generate  12.3 ms", id="unreachable"
        ),
        pytest.param(
            failed(status=504, error=Source.UPSTREAM_DEADLINE),
            "⚠️  504: upstream-deadline  tiny  generate  12.3 ms",
            id="too late",
        ),
        pytest.param(failed(status=500), "⚠️  500: MISS  tiny  generate  12.3 ms", id="an error of Ollama's own"),
        pytest.param(Health(part=Part.STORE, well=True, name="Redis"), "✅ Connected to Redis", id="store is well"),
        pytest.param(
            CommandRefused(command="UNLINK", effect="DEL does it"),
            "⚠️  The store refuses UNLINK: DEL does it",
            id="store refuses a command",
        ),
        pytest.param(
            Health(part=Part.STORE_WRITES, well=True, name="Redis"),
            "✅ Connected to Redis for writing",
            id="store takes entries",
        ),
        pytest.param(
            Health(part=Part.STORE, well=False, name="Redis", reason="LOADING"),
            "⏳ Redis loads what was kept; until then requests go to Ollama",
            id="store is loading",
        ),
        pytest.param(
            Health(part=Part.STORE_WRITES, well=False, name="Redis", reason="OOM"),
            "⚠️  Lost Redis for writing: OOM",
            id="store is full",
        ),
    ],
)
def test_a_fact_is_one_line(event, line):
    assert written(event) == f"[AI Cache] {line}\n"


def test_a_lost_ollama_is_one_line_that_says_why_and_what_can_be_done():
    line = written(Health(part=Part.UPSTREAM, well=False, name="Ollama", reason="Ollama refused"))
    assert line.startswith("[AI Cache] ⚠️  Ollama refused")
    assert "ollama serve" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("detail", [Detail.STREAM, Detail.ENDPOINT])
def test_a_bypass_is_logged_in_development_only(detail):
    event = replace(EXCHANGE, cache=bypass(detail), key="")
    assert written(event) == ""
    expected = f"[AI Cache] ➡️  BYPASS: {detail.value}  tiny  generate  12.3 ms  200  42 B\n"
    assert written(event, development=True) == expected


def test_a_failed_bypass_is_always_logged():
    event = replace(EXCHANGE, cache=bypass(Detail.STREAM), key="", status=502, error=Source.UPSTREAM)
    assert written(event) == "[AI Cache] ⚠️  502: upstream  tiny  generate  12.3 ms\n"


def test_the_size_of_an_entry_is_logged_in_development_only():
    assert written(STORED, development=True).endswith("  tiny  generate  512 B\n")
    assert "512" not in written(STORED)


@pytest.mark.parametrize(
    ("event", "colour"),
    [
        (EXCHANGE, "32"),
        (replace(EXCHANGE, cache=MISS), "33"),
        (failed(status=502, error=Source.UPSTREAM), "31"),
        (STORED, "34"),
        (Health(part=Part.STORE, well=True, name="Redis"), "32"),
        (Health(part=Part.STORE, well=False, name="Redis", reason="x"), "31"),
    ],
    ids=["hit", "miss", "error", "stored", "well", "lost"],
)
def test_colour_adds_colour_and_nothing_else(event, colour):
    plain, coloured = written(event), written(event, style=Style.COLOUR)
    assert f"\x1b[{colour}m" in coloured
    assert coloured.endswith("\x1b[0m\n")
    for code in ("31", "32", "33", "34", "2", "0"):
        coloured = coloured.replace(f"\x1b[{code}m", "")
    assert coloured == plain


@pytest.mark.parametrize("style", [Style.PLAIN, Style.COLOUR, Style.JSON])
@pytest.mark.parametrize("model", ["a\nb", "a\r\x1b[2Jb", "\x07", "\u202eevil", "\u2028", "a" * 10_000])
def test_a_models_name_moves_no_cursor_and_breaks_no_line(style, model):
    for event in (replace(EXCHANGE, model=model), replace(STORED, model=model)):
        text = written(event, style=style)
        assert text.count("\n") == 1
        assert "\r" not in text
        assert "\x07" not in text
        assert "\x1b[2J" not in text


def test_a_client_that_leaves_is_logged_in_development_only():
    left = failed(status=0, error=Source.CLIENT)
    assert written(left) == ""
    assert written(left, development=True).startswith(
        "[AI Cache] 👋 LEFT: the client closed first  tiny  generate  12.3 ms"
    )


def test_letters_of_any_script_are_shown():
    assert "  模型-é🙂  " in written(replace(EXCHANGE, model="模型-é🙂"))


def test_facts_for_metrics_alone_are_not_logged():
    silent = (
        Worked(operation="generate", model="tiny", usage=Usage(output_tokens=1)),
        StoreCall(operation="get", seconds=0.1, failed=True),
    )
    traced = replace(EXCHANGE, trace="4bf92f3577b34da6a3ce929d0e0e4736")
    for style in Style:
        assert written(*silent, style=style, development=True) == ""
        assert written(traced, style=style, development=True) == written(EXCHANGE, style=style, development=True)


def test_entries_of_another_seal_key_are_told_of_once_and_other_faults_of_the_store_by_its_health():
    foreign = StoreFault(kind=Fault.FOREIGN)
    told = written(StoreFault(kind=Fault.DAMAGED), foreign, foreign, StoreFault(kind=Fault.FAILED), foreign)
    assert told == (
        "[AI Cache] ⚠️  The store has entries of another seal key, or of none; here they are misses (seal_key_file)\n"
    )


def test_json_is_one_object_a_line_with_every_member_of_the_fact():
    first, second, third = map(
        json.loads,
        written(
            EXCHANGE, STORED, Health(part=Part.STORE, well=False, name="Redis", reason="gone"), style=Style.JSON
        ).splitlines(),
    )
    assert first == {
        "time": 1_700_000_000.123457,
        "event": "exchange",
        "method": "POST",
        "operation": "generate",
        "model": "tiny",
        "category": "",
        "cache": {
            "result": "HIT",
            "fwd": None,
            "stored": False,
            "collapsed": False,
            "ttl": 5,
            "detail": None,
            "known": 0,
            "of": 0,
        },
        "status": 200,
        "key": KEY,
        "seconds": 0.0123,
        "first_byte": 0.01,
        "first_token": None,
        "upstream_seconds": None,
        "items": 0,
        "items_known": 0,
        "bytes_sent": 42,
        "prompt_tokens": None,
        "output_tokens": None,
        "saved": {"seconds": 0.0, "prompt_tokens": 0, "output_tokens": 0},
        "error": None,
        "rule": "",
    }
    assert second["event"] == "stored"
    assert (second["key"], second["operation"], second["model"], second["ttl"], second["size"]) == (
        KEY,
        "generate",
        "tiny",
        3600,
        512,
    )
    assert (third["event"], third["part"], third["well"], third["name"], third["reason"]) == (
        "health",
        "store",
        False,
        "Redis",
        "gone",
    )


def test_json_says_bypasses_too():
    record = json.loads(written(replace(EXCHANGE, cache=bypass(Detail.STREAM), key=""), style=Style.JSON))
    assert record["cache"]["detail"] == "stream"


def test_json_names_the_source_of_an_error():
    assert json.loads(written(failed(status=502, error=Source.UPSTREAM), style=Style.JSON))["error"] == "upstream"


@pytest.mark.parametrize("warning", [False, True])
def test_a_note_is_a_line(warning):
    plain, coloured, structured = (io.StringIO() for _ in range(3))
    for stream, style in ((plain, Style.PLAIN), (coloured, Style.COLOUR), (structured, Style.JSON)):
        Log(stream, style=style, development=False, clock=Clock()).say("listens", warning=warning)
    assert plain.getvalue() == "[AI Cache] listens\n"
    assert ("\x1b[33m" in coloured.getvalue()) is warning
    assert json.loads(structured.getvalue()) == {"time": Clock().now(), "event": "note", "text": "listens"}


class Broken(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("style", list(Style))
def test_a_closed_log_stops_nothing(style):
    closed = io.StringIO()
    closed.close()
    for stream in (Broken(), closed):
        log = Log(stream, style=style, development=True, clock=Clock())
        log(EXCHANGE)
        log(STORED)
        log.say("end")
    assert closed.closed


def test_whether_a_stream_was_stored_is_logged_at_its_end():
    recording = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS, detail=Detail.RECORDING)
    line = written(replace(EXCHANGE, cache=recording))
    assert line.endswith("  recording\n")
    unkept = NotStored(key=KEY, operation="generate", model="tiny", detail=Detail.INCOMPLETE)
    assert written(unkept) == f"[AI Cache] 🚫 Not cached: {KEY[:8]}... (incomplete)  tiny  generate\n"


def test_a_quiet_log_omits_the_start_but_not_a_loss_and_its_end():
    stream = io.StringIO()
    log = Log(stream, style=Style.PLAIN, development=False, quiet=True, clock=Clock())
    well = Health(part=Part.STORE, well=True, name="Redis")
    log.say("listens")
    log.say("an error", warning=True)
    log(well)
    log(Health(part=Part.STORE, well=False, name="Redis", reason="gone"))
    log(well)
    assert stream.getvalue().splitlines() == [
        "[AI Cache] an error",
        "[AI Cache] ⚠️  Lost Redis: gone",
        "[AI Cache] ✅ Connected to Redis",
    ]


WRONG = Audited(operation="embed", model="tiny", same=3, wrong=1, kind=Kind.SLIGHTLY, cause=Cause.PRECISION)


@pytest.mark.parametrize("requests", [True, False])
def test_of_the_audit_only_what_was_wrong_has_a_line(requests: bool) -> None:
    stream = io.StringIO()
    log = Log(stream, style=Style.PLAIN, development=False, requests=requests, clock=Clock())
    log(Audited(operation="embed", model="tiny", same=3, not_reproducible=1))
    log(Audited(operation="embed", model="tiny", left_out=3, why=Unaudited.LATE))
    assert stream.getvalue() == ""
    log(WRONG)
    assert stream.getvalue() == (
        "[AI Cache] ⚠️  WRONG: Ollama says something else than an entry, which is deleted; it looks like other hardware"
        " or a quantized KV cache (OLLAMA_KV_CACHE_TYPE, OLLAMA_FLASH_ATTENTION)  tiny  embed\n"
    )


def test_several_wrong_entries_are_one_line_and_json_has_what_they_look_like() -> None:
    assert "than 2 entries, which are deleted" in written(replace(WRONG, wrong=2))
    line = json.loads(written(WRONG, style=Style.JSON))
    assert (line["event"], line["wrong"], line["kind"], line["cause"]) == (
        "audited",
        1,
        "vector-slightly",
        "hardware-or-kv-cache",
    )


@pytest.mark.parametrize("style", [Style.PLAIN, Style.COLOUR, Style.JSON])
@pytest.mark.parametrize("model", ["tiny:latest", 'a","seconds":1234567.125,"first_byte":1234567.125', "ä"])
@pytest.mark.parametrize("token", [None, 0.5])
def test_the_line_of_an_exchange_like_another_is_as_if_it_was_told_by_itself(
    style: Style, model: str, token: float | None
) -> None:
    exchange = replace(EXCHANGE, model=model, trace="ab" * 16, first_token=token)
    for seconds in (0.25, 1e-05, 3.0, 0.1 + 0.2):
        stream, again = io.StringIO(), io.StringIO()
        one, other = (Log(into, style=style, development=False, clock=Clock()) for into in (stream, again))
        one(replace(exchange, seconds=seconds, first_byte=seconds, first_token=None if token is None else seconds))
        for _ in range(2):
            other.again(exchange, seconds)
        assert again.getvalue() == 2 * stream.getvalue()
        assert stream.getvalue()


def test_exchanges_like_others_are_not_told_where_requests_are_not() -> None:
    stream = io.StringIO()
    log = Log(stream, style=Style.JSON, development=False, requests=False, clock=Clock())
    log.again(EXCHANGE, 0.5)
    assert stream.getvalue() == ""


def test_what_lines_have_in_common_is_remembered_for_so_many_exchanges() -> None:
    stream = io.StringIO()
    log = Log(stream, style=Style.JSON, development=False, clock=Clock())
    for number in range(3000):
        log.again(replace(EXCHANGE, bytes_sent=number), 0.5)
    assert len(log._lines) <= 1024
    assert [json.loads(line)["bytes_sent"] for line in stream.getvalue().splitlines()] == list(range(3000))


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        (UpstreamState.EJECTED, "it does not answer", "gpu1 takes no requests for now: it does not answer"),
        (UpstreamState.BACK, "", "gpu1 takes requests again"),
        (UpstreamState.DRAINED, "", "gpu1 is drained: no new requests go there"),
        (UpstreamState.RESUMED, "", "gpu1 is no longer drained"),
    ],
)
def test_what_becomes_of_one_of_several_ollamas_is_said(state: UpstreamState, reason: str, said: str) -> None:
    event = UpstreamChanged(name="gpu1", state=state, reason=reason)
    assert said in written(event)
    told = json.loads(written(event, style=Style.JSON))
    assert told.items() >= {"event": "upstreamchanged", "name": "gpu1", "state": state.value}.items()


WAITED = LaneWaited(
    operation="embed", model="tiny", upstream="gpu1", lane=Lane.BATCH, end=LaneEnd.SENT, seconds=3.21, ahead=12
)


@pytest.mark.parametrize(
    ("end", "seconds", "said"),
    [
        (LaneEnd.SENT, 3.21, "[AI Cache] ⏳ WAITED: 3.2 s  tiny  embed  batch lane, 12 ahead  gpu1\n"),
        (LaneEnd.LEFT, 1.0, "[AI Cache] ⏳ WAITED: 1.0 s  tiny  embed  batch lane, 12 ahead  gpu1\n"),
        (LaneEnd.FULL, 0.0, "[AI Cache] ⚠️  NOT SENT: lane-full  tiny  embed  batch lane, 12 ahead  gpu1\n"),
        (LaneEnd.LATE, 600.0, "[AI Cache] ⚠️  NOT SENT: lane-wait  tiny  embed  batch lane, 12 ahead  gpu1\n"),
        (LaneEnd.SENT, 0.99, ""),
        (LaneEnd.LEFT, 0.0, ""),
    ],
)
def test_who_has_waited_long_in_a_lane_or_was_refused_has_a_line(end: LaneEnd, seconds: float, said: str) -> None:
    event = replace(WAITED, end=end, seconds=seconds)
    assert written(event) == said
    assert bool(written(event, style=Style.JSON)) is bool(said)


def test_without_lines_for_requests_only_refusals_of_lanes_are_logged() -> None:
    stream = io.StringIO()
    log = Log(stream, style=Style.JSON, development=False, requests=False, clock=Clock())
    for end in LaneEnd:
        log(replace(WAITED, end=end))
    assert [json.loads(line)["end"] for line in stream.getvalue().splitlines()] == ["lane-full", "lane-wait"]
