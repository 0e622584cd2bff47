"""No body, however it is made, may poison an entry or raise an error of the proxy's own.

Each request goes through the proxy and straight to the simulator, which reads JSON as Go does: the answers must be the
same but for what is history in a hit. A hit must also have a source, an earlier answer to the same question of the same
namespace, credentials and Origin, by a reading of its own (`questions`), since not all of that shows in an answer.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Behaviour, Simulator, naming
from ollama_cache_proxy.simulator.gojson import GoError, Members, Number, Value, scan
from ollama_cache_proxy.simulator.goschema import Place, duration
from tests.support.hostile import EMBEDDER, Hostile, harmless, request
from tests.support.rawhttp import RawAnswer, RawConnection
from tests.support.servers import Proxy, RedisServer, proxy_before

CONNECTIONS = 8
SHOWN = 5
DIFFERENCES = 50
"""So many are enough to see what is wrong; the rest is not tried."""


class Line:
    """One connection at a time to one server, used as long as it lasts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: RawConnection | None = None

    async def ask(self, asked: Hostile) -> RawAnswer:
        connection = self._connection or await RawConnection.open(self._url)
        self._connection = None
        try:
            connection.writer.write(asked.rendered(connection.host))
            answer = await connection.answer("POST")
        except BaseException:
            connection.close()
            raise
        if answer.closed or answer.field("Connection") == "close":
            connection.close()
        else:
            self._connection = connection
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


# What must be the same

HISTORY = re.compile(
    rb'"(?:created_at|(?:item_|request_)?id)":"[^"]*"|"(?:created|created_at|completed_at|[a-z_]+_duration)":[0-9]+'
)
USAGE = re.compile(rb'"(?:prompt_eval_count|prompt_tokens|total_tokens)":[0-9]+')
SAME_FIELDS = ("Content-Type", "Access-Control-Allow-Origin", "Vary")

Shown = tuple[int, tuple[str | None, ...], bytes]


def shown(answer: RawAnswer, *, estimated: bool) -> Shown:
    """What a client sees of an answer, without what differs from run to run."""
    body = HISTORY.sub(b"", answer.body)
    return (
        answer.status,
        tuple(answer.field(name) for name in SAME_FIELDS),
        USAGE.sub(b"", body) if estimated else body,
    )


def detail_of(answer: RawAnswer) -> str:
    found = re.search(r"detail=([a-z0-9-]+)", answer.field("Cache-Status") or "")
    return found[1] if found else ""


# What is asked

LISTS = ("/api/embed", "/v1/embeddings")
EMBEDDINGS = ("/api/embed", "/api/embeddings")
INERT = {
    "/api/generate": {"keep_alive"},
    "/api/chat": {"keep_alive"},
    "/api/embed": {"keep_alive"},
    "/api/embeddings": {"keep_alive"},
    "/v1/embeddings": {"encoding_format", "user"},
}
UNREAD = {"/v1/embeddings": {"keep_alive", "truncate", "options"}}
WIDTHS = (384, 64)
"""Numbers in a vector of all-minilm, and of EMBEDDER."""
DEFAULTS = {"truncate": (None, True), "dimensions": (None, 0.0), "options": (None, ())}


SAMPLING = frozenset(
    (
        *("num_keep", "seed", "num_predict", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "temperature"),
        *("repeat_penalty", "presence_penalty", "frequency_penalty", "stop"),
    )
)
"""Options that Ollama 0.24 reads for completions alone."""


def fixed(value: Value, *, ordered: bool = True) -> Any:
    match value:
        case Members(pairs):
            members = [(name, fixed(member)) for name, member in pairs]
            return tuple(members if ordered else sorted(members, key=lambda member: member[0]))
        case list():
            return tuple(fixed(item) for item in value)
        case Number(text):
            return float(text)
        case _:
            return value


def questions(asked: Hostile) -> tuple[Any, ...]:
    """What is asked, and for whom: one for each text of a list. Nothing for what Go cannot read, and for an unload."""
    try:
        document = scan(asked.body)
        if not isinstance(document, Members):
            return ()
        given = {name.casefold(): value for name, value in document.pairs}
        path = asked.target
        if "keep_alive" in INERT.get(path, ()) and duration(given.get("keep_alive"), None, Place()) == 0:
            return ()
    except GoError:
        return ()
    said = {
        name: fixed(value, ordered=name != "options")
        for name, value in given.items()
        if name not in INERT.get(path, ()) and name not in UNREAD.get(path, ())
    }
    if isinstance(given.get("options"), Members) and "options" in said:
        unread = SAMPLING if path in EMBEDDINGS else ()
        said["options"] = tuple(
            (name, value) for name, value in said["options"] if value is not None and name not in unread
        )
    group, texts = path, (None,)
    if path in LISTS:
        group, text = "list", said.pop("input", None)
        texts = text if isinstance(text, tuple) else (text,)
        model = naming.parse(str(said.get("model")))
        said["model"] = model.key if model else None
        width = WIDTHS[EMBEDDER in str(said["model"])]
        if isinstance(said.get("dimensions"), float) and said["dimensions"] >= width:
            del said["dimensions"]  # it cuts nothing
    defaults = DEFAULTS | {"stream": (None, path.startswith("/api/"))}
    said = {name: value for name, value in said.items() if value not in defaults.get(name, ())}
    asker = tuple("\n".join(asked.values(name)) for name in ("authorization", "origin", "x-api-key"))
    namespace = next(iter(asked.values("x-cache-namespace")), "")
    rest = tuple(sorted(said.items(), key=lambda item: item[0]))
    return tuple((group, asker, namespace, rest, text) for text in texts)


