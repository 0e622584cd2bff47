from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ollama_cache_proxy.cli.asking import client
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.jobs import makings
from ollama_cache_proxy.cli.jobs.api import Api, ollama
from ollama_cache_proxy.cli.jobs.gauge import Gauge
from ollama_cache_proxy.cli.jobs.makings import Makings
from ollama_cache_proxy.cli.jobs.progress import Steps
from ollama_cache_proxy.cli.jobs.quantizing import _disk
from ollama_cache_proxy.cli.jobs.sheets import table
from ollama_cache_proxy.service.settings import load
from ollama_cache_proxy.simulator import Behaviour, Fault, ModelRegistry, Received, Simulator, naming
from ollama_cache_proxy.simulator.registry import WEIGHTS, Remote, sha256
from ollama_cache_proxy.workbench.levels import Target
from tests.support import canary
from tests.support import upstream as upstreams
from tests.support.servers import free_port
from tests.support.terminal import environment, piped, terminal

INFO = {"general.architecture": "bert", "bert.block_count": 6, "bert.embedding_length": 384}
BEFORE = {model.name.shortest for model in ModelRegistry()}


def models(simulator: Simulator) -> set[str]:
    return {model.name.shortest for model in simulator.models.installed()}


def targets(simulator: Simulator) -> set[str]:
    return {one.target for one in simulator.received}


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """Two prompts, so that measuring is fast."""
    file = tmp_path / "prompts.txt"
    file.write_text("one two three\n\nfour five six seven\n", "utf-8")
    return file


async def test_the_best_is_kept_and_the_source_is_as_it_was(simulator: Simulator, short: Path) -> None:
    digest = simulator.models.digest("tiny")
    done = await piped(
        *("quantize", "TINY", "--to", "q8_0", "--to", "q4_K_M", "--keep", "best"),
        *("--upstream", simulator.url, "--prompts", str(short)),
    )
    assert done.status == 0, done.err
    assert models(simulator) == BEFORE | {"tiny:q4_K_M"}
    assert simulator.models.digest("tiny") == digest
    assert simulator.models.get("tiny:q4_K_M").quantization == "Q4_K_M"
    assert simulator.residence.loaded() == [], "nothing stays loaded"
    columns = {line[:18].strip(): line[18:].split() for line in done.out.splitlines()}
    assert columns[""] == ["tiny:latest", "tiny:q8_0", "tiny:q4_K_M"]
    assert columns["Level"] == ["F16", "q8_0", "q4_K_M"]
    assert columns["Prompt tokens/s"] == ["not", "told"] * 3, "Ollama does not tell how many it computed"
    assert columns["Same completion"] == columns["Same next token"] == ["100%", "100%"]
    low, high = map(float, columns["Divergence, nats"])
    assert 0 < low < high, "the coarser one diverges more"
    assert "Recommended: tiny:q4_K_M (" in done.err
    assert "Kept: tiny:q4_K_M\n" in done.err
    assert "\x1b" not in done.out + done.err


async def test_an_embedding_model_is_compared_by_its_vectors(simulator: Simulator) -> None:
    done = await piped(
        *("quantize", "all-minilm", "--to", "q8_0", "--to", "q4_K_M=mine", "--keep", "none", "--json"),
        *("--upstream", simulator.url),
    )
    assert done.status == 0, done.err
    told = json.loads(done.out)
    q8, q4 = told["results"]
    assert (q8["name"], q4["name"]) == ("all-minilm:q8_0", "mine:latest")
    assert 1 > q8["fidelity"]["cosine"] > q4["fidelity"]["cosine"] > 0.98
    assert q8["fidelity"]["cosine_low"] <= q8["fidelity"]["cosine"]
    assert told["source"]["fidelity"] is told["source"]["output_rate"] is told["source"]["prompt_rate"] is None
    assert told["source"]["first_token"] > 0
    assert told["source"]["size"] > q8["size"] > q4["size"]
    assert told["source"]["memory"] > q8["memory"] > q4["memory"] > 0
    assert told["recommendation"]["take"] == "mine:latest"
    assert told["kept"] == []
    assert models(simulator) == BEFORE


