from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.target import cleaned, split, without_prefix


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
        pytest.param("ftp://h/x", "/x", "h", id="another scheme"),
        pytest.param("x://h/api/pull", "/api/pull", "h", id="a scheme of one letter"),
        pytest.param("a+b-1.c://h/x?y", "/x?y", "h", id="all that a scheme may have"),
        pytest.param("x:/api/pull", "/api/pull", None, id="a scheme and no authority"),
        pytest.param("x:///api/pull", "/api/pull", None, id="a scheme and an empty authority"),
        pytest.param("x:////api/pull", "//api/pull", None, id="an empty authority, and a path that begins like one"),
        pytest.param("http://h:/x", "/x", "h:", id="an empty port"),
        pytest.param("*", "*", None, id="asterisk-form"),
        pytest.param("http://", "/", None, id="nothing after the scheme"),
    ],
)
def test_the_target_is_given_in_origin_form(target, expected, authority):
    assert split(target) == (expected, authority)
    assert split(expected) == (expected, None)


@pytest.mark.parametrize(
    "target",
    [
        *(
            "",
            "x",
            "x/y",
            "?x",
            "#x",
            "**",
            "*/x",
            "h:443",
            "localhost:80",
            "x:api/pull",
            "x:",
            ":",
            "://h/x",
            "1x://h/x",
        ),
        *(
            "x y://h/x",
            "http://user@h/x",
            "http://user:secret@h/x",
            "http://h%41/x",
            "http://h:x/y",
            "http://h:80:80/y",
        ),
        *(
            "http://[::1/x",
            "http://]/x",
            "http://[h]/x",
            "http://[::1]x/y",
            "http://[:::]/x",
            "http://h#x",
            "http://h\\/x",
        ),
    ],
)
def test_other_targets_are_refused(target):
    assert split(target) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/"),
        ("/", "/"),
        ("/api/pull", "/api/pull"),
        ("/api/pull/", "/api/pull"),
        ("//api//pull", "/api/pull"),
        ("/./api/./pull", "/api/pull"),
        ("/../x/../api/pull/y/..", "/api/pull"),
        ("/api/pull...", "/api/pull..."),
    ],
)
def test_a_cleaned_path_has_no_empty_and_no_dot_segments(path, expected):
    assert cleaned(path) == expected


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
