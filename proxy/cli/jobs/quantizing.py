"""The work of `quantize`: check, make, measure, recommend, and keep what is to be kept."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from proxy.cli import options
from proxy.cli.asking import client
from proxy.cli.ending import DONE, WRONG, Failed
from proxy.cli.jobs.api import Api, ollama
from proxy.cli.jobs.gauge import Gauge
from proxy.cli.jobs.makings import Makings
from proxy.cli.jobs.progress import Steps, show, steps
from proxy.cli.jobs.work import say
from proxy.cli.screen import write_json
from proxy.settings import is_loopback
from proxy.toolbox import levels
from proxy.toolbox.fidelity import Completing, Embedding
from proxy.toolbox.levels import Target
from proxy.toolbox.questions import PROMPTS
from proxy.toolbox.sheet import Sheet
from proxy.toolbox.spread import seconds
from proxy.toolbox.verdict import Measured, Verdict, recommend

_BLOBS: Final = re.compile(r"^FROM (?P<folder>.+)[/\\]blobs[/\\](?P<blob>sha256-[0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be done: the source as Ollama lists it, what to make, how large it will be, and room for it."""

    source: str
    level: str
    size: int
    targets: Sequence[Target]
    estimates: Sequence[int]
    embeds: bool
    needed: int
    disk: str


async def quantize(arguments: argparse.Namespace) -> int:
    """Do everything, or with --dry-run say what would be done; raises Failed."""
    prompts = _prompts(arguments.prompts)
    if arguments.tokens < 1:
        raise Failed(f"--tokens: {arguments.tokens} is not allowed: must be 1 or more", status=WRONG)
    upstream = options.upstream_url(options.settings_of(arguments))
    async with client() as session:
        api = ollama(session, upstream)
        plan = await _planned(api, arguments.model, arguments.to or ["q4_K_M"])
        for line in _told(plan, arguments.keep):
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
            for target in plan.targets:
                await makings.make(plan.source, target, progress)
            source, results = await _measured(plan, gauge, progress)
            verdict = recommend(source, results)
            keep = {"best": {verdict.take}, "all": set(makings.made), "none": set()}[arguments.keep]
            for name in makings.made:
                if name not in keep:
                    await makings.remove(name)
        except BaseException:  # whatever ends it, a signal too
            await makings.remove_all(progress)
            raise
    if arguments.json:
        kept = {"recommendation": asdict(verdict), "kept": makings.made}
        write_json({"source": asdict(source), "results": [asdict(result) for result in results], **kept})
    else:
        _show(source, results, verdict, makings.made)


async def _measured(plan: _Plan, gauge: Gauge, progress: Steps) -> tuple[Measured, list[Measured]]:
    source, said = await gauge.measure(plan.source, plan.level, progress)
    results = []
    for target in plan.targets:
        measured, other = await gauge.measure(target.name, target.level, progress)
        results.append(replace(measured, fidelity=gauge.compare(said, other)))
    return source, results


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
        raise Failed(f"--prompts: {file!r} holds none", status=WRONG)
    return prompts


async def _planned(api: Api, model: str, wanted: Sequence[str]) -> _Plan:
    """Check everything that can be checked before anything is made."""
    row = await api.row_of(model)
    source, size = str(row["name"]), int(row["size"])
    if row.get("remote_host") or row.get("remote_model"):
        raise Failed(f"{source} is answered by another machine", "quantize what is installed on this one")
    level = str((row.get("details") or {}).get("quantization_level") or "unknown")
    try:
        targets = [levels.read_target(text, source) for text in wanted]
    except ValueError as error:
        raise Failed(f"--to: {error}", status=WRONG) from None
    if why := levels.refusal(source, level, targets):
        raise Failed(why)
    _check_names(targets, [str(row.get("name")) for row in await api.installed()])
    shown = await api.object("/api/show", {"model": source})
    info = shown.get("model_info") or {}
    width = int(info.get(f"{info.get('general.architecture')}.embedding_length") or 0)
    estimates = [levels.estimate(size, level, target.level, width) for target in targets]
    needed = levels.needed(estimates)
    return _Plan(
        source=source,
        level=level,
        size=size,
        targets=targets,
        estimates=estimates,
        embeds="completion" not in (shown.get("capabilities") or ["completion"]),
        needed=needed,
        disk=_disk(api.url, str(shown.get("modelfile", "")), needed),
    )