async def test_models_are_asked_the_same(simulator: Simulator, short: Path) -> None:
    done = await piped("quantize", "tiny", "--upstream", simulator.url, "--prompts", str(short), "--tokens", "7")
    assert done.status == 0
    asked: dict[str, list[object]] = {}
    for one in simulator.received:
        body = json.loads(one.body) if one.target == "/api/generate" else {}
        if "prompt" in body:
            asked.setdefault(body.pop("model"), []).append(body)
    assert list(asked) == ["tiny:latest", "tiny:q4_K_M"]
    assert asked["tiny:latest"] == asked["tiny:q4_K_M"]
    prompts = [body["prompt"] for body in asked["tiny:latest"]]  # type: ignore[index]
    assert prompts == [
        *(".", ".", "one two three", "four five six seven", "one", "one two", "one two three"),
        *("four", "four five", "four five six", "four five six seven"),
    ]
    answer, context = asked["tiny:latest"][2], asked["tiny:latest"][4]
    assert answer["options"] == {"temperature": 0, "seed": 1, "num_predict": 7}  # type: ignore[index]
    assert (context["raw"], context["top_logprobs"], context["options"]["num_predict"]) == (True, 20, 1)  # type: ignore[index]
    assert models(simulator) == BEFORE | {"tiny:q4_K_M"}, "all are kept where nothing is said"


async def test_a_dry_run_asks_and_makes_nothing(simulator: Simulator) -> None:
    done = await piped("quantize", "tiny", "--to", "q8_0", "--upstream", simulator.url, "--dry-run", "--json")
    assert done.status == 0
    plan = json.loads(done.out)["plan"]
    assert (plan["source"], plan["level"], plan["embeds"]) == ("tiny:latest", "F16", False)
    assert plan["targets"] == [{"level": "q8_0", "name": "tiny:q8_0"}]
    assert plan["disk"] == "free space unknown from here"
    assert targets(simulator) == {"/api/tags", "/api/show", "/api/version"}
    assert "To make: tiny:q8_0, q8_0, about 399 kB" in done.err
    assert models(simulator) == BEFORE


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (
            ("tinny",),
            1,
            "Ollama at {ollama} has no model 'tinny'; `ollama pull` it, or use one of: all-minilm:latest, ",
        ),
        (
            ("tiny", "--to", "q5_0"),
            2,
            "--to: 'q5_0' is not a level that Ollama can quantize to: q8_0, q4_K_M, q4_K_S, f16",
        ),
        (("tiny", "--to", "f16"), 1, "tiny:latest is F16 already"),
        (("tiny", "--to", "q8_0", "--to", "Q8_0"), 2, "--to: tiny:q8_0 would be made twice"),
        (
            ("tiny", "--to", "q8_0=all-minilm"),
            1,
            "all-minilm:latest exists already, and is not overwritten; `ollama rm`",
        ),
        (("tiny", "--to", "q8_0=tiny"), 1, "tiny:latest exists already"),
        (
            ("quantized",),
            1,
            "quantized:latest is Q4_K_M, and only F16, BF16, F32 can be quantized; use a ready-made one",
        ),
        (("tiny", "--tokens", "0"), 2, "--tokens: 0 is not allowed"),
        (("tiny", "--prompts", "nosuch"), 2, "--prompts: 'nosuch' cannot be read: No such file or directory"),
        (("tiny", "--prompts", "/dev/null"), 2, "--prompts: '/dev/null' has no prompts"),
        (("tiny", "--upstream", "{closed}"), 1, "no Ollama answers at {closed}; start it with `ollama serve`"),
    ],
)
async def test_what_cannot_be_is_one_line_and_makes_nothing(
    arguments: tuple[str, ...], status: int, line: str, simulator: Simulator
) -> None:
    tiny = simulator.models.get("tiny")
    simulator.models.add("quantized")
    added = simulator.models.get("quantized")
    simulator.models.put(added.remade(added.name, tiny.layers, quantization="Q4_K_M"))
    names = {"ollama": simulator.url, "closed": f"http://127.0.0.1:{free_port()}"}
    given = [argument.format(**names) for argument in arguments]
    done = await piped("quantize", "--upstream", simulator.url, *given)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(f"ollama-cache-proxy: {line.format(**names)}")
    assert done.err.count("\n") == 1
    assert not targets(simulator) & {"/api/create", "/api/delete", "/api/generate"}


