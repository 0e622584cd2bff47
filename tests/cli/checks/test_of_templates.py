from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ollama_cache_proxy.cli.checks import of_templates
from ollama_cache_proxy.cli.checks.finding import Finding, Level
from ollama_cache_proxy.simulator import Behaviour, Simulator
from ollama_cache_proxy.simulator.naming import known
from ollama_cache_proxy.simulator.registry import TEMPLATE, text_layer
from tests.cli.test_doctor import found, scene
from tests.support.rawhttp import ask

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OLLAMA_GO_TEMPLATE", "LLAMA_ARG_CTX_SIZE"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def canned(answers: Mapping[str, Any], other: Any) -> AsyncIterator[str]:
    """Give the URL of a server with these responses by path, and another one for every other path."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(answers.get(request.path, other))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def checked(simulator: Simulator, tmp_path: Path, title: str = "Templates", **settings: object) -> list[Finding]:
    async with scene(NOWHERE, simulator.url, tmp_path, **settings) as made:
        return (await found(made, title))[title]


async def test_nothing_to_say(simulator: Simulator, tmp_path: Path) -> None:
    (finding,) = await checked(simulator, tmp_path)
    assert finding.level is Level.OK
    assert finding.text.endswith("writes the date, and none has the weights of another one")


async def test_models_that_write_the_date_are_named(simulator: Simulator, tmp_path: Path) -> None:
    simulator.models.add("go", template="{{ currentDate }}{{ .Prompt }}")
    simulator.models.add("jinja", template="{{ strftime_now('%d') }}")
    (finding,) = await checked(simulator, tmp_path)
    assert finding.level is Level.NOTE
    assert "go:latest (currentDate), jinja:latest (strftime_now)" in finding.text
    assert "tiny" not in finding.text
    assert "cache_dated_templates = false" in finding.fix
    (finding,) = await checked(simulator, tmp_path, cache_dated_templates=False)
    assert (finding.level, finding.fix) == (Level.OK, "")
    assert "these models bypass the cache" in finding.text


async def test_a_renderer_that_writes_the_date_is_named(simulator: Simulator, tmp_path: Path) -> None:
    """Given to /api/create as Ollama takes it; a model that is made of that one has it too."""
    for name, given in (("dated", '"from":"tiny","renderer":"glimmer","parser":"x"'), ("again", '"from":"dated"')):
        body = f'{{"model":"{name}",{given},"stream":false}}'.encode()
        assert (await ask(simulator.url, "POST", "/api/create", body=body)).status == 200
    notes = [one for one in await checked(simulator, tmp_path) if one.level is not Level.OK]
    assert "again:latest (the renderer glimmer), dated:latest (the renderer glimmer)" in notes[0].text
    assert simulator.models.get("dated").digest != simulator.models.get("tiny").digest
    shown = (await ask(simulator.url, "POST", "/api/show", body=b'{"model":"dated"}')).body
    assert b'"renderer":"glimmer","parser":"x","details"' in shown
    assert b"RENDERER glimmer\\nPARSER x\\n" in shown


async def test_many_are_counted(simulator: Simulator, tmp_path: Path) -> None:
    for number in range(13):
        simulator.models.add(f"m{number}", template="{{ currentDate }}")
    (finding,) = await checked(simulator, tmp_path)
    assert finding.text.count("currentDate") == 10
    assert " and 3 more; " in finding.text


@pytest.mark.parametrize(
    ("version", "loaded", "level"),
    [("0.33.0", True, Level.WARNING), ("0.33.0", False, Level.NOTE), ("0.24.0", True, Level.OK)],
)
async def test_models_of_one_file_with_different_templates(
    version: str, loaded: bool, level: Level, tmp_path: Path
) -> None:
    async with Simulator(Behaviour(completion_delay=0, version=version)) as simulator:
        remade(simulator, "tinyj")
        await load(simulator, *(("tiny", "tinyj") if loaded else ()))
        (finding,) = await checked(simulator, tmp_path)
    assert finding.level is level
    said = "models of one GGUF file have different templates (tiny:latest | tinyj:latest)" in finding.text
    assert said is (level is not Level.OK)


def remade(simulator: Simulator, *names: str, template: str = "{{ messages }}") -> None:
    """Make models of tiny's GGUF file with a template of their own."""
    tiny = simulator.models.get("tiny")
    layers = [text_layer(TEMPLATE, template) if layer.kind == TEMPLATE else layer for layer in tiny.layers]
    for name in names:
        simulator.models.put(tiny.remade(known(name), layers))


async def load(simulator: Simulator, *names: str) -> None:
    for name in names:
        body = b'{"model":"%b","prompt":"why","stream":false}' % name.encode()
        await ask(simulator.url, "POST", "/api/generate", body=body)


