"""Secrets that may show nowhere: a prompt, a token, passwords and credentials that the tests place, and look for in all output.

Whatever a proxy of the tests writes, says in its metrics or tells of its statistics goes through `check`.
"""

from __future__ import annotations

from base64 import b64encode

PROMPT = "canary-of-a-prompt"
TOKEN = "canary-of-a-token"
PASSWORD = "canary-of-a-password"
CREDENTIAL = "canary-of-a-credential"
USER = "canary-of-a-user"
BASIC = b64encode(f"{USER}:{CREDENTIAL}".encode()).decode()
"""Both as a URL's become an Authorization."""


def check(text: str, where: str) -> None:
    """Fail when a secret shows in some output."""
    for secret in (PROMPT, TOKEN, PASSWORD, CREDENTIAL, USER, BASIC):
        assert secret not in text, f"{secret} shows in {where}"
