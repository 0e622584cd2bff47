from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.policy import large_documents, outline
from ollama_cache_proxy.policy.classify import (
    Bypass,
    Candidate,
    by_body,
    by_head,
    by_large_body,
    changed_model,
    is_embedding,
    model_changed_by_large,
)
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, OTHER, REUSABLE, Kind, Policy, find
from ollama_cache_proxy.policy.large_documents import MOST_TEXTS
from ollama_cache_proxy.policy.messages import Request
from ollama_cache_proxy.policy.reuse import NO_DIRECTIVES, Directives
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import finish
from tests.support import plain_requests
from tests.support.uploads import audio, body, content_type, part, upload, value

GENERATE, EMBED, EMBEDDINGS, V1 = "/api/generate", "/api/embed", "/api/embeddings", "/v1/embeddings"
CHAT, V1_CHAT, V1_COMPLETIONS = "/api/chat", "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"
PLAIN = {row.path: plain_requests.PLAIN[row.operation] for row in REUSABLE if not row.multipart}
REUSED = tuple(PLAIN)
OPT_IN = tuple(row.path for row in REUSABLE if row.policy is Policy.OFF)
BY_DEFAULT = tuple(path for path in REUSED if path not in OPT_IN)


def row(path: str, method: str = "POST"):
    return find(method, path)[0]


def by_text(path: str, text: bytes, *, policy: Policy | None = Policy.ALWAYS, streams: bool = False):
    return by_body(row(path), text, policy_of=lambda _: policy, streams=streams)


def classified(path: str, changes: dict | None = None, *, without: tuple[str, ...] = (), **settings):
    document = {name: value for name, value in (PLAIN[path] | (changes or {})).items() if name not in without}
    return by_text(path, json.dumps(document).encode(), **settings)


def verdict(path: str, changes: dict | None = None, *, without: tuple[str, ...] = (), **settings) -> Detail | None:
    outcome = classified(path, changes, without=without, **settings)
    return outcome.detail if isinstance(outcome, Bypass) else None


each_reused = pytest.mark.parametrize("path", REUSED)


# by its head


def by_fields(
    path: str,
    *fields: tuple[bytes, bytes],
    exact: bool = True,
    wishes: Directives = NO_DIRECTIVES,
    policy: Policy = Policy.ALWAYS,
):
    return by_head(row(path), Request(method="POST", target=path, fields=fields), wishes, policy=policy, exact=exact)


@each_reused
def test_a_plain_head_bars_nothing(path):
    fields = (
        (b"Host", b"h"),
        (b"Content-Type", b"application/x-www-form-urlencoded"),
        (b"Authorization", b"Bearer t"),
        (b"Accept-Encoding", b"gzip"),
        (b"Cache-Control", b"no-cache"),
        (b"If-Range", b"x"),
        (b"X-Cookie", b"x"),
    )
    assert by_fields(path, *fields) is None


@each_reused
@pytest.mark.parametrize(
    ("name", "detail"),
    [
        (b"Content-Encoding", Detail.CONTENT_ENCODING),
        (b"CONTENT-ENCODING", Detail.CONTENT_ENCODING),
        (b"range", Detail.RANGE),
        (b"Range", Detail.RANGE),
        (b"Cookie", Detail.COOKIE),
        (b"cOOKIE", Detail.COOKIE),
        (b"If-Match", Detail.CONDITIONAL),
        (b"if-none-match", Detail.CONDITIONAL),
        (b"If-Modified-Since", Detail.CONDITIONAL),
        (b"If-Unmodified-Since", Detail.CONDITIONAL),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("value", [b"x", b""], ids=["set", "empty"])
def test_one_field_bars_a_head(path, name, detail, value):
    assert by_fields(path, (b"Host", b"h"), (name, value)) == Bypass(detail=detail)


@each_reused
@pytest.mark.parametrize(
    ("wishes", "detail"),
    [
        (Directives(no_store=True), Detail.NO_STORE),
        (Directives(no_store=True, ttl=0), Detail.NO_STORE),
        (Directives(no_cache=True), None),
        (Directives(only_if_cached=True, max_age=0, ttl_ignored=True), None),
    ],
)
def test_of_the_directives_only_no_store_bars_a_head(path, wishes, detail):
    outcome = by_fields(path, wishes=wishes)
    assert outcome == (None if detail is None else Bypass(detail=detail))


@each_reused
def test_another_spelling_of_the_target_is_passed_on(path):
    assert by_fields(path, exact=False) == Bypass(detail=Detail.SPELLING)
    assert by_fields(path, (b"Cookie", b"a"), exact=False) == Bypass(detail=Detail.SPELLING)


@each_reused
def test_that_it_is_off_is_said_before_all_else(path):
    assert by_fields(path, (b"Cookie", b"a"), exact=False, policy=Policy.OFF) == Bypass(detail=Detail.OPT_IN)


@pytest.mark.parametrize("policy", [None, *Policy], ids=str)
@pytest.mark.parametrize("endpoint", [*ENDPOINTS, OTHER], ids=lambda endpoint: endpoint.operation)
def test_a_policy_lets_through_all_but_what_is_off_or_can_never_be_reused(endpoint, policy):
    request = Request(method=endpoint.method, target=endpoint.path, fields=())
    outcome = by_head(endpoint, request, NO_DIRECTIVES, policy=policy, exact=True)
    if endpoint.policy is None:
        assert outcome == Bypass(detail=Detail.ENDPOINT)
    else:
        assert outcome == (Bypass(detail=Detail.OPT_IN) if policy is Policy.OFF else None)


# by its body


@each_reused
@pytest.mark.parametrize("policy", [policy for policy in Policy if policy is not Policy.OFF], ids=str)
def test_of_the_policies_only_deterministic_bars_a_plain_body(path, policy):
    barred = policy is Policy.DETERMINISTIC and not row(path).deterministic
    assert verdict(path, policy=policy) is (Detail.NOT_DETERMINISTIC if barred else None)


@each_reused
def test_a_plain_body_is_a_candidate(path):
    plain = Candidate(endpoint=row(path), model="m", document=PLAIN[path], items=1, stream=False)
    assert classified(path) == plain
    assert classified(path, streams=True) == plain


@each_reused
@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (b"", Detail.NOT_JSON),
        (b"[]", Detail.NOT_AN_OBJECT),
        (b'{"model":"a","model":"b"}', Detail.DUPLICATE_NAME),
        (b'{"MODEL":"a"}', Detail.AMBIGUOUS_NAME),
        (b'{"model":"a","x":18446744073709551616}', Detail.NUMBER),
        (b'{"model":"a","x":' + b"[" * 64 + b"]" * 64 + b"}", Detail.DEPTH),
    ],
    ids=lambda value: value.value if isinstance(value, Detail) else None,
)
def test_a_body_that_cannot_be_trusted_is_passed_on_without_a_model(path, text, detail):
    assert by_text(path, text) == Bypass(detail=detail)