async def test_models_that_are_rendered_alike_stand_together(tmp_path: Path) -> None:
    """Two of one template that are loaded are no harm."""
    async with Simulator(Behaviour(completion_delay=0, version="0.33.0")) as simulator:
        remade(simulator, "a", "b", "c")
        await load(simulator, "a", "b")
        (finding,) = await checked(simulator, tmp_path)
        assert "(a:latest, b:latest, c:latest | tiny:latest): " in finding.text
        assert finding.level is Level.NOTE
        await load(simulator, "tiny")
        (finding,) = await checked(simulator, tmp_path)
    assert finding.level is Level.WARNING


async def test_of_many_models_of_one_file_ten_are_named(tmp_path: Path) -> None:
    async with Simulator(Behaviour(completion_delay=0, version="0.33.0")) as simulator:
        remade(simulator, *(f"m{number:02}" for number in range(30)))
        (finding,) = await checked(simulator, tmp_path)
        assert (
            "(m00:latest, m01:latest, m02:latest, m03:latest, m04:latest and 25 more | tiny:latest): " in finding.text
        )
        for number in range(30):
            remade(simulator, f"m{number:02}", template=f"{{{{ .Prompt }}}}{number}")
        (finding,) = await checked(simulator, tmp_path)
    assert finding.text.count(":latest") == 10
    assert " | m09:latest and 21 more templates): " in finding.text


def test_of_many_files_ten_have_a_line() -> None:
    models = {
        f"m{number:02}{letter}": {"modelfile": f"FROM /blobs/sha256-{number:064}", "template": letter}
        for number in range(12)
        for letter in "ab"
    }
    *named, rest = of_templates._at_odds(models, set())
    assert len(named) == 10
    assert rest.text == "likewise models of 2 more GGUF files"


async def test_a_template_that_changed_without_its_digest(tmp_path: Path) -> None:
    """As OLLAMA_GO_TEMPLATE does it: `template` of /api/show is the one in use."""
    told = {"template": "{{ .Prompt }}", "details": {}}
    row = {"name": "tiny:latest", "digest": "d"}
    async with canned({"/api/tags": {"models": [row]}, "/api/version": {"version": "0.33.0"}}, told) as url:
        levels = []
        for told["template"], epoch in (("a", ""), ("a", ""), ("b", ""), ("b", ""), ("a", "new"), ("a", "new")):
            async with scene(NOWHERE, url, tmp_path, epoch=epoch) as made:
                (finding,) = (await found(made, "Templates"))["Templates"]
            levels.append(finding.level)
            if finding.level is Level.WARNING:
                assert finding.text.startswith("tiny:latest has another template in use than before")
                assert "clear --model tiny:latest" in finding.fix
    same, other = Level.OK, Level.WARNING
    assert levels == [same, same, other, other, same, same], "until entries from before have expired"


async def test_of_many_templates_that_changed_ten_have_a_line(tmp_path: Path) -> None:
    told = {"template": "a", "details": {}}
    rows = [{"name": f"m{number:02}", "digest": str(number)} for number in range(13)]
    async with canned({"/api/tags": {"models": rows}, "/api/version": {"version": "0.33.0"}}, told) as url:
        for told["template"] in "ab":
            async with scene(NOWHERE, url, tmp_path) as made:
                findings = (await found(made, "Templates"))["Templates"]
    assert len(findings) == 11
    assert findings[-1].text == "likewise 3 more models"


async def test_variables_of_this_environment_are_named_without_their_values(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "secret")
    monkeypatch.setenv("OLLAMA_GO_TEMPLATE", "0")
    (finding,) = await checked(simulator, tmp_path)
    assert finding.level is Level.NOTE
    assert "LLAMA_ARG_CTX_SIZE, OLLAMA_GO_TEMPLATE" in finding.text
    assert "secret" not in finding.text + finding.fix
    assert "epoch" in finding.fix


@pytest.mark.parametrize(
    ("context", "level"), [(4096, Level.WARNING), (8192, Level.OK), (16_384, Level.OK)], ids=["below", "same", "above"]
)
async def test_a_context_below_the_model_s_own(context: int, level: Level, tmp_path: Path) -> None:
    row = {"name": "long:latest", "digest": "d", "size": 9, "size_vram": 0, "context_length": context}
    told = {"parameters": "num_ctx                        8192", "details": {}}

    async with canned({"/api/ps": {"models": [row]}}, told) as url, scene(NOWHERE, url, tmp_path) as made:
        (finding,) = (await found(made, "Models"))["Models"]
    assert finding.level is level
    said = "long:latest is loaded with a context of 4,096 tokens, and its own num_ctx is 8,192" in finding.text
    assert said is (level is Level.WARNING)