async def test_on_a_terminal_bars_come_and_go_and_the_table_stays(simulator: Simulator, short: Path) -> None:
    where = ("--upstream", simulator.url, "--prompts", str(short))
    async with terminal("quantize", "tiny", *where, columns=80) as shown:
        await shown.shows("Measuring tiny:q4_K_M")
        assert await shown.end() == 0
    assert "━" in shown.text
    table = shown.text[shown.text.index("Level") :]
    assert "Same next token" in table
    assert "Recommended: tiny:q4_K_M" in table
    assert "━" not in table


async def test_one_model_on_two_ollamas_is_compared_and_nothing_made(simulator: Simulator, short: Path) -> None:
    where = ("--upstream", simulator.url, "--prompts", str(short))
    async with Simulator(Behaviour(completion_delay=0, seed=1)) as other:
        done = await piped("quantize", "tiny", "--against", other.url, *where)
        assert done.status == 0, done.err
        columns = {line[:18].strip(): line[18:].split() for line in done.out.splitlines()}
        assert columns[""] == [simulator.url, other.url]
        assert columns["Same completion"] == ["0%"], "another seed says something else"
        same = await piped("quantize", "tiny", "--against", simulator.url, *where, "--json")
        told = json.loads(same.out)["results"][0]
        assert told["name"] == simulator.url
        assert told["fidelity"] == {
            "same_answer": 1.0,
            "same_next": 1.0,
            "divergence": 0.0,
            "divergence_high": 0.0,
            "contexts": 7,
        }
        other.models.replace("tiny")
        differ = await piped("quantize", "tiny", "--against", other.url, *where)
    assert differ.status == 1
    assert f"tiny:latest is a different model at {other.url}; let both use the same models directory" in differ.err
    assert "/api/create" not in targets(simulator) | targets(other)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--against", "x", "--to", "q8_0"),
            "--against quantizes nothing, so it cannot be used with --to or --dry-run",
        ),
        (("--against", "x", "--dry-run"), "--against quantizes nothing"),
        (("--against", "ftp://x"), "--against: 'ftp://x' is not allowed: must be an http:// or https:// URL"),
    ],
)
async def test_what_against_does_not_go_with(arguments: tuple[str, ...], line: str, simulator: Simulator) -> None:
    done = await piped("quantize", "tiny", "--upstream", simulator.url, *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"ollama-cache-proxy: {line}")


