from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.fields import (
    HOP_BY_HOP,
    about_cache,
    allowed_host,
    authority,
    beside_foreign_host,
    end_to_end,
    for_storing,
    forwarded_head,
    forwarded_request,
    hit_fields,
    is_own_origin,
    joined,
    looped,
    pseudonym,
    replayed,
    unbuffered,
    under_prefix,
    with_host,
    without_body_fields,
    without_own_origin,
)
from ollama_cache_proxy.policy.host_names import host_names
from ollama_cache_proxy.policy.messages import Request, ResponseHead
from ollama_cache_proxy.policy.status import CacheStatus, Detail, FwdReason, Result, bypass

OWN = pseudonym("1f")
NONE = host_names(())
HIT = CacheStatus(result=Result.HIT, ttl=9)


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP), ids=lambda name: name.decode())
def test_a_hop_by_hop_field_stays_here_in_any_case(name):
    kept = (b"X-Kept", b"1")
    fields = ((name, b"a"), kept, (name.title(), b"b"), (name.upper(), b"c"))
    assert end_to_end(fields) == (kept,)


def test_the_hop_by_hop_fields_are_those_of_the_rfcs():
    assert {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    } <= HOP_BY_HOP


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        pytest.param(
            ((b"Connection", b"X-A, x-b"), (b"X-A", b"1"), (b"X-B", b"2"), (b"X-C", b"3")),
            ((b"X-C", b"3"),),
            id="what Connection names stays here",
        ),
        pytest.param(
            ((b"X-A", b"1"), (b"connection", b"close"), (b"CONNECTION", b" ,X-A ,"), (b"Close", b"2")),
            (),
            id="over several lines, wherever they stand",
        ),
        pytest.param(
            ((b"Connection", b"Content-Length, Host, X-A"), (b"Content-Length", b"5"), (b"Host", b"h"), (b"X-A", b"")),
            ((b"Content-Length", b"5"), (b"Host", b"h")),
            id="but for what frames and routes the message",
        ),
        pytest.param(
            ((b"x-LOWER", b" bytes \xff as they are "), (b"X-Twice", b"1"), (b"X-Twice", b"1")),
            ((b"x-LOWER", b" bytes \xff as they are "), (b"X-Twice", b"1"), (b"X-Twice", b"1")),
            id="all else keeps its order, spelling and bytes",
        ),
        pytest.param((), (), id="none"),
    ],
)
def test_what_goes_end_to_end(fields, kept):
    assert end_to_end(fields) == kept


