from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.jobs.pack_keys import make_pair, name_of, private_key, public_key, raw, sign, signer

DIGEST = b"d" * 32
RFC_8410 = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""
RFC_8410_PUBLIC = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""
"""The examples of its section 10, in the form that OpenSSL writes too."""
X25519 = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VuAyEACR6pCV3TAkp4xWtK0Zs4mCKNNnHRpKWp9uMJ4Ozc6lY=
-----END PUBLIC KEY-----
"""


def test_a_pair_signs_and_checks(tmp_path: Path) -> None:
    name = make_pair(tmp_path / "a.pem")
    key, public = private_key(tmp_path / "a.pem"), raw(public_key(tmp_path / "a.pem.pub"))
    assert name == name_of(public)
    assert stat.S_IMODE((tmp_path / "a.pem").stat().st_mode) == 0o600
    signature = sign(key, DIGEST)
    assert signer(signature, DIGEST) == public
    assert signer(signature, b"e" * 32) is None
    for at in range(len(signature)):
        assert signer(signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :], DIGEST) is None, at


def test_a_key_without_its_public_half_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "a.pem.pub").write_text("mine")
    with pytest.raises(Failed, match=r"a\.pem\.pub is there already"):
        make_pair(tmp_path / "a.pem")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.pem.pub", "mine")]


def test_no_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("mine")
    with pytest.raises(Failed, match="is there already and was left alone"):
        make_pair(tmp_path / "a.pem")
    assert (tmp_path / "a.pem").read_text() == "mine"
    with pytest.raises(Failed, match="cannot be written"):
        make_pair(tmp_path / "absent" / "a.pem")


@pytest.mark.parametrize("text", ["", "x", X25519, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_another_file_is_no_key(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    path.write_text(text)
    for read in (private_key, public_key):
        with pytest.raises(Failed, match=r"is no (private|public) Ed25519 key"):
            read(path)


def test_halves_are_told_apart(tmp_path: Path) -> None:
    make_pair(tmp_path / "a.pem")
    with pytest.raises(Failed, match="is no public"):
        public_key(tmp_path / "a.pem")
    with pytest.raises(Failed, match="is no private"):
        private_key(tmp_path / "a.pem.pub")


def test_keys_of_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text(RFC_8410)
    (tmp_path / "a.pub").write_text(RFC_8410_PUBLIC)
    assert signer(sign(private_key(tmp_path / "a.pem"), DIGEST), DIGEST) == raw(public_key(tmp_path / "a.pub"))
