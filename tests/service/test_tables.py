from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.service.settings import Settings, SettingsError, load, longest_lifetime, packed, unpacked
from ollama_cache_proxy.service.tables import Table, shown

FILE = """
ttl_embedding = "1d"

[models."all-minilm"]
ttl = "90d"
lifetime = "idle"

[models."qwen3:8b"]
cache = "off"

[categories.docs]
ttl = 60
"""


@pytest.fixture
def read(tmp_path: Path) -> Settings:
    return load(written(tmp_path, FILE), {})


def written(folder: Path, text: str) -> str:
    (folder / "proxy.toml").write_text(text, "utf-8")
    return str(folder / "proxy.toml")


def test_tables_of_a_file_are_read(read: Settings) -> None:
    assert read.models == {"all-minilm": Table(ttl=7_776_000, lifetime="idle"), "qwen3:8b": Table(cache="off")}
    assert read.categories == {"docs": Table(ttl=60)}
    assert shown(read.models) == {"all-minilm": {"ttl": 7_776_000, "lifetime": "idle"}, "qwen3:8b": {"cache": "off"}}


def test_workers_get_them(read: Settings) -> None:
    assert unpacked(json.loads(json.dumps(packed(read)))) == read


def test_those_of_the_environment_are_json_and_take_the_place_of_the_file_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCP_MODELS", '{"bge-m3": {"ttl": "12h"}}')
    found = load(written(tmp_path, FILE), {})
    assert found.models == {"bge-m3": Table(ttl=43_200)}
    assert found.categories == {"docs": Table(ttl=60)}


@pytest.mark.parametrize(
    ("given", "longest"),
    [
        ({}, 86_400),
        ({"ttl_completion": "2d"}, 172_800),
        ({"lifetime": "idle"}, 7_776_000),
        ({"lifetime": "idle", "max_lifetime": 5}, 86_400),
        ({"models": {"a": {"ttl": "3d"}, "b": {}}}, 259_200),
        ({"categories": {"a": {"lifetime": "idle"}}}, 7_776_000),
        ({"categories": {"a": {"lifetime": "until-evicted"}}}, 2**31),
    ],
)
def test_the_longest_lifetime_is_that_of_any_table(given: dict[str, Any], longest: int) -> None:
    assert longest_lifetime(load(None, given)) == longest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[models."all-minilm"]\nttl = "90x"', "models.all-minilm.ttl: '90x' is not allowed: must be whole seconds"),
        ('[models."all-minilm"]\nlifetime = "long"', "models.all-minilm.lifetime: 'long' is not allowed: "),
        ('[models."all-minilm"]\ncache = "on"', "models.all-minilm.cache: 'on' is not allowed: "),
        ("[models.a]\ntll = 5", "models.a.tll: there is no such setting"),
        ("[models]\na = 5", "models.a: 5 is not allowed: "),
        ("models = 5", "models: 5 is not allowed: "),
        ('[models."a b"]\nttl = 5', "'a b' is no name of a model"),
        (
            '[models.tiny]\nttl = 5\n[models."library/tiny:latest"]\nttl = 6',
            "'tiny' and 'library/tiny:latest' are one model",
        ),
        ("[categories.Docs]\nttl = 5", "'Docs' is no category: 1 to 32 of a to z, 0 to 9 and -"),
        ('[categories.""]\nttl = 5', "'' is no category"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, text), {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["{", "all-minilm", "[]", "5", '{"all-minilm": 5}', '{"all-minilm": {"ttl": "x"}}'])
def test_what_is_wrong_in_the_environment_is_said_in_one_line(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCP_MODELS", value)
    with pytest.raises(SettingsError, match=r"\Amodels.*is not allowed: ") as caught:
        load(None, {})
    assert "\n" not in str(caught.value)
