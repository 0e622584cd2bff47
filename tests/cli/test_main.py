"""The command line as a whole: help, examples, what is imported, how failures end."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys

import pytest

import ollama_cache_proxy
from ollama_cache_proxy.cli.ending import STATUSES
from ollama_cache_proxy.cli.main import COMMANDS, main, parser
from tests.support.terminal import environment, piped, terminal, widest

EXAMPLE = re.compile(r"^  ollama-cache-proxy (.+)$", re.MULTILINE)


async def test_version() -> None:
    assert (await piped("--version")).out == f"ollama-cache-proxy {ollama_cache_proxy.__version__}\n"


async def test_help_lists_every_command_and_exit_status() -> None:
    done = await piped("--help", added={"COLUMNS": "200"})
    assert done.status == 0
    for command in COMMANDS:
        assert re.search(rf"^    {command}\b", done.out, re.MULTILINE)
    for status, meaning in STATUSES.items():
        assert f"{status} {meaning}" in done.out


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_command_has_examples_that_it_understands(command: str) -> None:
    async with terminal(command, "--help", columns=60) as shown:
        assert await shown.end() == 0
    examples = EXAMPLE.findall(shown.text)
    assert examples
    for example in examples:
        line = re.split(r"  # | \| | [<>] ", example)[0]
        parser().parse_args(shlex.split(line))
    told = shown.text.partition("\n\n")[2].partition("examples:")[0]
    assert widest(told) <= 60


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nothing",),
        ("stats", "--nothing"),
        ("completion", "sh"),
        pytest.param(("config", "--store-d", "memory"), id="an option that is cut short"),
        pytest.param(("config", "--store", "disk"), id="a store of no kind"),
    ],
)
async def test_a_wrong_argument_ends_with_2_and_the_usage(arguments: tuple[str, ...]) -> None:
    done = await piped(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("usage: ollama-cache-proxy")


@pytest.mark.parametrize("command", ["stats", "clear", "entries", "doctor", "config", "serve"])
async def test_a_wrong_setting_ends_with_2_and_one_line(command: str) -> None:
    done = await piped(command, added={"OCP_TTL_COMPLETION": "soon"})
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "ollama-cache-proxy: ttl_completion: 'soon' is not allowed: must be whole seconds, or a number with s, m,"
        " h or d, such as 90d, 12h or 30m\n"
    )


@pytest.mark.parametrize(
    ("command", "kept_away"),
    [
        (
            "serve",
            {
                "rich",
                "ollama_cache_proxy.cli.asking",
                "ollama_cache_proxy.simulator",
                "ollama_cache_proxy.cli.doctor",
                "ollama_cache_proxy.gpu",
            },
        ),
        ("stats", {"redis", "ollama_cache_proxy.service.app", "ollama_cache_proxy.simulator"}),
        ("doctor", {"ollama_cache_proxy.service.app", "ollama_cache_proxy.simulator"}),
        ("config", {"aiohttp", "ollama_cache_proxy.service.app", "redis"}),
    ],
)
async def test_a_command_imports_no_more_than_it_needs(command: str, kept_away: set[str]) -> None:
    """`serve` may import rich through a library, so this checks what is imported before it runs."""
    code = (
        "import sys; import ollama_cache_proxy.cli.main as m; m.parser([sys.argv[1]]).parse_args([sys.argv[1]]);"
        " print(*sorted(sys.modules))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, command), env=environment(), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert f"ollama_cache_proxy.cli.{command}" in out.decode().split()
    assert not kept_away & set(out.decode().split())


def test_an_interrupt_before_anything_runs_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ollama_cache_proxy.cli.config.run", interrupted)
    assert main(["config"]) == 130


@pytest.mark.parametrize(
    "command",
    [
        ("demo",),
        ("simulate", "--listen", "127.0.0.1:0"),
        ("gpu", "--listen", "127.0.0.1:0"),
        ("serve", "--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:9"),
    ],
)
async def test_what_runs_on_ends_with_ctrl_c(command: tuple[str, ...]) -> None:
    async with terminal(*command) as shown:
        await shown.shows(
            {"demo": "Sending", "simulate": "answers at", "gpu": "are at http", "serve": "cannot be reached"}[
                command[0]
            ]
        )
        shown.type("\x03")
        assert await shown.end() == (130 if command == ("demo",) else 0)
    assert "Traceback" not in shown.text
