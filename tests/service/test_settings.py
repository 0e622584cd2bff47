from __future__ import annotations

import json

import pytest

from ollama_cache_proxy.policy.endpoints import REUSABLE, Policy
from ollama_cache_proxy.service.settings import (
    DEFAULT_LISTEN,
    DEFAULT_PORT,
    DEFAULT_UPSTREAM,
    FORMER_LISTEN,
    OPERATIONS,
    POLICIES,
    Settings,
    SettingsError,
    chosen_upstream,
    host_and_port,
    http_url,
    is_loopback,
    load,
    ollama_host,
    packed,
    same_listener,
    setting_of,
    share,
    unpacked,
    url_of,
)
from tests.support import canary

CANARY = "canary-7f3a"


@pytest.fixture
def toml(tmp_path):
    """A function that writes a configuration file and returns its path."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "proxy.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def problem(config: str | None = None, **overrides: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load(config, overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert "\r" not in text
    return text


# where a value comes from


def test_the_defaults_are_those_of_the_design():
    settings = load(None, {})
    assert settings.listen == DEFAULT_LISTEN == f"127.0.0.1:{DEFAULT_PORT}" == "127.0.0.1:11494"
    assert settings.listen != FORMER_LISTEN == "127.0.0.1:11435"
    assert settings.upstream is None
    assert settings.store == "auto"
    assert (settings.ttl_completion, settings.ttl_embedding) == (3600, 86_400)
    assert (settings.max_entry_bytes, settings.max_list_bytes) == (1 << 20, 64 << 20)
    assert (settings.linger, settings.connect_timeout, settings.upstream_timeout) == (60.0, 5.0, None)
    assert settings.redis_url is None
    assert settings.admin_token is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param((None, None, None), 3600, id="default"),
        pytest.param(("11", None, None), 11, id="file"),
        pytest.param((None, "12", None), 12, id="environment"),
        pytest.param((None, None, 13), 13, id="command line"),
        pytest.param(("11", "12", None), 12, id="environment over file"),
        pytest.param(("11", None, 13), 13, id="command line over file"),
        pytest.param((None, "12", 13), 13, id="command line over environment"),
        pytest.param(("11", "12", 13), 13, id="command line over both"),
        pytest.param(("11", "", None), 11, id="an empty variable is none"),
        pytest.param((None, None, 0), 0, id="zero is a value"),
    ],
)
def test_a_value_comes_from_the_strongest_source(monkeypatch, toml, given, expected):
    file, environment, line = given
    if environment is not None:
        monkeypatch.setenv("OCP_TTL_COMPLETION", environment)
    config = None if file is None else toml(f"ttl_completion = {file}\n")
    assert load(config, {"ttl_completion": line}).ttl_completion == expected


def test_each_setting_comes_from_its_own_source(monkeypatch, toml):
    monkeypatch.setenv("OCP_EPOCH", "from the environment")
    settings = load(toml('epoch = "from the file"\nlog = "json"\nlinger = 1.5\n'), {"store": "memory", "log": None})
    assert (settings.epoch, settings.log, settings.linger, settings.store) == (
        "from the environment",
        "json",
        1.5,
        "memory",
    )


def test_the_environment_can_name_the_file(monkeypatch, toml):
    monkeypatch.setenv("OCP_CONFIG", toml("ttl_completion = 21\n"))
    assert load(None, {}).ttl_completion == 21


def test_the_file_of_the_command_line_is_read_instead(monkeypatch, toml):
    monkeypatch.setenv("OCP_CONFIG", "/does/not/exist.toml")
    assert load(toml("ttl_completion = 22\n"), {}).ttl_completion == 22


def test_a_file_that_was_read_is_forgotten(toml):
    load(toml("ttl_completion = 23\n"), {})
    assert load(None, {}).ttl_completion == 3600
    problem(toml("ttl_completion = 'x'\n"))
    assert load(None, {}).ttl_completion == 3600


def test_a_variable_of_another_program_is_left_alone(monkeypatch):
    monkeypatch.setenv("OCP_NO_SUCH_SETTING", "1")
    monkeypatch.setenv("TTL_COMPLETION", "1")
    assert load(None, {}).ttl_completion == 3600


def test_settings_cannot_be_changed():
    settings = load(None, {})
    with pytest.raises(ValueError, match="frozen"):
        settings.epoch = "x"
    assert settings.epoch == ""


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name):
    description = Settings.model_fields[name].description
    assert description
    assert description.endswith(".")


# what is wrong is said in one line


WRONG = [
    pytest.param(("listen", "localhost", "HOST:PORT"), id="listen without a port"),
    pytest.param(("listen", "localhost:70000", "0 to 65535"), id="listen on a port that is none"),
    pytest.param(("listen", "::1:11494", "[::1]:11494"), id="listen on a bare IPv6 address"),
    pytest.param(("listen", "localhost:\u00b2", "HOST:PORT"), id="listen on a port of another script"),
    pytest.param(("upstream", "ftp://h", "http:// or https://"), id="upstream of another scheme"),
    pytest.param(("upstream", "h:11434", "http:// or https://"), id="upstream without a scheme"),
    pytest.param(("store", "disk", "'auto', 'redis', 'private' or 'memory'"), id="store"),
    pytest.param(("log", "pink", "'auto', 'plain', 'colour' or 'json'"), id="log"),
    pytest.param(("ttl_completion", "-1", "greater than or equal to 0"), id="ttl below zero"),
    pytest.param(("ttl_embedding", "31536001", "less than or equal to 31536000"), id="ttl of more than a year"),
    pytest.param(("max_ttl", "1.5", "whole seconds"), id="ttl of a fraction"),
    pytest.param(("ttl_completion", "1w", "90d, 12h or 30m"), id="ttl with a unit that is none"),
    pytest.param(("max_lifetime", "366d", "365d at most"), id="lifetime of more than a year"),
    pytest.param(("lifetime", "forever", "'fixed', 'idle' or 'until-evicted'"), id="lifetime of no kind"),
    pytest.param(("models", "{", "must be tables"), id="models that are no JSON"),
    pytest.param(("categories", "docs", "must be tables"), id="categories that are no JSON"),
    pytest.param(("memory_bytes", "1023", "greater than or equal to 1024"), id="too few bytes"),
    pytest.param(("max_entry_bytes", "1MiB", "integer"), id="bytes with a unit"),
    pytest.param(
        ("private_redis_bytes", str((1 << 40) + 1), "less than or equal to 1099511627776"), id="too many bytes"
    ),
    pytest.param(("linger", "0", "greater than 0"), id="no seconds"),
    pytest.param(("connect_timeout", "nan", ""), id="seconds that are no number"),
    pytest.param(("upstream_timeout", "inf", "less than or equal to 86400"), id="infinite seconds"),
    pytest.param(("head_timeout", "soon", "number"), id="seconds as a word"),
    pytest.param(("max_connections", "0", "greater than or equal to 1"), id="no connections"),
    pytest.param(("development", "maybe", "boolean"), id="neither true nor false"),
    pytest.param(("credential_fields", "X Team", "names of request fields"), id="a field that is no name"),
    pytest.param(("credential_fields", "x-a, Proxy-Authorization", "one hop"), id="a field for one hop"),
    pytest.param(("placeholder_credentials", "[1", "commas"), id="texts that are no array"),
    pytest.param(("ignore_no_cache", "v1-chat,curl", "agent:python-httpx/"), id="a client that is not said to be one"),
    pytest.param(("stable_prefix", "claude-code,other", "'other' is no rule: there are claude-code"), id="no rule"),
    pytest.param(("stable_prefix_rules", "x", "must be tables"), id="rules that are no JSON"),
    pytest.param(("line_pace_for", "embed", "must name operations"), id="an operation without streams"),
    pytest.param(("audit", "1", "such as 1%"), id="a rate without a unit"),
    pytest.param(("audit", "4 a second", "4 a minute"), id="a rate of another unit"),
    pytest.param(("stream_pace", "word", "'at-once', 'recorded' or 'line'"), id="a pace"),
    pytest.param(("allowed_hosts", "box.example:80", "without a port"), id="a host with a port"),
    pytest.param(("allowed_hosts", "*", "*.ts.net"), id="every host"),
    *(
        pytest.param(("path_prefix", text, "such as /ollama"), id=f"a prefix {text}")
        for text in ("ollama", "/a//b", "/a/../b", "/api", "/v1/x", "/cache", "/a?b", "/%61", "http://a/b")
    ),
]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("source", ["command line", "environment", "file"])
def test_the_error_of_a_value_names_setting_value_and_what_is_allowed(monkeypatch, toml, source, wrong):
    name, value, allowed = wrong
    match source:
        case "command line":
            text = problem(**{name: value})
        case "environment":
            monkeypatch.setenv(f"OCP_{name.upper()}", value)
            text = problem()
        case _:
            text = problem(toml(f'{name} = "{value}"\n'))
    begin, _, rest = text.partition(f"{name}: {value!r} is not allowed: ")
    assert begin == ""
    assert rest
    assert allowed in rest


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ("", ""),
        ("/", ""),
        ("/ollama", "/ollama"),
        ("/ollama/", "/ollama"),
        ("/a/b_c-1", "/a/b_c-1"),
        ("/apis", "/apis"),
    ],
)
def test_a_prefix_begins_with_a_slash_and_does_not_end_with_one(given, prefix):
    assert load(None, {"path_prefix": given}).path_prefix == prefix


def test_texts_come_from_every_source(monkeypatch, toml):
    assert load(None, {}).placeholder_credentials == ()
    assert load(toml('placeholder_credentials = ["ollama", ""]\n'), {}).placeholder_credentials == ("ollama", "")
    monkeypatch.setenv("OCP_PLACEHOLDER_CREDENTIALS", "ollama, x")
    assert load(None, {}).placeholder_credentials == ("ollama", "x")
    settings = load(None, {"credential_fields": "x-a,X-B"})
    assert settings.credential_fields == ("x-a", "X-B")
    assert unpacked(json.loads(json.dumps(packed(settings)))) == settings


def test_the_error_of_a_value_with_line_breaks_is_one_line():
    text = problem(listen="one\ntwo\r\nthree")
    assert text.startswith("listen: 'one\\ntwo\\r\\nthree' is not allowed: ")


def test_an_unknown_setting_is_named(toml):
    assert problem(toml("ttl_completions = 5\n")).startswith("ttl_completions: there is no such setting")
    assert problem(nothing=1).startswith("nothing: there is no such setting")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("ttl_completion = \n", id="no value"),
        pytest.param("ttl_completion 5\n", id="no sign"),
        pytest.param('epoch = "a\nb"\n', id="a line feed in a text"),
        pytest.param("ttl_completion = 1\nttl_completion = 2\n", id="twice"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(f'redis_url = "redis://:{CANARY}@h" x\n', id="more on a line, of a secret"),
        pytest.param(f'redis_url = "redis://:{CANARY}@h\n', id="a secret cut off"),
    ],
)
def test_a_file_that_is_no_toml_is_one_line_that_names_it(toml, text):
    path = toml(text)
    seen = problem(path)
    assert seen.startswith(f"config: {path} is not valid TOML: ")
    assert CANARY not in seen


def test_a_path_that_is_not_a_file_is_one_line(tmp_path, monkeypatch):
    missing = str(tmp_path / "missing.toml")
    assert problem(missing) == f"config: {missing} is not a file"
    assert problem(str(tmp_path)) == f"config: {tmp_path} is not a file"
    monkeypatch.setenv("OCP_CONFIG", missing)
    assert problem() == f"config: {missing} is not a file"


def test_a_file_that_cannot_be_read_is_one_line(toml, monkeypatch):
    path = toml("ttl_completion = 1\n")

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert path in problem(path)


# secrets


@pytest.mark.parametrize("name", ["redis_url", "admin_token"])
def test_a_secret_is_not_in_the_text_of_its_settings(name):
    value = f"redis://user:{CANARY}@h/0"
    settings = load(None, {name: value})
    assert getattr(settings, name).get_secret_value() == value
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert CANARY not in text


@pytest.mark.parametrize("source", ["command line", "environment", "file"])
@pytest.mark.parametrize("url", [f"http://:{CANARY}@h", CANARY, f"redis//:{CANARY}@h", f"REDIS :{CANARY}"])
def test_a_wrong_redis_url_is_refused_without_being_shown(monkeypatch, toml, source, url):
    match source:
        case "command line":
            text = problem(redis_url=url)
        case "environment":
            monkeypatch.setenv("OCP_REDIS_URL", url)
            text = problem()
        case _:
            text = problem(toml(f'redis_url = "{url}"\n'))
    assert (
        text == "redis_url: (hidden) is not allowed: must begin with redis://, rediss://, unix://, "
        "redis+sentinel:// or redis+cluster:// (with TLS: rediss+…)"
    )


@pytest.mark.parametrize("name", ["redis_url", "admin_token", "upstream_authorization"])
@pytest.mark.parametrize("value", [f'["{CANARY}"]', f'{{password = "{CANARY}"}}'])
def test_a_secret_of_another_type_is_refused_without_being_shown(toml, name, value):
    text = problem(toml(f"{name} = {value}\n"))
    assert text.startswith(f"{name}: (hidden) is not allowed: ")
    assert CANARY not in text


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"https://user:{CANARY}@h:99999", id="and a port that is none"),
        pytest.param(f"ftp://user:{CANARY}@h", id="and another scheme"),
        pytest.param(f"https://user:{CANARY}?@h", id="and a password that is not encoded"),
        pytest.param(f"https://user:{CANARY}%0A@h", id="and a password of two lines"),
        pytest.param(f"https://a%3Ab:{CANARY}@h", id="and a user with a colon"),
    ],
)
def test_an_upstream_that_is_wrong_is_refused_without_showing_its_password(url):
    text = problem(upstream=url)
    assert text.startswith("upstream: (hidden) is not allowed: ")
    assert CANARY not in text


# credentials for Ollama


@pytest.mark.parametrize(
    ("user", "value"),
    [
        pytest.param(f"user:{CANARY}", "dXNlcjpjYW5hcnktN2YzYQ==", id="user and password"),
        pytest.param(f":{CANARY}", "OmNhbmFyeS03ZjNh", id="a password alone"),
        pytest.param("user", "dXNlcjo=", id="a user alone"),
        pytest.param("us%65r:p%40%3A", "dXNlcjpwQDo=", id="percent-encoded"),
    ],
)
def test_a_user_in_upstream_becomes_basic_credentials(toml, user, value):
    settings = load(toml(f'upstream = "https://{user}@h/ollama/"\n'), {})
    assert settings.upstream == "https://h:443/ollama"
    assert settings.upstream_authorization.get_secret_value() == f"Basic {value}"
    assert CANARY not in repr(settings)
    assert unpacked(json.loads(json.dumps(packed(settings)))) == settings


def test_the_credentials_may_be_in_a_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text(f"Bearer {CANARY}\n")
    settings = load(None, {"upstream_authorization_file": str(file)})
    assert settings.upstream_authorization.get_secret_value() == f"Bearer {CANARY}"
    assert CANARY not in repr(settings)
    file.write_text(f"Bearer {CANARY}\nand more\n")
    text = problem(upstream_authorization_file=str(file))
    assert text.startswith(f"upstream_authorization_file: '{file}' is not allowed: must be the whole value")
    assert CANARY not in text
    text = problem(upstream_authorization_file=str(tmp_path / "nowhere"))
    assert text.endswith("cannot be read: No such file or directory")


@pytest.mark.parametrize("value", ["", " ", f"Bearer {CANARY}\nX: y", f"Bearer {CANARY}é"])
def test_a_value_that_cannot_be_sent_is_refused_without_being_shown(value):
    text = problem(upstream_authorization=value)
    assert text.startswith("upstream_authorization: (hidden) is not allowed: must be the whole value")
    assert CANARY not in text


def test_there_is_one_place_for_them(tmp_path):
    file = tmp_path / "secret"
    file.write_text("Bearer a")
    given = {"upstream_authorization": "Bearer b", "upstream_authorization_file": str(file)}
    assert load(None, given).upstream_authorization.get_secret_value() == "Bearer b"
    for name, value in given.items():
        text = problem(upstream="http://u:p@h", **{name: value})
        assert text == "upstream_authorization: (hidden) is not allowed beside a user in upstream: choose one"


def test_for_all_there_have_to_be_some():
    assert problem(upstream_authorization_for="all").startswith("upstream_authorization_for: 'all' is not allowed")
    given = {"upstream_authorization_for": "all", "upstream_authorization": "Bearer b"}
    assert load(None, given).upstream_authorization_for == "all"


def test_a_password_in_ollama_host_is_not_taken_and_not_shown(monkeypatch):
    """Ollama's own tools take none there either."""
    monkeypatch.setenv("OLLAMA_HOST", f"https://user:{CANARY}@h")
    with pytest.raises(SettingsError) as caught:
        chosen_upstream(load(None, {}), "127.0.0.1:1")
    assert str(caught.value).startswith("OLLAMA_HOST: (hidden) is not allowed: ")
    assert CANARY not in str(caught.value)


