"""`export`, `import` and `pack-key`, as processes, between two proxies with stores of their own."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.jobs.exporting import export
from ollama_cache_proxy.cli.jobs.importing import import_pack
from ollama_cache_proxy.cli.jobs.pack_writing import PackWriter
from ollama_cache_proxy.cli.main import parser
from ollama_cache_proxy.policy.context_lengths import Contexts
from ollama_cache_proxy.service.seal_key_file import make_key
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support import canary
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.terminal import Done, piped
from tests.workbench.test_pack_form import ABOUT

TEXTS = [f"def function_{number}():\n    return {number}" for number in range(2000)]
LISTS = [TEXTS[begin : begin + 50] for begin in range(0, len(TEXTS), 50)]
QUICK = Behaviour(embedding_delay=0.0, completion_delay=0.0)
MODEL = ("--model", "all-minilm")


async def command(name: str, proxy: Proxy, *arguments: str | Path, token: str = canary.TOKEN) -> Done:
    """Run a command as a process."""
    added = {"OCP_ADMIN_TOKEN": token} if token else {}
    return await piped(name, "--url", proxy.url, *map(str, arguments), added=added)


async def work(name: str, proxy: Proxy, *arguments: str | Path, token: str = canary.TOKEN) -> Done:
    """Do the work of a command here, without a process."""
    out, err = io.StringIO(), io.StringIO()
    job = {"export": export, "import": import_pack}[name]
    with pytest.MonkeyPatch.context() as environment, redirect_stdout(out), redirect_stderr(err):
        if token:
            environment.setenv("OCP_ADMIN_TOKEN", token)
        parsed = parser((name,)).parse_args([name, "--url", proxy.url, *map(str, arguments)])
        try:
            status = await job(parsed)
        except Failed as failed:
            err.write(f"{failed}\n")
            status = failed.status
    canary.check(out.getvalue() + err.getvalue(), "the output")
    return Done(status=status, out=out.getvalue(), err=err.getvalue())


async def embed(proxy: Proxy, texts: Any, **fields: str) -> RawAnswer:
    body = json.dumps({"model": "all-minilm", "input": texts}).encode()
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    answer = await ask(proxy.url, "POST", "/api/embed", body=body, fields=named)
    assert answer.status == 200, answer.body
    return answer


def said(answer: RawAnswer) -> str:
    return answer.field("Cache-Status") or ""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@asynccontextmanager
async def other(**settings: Any) -> AsyncIterator[tuple[Proxy, Simulator]]:
    """Another machine: a proxy and an Ollama of its own."""
    async with Simulator(QUICK) as simulator, proxy_before(simulator.url, **settings) as proxy:
        yield proxy, simulator


@pytest.fixture
async def pack(tmp_path: Path) -> Path:
    """A pack of three texts."""
    path = tmp_path / "a.pack"
    async with other() as (proxy, _):
        await embed(proxy, ["a", "b", "c"], X_Cache_Category="docs")
        done = await work("export", proxy, *MODEL, path)
    assert (done.status, done.out) == (0, ""), done.err
    return path


async def test_what_one_machine_has_embedded_another_knows(redis_server: RedisServer, tmp_path: Path) -> None:
    """Two thousand texts: all of them are known at first asks, and none where the model has another digest."""
    key, path = tmp_path / "team.pem", tmp_path / "repository.pack"
    assert (await piped("pack-key", str(key))).status == 0
    async with other(redis_url=redis_server.url) as (proxy, simulator):
        answers = [await embed(proxy, texts) for texts in LISTS]
        done = await command("export", proxy, *MODEL, "--sign-key", key, path)
        assert (done.status, "2,000 entries in" in done.err) == (0, True), done.err
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert simulator.inferences == len(LISTS)
    async with other() as (proxy, simulator):
        done = await command("import", proxy, "--trusted-key", f"{key}.pub", path)
        assert "Of 2,000 entries: 2,000 imported, 0 already stored, 0 refused" in done.err
        again = await command("import", proxy, "--trusted-key", f"{key}.pub", path)
        assert "Of 2,000 entries: 0 imported, 2,000 already stored, 0 refused" in again.err
        for texts, answer in zip(LISTS, answers, strict=True):
            known = await embed(proxy, texts)
            assert said(known).startswith("ollama-cache-proxy; hit; ttl=")
            assert said(known).endswith("; detail=imported")
            assert json.loads(known.body)["embeddings"] == json.loads(answer.body)["embeddings"]
        assert simulator.inferences == 0
        figures = (await ask(proxy.url, "GET", "/metrics")).body.decode()
        assert 'hits_total{endpoint="embed"} 40.0' in figures
    async with other() as (proxy, simulator):
        body = json.dumps({"model": "all-minilm", "from": "all-minilm", "system": "x", "stream": False}).encode()
        assert (await ask(proxy.url, "POST", "/api/create", body=body)).status == 200
        done = await command("import", proxy, "--trusted-key", f"{key}.pub", path, "--json")
        counts = json.loads(done.out)
        assert (done.status, counts["imported"], counts["refused"]) == (1, 0, {"other-digest": 2000})
        assert "fwd=miss" in said(await embed(proxy, LISTS[0]))


@pytest.mark.parametrize("store", ["redis", "memory"])
async def test_an_entry_that_was_imported_says_so_wherever_it_is_found(
    store: str, pack: Path, redis_server: RedisServer
) -> None:
    settings = {"redis_url": redis_server.url} if store == "redis" else {}
    async with other(**settings) as (proxy, _):
        assert (await work("import", proxy, "--trust", pack)).status == 0
        for _ in range(2):
            assert said(await embed(proxy, ["a", "b"])).endswith("; detail=imported")
        assert "known=1; of=2" in said(await embed(proxy, ["c", "new"]))
        await embed(proxy, ["a"], Cache_Control="no-cache")
        assert "imported" not in said(await embed(proxy, ["a"]))
        listed = json.loads((await ask(proxy.url, "GET", "/api/cache/entries")).body)["entries"]
        assert sorted(entry["imported"] for entry in listed) == [False, False, True, True]


async def test_a_completion_and_its_stream_come_along_and_go_by_the_fast_path(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pack"
    requests = [json.dumps({"model": "tiny", "prompt": "x", "stream": stream}).encode() for stream in (False, True)]
    async with other(cache_streams=True) as (proxy, _):
        firsts = [await ask(proxy.url, "POST", "/api/generate", body=body) for body in requests]
        await ask(proxy.url, "POST", "/api/generate", body=requests[1])  # after it the stream is stored
        assert (await work("export", proxy, "--model", "tiny", path)).status == 0
    async with other(cache_streams=True) as (proxy, simulator):
        assert "2 imported" in (await work("import", proxy, "--trust", path)).err
        for body, first in zip(requests, firsts, strict=True):
            for _ in range(3):
                answer = await ask(proxy.url, "POST", "/api/generate", body=body)
                assert said(answer).endswith("; detail=imported")
                assert answer.body == first.body
        assert simulator.inferences == 0
    async with other() as (proxy, _):
        done = await work("import", proxy, "--trust", path)
        assert ("1 imported" in done.err, "1 refused: not-cached" in done.err) == (True, True)


async def test_packs_are_opened_and_sealed_where_a_store_is_sealed(redis_server: RedisServer, tmp_path: Path) -> None:
    keys = [str(tmp_path / name) for name in ("one", "two")]
    for key in keys:
        make_key(key)
    path = tmp_path / "a.pack"
    async with other(redis_url=redis_server.url, seal_key_file=keys[0]) as (proxy, _):
        await embed(proxy, ["a", "b"])
        assert (await work("export", proxy, *MODEL, path)).status == 0
    redis_server.client().flushall()
    async with other(redis_url=redis_server.url, seal_key_file=keys[1]) as (proxy, simulator):
        assert "2 imported" in (await work("import", proxy, "--trust", path)).err
        assert said(await embed(proxy, ["a", "b"])).endswith("; detail=imported")
        assert simulator.inferences == 0


@pytest.mark.parametrize(
    ("made", "here", "options", "said"),
    [
        (256, 512, (), "2 refused: other-context, context 256, here 512"),
        (256, 512, ("--any-context",), "2 imported"),
        (256, 256, (), "2 imported"),
        (256, None, (), "2 imported"),
        (None, 512, (), "2 imported"),
    ],
)
async def test_another_context_length_does_not_fit(  # noqa: PLR0917 - a row, and fixtures
    made: int | None,
    here: int | None,
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loads_with(proxy: Proxy, length: int | None) -> None:
        models: Any = proxy.running.exchanges._relay._models
        identify = models.identify

        async def identified(name: str) -> Any:
            return replace(await identify(name), contexts=Contexts(first=length, now=length))

        monkeypatch.setattr(models, "identify", identified)

    path = tmp_path / "a.pack"
    async with other() as (proxy, _):
        await embed(proxy, ["a", "b"])
        loads_with(proxy, made)
        assert (await work("export", proxy, *MODEL, path)).status == 0
    async with other() as (proxy, _):
        loads_with(proxy, here)
        assert said in (await work("import", proxy, "--trust", *options, path)).err


async def test_what_does_not_fit_is_refused_with_the_reason(pack: Path) -> None:
    async with (
        Simulator(Behaviour(version="0.33.9")) as simulator,
        proxy_before(simulator.url) as newer,
        other(epoch="another") as (with_epoch, _),
        other(credential_fields=["x-user"]) as (with_fields, _),
    ):
        done = await work("import", newer, "--trust", pack)
        assert "3 refused: other-version, version '0.33.0-rc2', here '0.33.9'" in done.err
        done = await work("import", with_epoch, "--trust", pack)
        assert (done.status, "3 refused: other-settings, epoch '', here 'another'" in done.err) == (1, True)
        assert "3 refused: other-settings" in (await work("import", with_fields, "--trust", pack)).err
        await ask(newer.url, "DELETE", "/api/delete", body=b'{"model": "all-minilm"}')
        done = await work("import", newer, "--trust", pack)
        assert (done.status, "digest is not known here" in done.err) == (1, True)


async def test_who_can_ask_for_what_was_imported_is_said(proxy: Proxy, tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    await embed(proxy, ["a"])
    await embed(proxy, ["a"], X_Cache_Namespace="team")
    await embed(proxy, ["a"], Authorization="Bearer one")
    await embed(proxy, ["a"], Authorization="Bearer two", Origin="http://localhost:3000")
    assert (await work("export", proxy, *MODEL, path)).status == 0
    described = (await work("import", proxy, "--check", path)).err
    assert described.count("1 entry: ") == 4
    assert [word in described for word in ("for everybody", "namespace team", "credentials ", "Origin ")] == [True] * 4
    assert b"Bearer" not in path.read_bytes()
    async with other() as (elsewhere, _):
        done = await work("import", elsewhere, "--trust", path)
        assert "1 answer only requests with the same X-Cache-Namespace" in done.err
        assert "2 answer only requests with the same credentials" in done.err
        assert "1 answer only requests with the same Origin" in done.err
        assert "detail=imported" in said(await embed(elsewhere, ["a"], Authorization="Bearer one"))
        assert "fwd=miss" in said(await embed(elsewhere, ["a"], Authorization="Bearer three"))


async def test_what_a_pack_says_of_itself_cannot_control_a_terminal(proxy: Proxy, tmp_path: Path) -> None:
    with PackWriter(tmp_path / "a.pack") as writer:
        writer.begin(replace(ABOUT, model="\x1b[2Jmodel", made_by="\x07"))
        writer.end_page({"cursor": None, "leftOut": {}, "scopes": [["\x1b]0;x\x07", "", "", 1]]})
        writer.finish(None)
    done = await work("import", proxy, "--check", tmp_path / "a.pack")
    assert (done.status, "model" in done.err, "\x1b" in done.err, "\x07" in done.err) == (0, True, False, False)


async def test_what_a_pack_says_of_itself_is_not_taken_for_what_was_found(proxy: Proxy, tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    with PackWriter(path) as writer:
        writer.begin(replace(ABOUT, model=f"x\n{path}: signed with SHA256:00", digest="d" * 100_000))
        writer.end_page({"cursor": None, "leftOut": {}, "scopes": [["n\nx", "", "", 1]]})
        writer.finish(None)
    done = await work("import", proxy, "--check", path)
    described = done.err.splitlines()[1:]
    assert described[0].startswith(f"{path}: not signed, ")
    assert (len(described), max(map(len, described))) == (3, 1000)


async def test_filters_choose_what_is_exported(proxy: Proxy, tmp_path: Path) -> None:
    await embed(proxy, ["a", "b"], X_Cache_Category="docs")
    await embed(proxy, ["c"], X_Cache_Namespace="team")
    for number, (filters, entries) in enumerate(
        [((), "3 entries"), (("--category", "docs"), "2 entries"), (("--namespace", "team"), "1 entry")]
    ):
        done = await work("export", proxy, *MODEL, *filters, tmp_path / str(number))
        assert f"{entries} in " in done.err
    done = await work("export", proxy, *MODEL, "--category", "none", tmp_path / "none")
    assert (done.status, "nothing was written" in done.err) == (1, True)
    assert names_in(tmp_path) == ["0", "1", "2"]
    assert (await command("export", proxy, tmp_path / "all")).status == 2


async def test_only_who_is_trusted_is_imported(proxy: Proxy, pack: Path, tmp_path: Path) -> None:
    keys = [tmp_path / name for name in ("one.pem", "two.pem")]
    for key in keys:
        assert (await piped("pack-key", str(key))).status == 0
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert (await piped("pack-key", str(keys[0]))).status == 2, "a key is not written over"
    signed = tmp_path / "signed.pack"
    await embed(proxy, ["a", "b", "c"])
    assert (await work("export", proxy, *MODEL, "--sign-key", keys[0], signed)).status == 0
    for arguments, status, line in (
        ((pack,), 2, "is not signed"),
        ((pack, "--trusted-key", f"{keys[0]}.pub"), 2, "is not signed"),
        ((signed,), 2, "is signed with the key SHA256:"),
        ((signed, "--trusted-key", f"{keys[1]}.pub"), 2, "not the one that you trust"),
        ((signed, "--trusted-key", keys[0]), 2, "is no public Ed25519 key"),
        ((signed, "--trusted-key", tmp_path / "absent"), 2, "cannot be read"),
        ((signed, "--trusted-key", f"{keys[0]}.pub", "--trust"), 2, "exclude each other"),
        ((signed, "--trusted-key", f"{keys[1]}.pub", "--trusted-key", f"{keys[0]}.pub"), 0, "3 already stored"),
        ((signed, "--trust"), 0, "3 already stored"),
    ):
        done = await work("import", proxy, *arguments)
        assert (done.status, line in done.err) == (status, True), (arguments, done.err)
    done = await work("export", proxy, *MODEL, "--sign-key", f"{keys[0]}.pub", tmp_path / "x")
    assert (done.status, "is no private Ed25519 key" in done.err) == (2, True)


async def test_both_need_the_token_also_on_loopback(simulator: Simulator, pack: Path, tmp_path: Path) -> None:
    async with proxy_before(simulator.url) as proxy, proxy_before(simulator.url, admin_token=None) as without:
        for at, token, line in (
            (proxy, "", "set OCP_ADMIN_TOKEN to the proxy's token"),
            (proxy, "wrong", "missing or wrong"),
            (without, "any", "start the proxy with OCP_ADMIN_TOKEN"),
            (without, "", "start the proxy with OCP_ADMIN_TOKEN"),
        ):
            for name, arguments in (("import", ("--trust", pack)), ("export", (*MODEL, tmp_path / "new"))):
                done = await work(name, at, *arguments, token=token)
                assert (done.status, line in done.err) == (1, True), done.err
    assert names_in(tmp_path) == ["a.pack"]


async def test_an_export_that_breaks_off_is_continued(redis_server: RedisServer, tmp_path: Path) -> None:
    """It is cut anywhere: what is not a whole page is read again, and nothing is missing at the end."""
    path, part = tmp_path / "a.pack", tmp_path / "a.pack.part"
    async with other(redis_url=redis_server.url) as (proxy, _):
        for texts in LISTS:
            await embed(proxy, texts)
        assert (await work("export", proxy, *MODEL, path)).status == 0
        whole = path.read_bytes()
        first = whole.index(b'"cursor":')  # the end of the first page
        for length in (0, 5, 8, 100, first - 20, first + 200, len(whole) // 2, len(whole) - 300, len(whole) - 1):
            path.rename(part)
            os.truncate(part, length)
            done = await work("export", proxy, *MODEL, path)
            assert (done.status, "Going on after" in done.err) == (0, length > first), (length, done.err)
            assert not part.exists()
            checked = await work("import", proxy, "--check", path)
            assert (checked.status, ", 2,000 entries of" in checked.err) == (0, True), checked.err
        path.rename(part)
        with part.open("r+b") as file:
            file.seek(first - 5000)
            file.write(b"damage")
        assert (await work("export", proxy, *MODEL, path)).status == 0
        assert ", 2,000 entries of" in (await work("import", proxy, "--check", path)).err
        assert (await work("export", proxy, *MODEL, path)).status == 2, "a pack is not written over"
        path.rename(part)
        done = await work("export", proxy, *MODEL, "--category", "none", path)
        assert (done.status, "beginning anew" in done.err) == (1, True)


def break_off(path: Path) -> None:
    """Leave of a pack what an export leaves that breaks off in its second page."""
    whole = path.read_bytes()
    path.unlink()
    path.with_name(f"{path.name}.part").write_bytes(whole[: whole.index(b'"cursor":') + 200])


async def test_an_export_that_breaks_off_begins_anew_at_another_store(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """A cursor has a meaning in the store that gave it, and only until that is cleared."""
    path = tmp_path / "a.pack"
    redis = {"redis_url": redis_server.url}
    for first, second, entries in ((redis, {}, "600 entries in"), ({}, redis, "2,000 entries in")):
        async with other(**first) as (proxy, _):
            for texts in LISTS:
                await embed(proxy, texts)
            assert (await work("export", proxy, *MODEL, path)).status == 0
        break_off(path)
        async with other(**second) as (elsewhere, _):
            for texts in LISTS[:12]:
                await embed(elsewhere, texts)
            done = await work("export", elsewhere, *MODEL, path)
            assert (done.status, "beginning anew" in done.err) == (0, True), done.err
            assert entries in done.err
        path.unlink()


async def test_what_was_cleared_is_not_in_a_pack_that_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    async with other() as (proxy, _):
        for texts in LISTS:
            await embed(proxy, texts)
        assert (await work("export", proxy, *MODEL, path)).status == 0
        break_off(path)
        assert (await ask(proxy.url, "POST", "/api/cache/clear", body=b"{}")).status == 200
        await embed(proxy, ["a", "b"])
        done = await work("export", proxy, *MODEL, path)
        assert (done.status, "2 entries in" in done.err) == (0, True), done.err


async def test_a_proxy_that_ends_meanwhile_is_one_line(redis_server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    async with other(redis_url=redis_server.url) as (proxy, _):
        await embed(proxy, ["a"])
        assert (await work("export", proxy, *MODEL, path)).status == 0
    for name, arguments in (("import", ("--trust", path)), ("export", (*MODEL, tmp_path / "b.pack"))):
        done = await work(name, proxy, *arguments)
        assert (done.status, len([line for line in done.err.splitlines() if "no proxy answers" in line])) == (1, 1)


async def test_an_import_and_a_store_that_is_gone(pack: Path) -> None:
    server = RedisServer()
    server.start()
    try:
        async with other(redis_url=server.url) as (proxy, _):
            assert said(await embed(proxy, ["x"]))
            server.kill()
            done = await work("import", proxy, "--trust", pack)
            assert (done.status, "the store does not answer" in done.err) == (1, True), done.err
    finally:
        server.close()