def test_a_request_goes_on_without_what_is_meant_for_the_proxy():
    fields = (
        (b"Host", b"proxy:11494"),
        (b"accept", b"*/*"),
        (b"Expect", b"100-continue"),
        (b"X-Cache-TTL", b"5"),
        (b"x-cache-category", b"c"),
        (b"X-CACHE-NAMESPACE", b"n"),
        (b"Cache-Control", b"no-cache"),
        (b"Authorization", b"Bearer t"),
        (b"Via", b"1.0 elsewhere"),
        (b"Connection", b"keep-alive"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Origin", b"http://proxy:11494"),
        (b"X-Cache-Unknown", b"stays"),
    )
    assert forwarded_request(fields, OWN) == (
        (b"accept", b"*/*"),
        (b"Cache-Control", b"no-cache"),
        (b"Authorization", b"Bearer t"),
        (b"Via", b"1.0 elsewhere"),
        (b"X-Cache-Unknown", b"stays"),
        (b"Via", b"1.1 ollama-cache-proxy-1f"),
    )


def test_a_foreign_origin_goes_on():
    fields = ((b"Host", b"proxy:11494"), (b"Origin", b"https://elsewhere.example"))
    assert forwarded_request(fields, OWN)[0] == (b"Origin", b"https://elsewhere.example")


def test_a_response_goes_on_with_what_the_cache_says_of_itself():
    head = ResponseHead(
        status=200,
        reason="OK",
        fields=(
            (b"ETag", b"x"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Cache-Status", b"other; hit"),
            (b"x-cache", b"HIT"),
            (b"set-cookie", b"c"),
        ),
    )
    cache = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS, stored=True, ttl=5)
    assert forwarded_head(head, cache).fields == (
        (b"ETag", b"x"),
        (b"Cache-Status", b"other; hit"),
        (b"set-cookie", b"c"),
        (b"Cache-Status", b"ollama-cache-proxy; fwd=miss; stored; ttl=5"),
        (b"X-Cache", b"MISS"),
    )


@pytest.mark.parametrize(
    ("status", "location", "expected"),
    [
        (307, b"/api/tags", b"/ollama/api/tags"),
        (301, b"/", b"/ollama/"),
        (302, b"//evil.example/x", b"//evil.example/x"),
        (302, b"https://ollama.com/x", b"https://ollama.com/x"),
        (302, b"tags", b"tags"),
        (302, b"", b""),
        (201, b"/api/tags", b"/api/tags"),
        (200, b"/api/tags", b"/api/tags"),
        (299, b"/api/tags", b"/api/tags"),
        (300, b"/api/tags", b"/ollama/api/tags"),
        (399, b"/api/tags", b"/ollama/api/tags"),
        (400, b"/api/tags", b"/api/tags"),
    ],
)
def test_a_redirect_stays_under_the_prefix(status, location, expected):
    head = ResponseHead(status=status, reason="", fields=((b"X-A", b"/b"), (b"location", location)))
    assert under_prefix(head, "/ollama").fields == ((b"X-A", b"/b"), (b"location", expected))


@pytest.mark.parametrize(
    ("kind", "more", "told"),
    [
        (b"application/x-ndjson", (), True),
        (b"Text/Event-Stream; charset=utf-8", (), True),
        (b"application/json; charset=utf-8", (), False),
        (b"", (), False),
        (b"application/x-ndjson", ((b"x-accel-buffering", b"yes"),), False),
    ],
)
def test_a_stream_tells_nginx_not_to_hold_it_back(kind, more, told):
    head = ResponseHead(status=200, reason="OK", fields=((b"Content-Type", kind), *more))
    assert unbuffered(head).fields == (*head.fields, *(((b"X-Accel-Buffering", b"no"),) if told else ()))


@pytest.mark.parametrize(
    ("status", "x_cache"),
    [
        pytest.param(HIT, b"HIT", id="hit"),
        pytest.param(CacheStatus(result=Result.HIT, fwd=FwdReason.MISS, collapsed=True), b"HIT", id="collapsed"),
        pytest.param(CacheStatus(result=Result.MISS, fwd=FwdReason.STALE), b"MISS", id="miss"),
        pytest.param(bypass(Detail.STREAM), b"BYPASS", id="bypass"),
    ],
)
def test_the_cache_has_two_fields(status, x_cache):
    assert about_cache(status) == ((b"Cache-Status", status.render()), (b"X-Cache", x_cache))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (b"Content-Type", True),
        (b"content-type", True),
        (b"Date", True),
        (b"Vary", True),
        (b"Cache-Control", True),
        (b"expires", True),
        (b"ETag", False),
        (b"Last-Modified", False),
        (b"Access-Control-Allow-Origin", True),
        (b"access-control-expose-headers", True),
        (b"Content-Length", False),
        (b"Transfer-Encoding", False),
        (b"Connection", False),
        (b"Set-Cookie", False),
        (b"Age", False),
        (b"Cache-Status", False),
        (b"X-Cache", False),
        (b"Server", False),
        (b"X-Access-Control-Allow-Origin", False),
        (b"Access-Control", False),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else None,
)
def test_only_these_fields_are_stored_with_a_body(name, kept):
    assert replayed(((name, b"v"),)) == (((name, b"v"),) if kept else ())


def test_a_request_whose_response_may_be_stored_asks_for_no_coding():
    asked = Request(method="POST", target="/", fields=((b"ACCEPT-encoding", b"gzip"), (b"A", b"b"), (b"TE", b"c")))
    assert for_storing(asked) == Request(method="POST", target="/", fields=((b"A", b"b"), (b"TE", b"c")))
    plain = for_storing(asked)
    assert for_storing(plain) is plain


def test_what_describes_one_body_does_not_go_with_another():
    names = (b"Content-Length", b"DIGEST", b"Content-MD5", b"Content-Digest", b"Repr-Digest", b"ETag")
    names += (b"Last-Modified", b"Content-Location")
    assert without_body_fields((*((name, b"x") for name in names), (b"Date", b"d"))) == ((b"Date", b"d"),)


