"""What `doctor` finds out about a Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis.asyncio as redis

from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.stores.redis.commands import Without
from ollama_cache_proxy.stores.redis.survey import product_of, survey


@record
class Refused:
    """A command that the server refuses, and what happens without it."""

    name: str
    effect: str
    replaced: bool
    """Whether nothing is missing, since another command does it."""


@record
class Surveyed:
    """What was found out."""

    product: str
    """Name and version; "" where the server does not say."""
    refused: tuple[Refused, ...]
    unusable: bool
    """Whether nothing can be looked up, or nothing stored."""


async def survey_store(connection: redis.Connection, *, cluster: bool = False) -> Surveyed:
    """Ask the server over an open connection, which is of no use afterwards.

    Raises any exception where it does not answer as a Redis does.
    """
    found = await survey(connection, cluster=cluster)
    refused = tuple(
        Refused(name=command.name, effect=command.effect, replaced=command.without is Without.REPLACED)
        for command in found.refused
    )
    return Surveyed(product=found.product, refused=refused, unusable=found.unusable)


def product(about: Mapping[str, Any]) -> str:
    """Return the product's name and version from its INFO."""
    return product_of(about)
