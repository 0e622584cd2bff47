from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ollama_cache_proxy.cli.completion import grammars, script
from ollama_cache_proxy.cli.main import COMMANDS, parser
from tests.support.leaving_out import program

ROOT = Path(__file__).parents[2]

BASH = """
source "$1"
COMP_WORDS=($2)
[[ $2 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_ollama_cache_proxy
printf '%s\\n' "${COMPREPLY[@]}"
"""

FISH = """
source $argv[1]
complete --do-complete $argv[2]
"""

ZSH = r"""
zmodload zsh/zpty
zpty -b shell 'zsh -f -i'  # a shell on a terminal of its own, in which a key asks what is offered
zpty -w shell "PS1= script=${(q)1} offered=${(q)2}; $4"
zpty -w shell 'compadd() {
    (( ${@[(I)-[OAD]]} )) && { builtin compadd "$@"; return; }
    local -a added
    builtin compadd -O added "$@"
    (( $#added )) && print -rl -- $added >> $offered
    builtin compadd "$@"
}
offer() { _main_complete; compstate[insert]= compstate[list]=; }
finish() { print -r -- FINI""SHED; }
zle -C offer complete-word offer; zle -N finish; bindkey "^T" offer "^Y" finish; print -r -- REA""DY'
zpty -r shell said '*READY*'
zpty -w -n shell "$3"$'\C-T\C-Y'
zpty -r shell said '*FINISHED*'
zpty -d shell
"""
AS_COMMAND = "autoload -Uz compinit; compinit -u -D; source $script"
AS_FILE = "fpath=(${script:h} $fpath); autoload -Uz compinit; compinit -u -D"
"""The two ways of loading a script in zsh: at its start, or by its name from a folder in fpath."""

OFFERED = [
    ("ollama-cache-proxy st", {"stats"}),
    ("ollama-cache-proxy c", {"clear", "config", "completion"}),
    ("ollama-cache-proxy --v", {"--version"}),
    ("ollama-cache-proxy stats --w", {"--watch"}),
    ("ollama-cache-proxy stats --watch --j", {"--json"}),
    ("ollama-cache-proxy serve --log ", {"auto", "plain", "colour", "json"}),
    ("ollama-cache-proxy serve --cache chat=always --cac", {"--cache", "--cache-streams"}),
    ("ollama-cache-proxy serve --no-cache", {"--no-cache-streams"}),
    ("ollama-cache-proxy serve --config READ", {"README.md"}),
    ("ollama-cache-proxy explain pyproj", {"pyproject.toml"}),
    ("ollama-cache-proxy gpu --replay READ", {"README.md"}),
    ("ollama-cache-proxy nothing --", set()),
]


def offers(shell: str, line: str, folder: Path, *, loaded: str = AS_COMMAND) -> set[str]:
    """Return what the shell offers at the end of a line, with the script loaded."""
    program(shell)
    file, offered = folder / "_ollama-cache-proxy", folder / "offered"
    file.write_text(script(shell, parser()), "utf-8")
    command = {
        "bash": ["bash", "--norc", "-c", BASH, "bash", file, line],
        "fish": ["fish", "--no-config", "-c", FISH, file, line],
        "zsh": ["zsh", "-f", "-c", ZSH, "zsh", file, offered, line, loaded],
    }[shell]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    if shell == "zsh":
        return set(offered.read_text("utf-8").splitlines()) if offered.exists() else set()
    return {line.partition("\t")[0] for line in done.stdout.splitlines()} - {""}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("line", "offered"), OFFERED)
def test_a_shell_offers_what_may_follow(shell: str, line: str, offered: set[str], tmp_path: Path) -> None:
    assert offers(shell, line, tmp_path) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_offered_first(shell: str, tmp_path: Path) -> None:
    assert {word for word in offers(shell, "ollama-cache-proxy ", tmp_path) if word[0] != "-"} == set(COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("command", ["serve", "clear", "quantize"])
def test_every_option_of_a_command_is_offered(shell: str, command: str, tmp_path: Path) -> None:
    words = {word.name for word in grammars(parser())[command].words if word.name.startswith("--")}
    assert offers(shell, f"ollama-cache-proxy {command} --", tmp_path) == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_words_that_stand_for_themselves_are_offered(shell: str, tmp_path: Path) -> None:
    dashed = {"-h", "--help"} if shell == "bash" else set()
    assert offers(shell, "ollama-cache-proxy completion ", tmp_path) == {"bash", "zsh", "fish", *dashed}


def test_zsh_loads_it_from_its_folder_of_functions_too(tmp_path: Path) -> None:
    assert offers("zsh", "ollama-cache-proxy st", tmp_path, loaded=AS_FILE) == {"stats"}


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
