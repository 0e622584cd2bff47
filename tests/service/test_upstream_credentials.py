from __future__ import annotations

import base64

import pytest

from ollama_cache_proxy.service.upstream_credentials import authorization, authorization_in, without_user


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Bearer t", "Bearer t"),
        (" Bearer t\n", "Bearer t"),
        ("sk-123", "sk-123"),
        ("Digest a=b, c", "Digest a=b, c"),
        ("Bearer  t", "Bearer  t"),
    ],
)
def test_a_value_is_taken_without_what_surrounds_it(text, value, tmp_path):
    assert authorization(text) == value
    file = tmp_path / "secret"
    file.write_text(text)
    assert authorization_in(str(file)) == value


@pytest.mark.parametrize("text", ["", " ", "Bearer a\nBearer b", "Bearer \r\nX: y", "Bearer é", "a\0b", "a\x7fb"])
def test_a_value_that_is_none_is_refused_and_not_repeated(text, tmp_path):
    with pytest.raises(ValueError, match="must be the whole value") as caught:
        authorization(text)
    assert not text.strip() or text not in str(caught.value)
    file = tmp_path / "secret"
    file.write_text(text)
    with pytest.raises(ValueError, match="must be the whole value"):
        authorization_in(str(file))


def test_a_file_is_read_to_a_bound_and_has_to_be_there(tmp_path):
    file = tmp_path / "secret"
    file.write_text("a" * 16_385)
    with pytest.raises(ValueError, match="nothing else"):
        authorization_in(str(file))
    with pytest.raises(OSError, match="No such file"):
        authorization_in(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("url", "plain", "user"),
    [
        ("https://u:p@h:1/x", "https://h:1/x", b"u:p"),
        ("http://u@h", "http://h", b"u:"),
        ("http://:p@h", "http://h", b":p"),
        ("http://u:p:q@h", "http://h", b"u:p:q"),
        ("http://u:a%40b%2Fc%3A@h", "http://h", b"u:a@b/c:"),
        ("http://u:p@q@h", "http://h", b"u:p@q"),
        ("https://%C3%A9:p@[::1]:2", "https://[::1]:2", "é:p".encode()),
    ],
)
def test_a_user_in_a_url_becomes_basic_credentials(url, plain, user):
    assert without_user(url) == (plain, "Basic " + base64.b64encode(user).decode())


@pytest.mark.parametrize("url", ["http://h", "http://h/@x", "http://h?u:p@x", "h", "", "u:p@h"])
def test_a_url_without_a_user_stays_as_it_is(url):
    assert without_user(url) == (url, "")


@pytest.mark.parametrize(
    "url", ["https://u:12/3@h", "https://u:1?3@h:80", "http://u:#@h", "http://u:/@h/x", "http://u:p/q@h"]
)
def test_a_password_with_a_slash_is_not_taken_for_a_port_and_a_path(url):
    """The start would write it into the log, and every request into its target."""
    with pytest.raises(ValueError, match="percent-encoded") as refused:
        without_user(url)
    assert url not in str(refused.value)


@pytest.mark.parametrize("url", ["http://@h", "http://:@h", "http://a%3Ab:p@h", "http://u:%0A@h", "http://u:%7F@h"])
def test_a_user_that_cannot_be_sent_is_refused(url):
    with pytest.raises(ValueError, match="must have a user"):
        without_user(url)