def ready(simulator: Simulator, name: str, *, of: str = "tiny", **changes: Any) -> None:
    """Install a model that somebody has quantized with other tools."""
    source, parsed = simulator.models.get(of), naming.known(name)
    weights = replace(source.weights, digest=sha256(f"weights of {name}"), size=source.weights.size // 2)
    layers = [weights if layer.kind == WEIGHTS else layer for layer in source.layers]
    how = {"quantization": "Q8_0", "origin": source.digest, "loss": 0.02, "quantized": {}} | changes
    simulator.models.put(source.remade(parsed, layers, **how))


async def test_models_that_exist_are_measured_and_nothing_is_made_or_removed(simulator: Simulator, short: Path) -> None:
    ready(simulator, "tiny:q8")
    ready(simulator, "tiny:q4", quantization="Q4_K_M", loss=0.13)
    before = {model.name.shortest: model for model in simulator.models}
    done = await piped(
        *("quantize", "tiny", "--with", "TINY:q8", "--with", "tiny:q4", "--upstream", simulator.url),
        *("--prompts", str(short)),
    )
    assert done.status == 0, done.err
    columns = {line[:18].strip(): line[18:].split() for line in done.out.splitlines()}
    assert columns[""] == ["tiny:latest", "tiny:q8", "tiny:q4"]
    assert columns["Level"] == ["F16", "Q8_0", "Q4_K_M"]
    assert columns["Same completion"] == columns["Same next token"] == ["100%", "100%"]
    low, high = map(float, columns["Divergence, nats"])
    assert 0 < low < high, "the coarser one diverges more"
    assert "Source: tiny:latest, F16, " in done.err
    assert "To compare: tiny:q8, Q8_0, " in done.err
    assert "Recommended: tiny:q" in done.err
    assert "Kept" not in done.err
    assert "Note" not in done.err
    assert not targets(simulator) & {"/api/create", "/api/delete", "/api/pull", "/api/copy"}
    assert {model.name.shortest: model for model in simulator.models} == before
    assert simulator.residence.loaded() == [], "nothing stays loaded"


async def test_models_that_exist_are_measured_on_an_ollama_that_quantizes_none() -> None:
    async with Simulator(Behaviour(version="0.34.4", embedding_delay=0)) as ollama:
        ready(ollama, "minilm:q8", of="all-minilm")
        done = await piped("quantize", "all-minilm", "--with", "minilm:q8", "--upstream", ollama.url, "--json")
        assert done.status == 0, done.err
    told = json.loads(done.out)
    assert set(told) == {"source", "results", "recommendation", "notes"}
    (q8,) = told["results"]
    assert (q8["name"], q8["level"], told["recommendation"]["take"]) == ("minilm:q8", "Q8_0", "minilm:q8")
    assert 1 > q8["fidelity"]["cosine"] >= q8["fidelity"]["cosine_low"] > 0.98
    assert told["source"]["size"] > q8["size"]


async def test_a_dry_run_with_models_that_exist_loads_none(simulator: Simulator) -> None:
    ready(simulator, "tiny:q8", chat_template="{{ .Prompt }}")
    where = ("--upstream", simulator.url, "--dry-run", "--json")
    done = await piped("quantize", "tiny:q8", "--with", "tiny", *where)
    assert done.status == 0, done.err
    plan = json.loads(done.out)["plan"]
    assert (plan["source"]["name"], plan["source"]["level"], plan["embeds"]) == ("tiny:q8", "Q8_0", False)
    assert [(other["name"], other["level"]) for other in plan["others"]] == [("tiny:latest", "F16")]
    assert plan["notes"] == [
        "tiny:latest is larger than tiny:q8, with which it is compared; name the largest first",
        "tiny:latest has another template than tiny:q8, which changes completions too",
    ]
    assert all(f"Note: {note}\n" in done.err for note in plan["notes"])
    assert targets(simulator) == {"/api/tags", "/api/show"}


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (("--with", "tiny:q9"), 1, "Ollama at {ollama} has no model 'tiny:q9'; `ollama pull` it, or use one of: "),
        (("--with", "tiny"), 1, "--with: tiny:latest is the same model as tiny:latest: both have the digest "),
        (("--with", "copy"), 1, "--with: copy:latest is the same model as tiny:latest: both have the digest "),
        (("--with", "retold"), 1, "--with: retold:latest has the weights of tiny:latest: both are made of one GGUF"),
        (("--with", "tiny:q8", "--with", "Tiny:Q8"), 2, "--with: tiny:q8 is named twice"),
        (("--with", "tiny:q8", "--with", "twin"), 1, "--with: twin:latest is the same model as tiny:q8; name one"),
        (("--with", "all-minilm"), 1, "--with: all-minilm:latest only embeds, and tiny:latest completes"),
        (("--with", "other"), 1, "--with: other:latest is of another family than tiny:latest: qwen3, not llama"),
        (("--with", "small"), 1, "--with: small:latest is not of the size of tiny:latest: 17.83M parameters"),
        (("--with", "stub"), 1, "stub:latest runs on another machine; name a model that is installed on this Ollama"),
        (("--with", "gpt-oss:120b-cloud"), 1, "gpt-oss:120b-cloud runs on another machine; name a model"),
        (("--with", "painter"), 1, "painter:latest neither completes nor embeds"),
        (("--with", "tiny:q8", "--to", "q8_0"), 2, "--with measures models that exist, so it cannot be used with --to"),
        (("--with", "tiny:q8", "--keep", "none"), 2, "--with measures models that exist"),
        (("--with", "tiny:q8", "--against", "http://x"), 2, "--with measures models that exist"),
    ],
)
async def test_what_is_not_compared_is_one_line_and_is_not_loaded(
    arguments: tuple[str, ...], status: int, line: str, simulator: Simulator
) -> None:
    models = simulator.models
    ready(simulator, "tiny:q8")
    ready(simulator, "other", family="qwen3")
    ready(simulator, "painter", capabilities=("image",))
    tiny = models.get("tiny")
    models.put(tiny.remade(naming.known("retold"), tiny.layers, parameter_size="345K"))
    stub = tiny.remade(naming.known("stub"), tiny.layers, remote=Remote(model="llama3", host="http://127.0.0.1:9"))
    models.put(stub)
    assert models.copy(naming.known("tiny"), naming.known("copy"))
    assert models.copy(naming.known("tiny:q8"), naming.known("twin"))
    done = await piped("quantize", "tiny", "--upstream", simulator.url, *arguments)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(f"ollama-cache-proxy: {line.format(ollama=simulator.url)}")
    assert done.err.count("\n") == 1
    assert not targets(simulator) & {"/api/create", "/api/delete", "/api/generate", "/api/embed"}


