"""The plainest request of each endpoint that can be cached, by operation: a candidate, and not a stream.

Uploads are in uploads.py.
"""

from __future__ import annotations

from typing import Any, Final

from ollama_cache_proxy.policy.endpoints import REUSABLE

_MESSAGES: Final = [{"role": "user", "content": "p"}]

PLAIN: Final[dict[str, dict[str, Any]]] = {
    "generate": {"model": "m", "prompt": "p", "stream": False},
    "embed": {"model": "m", "input": "p"},
    "embeddings": {"model": "m", "prompt": "p"},
    "v1-embeddings": {"model": "m", "input": "p"},
    "chat": {"model": "m", "messages": _MESSAGES, "stream": False},
    "v1-chat": {"model": "m", "messages": _MESSAGES},
    "v1-completions": {"model": "m", "prompt": "p"},
    "v1-responses": {"model": "m", "input": "p"},
    "v1-messages": {"model": "m", "max_tokens": 8, "messages": _MESSAGES},
    "v1-count-tokens": {"model": "m", "messages": _MESSAGES},
}

if list(PLAIN) != [row.operation for row in REUSABLE if not row.multipart]:
    raise AssertionError("PLAIN needs a request for each endpoint that can be cached, in the order of ENDPOINTS")
