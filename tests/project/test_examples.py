"""Every command line of the README and of docs/ is run, before a real proxy and a simulated Ollama.

A page is a sandbox: its commands run in their order in a folder of its own that looks like a clone. Ports are replaced by
those that are free. In `console` blocks what the page shows must be what is said: `…` stands for anything, a number for
any number.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers import free_port

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "dashboards").glob("*.md"),
    ]
)

NOT_RUN = {
    r"make test\b": "it runs these tests",
    r"pip install ": "it needs a package index",
    r".*\bollama run ": "it needs Ollama's own command",
    r".*\bollama serve": "it needs Ollama itself",
    r"ollama-cache-proxy warm /tmp/": "it needs what Ollama has logged; tests/cli/test_warm_folders.py has its like",
    r".*\bclaude ": "it needs Claude Code",
    r"docker ": "it needs a container engine; tests/docker holds its files",
    r"(kubectl|helm) ": "it needs a cluster; tests/project/test_chart.py renders the chart",
    r"curl .*/api/cache/upstreams": "it needs several Ollamas; tests/e2e/test_several_upstreams.py asks the same",
    r"make bench\b": "it measures for minutes; tests/benchmarks/test_agents.py plays the same",
    r"make hit-rates": "it takes a repository, or half a minute; tests/workloads does the same",
    r"make image": "it takes root and minutes; tests/e2e/test_image.py does the same",
    r"make stores\b": "it runs tests on a server of one's own",
    r"make stack\b": "it takes the usual ports; tests/docker runs it on others",
    r"prometheus ": "it takes the usual port; tests/prometheus runs it on another",
    r"(cp|mkdir) .*(/etc/grafana|/var/lib/grafana)": "they are Grafana's folders",
    r"curl -N ": "it goes on until it is ended; tests/page listens to the same",
}
"""What cannot run here, and why."""

FOREVER = {
    r"ollama-cache-proxy serve\b": "Connected to Ollama|cannot be reached",
    r"ollama-cache-proxy simulate\b": "answers at http",
    r"ollama-cache-proxy gpu\b": "are at http",
}
"""What runs until it is ended, and what it says when it does (a pattern)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One command line of a page, and what the page says that it prints (a pattern), if it does."""

    line: int
    command: str
    prints: str


def examples(page: str) -> list[Example]:
    found: list[Example] = []
    kind: str | None = None
    for number, line in enumerate((ROOT / page).read_text("utf-8").splitlines(), 1):
        if line.startswith("```"):
            kind = line[3:].strip() if kind is None else None
        elif kind in ("sh", "bash") and line.strip() and not line.startswith("#"):
            found.append(Example(line=number, command=line, prints=""))
        elif kind == "console" and line.startswith("$ "):
            found.append(Example(line=number, command=line[2:], prints=""))
        elif kind == "console" and found:
            last = found.pop()
            found.append(Example(line=last.line, command=last.command, prints=last.prints + pattern(line) + "\n"))
    return found


def pattern(line: str) -> str:
    return re.sub(r"\d+", r"\\d+", re.escape(line).replace("…", ".*"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A folder like a clone, with the commands that the pages use on its PATH."""

    folder: Path
    environment: dict[str, str]
    ports: dict[str, str]

    def run(self, example: Example) -> None:
        command = self.prepared(example.command)
        forever = next((said for begin, said in FOREVER.items() if re.match(begin, command)), None)
        if forever is not None:
            self.until(re.sub(r"(--listen )\S+", r"\g<1>127.0.0.1:0", command), forever)
            return
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        if example.prints:
            assert re.fullmatch(example.prints.strip(), done.stdout.replace("\r", "").strip(), re.DOTALL), done.stdout

    def until(self, command: str, said: str) -> None:
        """Run what runs on until it says that it does; then end it as Ctrl-C does."""
        environment = {**self.environment, "OCP_LISTEN": "127.0.0.1:0"}
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.folder, env=environment, stderr=subprocess.PIPE, text=True
        )
        lines = []
        try:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line)
                if re.search(said, line):
                    break
            else:
                pytest.fail(f"it ended with {process.wait()}: {''.join(lines)}")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    def prepared(self, command: str) -> str:
        """Put our ports in, and what make would run in the place of make."""
        if command.startswith("make "):
            recipe = subprocess.run(
                ["bash", "-c", command.replace("make ", "make --dry-run -o .venv/.installed ", 1)],
                cwd=self.folder,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            command = next(line for line in recipe.splitlines() if "ollama-cache-proxy" in line and "exec" in line)
            command = command.replace("exec .venv/bin/", "")
        for port, ours in self.ports.items():
            command = re.sub(rf"(?<=:){port}\b", ours, command)
        return command


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A proxy and a simulated Ollama as processes, and the pages' commands."""
    folder = tmp_path_factory.mktemp("bin")
    script(
        folder / "ollama-cache-proxy",
        f'PYTHONPATH={ROOT / "proxy"}:{ROOT} exec {sys.executable} -m ollama_cache_proxy "$@"',
    )
    (folder / "home" / ".config").mkdir(parents=True)
    script(folder / "curl", f'exec {shutil.which("curl")} --fail-with-body "$@"')
    ours = {name: value for name, value in os.environ.items() if not name.startswith("OCP_")}
    port, upstream = str(free_port()), str(free_port())
    environment = {
        **ours,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "OCP_URL": f"http://127.0.0.1:{port}",
        "OCP_UPSTREAM": f"http://127.0.0.1:{upstream}",
        "OCP_EXPLAIN": "true",
        "OCP_ADMIN_TOKEN": "token-of-the-examples",
        "HOME": str(folder / "home"),
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    ports = {
        "11494": port,
        "5000": port,
        "11434": upstream,
        "11500": upstream,
        "6379": str(free_port()),
        "3000": "3000",
    }
    servers = [
        subprocess.Popen(
            [folder / "ollama-cache-proxy", *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )
        for arguments in (
            ("simulate", "--listen", f"127.0.0.1:{upstream}", "--completion-ms", "0", "--embedding-ms", "0"),
            ("serve", "--listen", f"127.0.0.1:{port}"),
        )
    ]
    for server, said in zip(servers, ("answers at", "listens on"), strict=True):
        assert server.stderr is not None
        assert any(said in line for line in server.stderr)
    try:
        yield Sandbox(folder=folder, environment=environment, ports=ports)
    finally:
        for server in servers:
            server.terminate()
            server.communicate(timeout=30)


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def sandbox(commands: Sandbox, tmp_path: Path) -> Sandbox:
    """A folder like a clone, a model of the name that the pages use, and something to be near to."""
    for entry in ROOT.iterdir():
        if entry.name not in (".git", ".venv"):
            (tmp_path / entry.name).symlink_to(entry)
    upstream, proxy = commands.environment["OCP_UPSTREAM"], commands.environment["OCP_URL"]
    post(f"{upstream}/api/copy", {"source": "tiny", "destination": "llama3.2"})
    near = {"model": "llama3.2", "prompt": "Why?", "stream": False, "options": {"seed": 1}}
    post(f"{proxy}/api/generate", near)
    return Sandbox(folder=tmp_path, environment=commands.environment, ports=commands.ports)


def post(url: str, document: object) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(document).encode()), timeout=10):
        pass


def not_run(command: str) -> bool:
    return any(re.match(begin, command) for begin in NOT_RUN)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [page for page in PAGES if any(not not_run(row.command) for row in examples(page))])
def test_the_commands_of_a_page_do_what_it_says(page: str, sandbox: Sandbox) -> None:
    for example in examples(page):
        if not not_run(example.command):
            try:
                sandbox.run(example)
            except (AssertionError, subprocess.SubprocessError) as error:
                pytest.fail(f"{page}:{example.line}: {example.command}\n{error}")


def test_what_cannot_run_here_stands_on_some_page() -> None:
    lines = [example.command for page in PAGES for example in examples(page)]
    assert [begin for begin in NOT_RUN if not any(re.match(begin, line) for line in lines)] == []


def test_commands_stand_in_blocks_that_are_run() -> None:
    """An indented block, or one without a kind, would be left out."""
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        assert re.findall(r"^(?:    )\$ .*", text, re.MULTILINE) == [], page
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            if kind not in ("sh", "bash", "console"):
                assert not re.findall(r"^(?:\$ |curl |ollama-cache-proxy [a-z]+$|make )", block, re.MULTILINE), page
