"""The routes of packs, asked as a client of any kind may ask them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest

from ollama_cache_proxy.admin.pack_routes import EXPORT, IMPORT
from ollama_cache_proxy.core.store_ports import Lookups
from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.policy.pack_records import MAX_ENTRY, cut, record_of
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.stores.entry_codec import decode, encode
from tests.support import canary
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before

TOKEN = {"Authorization": f"Bearer {canary.TOKEN}"}


@pytest.fixture
async def embedded() -> AsyncIterator[Proxy]:
    """A proxy that has three texts in its memory."""
    async with Simulator(Behaviour(embedding_delay=0.0)) as simulator, proxy_before(simulator.url) as proxy:
        body = json.dumps({"model": "all-minilm", "input": ["a", "b", "c"]}).encode()
        assert (await ask(proxy.url, "POST", "/api/embed", body=body)).status == 200
        yield proxy


async def exported(proxy: Proxy, **query: str) -> tuple[list[bytes], list[dict[str, Any]]]:
    """The records and the notes of a page."""
    answer = await ask(proxy.url, "GET", f"{EXPORT}?{urlencode({'model': 'all-minilm'} | query)}", fields=TOKEN)
    assert (answer.status, answer.field("Content-Type")) == (200, "application/octet-stream")
    found, used = cut(bytearray(answer.body))
    assert used == len(answer.body)
    return [data for data, note in found if note is None], [note for _, note in found if note is not None]


async def imported(proxy: Proxy, data: bytes, model: str = "all-minilm") -> dict[str, Any]:
    answer = await post(proxy, data, model)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def post(proxy: Proxy, data: bytes, model: str = "all-minilm") -> RawAnswer:
    return await ask(proxy.url, "POST", f"{IMPORT}?model={model}", body=data, fields=TOKEN)


def opened(record: bytes) -> tuple[str, StoredResponse]:
    entry = decode(record[:32].hex(), record[36:])
    assert entry is not None
    return record[:32].hex(), entry


async def test_a_page_says_what_it_is_of_and_what_was_left_out(embedded: Proxy) -> None:
    records, (first, last) = await exported(embedded)
    assert sorted(first) == ["context", "digest", "epoch", "goesOn", "model", "settings", "version"]
    assert (first["model"], len(first["digest"])) == ("all-minilm:latest", 64)
    assert last == {"cursor": None, "leftOut": {}, "scopes": [["", "", "", 3]]}
    assert len(records) == 3
    text = b"".join(records)
    key, entry = opened(records[0])
    store, generation = embedded.running.store, (await embedded.running.store.get(key)).generation or ""
    for number, changed in enumerate(
        (replace(entry, scope=""), replace(entry, scope="00000000" + entry.scope[8:]), replace(entry, lifetime=0))
    ):
        await store.put([(f"{number:064x}", changed)], generation)
    again, (_, last) = await exported(embedded)
    assert (b"".join(again), last["leftOut"]) == (text, {"no-scope": 1, "other-digest": 1})


async def test_pages_lead_to_each_other(redis_server: RedisServer) -> None:
    async with (
        Simulator(Behaviour(embedding_delay=0.0)) as simulator,
        proxy_before(simulator.url, redis_url=redis_server.url) as proxy,
    ):
        body = json.dumps({"model": "all-minilm", "input": [str(number) for number in range(1500)]}).encode()
        assert (await ask(proxy.url, "POST", "/api/embed", body=body)).status == 200
        keys: set[bytes] = set()
        cursor, pages = "", 0
        while cursor is not None:
            records, (first, last) = await exported(proxy, cursor=cursor)
            assert first["goesOn"] is (pages > 0)
            keys |= {record[:32] for record in records}
            cursor, pages = last["cursor"], pages + 1
        assert len(keys) == 1500
        assert pages > 1


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("model=%20", 400),
        ("model=absent", 409),
        ("model=tiny&colour=red", 400),
        ("model=tiny&cursor=x", 200),
    ],
)
async def test_what_is_asked_wrongly_is_one_line(query: str, status: int, embedded: Proxy) -> None:
    answer = await ask(embedded.url, "GET", f"{EXPORT}?{query}", fields=TOKEN)
    assert answer.status == status
    if status != 200:
        assert list(json.loads(answer.body)) == ["error"]


async def test_what_is_there_stays_and_what_is_new_is_marked(embedded: Proxy) -> None:
    records, _ = await exported(embedded)
    known = await imported(embedded, b"".join(records))
    assert (known["imported"], known["known"], known["refused"]) == (0, 3, {})
    key, entry = opened(records[0])
    new = "ee" * 32
    found = await imported(embedded, record_of(new, encode(new, entry)) + records[1])
    assert (found["imported"], found["known"]) == (1, 1)
    stored = (await embedded.running.store.get(new)).entry
    assert stored == replace(entry, imported=True)
    assert (await embedded.running.store.get(key)).entry == entry


async def test_each_entry_is_looked_at_by_itself(embedded: Proxy) -> None:
    """What is wrong with one is no harm to the others, whoever sends it."""
    records, _ = await exported(embedded)
    _, entry = opened(records[0])
    keys = [f"{number:064x}" for number in range(1, 9)]
    forged = [
        encode(keys[1], entry),  # under another key
        encode(keys[1], entry)[:-1],
        b"",
        bytes(1000),
        encode(keys[4], replace(entry, reason="OK\r\nSet-Cookie: a=b")),
        encode(keys[5], replace(entry, fields=((b"X-Evil", b"1"), *entry.fields))),
        encode(keys[6], replace(entry, model="registry.ollama.ai/library/tiny:latest")),
        encode(keys[7], entry),
    ]
    found = await imported(embedded, b"".join(map(record_of, keys, forged)) + bytes(32) + b"\0\0\0\2{}")
    assert found["refused"] == {"damaged": 5, "unsound": 2, "other-model": 1}
    assert found["imported"] == 1
    count = await embedded.running.store.count()
    assert count is not None
    assert count.keys == 4


@pytest.mark.parametrize(
    "data", [b"x", bytes(35), bytes(32) + b"\xff\xff\xff\xff", record_of("ab" * 32, b"abc")[:-1]], ids=repr
)
async def test_what_are_no_records_is_a_400(data: bytes, embedded: Proxy) -> None:
    answer = await post(embedded, data)
    assert (answer.status, list(json.loads(answer.body))) == (400, ["error"])


async def test_how_much_is_taken_at_once_is_bounded(embedded: Proxy) -> None:
    assert (await post(embedded, record_of("ab" * 32, bytes(MAX_ENTRY)))).status == 200
    assert (await post(embedded, record_of("ab" * 32, bytes(MAX_ENTRY + 1)))).status == 400
    assert (await post(embedded, bytes(17 * 1024 * 1024))).status == 413


@pytest.mark.parametrize("path", [EXPORT, IMPORT])
async def test_who_has_no_token_learns_nothing_and_changes_nothing(path: str, embedded: Proxy) -> None:
    method = "GET" if path == EXPORT else "POST"
    for fields, status in (
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        (TOKEN | {"Origin": "http://evil.example"}, 403),
        (TOKEN | {"Host": "evil.example"}, 403),
    ):
        answer = await ask(embedded.url, method, f"{path}?model=all-minilm", fields=fields)
        assert (answer.status, b"minilm" in answer.body) == (status, False)
    assert (await ask(embedded.url, "HEAD", f"{EXPORT}?model=all-minilm", fields=TOKEN)).body == b""


@pytest.mark.parametrize(("purge", "status"), [(b'{"model": "all-minilm"}', 200), (b"{}", 503)])
async def test_what_is_purged_while_it_is_imported_is_not_brought_back(
    purge: bytes, status: int, embedded: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, _ = await exported(embedded)
    store = embedded.running.store
    peek = store.peek_many

    async def purged() -> None:
        assert (await ask(embedded.url, "POST", "/api/cache/clear", body=purge, fields=TOKEN)).status == 200

    async def purged_meanwhile(keys: Sequence[str]) -> Lookups:
        found = await peek(keys)
        await purged()
        return found

    await purged()
    monkeypatch.setattr(store, "peek_many", purged_meanwhile)
    assert (await post(embedded, b"".join(records))).status == status
    entries = await ask(embedded.url, "GET", "/api/cache/entries", fields=TOKEN)
    assert json.loads(entries.body)["entries"] == []
