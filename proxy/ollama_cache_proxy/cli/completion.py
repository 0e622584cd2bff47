"""`ollama-cache-proxy completion SHELL`: a script for shell completion, made from the parser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE

_NAME: Final = "ollama-cache-proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """An option, a command or a literal argument."""

    name: str
    help: str
    takes: tuple[str, ...] | None = None
    """The choices for an option's value, empty for any value, None if the option takes none."""
    file: bool = False
    """Whether the value is the name of a file."""
    optional: bool = False
    """Whether the value may be left out."""
    repeated: bool = False
    """Whether the option may be given several times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What the command line of one command may contain."""

    help: str
    words: tuple[Word, ...]
    file: bool
    """Whether it takes names of files."""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "completion",
        run,
        help="print a shell completion script",
        description="Print a script that lets a shell complete commands and options. Load it when the shell starts.",
        examples=(
            'completion bash  # in ~/.bashrc: eval "$(ollama-cache-proxy completion bash)"',
            'completion zsh  # in ~/.zshrc, after compinit: eval "$(ollama-cache-proxy completion zsh)"',
            "completion fish > ~/.config/fish/completions/ollama-cache-proxy.fish",
        ),
    )
    parser.add_argument("shell", choices=tuple(_SHELLS), help="the shell")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.main import parser

    sys.stdout.write(script(arguments.shell, parser()))
    return DONE


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completion script for a shell."""
    options = tuple(word for word in _grammar(parser, "").words if word.name.startswith("-"))
    return _SHELLS[shell](options, grammars(parser))


def grammars(top: argparse.ArgumentParser) -> dict[str, Grammar]:
    """Return the grammar of each command."""
    (commands,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    helps = {choice.dest: choice.help or "" for choice in commands._choices_actions}  # noqa: SLF001
    return {name: _grammar(parser, helps[name]) for name, parser in commands.choices.items()}


def _grammar(parser: argparse.ArgumentParser, help: str) -> Grammar:  # noqa: A002
    words: list[Word] = []
    file = False
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way
        takes_file = action.metavar in ("FILE", "DIR")
        if not action.option_strings:
            file = file or takes_file
            words += [Word(name=str(choice), help="") for choice in action.choices or ()]
            continue
        text = (action.help or "") % {"default": action.default}
        takes = None if action.nargs == 0 else tuple(map(str, action.choices or ()))
        optional, repeated = action.nargs == argparse.OPTIONAL, isinstance(action, argparse._AppendAction)  # noqa: SLF001
        words += [
            Word(name=name, help=text, takes=takes, file=takes_file, optional=optional, repeated=repeated)
            for name in action.option_strings
        ]
    return Grammar(help=help, words=tuple(words), file=file)


def _bash(options: Sequence[Word], commands: dict[str, Grammar]) -> str:
    def cases() -> Iterator[str]:
        for name, grammar in commands.items():
            for word in grammar.words:
                if word.takes is not None and not word.optional:
                    reply = 'COMPREPLY=($(compgen -f -- "$word"))' if word.file else _of(" ".join(word.takes))
                    yield f"        {name}:{word.name}) {reply}; return ;;\n"

    def words() -> Iterator[str]:
        for name, grammar in commands.items():
            files = ' $(compgen -f -- "$word")' if grammar.file else ""
            yield f"        {name}) {_of(' '.join(word.name for word in grammar.words), files)} ;;\n"

    def _of(words: str, more: str = "") -> str:
        return f"COMPREPLY=($(compgen -W '{words}' -- \"$word\"){more})"

    return (
        f"_{_function()}() {{\n"
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"\n'
        "    COMPREPLY=()\n"
        '    if [ "$COMP_CWORD" -eq 1 ]; then\n'
        f"        {_of(' '.join((*commands, *(word.name for word in options))))}\n"
        "        return\n"
        "    fi\n"
        f'    case "$command:$before" in\n{"".join(cases())}    esac\n'
        f'    case "$command" in\n{"".join(words())}    esac\n'
        "}\n"
        f"complete -o filenames -F _{_function()} {_NAME}\n"
    )


def _zsh(options: Sequence[Word], commands: dict[str, Grammar]) -> str:
    def described(name: str, text: str) -> str:
        return _quoted(f"{name}:{text}")

    def argument(word: Word) -> str:
        begin = f"{'*' if word.repeated else ''}{word.name}[{_bracketed(word.help)}]"
        if word.takes is None:
            return begin
        values = "_files" if word.file else f"({' '.join(word.takes)})"
        return f"{begin}{'::' if word.optional else ':'}value:{values}"

    def cases() -> Iterator[str]:
        for name, grammar in commands.items():
            arguments = [argument(word) for word in grammar.words if word.name.startswith("-")]
            plain = " ".join(word.name for word in grammar.words if not word.name.startswith("-"))
            arguments += [f"1:word:({plain})"] if plain else []
            arguments += ["*:file:_files"] if grammar.file else []
            yield f"        {name}) _arguments {' '.join(map(_quoted, arguments))} ;;\n"

    listed = " ".join(described(name, grammar.help) for name, grammar in commands.items())
    dashed = " ".join(described(word.name, word.help) for word in options)
    return (
        f"#compdef {_NAME}\n"
        f"_{_function()}() {{\n"
        "    if (( CURRENT == 2 )); then\n"
        f"        local -a commands=({listed}) options=({dashed})\n"
        "        _describe -o option options\n"
        "        _describe command commands\n"
        "        return\n"
        "    fi\n"
        "    local command=${words[2]}\n"
        "    shift words; (( CURRENT-- ))\n"
        f"    case $command in\n{''.join(cases())}    esac\n"
        "}\n"
        "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n"  # as a file in a folder of fpath
        f'    _{_function()} "$@"\n'
        "else\n"
        f"    compdef _{_function()} {_NAME}\n"
        "fi\n"
    )


def _fish(options: Sequence[Word], commands: dict[str, Grammar]) -> str:
    first = f"__{_function()}_first"

    def line(command: str, word: Word) -> str:
        dashes = len(word.name) - len(word.name.lstrip("-"))
        option = {0: f"-a {word.name}", 1: f"-s {word.name[1:]}"}.get(dashes, f"-l {word.name[2:]}")
        takes = "" if word.takes is None or word.optional else " -r -F" if word.file else " -x"
        takes += f" -a {_fish_quoted(' '.join(word.takes))}" if word.takes else ""
        return f"{after(command)} {option}{takes} -d {_fish_quoted(word.help)}"

    def after(command: str) -> str:
        return f"complete -c {_NAME} -n '{first} \"{command}\"'"

    lines = [
        f"function {first}",
        "    set -l words (commandline -opc)",
        '    test "$words[2]" = "$argv[1]"',
        "end",
        f"complete -c {_NAME} -f",
    ]
    lines += [line("", word) for word in options]
    lines += [line("", Word(name=name, help=grammar.help)) for name, grammar in commands.items()]
    for name, grammar in commands.items():
        lines += [f"{after(name)} -F"] if grammar.file else []
        lines += [line(name, word) for word in grammar.words]
    return "\n".join(lines) + "\n"


def _function() -> str:
    return _NAME.replace("-", "_")


def _bracketed(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace(":", " -")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS: Final[dict[str, Callable[[Sequence[Word], dict[str, Grammar]], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
