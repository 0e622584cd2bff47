"""What `make dist` builds, installed as a person would install it, in environments that hold only what it declares."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from ollama_cache_proxy import __version__
from tests.support.environments import Environment, environment

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "proxy"
PACKAGE = "ollama_cache_proxy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
RUNS_WITH: list[str] = PROJECT["project"]["dependencies"]
BUILDS_WITH: list[str] = PROJECT["dependency-groups"]["build"]
FILES = {
    str(path.relative_to(SOURCE))
    for path in (SOURCE / PACKAGE).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
MODULES = sorted(
    name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in FILES if name.endswith(".py")
)

IMPORTS = """
import importlib, json, pkgutil, sys, ollama_cache_proxy as package
names = [package.__name__, *(found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."))]
print(json.dumps({name: importlib.import_module(name).__file__ for name in names}))
"""
LOOKS_FOR_PROXY = """
import importlib.util
found = importlib.util.find_spec("proxy")
print(found is not None and found.origin)
"""


def build(source: Path, into: Path, *targets: str) -> None:
    """Build as `make dist` does."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", into, *targets]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    assert len(list(folder.iterdir())) == 2
    return folder


def wheel_in(folder: Path) -> Path:
    (found,) = folder.glob("*.whl")
    return found


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"{PACKAGE}-{__version__}.dist-info/METADATA"))


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel."""
    made = environment(tmp_path_factory.mktemp("wheel"), RUNS_WITH)
    made.install(str(wheel_in(dist)))
    return made


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with an editable install."""
    made = environment(tmp_path_factory.mktemp("editable"), [*RUNS_WITH, *BUILDS_WITH])
    made.install("--editable", str(ROOT))
    return made


@pytest.fixture(params=["wheel", "editable"])
def either(request: pytest.FixtureRequest, installed: Environment, editable: Environment) -> tuple[Environment, Path]:
    """Each environment, and the folder from which it takes the package."""
    return (installed, installed.site) if request.param == "wheel" else (editable, SOURCE)


