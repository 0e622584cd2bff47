"""The Redis of the settings: its address, what its certificate must be, and a client for a few questions."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from ollama_cache_proxy.service.redis_access import client_of, named_address, redis_address, tls_for
from ollama_cache_proxy.service.settings import SettingsError, load
from tests.support import canary
from tests.support.servers import RedisServer
from tests.support.tls import AUTHORITY, CERTIFICATE, KEY, tls_before


def test_the_address_is_that_of_the_settings_or_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_address(load(None, {})) is None
    monkeypatch.setenv("REDIS_URL", "redis://e:1/2")
    assert named_address(load(None, {})) == redis_address("redis://e:1/2")
    assert named_address(load(None, {"redis_url": " redis://s:1 "})) == redis_address("redis://s:1")
    assert named_address(load(None, {"store": "memory"})) is None
    monkeypatch.setenv("REDIS_URL", f"redis://:12/{canary.PASSWORD}@h")
    with pytest.raises(SettingsError, match=r"^REDIS_URL: \(hidden\) is not allowed: must have / "):
        named_address(load(None, {}))
    assert named_address(load(None, {"store": "memory"})) is None, "it is not used"


def test_only_an_address_with_tls_has_a_context() -> None:
    assert tls_for(redis_address("redis://h"), AUTHORITY) is None


def test_without_an_authority_the_systems_are_trusted_else_that_one_alone() -> None:
    address = redis_address("rediss://h")
    systems, own = tls_for(address, None), tls_for(address, AUTHORITY)
    assert systems is not None
    assert own is not None
    assert own.cert_store_stats()["x509_ca"] == 1
    assert systems.cert_store_stats()["x509_ca"] != 1
    assert (own.check_hostname, own.verify_mode) == (True, ssl.CERT_REQUIRED)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("ssl_cert_reqs=none", (False, ssl.CERT_NONE)),
        ("ssl_cert_reqs=optional", (True, ssl.CERT_OPTIONAL)),
        ("ssl_check_hostname=false", (False, ssl.CERT_REQUIRED)),
        (f"ssl_ca_certs={AUTHORITY}", (True, ssl.CERT_REQUIRED)),
        (f"ssl_ca_path={Path(AUTHORITY).parent}", (True, ssl.CERT_REQUIRED)),
        (f"ssl_certfile={CERTIFICATE}&ssl_keyfile={KEY}", (True, ssl.CERT_REQUIRED)),
        ("ssl_min_version=1.3&ssl_ciphers=ECDHE-RSA-AES128-GCM-SHA256", (True, ssl.CERT_REQUIRED)),
    ],
)
def test_the_options_of_the_url_hold(option: str, expected: tuple[bool, int]) -> None:
    context = tls_for(redis_address(f"rediss://h?{option}"), None)
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == expected
    if "min_version" in option:
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (f"ssl_ca_certs={KEY}", "ssl_ca_certs"),
        ("ssl_ca_certs=/none", "ssl_ca_certs"),
        (f"ssl_certfile={KEY}", "ssl_certfile"),
        (f"ssl_certfile={CERTIFICATE}&ssl_keyfile={CERTIFICATE}", "ssl_certfile"),
        ("ssl_ciphers=none-of-these", "ssl_ciphers"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_by_its_option(option: str, named: str) -> None:
    with pytest.raises(SettingsError, match=rf"^redis_url: \(hidden\) .* the option {named} names"):
        tls_for(redis_address(f"rediss://:{canary.PASSWORD}@h?{option}"), None)


def test_one_authority_is_enough() -> None:
    with pytest.raises(SettingsError, match=r"^redis_ca: not allowed beside ssl_ca_certs"):
        tls_for(redis_address(f"rediss://h?ssl_ca_certs={AUTHORITY}"), AUTHORITY)


async def test_a_client_reads_text_over_tls_too(redis_server: RedisServer) -> None:
    async with tls_before(redis_server.url) as port:
        address = redis_address(f"rediss://:{canary.PASSWORD}@localhost:{port}?ssl_ca_certs={AUTHORITY}")
        async with client_of(address, tls_for(address, None), within=5) as client:
            assert await client.set("a", "b") is True
            assert await client.get("a") == "b"