@pytest.mark.parametrize("option", [("--with", "tiny"), ("--to", "q8_0"), ("--against", "{ollama}")])
async def test_a_cloud_model_is_no_source(option: tuple[str, str], simulator: Simulator) -> None:
    name, value = option
    given = (name, value.format(ollama=simulator.url), "--upstream", simulator.url)
    done = await piped("quantize", "gpt-oss:120b-cloud", *given)
    assert (done.status, done.out) == (1, "")
    assert "gpt-oss:120b-cloud runs on another machine; name a model that is installed" in done.err


async def test_ctrl_c_while_models_that_exist_are_measured_removes_nothing(simulator: Simulator) -> None:
    ready(simulator, "tiny:q8")
    before = models(simulator)
    simulator.gate.close()
    async with terminal("quantize", "tiny", "--with", "tiny:q8", "--upstream", simulator.url) as shown:
        await shown.shows("Measuring tiny:latest")
        await simulator.arrived(1)
        shown.type("\x03")
        await simulator.departed(1)
        assert await shown.end() == 130
    assert models(simulator) == before
    assert "/api/delete" not in targets(simulator)
    assert "Traceback" not in shown.text


async def test_vectors_of_different_widths_are_one_line(simulator: Simulator) -> None:
    """A model may project its vectors to another width than that of its layers, which /api/show tells."""
    minilm = simulator.models.get("all-minilm")
    ready(simulator, "minilm:q8", of="all-minilm", width=64, info=minilm.info or INFO)
    simulator.models.put(replace(minilm, info=minilm.info or INFO))
    done = await piped("quantize", "all-minilm", "--with", "minilm:q8", "--upstream", simulator.url)
    assert (done.status, done.out) == (1, "")
    last = done.err.splitlines()[-1]
    assert last == "ollama-cache-proxy: the vectors of these models cannot be compared: their widths are 384 and 64"