def test_a_secret_under_a_wrong_table_is_not_shown(toml):
    text = problem(toml(f'[store]\nredis_url = "redis://:{CANARY}@h"\n'))
    assert text.startswith("store: ")
    assert CANARY not in text


@pytest.mark.parametrize("url", ["redis://h", "redis://:p@h:1/2", "rediss://h", "unix:///run/x.sock?db=1", "REDIS://h"])
def test_a_redis_url_may_have_one_of_three_schemes(url):
    assert load(None, {"redis_url": url}).redis_url.get_secret_value() == url


# addresses


def test_whoever_sets_the_former_port_goes_on_as_before():
    settings = load(None, {"listen": FORMER_LISTEN})
    assert settings.listen == FORMER_LISTEN
    assert url_of(settings.listen, tls=False) == "http://127.0.0.1:11435"


@pytest.mark.parametrize(
    ("listen", "own", "named", "expected"),
    [
        pytest.param(None, DEFAULT_LISTEN, "127.0.0.1:11435", (DEFAULT_UPSTREAM, "default"), id="as clients had it"),
        pytest.param(None, DEFAULT_LISTEN, "localhost:11435", (DEFAULT_UPSTREAM, "default"), id="by name"),
        pytest.param(None, DEFAULT_LISTEN, "0.0.0.0:11435", (DEFAULT_UPSTREAM, "default"), id="every address"),
        pytest.param(None, DEFAULT_LISTEN, DEFAULT_LISTEN, (DEFAULT_UPSTREAM, "default"), id="the proxy itself"),
        pytest.param(None, DEFAULT_LISTEN, "gpu:11435", ("http://gpu:11435", "OLLAMA_HOST"), id="another machine"),
        pytest.param(
            "127.0.0.1:5000",
            "127.0.0.1:5000",
            "127.0.0.1:11435",
            ("http://127.0.0.1:11435", "OLLAMA_HOST"),
            id="a proxy that was never there",
        ),
    ],
)
def test_ollama_host_that_still_names_the_former_default_is_no_ollama(monkeypatch, listen, own, named, expected):
    monkeypatch.setenv("OLLAMA_HOST", named)
    assert chosen_upstream(load(None, {} if listen is None else {"listen": listen}), own) == expected


