"""Secrets that may show nowhere: a prompt, a token and a password that the tests place, and look for in all output.

Whatever a proxy of the tests writes, says in its metrics or tells of its statistics goes through `check`.
"""

from __future__ import annotations

PROMPT = "canary-of-a-prompt"
TOKEN = "canary-of-a-token"
PASSWORD = "canary-of-a-password"


def check(text: str, where: str) -> None:
    """Fail when a secret shows in some output."""
    for secret in (PROMPT, TOKEN, PASSWORD):
        assert secret not in text, f"{secret} shows in {where}"