@each_reused
@pytest.mark.parametrize("model", [None, "", 1, True, ["m"], {"name": "m"}], ids=repr)
def test_without_a_model_it_is_passed_on(path, model):
    assert classified(path, {"model": model}) == Bypass(detail=Detail.NO_MODEL)


@each_reused
def test_with_no_model_at_all_it_is_passed_on(path):
    assert classified(path, {"name": "m"}, without=("model",)) == Bypass(detail=Detail.NO_MODEL)


@each_reused
@pytest.mark.parametrize("model", ["gpt:cloud", "gpt:20b-cloud", "GPT:CLOUD", "me/gpt:20b:cloud", "gpt-cloud"])
def test_a_model_of_another_machine_is_passed_on_under_its_name(path, model):
    assert classified(path, {"model": model}) == Bypass(detail=Detail.REMOTE_MODEL, model=model)


@each_reused
@pytest.mark.parametrize("model", ["m", "m:latest", "M", "cloud", "cloud:latest", "h/n/m:t", " m "])
def test_the_spelling_of_the_model_is_preserved(path, model):
    outcome = classified(path, {"model": model})
    assert isinstance(outcome, Candidate)
    assert outcome.model == model


@each_reused
@pytest.mark.parametrize(
    "changes", [{"custom": 1}, {"Custom": None}, {"options": {"X": 1}}, {"dimensions": 5}, {"raw": 1}]
)
def test_what_is_not_looked_at_does_not_bar_a_body(path, changes):
    outcome = classified(path, changes)
    assert isinstance(outcome, Candidate)
    assert outcome.document == PLAIN[path] | changes


def test_a_candidate_is_for_a_whole_response_unless_it_says_so():
    assert Candidate(endpoint=row(EMBED), model="m", document={}, items=1).stream is False


# stream

UNSET = object()


MEANT = [(True, True), (False, False), (None, None), (UNSET, None)]
"""What a body says of `stream`, and whether that is a stream; None: as the route has it by default."""
each_that_streams = pytest.mark.parametrize(
    ("path", "default"),
    [
        *((GENERATE, True), (CHAT, True), (V1_CHAT, False), (V1_COMPLETIONS, False)),
        *((RESPONSES, False), (MESSAGES, False)),
    ],
)


def with_stream(path: str, stream: object, **settings):
    if stream is UNSET:
        return classified(path, without=("stream",), **settings)
    return classified(path, {"stream": stream}, **settings)


@each_that_streams
@pytest.mark.parametrize(("stream", "meant"), MEANT, ids=["true", "false", "null", "absent"])
def test_a_stream_is_a_candidate_only_where_streams_may_be_reused(path, default, stream, meant):
    streamed = default if meant is None else meant
    kept = with_stream(path, stream, streams=True)
    assert isinstance(kept, Candidate)
    assert kept.stream is streamed
    expected = Bypass(detail=Detail.STREAM, model="m") if streamed else kept
    assert with_stream(path, stream, streams=False) == expected


