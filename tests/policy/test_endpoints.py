from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.dialects import anthropic, ollama, openai
from ollama_cache_proxy.policy.endpoints import ENDPOINTS, OTHER, REUSABLE, Kind, Policy, allow, find, is_other

POLICIES = {
    "generate": Policy.ALWAYS,
    "embed": Policy.ALWAYS,
    "embeddings": Policy.ALWAYS,
    "v1-embeddings": Policy.ALWAYS,
    "chat": Policy.OFF,
    "v1-chat": Policy.OFF,
    "v1-completions": Policy.OFF,
    "v1-responses": Policy.OFF,
    "v1-messages": Policy.OFF,
    "v1-count-tokens": Policy.OFF,
    "v1-transcriptions": Policy.OFF,
}
CHANGES = {
    "pull": ("model", "name"),
    "create": ("model", "name"),
    "copy": ("destination",),
    "delete": ("model", "name"),
}
STREAMS = {
    "generate": True,
    "chat": True,
    "push": True,
    "v1-chat": False,
    "v1-completions": False,
    "v1-responses": False,
    "v1-messages": False,
}
ROUTES = [
    ("POST", "/api/generate", "generate", Kind.COMPLETION),
    ("POST", "/api/embed", "embed", Kind.EMBEDDING),
    ("POST", "/api/embeddings", "embeddings", Kind.EMBEDDING),
    ("POST", "/v1/embeddings", "v1-embeddings", Kind.EMBEDDING),
    ("POST", "/api/chat", "chat", Kind.CHAT),
    ("POST", "/v1/chat/completions", "v1-chat", Kind.CHAT),
    ("POST", "/v1/completions", "v1-completions", Kind.COMPLETION),
    ("POST", "/v1/responses", "v1-responses", Kind.CHAT),
    ("POST", "/v1/messages", "v1-messages", Kind.CHAT),
    ("POST", "/v1/messages/count_tokens", "v1-count-tokens", Kind.CHAT),
    ("POST", "/v1/audio/transcriptions", "v1-transcriptions", Kind.COMPLETION),
    ("POST", "/api/pull", "pull", Kind.NONE),
    ("POST", "/api/create", "create", Kind.NONE),
    ("POST", "/api/copy", "copy", Kind.NONE),
    ("DELETE", "/api/delete", "delete", Kind.NONE),
    ("POST", "/api/push", "push", Kind.NONE),
    ("POST", "/api/show", "show", Kind.NONE),
    ("GET", "/api/tags", "tags", Kind.NONE),
    ("GET", "/api/ps", "ps", Kind.NONE),
    ("GET", "/api/version", "version", Kind.NONE),
    ("GET", "/v1/models", "v1-models", Kind.NONE),
]
READ_BY_OLLAMA = {
    "generate": "model prompt suffix system template context stream raw format keep_alive images options think truncate"
    " shift _debug_render_only logprobs top_logprobs width height steps",
    "embed": "model input keep_alive truncate dimensions options",
    "embeddings": "model prompt keep_alive options",
    "v1-embeddings": "model input dimensions encoding_format",
    "chat": "model messages stream format keep_alive tools options think truncate shift _debug_render_only logprobs"
    " top_logprobs",
    "v1-chat": "model messages stream stream_options max_tokens seed stop temperature frequency_penalty"
    " presence_penalty top_p response_format tools reasoning reasoning_effort logprobs top_logprobs _debug_render_only",
    "v1-completions": "model prompt frequency_penalty max_tokens presence_penalty seed stop stream stream_options"
    " temperature top_p suffix logprobs _debug_render_only",
    "v1-responses": "model background conversation include input instructions max_output_tokens reasoning temperature"
    " text think top_p truncation tools stream",
    "v1-messages": "model max_tokens messages system stream temperature top_p top_k stop_sequences tools tool_choice"
    " thinking metadata output_config",
    "v1-count-tokens": "model messages system tools thinking",
    "v1-transcriptions": "file model language prompt response_format",
}
SAMPLING = {"v1-responses": {"temperature"}, "v1-messages": {"temperature"}}
DETERMINISTIC = {"embed", "embeddings", "v1-embeddings", "v1-count-tokens", "v1-transcriptions"}
TEXTS = {"generate", "embed", "embeddings", "v1-embeddings", "v1-completions", "v1-responses"}
LISTS = {"embed", "v1-embeddings", "chat", "v1-chat", "v1-responses", "v1-messages", "v1-count-tokens"}
OPTIONS = {"generate": "options", "embed": "options", "embeddings": "options", "chat": "options"}
INERT = {
    "generate": {"keep_alive", "stream"},
    "embed": {"keep_alive"},
    "embeddings": {"keep_alive"},
    "v1-embeddings": {"user"},
    "chat": {"keep_alive", "stream"},
    "v1-chat": {"stream"},
    "v1-completions": {"stream"},
    "v1-responses": {"stream"},
    "v1-messages": {"stream"},
}

