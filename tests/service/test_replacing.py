"""Other settings while the proxy runs: each request is served under one set of them, and nothing answers under old ones."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

import pytest

from ollama_cache_proxy.service.settings import SettingsError, load
from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.upstream import digests
from tests.support import canary
from tests.support.rawhttp import RawConnection, ask
from tests.support.servers import Proxy, data, proxy_before
from tests.support.tls import AUTHORITY, CERTIFICATE, KEY, tls_before
from tests.support.upstream import Conversation, byte_upstream, whole
from tests.support.waiting import until

RENEWED, RENEWED_KEY = (str(data(f"tls/renewed.{end}")) for end in ("pem", "key"))
GENERATE: dict[str, Any] = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}
STREAM: dict[str, Any] = {"model": "tiny", "prompt": canary.PROMPT}


async def reload(proxy: Proxy, **given: Any) -> None:
    """Serve by the same settings with others in their place."""
    before = proxy.running.settings
    await proxy.running.reload(load(None, before.model_dump() | given))


async def said(connection: RawConnection, body: dict[str, Any], path: str = "/api/generate") -> str:
    """Ask over a connection that stays open; give what Cache-Status says."""
    connection.send("POST", path, body=json.dumps(body).encode())
    answer = await asyncio.wait_for(connection.answer(), 10)
    assert answer.status == 200
    return (answer.field("Cache-Status") or "").removeprefix("ollama-cache-proxy; ")


async def known(connection: RawConnection) -> None:
    """Ask until the answer comes from the fast path, by the bytes of the request."""
    for _ in range(3):
        await said(connection, GENERATE)
    assert (await said(connection, GENERATE)).startswith("hit; ")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epoch": "b"}, "fwd=miss; stored"),
        ({"credential_fields": "X-Team-Key"}, "fwd=miss; stored"),
        ({"cache_generate": "off"}, "fwd=bypass; detail="),
        ({"cache_generate": "write-only"}, "fwd="),
        ({"ttl_completion": 5}, "hit; "),
    ],
)
async def test_a_request_known_by_its_bytes_is_answered_by_the_new_rules(
    given: dict[str, Any], expected: str, simulator: Simulator
) -> None:
    """Also on a connection that was there before."""
    async with proxy_before(simulator.url) as proxy, await RawConnection.open(proxy.url) as connection:
        await known(connection)
        assert proxy.running.exchanges.fast_path._notes
        await reload(proxy, **given)
        assert (await said(connection, GENERATE)).startswith(expected)
        async with await RawConnection.open(proxy.url) as other:
            await said(other, GENERATE | {"prompt": "other"})


async def test_a_stream_under_way_goes_on_and_is_stored_under_its_own_rules(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, cache_streams=True) as proxy:
        simulator.gate.close()
        async with await RawConnection.open(proxy.url) as first, await RawConnection.open(proxy.url) as second:
            first.send("POST", "/api/generate", body=json.dumps(STREAM).encode())
            await simulator.arrived(1)
            await reload(proxy, epoch="b")
            second.send("POST", "/api/generate", body=json.dumps(STREAM).encode())
            await simulator.arrived(2)
            simulator.gate.open()
            answers = [await asyncio.wait_for(connection.answer(), 10) for connection in (first, second)]
            assert [json.loads(answer.chunks[-1])["done"] for answer in answers] == [True, True]
            await until(lambda: proxy.log.getvalue().count("Cached: ") == 2)
            assert (await said(first, STREAM)).startswith("hit; ")
            await reload(proxy, epoch="")
            assert (await said(first, STREAM)).startswith("hit; "), "what was asked under the old epoch is stored there"
            assert simulator.inferences == 2


async def test_a_request_does_not_wait_for_a_flight_under_other_rules(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy:
        simulator.gate.close()
        body = json.dumps(GENERATE).encode()
        tasks = [asyncio.create_task(ask(proxy.url, "POST", "/api/generate", body=body))]
        await simulator.arrived(1)
        await reload(proxy, cache_generate="deterministic")
        tasks.append(asyncio.create_task(ask(proxy.url, "POST", "/api/generate", body=body)))
        await simulator.arrived(2)
        metrics = (await ask(proxy.url, "GET", "/metrics")).body.decode()
        assert "ollama_cache_proxy_requests_in_flight 2.0" in metrics
        simulator.gate.open()
        statuses = [(await task).field("Cache-Status") or "" for task in tasks]
        assert "stored" in statuses[0]
        assert "fwd=bypass" in statuses[1]


async def test_tokens_and_credentials_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "POLL", 0.05)

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(whole(b'{"response":"x","done":true,"done_reason":"stop"}'))

    async def clear(proxy: Proxy, token: str) -> int:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        return (
            await ask(url, "POST", "/api/cache/clear", body=b"{}", fields={"Authorization": f"Bearer {token}"})
        ).status

    async with byte_upstream(script) as upstream, proxy_before(upstream.url, listen="0.0.0.0:0") as proxy:
        url = proxy.url.replace("0.0.0.0", "127.0.0.1")
        assert await clear(proxy, canary.TOKEN) == 200
        await reload(proxy, admin_token="new-token", upstream_authorization="Bearer new-credential")
        assert [await clear(proxy, token) for token in (canary.TOKEN, "new-token")] == [401, 200]
        await ask(url, "POST", "/api/generate", body=json.dumps(GENERATE).encode())
        await ask(url, "GET", "/readyz")
        assert upstream.looks[-1].values(b"Authorization") == [b"Bearer new-credential"]
        await reload(proxy, path_prefix="/ollama", body_timeout=7, head_timeout=8)
        answer = await ask(url, "POST", "/ollama/api/generate", body=json.dumps(GENERATE).encode())
        assert answer.status == 200
        assert (proxy.running.listener.body_timeout, proxy.running.listener.head_timeout) == (7, 8)


async def certificate(proxy: Proxy) -> tuple[RawConnection, bytes]:
    """Connect without a name, as a client does that knows an address; give the certificate that is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = int(proxy.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return RawConnection(reader, writer, f"127.0.0.1:{port}"), shown


async def test_new_connections_get_the_new_certificate_and_old_ones_go_on(simulator: Simulator) -> None:
    expected = [ssl.PEM_cert_to_DER_cert(data(name).read_text()) for name in ("tls/server.pem", "tls/renewed.pem")]
    async with proxy_before(simulator.url, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
        before, shown = await certificate(proxy)
        assert shown == expected[0]
        await said(before, GENERATE)
        await reload(proxy, tls_cert=RENEWED, tls_key=RENEWED_KEY)
        after, shown = await certificate(proxy)
        assert shown == expected[1]
        assert [(await said(connection, GENERATE))[:5] for connection in (before, after)] == ["hit; "] * 2
        await reload(proxy, tls_cert=CERTIFICATE, tls_key=KEY)
        again, shown = await certificate(proxy)
        assert shown == expected[0]
        for connection in (before, after, again):
            connection.close()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"tls_cert": "/nowhere"}, "tls_cert: '/nowhere' is not allowed: it cannot be read"),
        ({"tls_key": RENEWED_KEY}, "certificate and key do not match"),
        ({"upstream_ca": "/nowhere"}, "upstream_ca: '/nowhere' is not allowed"),
    ],
)
async def test_where_a_file_is_wrong_nothing_changes(given: dict[str, Any], text: str, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
        connection, shown = await certificate(proxy)
        await said(connection, GENERATE)
        with pytest.raises(SettingsError, match=text):
            await reload(proxy, epoch="b", **given)
        other, same = await certificate(proxy)
        assert same == shown
        assert [(await said(one, GENERATE))[:5] for one in (connection, other)] == ["hit; "] * 2
        for one in (connection, other):
            one.close()


async def test_connections_that_are_open_follow_another_keep_alive(simulator: Simulator) -> None:
    async with proxy_before(simulator.url) as proxy, await RawConnection.open(proxy.url) as connection:
        await said(connection, GENERATE)
        await reload(proxy, keep_alive=0.05)
        assert await asyncio.wait_for(connection.reader.read(), 10) == b""
        await reload(proxy)
        assert proxy.running.listener.keep_alive is None


async def test_ollama_is_checked_by_the_new_authorities_and_no_idle_connection_is_used_again(
    simulator: Simulator,
) -> None:
    async with tls_before(simulator.url) as port:
        async with proxy_before(f"https://localhost:{port}", upstream_ca=AUTHORITY) as proxy:

            async def status(prompt: str) -> int:
                body = json.dumps(GENERATE | {"prompt": prompt}).encode()
                return (await ask(proxy.url, "POST", "/api/generate", body=body)).status

            assert await status("a") == 200
            await reload(proxy, upstream_ca=RENEWED)
            assert await status("b") == 502
            await reload(proxy)
            assert await status("c") == 200


async def test_no_connection_that_was_in_use_meanwhile_is_used_again(simulator: Simulator) -> None:
    async with tls_before(simulator.url) as port:
        async with proxy_before(f"https://localhost:{port}", upstream_ca=AUTHORITY) as proxy:
            body = json.dumps(STREAM | {"prompt": "a"}).encode()
            simulator.gate.close()
            under_way = asyncio.create_task(ask(proxy.url, "POST", "/api/generate", body=body))
            await simulator.arrived(1)
            await reload(proxy, upstream_ca=RENEWED)
            simulator.gate.open()
            assert (await under_way).status == 200
            other = json.dumps(GENERATE | {"prompt": "b"}).encode()
            assert (await ask(proxy.url, "POST", "/api/generate", body=other)).status == 502
