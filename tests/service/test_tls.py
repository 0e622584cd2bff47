"""TLS on every side, with real handshakes: which authorities are trusted, and the errors of invalid files."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import pytest

from ollama_cache_proxy.service.settings import SettingsError
from ollama_cache_proxy.service.tls import CertificateError, for_clients, for_servers
from ollama_cache_proxy.simulator import Simulator
from tests.support import canary
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.tls import AUTHORITY, CERTIFICATE, KEY, tls_before, trusting
from tests.support.upstream import Conversation, byte_upstream

GENERATE = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
CHAT = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'


async def connect(proxy: Proxy) -> RawConnection:
    port = int(proxy.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting())
    return RawConnection(reader, writer, f"127.0.0.1:{port}")


async def post(connection: RawConnection, path: str, body: bytes) -> RawAnswer:
    connection.send("POST", path, body=body)
    return await asyncio.wait_for(connection.answer(), 10)


async def test_clients_over_tls_get_misses_hits_and_streams(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
        assert proxy.url.startswith("https://127.0.0.1:")
        assert f"listens on {proxy.url}, in front of" in proxy.log.getvalue()
        connection = await connect(proxy)
        answers = [await post(connection, "/api/generate", GENERATE) for _ in range(2)]
        assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT"]
        assert len((await post(connection, "/api/chat", CHAT)).chunks) > 2
        connection.close()


async def test_a_partial_response_does_not_look_complete_over_tls_either() -> None:
    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
        )
        talk.writer.transport.abort()

    async with byte_upstream(script) as upstream:
        async with proxy_before(upstream.url, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
            connection = await connect(proxy)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError, ssl.SSLError)):
                await post(connection, "/api/chat", CHAT)


async def test_a_client_without_tls_gets_nothing_and_logs_nothing(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, tls_cert=CERTIFICATE, tls_key=KEY) as proxy:
        before = proxy.log.getvalue()
        for data in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01", b""):
            connection = await RawConnection.open(proxy.url)
            connection.writer.write(data)
            connection.writer.write_eof()
            assert b"HTTP/1.1 200" not in await asyncio.wait_for(connection.reader.read(), 10)
            connection.close()
        connection = await connect(proxy)
        assert (await post(connection, "/api/generate", GENERATE)).status == 200
        connection.close()
        assert "error" not in proxy.log.getvalue().removeprefix(before)


@pytest.mark.parametrize("trusted", [True, False])
async def test_ollama_behind_tls_is_asked_only_where_its_authority_is_trusted(
    trusted: bool, simulator: Simulator
) -> None:
    async with tls_before(simulator.url) as port:
        settings = {"upstream_ca": AUTHORITY} if trusted else {}
        async with proxy_before(f"https://127.0.0.1:{port}", **settings) as proxy:
            answer = await ask(proxy.url, "POST", "/api/generate", body=GENERATE)
            assert answer.status == (200 if trusted else 502)
            assert ("cannot be reached" in proxy.log.getvalue()) is not trusted


@pytest.mark.parametrize("trusted", [True, False])
async def test_redis_behind_tls_keeps_only_where_its_authority_is_trusted(
    trusted: bool, redis_server: RedisServer, simulator: Simulator
) -> None:
    async with tls_before(redis_server.url) as port:
        settings = {"redis_url": f"rediss://:{canary.PASSWORD}@127.0.0.1:{port}/0"}
        settings |= {"redis_ca": AUTHORITY} if trusted else {}
        async with proxy_before(simulator.url, **settings) as proxy:
            answers = [await ask(proxy.url, "POST", "/api/generate", body=GENERATE) for _ in range(2)]
            assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT" if trusted else "MISS"]


@pytest.mark.parametrize("setting", ["tls_cert", "upstream_ca", "redis_ca"])
@pytest.mark.parametrize(("content", "told"), [(None, "cannot be read"), ("no PEM", "not a PEM file")])
async def test_an_invalid_file_stops_the_start(
    setting: str, content: str | None, told: str, simulator: Simulator, tmp_path: Path
) -> None:
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        async with proxy_before(simulator.url, **{setting: str(path)}):
            pass
    assert str(caught.value).startswith(f"{setting}: '{path}' is not allowed: it ")
    assert told in str(caught.value)


def test_the_error_of_a_key_that_is_encrypted_or_does_not_match(tmp_path: Path) -> None:
    encrypted = tmp_path / "key.pem"
    encrypted.write_text(
        "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n"
        "\nAAAAAAAAAAAAAAAAAAAAAA==\n-----END EC PRIVATE KEY-----\n"
    )
    with pytest.raises(CertificateError, match="must not be encrypted"):
        for_clients(CERTIFICATE, str(encrypted))
    with pytest.raises(CertificateError, match="do not match"):
        for_clients(AUTHORITY, KEY)
    with pytest.raises(CertificateError, match="not a PEM file"):
        for_clients(CERTIFICATE, None)


def test_certificate_and_key_may_stand_in_one_file(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(Path(CERTIFICATE).read_text() + Path(KEY).read_text())
    assert for_clients(str(both), None).verify_mode is ssl.CERT_NONE


def test_servers_are_verified_by_name_too() -> None:
    context = for_servers(AUTHORITY)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
