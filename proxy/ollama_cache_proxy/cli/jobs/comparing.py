"""The work of `quantize` where nothing is made: measure models that exist, or one model on two Ollamas."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations

from ollama_cache_proxy.cli import graphics
from ollama_cache_proxy.cli.ending import WRONG, Failed
from ollama_cache_proxy.cli.jobs.api import Api
from ollama_cache_proxy.cli.jobs.gauge import Gauge
from ollama_cache_proxy.cli.jobs.models import embeds, installed, level_of, local_row
from ollama_cache_proxy.cli.jobs.progress import show, steps
from ollama_cache_proxy.cli.jobs.sheets import table
from ollama_cache_proxy.cli.jobs.work import say
from ollama_cache_proxy.cli.screen import write_json
from ollama_cache_proxy.service.settings import http_url
from ollama_cache_proxy.workbench import related
from ollama_cache_proxy.workbench.levels import same, spelled
from ollama_cache_proxy.workbench.related import Installed
from ollama_cache_proxy.workbench.verdict import recommend


def check_options(arguments: argparse.Namespace) -> None:
    """Raise Failed where options are given together that contradict each other."""
    if arguments.beside and (arguments.to or arguments.kept_results or arguments.against is not None):
        why = "--with measures models that exist, so it cannot be used with --to, --keep or --against"
        raise Failed(why, status=WRONG)
    if arguments.against is not None and (arguments.to or arguments.dry_run):
        raise Failed("--against quantizes nothing, so it cannot be used with --to or --dry-run", status=WRONG)


def other_url(text: str) -> str:
    """Return the URL of --against. Raise Failed."""
    try:
        return http_url(text)
    except ValueError as error:
        raise Failed(f"--against: {text!r} is not allowed: {error}", status=WRONG) from None


async def on_two_ollamas(api: Api, other: Api, prompts: Sequence[str], arguments: argparse.Namespace) -> None:
    """Measure one model on two Ollamas. Raise Failed."""
    row, twin = await local_row(api, arguments.model), await other.row_of(arguments.model)
    if row.get("digest") != twin.get("digest"):
        raise Failed(f"{row['name']} is a different model at {other.url}", "let both use the same models directory")
    name, level = str(row["name"]), level_of(row)
    embedding = embeds(name, await api.object("/api/show", {"model": name}))
    gauge = Gauge(api=api, prompts=prompts, tokens=arguments.tokens, embeds=embedding)
    with steps() as progress:
        source, outputs = await gauge.measure(name, level, progress)
        measured, other_outputs = await replace(gauge, api=other).measure(name, level, progress)
    result = replace(measured, name=other.url, fidelity=gauge.compare(outputs, other_outputs))
    if arguments.json:
        write_json({"source": asdict(source), "results": [asdict(result)]})
    else:
        gpu = await graphics.known_at(api.url, other.url)
        show(table(replace(source, name=api.url), [result], gpu=gpu))


async def with_others(api: Api, prompts: Sequence[str], arguments: argparse.Namespace) -> None:
    """Measure a model and others that are quantizations of it; make and remove nothing. Raise Failed."""
    source = await installed(api, arguments.model)
    others = [await installed(api, name) for name in arguments.beside]
    notes = _checked(source, others)
    for title, model in [("Source", source), *(("To compare", other) for other in others)]:
        say(f"{title}: {model.name}, {model.level}, {spelled(model.size)}")
    for note in notes:
        say(f"Note: {note}")
    if arguments.dry_run:
        if arguments.json:
            plan = {"source": _row(source), "others": [_row(other) for other in others], "embeds": source.embeds}
            write_json({"plan": {**plan, "notes": notes}})
        return
    gauge = Gauge(api=api, prompts=prompts, tokens=arguments.tokens, embeds=source.embeds)
    with steps() as progress:
        measured, results = await gauge.measure_all(
            (source.name, source.level), [(other.name, other.level) for other in others], progress
        )
    gpu = await graphics.known_at(api.url)
    verdict = recommend(measured, results, gpu=gpu)
    if arguments.json:
        told = {"source": asdict(measured), "results": [asdict(result) for result in results]}
        write_json({**told, "recommendation": asdict(verdict), "notes": notes})
    else:
        show(table(measured, results, gpu=gpu))
        say(f"Recommended: {verdict.take} ({verdict.why})")


def _checked(source: Installed, others: Sequence[Installed]) -> list[str]:
    """Return the notes on models that can be compared. Raise Failed for others."""
    for one, other in combinations(others, 2):
        if same(one.name, other.name):
            raise Failed(f"--with: {other.name} is named twice", status=WRONG)
        if one.digest == other.digest:
            raise Failed(f"--with: {other.name} is the same model as {one.name}", "name one of them")
    for other in others:
        if why := related.refusal(source, other):
            raise Failed(f"--with: {why}", "name quantizations of one model")
    return [note for other in others for note in related.notes(source, other)]


def _row(model: Installed) -> dict[str, str | int]:
    return {"name": model.name, "level": model.level, "size": model.size}