each = pytest.mark.parametrize("row", ENDPOINTS, ids=lambda row: row.operation)


@pytest.mark.parametrize(("method", "path", "operation", "kind"), ROUTES, ids=[route[2] for route in ROUTES])
def test_a_route_is_found_by_its_exact_spelling(method, path, operation, kind):
    row, exact = find(method, path)
    assert (row.method, row.path, row.operation, row.kind, exact) == (method, path, operation, kind, True)


def test_the_table_holds_these_routes_and_no_other():
    assert [(row.method, row.path, row.operation, row.kind) for row in ENDPOINTS] == ROUTES
    assert len({row.operation for row in (*ENDPOINTS, OTHER)}) == len(ENDPOINTS) + 1


@each
def test_only_these_may_be_reused_and_only_four_are_unasked(row):
    assert row.policy is POLICIES.get(row.operation)


def test_a_setting_can_have_a_policy_for_what_may_be_reused_and_for_nothing_else():
    assert [row.operation for row in REUSABLE] == list(POLICIES)


def test_the_policies_are_called_as_the_settings_call_them():
    assert {policy.value for policy in Policy} == {"off", "always", "deterministic", "read-only", "write-only"}


@each
def test_only_these_change_a_model(row):
    assert row.changes == CHANGES.get(row.operation, ())
    assert set(row.changes) <= row.known


@each
def test_the_meaning_of_an_absent_stream_is_ollamas(row):
    assert row.stream_default is STREAMS.get(row.operation)


@each
def test_the_names_that_ollama_reads_are_known(row):
    if row.policy is not None:
        assert row.known == set(READ_BY_OLLAMA[row.operation].split())
    assert all(name == name.lower() and name.isascii() for name in row.known)


@each
def test_only_what_changes_no_response_is_inert(row):
    assert row.inert == INERT.get(row.operation, frozenset())


@each
def test_what_is_reused_names_its_prompt_and_model_among_what_is_known(row):
    if row.policy is not None:
        assert {"model", row.prompt} <= row.known
        assert row.options == OPTIONS.get(row.operation, "")
        assert not row.options or row.options in row.known
        assert row.inert.isdisjoint({"model", row.prompt, row.options})
        assert (row.stream_default is not None) is ("stream" in row.inert) is ("stream" in row.known)
    else:
        assert row.inert == frozenset()


@each
def test_what_asks_for_the_same_response_each_time_is_what_ollama_reads(row):
    assert row.deterministic is (row.operation in DETERMINISTIC)
    assert row.sampling == SAMPLING.get(row.operation, {"temperature", "seed"})
    if row.policy is not None and not (row.options or row.deterministic):
        assert row.sampling <= row.known


def test_only_transcriptions_are_uploads_and_may_be_plain_text():
    assert [(row.operation, row.text, row.forms) for row in ENDPOINTS if row.multipart or row.text] == [
        ("v1-transcriptions", "response_format", (dict,))
    ]


@each
def test_the_forms_of_a_prompt_are_ollamas(row):
    if row.policy is not None:
        assert (str in row.forms) is (row.operation in TEXTS)
        assert (list in row.forms) is (row.operation in LISTS)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_the_query_that_anthropics_sdk_sends_with_every_beta_request_is_exact(path):
    assert find("POST", f"{path}?beta=true") == find("POST", path)
    for query in ("?", "?beta=True", "?beta=true&x=1", "?beta=false", "?beta=tru%65", "?Beta=true"):
        assert find("POST", path + query) == (find("POST", path)[0], False)


def test_what_is_not_known_is_passed_on():
    assert OTHER.policy is None
    assert OTHER.changes == ()
    assert OTHER.kind is Kind.NONE


