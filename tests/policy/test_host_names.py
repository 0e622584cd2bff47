from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.host_names import HostNames, host_names


@pytest.mark.parametrize(
    ("texts", "name", "included"),
    [
        ((), "box.example", False),
        (("box.example",), "box.example", True),
        (("Box.Example",), "box.example", True),
        (("box.example",), "a.box.example", False),
        (("box.example",), "box.example.evil", False),
        (("*.ts.net",), "box.tail1.ts.net", True),
        (("*.ts.net",), "ts.net", False),
        (("*.ts.net",), "evilts.net", False),
        (("*.ts.net",), "box.ts.net.evil", False),
        (("*.ts.net",), ".ts.net", True),
        (("*.lan", "box"), "box", True),
        (("*.lan", "box"), "nas.lan", True),
        (("203.0.113.7", "2001:db8::1"), "203.0.113.7", True),
        (("203.0.113.7", "2001:db8::1"), "2001:db8::1", True),
        (("203.0.113.7",), "203.0.113.8", False),
        (("a." * 126 + "a",), "a." * 126 + "a", True),
    ],
)
def test_which_names_are_allowed(texts: tuple[str, ...], name: str, included: bool) -> None:
    assert host_names(texts).include(name) is included


def test_none_is_by_default() -> None:
    assert host_names(()) == HostNames()


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.", "**.a", "a*.b", "*a", "*.*.a", "a.", ".a", "a..b", "a:80", "http://a", "a/b", "a b", "ä.example", "-a", "a-", "[::1]", "a" * 64, "aa." + "a." * 125 + "a"],
)  # fmt: skip
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as box.example or \*.ts.net"):
        host_names(("box.example", text))
