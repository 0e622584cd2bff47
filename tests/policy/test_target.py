from __future__ import annotations

import pytest

from proxy.policy.target import origin_form


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param("/api/tags", "/api/tags", id="origin-form stays"),
        pytest.param("/a?b=c", "/a?b=c", id="with a query"),
        pytest.param("/%2F/../x?%zz", "/%2F/../x?%zz", id="bytes are not touched"),
        pytest.param("http://h:1/api/tags", "/api/tags", id="absolute-form"),
        pytest.param("HTTPS://h/api/tags?x=1", "/api/tags?x=1", id="scheme in any case"),
        pytest.param("http://h", "/", id="no path"),
        pytest.param("http://h/", "/", id="root"),
        pytest.param("http://h?x=/a", "/?x=/a", id="query without a path"),
        pytest.param("http://h/?x=http://i/j", "/?x=http://i/j", id="a URL in the query"),
        pytest.param("http://[::1]:1//a", "//a", id="IPv6 authority, two slashes"),
        pytest.param("/go?to=http://h/x", "/go?to=http://h/x", id="a URL in the query of an origin-form"),
        pytest.param("ftp://h/x", "ftp://h/x", id="another scheme"),
        pytest.param("h:443", "h:443", id="authority-form"),
        pytest.param("*", "*", id="asterisk-form"),
        pytest.param("", "", id="empty"),
        pytest.param("http://", "/", id="nothing after the scheme"),
    ],
)
def test_the_target_is_given_in_origin_form(target, expected):
    assert origin_form(target) == expected
    assert origin_form(origin_form(target)) == expected
