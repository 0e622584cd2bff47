"""How a proxy stands: of which a test changes what it is about."""

from __future__ import annotations

from typing import Final

from ollama_cache_proxy.core.facts import Levels

LEVELS: Final = Levels(serving=3, asking=2, connections=7, idle=5, places=9, tiers=(), broken={}, residents=())
