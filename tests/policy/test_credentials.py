from __future__ import annotations

import hashlib
import itertools

import pytest

from ollama_cache_proxy.policy.credentials import (
    CREDENTIAL_FIELDS,
    DEFAULT_RULES,
    credential_rules,
    given,
    is_placeholder,
    may_carry_credentials,
    with_authorization,
)
from ollama_cache_proxy.policy.fields import HOP_BY_HOP, end_to_end

NAMED = ("X-API-Key", "api-key", "CF-Access-Client-Id", "CF-Access-Client-Secret", "Authorization")


def framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


@pytest.mark.parametrize("name", NAMED)
def test_the_usual_fields_count_however_they_are_spelled(name):
    for spelling in (name, name.lower(), name.upper(), name.replace("-", "_")):
        line = (spelling.encode(), b"k")
        assert given(DEFAULT_RULES, ((b"Accept", b"*/*"), line)) == framed(spelling.lower().encode(), b"k")


def test_every_field_that_counts_has_a_name_in_lower_case_and_a_reason():
    assert {name.lower() for name in CREDENTIAL_FIELDS} == set(CREDENTIAL_FIELDS) == DEFAULT_RULES.names
    assert all(CREDENTIAL_FIELDS.values())
    assert all(may_carry_credentials(name.decode()) for name in CREDENTIAL_FIELDS)


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ((b"Accept", b"x"), (b"Content-Type", b"application/json"), (b"User-Agent", b"a")),
        ((b"X-Forwarded-User", b"eve"), (b"Cf-Access-Jwt-Assertion", b"e30"), (b"X-API-Keys", b"k"), (b"Key", b"k")),
    ],
)
def test_other_fields_are_no_credentials(fields):
    assert given(DEFAULT_RULES, fields) == b""


def test_each_name_value_and_order_of_lines_is_told_apart():
    lines = [((name,), value) for name in (b"X-API-Key", b"api-key") for value in (b"", b"a", b"b")]
    flat = [(names[0], value) for names, value in lines]
    several = [fields for count in range(4) for fields in itertools.product(flat, repeat=count)]
    seen: dict[bytes, set] = {}
    for fields in several:
        meaning = tuple(
            tuple(value for name, value in fields if name == wanted) for wanted in (b"X-API-Key", b"api-key")
        )
        seen.setdefault(given(DEFAULT_RULES, fields), set()).add(meaning)
    assert all(len(meanings) == 1 for meanings in seen.values()), "one framing, one meaning"
    assert len(seen) == len({meaning for meanings in seen.values() for meaning in meanings})


def test_what_connection_removes_is_not_shown_to_ollama():
    for names in (b"X-API-Key", b"close, x-api-key", b"CF-Access-Client-Secret , X-Api-Key"):
        fields = ((b"X-API-Key", b"k"), (b"Connection", names))
        assert given(DEFAULT_RULES, end_to_end(fields)) == b""
    kept = end_to_end(((b"X-API-Key", b"k"), (b"Connection", b"api-key")))
    assert given(DEFAULT_RULES, kept) == framed(b"x-api-key", b"k")


def test_proxy_authorization_is_for_this_hop():
    assert not may_carry_credentials("Proxy-Authorization")
    assert given(DEFAULT_RULES, ((b"Proxy-Authorization", b"Basic eDp5"),)) == b""
    assert given(credential_rules(["X-K"]), end_to_end(((b"Proxy-Authorization", b"Basic eDp5"),))) == b""


@pytest.mark.parametrize(
    "name",
    [
        *sorted(name.decode() for name in HOP_BY_HOP),
        *("Host", "Expect", "Content-Length", "Via", "X-Cache-TTL", "x-cache-namespace", "X-Cache-Category"),
        *("", "a b", "a:", "ä", "a\r\nb", "(a)", "x" * 129),
    ],
)
def test_a_setting_cannot_name_what_is_not_forwarded_or_no_name(name):
    assert not may_carry_credentials(name)


@pytest.mark.parametrize(
    "name", ["X-Team-Key", "x_team_key", "Cf-Access-Jwt-Assertion", "X-Forwarded-User", "!#$%&'*+.^_`|~0"]
)
def test_a_setting_can_name_any_other(name):
    assert may_carry_credentials(name)
    rules = credential_rules([name])
    assert given(rules, ((name.upper().encode(), b"k"),)) == framed(name.lower().encode(), b"k")
    assert given(DEFAULT_RULES, ((name.encode(), b"k"),)) == b""
    assert given(rules, ((b"Authorization", b"k"),)), "beside the usual ones"