def test_an_upstream_at_the_former_default_is_taken_as_it_is_said():
    settings = load(None, {"upstream": "http://127.0.0.1:11435"})
    assert chosen_upstream(settings, DEFAULT_LISTEN) == ("http://127.0.0.1:11435", "upstream")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:11494", ("127.0.0.1", 11494)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[::]:80", ("::", 80)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        (":80", ("", 80)),
        ("box.example:080", ("box.example", 80)),
    ],
)
def test_host_and_port_are_split(text, expected):
    assert host_and_port(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "localhost", "localhost:", "80", "::1", "::1:80", "[::1]", "localhost:-1", "localhost:65536"),
        *("localhost:8o", "localhost: 80", "localhost:80 ", "localhost:+80", "localhost:1_0", "localhost:0x50"),
        *("http://localhost:80", "localhost:80/", "a:b:80", "localhost:\u00b2", "localhost:\u0663"),
        *("[::1:80", "::1]:80", "[::1]x:80"),
    ],
)
def test_an_invalid_host_and_port_is_refused_with_what_is_allowed(text):
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        host_and_port(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("http://127.0.0.1:11434/", "http://127.0.0.1:11434"),
        ("http://h", "http://h:80"),
        ("https://h", "https://h:443"),
        ("https://h:8443", "https://h:8443"),
        ("HTTP://Box.Example:1", "http://box.example:1"),
        ("http://[::1]:1", "http://[::1]:1"),
        ("http://[::1]", "http://[::1]:80"),
    ],
)
def test_an_http_url_is_given_with_its_port(text, expected):
    assert http_url(text) == expected
    assert http_url(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "h", "h:1", "//h:1", "ftp://h", "unix:///x", "http://", "http:///x", "http:h", "http://:80"),
        *(
            "http://h:99999",
            "http://h:abc",
            "http://h:-1",
            "http://h?q",
            "http://h/?q=1",
        ),
        *("http://user@h", "http://user:p@h", "http://:p@h", "http://[::1", "http://h#x"),
    ],
)
def test_an_invalid_http_url_is_refused(text):
    with pytest.raises(ValueError, match="must be an http:// or https:// URL of host and port"):
        http_url(text)


