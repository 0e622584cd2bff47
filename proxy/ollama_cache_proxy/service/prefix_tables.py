"""The settings of stable_prefix.py: which rules apply, and those that a person has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict
from pydantic_settings import NoDecode

from ollama_cache_proxy.policy.stable_prefix import BUILT_IN, PrefixRule, rule_of
from ollama_cache_proxy.service.tables import json_tables


class PrefixTable(BaseModel):
    """A rule of a person's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """Where the text stands in the body, as in `system[0].text`."""
    pattern: str
    """How it begins: a regular expression from ^, with a group for each run of digits that is pinned."""
    client: str = ""
    """How the User-Agent begins; empty for any."""


_EXAMPLE: Final = '{"NAME": {"path": "system[0].text", "pattern": "^…"}}'
PrefixTables = Annotated[dict[str, PrefixTable], NoDecode, json_tables(_EXAMPLE)]


def chosen_rules(names: Sequence[str], tables: Mapping[str, PrefixTable]) -> tuple[PrefixRule, ...]:
    """Return the rules of these names; raise ValueError where there is no such rule, or a table is none."""
    own: dict[str, PrefixRule] = {}
    for name, table in tables.items():
        if name in BUILT_IN:
            text = f"{name!r} is the name of a rule that is built in"
            raise ValueError(text)
        try:
            own[name] = rule_of(name, path=table.path, pattern=table.pattern, client=table.client)
        except ValueError as error:
            text = f"{name}: {error}"
            raise ValueError(text) from None
    known = {**BUILT_IN, **own}
    wrong = next((name for name in names if name not in known), None)
    if wrong is not None:
        text = f"{wrong!r} is no rule: there are {', '.join(known)}"
        raise ValueError(text)
    return tuple(known[name] for name in dict.fromkeys(names))
