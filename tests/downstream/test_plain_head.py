from __future__ import annotations

import pytest

from ollama_cache_proxy.downstream.plain_head import may_become_plain, plain_head

LINE, HOST = b"GET /x HTTP/1.1", b"Host: localhost"


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([LINE, *lines]) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("lines", "plain", "names"),
    [
        pytest.param(
            (HOST, b"User-Agent: a", b"user-agent: b"),
            (HOST, b"User-Agent: a", b"X: b"),
            {2: b"user-agent"},
            id="a second one",
        ),
        pytest.param(
            (b"Content-Type: a", HOST, b"Content-Type: a", b"CONTENT-TYPE: a"),
            (b"Content-Type: a", HOST, b"X: a", b"X: a"),
            {2: b"Content-Type", 3: b"CONTENT-TYPE"},
            id="equal ones",
        ),
        pytest.param((b"ETag:", b"ETag:b"), (b"ETag:", b"X:b"), {1: b"ETag"}, id="an empty one"),
        pytest.param(
            (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", HOST),
            (b"Connection: Upgrade, HTTP2-Settings", b"X: h2c", HOST),
            {1: b"Upgrade"},
            id="an upgrade",
        ),
        pytest.param((b"Upgrade: a", b"upgrade: b"), (b"X: a", b"X: b"), {0: b"Upgrade", 1: b"upgrade"}, id="two"),
        pytest.param((b"Sec-WebSocket-Key1: a",), (b"X: a",), {0: b"Sec-WebSocket-Key1"}, id="the key of an old draft"),
        pytest.param((b"Content-Length: 5", HOST, b"content-length:5\t"), (b"Content-Length: 5", HOST), {}, id="equal lengths"),
        pytest.param((b"Content-Length: 5",) * 3, (b"Content-Length: 5",), {}, id="three equal lengths"),
        pytest.param((b"Content-Length: x",) * 2, (b"Content-Length: x",), {}, id="which the parser has to judge"),
        pytest.param(
            (b"Content-Length: 5", b"Upgrade: h2c", b"Content-Length: 5", b"User-Agent: a", b"User-Agent: b"),
            (b"Content-Length: 5", b"X: h2c", b"User-Agent: a", b"X: b"),
            {1: b"Upgrade", 3: b"User-Agent"},
            id="places after a length that went",
        ),
    ],
)  # fmt: skip
def test_a_head_in_its_plain_form(lines: tuple[bytes, ...], plain: tuple[bytes, ...], names: dict[int, bytes]) -> None:
    found = plain_head(head(*lines))
    assert found is not None
    assert (found.data, found.fields, found.names) == (head(*plain), len(plain), names)
    read = [tuple(line.split(b":", 1)) for line in plain]
    assert [name for name, _ in found.restored(tuple(read))] == [  # type: ignore[arg-type]
        line.partition(b":")[0]
        for number, line in enumerate(lines)
        if number == 0 or not is_other_length(lines, number)
    ]


def is_other_length(lines: tuple[bytes, ...], number: int) -> bool:
    return lines[number].lower().startswith(b"content-length") and number > 0


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((), id="no field"),
        pytest.param((HOST, b"User-Agent: a", b"Accept: b", b"Accept: b"), id="nothing to change"),
        pytest.param((b"Content-Length: 5", b"Content-Length: 6"), id="two lengths"),
        pytest.param((b"Content-Length: 5", b"Content-Length: 05"), id="a length written twice"),
        pytest.param((b"Content-Length: 5, 5",), id="two lengths in one line"),
        pytest.param((b"Content-Length: 5", b"Content-Length : 5"), id="a blank before the colon"),
        pytest.param((HOST, HOST), id="two hosts"),
        pytest.param((b"Transfer-Encoding: chunked",) * 2, id="two codings"),
        pytest.param((b"User-Agent: a", b"User-Agent: b", b" c"), id="a folded line"),
        pytest.param((b"User-Agent: a", b"\tc", b"User-Agent: b"), id="a line folded by a tab"),
        pytest.param((b"User-Agent: a", b"User-Agent: b\nX-A: c"), id="a bare LF"),
        pytest.param((b"User-Agent: a", b"User-Agent: b\rX-A: c"), id="a bare CR"),
        pytest.param((b"User-Agent: a", b"User-Agent"), id="no colon"),
        pytest.param((b"User-Agent: a", b"User-Agent: b", b": c"), id="no name"),
        pytest.param((b"User-Agent: a", b"User-Agent : b"), id="another name"),
    ],
)
def test_a_head_that_the_parser_alone_may_judge_has_none(lines: tuple[bytes, ...]) -> None:
    assert plain_head(head(*lines)) is None


@pytest.mark.parametrize(
    ("part", "may"),
    [
        (b"GET", False),
        (b"GET /x HTTP/1.1\r\nUser-Agent: a\r\nUser-Agen", False),
        (b"GET /x HTTP/1.1\r\nUser-Agent: a\r\nUser-Agent:", True),
        (b"GET /x HTTP/1.1\r\nContent-Length: 5\r\nX: y\r\nCONTENT-LENGTH: ", True),
        (b"GET /x HTTP/1.1\r\nUpgrade:", True),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: a", False),
        (b"\x16\x03\x01\x02", False),
    ],
)
def test_the_beginning_of_a_head_may_become_plain(part: bytes, may: bool) -> None:
    assert may_become_plain(part) is may