@each_that_streams
@pytest.mark.parametrize("streams", [False, True], ids=["streams off", "streams on"])
@pytest.mark.parametrize("stream", ["true", "false", "no", "", 0, 1, 0.0, [], {}], ids=repr)
def test_a_stream_that_is_neither_true_nor_false_is_ollamas_to_refuse(path, default, streams, stream):
    assert with_stream(path, stream, streams=streams) == Bypass(detail=Detail.FIELD_TYPE, model="m")


@pytest.mark.parametrize("path", [EMBED, EMBEDDINGS, V1, COUNT])
@pytest.mark.parametrize("streams", [False, True], ids=["streams off", "streams on"])
@pytest.mark.parametrize("stream", [False, True, None, "yes", 0], ids=repr)
def test_embeddings_and_counts_never_stream_whatever_they_say(path, streams, stream):
    outcome = with_stream(path, stream, streams=streams)
    assert isinstance(outcome, Candidate)
    assert outcome.stream is False


# what asks for the same answer each time

TEMPERATURES = [
    *(("0", True), ("0.0", True), ("-0.0", True), ("0e5", True)),
    *(("1e-9", False), ("1", False), ("-1", False), ("0.8", False), ('"0"', False), ("false", False), ("true", False)),
    *(("null", False), ("[]", False), ("[0]", False), ("{}", False), ('""', False)),
]
SEEDS = [
    *(("0", True), ("1", True), ("42", True), ("4294967294", True)),
    *(("-1", False), ("4294967295", False), ("4294967296", False), ("-2", False), ("1.5", False), ("1.0", False)),
    *(("true", False), ("false", False), ('"1"', False), ("null", False), ("[]", False)),
]
SAMPLING = [
    *((f'"temperature": {text}', same) for text, same in TEMPERATURES),
    *((f'"seed": {text}', same) for text, same in SEEDS),
    ('"temperature": 1, "seed": 7', True),
    ('"temperature": 0, "seed": -1', True),
    ('"temperature": 1, "seed": -1', False),
    ('"Temperature": 0', False),
    ('"top_k": 1', False),
    ("", False),
]
NATIVE, OPENAI = (GENERATE, CHAT), (V1_CHAT, V1_COMPLETIONS)


def deterministic(path: str, members: str) -> bool:
    plain = json.dumps(PLAIN[path])[:-1]
    outcome = by_text(path, f"{plain}{members and ', '}{members}}}".encode(), policy=Policy.DETERMINISTIC)
    assert isinstance(outcome, Candidate) or outcome.detail in (Detail.NOT_DETERMINISTIC, Detail.SAMPLING_MISPLACED)
    return isinstance(outcome, Candidate)


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize(("sampling", "same"), SAMPLING)
def test_in_the_options_a_temperature_of_zero_or_a_seed_asks_for_the_same_response(path, sampling, same):
    assert deterministic(path, f'"options": {{{sampling}}}') is same


@pytest.mark.parametrize("path", OPENAI)
@pytest.mark.parametrize(("sampling", "same"), [case for case in SAMPLING if "Temperature" not in case[0]])
def test_on_a_route_of_openai_it_stands_at_the_top_level(path, sampling, same):
    assert deterministic(path, sampling) is same


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
@pytest.mark.parametrize(
    ("sampling", "same"),
    [*((f'"temperature": {text}', same) for text, same in TEMPERATURES), ('"temperature": 0, "seed": -1', True)],
)
def test_for_agents_it_is_the_temperature_alone(path, sampling, same):
    assert deterministic(path, sampling) is same


@pytest.mark.parametrize(
    ("path", "members"),
    [
        *((path, '"seed": 1, "options": {"temperature": 0}') for path in (RESPONSES, MESSAGES)),
        *((path, '"temperature": 0, "seed": 1') for path in NATIVE),
        *((path, '"options": {"temperature": 0, "seed": 1}') for path in OPENAI),
    ],
)
def test_where_ollama_does_not_read_it_it_asks_for_nothing(path, members):
    assert deterministic(path, members) is False


@pytest.mark.parametrize(
    ("path", "members", "detail"),
    [
        (CHAT, '"temperature": 0', Detail.SAMPLING_MISPLACED),
        (GENERATE, '"seed": 1, "options": {"top_k": 1}', Detail.SAMPLING_MISPLACED),
        (CHAT, '"temperature": 0, "options": {"temperature": 0.5}', Detail.SAMPLING_MISPLACED),
        (CHAT, '"temperature": 0, "options": {"temperature": 0}', None),
        (CHAT, '"top_k": 1', Detail.NOT_DETERMINISTIC),
        (V1_CHAT, '"temperature": 0.5', Detail.NOT_DETERMINISTIC),
        (V1_CHAT, '"options": {"temperature": 0}', Detail.NOT_DETERMINISTIC),
        (RESPONSES, '"seed": 1', Detail.NOT_DETERMINISTIC),
    ],
)
def test_sampling_beside_the_options_has_a_reason_of_its_own(path, members, detail):
    plain = json.dumps(PLAIN[path])[:-1]
    outcome = by_text(path, f"{plain}, {members}}}".encode(), policy=Policy.DETERMINISTIC)
    assert (outcome.detail if isinstance(outcome, Bypass) else None) is detail


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("options", ["null", "[]", '"x"', "0", "true", '["temperature"]'])
def test_options_that_are_no_object_ask_for_nothing(path, options):
    assert deterministic(path, f'"options": {options}') is False


