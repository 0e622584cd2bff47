"""Whether entries are sealed, by the settings. What seals is imported only where it is used: it takes 7 MB."""

from __future__ import annotations

from ollama_cache_proxy.service.seal_key_file import key_in
from ollama_cache_proxy.service.settings import Settings, SettingsError
from ollama_cache_proxy.stores.codecs import Codec, PlainCodec


def seal_key(settings: Settings) -> bytes | None:
    """Return the key in the file that the settings name, None if they name none; raise SettingsError."""
    path = settings.seal_key_file
    if path is None:
        return None
    try:
        return key_in(path)
    except ValueError as error:
        raise SettingsError(f"seal_key_file: {path!r} is not allowed: {error}") from None
    except FileNotFoundError:
        text = f"seal_key_file: there is no {path}; `ollama-cache-proxy seal-key FILE` makes one"
        raise SettingsError(text) from None
    except OSError as error:
        raise SettingsError(f"seal_key_file: {path} cannot be read: {error.strerror}") from None


def codec_of(secret: bytes | None) -> Codec:
    """Return what makes bytes of entries: sealed with a key, in the clear for None."""
    if secret is None:
        return PlainCodec()
    from ollama_cache_proxy.stores.sealed_codec import SealedCodec  # noqa: PLC0415 - see the module

    return SealedCodec(secret)
