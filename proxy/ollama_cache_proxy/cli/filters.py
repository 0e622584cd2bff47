"""Options that select entries: the filters of `POST /api/cache/clear` and `GET /api/cache/entries`."""

from __future__ import annotations

import argparse
from typing import Final

_FILTERS: Final = {
    "model": ("NAME", "entries of this model"),
    "operation": ("NAME", "entries of this operation: generate, embed, chat, …"),
    "category": ("NAME", "entries with this X-Cache-Category"),
    "namespace": ("NAME", "entries with this X-Cache-Namespace"),
    "key": ("KEY", "the entry with this key"),
}


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add an option for each filter; an entry is selected if it matches all of them."""
    group = parser.add_argument_group("filters", "Only entries that match all of these:")
    for name, (metavar, text) in _FILTERS.items():
        group.add_argument(f"--{name}", metavar=metavar, help=text)


def filters(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the filters that were given."""
    return {name: value for name in _FILTERS if (value := getattr(arguments, name)) is not None}
