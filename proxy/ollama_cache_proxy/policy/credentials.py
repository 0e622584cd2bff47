"""The request fields that carry credentials, and the Authorization values that are none.

A hit must not pass a check that a guard in front of Ollama would have made (a key check in nginx, Cloudflare Access, an
API gateway), so what clients show to such guards is part of every key. Fields that a proxy in front of this one sets
after a check of its own (X-Forwarded-User, Cf-Access-Jwt-Assertion) are not: that check was made before the request
came here, and the field differs between all users or all sessions. Whoever has a guard behind this proxy that reads
them names them in `credential_fields`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Final

from ollama_cache_proxy.policy.fields import HOP_BY_HOP
from ollama_cache_proxy.policy.framing import frame, frames
from ollama_cache_proxy.policy.messages import Fields, values, without
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.reuse import OWN_REQUEST_FIELDS

CREDENTIAL_FIELDS: Final[Mapping[bytes, str]] = {
    b"authorization": "RFC 9110, section 11.6.2; every OpenAI SDK",
    b"x-api-key": "the usual name in nginx, Caddy and AWS API Gateway; Anthropic's SDKs",
    b"api-key": "Azure OpenAI's SDKs and Azure API Management",
    b"apikey": "Kong's key-auth by default",
    b"ocp-apim-subscription-key": "Azure API Management by default",
    b"x-goog-api-key": "Google's API gateways and SDKs",
    b"x-auth-token": "OpenStack, and key checks written by hand",
    b"x-access-token": "key checks written by hand",
    b"x-litellm-api-key": "LiteLLM's proxy",
    b"cf-access-client-id": "service tokens of Cloudflare Access",
    b"cf-access-client-secret": "service tokens of Cloudflare Access",
    b"cf-access-token": "users of Cloudflare Access, through cloudflared",
}
"""The fields that always count as credentials, in lower case, and who reads or sends them."""

_AUTHORIZATION: Final = b"authorization"
_BEARER: Final = b"bearer"


@record
class CredentialRules:
    """What counts as a credential; `credential_rules` makes them."""

    names: frozenset[bytes]
    """The names of fields, in lower case, with `-` for `_`."""
    placeholders: frozenset[tuple[bytes, bytes]]
    """The Authorization values that are no credentials: the scheme in lower case, and what follows it."""
    digest: str
    """A hash of both, in 64 hexadecimal digits: part of every key."""


def credential_rules(fields: Iterable[str] = (), placeholders: Iterable[str] = ()) -> CredentialRules:
    """Return the rules with these `fields` beside those that always count; see the settings of service/settings.py."""
    names = frozenset(CREDENTIAL_FIELDS) | {_plain(name.encode()) for name in fields}
    values = frozenset(pair for text in placeholders for pair in _placeholder(text.encode("utf-8", "surrogateescape")))
    parts = (frames(*sorted(names)), frames(*(frames(*pair) for pair in sorted(values))))
    return CredentialRules(names=names, placeholders=values, digest=hashlib.sha256(frames(*parts)).hexdigest())


def may_carry_credentials(name: str) -> bool:
    """Return whether a setting may name this request field: it is a name (RFC 9110, section 5.1), and is forwarded."""
    return _TOKEN.fullmatch(name) is not None and name.lower().encode() not in _NEVER


_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_NEVER: Final = HOP_BY_HOP | OWN_REQUEST_FIELDS | {b"host", b"expect", b"content-length", b"via"}


def given(rules: CredentialRules, fields: Fields) -> bytes:
    """Return the credentials among a request's fields, framed with their names in lower case; empty where it has none.

    `fields` are those that Ollama will get. Names count with `_` for `-` too: a guard in CGI or WSGI reads both alike.
    """
    names, lines = rules.names, [line.lower() for line, _ in fields]
    if names.isdisjoint(lines) and b"_" not in b"".join(lines):
        return b""  # most requests, in a third of the time
    found = [
        (name, value)
        for name, (_, value) in zip(lines, fields, strict=True)
        if name in names or (b"_" in name and _plain(name) in names)
    ]
    if not found:
        return b""
    if rules.placeholders:
        found = _without_placeholder(rules, found)
    found.sort(key=_name)  # a stable sort: lines of one name keep their order
    return b"".join([frame(part) for line in found for part in line])


def is_placeholder(rules: CredentialRules, authorization: bytes) -> bool:
    """Return whether the value of an Authorization field is no credential."""
    return _parsed(authorization) in rules.placeholders


def with_authorization(rules: CredentialRules, fields: Fields, authorization: bytes) -> Fields:
    """Return the fields with this Authorization if they have none, or one that is no credential."""
    found = values(fields, _AUTHORIZATION)
    if found and not (len(found) == 1 and is_placeholder(rules, found[0])):
        return fields
    return (*without(fields, _AUTHORIZATION), (b"Authorization", authorization))


def _without_placeholder(rules: CredentialRules, found: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the credentials without an only Authorization that is none; which one of several counts is not known."""
    values = [value for name, value in found if name == _AUTHORIZATION]
    if len(values) != 1 or not is_placeholder(rules, values[0]):
        return found
    return [line for line in found if line[0] != _AUTHORIZATION]


def _plain(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")


def _name(line: tuple[bytes, bytes]) -> bytes:
    return line[0]


def _parsed(value: bytes) -> tuple[bytes, bytes]:
    """Return the scheme, in lower case, and what follows it (RFC 9110, section 11.4)."""
    scheme, _, rest = value.strip(b" \t").partition(b" ")
    return scheme.lower(), rest.lstrip(b" ")


def _placeholder(text: bytes) -> list[tuple[bytes, bytes]]:
    """Return the values that a placeholder stands for: a token of Bearer, or with a blank in it, a whole value.

    The empty one stands for `Bearer` without a token, and for a field without a value.
    """
    if b" " in text.strip(b" "):
        return [_parsed(text)]
    return [(_BEARER, text.strip(b" "))] if text.strip(b" ") else [(_BEARER, b""), (b"", b"")]


DEFAULT_RULES: Final = credential_rules()
