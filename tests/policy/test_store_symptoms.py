"""What the other end of a Redis URL looks like, by what was seen of it."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.policy.store_symptoms import Heard, Sight, Symptom, heard, heard_in, of_mode, refused, symptom

ANY_TLS = Sight(heard=Heard.REDIS, handshake=True)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b"", Heard.CLOSED),
        (b"+PONG\r\n", Heard.REDIS),
        (b"-NOAUTH Authentication required.\r\n", Heard.REDIS),
        (b"-ERR unknown command\r\n", Heard.REDIS),
        (b"-DENIED Redis is running in protected mode", Heard.REDIS),
        (b"-LOADING Redis is loading", Heard.REDIS),
        (b"-BUSY\r\n", Heard.REDIS),
        (b"+OK\r\n", Heard.OTHER),
        (b":1\r\n", Heard.OTHER),
        (b"- no", Heard.OTHER),
        (b"HTTP/1.1 400 Bad Request\r\n", Heard.HTTP),
        (b"HTTPS", Heard.OTHER),
        (b"\x15\x03\x03\x00\x02\x02\x46", Heard.TLS),
        (b"\x16\x03\x01\x02", Heard.TLS),
        (b"\x15\x04\x01", Heard.OTHER),
        (b"SSH-2.0-OpenSSH\r\n", Heard.OTHER),
        (b"\x00\xff", Heard.OTHER),
    ],
)
def test_the_first_bytes_say_what_speaks(first: bytes, expected: Heard) -> None:
    assert heard(first) is expected


def certificate(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "secret")
    error.verify_code = code
    return error


def tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "secret")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (certificate(2), Heard.AUTHORITY),
        (certificate(18), Heard.AUTHORITY),
        (certificate(19), Heard.AUTHORITY),
        (certificate(20), Heard.AUTHORITY),
        (certificate(21), Heard.AUTHORITY),
        (certificate(10), Heard.EXPIRED),
        (certificate(9), Heard.NOT_YET),
        (certificate(62), Heard.HOST),
        (certificate(64), Heard.HOST),
        (certificate(23), Heard.UNVERIFIED),
        (tls("WRONG_VERSION_NUMBER"), Heard.NO_TLS),
        (tls("RECORD_LAYER_FAILURE"), Heard.NO_TLS),
        (tls("HTTP_REQUEST"), Heard.NO_TLS),
        (tls(""), Heard.NO_TLS),
        (tls("UNEXPECTED_EOF_WHILE_READING"), Heard.CLOSED),
        (tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), Heard.WANTS_CERTIFICATE),
        (tls("SSLV3_ALERT_BAD_CERTIFICATE"), Heard.WANTS_CERTIFICATE),
        (tls("SSLV3_ALERT_CERTIFICATE_UNKNOWN"), Heard.WANTS_CERTIFICATE),
        (tls("SSLV3_ALERT_HANDSHAKE_FAILURE"), Heard.HANDSHAKE),
        (tls("TLSV1_ALERT_PROTOCOL_VERSION"), Heard.HANDSHAKE),
        (tls("UNSUPPORTED_PROTOCOL"), Heard.HANDSHAKE),
        (tls("NO_SHARED_CIPHER"), Heard.HANDSHAKE),
        (tls("TLSV1_ALERT_INSUFFICIENT_SECURITY"), Heard.HANDSHAKE),
        (socket.gaierror(8, "secret"), Heard.UNKNOWN_HOST),
        (ConnectionRefusedError(), Heard.REFUSED),
        (FileNotFoundError(), Heard.REFUSED),
        (PermissionError(), Heard.FORBIDDEN),
        (ConnectionResetError(), Heard.CLOSED),
        (ConnectionAbortedError(), Heard.CLOSED),
        (BrokenPipeError(), Heard.CLOSED),
        (asyncio.IncompleteReadError(b"secret", 1), Heard.CLOSED),
        (TimeoutError(), Heard.UNREACHABLE),
        (OSError(113, "No route to host"), Heard.UNREACHABLE),
        (RuntimeError("uvloop"), Heard.CLOSED),
        (ValueError("secret"), Heard.CLOSED),
    ],
)
def test_an_exception_says_how_it_failed(error: BaseException, expected: Heard) -> None:
    assert heard_in(error) is expected


def saw(kind: Heard, *, handshake: bool = False) -> Sight:
    return Sight(heard=kind, handshake=True) if handshake else Sight(heard=kind)


@pytest.mark.parametrize(
    ("plain", "secure", "expected"),
    [
        (Heard.REDIS, None, None),
        (Heard.CLOSED, ANY_TLS, Symptom.SPEAKS_TLS),
        (Heard.SILENT, ANY_TLS, Symptom.SPEAKS_TLS),
        (Heard.OTHER, ANY_TLS, Symptom.SPEAKS_TLS),
        (Heard.TLS, None, Symptom.SPEAKS_TLS),
        (Heard.CLOSED, saw(Heard.CLOSED, handshake=True), Symptom.SPEAKS_TLS),
        (Heard.CLOSED, saw(Heard.WANTS_CERTIFICATE), Symptom.SPEAKS_TLS),
        (Heard.CLOSED, saw(Heard.HANDSHAKE), Symptom.SPEAKS_TLS),
        (Heard.CLOSED, saw(Heard.CLOSED), Symptom.BREAKS_OFF),
        (Heard.CLOSED, saw(Heard.NO_TLS), Symptom.BREAKS_OFF),
        (Heard.SILENT, saw(Heard.SILENT), Symptom.SILENT),
        (Heard.SILENT, None, Symptom.SILENT),
        (Heard.OTHER, saw(Heard.NO_TLS), Symptom.SPEAKS_OTHER),
        (Heard.HTTP, None, Symptom.SPEAKS_HTTP),
        (Heard.HTTP, ANY_TLS, Symptom.SPEAKS_HTTP),
        (Heard.REFUSED, None, Symptom.REFUSES),
        (Heard.UNREACHABLE, None, Symptom.UNREACHABLE),
        (Heard.UNKNOWN_HOST, None, Symptom.UNKNOWN_HOST),
        (Heard.FORBIDDEN, None, Symptom.FORBIDDEN),
    ],
)
def test_a_url_without_tls(plain: Heard, secure: Sight | None, expected: Symptom | None) -> None:
    assert symptom(tls=False, plain=saw(plain), secure=secure) is expected


@pytest.mark.parametrize(
    ("plain", "secure", "expected"),
    [
        (Heard.CLOSED, ANY_TLS, None),
        (Heard.REDIS, saw(Heard.NO_TLS), Symptom.SPEAKS_PLAIN),
        (Heard.REDIS, saw(Heard.SILENT), Symptom.SPEAKS_PLAIN),
        (Heard.REDIS, saw(Heard.CLOSED), Symptom.SPEAKS_PLAIN),
        (Heard.HTTP, saw(Heard.NO_TLS), Symptom.SPEAKS_HTTP),
        (Heard.HTTP, saw(Heard.HTTP, handshake=True), Symptom.SPEAKS_HTTP),
        (Heard.CLOSED, saw(Heard.OTHER, handshake=True), Symptom.SPEAKS_OTHER),
        (Heard.CLOSED, saw(Heard.CLOSED, handshake=True), Symptom.WANTS_CERTIFICATE),
        (Heard.CLOSED, saw(Heard.SILENT, handshake=True), Symptom.SILENT),
        (Heard.CLOSED, saw(Heard.CLOSED), Symptom.BREAKS_OFF),
        (Heard.SILENT, saw(Heard.SILENT), Symptom.SILENT),
        (Heard.OTHER, saw(Heard.NO_TLS), Symptom.SPEAKS_OTHER),
        (Heard.CLOSED, saw(Heard.AUTHORITY), Symptom.AUTHORITY),
        (Heard.CLOSED, saw(Heard.HOST), Symptom.HOST),
        (Heard.CLOSED, saw(Heard.EXPIRED), Symptom.EXPIRED),
        (Heard.CLOSED, saw(Heard.NOT_YET), Symptom.NOT_YET),
        (Heard.CLOSED, saw(Heard.UNVERIFIED), Symptom.UNVERIFIED),
        (Heard.CLOSED, saw(Heard.WANTS_CERTIFICATE, handshake=True), Symptom.WANTS_CERTIFICATE),
        (Heard.CLOSED, saw(Heard.HANDSHAKE), Symptom.HANDSHAKE),
        (Heard.REFUSED, saw(Heard.REFUSED), Symptom.REFUSES),
        (Heard.UNREACHABLE, saw(Heard.SILENT), Symptom.UNREACHABLE),
        (Heard.UNKNOWN_HOST, saw(Heard.UNKNOWN_HOST), Symptom.UNKNOWN_HOST),
    ],
)
def test_a_url_with_tls(plain: Heard, secure: Sight, expected: Symptom | None) -> None:
    assert symptom(tls=True, plain=saw(plain), secure=secure) is expected


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("handshake", [True, False])
@pytest.mark.parametrize("plain", Heard)
@pytest.mark.parametrize("secure", [*Heard, None])
def test_whatever_was_seen_is_one_symptom_or_none(
    asked: bool, handshake: bool, plain: Heard, secure: Heard | None
) -> None:
    """A plain connection never hears what only TLS tells, and one with an agreed handshake no failure of one."""
    if plain in (Heard.NO_TLS, *TLS_ALONE) or (handshake and secure not in AFTER_HANDSHAKE):
        return
    second = None if secure is None else Sight(heard=secure, handshake=handshake)
    found = symptom(tls=asked, plain=Sight(heard=plain), secure=second)
    assert found is None or "{" not in found.line("h:1")


TLS_ALONE = (
    Heard.HANDSHAKE,
    Heard.WANTS_CERTIFICATE,
    Heard.AUTHORITY,
    Heard.HOST,
    Heard.EXPIRED,
    Heard.NOT_YET,
    Heard.UNVERIFIED,
)
AFTER_HANDSHAKE = (Heard.REDIS, Heard.HTTP, Heard.OTHER, Heard.CLOSED, Heard.SILENT, Heard.TLS)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AuthenticationError("secret"), Symptom.PASSWORD),
        (ResponseError("NOAUTH Authentication required"), Symptom.PASSWORD),
        (ResponseError("DB index is out of range"), Symptom.DATABASE),
        (ResponseError("DENIED Redis is running in protected mode"), Symptom.PROTECTED),
        (RedisConnectionError("max number of clients reached"), Symptom.FULL),
        (ClusterCrossSlotError("Keys in request don't hash to the same slot"), Symptom.CLUSTER),
        (ResponseError("CROSSSLOT Keys in request don't hash to the same slot"), Symptom.CLUSTER),
        (MovedError("3999 127.0.0.1:6381"), Symptom.CLUSTER),
        (AskError("3999 127.0.0.1:6381"), Symptom.CLUSTER),
        (TryAgainError("Multiple keys request during rehashing of slot"), Symptom.CLUSTER),
        (ClusterDownError("Hash slot not served"), Symptom.CLUSTER),
        (ReadOnlyError("secret"), None),
        (NoPermissionError("secret"), None),
        (BusyLoadingError("secret"), None),
        (ResponseError("secret CROSSSLOT"), None),
        (TimeoutError(), None),
    ],
)
def test_a_refusal_says_what_is_wrong(error: Exception, expected: Symptom | None) -> None:
    assert refused(error) is expected


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"redis_mode": "sentinel"}, Symptom.SENTINEL),
        ({"server_mode": "sentinel"}, Symptom.SENTINEL),
        ({"redis_mode": "cluster"}, Symptom.CLUSTER),
        ({"redis_mode": "standalone"}, None),
        ({}, None),
    ],
)
def test_the_mode_of_a_server(info: dict[str, object], expected: Symptom | None) -> None:
    assert of_mode(info) is expected


def test_every_symptom_names_the_place_and_says_what_to_do() -> None:
    assert Symptom.SPEAKS_TLS.line("h:1") == "h:1 seems to speak TLS: write rediss://"
    for found in Symptom:
        assert "h:1" in found.what("h:1")
        assert found.line("h:1").count("\n") == 0
        assert found.fix
