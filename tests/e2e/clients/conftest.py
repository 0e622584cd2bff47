from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator

import pytest

from ollama_cache_proxy.simulator import RELEASES, Behaviour, Simulator

CHANGES_CLIENTS = re.compile(r"(ANTHROPIC|CLAUDE|OLLAMA|OPENAI|NODE)_.*|(HTTPS?|ALL)_PROXY", re.IGNORECASE)


@pytest.fixture(autouse=True)
def clients_as_they_come(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No client finds a host, a key or an HTTP proxy but those that a test gives it."""
    for name in list(os.environ):
        if CHANGES_CLIENTS.fullmatch(name):
            monkeypatch.delenv(name)


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Both."""
    return str(request.param)


@pytest.fixture
async def direct(release: str) -> AsyncIterator[Simulator]:
    """An Ollama equal to the one behind the proxy."""
    async with Simulator(Behaviour(completion_delay=0, embedding_delay=0, release=release)) as running:
        yield running
