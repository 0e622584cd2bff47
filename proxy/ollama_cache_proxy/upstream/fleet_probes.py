"""What the proxy itself asks of several Ollamas, with the proxy's credentials for each."""

from __future__ import annotations

from collections.abc import Sequence

from ollama_cache_proxy.upstream.fleet import Fleet
from ollama_cache_proxy.upstream.probes import Probes


class FleetProbes(Probes):
    """See probes.py. Credentials are those of every host."""

    def __init__(self, fleet: Fleet, *, authorization: str) -> None:
        self._each: Sequence[Probes] = [host.probes for host in fleet.hosts]
        super().__init__(fleet, authorization=authorization)

    def use(self, authorization: str) -> None:
        """Ask with other credentials from now on."""
        super().use(authorization)
        for probes in self._each:
            probes.use(authorization)
