"""The work of `import`: check all of a pack, then send its entries to a proxy, block by block."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.asking import IMPORT, proxy_at
from ollama_cache_proxy.cli.ending import DONE, FAILED, WRONG, Failed
from ollama_cache_proxy.cli.jobs.pack_keys import name_of, public_key, raw
from ollama_cache_proxy.cli.jobs.pack_reading import Checked, PackFile
from ollama_cache_proxy.cli.jobs.progress import steps
from ollama_cache_proxy.cli.jobs.work import say
from ollama_cache_proxy.cli.screen import printable, write_json
from ollama_cache_proxy.service.settings import secret

_MAX_LINE: Final = 1000
"""Characters."""
_FEW: Final = {
    "credentials": "with the same credentials",
    "origin": "with the same Origin",
    "namespace": "with the same X-Cache-Namespace",
}


async def import_pack(arguments: argparse.Namespace) -> int:
    """Import a pack, and say what became of its entries. Raise Failed."""
    settings = options.settings_of(arguments)
    url = options.proxy_url(arguments, settings)
    trusted = [raw(public_key(Path(name))) for name in arguments.trusted_key]
    if trusted and arguments.trust:
        raise Failed("--trust and --trusted-key exclude each other", status=WRONG)
    with PackFile(Path(arguments.file)) as pack, steps() as progress:
        progress.begin("Checking", pack.size)
        checked = pack.check(progress.advance)
        if arguments.check:
            progress.say("\n".join(map(_line, _described(arguments.file, checked))))
            return DONE
        _demand_trust(arguments.file, checked, trusted, trust=arguments.trust)
        taking = _Taking(checked)
        try:
            async with proxy_at(url, secret(settings.admin_token)) as proxy:
                progress.begin("Importing", pack.size)
                asked = {"model": checked.about.model}
                if checked.about.context is not None and not arguments.any_context:
                    asked["context"] = str(checked.about.context)
                for size, entries in pack.entries():
                    taking.note(await proxy.send(IMPORT, asked, entries))
                    progress.advance(size)
        finally:
            taking.show(as_json=arguments.json)
    return FAILED if checked.totals.entries and not taking.useful else DONE


def _demand_trust(name: str, checked: Checked, trusted: list[bytes], *, trust: bool) -> None:
    """Raise Failed for a pack that the person has not said to trust."""
    if trust:
        return
    if checked.signer is None:
        raise Failed(
            f"{name!r} is not signed, so nobody knows whose responses are in it",
            "--trust imports it all the same, if you made it or trust how it came to you",
            status=WRONG,
        )
    if checked.signer not in trusted:
        raise Failed(
            f"{name!r} is signed with the key {name_of(checked.signer)}"
            + (", which is not the one that you trust" if trusted else ""),
            "--trusted-key FILE names the public key of whom you trust",
            status=WRONG,
        )


def _line(text: str) -> str:
    """Return a text as one line that is not too long: what a pack says of itself could look like our own words."""
    return printable(text.replace("\n", "\0"))[:_MAX_LINE]


def _described(name: str, checked: Checked) -> list[str]:
    """Return what is in a pack, in some lines; what this command has found comes before what the pack says."""
    about, totals = checked.about, checked.totals
    signed = "not signed" if checked.signer is None else f"signed with {name_of(checked.signer)}"
    lines = [
        f"{name}: {signed}, {options.entries(totals.entries)} of {about.model}, made by {about.made_by}",
        f"digest {about.digest}, Ollama {about.version}, epoch {about.epoch!r}, settings {about.settings}",
    ]
    return lines + [f"{options.entries(row[-1])}: {_scope(row[:-1])}" for row in totals.document()["scopes"]]


def _scope(row: list[Any]) -> str:
    """Return what a row says of a scope: its namespace, and hashes of credentials and Origin."""
    if not row:
        return "other scopes"
    named = zip(("namespace", "credentials", "Origin"), row, strict=False)
    return ", ".join(f"{name} {value}" for name, value in named if value) or "for everybody"


_NAMED: Final = {
    "other-digest": "digest",
    "other-version": "version",
    "other-settings": "epoch",
    "other-context": "context",
}
"""By the reason for which entries are refused: what differs."""


class _Taking:
    """Counts what became of the entries."""

    def __init__(self, checked: Checked) -> None:
        self._checked = checked
        self._begun = time.monotonic()
        self._counts = Counter({"imported": 0, "known": 0})
        self._refused: Counter[str] = Counter()
        self._few: Counter[str] = Counter()
        self._here: dict[str, Any] = {}

    @property
    def useful(self) -> int:
        """How many entries are stored now."""
        return self._counts.total()

    def note(self, found: dict[str, Any]) -> None:
        """Note what the proxy says of some entries."""
        self._here = found
        self._counts.update({name: found[name] for name in self._counts})
        self._refused.update(found["refused"])
        self._few.update(found["askedByFew"])

    def show(self, *, as_json: bool) -> None:
        """Print what became of the entries, and the reasons why some were refused."""
        entries, refused = self._checked.totals.entries, self._refused.total()
        seconds = time.monotonic() - self._begun
        if as_json:
            counts = {"entries": entries, **self._counts, "refused": dict(self._refused), "askedByFew": dict(self._few)}
            write_json(counts | {"seconds": round(seconds, 3)}, indent=False)
            return
        did = f"{self._counts['imported']:,} imported, {self._counts['known']:,} already stored, {refused:,} refused"
        say(f"Of {options.entries(entries)}: {did}, in {seconds:.1f} s")
        for reason, many in sorted(self._refused.items()):
            say(f"{many:,} refused: {reason}{self._more(reason)} (see docs/packs.md)")
        for few, many in sorted(self._few.items()):
            say(f"{many:,} answer only requests {_FEW.get(few, few)}")
        if self.useful + refused < entries:
            say("Run it again to continue: what is stored is not stored again")

    def _more(self, reason: str) -> str:
        """Return what is known of a reason beyond its name: what the pack has, and what is here."""
        named = _NAMED.get(reason)
        if named is None:
            return ""
        of, here = getattr(self._checked.about, named), self._here.get(named, "")
        return f", {named} {of!r}, here {here!r}"