async def test_a_model_that_neither_completes_nor_embeds_is_left_alone(simulator: Simulator) -> None:
    tiny = simulator.models.get("tiny")
    simulator.models.put(tiny.remade(tiny.name, tiny.layers, capabilities=("image",)))
    done = await piped("quantize", "tiny", "--upstream", simulator.url)
    assert (done.status, "/api/create" in targets(simulator)) == (1, False)
    assert "tiny:latest neither completes nor embeds; only such models can be measured" in done.err


@pytest.mark.parametrize("where", ["/api/create", "/api/generate"])
async def test_what_was_made_is_removed_when_something_fails(where: str, simulator: Simulator, short: Path) -> None:
    def fault(received: Received) -> Fault | None:
        hit = received.target == where and b"tiny:q8_0" in received.body and b"keep_alive" not in received.body
        return Fault.STATUS_500 if hit else None

    simulator.fault = fault
    done = await piped(
        *("quantize", "tiny", "--to", "q4_K_M", "--to", "q8_0", "--upstream", simulator.url, "--prompts", str(short))
    )
    assert (done.status, done.out) == (1, "")
    last = done.err.splitlines()[-1]
    assert last.startswith(f"ollama-cache-proxy: Ollama at {simulator.url} says: llama runner process has terminated")
    assert models(simulator) == BEFORE


async def test_ctrl_c_while_one_is_made_waits_for_ollama_and_removes_it(simulator: Simulator) -> None:
    simulator.making.close()
    async with terminal("quantize", "tiny", "--upstream", simulator.url) as shown:
        await shown.shows("Making tiny:q4_K_M")
        shown.type("\x03")
        await shown.shows("Ending: waiting for Ollama to finish tiny:q4_K_M")
        simulator.making.open()
        assert await shown.end() == 130
    assert simulator.cancelled == 0, "Ollama was not left in the middle"
    assert "/api/delete" in targets(simulator)
    assert models(simulator) == BEFORE
    assert "Traceback" not in shown.text


async def test_a_second_ctrl_c_leaves_at_once(simulator: Simulator) -> None:
    simulator.making.close()
    async with terminal("quantize", "tiny", "--upstream", simulator.url) as shown:
        await shown.shows("Making tiny:q4_K_M")
        shown.type("\x03")
        await shown.shows("a second Ctrl-C ends immediately")
        shown.type("\x03")
        assert await shown.end() == 130
    await simulator.departed(1)
    simulator.making.open()
    assert models(simulator) == BEFORE
    assert "Traceback" not in shown.text


async def test_ctrl_c_while_it_measures_removes_what_was_made(simulator: Simulator) -> None:
    simulator.gate.close()
    async with terminal("quantize", "tiny", "--upstream", simulator.url) as shown:
        await shown.shows("Measuring tiny:latest")
        await simulator.arrived(1)
        assert "tiny:q4_K_M" in models(simulator)
        shown.type("\x03")
        await simulator.departed(1)
        assert await shown.end() == 130, "an Ollama that does not unload it removes it still"
    assert models(simulator) == BEFORE
    assert "Traceback" not in shown.text


async def test_sigterm_in_a_pipe_removes_what_was_made(simulator: Simulator) -> None:
    simulator.gate.close()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_cache_proxy", "quantize", "tiny", "--upstream", simulator.url),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    while b"Measuring" not in await process.stderr.readline():
        pass
    await simulator.arrived(1)
    os.kill(process.pid, signal.SIGTERM)
    await simulator.departed(1)
    simulator.gate.open()
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 143
    assert (out, b"Traceback" in err) == (b"", False)
    assert models(simulator) == BEFORE


async def test_an_ollama_that_goes_away_is_told_of_with_what_is_left(simulator: Simulator) -> None:
    simulator.gate.close()
    async with terminal("quantize", "tiny", "--upstream", simulator.url) as shown:
        await shown.shows("Measuring tiny:latest")
        await simulator.arrived(1)
        await simulator.stop()
        assert await shown.end() == 1
    assert "tiny:q4_K_M could not be removed: `ollama rm tiny:q4_K_M`" in shown.text
    assert "Traceback" not in shown.text