@pytest.fixture(params=["the root", "another folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a command is run."""
    return ROOT if request.param == "the root" else tmp_path


def printed(made: Environment, code: str, folder: Path) -> str:
    done = made.run("python", "-W", "error", "-c", code, folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(wheel_in(dist)) as archive:
        names = set(archive.namelist())
    described = {name for name in names if name.startswith(f"{PACKAGE}-{__version__}.dist-info/")}
    assert names - described == FILES
    assert f"{PACKAGE}/py.typed" in FILES


def test_the_sdist_builds_the_same_wheel(dist: Path, tmp_path: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", archive, "-C", tmp_path], check=True, timeout=60)
    build(tmp_path / f"{PACKAGE}-{__version__}", tmp_path, "--target", "wheel")
    assert wheel_in(tmp_path).name == wheel_in(dist).name
    assert wheel_in(tmp_path).read_bytes() == wheel_in(dist).read_bytes()


def test_the_metadata_says_who_what_and_for_which_python(dist: Path) -> None:
    said = metadata(wheel_in(dist))
    assert said["Author"] == "ollama-cache-proxy contributors"
    assert said["License-Expression"] == "MIT"
    assert not {"Home-page", "Project-URL", "Author-email"} & set(said)
    assert said["Version"] == __version__
    assert str(said.get_payload()).startswith("# ollama-cache-proxy")
    named = sorted(int(minor) for minor in re.findall(r"Python :: 3\.(\d+)", str(said.get_all("Classifier"))))
    assert said["Requires-Python"] == f">=3.{named[0]}"
    assert named == list(range(named[0], named[-1] + 1))


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    releases = re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert releases[0][0] == __version__
    assert [day for _, day in releases] == sorted((day for _, day in releases), reverse=True)


def test_each_way_of_installing_imports_the_same_modules(either: tuple[Environment, Path], folder: Path) -> None:
    """All of them, with no more than the declared dependencies."""
    made, base = either
    found: dict[str, str] = json.loads(printed(made, IMPORTS, folder))
    assert sorted(found) == MODULES
    assert {str(Path(file).relative_to(base)) for file in found.values()} == {n for n in FILES if n.endswith(".py")}


def test_no_package_proxy_comes_with_it(either: tuple[Environment, Path], folder: Path) -> None:
    """At the root the folder of the source is seen, but it is no package: an installed one is taken before it."""
    assert printed(either[0], LOOKS_FOR_PROXY, folder) == ("None" if folder == ROOT else "False")


@pytest.fixture(scope="module", params=["wheel", "editable"])
def beside(request: pytest.FixtureRequest, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with proxy.py too."""
    made = environment(tmp_path_factory.mktemp("beside"), [*RUNS_WITH, *BUILDS_WITH, "proxy.py"])
    made.install(*([str(wheel_in(dist))] if request.param == "wheel" else ["--editable", str(ROOT)]))
    return made


def test_proxy_py_works_beside_it(beside: Environment, folder: Path) -> None:
    made = beside
    assert printed(made, "import proxy; print(proxy.__file__)", folder) == str(made.site / "proxy" / "__init__.py")
    assert json.loads(printed(made, IMPORTS, folder)).keys() == set(MODULES)
    assert made.run("python", "-m", "proxy", "--version", folder=folder).stdout.startswith("2.")
    assert made.run("ollama-cache-proxy", "--version", folder=folder).stdout.split()[-1] == __version__
    files = {
        name: printed(made, f"import importlib.metadata as m; print(*m.files('{name}'), sep='\\n')", folder).split("\n")
        for name in ("ollama-cache-proxy", "proxy.py")
    }
    assert not set(files["ollama-cache-proxy"]) & set(files["proxy.py"])


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("config", "upstream"),
        ("completion bash", "complete -o filenames"),
        ("simulate --help", "--completion-ms"),
        ("gpu --help", "--replay h100"),
    ],
)
def test_a_command_runs_from_the_wheel(command: str, says: str, installed: Environment, tmp_path: Path) -> None:
    done = installed.run("ollama-cache-proxy", *command.split(), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout


def test_the_module_is_the_command(installed: Environment, tmp_path: Path) -> None:
    done = installed.run("python", "-m", PACKAGE, "--version", folder=tmp_path)
    assert done.stdout == installed.run("ollama-cache-proxy", "--version", folder=tmp_path).stdout
    assert done.stdout.split()[-1] == __version__


def test_the_demo_runs_from_the_wheel(installed: Environment, tmp_path: Path) -> None:
    """It takes the simulator's real delays: about seven seconds."""
    done = installed.run("ollama-cache-proxy", "demo", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"hits":2,"misses":2,"hitRate":50.0,"keys":2' in done.stdout


@contextmanager
def served(made: Environment, folder: Path, *arguments: str) -> Iterator[str]:
    """Run a command that serves, on a free port; gives its URL."""
    process = subprocess.Popen(
        [made.commands / "ollama-cache-proxy", *arguments, "--listen", "127.0.0.1:0"],
        cwd=folder,
        env=made.variables(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = (re.search(r"(?:listens on|are at) (http://[\d.]+:\d+)", line) for line in process.stderr)
        yield next(found[1] for found in lines if found is not None)
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("command", "path", "says"),
    [
        ("serve --upstream http://127.0.0.1:9", "/cache", b"<title>"),
        ("serve --upstream http://127.0.0.1:9", "/metrics", b"ollama_cache_proxy_build_info"),
        ("gpu --replay h100", "/metrics", b'modelName="NVIDIA H100 80GB HBM3"'),
    ],
)
def test_what_a_command_serves_is_in_the_wheel(
    command: str, path: str, says: bytes, installed: Environment, tmp_path: Path
) -> None:
    with served(installed, tmp_path, *command.split()) as url, urllib.request.urlopen(url + path, timeout=10) as page:
        assert says in page.read()
