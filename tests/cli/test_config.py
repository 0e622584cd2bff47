from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from ollama_cache_proxy.cli.options import add_settings, given
from ollama_cache_proxy.service.settings import Settings
from tests.support import canary
from tests.support.terminal import piped, terminal, widest

USER_IN_URL = f"https://{canary.USER}:{canary.CREDENTIAL}@h:1"


async def test_a_file_of_credentials_is_named_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"Bearer {canary.CREDENTIAL}\n")
    out = (await piped("config", "--json", added={"OCP_UPSTREAM_AUTHORIZATION_FILE": str(file)})).out
    canary.check(out, "the settings")
    told = json.loads(out)
    assert told["upstream_authorization"] == {"value": "(hidden)", "source": "upstream_authorization_file"}
    assert told["upstream_authorization_file"] == {"value": str(file), "source": "environment"}


def test_each_option_that_is_a_setting_reaches_the_settings() -> None:
    options = argparse.ArgumentParser()
    add_settings(options)
    names = {action.dest for action in options._actions if action.dest in Settings.model_fields} - {"upstream"}
    assert {"listen", "store", "lanes"} <= names
    found = given(argparse.Namespace(**{name: f"given {name}" for name in names}))
    assert {name: found.get(name) for name in names} == {name: f"given {name}" for name in names}


async def test_it_says_where_each_setting_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'listen = "127.0.0.1:1"\nlinger = 5\nepoch = "a"\nadmin_token = "{canary.TOKEN}"\n')
    given = ("--listen", "127.0.0.1:3", "--cache", "chat=always", "--redis-ca", "ca.pem", "--store", "memory")
    arguments = ("config", "--config", str(file), *given, "--json")
    added = {"OCP_LISTEN": "127.0.0.1:2", "OCP_EPOCH": "b", "OCP_LOG": ""}
    told = json.loads((await piped(*arguments, added=added)).out)
    assert list(told) == list(Settings.model_fields)
    assert told["listen"] == {"value": "127.0.0.1:3", "source": "command line"}
    assert told["cache_chat"] == {"value": "always", "source": "command line"}
    assert told["redis_ca"] == {"value": "ca.pem", "source": "command line"}
    assert told["store"] == {"value": "memory", "source": "command line"}
    assert told["epoch"] == {"value": "b", "source": "environment"}
    assert told["linger"] == {"value": 5.0, "source": "file"}
    assert told["log"] == {"value": "auto", "source": "default"}
    assert told["admin_token"] == {"value": "(hidden)", "source": "file"}
    assert told["upstream"] == {"value": "http://127.0.0.1:11434", "source": "default"}


@pytest.mark.parametrize(
    ("added", "setting", "value", "source"),
    [
        ({"OLLAMA_HOST": "gpu:1"}, "upstream", "http://gpu:1", "OLLAMA_HOST"),
        ({"OLLAMA_HOST": "127.0.0.1:11494"}, "upstream", "http://127.0.0.1:11434", "default"),
        ({"OLLAMA_HOST": "127.0.0.1:11435"}, "upstream", "http://127.0.0.1:11434", "default"),
        ({"OCP_LISTEN": "127.0.0.1:11435"}, "listen", "127.0.0.1:11435", "environment"),
        ({"OLLAMA_HOST": "gpu:1", "OCP_UPSTREAM": "http://a:2"}, "upstream", "http://a:2", "environment"),
        ({"REDIS_URL": "redis://u:canary-of-a-password@h:1/2"}, "redis_url", "redis://h:1/2", "REDIS_URL"),
        ({"REDIS_URL": "redis://u:1:a@canary-of-a-password@h:1"}, "redis_url", "redis://h:1", "REDIS_URL"),
        ({"OCP_REDIS_URL": "redis://h?password=canary-of-a-password"}, "redis_url", "redis://h", "environment"),
        ({"REDIS_URL": "redis://h:1", "OCP_STORE": "memory"}, "redis_url", None, "default"),
        (
            {"OCP_REDIS_URL": "redis+sentinel://:canary-of-a-password@h,i/m/1"},
            "redis_url",
            "redis+sentinel://h,i/m/1",
            "environment",
        ),
        ({"OCP_REDIS_URL": "unix://u:canary-of-a-password@/s?db=1"}, "redis_url", "unix:///s", "environment"),
        ({"ocp_linger": "7"}, "linger", 7.0, "environment"),
        ({"OCP_PLACEHOLDER_CREDENTIALS": "a, b"}, "placeholder_credentials", ["a", "b"], "environment"),
        ({"OCP_ADMIN_TOKEN": canary.TOKEN}, "admin_token", "(hidden)", "environment"),
        ({"OCP_UPSTREAM_AUTHORIZATION": canary.CREDENTIAL}, "upstream_authorization", "(hidden)", "environment"),
        ({"OCP_UPSTREAM": USER_IN_URL}, "upstream_authorization", "(hidden)", "upstream"),
        ({"OCP_UPSTREAM": USER_IN_URL}, "upstream", "https://h:1", "environment"),
    ],
)
async def test_what_the_environment_names(added: dict[str, str], setting: str, value: object, source: str) -> None:
    out = (await piped("config", "--json", added=added)).out
    canary.check(out, "the settings")
    told = json.loads(out)
    assert told[setting] == {"value": value, "source": source}