class Watched(Steps):
    """Progress without a terminal; `ticked` is set when a line says that it goes on."""

    def __init__(self) -> None:
        super().__init__(None)
        self.ticked = asyncio.Event()

    def still(self, what: str, seconds: float) -> None:
        super().still(what, seconds)
        self.ticked.set()


def lines(*rows: dict[str, object]) -> web.Response:
    body = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return web.Response(body=body, content_type="application/x-ndjson")


@asynccontextmanager
async def answering(**handlers: Callable[[dict[str, Any]], Awaitable[web.Response]]) -> AsyncIterator[Api]:
    """Give an Ollama of a few routes, named without `/api/`, each a function of the request's body."""

    async def handle(request: web.Request) -> web.Response:
        return await handlers[request.path.removeprefix("/api/")](json.loads(await request.read() or b"{}"))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server, client() as session:
        yield ollama(session, str(server.make_url("")).rstrip("/"), load(None, {}))


async def test_a_model_that_is_made_in_silence_is_said_to_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ollama 0.33 sends nothing, not even a head, until it has quantized."""
    monkeypatch.setattr(makings, "TICK", 0.01)
    steps = Watched()

    async def tags(_body: dict[str, Any]) -> web.Response:
        return web.json_response({"models": []})

    async def create(_body: dict[str, Any]) -> web.Response:
        await steps.ticked.wait()
        return lines({"status": "verifying conversion"}, {"status": "writing manifest"}, {"status": "success"})

    async with answering(tags=tags, create=create) as api:
        making = Makings(api)
        await making.make("tiny", Target(level="q8_0", name="tiny:q8_0"), (750_000, 399_000), steps)
        steps.ticked.clear()
        await making.make("tiny", Target(level="q4_K_M", name="tiny:q4"), (750_000, 230_000), steps)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Making tiny:q8_0 (reads 750 kB, writes about 399 kB) …"
    assert said[1] == "Making tiny:q8_0: 1 s so far"
    second = next(line for line in said if line.startswith("Making tiny:q4 ("))
    assert second.endswith("writes about 230 kB; about 1 s, by these sizes and the 1 s of tiny:q8_0) …")
    assert making.made == ["tiny:q8_0", "tiny:q4"]


@pytest.mark.parametrize("rows", [[], [{"response": "a", "done": False}]], ids=["no-line", "no-last-line"])
async def test_a_model_whose_answers_end_without_counts_is_measured_without(rows: list[dict[str, object]]) -> None:
    """Ollama 0.33 ends an answer where a token is no UTF-8."""

    async def tags(_body: dict[str, Any]) -> web.Response:
        return web.json_response({"models": [{"name": "tiny:latest", "digest": "d", "size": 5}]})

    async def ps(_body: dict[str, Any]) -> web.Response:
        return web.json_response({"models": []})

    async def generate(body: dict[str, Any]) -> web.Response:
        broken = {"model": "tiny", "created_at": "0001-01-01T00:00:00Z", "response": "", "done": False}
        return lines(*rows) if body["stream"] else web.json_response(broken)

    async with answering(tags=tags, ps=ps, generate=generate) as api:
        gauge = Gauge(api=api, prompts=["why not"], tokens=4, embeds=False)
        measured, outputs = await gauge.measure("tiny", "F16", Steps(None))
    assert (measured.memory, measured.vram, measured.load) == (None, None, None)
    assert (measured.prompt_rate, measured.output_rate) == (None, None)
    assert (measured.first_token is None) is (not rows)
    assert outputs.likeliest == [{}, {}]
    alike = replace(measured, fidelity=gauge.compare(outputs, outputs))
    told = {row[0]: row[1] for row in table(measured, [alike], gpu=False).rows}
    for name in ("Memory", "VRAM, by Ollama", "Load", "Prompt tokens/s", "Output tokens/s"):
        assert told[name] == "not told"


@pytest.mark.parametrize("version", ["0.34.1", "0.35.0-rc0"])
async def test_an_ollama_that_does_not_quantize_is_not_asked_to(version: str) -> None:
    async with Simulator(Behaviour(version=version)) as ollama:
        done = await piped("quantize", "tiny", "--upstream", ollama.url, "--dry-run")
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(
            f"ollama-cache-proxy: Ollama {version} at {ollama.url} does not quantize GGUF models"
        )
        assert "`quantize tiny:latest --with NAME`" in done.err
        assert "/api/create" not in targets(ollama)


async def test_a_400_to_making_a_model_names_the_way_out() -> None:
    """Ollama since 0.34.1, in a build whose version does not show it."""
    error = "create-time quantization is only supported for safetensors imports; quantize GGUF models with llama.cpp"

    async def tags(_body: dict[str, Any]) -> web.Response:
        return web.json_response({"models": []})

    async def create(_body: dict[str, Any]) -> web.Response:
        return web.json_response({"error": error}, status=400)

    async with answering(tags=tags, create=create) as api:
        with pytest.raises(Failed) as caught:
            await Makings(api).make("tiny", Target(level="q8_0", name="tiny:q8_0"), (1, 1), Steps(None))
    assert caught.value.what == f"Ollama at {api.url} says: {error}"
    assert "`quantize tiny --with NAME`" in caught.value.fix


@pytest.mark.parametrize(("level", "status"), [("BF16", 0), ("F32", 0), ("Q8_0", 1)])
async def test_what_can_be_a_source(level: str, status: int, simulator: Simulator) -> None:
    tiny = simulator.models.get("tiny")
    simulator.models.put(tiny.remade(tiny.name, tiny.layers, quantization=level))
    done = await piped("quantize", "tiny", "--to", "q4_K_M", "--upstream", simulator.url, "--dry-run")
    assert done.status == status, done.err


BLOB = "sha256-" + "a" * 64


@pytest.mark.parametrize(
    ("url", "free", "says"),
    [
        ("http://127.0.0.1:1", 2000, "2.00 kB free in "),
        ("http://127.0.0.1:1", 999, "may be needed; free disk space"),
        ("http://192.0.2.1:1", 999, "free space unknown from here"),
    ],
)
def test_the_disk_is_looked_at_where_it_is_this_machine_s(
    url: str, free: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / BLOB).touch()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    modelfile = f"# FROM x\n\nFROM {tmp_path}/blobs/{BLOB}\nTEMPLATE x\n"
    try:
        told = _disk(url, modelfile, 1000)
    except Failed as failed:
        told = str(failed)
    assert says in told


def test_a_folder_that_is_not_ollama_s_is_no_disk_of_its_own(tmp_path: Path) -> None:
    """A container names its own paths, and the same folder may be here too."""
    assert _disk("http://127.0.0.1:1", f"FROM {tmp_path}/blobs/{BLOB}\n", 1) == "free space unknown from here"


async def test_the_credentials_are_for_the_ollama_of_the_settings_alone() -> None:
    settings = load(None, {"upstream_authorization": f"Bearer {canary.CREDENTIAL}"})
    answer = upstreams.answering(upstreams.whole(b'{"capabilities":["completion"]}'))
    async with (
        upstreams.byte_upstream(answer, authorization=f"Bearer {canary.CREDENTIAL}") as upstream,
        client() as session,
    ):
        own, other = ollama(session, upstream.url, settings), ollama(session, upstream.url, settings, other=True)
        assert len(await own.installed()) == 2
        assert await own.object("/api/show", {"model": "tiny"}) == {"capabilities": ["completion"]}
        with pytest.raises(Failed) as caught:
            await other.installed()
    assert caught.value.what == f"Ollama at {upstream.url} refuses requests without credentials (401)"
    assert "OCP_UPSTREAM_AUTHORIZATION" in caught.value.fix
