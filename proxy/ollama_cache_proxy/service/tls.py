"""TLS by files: towards clients, and towards Ollama and Redis where an authority of one's own signs for them."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from ollama_cache_proxy.service.settings import SettingsError


class CertificateError(Exception):
    """A certificate, a key or an authority cannot be used; the text says why, and holds nothing of them."""


def for_clients(certificate: str, key: str | None) -> ssl.SSLContext:
    """Give what a listener needs, from PEM files; the key may stand in the certificate's. Raises CertificateError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except OSError as error:
        raise CertificateError(_reason(error)) from None
    return context


def for_servers(authority: str) -> ssl.SSLContext:
    """Give what a connection to a server needs whose certificate this authority has signed, and no other."""
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise CertificateError(_reason(error)) from None


def tls_from_file(setting: str, path: str | None, load: Callable[[str], ssl.SSLContext]) -> ssl.SSLContext | None:
    """Give the TLS context of a file; raises SettingsError where it cannot be used."""
    if path is None:
        return None
    try:
        return load(path)
    except CertificateError as error:
        raise SettingsError(f"{setting}: {path!r} is not allowed: {error}") from None


def _no_password() -> str:
    raise CertificateError("the key must not be encrypted: nobody is there to type its password")


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "it is no PEM file of the right kind, or certificate and key do not belong together"
    return f"it cannot be read: {error.strerror}"
