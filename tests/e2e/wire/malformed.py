"""Requests that are no HTTP, or that two readers could take for two different things; and answers of that kind.

A row says what becomes of it. Where a message passes, what has to arrive is what strict.py reads from the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tests.support import canary


class Fate(Enum):
    """What becomes of a message: it is refused, it is waited for until a deadline, or it is passed on as it was."""

    REFUSED = "refused"
    ENDLESS = "endless"
    PASSES = "passes"


@dataclass(frozen=True, slots=True)
class Row:
    """One message; `as_if` is the well-formed one that a malformed one may be taken for."""

    name: str
    data: bytes
    fate: Fate = Fate.REFUSED
    as_if: bytes = b""


REFUSED, ENDLESS, PASSES = Fate
SECRET = b"X-Secret: " + canary.PROMPT.encode() + b"\r\n"
HOST = b"Host: localhost\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
STREAMED, HELD = b"/streamed", b"/api/show"
"""A target whose body is passed on as it comes, and one whose body is read whole first."""


def get(target: bytes = b"/x", lines: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + SECRET + lines + b"\r\n"


def post(framing: bytes, body: bytes, target: bytes = STREAMED) -> bytes:
    return b"POST " + target + b" HTTP/1.1\r\n" + HOST + SECRET + framing + b"\r\n" + body


def line(text: bytes) -> bytes:
    return text + b"\r\n" + HOST + SECRET + b"\r\n"


def rows(
    group: str, made: dict[bytes, bytes], passing: tuple[bytes, ...] = (), fate: Fate = REFUSED
) -> tuple[Row, ...]:
    """Name each row after what is wrong in it."""
    unknown = set(passing) - set(made)
    assert not unknown, unknown
    return tuple(Row(f"{group} {key[:60]!r}", data, PASSES if key in passing else fate) for key, data in made.items())


REQUEST_LINES = (
    b"", b" ", b"GET", b"GET ", b"GET /x ", b"GET  HTTP/1.1", b"GET HTTP/1.1", b"/x HTTP/1.1", b" GET /x HTTP/1.1",
    b"\tGET /x HTTP/1.1", b"GET\t/x HTTP/1.1", b"GET /x\tHTTP/1.1", b"GET /x HTTP/1.1 ",
    b"GET /x HTTP/1.1\t", b"GET /x HTTP/1.1 x", b"GET /x y HTTP/1.1", b"GET /x HTTP/1.1 HTTP/1.1", b"GET,/x,HTTP/1.1",
    b"GET /x HTTP/1.1\rX: y", b"GET /x HTTP/1.1\nX: y", b"GET /x\r HTTP/1.1", b"GET\r/x HTTP/1.1", b"GET /x\n HTTP/1.1", b"GET\n/x HTTP/1.1",
    b"HTTP/1.1 200 OK", b"HTTP/1.1 GET /x", b'"GET" /x HTTP/1.1', b"GET: /x HTTP/1.1",
    b"GET /x HTTP/1.1;", b"GET\xa0/x\xa0HTTP/1.1", b"GET\x0b/x HTTP/1.1", b"\xef\xbb\xbfGET /x HTTP/1.1",
    b"\xff\xfeG\x00E\x00T\x00", b"GET /x HTTP/1.1\r", b"GE T /x HTTP/1.1",
)  # fmt: skip
LEADING = (b"\r\n", b"\r\n\r\n", b" \r\n", b"\x00\r\n", b"\r\n \r\n")
VERSIONS = (
    b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2", b"HTTP/3", b"HTTP/3.0", b"HTTP/9.9", b"HTTP/0.0", b"HTTP/1", b"HTTP/1.",
    b"HTTP/.1", b"HTTP/1.10", b"HTTP/1.01", b"HTTP/01.1", b"HTTP/11", b"HTTP/1.1.1", b"HTTP/1,1", b"HTTP/+1.1", b"HTTP/-1.1", b"HTTP/1.+1",
    b"HTTP/ 1.1", b"HTTP /1.1", b"HTTP/1 .1", b"HTTP/1.x", b"HTTP/a.b", b"HTTP//1.1", b"HTTP1.1", b"HTTP-1.1", b"HTTP\\1.1", b"http/1.1",
    b"Http/1.1", b"HTTPS/1.1", b"HTT/1.1", b"XHTTP/1.1", b"ICY/1.1", b"SIP/2.0", b"ICE/1.0", b"HTTP/\xb9.1", b"HTTP/1.1\x00", b"HTTP/\x001.1",
)  # fmt: skip
METHODS = (
    b"get", b"Get", b"gET", b"FOO", b"GETT", b"GE", b"G", b"X-GET", b"GET/", b"GET;", b"G\x00T", b"(GET)", b"GET@", b"\xc7ET", b"POST,GET", b"M" * 40_000,
    b"PRI", b"SETUP", b"DESCRIBE", b"ANNOUNCE", b"FLUSH", b"_", b"123", b"*", b"GET\x7f",
)  # fmt: skip
TARGETS = (
    b"x", b"x/y", b"?x", b"#x", b"*", b"**", b"*/x", b".", b"../x", b"\\x", b"http:/x", b"http:x", b"http://", b"http:///x", b"http://?x", b"http://:80/x",
    b"http:\\\\localhost\\x", b"http:////localhost/x", b"file:///etc/passwd", b"javascript:x", b"localhost:80",
    b"localhost", b"http://localhost:x/y", b"http://localhost:99999/y", b"http://[::1/x", b"http://]/x",
    b"http://a b/x", b"http://user:secret@localhost/x", b"http://localhost@evil.example/x", b"http://localhost#x", b"http://localhost\\@evil.example/x",
    b"/\xc3\xa9", b"/\xff", b"/x\xa0y", b"/x\x85y", b"/\xe2\x80\xa8", b"/x\x00y", b"/x\x0by", b"/x\x0cy", b"/x\x1fy", b"/x\x7fy", b"/x\ty",
    b"/" + b"y" * 40_000, b"/?" + b"z" * 70_000,
)  # fmt: skip
ODD_TARGETS = (
    b"/x#y", b"/x?y#z", b"/#", b"/x%00y", b"/x%0d%0aGET%20/smuggled", b"/x%", b"/x%0", b"/x%zz", b"/..", b"/../../etc/passwd", b"/x/..;/y", b"/x//y", b"//x",
    b"///", b"/http://localhost/x", b"/x?http://localhost/y", b"/x\\y", b"/x|y", b"/x^y", b"/x`y", b'/x"y', b"/x<y>", b"/x{y}", b"/[x]", b"/x;y=z", b"/:80", b"/@x",
    b"/x&y", b"/x'y", b"/*", b"/x??y", b"/x?#", b"/~x", b"http://localhost", b"http://localhost/", b"HTTP://localhost/x", b"https://localhost/x", b"http://localhost?x",
    b"http://localhost:80/x", b"http://127.0.0.1/x", b"http://[::1]:80/x", b"http://localhost//x", b"http://localhost/x#y", b"http://localhost/http://localhost/y",
    b"//localhost:80@x/y", b"ftp://localhost/x", b"ws://localhost/x",
)  # fmt: skip
NAMES = (
    b"X A", b"X-A ", b"X-A\t", b" X-A", b"\tX-A", b"", b" ", b"X(A", b"X)A", b"X<A", b"X>A", b"X@A", b"X,A", b"X;A", b"X\\A", b'X"A', b"X/A", b"X[A", b"X]A", b"X?A",
    b"X=A", b"X{A", b"X}A", b"X\xe9A", b"X\xc2\xa0A", b"\xef\xbb\xbfX-A", b"X\x80A", b"X\xffA", b"X\x00A", b"X\rA", b"X\nA", b"X\x0bA", b"X\x7fA",
)  # fmt: skip
FIELD_LINES = (
    b"X-A", b"X-A b", b":", b": b", b":b", b" ", b"\t", b"X-A: b\r\n c", b"X-A: b\r\n\tc", b"X-A:\r\n b", b"X-A: b\r\n \r\n c", b"X-A: b\n c", b"X-A: b\nX-B: c", b"X-A: b\rX-B: c",
    b"X-A: b\r", b"\rX-A: b", b"X-A: b\r\r", b"X-A: b\n", b"\nX-A: b", b"X-A: b\r\n\x00", b"GET /smuggled HTTP/1.1", b"X-A\r\n: b", b"X-A: b\r\n:",
    b"Content-Length : 5", b"Content-Length\t: 5", b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b" Transfer-Encoding: chunked", b"Host : localhost",
    b"X: y\r\n Transfer-Encoding: chunked", b"X: y\r\n Content-Length: 5", b"Transfer-Encoding:\r\n chunked", b"Content-Length:\r\n 5", b"Transfer-Encoding\r\n : chunked",
    b"X: y\rTransfer-Encoding: chunked", b"X: y\nTransfer-Encoding: chunked", b"X: y\rContent-Length: 5", b"X: y\nContent-Length: 5", b"\x00Transfer-Encoding: chunked",
    b"Transfer\x00-Encoding: chunked", b"Content\x00-Length: 5", b"Content-Length\x00: 5", b"Transfer-Encoding\x0b: chunked", b"Content-Length\xa0: 5",
)  # fmt: skip
CONTROLS = tuple(bytes([code]) for code in (*range(9), *range(0x0A, 0x20), 0x7F))
ENDS_OF_LINES = (
    b"GET /x HTTP/1.1\nHost: localhost\n\n", b"GET /x HTTP/1.1\rHost: localhost\r\r", b"GET /x HTTP/1.1\r\nHost: localhost\n\n", b"GET /x HTTP/1.1\nHost: localhost\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: localhost\n\r\n", b"GET /x HTTP/1.1\r\nHost: localhost\r\n\n", b"GET /x HTTP/1.1\r\nHost: localhost\r\n\rX", b"GET /x HTTP/1.1\r\nHost: localhost\r\r\n\r\n",
    b"GET /x HTTP/1.1\r\r\nHost: localhost\r\n\r\n", b"GET /x HTTP/1.1\n\rHost: localhost\n\r\n\r", b"GET /x HTTP/1.1\r\nHost: localhost\r\n \r\n\r\n",
    b"GET /x HTTP/1.1\x0bHost: localhost\x0b\x0b\r\n\r\n", b"GET /x HTTP/1.1\r\n\nHost: localhost\r\n\r\n", b"GET /x HTTP/1.1\xc2\x85Host: localhost\xc2\x85\r\n\r\n",
)  # fmt: skip
LENGTHS = (
    b"", b"x", b"5x", b"x5", b"-5", b"+5", b"-0", b"+0", b"--5", b"0x5", b"0X5", b"5h", b"5.0", b"5,0", b"5e0", b"1_0", b"5 5", b"5\t5", b"5, 5", b"5,5", b"5, 6", b"5,", b",5", b",",
    b"5;5", b'"5"', b"'5'", b"(5)", b"5 0", b"0 5", b"\x0b5", b"5\x0b", b"\x0c5", b"5\x00", b"\x005", b"\xa05", b"5\xa0", b"\xb2", b"\xef\xbc\x95", b"\xd9\xa5", b"\xe2\x85\xa4", b"5\r", b"\r5",
    b"NaN", b"inf", b"null", b"chunked", b"%35", b"5%20", b"=5", b"5=", b"1e400", b"18446744073709551616", b"18446744073709551621", b"-18446744073709551611",
    b"9" * 25, b"9" * 1000, b"340282366920938463463374607431768211461",
)  # fmt: skip
PAST_ALL = (b"9223372036854775808", b"18446744073709551615")
"""What does not fit into 64 bits, and what the parser takes for none."""
HUGE_LENGTHS = (b"9223372036854775807", b"4294967301", b"1000000")
PAIRS_OF_LENGTHS = (
    (b"5", b"6"), (b"0", b"5"), (b"5", b"0"), (b"5", b""), (b"", b"5"), (b"5", b"05"), (b"5", b"-5"), (b"5", b"x"), (b"x", b"5"), (b"5", b"5, 5"),
)  # fmt: skip
EQUALLY_WRONG = tuple((text, text) for text in (b"", b"x", b"-5", b"+5", b"5, 5", b"5 5", b"18446744073709551616"))
REPEATED = (
    b"User-Agent: a\r\nUser-Agent: b\r\n", b"User-Agent: a\r\nuser-agent: a\r\nUSER-AGENT:\r\n", b"Content-Type: a\r\nX-A: b\r\nContent-Type: a\r\n", b"ETag: a\r\nETag: b\r\n", b"Server: a\r\nServer: b\r\n",
    b"Max-Forwards: 1\r\nMax-Forwards: 2\r\n", b"Content-Location: a\r\nContent-Location: b\r\n", b"Content-Range: a\r\nContent-Range: b\r\n", b"Sec-WebSocket-Key1: a\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\nUser-Agent: a\r\nUser-Agent: b\r\n",
)  # fmt: skip
"""What Go's server takes, and with it Ollama."""
REPEATED_AND_WRONG = tuple(REPEATED[0] + line for line in (b" folded\r\n", b"X A: b\r\n", b"X-A : b\r\n", b"X-A\r\n", b": b\r\n", b"X-A: b\nX-B: c\r\n", b"X-A: b\rX-B: c\r\n", b"X-A: \x00\r\n", b"Host: localhost\r\n", b"Content-Length: 0\r\nContent-Length: 1\r\n", b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"))  # fmt: skip
CODINGS = (
    b"", b"xchunked", b"chunkedx", b"x-chunked", b"chunke", b"chunked, identity", b"identity, chunked", b"identity", b"chunked, chunked", b"chunked,", b",chunked", b", chunked", b"chunked, ",
    b"chunked,,", b",", b"gzip", b"gzip, chunked", b"chunked, gzip", b"deflate, chunked", b"br", b"zstd, chunked", b"trailers", b"chunked;q=1", b"chunked;", b"chunked ; x=y", b"chunked chunked",
    b"chunked identity", b'"chunked"', b"'chunked'", b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"chunked\x00", b"\x00chunked", b"\xa0chunked", b"chunked\xa0", b"\xc5\xbfchunked", b"chun\xc5\xb1ed",
    b"chunKed\xe2\x84\xaa", b"chun\xe2\x84\xaaed", b"ch\xc3\xbcnked", b"c hunked", b"chunked\r", b"chunked\\", b"(chunked)", b"*", b"none", b"null", b"5", b"chunked=1", b"compress, chunked", b"CHUNKED, identity",
)  # fmt: skip
PAIRS_OF_CODINGS = (
    (b"chunked", b"chunked"), (b"chunked", b"identity"), (b"identity", b"chunked"), (b"chunked", b""), (b"", b"chunked"), (b"gzip", b"chunked"), (b"chunked", b"x"), (b"x", b"chunked"),
)  # fmt: skip
CHUNK_SIZES = (
    b"", b" ", b"x", b"g", b"-5", b"+5", b"0x5", b"0X5", b"5x", b"5h", b"5 5", b" 5", b"\t5", b"5 ", b"5\t", b"5.", b"5,", b"5_", b"5\x00", b"\x005", b"5\x0b", b"\x0b5", b"5\r", b"\r5", b"5\n", b"\n5",
    b"\xb5", b"5\xa0", b"\xef\xbc\x95", b'"5"', b"-0", b"+0", b"0x0", b"0x", b"10000000000000005", b"100000000000000000000000000000005", b"f" * 17, b"5;\x00", b"5;a\x00b", b"5;a=b\x0b", b"5;a\rb", b"5;a\nb",
    b"5;\r", b"5;\n", b"5;a=\rb", b"5 \x00", b"5;a\r\r", b'5;a="b\nc"', b'5;a="b\rc"', b"5; a=\x7f", b"5\x85",
)  # fmt: skip
CHUNK_EXTENSIONS = (
    b"5;", b"5;;", b"5; ", b"5;a b", b'5;a="', b'5;a="b', b'5;a="b"c', b"5;a=b=c", b"5;a=b;", b"5 a", b"5;(a)", b"5;\xe9", b"5;a=\xe9", b"5;a=[b]", b"5 ; a=b c",
)  # fmt: skip
GOOD_EXTENSIONS = (b"5;a", b"5;a=b", b'5;a="b c"', b"5;a=b;c=d", b"05", b"0" * 10 + b"5", b'5;a="\\""')
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK_ENDS = (
    b"5\r\nhelloX\r\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\n\n", b"5\r\nhello\r\n0\r\r",
    b"5\r\nhello\r\n0\n\r\n", b"5\r\nhello\r\n0\r\n\n", b"5\r\nhell\r\n0\r\n\r\n", b"5\r\nhello world\r\n0\r\n\r\n", b"5\r\nhello\r\r\n0\r\n\r\n", b"5\r\nhello\n\r\n0\r\n\r\n",
    b"\r\n5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n\r\n0\r\n\r\n", b"5\r\nhello\x00\x000\r\n\r\n", b"5\r\nhello\r\n0\r\n\x00", b"hello\r\n",
)  # fmt: skip
TRAILERS = (
    b" X: y\r\n", b"\tX: y\r\n", b"X y\r\n", b"X : y\r\n", b": y\r\n", b"X: y\n", b"X: y\r", b"X: \x00\r\n", b"X\x00: y\r\n", b"X: y\r\n z\r\n", b"X(: y\r\n", b"X: y\rZ: w\r\n", b"X: y\nZ: w\r\n", b"X: \x0b\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n", b"X: " + b"y" * 40_000 + b"\r\n",
)  # fmt: skip
GOOD_TRAILERS = (b"X: y\r\n", b"X: y\r\nX: z\r\n", b"X:\r\n")
FRAMING_TRAILERS = (
    b"Content-Length: 99\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Host: evil.example\r\n",
    b"Connection: close\r\n",
)
IGNORED_TRAILERS = GOOD_TRAILERS + FRAMING_TRAILERS[2:]
"""In a request: Ollama reads no trailers, and the proxy drops them."""
LENIENT_TRAILERS = (b"X: y\n", b"X: \x00\r\n", b"X: y\r\n z\r\n", b"X: y\nZ: w\r\n", b"X: \x0b\r\n")
"""In an answer; trailers are dropped."""
LENIENT_CHUNKS = (b"5\r\nhello\r\n0\r\n\n",)
ENDED_BY_LF = (b"5\r\nhello\n0\r\n\r\n", b"5\r\nhell\r\n0\r\n\r\n")
CUT_BODIES = (b"", b"5", b"5\r", b"5\r\n", b"5\r\nhell", b"5\r\nhello", b"5\r\nhello\r", b"5\r\nhello\r\n", b"5\r\nhello\r\n0", b"5\r\nhello\r\n0\r\n", b"5\r\nhello\r\n0\r\n\r", b"5\r\nhello\r\n0\r\nX: y", b"5\r\nhello\r\n0\r\nX: y\r\n", b"ffffffffffffffff\r\nhello", b"7fffffffffffffff\r\nhello", b"5;a", b'5;a="\r')  # fmt: skip
HOSTS = (
    (b"localhost", b"localhost"), (b"localhost", b"evil.example"), (b"evil.example", b"localhost"), (b"localhost", b""), (b"", b"localhost"), (b"localhost", b"localhost", b"localhost"),
    (b"localhost/x",), (b"http://localhost",), (b"localhost:80:80",), (b"local host",), (b"localhost\x00",), (b"localhost, evil.example",), (b"evil.example@localhost",), (b"[::1",), (b"::1]",),
    (b"localhost#x",), (b"localhost?x",), (b"localhost\\x",), (b"localhost\x0b",), (b"<localhost>",), (b'"localhost"',), (b"[localhost]",),
)  # fmt: skip
OTHER_PROTOCOLS = {
    b"tls": b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03" + b"\x55" * 32 + b"\x00\x00\x04\x13\x01\x13\x02\x01\x00\r\n\r\n",
    b"tls alert": b"\x15\x03\x03\x00\x02\x02\x28\r\n\r\n",
    b"ssl 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\r\n\r\n",
    b"http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"http/2 frame": b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\r\n\r\n",
    b"ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    b"smtp": b"EHLO localhost\r\nMAIL FROM:<x@localhost>\r\n",
    b"redis": b"*1\r\n$4\r\nPING\r\n",
    b"redis inline": b"PING\r\n",
    b"proxy 1": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + get(),
    b"proxy 2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\x7f\x00\x00\x01" * 3 + get(),
    b"socks 5": b"\x05\x01\x00\r\n\r\n",
    b"socks 4": b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00\r\n\r\n",
    b"rdp": b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00\r\n",
    b"websocket frame": b"\x81\x85\x01\x02\x03\x04\x69\x67\x6f\x68\x6e\r\n\r\n",
    b"utf-16": get().decode().encode("utf-16-le"),
    b"utf-16 with mark": get().decode().encode("utf-16"),
    b"an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"noise": bytes(range(256)) * 4,
    b"zeros": bytes(1000),
    b"json": b'{"model":"tiny","prompt":"canary-of-a-prompt"}\r\n\r\n',
    b"connect to a url": b"CONNECT http://localhost/x HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
}  # fmt: skip
CUT_HEADS = (
    b"GET /x\r\n", b"GET /x\n", b"G", b"GET", b"GET /x", b"GET /x HTTP", b"GET /x HTTP/1.1", b"GET /x HTTP/1.1\r", b"GET /x HTTP/1.1\r\n", b"GET /x HTTP/1.1\r\nHost", b"GET /x HTTP/1.1\r\nHost:", b"GET /x HTTP/1.1\r\nHost: localhost",
    b"GET /x HTTP/1.1\r\nHost: localhost\r", b"GET /x HTTP/1.1\r\nHost: localhost\r\n", b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r", b"\r\n", b"\r\n" * 100, b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n",
)  # fmt: skip
FIVE = b"Content-Length: 5\r\n"
BOTH = (
    (FIVE, CHUNKED), (CHUNKED, FIVE), (b"Content-Length: 0\r\n", CHUNKED), (CHUNKED, b"Content-Length: 0\r\n"), (FIVE, b"Transfer-Encoding: identity\r\n"), (b"Transfer-Encoding: identity\r\n", FIVE),
    (FIVE, b"Transfer-Encoding: xchunked\r\n"), (b"Transfer-Encoding: xchunked\r\n", FIVE), (FIVE, b"Transfer-Encoding:\r\n"), (b"Transfer-Encoding:\r\n", FIVE), (FIVE, b"transfer-encoding: CHUNKED\r\n"),
    (b"CONTENT-LENGTH: 5\r\n", CHUNKED), (b"Content-Length: 99\r\n", CHUNKED), (CHUNKED, b"Content-Length: 99\r\n"), (CHUNKED, b"Content-Length: x\r\n"), (b"Content-Length: x\r\n", CHUNKED),
    (FIVE, b"Transfer-Encoding: chunked, identity\r\n"), (FIVE, b"Transfer-Encoding: identity, chunked\r\n"), (FIVE, b"Transfer-Encoding: \x0bchunked\r\n"), (FIVE, b"X: y\r\n", CHUNKED),
    (FIVE, b"Connection: Content-Length\r\n", CHUNKED), (FIVE, b"Connection: Transfer-Encoding\r\n", CHUNKED),
)  # fmt: skip
ZERO_THEN = b"0\r\n\r\n" + SMUGGLED
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


REQUESTS: dict[str, tuple[Row, ...]] = {
    "request lines": rows("line", {text: line(text) for text in REQUEST_LINES})
    + rows("leading", {text: text + get() for text in LEADING}, (b"\r\n", b"\r\n\r\n")),
    "versions": rows("version", {text: line(b"GET /x " + text) for text in VERSIONS}),
    "methods": rows("method", {text: line(text + b" /x HTTP/1.1") for text in METHODS}),
    "targets": rows("target", {text: get(text) for text in TARGETS})
    + rows("odd target", {text: get(text) for text in ODD_TARGETS}, ODD_TARGETS)
    + rows("options", {text: line(b"OPTIONS " + text + b" HTTP/1.1") for text in (b"*", b"**", b"*/x", b"x")}, (b"*",)),
    "field lines": rows("name", {text: get(lines=text + b": b\r\n") for text in NAMES})
    + rows("field", {text: post(text + b"\r\n", SMUGGLED) for text in FIELD_LINES})
    + rows("first field", {text: b"GET /x HTTP/1.1\r\n" + text + HOST + b"\r\n" for text in (b" ", b"\t", b" X: y\r\n", b"\tX: y\r\n", b" \r\n")}),
    "control bytes": rows("in a value", {byte: get(lines=b"X-A: b" + byte + b"c\r\n") for byte in CONTROLS})
    + rows("before a value", {byte: get(lines=b"X-A:" + byte + b"b\r\n") for byte in CONTROLS})
    + rows("in a target", {byte: get(b"/x" + byte + b"y") for byte in CONTROLS if b"/x" + byte + b"y" not in TARGETS})
    + rows("ends of lines", {text: text for text in ENDS_OF_LINES}),
    "lengths": rows("length", {text: post(b"Content-Length: " + text + b"\r\n", b"hello" + SMUGGLED) for text in LENGTHS})
    + rows("lengths", {b" and ".join(pair): post(b"".join(b"Content-Length: %b\r\n" % text for text in pair), b"hello" + SMUGGLED) for pair in (*PAIRS_OF_LENGTHS, *EQUALLY_WRONG)}),
    "repeated": rows("repeated", {lines: get(lines=lines) + SMUGGLED for lines in REPEATED}, REPEATED)
    + rows("repeated, and wrong", {lines: get(lines=lines) + SMUGGLED for lines in REPEATED_AND_WRONG})
    + rows("many fields", {b"%d" % count: get(lines=b"X-A: b\r\n" * count) for count in (127, 200, 1000, 1100)}, (b"127", b"200", b"1000")),
    "codings": rows("coding", {text: post(b"Transfer-Encoding: " + text + b"\r\n", ZERO_THEN) for text in CODINGS})
    + rows("codings", {b" and ".join(pair): post(b"".join(b"Transfer-Encoding: %b\r\n" % text for text in pair), ZERO_THEN) for pair in PAIRS_OF_CODINGS})
    + rows("in 1.0", {text: post(text, ZERO_THEN).replace(b"HTTP/1.1", b"HTTP/1.0", 1) for text in (CHUNKED, CHUNKED + FIVE)}),
    "length and coding": rows("both", {b"".join(both): post(b"".join(both), ZERO_THEN) for both in BOTH})
    + rows("both, held", {b"".join(both): post(b"".join(both), ZERO_THEN, HELD) for both in BOTH}),
    "chunk sizes": tuple(
        row
        for target in (STREAMED, HELD)
        for row in rows("size, " + target.decode(), {text: post(CHUNKED, text + b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED, target) for text in CHUNK_SIZES + CHUNK_EXTENSIONS})
        + rows("good size, " + target.decode(), {text: post(CHUNKED, text + b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED, target) for text in GOOD_EXTENSIONS}, GOOD_EXTENSIONS)
    ),
    "chunk ends": tuple(
        row
        for target in (STREAMED, HELD)
        for row in rows("chunks, " + target.decode(), {text: post(CHUNKED, text + SMUGGLED, target) for text in CHUNK_ENDS})
        + rows("trailer, " + target.decode(), {text: post(CHUNKED, b"5\r\nhello\r\n0\r\n" + text + b"\r\n" + SMUGGLED, target) for text in TRAILERS + FRAMING_TRAILERS[:2]})
        + rows("good trailer, " + target.decode(), {text: post(CHUNKED, b"5\r\nhello\r\n0\r\n" + text + b"\r\n" + SMUGGLED, target) for text in IGNORED_TRAILERS}, IGNORED_TRAILERS)
    ),
    "too long": rows("long", {
        b"field": get(lines=b"X-A: " + b"b" * 40_000 + b"\r\n"), b"name": get(lines=b"X" * 40_000 + b": b\r\n"), b"many fields": get(lines=b"X-A: b\r\n" * 5_000),
        b"version": line(b"GET /x HTTP/1." + b"1" * 40_000), b"extension": post(CHUNKED, b"5;" + b"a" * 40_000 + b"\r\nhello\r\n0\r\n\r\n"),
        b"zeros": post(CHUNKED, b"0" * 40_000 + b"5\r\nhello\r\n0\r\n\r\n"), b"no line at all": b"x" * 100_000, b"value of spaces": get(lines=b"X-A:" + b" " * 40_000 + b"b\r\n"),
    }, (b"extension", b"zeros", b"value of spaces")),
    "hosts": rows("host", {b" and ".join(hosts): b"GET /x HTTP/1.1\r\n" + SECRET + b"".join(b"Host: %b\r\n" % host for host in hosts) + b"\r\n" for hosts in HOSTS})
    + rows("no host", {b"": b"GET /x HTTP/1.1\r\n" + SECRET + b"\r\n", b"in absolute-form": b"GET http://localhost/x HTTP/1.1\r\n" + SECRET + b"\r\n"}),
    "other protocols": rows("protocol", OTHER_PROTOCOLS),
    "endless": rows("cut head", {text: text for text in CUT_HEADS}, fate=ENDLESS)
    + rows("cut", {text: post(CHUNKED, text) for text in CUT_BODIES}, fate=ENDLESS)
    + rows("cut, held", {text: post(CHUNKED, text, HELD) for text in CUT_BODIES}, fate=ENDLESS)
    + rows("long", {text: post(b"Content-Length: " + text + b"\r\n", b"hello" + SMUGGLED) for text in HUGE_LENGTHS}, fate=ENDLESS)
    + rows("long, held", {text: post(b"Content-Length: " + text + b"\r\n", b"hello" + SMUGGLED, HELD) for text in HUGE_LENGTHS}, fate=ENDLESS),
    "harmless": rows("passes", bodies := {
        b"pipelined": get() + SMUGGLED, b"a body that looks like a request": post(b"Content-Length: %d\r\n" % len(SMUGGLED), SMUGGLED),
        b"a chunk that looks like a request": post(CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)), b"a body of GET": get(lines=b"Content-Length: %d\r\n" % len(SMUGGLED)) + SMUGGLED,
        b"a body and one after it": post(FIVE, b"hello" + SMUGGLED), b"chunks and one after them": post(CHUNKED, HELLO + SMUGGLED), b"no body and one after it": post(b"", SMUGGLED),
        b"an empty body": post(b"Content-Length: 0\r\n", SMUGGLED), b"zeros before a length": post(b"Content-Length: 005\r\n", b"hello" + SMUGGLED), b"coding in capitals": post(b"TRANSFER-ENCODING: CHUNKED\r\n", HELLO + SMUGGLED),
        b"length in spaces": post(b"Content-Length:\t 5 \t\r\n", b"hello" + SMUGGLED), b"names of another": get(lines=b"Content_Length: 5\r\nTransfer_Encoding: chunked\r\n"),
        b"a body of line ends": post(FIVE, b"\r\n\r\n\n"), b"a chunk of line ends": post(CHUNKED, b"5\r\n\r\n\r\n\n\r\n0\r\n\r\n"), b"closes": get(lines=b"Connection: close\r\n"), b"closed by 1.0": get().replace(b"1.1", b"1.0", 1),
        b"length in Connection": post(b"Connection: content-length\r\n" + FIVE, b"hello" + SMUGGLED), b"coding in Connection": post(b"Connection: transfer-encoding\r\n" + CHUNKED, HELLO + SMUGGLED),
        b"host in Connection": get(lines=b"Connection: host\r\n"), b"empty value": get(lines=b"X-A:\r\n"), b"tab in a value": get(lines=b"X-A: b\tc\r\n"), b"high bytes in a value": get(lines=b"X-A: \xe9\xff\x80\r\n"),
        b"all of a token": get(lines=b"!#$%&'*+-.^_`|~09azAZ: b\r\n"), b"a colon in a value": get(lines=b"X-A: b: c\r\n"), b"empty host": get().replace(b"localhost", b"", 1), b"digits": get(lines=b"1: 2\r\n"),
        b"something behind the last one": get(lines=b"Connection: close\r\n") + SMUGGLED, b"something behind one of 1.0": get().replace(b"1.1", b"1.0", 1) + SMUGGLED,
        b"no host in 1.0": b"GET /x HTTP/1.0\r\n\r\n", b"line after a body": post(FIVE, b"hello\r\n" + SMUGGLED),
    }, tuple(bodies))
}  # fmt: skip


def tolerated(made: dict[str, tuple[bytes, bytes]]) -> tuple[Row, ...]:
    return tuple(Row(name, data, PASSES, as_if) for name, (data, as_if) in made.items())


def chunk_of(size: bytes) -> bytes:
    return post(CHUNKED, size + b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED)


GET = line(b"GET /x HTTP/1.1")
REQUESTS["tolerated"] = tolerated({
    "two spaces": (line(b"GET  /x HTTP/1.1"), GET), "two spaces before the version": (line(b"GET /x  HTTP/1.1"), GET),
    "very many spaces": (line(b"GET" + b" " * 40_000 + b"/x HTTP/1.1"), GET),
    "LF first": (b"\n" + GET, GET), "two LF first": (b"\n\n" + GET, GET), "CR first": (b"\r" + GET, GET), "CR CR LF first": (b"\r\r\n" + GET, GET), "LF CR LF first": (b"\n\r\n" + GET, GET),
    "an extension that is =": (chunk_of(b"5;="), chunk_of(b"5")), "an extension without a name": (chunk_of(b"5;=b"), chunk_of(b"5")), "an extension without a value": (chunk_of(b"5;a="), chunk_of(b"5")),
    "a port that is no number": (GET.replace(b"localhost", b"localhost:x"), GET),
    "equal lengths": (post(FIVE * 2, b"hello" + SMUGGLED), post(FIVE, b"hello" + SMUGGLED)), "equal lengths, apart and in other words": (post(FIVE + b"X-A: b\r\ncontent-length:5 \t\r\n" + FIVE, b"hello" + SMUGGLED), post(FIVE, b"hello" + SMUGGLED)),
    "equal lengths with zeros": (post(b"Content-Length: 005\r\n" * 2, b"hello" + SMUGGLED), post(FIVE, b"hello" + SMUGGLED)), "equal lengths, held": (post(FIVE * 2, b"hello" + SMUGGLED, HELD), post(FIVE, b"hello" + SMUGGLED, HELD)),
})  # fmt: skip
"""What does no harm: as a lenient reader may (RFC 9112, sections 2.2 and 3), the parser drops what is too much."""

REQUESTS |= {
    "chunks in 1.0": rows("chunks in 1.0", {b"closes": post(CHUNKED, HELLO).replace(b"1.1", b"1.0", 1), b"stays": post(CHUNKED + b"Connection: keep-alive\r\n", ZERO_THEN).replace(b"1.1", b"1.0", 1)}),
    "connect": rows("connect", {
        b"CONNECT localhost:80": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n" + SECRET + b"\r\n" + SMUGGLED, b"CONNECT /x": b"CONNECT /x HTTP/1.1\r\n" + HOST + SECRET + b"\r\n" + SMUGGLED,
        b"CONNECT *": line(b"CONNECT * HTTP/1.1"), b"with a body": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n" + SECRET + FIVE + b"\r\nhello",
    }),
    "versions": rows("version", {text: line(text) for text in (b"GET /x", b"GET /x;HTTP/1.1", b"GET /x HTTP/0.9", b"GET /x HTTP/2.0", b"GET /x RTSP/1.0")}),
    "lengths past all": rows("length", {length + target: post(b"Content-Length: " + length + b"\r\n", b"hello" + SMUGGLED, target) for target in (STREAMED, HELD) for length in PAST_ALL}),
    "foreign hosts": rows("host", {b"\xe9.localhost": GET.replace(b"localhost", b"\xe9.localhost")}),
}  # fmt: skip


def answer(lines: bytes = FIVE, body: bytes = b"hello", status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return status + b"\r\n" + lines + b"\r\n" + body


def chunked(text: bytes) -> bytes:
    return answer(CHUNKED, text)


SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STATUS_LINES = (
    b"", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 2", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 abc OK", b"HTTP/1.1 -200 OK", b"HTTP/1.1 +200 OK", b"HTTP/1.1 200OK", b"HTTP/1.1  200 OK",
    b"HTTP/1.1\t200 OK", b"HTTP/1.1 200\tOK", b" HTTP/1.1 200 OK", b"HTTP/2 200", b"HTTP/3.0 200 OK", b"HTTP/1.2 200 OK", b"HTTP/1.x 200 OK", b"HTTP/1 200 OK", b"ICY 200 OK", b"200 OK", b"GET /x HTTP/1.1",
    b"http/1.1 200 OK", b"HTTP/1.1 200 OK\rX: y", b"\x16\x03\x01\x00\x02\x02", b"HTTP/1.1 2\x000 OK", b"HTTP/1.1 0x200 OK", b"HTTP/1.1 200.0 OK", b"HTTP/1.1 100 Continue", b"HTTP/1.1 199 X",
    b"HTTP/1.1 200 " + b"x" * 40_000, b"HTTP/1.1: 200 OK", b"HTTP/1.1 204 No", b"HTTP/1.1 304 Not", b"HTTP/1.1 200 OK\r",
)  # fmt: skip
GOOD_STATUS_LINES = (
    b"HTTP/1.1 600 OK",
    b"HTTP/1.1 999 OK",
    b"HTTP/1.1 200 ",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 200 \xe9",
    b"HTTP/1.1 200 OK\x0b",
    b"HTTP/1.1 205 Reset",
)
"""An answer is what its status says, known or not; what is odd in a reason is no danger."""
CUT_ANSWERS = tuple(answer()[:end] for end in (1, 8, 12, 15, 17, 30, 34, 36, 38, 42))
EARLY = {
    b"100": CONTINUE + answer(), b"102": answer(b"", b"", b"HTTP/1.1 102 Processing") + answer(), b"103": answer(b"Link: </x>\r\n", b"", b"HTTP/1.1 103 Early Hints") + answer(), b"2000 times 100": CONTINUE * 2000 + answer(),
    b"199": answer(b"", b"", b"HTTP/1.1 199 X") + answer(), b"one and another": CONTINUE + answer(b"", b"", b"HTTP/1.1 103 Early Hints") + answer(),
}  # fmt: skip
SAFE_CONTROLS = tuple(byte for byte in CONTROLS if byte not in (b"\0", b"\r", b"\n"))


def lf(data: bytes, *at: int) -> bytes:
    """Let the lines of these numbers end in a bare LF."""
    lines = data.split(b"\r\n")
    return b"".join(
        text + (b"" if number == len(lines) - 1 else b"\n" if number in at else b"\r\n")
        for number, text in enumerate(lines)
    )


def headed(text: bytes) -> bytes:
    return answer(text + b"\r\n" + FIVE)


NAMED = answer(b"X-A: b\r\n" + FIVE)
ANSWERS: dict[str, tuple[Row, ...]] = {
    "status lines": rows("status", {text: answer(status=text) for text in STATUS_LINES + GOOD_STATUS_LINES}, GOOD_STATUS_LINES),
    "fields": rows("name", {text: headed(text + b": b") for text in NAMES if text != b" X-A"})
    + rows("in a value", {byte: headed(b"X-A: b" + byte + b"c") for byte in CONTROLS if byte != b"\n"}, SAFE_CONTROLS)
    + rows("before a value", {byte: headed(b"X-A:" + byte + b"b") for byte in CONTROLS}, SAFE_CONTROLS),
    "lengths": rows("equal lengths", {b"5 and 5": answer(FIVE * 2, b"hello" + SECOND)}) + rows("length", {text: answer(b"Content-Length: " + text + b"\r\n", b"hello" + SECOND) for text in LENGTHS})
    + rows("long", {text: answer(b"Content-Length: " + text + b"\r\n") for text in HUGE_LENGTHS})
    + rows("lengths", {b" and ".join(pair): answer(b"".join(b"Content-Length: %b\r\n" % text for text in pair), b"hello" + SECOND) for pair in PAIRS_OF_LENGTHS}),
    "chunks": rows("size", {text: chunked(text + b"\r\nhello\r\n0\r\n\r\n") for text in CHUNK_SIZES + CHUNK_EXTENSIONS + GOOD_EXTENSIONS if text not in (b"5 ", b"5\t")}, GOOD_EXTENSIONS)
    + rows("chunks", {text: chunked(text) for text in CHUNK_ENDS if text not in LENIENT_CHUNKS + ENDED_BY_LF})
    + rows("trailer", {text: chunked(b"5\r\nhello\r\n0\r\n" + text + b"\r\n") for text in TRAILERS + GOOD_TRAILERS + FRAMING_TRAILERS if text not in LENIENT_TRAILERS}, GOOD_TRAILERS + FRAMING_TRAILERS[1:])
    + rows("cut", {text: chunked(text) for text in CUT_BODIES}),
    "cut": rows("cut", {text: text for text in CUT_ANSWERS}),
    "early": rows("early", EARLY, tuple(EARLY)) + rows("early alone", {b"100": CONTINUE * 100, b"wrong": b"HTTP/1.1 100\r\nX y\r\n\r\n" + answer()}),
    "too long": rows("long", {
        b"field": headed(b"X-A: " + b"b" * 40_000), b"name": headed(b"X" * 40_000 + b": b"), b"many fields": answer(b"X-A: b\r\n" * 5_000 + FIVE), b"no line at all": b"x" * 100_000,
        b"extension": chunked(b"5;" + b"a" * 40_000 + b"\r\nhello\r\n0\r\n\r\n"), b"zeros": chunked(b"0" * 40_000 + b"5\r\nhello\r\n0\r\n\r\n"),
    }, (b"extension", b"zeros")),
    "other protocols": rows("protocol", {name: data for name, data in OTHER_PROTOCOLS.items() if name != b"an answer"}),
    "tolerated": tolerated({
        "no space after the status": (answer(status=b"HTTP/1.1 200"), answer(status=b"HTTP/1.1 200 ")),
        "a folded value": (headed(b"X-A: b\r\n c"), headed(b"X-A: b c")), "a value folded by a tab": (headed(b"X-A: b\r\n\tc"), headed(b"X-A: b\tc")), "a value that begins folded": (headed(b"X-A:\r\n b"), NAMED),
        "a fold that looks like framing": (headed(b"X-A: b\r\n Transfer-Encoding: chunked"), headed(b"X-A: b Transfer-Encoding: chunked")),
        "LF after the status": (lf(NAMED, 0), NAMED), "LF after a field": (lf(NAMED, 1), NAMED), "LF after the last field": (lf(NAMED, 2), NAMED), "LF after the head": (lf(NAMED, 3), NAMED), "LF throughout": (lf(NAMED, 0, 1, 2, 3), NAMED),
        "LF and an empty line": (answer(b"X-A: b\n\r\n" + FIVE), answer(b"X-A: b\r\n\r\n" + FIVE)),
        "a chunk's size and a space": (chunked(b"5 \r\nhello\r\n0\r\n\r\n"), chunked(HELLO)), "a chunk's size and a tab": (chunked(b"5\t\r\nhello\r\n0\r\n\r\n"), chunked(HELLO)),
        **{f"an extension {text!r}": (chunked(text + b"\r\nhello\r\n0\r\n\r\n"), chunked(HELLO)) for text in (b"5;=", b"5;=b", b"5;a=")},
        **{f"chunks {text!r}": (chunked(text), chunked(HELLO)) for text in LENIENT_CHUNKS},
        **{f"a trailer {text!r}": (chunked(b"5\r\nhello\r\n0\r\n" + text + b"\r\n"), chunked(HELLO)) for text in LENIENT_TRAILERS},
    }),
}  # fmt: skip

REFUSED_CODINGS = (b"chunked\x00", b"\x00chunked", b"chunked\r")
ANSWERS["codings"] = rows(
    "coding", {text: answer(b"Transfer-Encoding: " + text + b"\r\n", HELLO) for text in REFUSED_CODINGS}
) + rows("both", {b"".join(both): answer(b"".join(both), HELLO) for both in BOTH})
ANSWERS |= {
    "other codings": rows("coding", {text: answer(b"Transfer-Encoding: " + text + b"\r\n", HELLO) for text in CODINGS if text not in REFUSED_CODINGS})
    + rows("codings", {b" and ".join(pair): answer(b"".join(b"Transfer-Encoding: %b\r\n" % text for text in pair), HELLO) for pair in PAIRS_OF_CODINGS}),
    "lengths past all": rows("length", {length: answer(b"Content-Length: " + length + b"\r\n") for length in PAST_ALL}),
    "upgrades": rows("101", {
        b"to websocket": answer(b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"", b"HTTP/1.1 101 Switching Protocols"), b"to nothing": answer(b"", b"", b"HTTP/1.1 101 Switching Protocols"), b"and an answer": answer(b"", b"", b"HTTP/1.1 101 Switching Protocols") + answer(),
    }),
    "statuses": rows("status", {text: answer(status=b"HTTP/1.1 " + text + b" OK") for text in (b"000", b"099")}),
    "versions": rows("version", {text: answer(status=text + b" 200 OK") for text in (b"HTTP/0.9", b"HTTP/2.0")}),
    "reasons": rows("reason", {b"NUL": answer(status=b"HTTP/1.1 200 O\0K")}),
}  # fmt: skip
WRONG_ANSWERS = {
    "the parser tells of RTSP/1.0 as HTTP/1.0": rows("version", {b"RTSP/1.0": answer(status=b"RTSP/1.0 200 OK")}),
    "white space before the first field is a field, or ends the head (RFC 9112, section 2.2)": rows(
        "white space", {text: answer(text + FIVE) for text in (b" \r\n", b" X-A: b\r\n")}
    ),
    "a bare LF ends a chunk, so that one a byte too short takes in a CR": rows(
        "chunks", {text: chunked(text) for text in ENDED_BY_LF}
    ),
}
"""What should be a 502 or break off and does not, and why."""
