"""Raw requests, harmless ones, and what Ollama made of each: which answers, whether a change took place, what came next.

Behind each stands `NEXT` in the same segment, whose answer shows that the server has found the end of the request
before it. `tests/data/reads` holds what Ollama 0.24.0 and 0.33.0-rc2 answered (Go 1.26.8, gin 1.10.0); to record another release,
`python -m tests.e2e.wire.reads URL > tests/data/reads/ollama-VERSION.json` against one that has the model `tiny`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.support.rawhttp import ask

COPY = "reads-copy"
BODY = b'{"source":"tiny","destination":"reads-copy"}'
HOST = b"Host: localhost\r\n"
NEXT = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SHOWN = ("Allow", "Connection", "Content-Type", "Location", "Access-Control-Allow-Origin", "Vary", "Content-Length")
_PATIENCE = 20.0


def get(target: bytes = b"/api/version", lines: bytes = b"", host: bytes = HOST, version: bytes = b"1.1") -> bytes:
    return b"GET " + target + b" HTTP/" + version + b"\r\n" + host + lines + b"\r\n"


def copy(
    target: bytes = b"/api/copy",
    lines: bytes = b"",
    *,
    host: bytes = HOST,
    method: bytes = b"POST",
    version: bytes = b"1.1",
    framing: bytes | None = None,
    body: bytes = BODY,
) -> bytes:
    framing = b"Content-Length: %d\r\n" % len(body) if framing is None else framing
    return method + b" " + target + b" HTTP/" + version + b"\r\n" + host + lines + framing + b"\r\n" + body


def chunks(*, lines: bytes = b"", framing: bytes = CHUNKED, body: bytes = CHUNKS, version: bytes = b"1.1") -> bytes:
    return copy(lines=lines, framing=framing, body=body, version=version)


LENGTH = b"Content-Length: %d\r\n" % len(BODY)
SIZE = b"%x" % len(BODY)
TARGETS = (
    *(b"/api/copy?", b"/api/copy?x=1", b"/api/copy?x=/../y", b"/api/copy#x", b"/api/copy/", b"/api/copy//", b"/api/copy/.", b"/api/copy/../copy"),
    *(b"//api/copy", b"/api//copy", b"/./api/copy", b"/x/../api/copy", b"/api/copy;x=y", b"/API/copy", b"/api/Copy", b"/api/%63opy", b"/api%2fcopy", b"/api%2Fcop%79"),
    *(b"/%2fapi/copy", b"/api/copy%2f", b"/api/copy%20", b"/api/copy%zz", b"/api/copy%", b"/api/copy?%zz", b"/x/%2e%2e/api/copy", b"/x/..%2fapi/copy", b"/api/copy\\"),
    *(b"http://localhost/api/copy", b"HTTP://localhost:1/api/copy?x", b"https://127.0.0.1/api/copy", b"x://localhost/api/copy", b"ftp://localhost/api/copy", b"ws://[::1]:1/api/copy"),
    *(b"x+y-1.z://localhost/api/copy", b"x:/api/copy", b"x:///api/copy", b"x:api/copy", b"localhost:80", b"http://localhost//api/copy", b"http://localhost/api/copy/", b"http://localhost", b"http://localhost?x"),
    *(b"http://user@localhost/api/copy", b"http://local%68ost/api/copy", b"http://localhost:x/api/copy", b"http://localhost#/api/copy", b"http://[::1/api/copy", b"http://evil.example/api/copy", b"x://evil.example/api/copy"),
    *(b"1x://localhost/api/copy", b"://localhost/api/copy", b"api/copy", b"?", b"*", b"**", b"/\xc3\xa9", b"/%c3%a9", b"/api/copy|", b"/api/copy[", b"/api/copy^"),
)  # fmt: skip
METHODS = (
    b"GET",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"TRACE",
    b"post",
    b"Post",
    b"PROPFIND",
    b"X-POST",
    b"POST,",
    b"P(ST",
)
VERSIONS = (b"1.0", b"1.2", b"2.0", b"0.9", b"3.0", b"1", b"1.10", b"01.1", b"11")
FIELDS = (
    *(b"X-A: b\r\n" * 127, b"X-A: b\r\n" * 129, b"X-A: b\r\n" * 600, b"".join(b"X-%d: b\r\n" % number for number in range(300))),
    *(b"User-Agent: a\r\nUser-Agent: b\r\n", b"Content-Type: a\r\nContent-Type: b\r\n", b"Server: a\r\nServer: b\r\n", b"ETag: a\r\nETag: b\r\n", b"Sec-WebSocket-Key1: a\r\n"),
    *(b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"Upgrade: x\r\n"),
    *(b"Expect: 100-continue\r\n", b"Expect: 100-Continue\r\n", b"Expect: x\r\n", b"Expect: x, 100-continue\r\n", b"Expect:\r\n", b"Expect: 100-continue\r\nExpect: x\r\n", b"Expect: x\r\nExpect: 100-continue\r\n"),
    *(b"Connection: close\r\n", b"Connection: Close\r\n", b"Connection: x, close\r\n", b"Connection: x\r\nConnection: close\r\n", b"Connection: closed\r\n", b"Connection: keep-alive\r\n", b"Connection: keep-alive, close\r\n"),
    *(b"Connection: content-length\r\n", b"Keep-Alive: timeout=1\r\n", b"Proxy-Connection: close\r\n", b"Trailer: X-A\r\n", b"TE: trailers\r\n", b"Range: bytes=0-1\r\n", b"X-HTTP-Method-Override: GET\r\n"),
    *(b"X-A:\r\n", b"X-A:b\r\n", b"X-A: b\tc\r\n", b"X-A:\t b \t\r\n", b"X-A: \xe9\xff\r\n", b"!#$%&'*+-.^_`|~: b\r\n", b"X_A: b\r\n", b"1: 2\r\n", b"X-A: " + b"b" * 30_000 + b"\r\n"),
    *(b"X A: b\r\n", b"X-A : b\r\n", b"X-A\t: b\r\n", b"X(A: b\r\n", b"X\xe9A: b\r\n", b": b\r\n", b"X-A\r\n", b"X-A: b\x01c\r\n", b"X-A: b\x7f\r\n", b"X-A: b\x00c\r\n", b"X-A: b\r\n c\r\n", b"X-A: b\r\n\tc\r\n", b"X-A:\r\n b\r\n"),
    *(b" X-A: b\r\n", b"X-A: b\nX-B: c\r\n", b"X-A: b\rX-B: c\r\n", b"X-A: b\r\r\n", b"X-A: b\n", b"Content-Encoding: gzip\r\n", b"Host: localhost\r\n", b"Host: evil.example\r\n", b"hOST: localhost\r\n"),
)  # fmt: skip
FRAMINGS = {
    "two equal lengths": LENGTH * 2, "three equal lengths in other words": LENGTH + b"X-A: b\r\ncontent-length:%d \r\n" % len(BODY) + LENGTH, "two unlike lengths": LENGTH + b"Content-Length: 1\r\n",
    "equal lengths in one": b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY)), "zeros before": b"Content-Length: 00%d\r\n" % len(BODY), "a sign": b"Content-Length: +%d\r\n" % len(BODY), "not a number": b"Content-Length: x\r\n",
    "empty": b"Content-Length:\r\n", "hexadecimal": b"Content-Length: 0x2c\r\n", "a blank before the colon": b"Content-Length : %d\r\n" % len(BODY), "with a length and a coding": LENGTH + CHUNKED, "past all": b"Content-Length: 9223372036854775808\r\n",
}  # fmt: skip
CODINGS = (
    *(b"Transfer-Encoding: CHUNKED\r\n", b"Transfer-Encoding:chunked\r\n", b"Transfer-Encoding: chunked \r\n", b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding\t: chunked\r\n"),
    *(CHUNKED * 2, b"Transfer-Encoding: chunked, chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: x\r\n", b"Transfer-Encoding:\r\n", b"Transfer-Encoding: chunked;x\r\n"),
    *(CHUNKED + LENGTH, CHUNKED + b"Content-Length: 0\r\n", CHUNKED + b"Content-Length: x\r\n", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"Transfer-Encoding: \r\n chunked\r\n"),
)  # fmt: skip
END = b"\r\n" + BODY + b"\r\n0\r\n\r\n"
CHUNK_FORMS = {
    "an extension": SIZE + b";a=b" + END, "an extension in quotes": SIZE + b';a="b c"' + END, "a blank and an extension": SIZE + b" ;a" + END, "blanks after the size": SIZE + b" \t" + END, "a blank before the size": b" " + SIZE + END,
    "an extension without a name": SIZE + b";" + END, "an odd extension": SIZE + b";a b=(c" + END, "zeros before the size": b"000" + SIZE + END, "capitals": SIZE.upper() + END, "a size that is none": b"x" + SIZE + END, "0x": b"0x" + SIZE + END,
    "17 digits": b"0" * 15 + SIZE + END, "a sign": b"+" + SIZE + END, "two chunks": b"4\r\n" + BODY[:4] + b"\r\n%x\r\n" % (len(BODY) - 4) + BODY[4:] + b"\r\n0\r\n\r\n", "a bare LF after the size": SIZE + b"\n" + BODY + b"\r\n0\r\n\r\n",
    "a bare LF after the data": SIZE + b"\r\n" + BODY + b"\n0\r\n\r\n", "nothing after the data": SIZE + b"\r\n" + BODY + b"0\r\n\r\n", "a trailer": END[2:].join((SIZE + b"\r\n", b"")) [:-2] + b"X-A: b\r\n\r\n", "a trailer that frames": SIZE + END[:-2] + b"Content-Length: 1\r\n\r\n",
    "a trailer without a colon": SIZE + END[:-2] + b"X\r\n\r\n", "a trailer with a blank": SIZE + END[:-2] + b"X A: b\r\n\r\n", "a trailer that is folded": SIZE + END[:-2] + b"X-A: b\r\n c\r\n\r\n", "a bare LF after the last chunk": SIZE + b"\r\n" + BODY + b"\r\n0\n\r\n", "a bare LF at the end": SIZE + END[:-2] + b"\n",
    "an empty line before": b"\r\n" + SIZE + END, "a size of zeros": b"0" * 40 + SIZE + END, "a long extension": SIZE + b";" + b"a" * 5000 + END,
}  # fmt: skip
HOSTS = {
    "none": b"", "empty": b"Host:\r\n", "evil": b"Host: evil.example\r\n", "with a port": b"Host: localhost:1\r\n", "an address": b"Host: 127.0.0.1\r\n", "a path": b"Host: localhost/x\r\n", "a blank in it": b"Host: local host\r\n", "a user": b"Host: x@localhost\r\n", "a blank before the colon": b"Host : localhost\r\n", "two": HOST * 2,
    "not ASCII": b"Host: \xe9.localhost\r\n", "a port that is none": b"Host: localhost:x\r\n",
    "evil, an allowed origin": b"Host: evil.example\r\nOrigin: http://localhost\r\n", "evil, its own origin": b"Host: evil.example\r\nOrigin: http://evil.example\r\n", "evil, a foreign origin": b"Host: evil.example\r\nOrigin: http://other.example\r\n",
    "evil, an application": b"Host: evil.example\r\nOrigin: app://x\r\n", "a foreign origin": HOST + b"Origin: http://evil.example\r\n", "an allowed origin": HOST + b"Origin: http://127.0.0.1:5\r\n", "its own origin": HOST + b"Origin: http://localhost\r\n", "origin null": HOST + b"Origin: null\r\n", "an origin of this machine without a scheme": HOST + b"Origin: localhost\r\n",
}  # fmt: skip
LINES = {
    "two blanks": b"POST  /api/copy HTTP/1.1", "two blanks before the version": b"POST /api/copy  HTTP/1.1", "a tab": b"POST\t/api/copy HTTP/1.1", "a blank at the end": b"POST /api/copy HTTP/1.1 ", "no version": b"POST /api/copy", "small letters": b"POST /api/copy http/1.1", "another protocol": b"POST /api/copy RTSP/1.0", "a blank before": b" POST /api/copy HTTP/1.1",
    "a target with a blank": b"POST /api/copy x HTTP/1.1", "nothing": b"", "an empty line first": b"\r\nPOST /api/copy HTTP/1.1", "a colon": b"POST: /api/copy HTTP/1.1",
}  # fmt: skip


def _requests() -> dict[str, bytes]:
    made = {
        "copy": copy(),
        "version": get(),
        "chunks": chunks(),
        "an empty target of HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    }
    made |= {f"target {target!r}": copy(target) for target in TARGETS}
    made |= {
        f"GET of {target!r}": get(target)
        for target in (
            b"/",
            b"//",
            b"/api/tags/",
            b"//api/version",
            b"/api/../api/version",
            b"/api/version/?x",
            b"/nowhere",
            b"/api",
            b"/api/",
            b"/v1/models/tiny/",
            b"*",
            b"x://localhost/api/version",
            b"http://localhost",
        )
    }
    made |= {f"method {method!r}": copy(method=method) for method in METHODS}
    made |= {
        f"method {method!r} of {target.decode()}": get(target).replace(b"GET", method, 1)
        for method in (b"HEAD", b"OPTIONS", b"PUT", b"post", b"DELETE")
        for target in (b"/", b"/api/tags", b"/api/version", b"/nowhere", b"*", b"/api/copy/")
    }
    made |= {f"version {version!r}": copy(version=version) for version in VERSIONS}
    made |= {
        f"version 1.0 and {lines!r}": copy(version=b"1.0", lines=lines)
        for lines in (
            b"Connection: keep-alive\r\n",
            b"Connection: Keep-Alive, x\r\n",
            b"Expect: 100-continue\r\n",
            b"Expect: x\r\n",
            b"Upgrade: h2c\r\n",
        )
    }
    made |= {f"field {lines[:50]!r} {len(lines)}": copy(lines=lines) for lines in FIELDS}
    made |= {f"length: {name}": copy(framing=framing) for name, framing in FRAMINGS.items()}
    made |= {
        "no length and no body": copy(framing=b"", body=b""),
        "a body of GET": get(lines=b"Content-Length: 5\r\n") + b"hello",
        "a body of DELETE": copy(b"/api/delete", method=b"DELETE", body=b'{"model":"nothing"}'),
    }
    made |= {f"coding {framing!r}": chunks(framing=framing) for framing in CODINGS}
    made |= {f"coding in 1.0 {framing!r}": chunks(framing=framing, version=b"1.0") for framing in CODINGS[:2]}
    made |= {f"chunks: {name}": chunks(body=body) for name, body in CHUNK_FORMS.items()}
    made |= {f"host: {name}": get(host=host) for name, host in HOSTS.items()}
    made |= {f"host of a copy: {name}": copy(host=host) for name, host in HOSTS.items()}
    made |= {
        f"host of {method.decode()} {target.decode()}: {name}": get(target, host=HOSTS[name]).replace(b"GET", method, 1)
        for method, target in (
            (b"OPTIONS", b"/api/copy"),
            (b"PUT", b"/api/copy"),
            (b"GET", b"/nowhere"),
            (b"POST", b"/api/copy/"),
        )
        for name in ("evil", "evil, an allowed origin", "evil, its own origin", "an allowed origin", "a foreign origin")
    }
    made |= {
        f"host of an absolute target: {name}": copy(target, host=host)
        for name, target, host in (
            ("evil field", b"http://localhost/api/copy", HOSTS["evil"]),
            ("evil field, no authority", b"x:///api/copy", HOSTS["evil"]),
            ("no field", b"http://localhost/api/copy", b""),
        )
    }
    made |= {f"line: {name}": line + b"\r\n" + HOST + LENGTH + b"\r\n" + BODY for name, line in LINES.items()}
    made |= {
        "line ends: LF": copy().replace(b"\r\n", b"\n"),
        "line ends: LF once": copy().replace(b"\r\n", b"\n", 1),
        "line ends: LF at the end of the head": copy().replace(b"\r\n\r\n", b"\r\n\n", 1),
        "line ends: CR": copy().replace(b"\r\n", b"\r", 1),
    }
    made |= {f"behind another: {lines[:40]!r}": get() + copy(lines=lines) for lines in FIELDS[4:15]}
    made |= {
        f"behind a body: {lines[:40]!r}": copy(body=b'{"source":"nothing","destination":"x"}') + copy(lines=lines)
        for lines in FIELDS[4:15]
    }
    made |= {
        f"behind chunks: {lines[:40]!r}": chunks(body=b"2\r\n{}\r\n0\r\n\r\n") + copy(lines=lines)
        for lines in FIELDS[4:15]
    }
    made |= {
        "twice behind another": get() + copy(lines=FIELDS[4]) * 2,
        "equal lengths behind another": get() + copy(framing=FRAMINGS["two equal lengths"]),
    }
    return made  # fmt: skip


REQUESTS = _requests()
RECORDED: Final = Path(__file__).parents[2] / "data" / "reads"
RELEASES: Final[dict[str, dict[str, Any]]] = {
    path.stem.removeprefix("ollama-"): json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"))
}
"""What was recorded, by release and request: the members of `Seen`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server made of a request and of `NEXT` behind it: its answers, and whether the model was copied.

    An answer is its status, what is `SHOWN` of its fields, and its body unless it is JSON.
    """

    answers: list[list[Any]]
    changed: bool

    @property
    def statuses(self) -> list[int]:
        return [int(answer[0]) for answer in self.answers]


def parsed(data: bytes, methods: list[str]) -> list[list[Any]]:
    """Read answers to requests of these methods, interim ones left out; what is cut off is one too."""
    answers: list[list[Any]] = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        status = int(status_line.split(" ")[1])
        if status == 100:
            continue
        fields = [(name.title(), value) for name, _, value in (line.partition(": ") for line in lines)]
        known = dict(fields)
        method = methods[min(len(answers), len(methods) - 1)]
        body = b""
        if method == "HEAD" and not data.startswith(b"HTTP/1."):  # what is no request is answered with a text
            body, data = data, b""
        elif method != "HEAD" and status != 204:
            if known.get("Transfer-Encoding") == "chunked":
                while size := int(data.partition(b"\r\n")[0], 16):
                    body += data.partition(b"\r\n")[2][:size]
                    data = data.partition(b"\r\n")[2][size + 2 :]
                data = data.partition(b"\r\n\r\n")[2]
            else:
                size = int(known.get("Content-Length", len(data)))
                body, data = data[:size], data[size:]
        text = "" if "json" in known.get("Content-Type", "") else body.decode("latin-1")
        shown = sorted(
            [name, value]
            for name, value in fields
            if name in SHOWN and (name != "Content-Length" or not (body or method == "HEAD"))
        )
        answers.append([status, shown, text])
    return answers


async def see(url: str, request: bytes, patience: float = _PATIENCE) -> Seen:
    """Send a request and `NEXT`, and see what comes of it. Raises TimeoutError when the connection stays open."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request + NEXT)
    data = b""
    try:
        async with asyncio.timeout(patience):
            while part := await reader.read(65536):
                data += part
    except ConnectionResetError:
        pass
    writer.close()
    methods = [part.split(b" ")[0].decode("latin-1") for part in (request, NEXT)]
    names = [row["name"] for row in json.loads((await ask(url, "GET", "/api/tags")).body)["models"]]
    changed = f"{COPY}:latest" in names
    if changed:
        await ask(url, "DELETE", "/api/delete", body=json.dumps({"model": COPY}).encode())
    return Seen(parsed(data, methods), changed)


async def _record(url: str) -> None:
    rows = {}
    for name, request in REQUESTS.items():
        seen = await see(url, request)
        rows[name] = {"answers": seen.answers, "changed": seen.changed}
    sys.stdout.write(
        "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()) + "\n}\n"
    )


if __name__ == "__main__":
    asyncio.run(_record(sys.argv[1]))
