"""Bytes in the beginning of prompts that change with every request and mean nothing: pinned, where a setting says so.

Ollama works on a prompt from the first token that differs from what it worked on last. A client that writes a counter
or a mark into the beginning of its system prompt has all of it worked on again with every turn. A rule names the
client, the place, and what stands there, exactly; what it pins becomes as many zeros, and no other byte changes. A
request that a rule does not fit exactly is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import orjson

from ollama_cache_proxy.policy.conversation import members
from ollama_cache_proxy.policy.dialects import anthropic
from ollama_cache_proxy.policy.dialects.dialect import Dialect
from ollama_cache_proxy.policy.endpoints import Endpoint, Kind
from ollama_cache_proxy.policy.messages import Fields, values
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.steps import Steps

Path: TypeAlias = tuple[str | int, ...]
"""Where a text stands in a body: names of members and places in arrays."""
Version: TypeAlias = tuple[int, int, int]

_LOOKED_AT: Final = 4096
"""Characters of a text in which a pattern is looked for."""
_PINNED: Final = re.compile(r"[0-9A-Fa-f]{1,64}")
"""What may be pinned: a counter, or a mark of hexadecimal digits."""
_PATH: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)|\[([0-9]{1,4})\]|(\.)")
_AGENT_VERSION: Final = re.compile(rb"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})(?=[ -]|$)")


@record
class PrefixRule:
    """What may be pinned in requests of one client. A text is at one of `paths`, and begins as `pattern` says."""

    name: str
    client: bytes = b""
    """How its User-Agent begins; empty for any."""
    since: Version | None = None
    """The first version, which stands behind `client` there; None for any."""
    before: Version | None = None
    """The first version of which nothing is known."""
    dialect: Dialect | None = None
    """Of the endpoints; None for all that take prompts of completions and chats."""
    paths: tuple[Path, ...]
    pattern: re.Pattern[str]
    """Its groups are what is pinned."""
    source: str = ""
    """Where the client's behaviour is described."""

    def is_for(self, endpoint: Endpoint, fields: Fields) -> bool:
        """Return whether a request to this endpoint, with these fields, is from the client."""
        if endpoint.kind not in (Kind.CHAT, Kind.COMPLETION) or endpoint.policy is None:
            return False
        if self.dialect is not None and endpoint.dialect is not self.dialect:
            return False
        return not self.client or any(self._sent_by(value) for value in values(fields, b"user-agent"))

    def _sent_by(self, agent: bytes) -> bool:
        if not agent.startswith(self.client):
            return False
        if self.since is None and self.before is None:
            return True
        found = _AGENT_VERSION.match(agent, len(self.client))
        if found is None:
            return False
        version = tuple(map(int, found.groups()))
        return (self.since is None or version >= self.since) and (self.before is None or version < self.before)


CLAUDE_CODE: Final = PrefixRule(
    name="claude-code",
    client=b"claude-cli/",
    since=(2, 1, 36),
    before=(3, 0, 0),
    dialect=anthropic,
    paths=(("system", 0, "text"), ("system",)),
    pattern=re.compile(
        r"x-anthropic-billing-header: cc_version=[0-9]+\.[0-9]+\.[0-9]+\.([0-9a-f]{3}); cc_entrypoint=[a-z-]{1,32};"
        r" cch=([0-9a-f]{5});"
    ),
    source="anthropics/claude-code issue 68900; pull requests ggml-org/llama.cpp 21793 and ollama/ollama 14918",
)
"""`cch` changes with every request, the end of `cc_version` with every conversation: marks for billing, in the first
block of the system prompt, that only the vendor's own servers take out."""

BUILT_IN: Final = {rule.name: rule for rule in (CLAUDE_CODE,)}


@record
class Stabilised:
    """A body as it is sent to Ollama, as long as the one that came, and the rule that fitted."""

    body: bytes
    rule: str


def stabilised(
    rules: Sequence[PrefixRule], endpoint: Endpoint, fields: Fields, body: bytes
) -> Steps[Stabilised | None]:
    """Return the body with what the first rule that fits pins; None where none does. A large body is read in steps."""
    for rule in rules:
        if rule.is_for(endpoint, fields):
            read = yield from members(endpoint, fields, body)
            if read is None:
                return None
            for path in rule.paths:
                changed = _pinned(rule.pattern, _at(read, path), body)
                if changed is None:
                    continue
                again = yield from members(endpoint, fields, changed[0])
                if again is not None and _text(_at(again, path)).startswith(changed[1]):
                    return Stabilised(body=changed[0], rule=rule.name)
    return None


def _pinned(pattern: re.Pattern[str], value: Any, body: bytes) -> tuple[bytes, str] | None:
    """Return the body in which the beginning of one text is pinned, and that beginning; None where it does not fit."""
    found = pattern.match(_text(value)[:_LOOKED_AT])
    if found is None:
        return None
    text, end, pinned = found[0], 0, ""
    for begin, behind in map(found.span, range(1, pattern.groups + 1)):
        if begin < end or _PINNED.fullmatch(found.string, begin, behind) is None:
            return None
        pinned += found.string[end:begin] + "0" * (behind - begin)
        end = behind
    pinned += text[end:]
    written = b'"' + orjson.dumps(text)[1:-1]
    if body.count(written) != 1:  # written otherwise, or not there alone
        return None
    return body.replace(written, b'"' + orjson.dumps(pinned)[1:-1]), pinned


def _at(value: Any, path: Path) -> Any:
    """Return the value at a path; None where there is none."""
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def rule_of(name: str, *, path: str, pattern: str, client: str = "") -> PrefixRule:
    """Return a rule that a setting describes; raise ValueError where it is none.

    `path` is like `system[0].text`; `pattern` begins with ^ and has a group for each run of digits, decimal or
    hexadecimal, that is pinned; `client` is how a User-Agent begins.
    """
    if not pattern.startswith("^"):
        text = "its pattern must begin with ^"
        raise ValueError(text)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        text = f"its pattern is no regular expression: {error}"
        raise ValueError(text) from None
    if not compiled.groups:
        text = "its pattern has no group: what is in (…) is pinned"
        raise ValueError(text)
    return PrefixRule(
        name=name,
        client=client.encode("utf-8", "surrogateescape"),
        paths=(path_of(path),),
        pattern=compiled,
    )


def path_of(text: str) -> Path:
    """Return a path that is written like `messages[0].content`; raise ValueError where it is none."""
    steps: list[str | int] = []
    at, name_next = 0, True
    while at < len(text):
        found = _PATH.match(text, at)
        if found is None:
            break
        name, place, dot = found.groups()
        if name is not None and name_next:
            steps.append(name)
        elif place is not None and not name_next:
            steps.append(int(place))
        elif dot is None or name_next:
            break
        name_next, at = dot is not None, found.end()
    if at < len(text) or name_next:
        message = f"{text!r} is no path: it must be like system[0].text"
        raise ValueError(message)
    return tuple(steps)
