from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from ollama_cache_proxy.cli.completion import _SHELLS, grammars
from ollama_cache_proxy.cli.main import COMMANDS, parser

COMPLETE = """
source /dev/stdin
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_ollama_cache_proxy
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script() -> str:
    return _SHELLS["bash"](grammars(parser()))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("ollama-cache-proxy st", {"stats"}),
        ("ollama-cache-proxy c", {"clear", "config", "completion"}),
        ("ollama-cache-proxy --v", {"--version"}),
        ("ollama-cache-proxy stats --w", {"--watch"}),
        ("ollama-cache-proxy serve --log ''", {"auto", "plain", "colour", "json"}),
        ("ollama-cache-proxy completion ''", {"bash", "zsh", "fish", "-h", "--help"}),
        ("ollama-cache-proxy explain pyproj", {"pyproject.toml"}),
        ("ollama-cache-proxy serve --config READ", {"README.md"}),
        ("ollama-cache-proxy serve --no-cache", {"--no-cache-streams"}),
        ("ollama-cache-proxy nothing --", set()),
    ],
)
def test_bash_offers_what_may_follow(words: str, offered: set[str], script: str) -> None:
    command = ["bash", "-c", COMPLETE.format(words=words)]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=True, timeout=20)
    assert done.stderr == ""
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_option_is_in_each_script(shell: str) -> None:
    """The shell itself reads it where it is installed: bash always is."""
    done = subprocess.run(
        [sys.executable, "-m", "ollama_cache_proxy", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stderr == ""
    for name, grammar in grammars(parser()).items():
        assert name in COMMANDS
        for word in grammar.words:
            bare = word.name.lstrip("-") if shell == "fish" else word.name
            assert bare in done.stdout, (name, word.name)
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True, timeout=20)
