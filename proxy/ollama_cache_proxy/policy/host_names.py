"""Host names that a setting allows beside those of Ollama's rule for a listener on loopback."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from ollama_cache_proxy.policy.record import record

_LABELS: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_BELOW: Final = "*."


@record
class HostNames:
    """A set of names, in lower case; `host_names` makes it."""

    names: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    """Every name that ends with one of these; they begin with a dot."""

    def include(self, name: str) -> bool:
        """Return whether a host without its port, in lower case, is one of them."""
        return name in self.names or (bool(self.suffixes) and name.endswith(self.suffixes))


def host_names(texts: Iterable[str]) -> HostNames:
    """Return the names that a setting lists; raise ValueError for a text that is none.

    A text is a name or an address without a port, or `*.` and the end of names: `*.ts.net` is every name below it.
    """
    names: set[str] = set()
    suffixes: set[str] = set()
    for text in texts:
        low = text.lower()
        end = low.removeprefix(_BELOW)
        if _is_address(low):
            names.add(low)
        elif len(low) > _MAX_NAME or _LABELS.fullmatch(end) is None:
            message = "must be names without a port, such as box.example or *.ts.net"
            raise ValueError(message)
        elif end == low:
            names.add(low)
        else:
            suffixes.add("." + end)
    return HostNames(names=frozenset(names), suffixes=tuple(sorted(suffixes)))


_MAX_NAME: Final = 253
"""Characters."""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