# The two of them side by side


@dataclass(slots=True)
class Trial:
    """Asks both servers, and notes what differs. Direct answers are asked for once."""

    simulator: Simulator
    proxy: Proxy
    direct: dict[tuple[Any, ...], RawAnswer] = field(default_factory=dict)
    results: Counter[str] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    asked: set[Any] = field(default_factory=set)
    stored: set[Any] = field(default_factory=set)
    hits: list[tuple[str, Hostile, bool]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    async def run(self, name: str, requests: Iterator[Hostile]) -> None:
        numbered = ((f"{name}, index {index}", asked) for index, asked in enumerate(requests))
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._work(numbered))
        for which, asked, collapsed in self.hits:
            found = questions(asked)
            if not found or not self.asked.issuperset(found) or not (collapsed or self.stored.issuperset(found)):
                self._differs(which, asked, "that it is asked for", "a hit, but nothing was kept that answers it")
        if self.differences:
            pytest.fail("\n\n".join([f"{len(self.differences)} differences", *self.differences[:SHOWN]]))

    async def _work(self, numbered: Iterator[tuple[str, Hostile]]) -> None:
        lines = Line(self.proxy.url), Line(self.simulator.url)
        try:
            for which, asked in numbered:
                if len(self.differences) > DIFFERENCES:
                    return
                await self._compare(which, asked, *lines)
        finally:
            for line in lines:
                line.close()

    async def _compare(self, which: str, asked: Hostile, through: Line, straight: Line) -> None:
        try:
            answer = await through.ask(asked)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self._differs(which, asked, "an answer", repr(error))
            return
        self._note(which, asked, answer)
        detail = detail_of(answer)
        if answer.status == 504:
            if not any("only-if-cached" in value for value in asked.values("cache-control")):
                self._differs(which, asked, "an answer", repr(answer))
            return
        name = asked.target, asked.values("origin"), asked.body
        direct = self.direct.get(name)
        if direct is None:
            direct = self.direct[name] = await straight.ask(asked)
        estimated = detail == "estimated-usage" and len(questions(asked)) > 1
        expected, got = shown(direct, estimated=estimated), shown(answer, estimated=estimated)
        if expected != got:
            self._differs(which, asked, repr(expected), f"{got!r}\n{answer.fields}")

    def _note(self, which: str, asked: Hostile, answer: RawAnswer) -> None:
        status = answer.field("Cache-Status") or ""
        result = answer.field("X-Cache") or "none"
        self.results[result] += 1
        self.details[detail_of(answer)] += 1
        if result == "HIT":
            self.hits.append((which, asked, "collapsed" in status))
        elif result == "MISS":
            found = questions(asked)
            self.asked.update(found)
            if "; stored" in status or "recording" in status:
                self.stored.update(found)
                if answer.status != 200:
                    self._differs(which, asked, "that this is not kept", repr(answer))

    def _differs(self, which: str, asked: Hostile, expected: str, got: str) -> None:
        self.differences.append(
            f"{which}: POST {asked.target} {asked.fields}\n"
            f"body {asked.body!r}\nexpected {expected[:2000]}\ngot {got[:2000]}"
        )


BY_BODY = {
    *("not-json", "not-an-object", "duplicate-name", "ambiguous-name", "number", "depth", "no-model", "no-prompt"),
    *("keep-alive", "encoding-format", "field-type", "stream", "remote-model", "no-digest", "external-data"),
}
BY_HEAD = {"opt-in", "target-spelling", "content-encoding", "range", "cookie", "no-store", "only-if-cached"}
BY_ANSWER = {"", "status", "ttl-ignored", "items", "estimated-usage"}

EVERYTHING = {
    "cache_chat": "always",
    "cache_v1_chat": "always",
    "cache_v1_completions": "always",
    "cache_v1_responses": "always",
    "cache_v1_messages": "always",
    "cache_streams": True,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kind", "release", "seed", "count"),
    [
        ("memory", "0.33", 1, 12_000),
        ("memory", "0.24", 4, 8_000),
        ("every route and streams", "0.33", 2, 3_000),
        ("every route and streams", "0.24", 5, 2_000),
        ("redis", "0.33", 3, 2_000),
    ],
)
async def test_hostile_requests_get_what_ollama_would_say(
    kind: str, release: str, seed: int, count: int, redis_server: RedisServer
) -> None:
    settings = {"redis": {"redis_url": redis_server.url}, "every route and streams": EVERYTHING}.get(kind, {})
    async with (
        Simulator(Behaviour(completion_delay=0, embedding_delay=0, release=release)) as simulator,
        proxy_before(simulator.url, development=False, **settings) as proxy,
    ):
        simulator.models.add(EMBEDDER, embedding=True)
        trial = Trial(simulator, proxy)
        await trial.run(f"seed {seed}", (request(seed, index) for index in range(count)))
        not_met = {"opt-in", "stream"} if settings is EVERYTHING else {"external-data"}
        assert set(trial.details) | not_met >= BY_BODY | BY_HEAD | BY_ANSWER
        assert trial.results["HIT"] > count / 6
        assert trial.results["MISS"] > count / 10
        assert trial.results["BYPASS"] > count / 5
        trial.direct.clear()
        await asyncio.sleep(1.1)  # what was stored for a second (X-Cache-TTL: 1) has expired, and does not in between
        for _ in range(2):
            trial.results.clear()
            await trial.run("harmless", harmless())
        assert trial.results == ({"HIT": 126} if settings is EVERYTHING else {"HIT": 60, "BYPASS": 66})
        assert "error" not in proxy.log.getvalue()