@pytest.mark.parametrize(
    ("told", "known", "age"),
    [
        pytest.param((), None, (), id="all of it is new"),
        pytest.param((), 0, ((b"Age", b"0"),), id="something is known"),
        pytest.param((), 50, ((b"Age", b"50"),), id="since long"),
        pytest.param(((b"age", b"70"),), 50, ((b"Age", b"70"),), id="Ollama's response is older"),
        pytest.param(((b"age", b"30"),), 50, ((b"Age", b"50"),), id="or younger"),
        pytest.param(((b"age", b"x"),), 50, ((b"Age", b"50"),), id="or tells no number"),
    ],
)
def test_a_joined_list_is_as_old_as_its_oldest_part(told, known, age):
    found = joined(((b"ETag", b"e"), (b"Date", b"d"), *told, (b"Content-Length", b"1")), 9, known)
    assert found == ((b"Date", b"d"), (b"Content-Length", b"9"), *age)


def test_the_age_of_ollamas_response_stays_where_nothing_else_is_joined():
    assert joined(((b"Age", b"7"),), 9, None) == ((b"Age", b"7"), (b"Content-Length", b"9"))


@pytest.mark.parametrize(
    ("length", "framing"),
    [
        pytest.param(120, ((b"Content-Length", b"120"),), id="whole"),
        pytest.param(0, ((b"Content-Length", b"0"),), id="empty"),
        pytest.param(None, (), id="a stream is framed by whoever writes it"),
    ],
)
def test_a_hit_has_the_stored_fields_first_then_its_own_in_this_order(length, framing):
    stored = ((b"Date", b"d"), (b"content-type", b"application/json"), (b"Vary", b"Origin"))
    assert hit_fields(stored, length, 7, HIT) == (
        *stored,
        *framing,
        (b"Age", b"7"),
        (b"Cache-Status", b"ollama-cache-proxy; hit; ttl=9"),
        (b"X-Cache", b"HIT"),
    )


@pytest.mark.parametrize(
    ("via", "seen"),
    [
        pytest.param((), False, id="none"),
        pytest.param((b"1.1 ollama-cache-proxy-1f",), True, id="own"),
        pytest.param((b"HTTP/1.1 Ollama-Cache-Proxy-1F",), True, id="in another case"),
        pytest.param((b"1.0 fred, 1.1 ollama-cache-proxy-1f (x)",), True, id="with a comment, after another"),
        pytest.param((b"1.0 fred", b"1.1\tollama-cache-proxy-1f"), True, id="on a second line"),
        pytest.param((b"1.1 ollama-cache-proxy-1f2",), False, id="a longer name"),
        pytest.param((b"1.1 ollama-cache-proxy-2e",), False, id="another proxy of ours"),
        pytest.param((b"1.1 ollama-cache-proxy",), False, id="another proxy of ours, of version 0.2"),
        pytest.param((b"1.1 ollama-cache-proxy-2e, 1.1 ollama-cache-proxy-1f",), True, id="own, after another of ours"),
        pytest.param((b"1.1 my-ollama-cache-proxy-1f",), False, id="a name that ends so"),
        pytest.param((b"1.1 ollama-cache-proxy-1f.example:80",), False, id="a host"),
        pytest.param((b"1.1 fred (ollama-cache-proxy-1f)",), False, id="in a comment"),
    ],
)
def test_a_request_that_has_been_here_is_known_by_its_via(via, seen):
    assert looped(tuple((b"Via", value) for value in via), OWN) is seen


def test_what_is_forwarded_is_known_when_it_comes_back():
    assert not looped((), OWN)
    assert looped(forwarded_request((), OWN), OWN)
    assert not looped(forwarded_request((), OWN), pseudonym("2e"))


