"""The work of `quantize`: check, make, measure, recommend, and remove the results that are not kept."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ollama_cache_proxy.cli import graphics, options
from ollama_cache_proxy.cli.asking import client
from ollama_cache_proxy.cli.ending import DONE, WRONG, Failed
from ollama_cache_proxy.cli.jobs import comparing
from ollama_cache_proxy.cli.jobs.api import Api, ollama
from ollama_cache_proxy.cli.jobs.gauge import Gauge
from ollama_cache_proxy.cli.jobs.makings import Makings
from ollama_cache_proxy.cli.jobs.models import embeds, level_of, local_row, size_of
from ollama_cache_proxy.cli.jobs.progress import show, steps
from ollama_cache_proxy.cli.jobs.sheets import table
from ollama_cache_proxy.cli.jobs.work import say
from ollama_cache_proxy.cli.screen import printable, write_json
from ollama_cache_proxy.service.settings import is_loopback
from ollama_cache_proxy.workbench import levels, told_rows
from ollama_cache_proxy.workbench.bench_questions import PROMPTS
from ollama_cache_proxy.workbench.levels import Target
from ollama_cache_proxy.workbench.sheet import Sheet
from ollama_cache_proxy.workbench.shown import dimension
from ollama_cache_proxy.workbench.verdict import Verdict, recommend

_KEEP: Final = "all"
"""What to keep where nothing is said."""

_BLOBS: Final = re.compile(r"^FROM (?P<folder>.+)[/\\]blobs[/\\](?P<blob>sha256-[0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be done."""

    source: str
    """The name of the source as Ollama lists it."""
    level: str
    """Its quantization level."""
    size: int
    """Its bytes."""
    targets: Sequence[Target]
    estimates: Sequence[int]
    """The estimated bytes of each target."""
    embeds: bool
    """Whether the source embeds and does not complete."""
    needed: int
    """Bytes of disk space for all of it."""
    disk: str
    """The free disk space in words."""


async def quantize(arguments: argparse.Namespace) -> int:
    """Quantize and measure, or with --dry-run say what would be done. Raise Failed."""
    prompts = _prompts(arguments.prompts)
    if arguments.tokens < 1:
        raise Failed(f"--tokens: {arguments.tokens} is not allowed: must be 1 or more", status=WRONG)
    comparing.check_options(arguments)
    settings = options.settings_of(arguments)
    upstream = options.upstream_url(settings)
    async with client() as session:
        api = ollama(session, upstream, settings)
        if arguments.against is not None:
            other = ollama(session, comparing.other_url(arguments.against), settings, other=True)
            await comparing.on_two_ollamas(api, other, prompts, arguments)
            return DONE
        if arguments.beside:
            await comparing.with_others(api, prompts, arguments)
            return DONE
        plan = await _planned(api, arguments.model, arguments.to or ["q4_K_M"])
        for line in _summary(plan, arguments.kept_results or _KEEP):
            say(line)
        if arguments.dry_run:
            if arguments.json:
                write_json({"plan": asdict(plan)})
            return DONE
        gauge = Gauge(api=api, prompts=prompts, tokens=arguments.tokens, embeds=plan.embeds)
        await _make_and_measure(plan, gauge, Makings(api), arguments)
    return DONE


async def _make_and_measure(plan: _Plan, gauge: Gauge, makings: Makings, arguments: argparse.Namespace) -> None:
    with steps() as progress:
        try:
            for target, size in zip(plan.targets, plan.estimates, strict=True):
                await makings.make(plan.source, target, (plan.size, size), progress)
            source, results = await gauge.measure_all(
                (plan.source, plan.level), [(target.name, target.level) for target in plan.targets], progress
            )
            gpu = await graphics.known_at(gauge.api.url)
            verdict = recommend(source, results, gpu=gpu)
            keep = {"best": {verdict.take}, "all": set(makings.made), "none": set()}[arguments.kept_results or _KEEP]
            for name in makings.made:
                if name not in keep:
                    await makings.remove(name)
        except BaseException:  # signals too
            await makings.remove_all(progress)
            raise
    if arguments.json:
        kept = {"recommendation": asdict(verdict), "kept": makings.made}
        write_json({"source": asdict(source), "results": [asdict(result) for result in results], **kept})
    else:
        _show(table(source, results, gpu=gpu), verdict, makings.made)