@pytest.mark.parametrize("path", [EMBED, EMBEDDINGS, V1, COUNT])
@pytest.mark.parametrize("members", ["", '"options": {"temperature": 1}', '"options": null', '"temperature": 1'])
def test_vectors_and_counts_are_the_same_each_time_unasked(path, members):
    assert deterministic(path, members) is True


@pytest.mark.parametrize("path", [GENERATE, CHAT])
def test_what_is_deterministic_may_be_a_stream_too(path):
    outcome = classified(path, {"stream": True, "options": {"seed": 1}}, policy=Policy.DETERMINISTIC, streams=True)
    assert isinstance(outcome, Candidate)
    assert outcome.stream is True


# what is asked


@pytest.mark.parametrize("path", [GENERATE, EMBEDDINGS, V1_COMPLETIONS])
@pytest.mark.parametrize(
    ("prompt", "detail"),
    [
        ("p", None),
        (" ", None),
        ("\0", None),
        ("", Detail.NO_PROMPT),
        (None, Detail.NO_PROMPT),
        (0, Detail.FIELD_TYPE),
        (False, Detail.FIELD_TYPE),
        (["p"], Detail.FIELD_TYPE),
        ([], Detail.FIELD_TYPE),
        ({}, Detail.FIELD_TYPE),
    ],
    ids=repr,
)
def test_a_prompt_is_a_text_that_is_not_empty(path, prompt, detail):
    assert verdict(path, {"prompt": prompt}) is detail


@pytest.mark.parametrize("path", [EMBED, V1])
@pytest.mark.parametrize(
    ("question", "items"),
    [("p", 1), ("two words", 1), (["p"], 1), (["p", "q"], 2), (["p", "p", " "], 3), (["p"] * 1000, 1000)],
    ids=["letter", "text", "list of one", "two", "three", "a thousand"],
)
def test_an_input_is_a_text_or_a_list_of_texts(path, question, items):
    outcome = classified(path, {"input": question})
    assert isinstance(outcome, Candidate)
    assert outcome.items == items


@pytest.mark.parametrize("path", [EMBED, V1])
@pytest.mark.parametrize(
    ("question", "detail"),
    [
        ("", Detail.NO_PROMPT),
        (None, Detail.NO_PROMPT),
        ([], Detail.NO_PROMPT),
        (0, Detail.FIELD_TYPE),
        (True, Detail.FIELD_TYPE),
        ({}, Detail.FIELD_TYPE),
        ([""], Detail.FIELD_TYPE),
        (["", ""], Detail.FIELD_TYPE),
        (["p", "", None], Detail.FIELD_TYPE),
        (["p", None], Detail.FIELD_TYPE),
        (["p", 1], Detail.FIELD_TYPE),
        ([1, 2], Detail.FIELD_TYPE),
        ([[1, 2]], Detail.FIELD_TYPE),
        ([["p"]], Detail.FIELD_TYPE),
        ([{"text": "p"}], Detail.FIELD_TYPE),
    ],
    ids=repr,
)
def test_any_other_input_is_passed_on(path, question, detail):
    assert verdict(path, {"input": question}) is detail


A_MESSAGE = {"role": "user", "content": "p"}


@pytest.mark.parametrize("path", [CHAT, V1_CHAT, MESSAGES, COUNT])
@pytest.mark.parametrize(
    ("messages", "detail"),
    [
        ([A_MESSAGE], None),
        ([A_MESSAGE, {"role": "assistant", "content": "q"}, A_MESSAGE], None),
        ([{}], None),
        ([], Detail.NO_PROMPT),
        (None, Detail.NO_PROMPT),
        ("", Detail.FIELD_TYPE),
        ("p", Detail.FIELD_TYPE),
        (0, Detail.FIELD_TYPE),
        (False, Detail.FIELD_TYPE),
        (A_MESSAGE, Detail.FIELD_TYPE),
        ({}, Detail.FIELD_TYPE),
        (["p"], Detail.FIELD_TYPE),
        ([None], Detail.FIELD_TYPE),
        ([A_MESSAGE, "p"], Detail.FIELD_TYPE),
        ([[A_MESSAGE]], Detail.FIELD_TYPE),
    ],
    ids=repr,
)
def test_messages_are_a_list_of_objects_that_is_not_empty(path, messages, detail):
    outcome = classified(path, {"messages": messages})
    if detail is None:
        assert isinstance(outcome, Candidate)
        assert outcome.items == 1
    else:
        assert outcome == Bypass(detail=detail, model="m")


