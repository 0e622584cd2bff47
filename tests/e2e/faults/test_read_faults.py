"""Requests in forms that Ollama's server reads: rows 45 and 46 of the matrix."""

from __future__ import annotations

import json
import random
from itertools import zip_longest
from typing import Any, Final

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.e2e.faults.conftest import Measured
from tests.e2e.wire.reads import NEXT, RELEASES, REQUESTS, Seen, see
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import proxy_before

ASKED = json.dumps(
    {"model": "changing", "prompt": "why", "stream": False, "options": {"temperature": 0, "num_predict": 8}}
).encode()
CHANGES = (
    *("/api/copy", "/api/copy?x=1", "/%61pi/copy", "/api%2fcopy", "/api%2Fcop%79?"),
    *(
        "http://localhost/api/copy",
        "HTTPS://localhost:1/api/copy",
        "x://localhost/api/copy",
        "ftp://127.0.0.1/api/copy",
    ),
    *("ws://[::1]:80/api%2fcopy", "x://localhost:/%61pi/copy"),
)
"""Targets of a change that Ollama 0.24 and 0.33 carry out: `tests/data/reads` has what they answered."""


async def said(url: str) -> tuple[Any, RawAnswer]:
    answer = await ask(url, "POST", "/api/generate", body=ASKED)
    assert answer.status == 200, answer
    return json.loads(answer.body)["response"], answer


@pytest.mark.row(45)
@pytest.mark.parametrize("together", [False, True], ids=["alone", "behind another in one segment"])
async def test_a_change_is_seen_in_whatever_form_its_target_is(
    together: bool, simulator: Simulator, measured: Measured
) -> None:
    """Each form of target changes the model, which is asked for at once before and after."""
    stale = 0
    for name in ("one", "two"):
        simulator.models.add(name)
    async with proxy_before(simulator.url) as proxy:
        await ask(proxy.url, "POST", "/api/copy", body=b'{"source":"two","destination":"changing"}')
        for number, target in enumerate(CHANGES):
            before, _ = await said(proxy.url)
            assert (await said(proxy.url))[1].field("X-Cache") == "HIT"
            body = json.dumps({"source": ("one", "two")[number % 2], "destination": "changing"}).encode()
            async with await RawConnection.open(proxy.url) as connection:
                if together:
                    connection.send("GET", "/api/version")
                connection.send("POST", target, body=body)
                assert [(await connection.answer()).status for _ in range(1 + together)] == [200] * (1 + together)
            after, answer = await said(proxy.url)
            own, _ = await said(simulator.url)
            assert own != before, f"{target} has changed nothing"
            assert answer.field("X-Cache") != "HIT"
            stale += after != own
    measured(45, "stale", stale)


once = pytest.mark.asyncio(loop_factories=["uvloop"])
REFUSED: Final = frozenset({400, 403, 417, 501, 505})

OTHERWISE: Final = {
    "method b'OPTIONS'": "Ollama answers 204 where the Host is a name; the proxy gives its upstream's address",
    "method b'OPTIONS' of /": "the same",
    "method b'OPTIONS' of /api/tags": "the same",
    "method b'OPTIONS' of /api/version": "the same",
    "method b'OPTIONS' of /nowhere": "the same",
    "method b'OPTIONS' of /api/copy/": "the same",
    "target b'http://localhost'": 'no path is "/" (RFC 9110, section 4.2.3), to which Ollama redirects',
    "target b'http://localhost?x'": "the same",
    "GET of b'http://localhost'": "the same",
    "target b'http://localhost/api/copy/'": "the redirect names the path, and not the URL",
    "chunks: 17 digits": "a lenient reader may take it (RFC 9112, section 7.1); it goes out in its plain form",
    "chunks: a size of zeros": "the same",
    "chunks: a long extension": "the same",
    "line: two blanks": "the same (RFC 9112, section 3)",
    "line: two blanks before the version": "the same",
    "line: an empty line first": "the same (RFC 9112, section 2.2)",
    "field b'Proxy-Connection: close\\r\\n' 25": "the parser closes for it",
}
"""What the proxy neither makes of a request as Ollama does nor refuses, and why that is no harm."""


