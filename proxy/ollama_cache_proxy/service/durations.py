"""The type of settings that are times for which something is stored: seconds, or a text such as 90d, 12h or 30m."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_WITH_UNIT: Final = re.compile(r"(?P<count>[0-9]{1,10})(?P<unit>[smhd])")
_LONGEST: Final = 31_536_000
"""Seconds."""
_NUMBER: Final = re.compile(r"[+-]?[0-9]+")


def _seconds(value: Any) -> Any:
    """Return a text with a unit as seconds, and any other number as it is."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value.strip()):
        return value
    match = _WITH_UNIT.fullmatch(value.strip())
    if match is None:
        text = "must be whole seconds, or a number with s, m, h or d, such as 90d, 12h or 30m"
        raise ValueError(text)
    seconds = int(match["count"]) * _UNITS[match["unit"]]
    if seconds > _LONGEST:
        text = "must be 365d at most"
        raise ValueError(text)
    return seconds


Duration = Annotated[int, Field(ge=0, le=_LONGEST), BeforeValidator(_seconds)]
