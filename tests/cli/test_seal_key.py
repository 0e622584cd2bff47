"""`seal-key`: a key that nobody else can read, and that is never written over; what `serve` says of one it cannot use."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ollama_cache_proxy.cli import seal_key
from ollama_cache_proxy.service.seal_key_file import key_in
from tests.support.terminal import piped

COMMAND = seal_key.__name__.rpartition(".")[2].replace("_", "-")


async def test_it_makes_a_key_and_says_where_without_showing_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    done = await piped(COMMAND, str(path))
    assert (done.status, done.err) == (0, "")
    assert done.out == f"A new key is in {path}. Name it to the proxy: seal_key_file, or OCP_SEAL_KEY_FILE\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_in(str(path)).hex() not in done.out


async def test_it_leaves_a_file_alone_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("precious")
    done = await piped(COMMAND, str(path))
    assert (done.status, done.out) == (2, "")
    assert done.err == f"ollama-cache-proxy: {path} is there already and was left alone; name another file\n"
    assert path.read_text() == "precious"


async def test_where_nothing_can_be_written_it_says_why(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "key"
    done = await piped(COMMAND, str(path))
    assert (done.status, done.out) == (2, "")
    assert done.err == f"ollama-cache-proxy: {path} cannot be written: No such file or directory\n"


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        (
            "0" * 64,
            0o640,
            "is not allowed: others may read or change it; `chmod 600` it, or make a new one if they have",
        ),
        ("0" * 65, 0o600, "is not allowed: must hold 64 hexadecimal digits and nothing else, as"),
    ],
)
async def test_a_proxy_does_not_start_with_a_key_that_others_can_read_or_that_is_none(
    text: str, mode: int, told: str, workers: str, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    added = {"OCP_SEAL_KEY_FILE": str(path)}
    done = await piped("serve", "--listen", "127.0.0.1:0", "--workers", workers, added=added)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"ollama-cache-proxy: seal_key_file: '{path}' {told}")
    assert done.err.count("\n") == 1
    assert text not in done.err


async def test_config_names_the_file_and_not_the_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    await piped(COMMAND, str(path))
    done = await piped("config", added={"OCP_SEAL_KEY_FILE": str(path), "COLUMNS": "400"})
    assert done.status == 0
    assert str(path) in done.out
    assert key_in(str(path)).hex() not in done.out
