"""What the settings say about sealing, and the one line that is told where the key cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollama_cache_proxy.service.seal_key_file import make_key
from ollama_cache_proxy.service.sealing import codec_of, seal_key
from ollama_cache_proxy.service.settings import SettingsError, load
from tests.support.entries import ENTRY

GENERATION, KEY = "0" * 32, "ab" * 32


def test_without_a_file_entries_are_in_the_clear() -> None:
    secret = seal_key(load(None, {}))
    assert secret is None
    assert codec_of(secret).encode(GENERATION, KEY, ENTRY).startswith(b"OCP1")


def test_with_a_file_they_are_sealed_with_what_it_holds(tmp_path: Path) -> None:
    make_key(str(tmp_path / "key"))
    secret = seal_key(load(None, {"seal_key_file": str(tmp_path / "key")}))
    value = codec_of(secret).encode(GENERATION, KEY, ENTRY)
    assert value.startswith(b"OCS1")
    assert (
        codec_of(seal_key(load(None, {"seal_key_file": str(tmp_path / "key")}))).decode(GENERATION, KEY, value) == ENTRY
    )


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        ("0" * 63, 0o600, "seal_key_file: '{}' is not allowed: must hold 64 hexadecimal digits and nothing else, as "),
        ("0" * 64, 0o644, "seal_key_file: '{}' is not allowed: others may read or change it; `chmod 600` it"),
        (None, 0, "seal_key_file: there is no {}; `ollama-cache-proxy seal-key FILE` makes one"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(text: str | None, mode: int, told: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(SettingsError) as refused:
        seal_key(load(None, {"seal_key_file": str(file)}))
    assert str(refused.value).startswith(told.format(file))
    assert "\n" not in str(refused.value)
    assert "000000" not in str(refused.value)


def test_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^seal_key_file: .*(cannot be read: Is a directory|it is not a file)$"):
        seal_key(load(None, {"seal_key_file": str(tmp_path)}))
