from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.target import split, without_prefix


@pytest.mark.parametrize(
    ("target", "expected", "authority"),
    [
        pytest.param("/api/tags", "/api/tags", None, id="origin-form stays"),
        pytest.param("/a?b=c", "/a?b=c", None, id="with a query"),
        pytest.param("/%2F/../x?%zz", "/%2F/../x?%zz", None, id="bytes are not touched"),
        pytest.param("http://h:1/api/tags", "/api/tags", "h:1", id="absolute-form"),
        pytest.param("HTTPS://h/api/tags?x=1", "/api/tags?x=1", "h", id="scheme in any case"),
        pytest.param("http://h", "/", "h", id="no path"),
        pytest.param("http://h/", "/", "h", id="root"),
        pytest.param("http://h?x=/a", "/?x=/a", "h", id="query without a path"),
        pytest.param("http://h/?x=http://i/j", "/?x=http://i/j", "h", id="a URL in the query"),
        pytest.param("http://[::1]:1//a", "//a", "[::1]:1", id="IPv6 authority, two slashes"),
        pytest.param("/go?to=http://h/x", "/go?to=http://h/x", None, id="a URL in the query of an origin-form"),
        pytest.param("ftp://h/x", "ftp://h/x", None, id="another scheme"),
        pytest.param("h:443", "h:443", None, id="authority-form"),
        pytest.param("*", "*", None, id="asterisk-form"),
        pytest.param("", "", None, id="empty"),
        pytest.param("http://", "/", "", id="nothing after the scheme"),
    ],
)
def test_the_target_is_given_in_origin_form(target, expected, authority):
    assert split(target) == (expected, authority)
    assert split(expected) == (expected, None)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/ollama/api/tags", "/api/tags"),
        ("/ollama/api/tags?a=/ollama/b", "/api/tags?a=/ollama/b"),
        ("/ollama/", "/"),
        ("/ollama", "/"),
        ("/ollama?a", "/?a"),
        ("/ollama//x", "//x"),
        ("/ollama/ollama/x", "/ollama/x"),
        ("/ollama/%2F/../x", "/%2F/../x"),
        ("/ollamas/x", None),
        ("/Ollama/x", None),
        ("/%6Fllama/x", None),
        ("/api/tags", None),
        ("/", None),
        ("*", None),
        ("", None),
    ],
)
def test_what_lies_under_a_prefix(target, expected):
    assert without_prefix(target, "/ollama") == expected
