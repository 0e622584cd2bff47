"""TLS contexts from PEM files: for clients, and for Ollama and Redis with a private authority."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from ollama_cache_proxy.service.settings import SettingsError


class CertificateError(Exception):
    """A certificate, a key or an authority cannot be used; the text says why, without their content."""


def for_clients(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return a listener's context from PEM files; the key may be in the certificate's file. Raise CertificateError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except OSError as error:
        raise CertificateError(_reason(error)) from None
    return context


def renew(listening: ssl.SSLContext, context: ssl.SSLContext) -> None:
    """Have the connections that a listener's context begins from now on go by another context.

    The callback is called for each handshake, with or without a name in it.
    """

    def choose(connection: ssl.SSLObject, _name: str | None, _listening: ssl.SSLContext) -> None:
        connection.context = context

    listening.sni_callback = choose


def for_servers(authority: str) -> ssl.SSLContext:
    """Return a context for connections to servers whose certificate this authority has signed, and to no others."""
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise CertificateError(_reason(error)) from None


def tls_from_file(setting: str, path: str | None, load: Callable[[str], ssl.SSLContext]) -> ssl.SSLContext | None:
    """Return the TLS context that `load` makes of a file, None without a path; raise SettingsError."""
    if path is None:
        return None
    try:
        return load(path)
    except CertificateError as error:
        raise SettingsError(f"{setting}: {path!r} is not allowed: {error}") from None


def _no_password() -> str:
    raise CertificateError("the key must not be encrypted: the proxy cannot ask for its password")


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "it is not a PEM file of the right kind, or certificate and key do not match"
    return f"it cannot be read: {error.strerror}"
