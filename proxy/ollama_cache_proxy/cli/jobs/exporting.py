"""The work of `export`: take the entries of a model from a proxy, page by page, and write them into a pack."""

from __future__ import annotations

import argparse
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ollama_cache_proxy import __version__
from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.asking import EXPORT, Proxy, proxy_at
from ollama_cache_proxy.cli.ending import DONE, FAILED, WRONG, Failed
from ollama_cache_proxy.cli.filters import filters
from ollama_cache_proxy.cli.jobs.pack_keys import private_key
from ollama_cache_proxy.cli.jobs.pack_writing import PackWriter
from ollama_cache_proxy.cli.jobs.progress import Steps, steps
from ollama_cache_proxy.cli.jobs.work import say
from ollama_cache_proxy.cli.screen import size, write_json
from ollama_cache_proxy.service.settings import secret
from ollama_cache_proxy.workbench.pack_form import About, Arriving, BadPackError, about


async def export(arguments: argparse.Namespace) -> int:
    """Write the pack, and say what is in it. Raise Failed."""
    settings = options.settings_of(arguments)
    url, wanted = options.proxy_url(arguments, settings), filters(arguments)
    key = None if arguments.sign_key is None else private_key(Path(arguments.sign_key))
    path = Path(arguments.file)
    with PackWriter(path) as writer:
        async with proxy_at(url, secret(settings.admin_token)) as proxy:
            with steps() as progress:
                await _Exporting(proxy, writer, wanted).all(progress)
        totals, of = writer.totals, writer.about
        if not totals.entries or of is None:
            writer.discard()
        else:
            writer.finish(key)
    if arguments.json:
        found = {} if of is None else of.document()
        write_json(found | totals.document() | {"file": str(path) if totals.entries else None}, indent=False)
    else:
        for reason, many in sorted(totals.left_out.items()):
            say(f"{options.entries(many)} left out: {reason} (see docs/packs.md)")
        if totals.entries:
            say(f"{options.entries(totals.entries)} in {str(path)!r}, {size(writer.size)}")
        else:
            say("No stored entry matches that could be a hit now: nothing was written")
        if totals.entries and key is None:
            say("It is not signed: importing it takes --trust")
    return DONE if totals.entries else FAILED


class _Exporting:
    """One export."""

    def __init__(self, proxy: Proxy, writer: PackWriter, wanted: dict[str, str]) -> None:
        self._proxy = proxy
        self._writer = writer
        self._wanted = wanted

    async def all(self, progress: Steps) -> None:
        """Write page after page, from where a part that was left behind ends. Raise Failed."""
        progress.begin("Exporting", None)
        if self._writer.about is not None:
            progress.say(f"Going on after {options.entries(self._writer.totals.entries)} of an export that broke off")
        while True:
            last = await self._page(self._writer.cursor, progress)
            if last is not None and last.get("cursor") is None:
                return

    async def _page(self, cursor: str, progress: Steps) -> dict[str, Any] | None:
        """Write a page; return its last record, None where the pack has to begin anew. Raise Failed."""
        notes: list[dict[str, Any]] = []
        arriving = Arriving()
        try:
            async with aclosing(self._proxy.pieces(EXPORT, self._wanted | {"cursor": cursor})) as pieces:
                async for piece in pieces:
                    for entry, note in arriving.feed(piece):
                        if note is None:
                            self._writer.add(entry)
                            progress.advance()
                            continue
                        notes.append(note)
                        if len(notes) == 1 and not self._belongs(note, progress):
                            return None
            if len(notes) != 2:  # noqa: PLR2004 - one before the entries, one after them
                raise Failed("the store of the proxy failed", "run it again to continue")
            self._writer.end_page(notes[1])
        except BadPackError as bad:
            raise Failed(f"the pack {bad}") from None
        return notes[1]

    def _belongs(self, note: dict[str, Any], progress: Steps) -> bool:
        """Return whether a page is of what the pack is of; begin the pack anew where it is not."""
        made = {"filters": self._wanted, "madeBy": f"ollama-cache-proxy {__version__}"}
        found: About = about(note | made)
        before, goes_on = self._writer.about, bool(self._writer.cursor) and note.get("goesOn") is True
        if before == found and (goes_on or not self._writer.cursor):
            return True
        if before is not None:
            progress.say(
                "What was exported before is of another digest, version, store, settings or filters, or was cleared:"
                " beginning anew"
            )
        self._writer.begin(found)
        return not goes_on


def check(arguments: argparse.Namespace) -> None:
    """Raise Failed for arguments that make no pack."""
    if arguments.model is None:
        raise Failed("export needs --model NAME", "a pack is of one model", status=WRONG)
