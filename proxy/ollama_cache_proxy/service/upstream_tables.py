"""The tables of the setting `upstreams`: one for each of several Ollamas."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

from ollama_cache_proxy.policy.fields import authority
from ollama_cache_proxy.policy.model_names import canonical
from ollama_cache_proxy.service.texts import Texts

_NAME: Final = re.compile(r"[A-Za-z0-9._:\[\]-]{1,64}")
"""What stands in a header field, a path and a label without quotes."""


class UpstreamTable(BaseModel):
    """One of several Ollamas."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    name: str = ""
    """What it is called in X-Upstream, metrics and log; empty: its host and port."""
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    """How much it can do, against the others."""
    models: Texts = ()
    """The models that it may serve; empty: all."""
    labels: Texts = ()
    """More names, which several may have: X-Upstream takes them too."""
    epoch: str | None = None
    """In place of the setting `epoch`, for entries that it makes."""

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or authority(self.url)


def _read(value: Any) -> Any:
    """Return the tables: in the environment they are URLs with commas between, or JSON; a text is a URL."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
        except ValueError:
            text = 'must be URLs with commas between, or a JSON array of tables: [{"url": "http://gpu1:11434"}]'
            raise ValueError(text) from None
    if isinstance(value, list | tuple):
        return [{"url": one.strip()} if isinstance(one, str) else one for one in value]
    return value


def checked(tables: tuple[UpstreamTable, ...]) -> tuple[UpstreamTable, ...]:
    """Return the tables; raise ValueError where their names are wrong, or not distinct."""
    seen: set[str] = set()
    for table in tables:
        for name in (table.called, *table.labels):
            if _NAME.fullmatch(name) is None:
                text = f"{name!r} is no name of an upstream: 1 to 64 letters, digits, and . _ : [ ] -"
                raise ValueError(text)
        if table.called in seen:
            text = f"two of them are called {table.called!r}: give each a name"
            raise ValueError(text)
        seen.add(table.called)
        wrong = next((name for name in table.models if canonical(name) is None), None)
        if wrong is not None:
            text = f"{wrong!r} is no name of a model"
            raise ValueError(text)
    labels = {label for table in tables for label in table.labels}
    if labels & seen:
        text = f"{min(labels & seen)!r} is the name of one and a label too"
        raise ValueError(text)
    return tables


UpstreamTables = Annotated[tuple[UpstreamTable, ...], NoDecode, BeforeValidator(_read)]


def as_values(tables: tuple[UpstreamTable, ...]) -> list[dict[str, Any]]:
    """Return what the tables say, as JSON values."""
    return [table.model_dump(mode="json", exclude_defaults=True) for table in tables]