def _check_names(targets: Sequence[Target], taken: Sequence[str]) -> None:
    for index, target in enumerate(targets):
        if any(levels.same(target.name, other.name) for other in targets[:index]):
            raise Failed(f"--to: {target.name} would be made twice", status=WRONG)
        if any(levels.same(target.name, name) for name in taken):
            raise Failed(
                f"{target.name} is there already, and is not overwritten",
                f"`ollama rm` it, or name the result otherwise: --to {target.level}=NAME",
            )


def _disk(url: str, modelfile: str, needed: int) -> str:
    """Say what the disk of the models has free, where it can be seen; Failed where that is too little."""
    where = _BLOBS.search(modelfile)
    here = where is not None and (Path(where["folder"]) / "blobs" / where["blob"]).exists()
    if where is None or not here or not is_loopback(urlsplit(url).hostname or ""):
        return "cannot be seen from here"
    free = shutil.disk_usage(where["folder"]).free
    if free < needed:
        raise Failed(
            f"{where['folder']} has {levels.spelled(free)} free, and {levels.spelled(needed)} may be needed",
            "make room (`ollama rm`), or take fewer levels at once",
        )
    return f"{levels.spelled(free)} free in {where['folder']}"


def _told(plan: _Plan, keep: str) -> list[str]:
    lines = [f"Source: {plan.source}, {plan.level}, {levels.spelled(plan.size)}"]
    for target, size in zip(plan.targets, plan.estimates, strict=True):
        lines.append(f"To make: {target.name}, {target.level}, about {levels.spelled(size)}")
    lines.append(f"Disk: up to {levels.spelled(plan.needed)} needed meanwhile; {plan.disk}")
    return [*lines, f"Afterwards: keep {keep}"]


def _show(source: Measured, results: Sequence[Measured], verdict: Verdict, kept: Sequence[str]) -> None:
    show(table(source, results))
    say(f"Recommended: {verdict.take} ({verdict.why})")
    say(f"Kept: {', '.join(kept) or 'none of what was made'}")


def table(source: Measured, results: Sequence[Measured]) -> Sheet:
    """Give the table: a column for each model, a row for each figure."""
    models = [source, *results]
    embeds = source.output_rate is None
    rows = [
        ("Level", *(model.level for model in models)),
        ("Size on disk", *(levels.spelled(model.size) for model in models)),
        ("Memory", *(levels.spelled(model.memory) for model in models)),
        ("of it in GPUs", *(levels.spelled(model.vram) for model in models)),
        ("Load", *(seconds(model.load) for model in models)),
        ("Prompt tokens/s", *(f"{model.prompt_rate:,.0f}" for model in models)),
        ("Whole answer" if embeds else "First token", *(seconds(model.first_token) for model in models)),
    ]
    if not embeds:
        rows.insert(6, ("Output tokens/s", *(f"{model.output_rate or 0:,.1f}" for model in models)))
    alike = [_alike(model.fidelity) for model in results]
    rows += [(name, "", *(cells[name] for cells in alike)) for name in alike[0]]
    return Sheet(columns=("", *(model.name for model in models)), rows=rows)


def _alike(fidelity: Completing | Embedding | None) -> dict[str, str]:
    match fidelity:
        case Completing():
            return {
                "Same answer": f"{fidelity.same_answer:.0%}",
                "Same next token": "not told" if fidelity.same_next is None else f"{fidelity.same_next:.0%}",
                "Divergence, nats": "not told" if fidelity.divergence is None else f"{fidelity.divergence:.4f}",
            }
        case Embedding():
            return {"Cosine": f"{fidelity.cosine:.4f}", "Lowest cosine": f"{fidelity.cosine_low:.4f}"}
        case None:
            return {}