@pytest.mark.parametrize(
    ("given", "detail"),
    [
        ("p", None),
        ([A_MESSAGE], None),
        ([A_MESSAGE, {"type": "function_call_output", "call_id": "c", "output": "4"}], None),
        ([{}], None),
        ([], Detail.NO_PROMPT),
        ("", Detail.NO_PROMPT),
        (None, Detail.NO_PROMPT),
        (0, Detail.FIELD_TYPE),
        (A_MESSAGE, Detail.FIELD_TYPE),
        (["p"], Detail.FIELD_TYPE),
        ([A_MESSAGE, None], Detail.FIELD_TYPE),
    ],
    ids=repr,
)
def test_an_input_of_responses_is_a_text_or_a_list_of_objects(given, detail):
    outcome = classified(RESPONSES, {"input": given})
    if detail is None:
        assert isinstance(outcome, Candidate)
        assert outcome.items == 1
    else:
        assert outcome == Bypass(detail=detail, model="m")


@each_reused
def test_with_nothing_asked_it_is_a_command_and_keeps_its_model(path):
    assert classified(path, without=(row(path).prompt,)) == Bypass(detail=Detail.NO_PROMPT, model="m")


def test_a_command_to_unload_is_one_however_long_it_is_to_be_kept():
    assert verdict(GENERATE, {"prompt": "", "keep_alive": 0}) is Detail.NO_PROMPT


# keep_alive: what Ollama answers was taken from its own rule (api/types.go, 0.24, over Go's time.ParseDuration)

KEPT = [
    *("null", "1", "-1", "300", "0.5", "1e3", "1e-9", "5E0", "86400", "-0.5"),
    *('"5m"', '"1h30m"', '"1.5h"', '".5s"', '"1.s"', '"+5m"', '"-5m"', '"-1s"', '"24h"', '"1ms"', '"1m1ms"'),
    *('"10ns"', '"10us"', '"10\u00b5s"', '"10\u03bcs"', '"10\\u00b5s"', '"10\\u03bcs"', '"000000005m"'),
    *('"1h1h1h1h1h1h1h1h"', '"0h1s"', '"0.000000001s"', '"100000h"', '"999999999s"', '"5\\u006d"'),
    *('"2562047h"', '"153722867m"', '"9223372036s"', '"9223372036854ms"', '"9223372036854775us"'),
    *('"9223372036854775\u00b5s"', '"9223372036854775\u03bcs"', "9223372036"),
]
UNLOADS = [
    *("0", "0.0", "-0.0", "0e5", "1e-10", "0.9e-9", "1e-400"),
    *('"0"', '"+0"', '"-0"', '"0s"', '"-0s"', '"0h0m0.000s"', '"+0.0h"', '".0s"', '"0.s"'),
    *(
        '"0.1ns"',
        '"0.9ns"',
        '".5ns"',
        '"0.0001us"',
        '"0.0001µs"',
        '"0.0001\N{GREEK SMALL LETTER MU}s"',
        '"0.0000001ms"',
        '"0.0000000001s"',
        '"0.1ns0.9ns"',
    ),
    *('"-0.1ns"', '"0s0.5ns"', '"0.0009us"', '"0.0009µs"', '"0.0009\u03bcs"', '"0.0000009ms"', '"0.0000000009s"'),
]
INVALID = [
    *("true", "false", "[]", "{}", '["5m"]', '""', '" "', '"banana"', '"forever"', '"NaN"', '"∞"', '"null"'),
    *(
        '"1"',
        '"-1"',
        '"00"',
        '"300"',
        '"1e3"',
        '"1e3s"',
        '"1.5"',
        '"."',
        '".s"',
        '"s"',
        '"-"',
        '"+"',
        '"+-5m"',
        '"--5m"',
    ),
    *('"5 m"', '" 5m"', '"5m "', '"5m\\n"', '"5m\\u0000"', '"5M"', '"5H"', '"5mS"', '"1d"', '"1w"', '"5min"', '"5sec"'),
    *('"5m5"', '"5m-5s"', '"1.5.5s"', '"0x5m"', '"1_0s"', '"1,5s"', '"\u0665m"', '"\uff15m"', '"5\u1e3fs"', '"5µ"'),
    *(
        '"2562048h"',
        '"-2562048h"',
        '"9223372037s"',
        '"9999999999s"',
        '"99999999999999999999h"',
        '"9223372036854775809ns"',
    ),
    *('"9223372036855ms"', '"9223372036854776us"', '"9223372036854776\u00b5s"', '"9223372036854776\u03bcs"'),
    *(
        '"153722868m"',
        '"999999999m"',
        '"-999999999m"',
        '"153722868m0s"',
        '"150000000m150000000m"',
        '"100000h153000000m"',
    ),
]
with_keep_alive = pytest.mark.parametrize("path", [GENERATE, EMBED, EMBEDDINGS, CHAT])


def with_raw(path: str, name: str, value: str):
    text = json.dumps(PLAIN[path])[:-1] + f', "{name}": {value}}}'
    return by_text(path, text.encode())


@with_keep_alive
@pytest.mark.parametrize("value", KEPT)
def test_a_model_that_is_to_stay_loaded_may_be_answered_for(path, value):
    assert isinstance(with_raw(path, "keep_alive", value), Candidate)


@with_keep_alive
@pytest.mark.parametrize("value", UNLOADS)
def test_a_keep_alive_that_unloads_the_model_is_asked_of_ollama(path, value):
    assert with_raw(path, "keep_alive", value) == Bypass(detail=Detail.KEEP_ALIVE, model="m")