async def test_the_file_of_the_environment_counts(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("linger = 5\n")
    told = json.loads((await piped("config", "--json", added={"OCP_CONFIG": str(file)})).out)
    assert told["linger"]["source"] == "file"


async def test_texts_stand_with_commas_between() -> None:
    added = {"OCP_PLACEHOLDER_CREDENTIALS": '["ollama", ""]'}
    lines = [line.split() for line in (await piped("config", added=added)).out.splitlines()]
    assert ["placeholder_credentials", "ollama,", '""', "environment"] in lines
    assert ["credential_fields", "–", "default"] in lines


@pytest.mark.parametrize("columns", [100, 60])
async def test_on_a_terminal_it_is_a_table(columns: int) -> None:
    async with terminal("config", columns=columns) as shown:
        assert await shown.end() == 0
    assert widest(shown.text) <= columns
    assert [name for name in Settings.model_fields if name not in shown.text] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--redis-url", "redis+sentinel://h/m?sentinel_password=canary-of-a-password"],
            "redis_url: (hidden) is not allowed on the command line",
        ),
        (["--redis-url", "redis://:canary-of-a-password@h"], "redis_url: (hidden) is not allowed on the command line"),
        (["--upstream", "https://u:canary-of-a-credential@h"], "upstream: (hidden) is not allowed on the command line"),
        (["--upstream", "http://127.0.0.1:11494"], "it is the proxy's own address"),
        (["--config", "/nowhere"], "/nowhere is not a file"),
    ],
)
async def test_what_serve_would_refuse_is_refused(arguments: list[str], said: str) -> None:
    done = await piped("config", *arguments)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err
    canary.check(done.err, "the error")


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ({"REDIS_URL": "redis://:12/canary-of-a-password@h:1"}, "REDIS_URL: (hidden) is not allowed: must have / ? #"),
        ({"REDIS_URL": "redis://u:1#canary-of-a-password@h"}, "REDIS_URL: (hidden) is not allowed: must have / ? #"),
        (
            {"OCP_REDIS_URL": "redis://u:1?canary-of-a-password@h"},
            "redis_url: (hidden) is not allowed: must have / ? #",
        ),
        ({"OCP_REDIS_URL": "redis://h/canary-of-a-password"}, "redis_url: (hidden) is not allowed: the database"),
        ({"OCP_UPSTREAM": "http://canary-of-a-user/canary-of-a-credential@h:1"}, "upstream: (hidden) is not allowed: "),
        ({"OCP_UPSTREAM": "http://h/canary-of-a-user:canary-of-a-credential@x"}, "upstream: (hidden) is not allowed: "),
        ({"OCP_UPSTREAM": "http://h?token=canary-of-a-credential"}, "upstream: (hidden) is not allowed: "),
        ({"OLLAMA_HOST": "http://h?token=canary-of-a-credential"}, "OLLAMA_HOST: (hidden) is not allowed: "),
        ({"OLLAMA_HOST": "http://canary-of-a-user/canary-of-a-credential@h:1"}, "OLLAMA_HOST: (hidden) is not allowed"),
    ],
)
async def test_a_secret_in_a_wrong_url_is_not_shown(added: dict[str, str], said: str) -> None:
    done = await piped("config", added=added)
    canary.check(done.out + done.err, "the output")
    assert said in done.err
