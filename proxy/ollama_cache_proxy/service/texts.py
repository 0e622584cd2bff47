"""The type of settings that are lists of texts: a list in TOML, in the environment also texts with commas between."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from pydantic import BeforeValidator
from pydantic_settings import NoDecode


def _listed(value: Any) -> Any:
    """Return the texts of a setting: of a JSON array, or those between commas.

    Nothing between two commas is no text; two quotes are an empty one, as `config` shows it.
    """
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            text = "must be texts with commas between, or a JSON array of texts"
            raise ValueError(text) from None
    return ["" if text == _EMPTY else text for part in value.split(",") if (text := part.strip())]


_EMPTY: Final = '""'

Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