@with_keep_alive
@pytest.mark.parametrize("value", INVALID)
def test_a_keep_alive_that_ollama_refuses_is_asked_of_ollama(path, value):
    assert with_raw(path, "keep_alive", value) == Bypass(detail=Detail.KEEP_ALIVE, model="m")


@with_keep_alive
@pytest.mark.parametrize("value", ["1e10", "-1e10", "9007199254740992", "-1e-10", '"2562047h"', '"9223372036s"'])
def test_a_keep_alive_at_the_edge_of_what_go_holds_may_be_passed_on_but_is_never_refused(path, value):
    outcome = with_raw(path, "keep_alive", value)
    assert isinstance(outcome, Candidate) or outcome == Bypass(detail=Detail.KEEP_ALIVE, model="m")


@pytest.mark.parametrize("path", [V1, V1_CHAT, V1_COMPLETIONS])
@pytest.mark.parametrize("value", ["0", '"banana"', "true", '"5m"'])
def test_ollama_does_not_read_keep_alive_on_the_routes_of_openai(path, value):
    outcome = with_raw(path, "keep_alive", value)
    assert isinstance(outcome, Candidate)
    assert "keep_alive" in outcome.document


# encoding_format


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("null", None),
        ('""', None),
        ('"float"', None),
        ('"base64"', None),
        ('"bas\\u006564"', None),
        ('"banana"', Detail.ENCODING_FORMAT),
        ('"float "', Detail.ENCODING_FORMAT),
        ("0", Detail.ENCODING_FORMAT),
        ("false", Detail.ENCODING_FORMAT),
        ("[]", Detail.ENCODING_FORMAT),
        ('["float"]', Detail.ENCODING_FORMAT),
        ("{}", Detail.ENCODING_FORMAT),
    ],
)
def test_an_encoding_format_that_ollama_refuses_is_asked_of_ollama(value, detail):
    outcome = with_raw(V1, "encoding_format", value)
    assert (outcome.detail if isinstance(outcome, Bypass) else None) is detail


@pytest.mark.parametrize("path", [path for path in REUSED if path != V1])
def test_elsewhere_an_encoding_format_means_nothing(path):
    assert isinstance(with_raw(path, "encoding_format", '"banana"'), Candidate)


# options


EMBEDDING_PATHS = [EMBED, EMBEDDINGS]


@pytest.mark.parametrize("path", EMBEDDING_PATHS)
@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ({"temperature": 0, "stop": ["a"], "seed": None}, None),
        ({"temperature": "0"}, Detail.FIELD_TYPE),
        ({"seed": True}, Detail.FIELD_TYPE),
        ({"stop": "a"}, Detail.FIELD_TYPE),
        ({"num_ctx": "1"}, None),
        ({"mirostat": "x"}, None),
        (None, None),
        ([], None),
    ],
    ids=str,
)
def test_a_sampling_option_that_ollama_refuses_is_passed_on_where_it_would_not_be_in_the_key(path, options, detail):
    assert verdict(path, {"options": options}) is detail


@pytest.mark.parametrize("path", [GENERATE, CHAT])
def test_elsewhere_it_is_in_the_key(path):
    assert verdict(path, {"options": {"temperature": "0", "stop": "a"}}) is None


def test_openais_route_reads_no_options():
    assert verdict(V1, {"options": {"temperature": "0"}}) is None


# several at once: one reason, the same each time


@pytest.mark.parametrize(
    ("path", "changes", "detail"),
    [
        pytest.param(GENERATE, {"model": "", "prompt": ""}, Detail.NO_MODEL, id="model"),
        pytest.param(GENERATE, {"model": "x:cloud", "prompt": ""}, Detail.REMOTE_MODEL, id="remote"),
        pytest.param(GENERATE, {"prompt": "", "stream": True}, Detail.NO_PROMPT, id="prompt"),
        pytest.param(CHAT, {"messages": [], "stream": 1}, Detail.NO_PROMPT, id="messages"),
        pytest.param(GENERATE, {"stream": "x", "keep_alive": 0}, Detail.FIELD_TYPE, id="stream of no kind"),
        pytest.param(GENERATE, {"stream": True, "keep_alive": 0}, Detail.STREAM, id="stream"),
        pytest.param(GENERATE, {"keep_alive": 0}, Detail.NOT_DETERMINISTIC, id="not deterministic"),
        pytest.param(GENERATE, {"keep_alive": 0, "options": {"seed": 1}}, Detail.KEEP_ALIVE, id="keep_alive"),
        pytest.param(V1, {"input": [], "encoding_format": "x"}, Detail.NO_PROMPT, id="input"),
        pytest.param(V1, {"encoding_format": "x"}, Detail.ENCODING_FORMAT, id="encoding_format"),
    ],
)
def test_of_several_reasons_the_first_is_given(path, changes, detail):
    assert verdict(path, changes, policy=Policy.DETERMINISTIC) is detail


# format: Ollama compares one of text byte for byte (llm/server.go, 0.24)