def test_equal_lists_are_one_however_they_are_written():
    one = credential_rules(["X-A", "X-B"], ["ollama", "Bearer x"])
    other = credential_rules(["x-b", "x-a", "X-A", "Authorization"], ["x", "ollama", "bearer  ollama"])
    assert one == other
    assert hash(one) == hash(other)


def test_each_list_has_a_digest_of_its_own():
    lists = [
        ((), ()),
        (["x-a"], ()),
        (["x-b"], ()),
        (["x-a", "x-b"], ()),
        ((), ["x-a"]),
        ((), ["x-a", "x-b"]),
        ((), [""]),
        ((), ["basic x-a"]),
        (["x-a"], ["x-a"]),
    ]
    assert len({credential_rules(*both).digest for both in lists}) == len(lists)


def test_the_digest_is_what_it_has_always_been():
    """Another digest makes every entry unreachable: a name that always counts may be added, but deliberately."""
    names = (
        *(b"api-key", b"apikey", b"authorization", b"cf-access-client-id", b"cf-access-client-secret"),
        *(b"cf-access-token", b"ocp-apim-subscription-key", b"x-access-token", b"x-api-key", b"x-auth-token"),
        *(b"x-goog-api-key", b"x-litellm-api-key"),
    )
    assert DEFAULT_RULES.digest == hashlib.sha256(framed(framed(*names), b"")).hexdigest()
    with_both = credential_rules(["X-Zeta"], ["ollama", ""])
    pairs = framed(framed(b"", b""), framed(b"bearer", b""), framed(b"bearer", b"ollama"))
    assert with_both.digest == hashlib.sha256(framed(framed(*names, b"x-zeta"), pairs)).hexdigest()


# Placeholders

PLACEHOLDERS = credential_rules((), ["ollama", "api-key-not-set", "", "Basic eDp5"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Bearer ollama", True),
        (b"bearer ollama", True),
        (b"BEARER  ollama", True),
        (b"Bearer api-key-not-set", True),
        (b"Bearer", True),
        (b"Bearer ", True),
        (b"", True),
        (b"Basic eDp5", True),
        (b"basic eDp5", True),
        (b"Bearer Ollama", False),
        (b"Bearer ollama2", False),
        (b"Bearer ollama ollama", False),
        (b"Bearer eDp5", False),
        (b"ollama", False),
        (b"Basic", False),
        (b"Basic ollama", False),
        (b"Bearer\tollama", False),
        (b"Bearerollama", False),
    ],
)
def test_a_placeholder_is_compared_exactly_but_for_the_case_of_the_scheme(value, expected):
    assert is_placeholder(PLACEHOLDERS, value) is expected
    assert not is_placeholder(DEFAULT_RULES, value), "none by default"
    shown = given(PLACEHOLDERS, ((b"Authorization", value),))
    assert shown == (b"" if expected else framed(b"authorization", value))


def test_a_placeholder_hides_no_other_credential():
    key, token = (b"X-API-Key", b"ollama"), (b"Authorization", b"Bearer ollama")
    assert given(PLACEHOLDERS, (token, key)) == framed(b"x-api-key", b"ollama"), "only Authorization has placeholders"
    real = (b"Authorization", b"Bearer real")
    for fields in ((token, real), (real, token), (token, token)):
        assert given(PLACEHOLDERS, fields) == framed(
            *(part for _, value in fields for part in (b"authorization", value))
        )


OURS = (b"Authorization", b"Bearer ours")
KEY = (b"X-API-Key", b"k")


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        pytest.param((), (OURS,), id="nothing"),
        pytest.param((KEY,), (KEY, OURS), id="another credential"),
        pytest.param(((b"authorization", b"Bearer ollama"), KEY), (KEY, OURS), id="a placeholder"),
        *(
            pytest.param(fields, fields, id=name)
            for name, fields in {
                "its own": ((b"AUTHORIZATION", b"Bearer mine"), KEY),
                "an empty one that is no placeholder": ((b"Authorization", b""),),
                "two of them": ((b"Authorization", b"Bearer ollama"), (b"Authorization", b"Bearer ollama")),
            }.items()
        ),
    ],
)
def test_a_request_gets_an_authorization_where_it_has_none_of_its_own(fields, sent):
    assert with_authorization(credential_rules((), ("ollama",)), fields, OURS[1]) == sent