def _prompts(file: str | None) -> Sequence[str]:
    if file is None:
        return PROMPTS
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except OSError as error:
        raise Failed(f"--prompts: {file!r} cannot be read: {error.strerror}", status=WRONG) from None
    except UnicodeDecodeError:
        raise Failed(f"--prompts: {file!r} is not UTF-8", status=WRONG) from None
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise Failed(f"--prompts: {file!r} has no prompts", status=WRONG)
    return prompts


async def _planned(api: Api, model: str, wanted: Sequence[str]) -> _Plan:
    """Return the plan, after every check that is possible in advance. Raise Failed."""
    row = await local_row(api, model)
    source, size, level = str(row["name"]), size_of(row), level_of(row)
    try:
        targets = [levels.read_target(text, source) for text in wanted]
    except ValueError as error:
        raise Failed(f"--to: {error}", status=WRONG) from None
    version = told_rows.version(await api.object("/api/version"))
    if not levels.can_quantize(version):
        raise Failed(
            f"Ollama {printable(version)} at {api.url} does not quantize GGUF models: 0.34.0 was the last that does",
            levels.instead(source),
        )
    if why := levels.refusal(source, level, targets):
        raise Failed(why)
    _check_names(targets, [row["name"] for row in await api.installed()])
    shown = await api.object("/api/show", {"model": source})
    width = dimension(shown, "embedding_length") or 0
    estimates = [levels.estimate(size, level, target.level, width) for target in targets]
    needed = levels.needed(estimates)
    return _Plan(
        source=source,
        level=level,
        size=size,
        targets=targets,
        estimates=estimates,
        embeds=embeds(source, shown),
        needed=needed,
        disk=_disk(api.url, told_rows.text(shown, "modelfile"), needed),
    )


def _check_names(targets: Sequence[Target], taken: Sequence[str]) -> None:
    for index, target in enumerate(targets):
        if any(levels.same(target.name, other.name) for other in targets[:index]):
            raise Failed(f"--to: {target.name} would be made twice", status=WRONG)
        if any(levels.same(target.name, name) for name in taken):
            raise Failed(
                f"{target.name} exists already, and is not overwritten",
                f"`ollama rm` it, or give the result another name: --to {target.level}=NAME",
            )


def _disk(url: str, modelfile: str, needed: int) -> str:
    """Return the free disk space in words, as far as it can be seen. Raise Failed if it is too little."""
    where = _BLOBS.search(modelfile)
    try:
        here = where is not None and (Path(where["folder"]) / "blobs" / where["blob"]).exists()
        if where is None or not here or not is_loopback(urlsplit(url).hostname or ""):
            return "free space unknown from here"
        free = shutil.disk_usage(where["folder"]).free
    except OSError:  # the folder is another user's
        return "free space unknown from here"
    if free < needed:
        raise Failed(
            f"{where['folder']} has {levels.spelled(free)} free, and {levels.spelled(needed)} may be needed",
            "free disk space (`ollama rm`), or quantize to fewer levels",
        )
    return f"{levels.spelled(free)} free in {where['folder']}"


def _summary(plan: _Plan, keep: str) -> list[str]:
    lines = [f"Source: {plan.source}, {plan.level}, {levels.spelled(plan.size)}"]
    for target, size in zip(plan.targets, plan.estimates, strict=True):
        lines.append(f"To make: {target.name}, {target.level}, about {levels.spelled(size)}")
    lines.append(f"Disk: up to {levels.spelled(plan.needed)} needed; {plan.disk}")
    return [*lines, f"Afterwards: keep {keep}"]


def _show(sheet: Sheet, verdict: Verdict, kept: Sequence[str]) -> None:
    show(sheet)
    say(f"Recommended: {verdict.take} ({verdict.why})")
    say(f"Kept: {', '.join(kept) or 'no result'}")
