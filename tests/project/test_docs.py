"""What is written about settings and metrics is what the code says."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.capacity import report as capacity
from benchmarks.speed import __main__ as speed
from benchmarks.speed.goals import GOALS, plot
from ollama_cache_proxy.cli.main import parser
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.service.settings import DEFAULT_PORT, Settings, load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["settings", "metrics", "cache-rules", "operations", "kubernetes"])
def test_generated_pages_are_fresh(page: str, generate: ModuleType) -> None:
    assert (ROOT / "docs" / f"{page}.md").read_text("utf-8") == getattr(generate, page.replace("-", "_"))(), (
        "make generate"
    )


def test_every_detail_is_explained() -> None:
    text = (ROOT / "docs" / "cache-rules.md").read_text("utf-8").partition("## Every reason")[2]
    assert re.findall(r"^\| `([a-z-]+)` \| .+ \|$", text, re.MULTILINE) == [detail.value for detail in Detail]


def test_the_example_file_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    text = (ROOT / "config" / "ollama-cache-proxy.toml").read_text("utf-8")
    shown = tomllib.loads(re.sub(r"^# (?=[a-z0-9_]+ = )", "", text, flags=re.MULTILINE))
    assert set(shown) == set(Settings.model_fields)
    file = tmp_path / "shown.toml"
    file.write_text(re.sub(r"^# (?=[a-z0-9_]+ = )", "", text, flags=re.MULTILINE), "utf-8")
    loaded, defaults = load(str(file), {}), load(None, {})
    for name in Settings.model_fields:
        if getattr(defaults, name) is not None:
            assert getattr(loaded, name) == getattr(defaults, name), name


def fences(page: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return [line for block in re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("page", ["README.md"])
def test_commands_on_the_page_are_commands(page: str) -> None:
    """Every line that starts the proxy is one that its parser, or make, understands."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = [line.split()[1] for line in fences(page) if line.startswith("make ")]
    assert made
    assert set(made) <= targets
    for line in fences(page):
        if line.startswith("ollama-cache-proxy "):
            parser().parse_args(line.split("#")[0].split()[1:])


def test_links_in_the_pages_lead_somewhere() -> None:
    single = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "dashboards" / "README.md"]
    for page in [*single, *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_on_performance_and_its_picture_are_made_from_the_results() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "speed.json").read_text("utf-8"))
    written = (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert speed.page(written, kept) == written
    assert plot(kept["results"]) == (ROOT / "docs" / "hits.svg").read_text("utf-8")
    assert {goal.case for goal in GOALS} <= set(kept["results"])


def test_the_page_on_scaling_and_its_picture_are_made_from_the_results() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "capacity.json").read_text("utf-8"))
    written = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    assert capacity.page(written, kept) == written, "python -m benchmarks.capacity --report"
    assert capacity.plot(kept) == (ROOT / "docs" / "scaling.svg").read_text("utf-8")


FORMER_PORT = "11435"
ABOUT_IT = {
    "CHANGELOG.md",
    "docs/decisions/0028-default-port.md",
    "docs/troubleshooting.md",
    "proxy/ollama_cache_proxy/service/port_holder.py",
    "proxy/ollama_cache_proxy/service/settings.py",
    "tests/cli/test_config.py",
    "tests/project/test_docs.py",
    "tests/service/test_port_holder.py",
    "tests/service/test_settings.py",
}
"""The files that say something of the former default port."""


def written() -> list[Path]:
    """Return every file of the repository that is text, but none that is made elsewhere."""
    parts = ("benchmarks", "config", "dashboards", "docker", "docs", "proxy", "tests")
    files = [path for part in parts for path in (ROOT / part).rglob("*") if path.is_file()]
    kinds = {".py", ".md", ".yml", ".toml", ".json", ".js", ".html", ".svg", ""}
    return [path for path in [*files, *ROOT.glob("*.md"), ROOT / "Makefile"] if path.suffix in kinds]


def test_the_former_default_port_is_written_only_where_it_is_meant() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in written()
        if re.search(rf"\b{FORMER_PORT}\b", path.read_text("utf-8", "replace"))
    }
    assert found == ABOUT_IT


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "config/ollama-cache-proxy.toml", "config/prometheus/prometheus.yml", "docker/Dockerfile"),
        *("docker/compose.yml", "docker/prometheus.yml", "docs/settings.md", "docs/getting-started.md"),
    ],
)
def test_the_default_port_is_written_as_it_is(name: str) -> None:
    assert str(DEFAULT_PORT) in (ROOT / name).read_text("utf-8")