# what Ollama's own tools would connect to was taken from their own rule (envconfig/config.go, 0.24)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "http://127.0.0.1:11434"),
        ("  ", "http://127.0.0.1:11434"),
        ('""', "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (" 1.2.3.4 ", "http://1.2.3.4:11434"),
        ("1.2.3.4:5", "http://1.2.3.4:5"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:5", "http://127.0.0.1:5"),
        ("http://0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:11434"),
        ("[::]", "http://[::1]:11434"),
        ("[::]:5", "http://[::1]:5"),
        ("https://[::]", "https://[::1]:443"),
        ("0:0:0:0:0:0:0:0", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:5", "http://[::1]:5"),
        ("fe80::1", "http://[fe80::1]:11434"),
        (":5", "http://127.0.0.1:5"),
        ("localhost", "http://localhost:11434"),
        ("localhost:", "http://localhost:11434"),
        ("localhost:0", "http://localhost:0"),
        ("localhost:65535", "http://localhost:65535"),
        ("localhost:65536", "http://localhost:11434"),
        ("localhost:abc", "http://localhost:11434"),
        ("localhost:-1", "http://localhost:11434"),
        ("http://h", "http://h:80"),
        ("http://h:5", "http://h:5"),
        ("https://h", "https://h:443"),
        ("https://h:5", "https://h:5"),
        ("HTTP://h", "HTTP://h:11434"),
        ("h/", "http://h:11434"),
        ("h:5/", "http://h:5"),
        ("http://", "http://127.0.0.1:80"),
        ('"1.2.3.4:5"', "http://1.2.3.4:5"),
        ("'1.2.3.4:5'", "http://1.2.3.4:5"),
        ('" 1.2.3.4:5 "', "http://1.2.3.4:5"),
        ("ollama.com", "https://ollama.com:443"),
        ("https://ollama.com", "https://ollama.com:443"),
        ("ollama.com:11434", "http://ollama.com:11434"),
        ("h:\u00b2", "http://h:11434"),
        ("h:\u0663", "http://h:11434"),
        ("h:5/path", "http://h:5/path"),
        ("https://h/path", "https://h:443/path"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(value, expected):
    assert ollama_host(value) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("LocalHost", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.1", False),
        ("10.0.0.1", False),
        ("box.example", False),
        ("localhost.example", False),
    ],
)
def test_only_loopback_is_reached_from_this_machine_alone(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("url", "listen", "same"),
    [
        ("http://127.0.0.1:11494", "127.0.0.1:11494", True),
        ("http://127.0.0.1:11434", "127.0.0.1:11494", False),
        ("https://127.0.0.1:11494", "127.0.0.1:11494", True),
        ("http://localhost:11494", "127.0.0.1:11494", True),
        ("http://127.0.0.1:11494", "localhost:11494", True),
        ("http://[::1]:11494", "[::1]:11494", True),
        ("http://127.0.0.1:11494", "0.0.0.0:11494", True),
        ("http://127.0.0.1:11494", ":11494", True),
        ("http://[::1]:11494", "[::]:11494", True),
        ("http://127.0.0.2:11494", "127.0.0.1:11494", False),
        ("http://192.0.2.1:11494", "127.0.0.1:11494", False),
        ("http://192.0.2.1:11494", "0.0.0.0:11494", False),
        ("http://127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_a_url_names_the_listener_by_address_and_port(url, listen, same):
    assert same_listener(url, listen) is same


@pytest.mark.parametrize("value", ["1:2:3", "http://u:p@h:1", "[x]:1"])
def test_a_host_that_makes_no_url_names_no_listener(value):
    assert same_listener(ollama_host(value), "127.0.0.1:11494") is False


def test_every_route_that_can_be_cached_has_its_policy_and_the_defaults_are_the_tables():
    assert sorted(OPERATIONS) == sorted(row.operation for row in REUSABLE)
    assert tuple(policy.value for policy in Policy) == POLICIES
    defaults = load(None, {})
    for row in REUSABLE:
        assert getattr(defaults, setting_of(row.operation)) == row.policy.value


# workers


def test_limits_for_all_are_shared_out() -> None:
    given = {"workers": "4", "max_connections": "10", "hot_bytes": "0", "max_misses": "3"}
    settings = share(load(None, given))
    assert (settings.max_connections, settings.hot_bytes, settings.max_misses) == (2, 0, 1)
    assert settings.max_buffered_bytes == 64 << 20
    assert share(load(None, {"workers": "4"})).max_misses is None


def test_settings_are_the_same_when_they_arrive() -> None:
    settings = load(None, {"workers": "2", "redis_url": f"redis://:{canary.PASSWORD}@x", "admin_token": canary.TOKEN})
    arrived = unpacked(json.loads(json.dumps(packed(settings))))
    assert arrived == settings
    assert arrived.redis_url is not None
    assert canary.PASSWORD in arrived.redis_url.get_secret_value()


def test_each_endpoint_that_can_be_cached_has_its_setting():
    """A row with a policy in policy/endpoints.py needs a `cache_…` setting, in the order of the table."""
    assert list(OPERATIONS) == [row.operation for row in REUSABLE]