@pytest.mark.parametrize(
    ("host", "origin", "own"),
    [
        pytest.param(b"127.0.0.1:11494", b"http://127.0.0.1:11494", True, id="own"),
        pytest.param(b"127.0.0.1:11494", b"https://127.0.0.1:11494", True, id="own, behind TLS"),
        pytest.param(b"Box.local:11494", b"HTTP://box.LOCAL:11494", True, id="case does not count"),
        pytest.param(b"box", b"http://box", True, id="default port"),
        pytest.param(b"127.0.0.1:11494", b"http://localhost:11494", False, id="another name of the machine"),
        pytest.param(b"127.0.0.1:11494", b"http://127.0.0.1:8080", False, id="another port"),
        pytest.param(b"127.0.0.1:11494", b"http://127.0.0.1", False, id="no port"),
        pytest.param(b"127.0.0.1:11494", b"http://127.0.0.1:11494/", False, id="with a path"),
        pytest.param(b"127.0.0.1:11494", b"http://127.0.0.1:11494.evil.example", False, id="a longer host"),
        pytest.param(b"127.0.0.1:11494", b"ws://127.0.0.1:11494", False, id="another scheme"),
        pytest.param(b"127.0.0.1:11494", b"null", False, id="null"),
        pytest.param(None, b"http://127.0.0.1:11494", False, id="no Host"),
    ],
)
def test_only_an_origin_that_is_the_proxy_itself_is_taken_off(host, origin, own):
    line = (b"oRiGiN", origin)
    fields = (*(() if host is None else ((b"Host", host),)), (b"A", b"b"), line)
    expected = tuple(field for field in fields if field is not line) if own else fields
    assert without_own_origin(fields) == expected
    assert is_own_origin(fields) is own


def test_no_other_field_with_the_same_value_is_taken_off_with_an_origin():
    host, referer = (b"Host", b"h"), (b"Referer", b"http://h")
    assert without_own_origin((host, referer, (b"Origin", b"http://h"))) == (host, referer)


def test_no_origin_counts_as_the_proxys_own():
    assert is_own_origin(((b"Host", b"h"),))
    assert is_own_origin(())


def test_of_several_origins_each_must_be_the_proxys_own():
    host = (b"Host", b"h")
    assert is_own_origin((host, (b"Origin", b"http://h"), (b"Origin", b"https://h")))
    mixed = (host, (b"Origin", b"http://h"), (b"Origin", b"http://evil.example"))
    assert not is_own_origin(mixed)
    assert without_own_origin(mixed) == (host, (b"Origin", b"http://evil.example"))


ALLOWED = [
    *("", ":80", "localhost", "LOCALHOST:11494", "localhost:", "127.0.0.1", "127.0.0.1:11494", "127.8.9.1:1"),
    *("[::1]:11494", "::1", "0.0.0.0:1", "[::]:1", "10.1.2.3:1", "172.16.0.1", "172.31.255.255", "192.168.1.1:80"),
    *("[fd00::1]:80", "[fc00::1]:80", "fd00::1", "203.0.113.9:80", "workshop", "WorkShop:80", "a.local", "a.local:80"),
    *("a.LOCAL", ".local", "a.localhost", "a.internal:1", "[localhost]:80", "[::1%lo]:80"),
    *("[::ffff:127.0.0.1]:80", "[::ffff:10.0.0.1]:80"),
]
REFUSED = [
    *("localhost:80:90", "[::1]", "[::1]:80:90", "[::1]x:80", "172.15.0.1", "172.32.0.1", "192.169.1.1", "169.254.1.1"),
    *("100.64.0.1", "198.18.0.1", "192.0.2.1", "240.0.0.1", "255.255.255.255", "[fe80::1]:80", "[fe80::1%eth0]:80"),
    *("203.0.113.8:80", "8.8.8.8", "2001:db8::1", "[::ffff:8.8.8.8]:80", "[::ffff:0.0.0.0]:80", "127.1", "0127.0.0.1"),
    *("2130706433", "0x7f000001", "workshop.", "workshop.evil.example", "local", "internal", "notlocal", "a.local."),
    *("a.local.evil.example", "evil.example", "evil.example:11494", "localhost.evil.example", "a].local:80"),
    *(
        "127.0.0.1.evil.example",
        "[a].local:80",
        "user@localhost",
        "localhost@evil.example",
        " localhost",
        "x:localhost",
    ),
    *("localhost,evil.example", "ollama:11434"),
]


@pytest.mark.parametrize(
    ("host", "allowed"),
    [*((host, True) for host in ALLOWED), *((host, False) for host in REFUSED)],
)
def test_the_host_rule_is_ollamas(host, allowed):
    fields = ((b"hOST", host.encode()),)
    local = frozenset({"203.0.113.9"})
    assert allowed_host(fields, hostname="Workshop", local_addresses=local, more=NONE) is allowed


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        (b"BOX.tail1.ts.net", True),
        (b"box.tail1.ts.net:8443", True),
        (b"box.example", True),
        (b"203.0.113.77:80", True),
        (b"203.0.113.78", False),
        (b"ts.net", False),
        (b"box.example.evil", False),
        (b"evil.example", False),
        (b"localhost", True),
    ],
)
def test_a_setting_allows_more_hosts(host, allowed):
    more = host_names(("box.example", "*.ts.net", "203.0.113.77"))
    assert allowed_host(((b"Host", host),), hostname="", local_addresses=frozenset(), more=more) is allowed


