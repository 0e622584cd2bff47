"""Requests of the benchmarks, and responses of the stub: completions of about 1 KB."""

from __future__ import annotations

from typing import Final

import orjson

COUNT: Final = 10_000
KIND: Final = "application/json; charset=utf-8"
_WORDS: Final = "the quick brown fox jumps over the lazy dog and runs on " * 16
TAGS: Final = b'{"models":[{"name":"tiny:latest","model":"tiny:latest","digest":"d1"}]}'
VERSION: Final = b'{"version":"0.24.0"}'


def question(number: int) -> bytes:
    """Return the body of one of `COUNT` questions, all of the same length."""
    return b'{"model":"tiny","prompt":"question %06d: %b","stream":false}' % (number, _WORDS[:400].encode())


def answer() -> bytes:
    """Return the body of the stub's response: 1 KB."""
    return orjson.dumps(
        {
            "model": "tiny",
            "created_at": "2026-01-01T00:00:00.000000Z",
            "response": _WORDS[:680],
            "done": True,
            "done_reason": "stop",
            "total_duration": 2_000_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_count": 80,
            "prompt_eval_duration": 200_000_000,
            "eval_count": 140,
            "eval_duration": 1_700_000_000,
        }
    )
