"""Which entries a command means: the filters of `POST /api/cache/clear` and `GET /api/cache/entries`."""

from __future__ import annotations

import argparse
from typing import Final

_FILTERS: Final = {
    "model": ("NAME", "those of a model"),
    "operation": ("NAME", "those of a route: generate, embed, chat, …"),
    "category": ("NAME", "those that X-Cache-Category put there"),
    "namespace": ("NAME", "those that X-Cache-Namespace put there"),
    "key": ("KEY", "the one with this key"),
}


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add an option for each filter; an entry is meant where all of them mean it."""
    group = parser.add_argument_group("only some entries", "Those that all of these mean:")
    for name, (metavar, text) in _FILTERS.items():
        group.add_argument(f"--{name}", metavar=metavar, help=text)


def filters(arguments: argparse.Namespace) -> dict[str, str]:
    """Give the filters that were named."""
    return {name: value for name in _FILTERS if (value := getattr(arguments, name)) is not None}