@pytest.mark.parametrize("host", [b"\xff", b"\xc5\xbf.local\xff", b"loc\xe1lhost"])
def test_a_host_that_is_no_text_is_refused(host):
    assert allowed_host(((b"Host", host),), hostname="", local_addresses=frozenset(), more=NONE) is False


def test_no_host_at_all_is_allowed_as_an_empty_one():
    assert allowed_host((), hostname="workshop", local_addresses=frozenset(), more=NONE)


def test_of_two_hosts_a_foreign_first_one_is_refused():
    fields = ((b"Host", b"evil.example"), (b"Host", b"localhost"))
    assert not allowed_host(fields, hostname="", local_addresses=frozenset(), more=NONE)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:11434", "127.0.0.1:11434"),
        ("https://ollama.example", "ollama.example"),
        ("http://[::1]:1", "[::1]:1"),
        ("http://user:secret@h:1/p?q", "h:1"),
    ],
)
def test_the_authority_is_host_and_port_without_user(url, expected):
    assert authority(url) == expected


@pytest.mark.parametrize(
    ("fields", "authority", "expected"),
    [
        ((), "a.example", ((b"Host", b"a.example"),)),
        (((b"X-A", b"1"), (b"hOst", b"b")), "a.example:80", ((b"Host", b"a.example:80"), (b"X-A", b"1"))),
        (((b"Host", b"b"), (b"Host", b"c")), "[::1]:80", ((b"Host", b"[::1]:80"),)),
        ((), "\xe4", ((b"Host", b"\xe4"),)),
        ((), "\u017f", ((b"Host", b"?"),)),
    ],
)
def test_the_authority_of_an_absolute_target_is_the_host(fields, authority, expected):
    assert with_host(fields, authority) == expected


def test_a_remark_on_a_miss_is_told_as_one() -> None:
    status = CacheStatus(result=Result.MISS, fwd=FwdReason.MISS, detail=Detail.INCOMPLETE)
    assert about_cache(status) == (
        (b"Cache-Status", b"ollama-cache-proxy; fwd=miss; detail=incomplete"),
        (b"X-Cache", b"MISS"),
    )


def test_a_response_without_a_content_type_is_no_stream() -> None:
    head = ResponseHead(status=200, reason="OK", fields=((b"Content-Length", b"2"),))
    assert unbuffered(head) is head


@pytest.mark.parametrize(
    "origin",
    [
        *(b"http://localhost", b"https://localhost:3000", b"http://127.0.0.1:8080", b"https://0.0.0.0"),
        *(b"app://x", b"file://", b"tauri://localhost", b"vscode-webview://x", b"vscode-file://vscode-app"),
    ],
)
def test_an_origin_that_ollama_always_allows_is_told_so_beside_the_403(origin: bytes) -> None:
    fields = ((b"Host", b"evil.example"), (b"Origin", origin))
    assert beside_foreign_host(fields) == ((b"Access-Control-Allow-Origin", origin), (b"Vary", b"Origin"))


@pytest.mark.parametrize(
    "origins",
    [
        (),
        (b"http://evil.example",),
        (b"http://localhost.evil.example",),
        (b"http://127.0.0.10",),
        (b"http://127a0b0c1",),
        (b"ftp://localhost",),
        (b"x-app://x",),
        (b"null",),
        (b"",),
    ],
)
def test_nothing_is_told_to_another_origin_or_to_none(origins: tuple[bytes, ...]) -> None:
    assert beside_foreign_host(((b"Host", b"evil.example"), *((b"Origin", origin) for origin in origins))) == ()


def test_nothing_is_told_to_a_page_of_the_proxy_itself() -> None:
    assert beside_foreign_host(((b"Host", b"localhost:1"), (b"Origin", b"http://localhost:1"))) == ()


@pytest.mark.parametrize(("length", "allowed"), [(1024, True), (1025, False)])
def test_a_very_long_host_is_not_looked_at(length: int, allowed: bool) -> None:
    host = b"a" * (length - len(b".local")) + b".local"
    assert allowed_host(((b"Host", host),), hostname="", local_addresses=frozenset(), more=NONE) is allowed
