"""Lists of Ollama's models and what else it tells of them, for commands: see policy/model_rows.py."""

from __future__ import annotations

from ollama_cache_proxy.policy.model_rows import figure, part, rows, text, version

__all__ = ["figure", "part", "rows", "text", "version"]