def told(seen: Seen) -> list[list[Any]]:
    """Return of each answer what does not depend on who has written it: status, and fields but those of framing."""
    return [
        [status, [field for field in fields if field[0] not in ("Connection", "Content-Length", "Content-Type")]]
        for status, fields, _ in seen.answers
    ]


def is_refused(seen: Seen, expected: Seen) -> bool:
    """Return whether what was answered otherwise first was refused, and nothing was changed that Ollama did not change.

    Where one of them answers nothing more, the last request must have been refused.
    """
    before = 0
    for status, wanted in zip_longest(seen.statuses, expected.statuses):
        if status != wanted:
            return (status if status and wanted else before) in REFUSED and (expected.changed or not seen.changed)
        before = status
    return False


@once
@pytest.mark.row(46)
async def test_the_proxy_makes_of_each_request_what_ollama_does_or_refuses_it(measured: Measured) -> None:
    release, wrong = max(RELEASES), {}
    async with Simulator(Behaviour(release=release)) as simulator, proxy_before(simulator.url) as proxy:
        for name, request in REQUESTS.items():
            seen, expected = await see(proxy.url, request), Seen(**RELEASES[release][name])
            alike = (told(seen), seen.changed) == (told(expected), expected.changed)
            if (alike or is_refused(seen, expected)) is (name in OTHERWISE):
                wrong[name] = seen
    assert not wrong
    measured(46, "otherwise", len(wrong))


PIECES: Final = (
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b"0", b"5", b"\xff", b"/", b"//", b"/.", b"%2f", b"%", b"?", b"x://localhost"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: localhost\r\n", b"Connection: close\r\n", b"User-Agent: a\r\n", b"Upgrade: h2c\r\n"),
    *(b"Expect: 100-continue\r\n", b"0\r\n\r\n", b"2\r\n{}\r\n", b"HTTP/1.0", b"HTTP/1.1", b"POST /api/copy HTTP/1.1\r\n"),
)  # fmt: skip
SEEDS: Final = [data for name, data in REQUESTS.items() if len(data) < 600 and name not in OTHERWISE]


def drawn(number: int) -> bytes:
    """Give one of the requests with one to three changes: a piece put in, bytes taken out, doubled or replaced."""
    chance = random.Random(number)
    data = chance.choice(SEEDS)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        to = at + chance.choice((0, 0, 1, 1, 2, 5))
        data = data[:at] + chance.choice((b"", chance.choice(PIECES), data[at : to + 3] * 2)) + data[to:]
    return data


@once
@pytest.mark.row(46)
async def test_the_proxy_makes_of_changed_requests_what_its_upstream_does_or_refuses_them(measured: Measured) -> None:
    """200 by seed. Behind each are so many others that whatever length it names is there; else it is left out."""
    wrong, decided = {}, 0
    async with Simulator() as simulator, proxy_before(simulator.url) as proxy:
        for number in range(200):
            request = drawn(number) + NEXT * 40
            if request.partition(b"\r\n\r\n")[2][:1] in (b"\r", b"\n") or b"Expect" in request:
                continue  # the proxy skips empty lines before a request, and reads a body that Ollama may not ask for
            try:
                expected = await see(simulator.url, request, 5.0)
                seen = await see(proxy.url, request, 5.0)
            except TimeoutError:
                continue
            decided += 1
            alike = (told(seen), seen.changed) == (told(expected), expected.changed)
            if not (alike or is_refused(seen, expected)):
                wrong[number] = (request[: -len(NEXT) * 40], expected, seen)
    assert not wrong
    assert decided > 100
    measured(46, "otherwise", len(wrong))
