from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest

from ollama_cache_proxy.policy.credentials import credential_rules
from ollama_cache_proxy.policy.key import Scope
from ollama_cache_proxy.policy.scope_marks import Mark, common_mark, marked, read

SCOPE = Scope(digest="4f" * 32, version="0.33.3")
PLAIN = "481568cf.8a98368b.ef2c3f3e.."


def of(scope: Scope, *fields: tuple[bytes, bytes]) -> Mark:
    mark = read(marked(scope, fields))
    assert mark is not None
    return mark


def test_a_mark_is_short_and_stays_what_it_is():
    """Entries that are stored, and packs that are written, have it."""
    assert marked(SCOPE, ()) == PLAIN
    assert marked(SCOPE, ((b"Accept", b"*/*"),)) == PLAIN
    assert marked(SCOPE, ((b"Origin", b"app://x"),)) == PLAIN + sha256(b"app://x").hexdigest()[:8]
    both = marked(SCOPE, ((b"Origin", b"app://x"), (b"Origin", b"app://y")))
    assert both == PLAIN + sha256(b"app://x\napp://y").hexdigest()[:8]
    assert common_mark(SCOPE) + ".." == PLAIN


@pytest.mark.parametrize(
    ("part", "scope"),
    [
        ("digest", replace(SCOPE, digest="5a" * 32)),
        ("version", replace(SCOPE, version="0.33.4")),
        ("settings", replace(SCOPE, epoch="context 8192")),
        ("settings", replace(SCOPE, credentials=credential_rules(["x-user"]))),
        ("", replace(SCOPE, namespace="team")),
        ("", replace(SCOPE, width=384)),
    ],
)
def test_each_part_of_a_scope_shows_in_its_own_part(part, scope):
    """The namespace stands in the entry itself."""
    one, other = of(SCOPE), of(scope)
    names = ("digest", "version", "settings", "credentials", "origin")
    assert [name for name in names if getattr(one, name) != getattr(other, name)] == [part] * bool(part)


def test_who_asked_shows_as_far_as_it_is_in_the_key():
    rules = credential_rules(placeholders=["ollama"])
    scope = replace(SCOPE, credentials=rules)
    assert of(scope, (b"Authorization", b"Bearer ollama")) == of(scope)
    key, other = (of(scope, (b"Authorization", b"Bearer " + token)) for token in (b"one", b"two"))
    assert key.credentials
    assert key.credentials != other.credentials
    assert replace(key, credentials="") == of(scope)
    assert of(scope, (b"Origin", b"app://x")).origin


def test_a_mark_confirms_no_guess_of_a_credential():
    marks = {of(SCOPE, (b"Authorization", b"Basic %d" % guess)).credentials for guess in range(4000)}
    assert len(marks) == 256, "of so many guesses, some 16 fit each mark"


@pytest.mark.parametrize("text", ["", PLAIN[1:], PLAIN + "0", PLAIN.upper(), "....", PLAIN + "\n", "a" * 100])
def test_another_text_is_no_mark(text):
    assert read(text) is None