@pytest.mark.parametrize("path", [GENERATE, CHAT])
@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ('"json"', None),
        ("null", None),
        ('{"type": "object", "title": "\\u006a"}', None),
        ('"\\u006ason"', Detail.FIELD_TYPE),
        ('"j\\u0073on"', Detail.FIELD_TYPE),
        ('"js\\u006Fn"', Detail.FIELD_TYPE),
        ('"jso\\u006E"', Detail.FIELD_TYPE),
    ],
)
def test_a_format_in_another_spelling_is_asked_of_ollama(path, value, detail):
    outcome = with_raw(path, "format", value)
    assert outcome == Bypass(detail=detail, model="m") if detail else isinstance(outcome, Candidate)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ('{"type": "json_schema", "json_schema": {"schema": "json"}}', None),
        ('{"type": "json_schema", "json_schema": {"schema": "\\u006ason"}}', Detail.FIELD_TYPE),
        ('{"type": "json_schema", "json_schema": {"schema": "j\\u0073on"}}', Detail.FIELD_TYPE),
        ('{"type": "json_schema", "json_schema": {"schema": {"title": "\\u00e9"}}}', None),
        ('{"type": "json_object"}', None),
        ("null", None),
    ],
)
def test_a_schema_of_openais_form_is_a_format(value, detail):
    outcome = with_raw(V1_CHAT, "response_format", value)
    assert outcome == Bypass(detail=detail, model="m") if detail else isinstance(outcome, Candidate)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ('{"format": {"type": "json_schema", "name": "n", "schema": "json"}}', None),
        ('{"format": {"type": "json_schema", "name": "n", "schema": "\\u006ason"}}', Detail.FIELD_TYPE),
        ('{"format": {"type": "text"}}', None),
    ],
)
def test_a_schema_of_responses_is_a_format(value, detail):
    outcome = with_raw(RESPONSES, "text", value)
    assert outcome == Bypass(detail=detail, model="m") if detail else isinstance(outcome, Candidate)


# what depends on more than request and model


@pytest.mark.parametrize("path", [row.path for row in REUSABLE if row.kind is Kind.CHAT])
def test_a_tool_that_the_server_runs_is_passed_on(path):
    assert verdict(path, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}) is Detail.EXTERNAL_DATA
    assert verdict(path, {"tools": [{"type": "function", "name": "web_search"}]}) is None


@pytest.mark.parametrize("path", [path for path in REUSED if row(path).kind is not Kind.CHAT])
def test_where_ollama_reads_no_tools_they_bar_nothing(path):
    assert verdict(path, {"tools": [{"type": "web_search"}]}) is None


@each_reused
def test_where_no_format_is_asked_for_its_letters_may_be_spelled_in_any_way(path):
    assert isinstance(with_raw(path, "x", '"\\u006ason"'), Candidate)


@pytest.mark.parametrize("endpoint", [*ENDPOINTS, OTHER], ids=lambda endpoint: endpoint.operation)
def test_embeddings_are_what_answers_with_vectors(endpoint):
    assert is_embedding(endpoint) is (endpoint.kind is Kind.EMBEDDING)


# changes of a model

PULL, CREATE, COPY, DELETE = (
    row("/api/pull"),
    row("/api/create"),
    row("/api/copy"),
    row("/api/delete", "DELETE"),
)
FULL = "registry.ollama.ai/library/tiny:latest"


@pytest.mark.parametrize("endpoint", [PULL, CREATE, DELETE], ids=lambda endpoint: endpoint.operation)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"model":"tiny"}', FULL, id="model"),
        pytest.param(b'{"name":"TINY:latest"}', FULL, id="name"),
        pytest.param(b'{"model":"tiny","name":"other"}', FULL, id="model before name"),
        pytest.param(b'{"model":"","name":"tiny"}', FULL, id="an empty model gives way"),
        pytest.param(b'{"model":null,"name":"tiny"}', FULL, id="so does null"),
        pytest.param(b'{"model":"tiny","stream":true,"source":"x","destination":"y"}', FULL, id="with more"),
        pytest.param(b'{"model":"no such name"}', None, id="a spelling that is not understood"),
        pytest.param(b'{"model":7,"name":"tiny"}', None, id="no text"),
        pytest.param(b'{"model":["tiny"]}', None, id="a list"),
        pytest.param(b"{}", None, id="no name"),
        pytest.param(b'{"MODEL":"tiny"}', None, id="in another case"),
        pytest.param(b'{"model":"a","model":"tiny"}', None, id="twice"),
        pytest.param(b'{"model":"tiny"}{}', None, id="with more after it"),
        pytest.param(b"not JSON", None, id="not JSON"),
        pytest.param(b"", None, id="empty"),
        pytest.param(None, None, id="too large to look at"),
    ],
)
def test_a_change_is_of_the_model_that_the_body_names(endpoint, body, expected):
    assert changed_model(endpoint, body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"source":"a","destination":"tiny"}', FULL, id="the destination"),
        pytest.param(b'{"source":"tiny"}', None, id="not the source"),
        pytest.param(b'{"source":"a","destination":"b","DESTINATION":"tiny"}', None, id="in another case"),
        pytest.param(b'{"model":"tiny"}', None, id="nor the model"),
    ],
)
def test_a_copy_changes_its_destination(body, expected):
    assert changed_model(COPY, body) == expected