@pytest.mark.parametrize(
    ("method", "target", "operation"),
    [
        pytest.param("POST", "/api/generate?x=1", "generate", id="query"),
        pytest.param("POST", "/api/generate?", "generate", id="empty query"),
        pytest.param("POST", "/api/%67enerate", "generate", id="escaped letter"),
        pytest.param("POST", "/api%2Fgenerate", "generate", id="escaped slash, as Ollama's router decodes it"),
        pytest.param("POST", "/api%2fgenerate?a?b", "generate", id="both"),
        pytest.param("DELETE", "/api/%64elete?force", "delete", id="change in another spelling"),
        pytest.param("POST", "/api/generate%3Fx=1", "other", id="an escaped question mark is no query"),
        pytest.param("POST", "/api/%2567enerate", "other", id="decoded once only"),
        pytest.param("POST", "/api/generate/", "other", id="slash at the end"),
        pytest.param("POST", "//api/generate", "other", id="two slashes"),
        pytest.param("POST", "/api/../api/generate", "other", id="dots"),
        pytest.param("POST", "/API/generate", "other", id="upper case"),
        pytest.param("POST", "/api/generat%C3%A9", "other", id="not ASCII"),
        pytest.param("POST", "/api/%zzgenerate", "other", id="escape that is none"),
        pytest.param("POST", "", "other", id="empty"),
        pytest.param("OPTIONS", "*", "other", id="asterisk-form"),
        pytest.param("POST", "//api/pull", "pull", id="a change with an empty segment"),
        pytest.param("POST", "/api/./create/", "create", id="a change with a dot segment and a slash"),
        pytest.param("POST", "/x/%2e%2e/api%2Fcopy?y", "copy", id="a change with escaped segments"),
        pytest.param("DELETE", "/../api/delete", "delete", id="a change from above the root"),
        pytest.param("GET", "//api/pull", "other", id="a change by another method"),
        pytest.param("POST", "//api/generate", "other", id="no change with an empty segment"),
    ],
)
def test_another_spelling_is_never_exact(method, target, operation):
    row, exact = find(method, target)
    assert (row.operation, exact) == (operation, False)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/api/generate"),
        ("post", "/api/generate"),
        ("HEAD", "/api/tags"),
        ("OPTIONS", "/api/generate"),
        ("POST", "/api/delete"),
        ("GET", "/"),
        ("POST", "/api/blobs/sha256:0"),
    ],
)
def test_another_method_or_path_is_other(method, target):
    assert find(method, target) == (OTHER, False)


@pytest.mark.parametrize(
    ("method", "target", "dialect"),
    [
        ("GET", "/v1/models/tiny", openai),
        ("POST", "/v1/images/generations", openai),
        ("GET", "/v1/responses/resp_1", openai),
        ("POST", "/v1/files?purpose=x", openai),
        ("GET", "/%761/models/tiny", openai),
        ("GET", "/v1/messages", openai),
        ("POST", "/v1/messages/batches", anthropic),
        ("POST", "/v10/models", ollama),
        ("GET", "/api/nothing", ollama),
        ("GET", "/", ollama),
    ],
)
def test_what_is_other_speaks_the_form_of_its_api(method, target, dialect):
    row, exact = find(method, target)
    assert (row.dialect, exact, is_other(row)) == (dialect, False, True)
    assert row == OTHER or row.dialect is not OTHER.dialect


@each
def test_no_row_is_other(row):
    assert not is_other(row)
    assert is_other(OTHER)


def test_generate_alone_takes_a_template() -> None:
    assert {row.path for row in (OTHER, *ENDPOINTS) if row.template} == {"/api/generate"}


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        *((method, path, "HEAD, GET") for method in ("PUT", "POST") for path in ("/", "/api/version", "/api/tags")),
        *((method, path, "") for method in ("HEAD", "GET") for path in ("/", "/api/version", "/api/tags")),
        ("HEAD", "/api/ps", "GET"),
        ("POST", "/api/ps?a=1", "GET"),
        ("GET", "/api/chat", "POST"),
        ("GET", "/api/ch%61t", "POST"),
        ("POST", "/api/chat", ""),
        ("POST", "/api/delete", "DELETE"),
        ("GET", "/nowhere", ""),
    ],
)
def test_the_methods_of_a_target_are_told_where_it_has_no_such_one(method: str, target: str, expected: str) -> None:
    """As in `GenerateRoutes` (`server/routes.go`, 0.24)."""
    assert allow(method, target) == expected


def test_policies_have_the_names_that_settings_have() -> None:
    assert [policy.value for policy in Policy] == ["off", "always", "deterministic", "read-only", "write-only"]
