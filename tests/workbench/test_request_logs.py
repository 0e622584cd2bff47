from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ollama_cache_proxy.workbench.request_logs import LeftOut, fingerprint, is_body, is_lines, is_replay, request_in
from ollama_cache_proxy.workbench.requests import Request
from tests.support.ollama_logs import ROUTES, OllamaLog

BODY = b'{"model": "tiny",  "prompt": "why", "stream": false}'
NAME = "20261129T120000.000000001Z-000001_api_generate_body.json"


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_that_ollama_logs_is_a_request_byte_for_byte(route: str, tmp_path: Path) -> None:
    log = OllamaLog(tmp_path)
    logged = log.log(route, BODY)
    assert is_body(logged.name)
    assert [is_replay(file.name) for file in sorted(log.folder.iterdir())] == [False, True]
    found = request_in(logged.name, logged.read_bytes(), "here")
    assert found == Request(origin="here", path=route, body=BODY, recorded=True)


@pytest.mark.parametrize("route", ["/api/embed", "/api/embeddings", "/v1/embeddings", "/v1/messages/count_tokens"])
def test_should_ollama_log_others_one_day_they_are_known(route: str, tmp_path: Path) -> None:
    logged = OllamaLog(tmp_path).log(route, {"model": "m", "input": ["a", "b"]})
    found = request_in(logged.name, logged.read_bytes(), "here")
    assert isinstance(found, Request)
    assert (found.path, found.weight) == (route, 2)


def test_a_body_cut_off_anywhere_is_no_request() -> None:
    cut = {request_in(NAME, BODY[:offset], "") for offset in range(len(BODY))}
    assert cut == {LeftOut.CUT_OFF}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "body.json",
        "_api_generate_body.json",
        "20261129T120000Z-000001_api_generate_body.json",
        "20261129T120000.000000001Z-1_api_generate_body.json",
        "20261129T120000.000000001Z-000001_body.json",
        "20261129T120000.000000001Z-000001_api_generate_body.json.swp",
        "20261129T120000.000000001Z-000001_api/generate_body.json",
        "20261129T120000.000000001Z-000001_api_generate_body.json\n",
        "x20261129T120000.000000001Z-000001_api_generate_body.json",
        f"20261129T120000.000000001Z-000001_{'a' * 101}_body.json",
        "٢٠٢٦١١٢٩T120000.000000001Z-000001_api_generate_body.json",
        ".jsonl",
        ".requests.jsonl",
        "requests.json",
    ],
)
def test_names_that_only_look_like_it_are_none(name: str) -> None:
    assert not is_body(name)
    assert not is_replay(name)
    assert not is_lines(name)


@pytest.mark.parametrize(
    ("route", "why"),
    [("api_pull", LeftOut.NOT_CACHED), ("v1_audio_transcriptions", LeftOut.NOT_CACHED), ("x", LeftOut.NOT_CACHED)],
)
def test_other_routes_are_left_out(route: str, why: LeftOut) -> None:
    assert request_in(f"20261129T120000.000000001Z-000001_{route}_body.json", BODY, "") is why


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[]", LeftOut.NO_REQUEST),
        ("3", LeftOut.NO_REQUEST),
        ("{}", LeftOut.NO_REQUEST),
        ('{"path": 3, "body": {}}', LeftOut.NO_REQUEST),
        ('{"path": "/api/generate"}', LeftOut.NO_REQUEST),
        ('{"path": "/api/generate", "body": "[]"}', LeftOut.NO_REQUEST),
        ('{"path": "/api/generate", "body": "{"}', LeftOut.CUT_OFF),
        ('{"path": "/api/generate", "body": {}, "headers": {"a": "b\\nc"}}', LeftOut.NO_REQUEST),
        ('{"path": "/api/pull", "body": {}}', LeftOut.NOT_CACHED),
        ('{"path": "/v1/audio/transcriptions", "body": "x"}', LeftOut.NOT_CACHED),
        ('{"path": "/api/generate", "body"', LeftOut.CUT_OFF),
        ("[" * 100_000, LeftOut.CUT_OFF),
    ],
)
def test_a_line_that_is_no_request_is_left_out_for_a_reason(line: str, why: LeftOut) -> None:
    assert request_in("requests.jsonl", line.encode(), "") is why


def test_a_recorded_line_weighs_as_many_as_its_texts() -> None:
    body = '{"model": "m", "input": ["a", "b"]}'
    line = json.dumps({"path": "/api/embed", "body": body, "headers": {"Origin": "http://a"}}).encode()
    expected = Request(
        origin="f:1", path="/api/embed", body=body.encode(), headers={"Origin": "http://a"}, weight=2, recorded=True
    )
    assert request_in("requests.jsonl", line, "f:1") == expected


def test_equal_requests_have_one_fingerprint_and_others_have_others() -> None:
    def request(path: str = "/api/generate", body: bytes = b"{}", **headers: str) -> bytes:
        return fingerprint(Request(origin="", path=path, body=body, headers=headers))

    assert request(a="b", c="d") == request(C="d", A="b")
    others = [request(), request(path="/api/chat"), request(body=b"{} "), request(a="b"), request(a="c")]
    assert len(set(others)) == len(others)


def test_every_reason_says_what_it_means() -> None:
    assert all(re.fullmatch(r"[a-z-]+", reason) and reason.meaning for reason in LeftOut)