@pytest.mark.parametrize("endpoint", [PULL, DELETE], ids=lambda endpoint: endpoint.operation)
def test_a_pull_or_delete_of_the_tag_local_may_be_of_any_model(endpoint):
    """Ollama takes `:local` off before it resolves the name, so it is another model that changes."""
    assert changed_model(endpoint, b'{"model":"tiny:local"}') is None


# uploads

TRANSCRIPTIONS = row("/v1/audio/transcriptions")
UPLOADED = (content_type(),)


def uploaded(sent: bytes, *, policy: Policy = Policy.ALWAYS, fields=UPLOADED):
    return by_body(TRANSCRIPTIONS, sent, policy_of=lambda _: policy, streams=True, fields=fields)


@pytest.mark.parametrize("policy", [Policy.ALWAYS, Policy.DETERMINISTIC], ids=str)
@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, False),
        ({"response_format": "json"}, False),
        ({"response_format": "verbose_json"}, False),
        ({"response_format": "text"}, True),
        ({"response_format": "TEXT"}, False),
        ({"language": "text"}, False),
    ],
    ids=repr,
)
def test_an_upload_is_a_candidate_and_says_whether_it_wants_plain_text(more, text, policy):
    outcome = uploaded(upload(**more), policy=policy)
    assert isinstance(outcome, Candidate)
    assert (outcome.model, outcome.items, outcome.stream, outcome.text) == ("m", 1, False, text)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (upload("gpt:cloud"), Bypass(detail=Detail.REMOTE_MODEL, model="gpt:cloud")),
        (upload(""), Bypass(detail=Detail.NO_MODEL)),
        (body(audio()), Bypass(detail=Detail.NO_MODEL)),
        (body(value("model", "m")), Bypass(detail=Detail.NO_PROMPT, model="m")),
        (body(value("model", "m"), value("file", "x")), Bypass(detail=Detail.FIELD_TYPE, model="m")),
        (body(audio(), part('name="model"; filename="x"', b"m")), Bypass(detail=Detail.NO_MODEL)),
        (upload(stream="true"), Bypass(detail=Detail.MULTIPART)),
        (b"", Bypass(detail=Detail.MULTIPART)),
        (b'{"model":"m"}', Bypass(detail=Detail.MULTIPART)),
    ],
    ids=range(9),
)
def test_any_other_upload_is_passed_on(sent, expected):
    assert uploaded(sent) == expected


def test_an_upload_is_divided_as_its_content_type_says():
    assert uploaded(upload(), fields=()) == Bypass(detail=Detail.MULTIPART)
    assert uploaded(upload(), fields=(content_type("other"),)) == Bypass(detail=Detail.MULTIPART)


# Large bodies, which are read in steps.


@each_reused
def test_a_body_is_classified_in_steps_as_it_is_at_once(path):
    for changes in ({}, {"model": ""}, {"stream": 1}, {"tools": [{"type": "web_search"}]}, {"MODEL": "a"}):
        large = json.dumps({**PLAIN[path], **changes, "x": ["a" * 1000] * 1000}).encode()
        how = {"policy_of": lambda _: Policy.ALWAYS, "streams": True}
        assert finish(by_large_body(row(path), large, reserve=lambda _: True, **how)) == by_body(
            row(path), large, **how
        )
        without = finish(by_large_body(row(path), large, reserve=lambda _: False, **how))
        assert without == Bypass(detail=Detail.BUFFERS_FULL)


@pytest.mark.parametrize("path", [EMBED, V1])
def test_a_list_of_more_texts_than_can_be_stored_is_not_read(path):
    assert verdict(path, {"input": ["a"] * MOST_TEXTS}) is None
    assert verdict(path, {"input": ["a"] * (MOST_TEXTS + 1)}) is Detail.SLOW_TO_READ


def test_the_model_of_a_large_change_is_read_in_steps():
    for more, expected in (
        ({"license": "a" * 2_000_000}, "registry.ollama.ai/library/tiny:latest"),
        ({"x": [[]] * 100_000}, None),
    ):
        body = json.dumps({"model": "tiny", **more}).encode()
        assert finish(model_changed_by_large(row("/api/create"), body)) == expected
    assert finish(model_changed_by_large(row("/api/create"), b"{" + b" " * 100_000)) is None


@pytest.mark.parametrize("name", ["", "input", "license", "messages", "X"])
def test_of_a_large_change_no_list_of_texts_is_read_in_parts(name, monkeypatch):
    monkeypatch.setattr(large_documents, "MOST", -1.0)
    monkeypatch.setattr(outline.Outline, "of_bytes", lambda *_: -2.0)
    body = json.dumps({"model": "tiny", name: ["a", "b"]}).encode()
    assert finish(model_changed_by_large(row("/api/create"), body)) is None
