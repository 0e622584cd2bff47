"""The tables of the settings: what is set for one model, or for one category."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_settings import NoDecode

from ollama_cache_proxy.policy.model_names import canonical
from ollama_cache_proxy.service.durations import Duration

Caching = Literal["off", "always", "deterministic", "read-only", "write-only"]
KindOfLifetime = Literal["fixed", "idle", "until-evicted"]
_CATEGORY: Final = re.compile(r"[a-z0-9-]{1,32}")


class Table(BaseModel):
    """What is set for one model or category; None where that says nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttl: Duration | None = None
    lifetime: KindOfLifetime | None = None
    cache: Caching | None = None


def json_tables(example: str) -> BeforeValidator:
    """Return what reads the tables of a setting, which are JSON in the environment, as in `example`."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            text = f"must be tables, in the environment as JSON: {example}"
            raise ValueError(text) from None

    return BeforeValidator(read)


def _of_models(tables: dict[str, Table]) -> dict[str, Table]:
    seen: dict[str, str] = {}
    for name in tables:
        full = canonical(name)
        if full is None:
            text = f"{name!r} is no name of a model"
            raise ValueError(text)
        if full in seen:
            text = f"{seen[full]!r} and {name!r} are one model"
            raise ValueError(text)
        seen[full] = name
    return tables


def _of_categories(tables: dict[str, Table]) -> dict[str, Table]:
    wrong = next((name for name in tables if _CATEGORY.fullmatch(name) is None), None)
    if wrong is not None:
        text = f"{wrong!r} is no category: 1 to 32 of a to z, 0 to 9 and -"
        raise ValueError(text)
    return tables


Tables = Annotated[dict[str, Table], NoDecode, json_tables('{"NAME": {"ttl": "90d"}}')]
ModelTables = Annotated[Tables, AfterValidator(_of_models)]
CategoryTables = Annotated[Tables, AfterValidator(_of_categories)]


def shown(tables: dict[str, Table]) -> dict[str, dict[str, Any]]:
    """Return what the tables say, as JSON values."""
    return {name: table.model_dump(exclude_none=True) for name, table in tables.items()}
