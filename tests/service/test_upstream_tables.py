from __future__ import annotations

import json
from pathlib import Path

import pytest

from ollama_cache_proxy.service.settings import SettingsError, chosen_upstream, chosen_upstreams, load, packed, unpacked
from ollama_cache_proxy.service.upstream_tables import UpstreamTable, as_values

FILE = """
[[upstreams]]
url = "http://gpu1:11434/"
name = "big"
weight = 4
models = ["llama3:70b"]
labels = ["nvidia"]

[[upstreams]]
url = "http://gpu2"
epoch = "fp8"
"""
BIG = UpstreamTable(url="http://gpu1:11434", name="big", weight=4, models=("llama3:70b",), labels=("nvidia",))


def written(folder: Path, text: str) -> str:
    (folder / "proxy.toml").write_text(text, "utf-8")
    return str(folder / "proxy.toml")


def test_tables_of_a_file_are_read_and_workers_get_them(tmp_path: Path) -> None:
    found = load(written(tmp_path, FILE), {})
    assert found.upstreams == (BIG, UpstreamTable(url="http://gpu2:80", epoch="fp8"))
    assert [table.called for table in found.upstreams] == ["big", "gpu2:80"]
    assert unpacked(json.loads(json.dumps(packed(found)))) == found
    assert as_values(found.upstreams)[1] == {"url": "http://gpu2:80", "epoch": "fp8"}
    assert chosen_upstreams(found, "127.0.0.1:1") == found.upstreams
    assert chosen_upstream(found, "127.0.0.1:1") == ("http://gpu1:11434", "upstream")


@pytest.mark.parametrize("value", ["http://a:1, http://b:2", '[{"url": "http://a:1"}, "http://b:2"]'])
def test_those_of_the_environment_are_urls_or_json(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCP_UPSTREAMS", value)
    assert [table.url for table in load(None, {}).upstreams] == ["http://a:1", "http://b:2"]


def test_one_table_is_as_if_it_were_the_only_upstream() -> None:
    found = load(None, {"upstreams": [{"url": "http://a:1", "epoch": "x"}], "audit": "1%"})
    assert (found.upstream, found.upstreams, found.epoch) == ("http://a:1", (), "x")
    assert chosen_upstreams(found, "127.0.0.1:1") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[upstreams]]\nurl = "gpu1"', "upstreams: (hidden) is not allowed: must be an http:// or https:// URL"),
        ('[[upstreams]]\nname = "a"', "upstreams.0.url: "),
        ('[[upstreams]]\nurl = "http://a:1"\nweight = 0', "upstreams.0.weight: 0 is not allowed"),
        ('[[upstreams]]\nurl = "http://a:1"\nhue = 0', "upstreams.0.hue: there is no such setting"),
        ('[[upstreams]]\nurl = "http://a:1"\nname = "a b"', "'a b' is no name of an upstream"),
        ('[[upstreams]]\nurl = "http://a:1"\nmodels = ["a b"]', "'a b' is no name of a model"),
        ('upstreams = ["http://a:1", "http://a:1"]', "two of them are called 'a:1'"),
        ('upstreams = ["http://a:1", {url = "http://b:1", labels = ["a:1"]}]', "is the name of one and a label too"),
        ("upstreams = 5", "upstreams: 5 is not allowed"),
        ('audit = "1%"\nupstreams = ["http://a:1", "http://b:1"]', "audit: '1%' is not allowed with several upstreams"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, text), {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_in_the_environment_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCP_UPSTREAMS", "[")
    with pytest.raises(SettingsError, match="must be URLs with commas between, or a JSON array of tables"):
        load(None, {})


def test_the_proxy_itself_is_none_of_them() -> None:
    found = load(None, {"upstreams": ("http://127.0.0.1:5000", "http://127.0.0.1:5001")})
    with pytest.raises(SettingsError, match="it is the proxy's own address"):
        chosen_upstreams(found, "127.0.0.1:5001")
