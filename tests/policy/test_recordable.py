from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.credentials import CREDENTIAL_FIELDS, credential_rules
from ollama_cache_proxy.policy.endpoints import find
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.recordable import recordable

GENERATE, _ = find("POST", "/api/generate")
UPLOAD, _ = find("POST", "/v1/audio/transcriptions")
RULES = credential_rules(["X-Team-Key"], ["ollama"])


@pytest.mark.parametrize(
    ("fields", "recorded"),
    [
        ((), {}),
        (((b"Host", b"a"), (b"User-Agent", b"x"), (b"Cache-Control", b"no-cache"), (b"Accept", b"*/*")), {}),
        (
            ((b"Accept", b"*/*"), (b"origin", b"http://a"), (b"X-CACHE-NAMESPACE", b"n"), (b"x-cache-category", b"c")),
            {"Origin": "http://a", "X-Cache-Namespace": "n", "X-Cache-Category": "c"},
        ),
        (((b"X-Cache-TTL", b"60"),), {"X-Cache-TTL": "60"}),
        (((b"Authorization", b"Bearer ollama"),), {}),
        (((b"Authorization", b"Bearer secret"),), None),
        (((b"Authorization", b"Bearer ollama"), (b"Authorization", b"Bearer ollama")), None),
        (((b"X-Team-Key", b"1"),), None),
        (((b"x_team_key", b"1"),), None),
        *((((name.upper(), b"1"),), None) for name in CREDENTIAL_FIELDS),
        (((b"Origin", b"http://a"), (b"Origin", b"http://b")), None),
        (((b"X-Cache-Namespace", b"\xc3\xa9"),), None),
        (((b"X-Cache-Namespace", b"a\tb"),), None),
    ],
)
def test_what_is_recorded_of_a_request(fields: Fields, recorded: dict[str, str] | None) -> None:
    assert recordable(GENERATE, fields, RULES) == recorded


def test_uploads_are_not_recorded() -> None:
    assert recordable(UPLOAD, (), RULES) is None
