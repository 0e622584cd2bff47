"""A source of hostile requests that may poison a cache.

A few harmless bodies, so that keys meet often, are spoiled up to three times each: as trees whose names may repeat, as
bytes, and by the fields around them. A seed and an index give the same request each time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """A POST request; the values of `fields` are Latin-1."""

    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, name: str) -> tuple[str, ...]:
        """All the values of a field as a server reads them; `name` is lower case."""
        return tuple(value.strip(" \t") for field, value in self.fields if field.lower() == name)

    def rendered(self, host: str) -> bytes:
        lines = (f"{name}: {value}\r\n" for name, value in self.fields)
        head = (
            f"POST {self.target} HTTP/1.1\r\nHost: {host}\r\n{''.join(lines)}Content-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode("latin-1") + self.body


class Raw(str):
    """JSON text that is written as it stands."""

    __slots__ = ()


@dataclass(slots=True)
class Object:
    """An object while it can still be spoiled: its members are lists of a name and a value."""

    pairs: list[list[Any]]


def grown(value: Any) -> Any:
    """A tree of one's own."""
    match value:
        case dict():
            return Object([[name, grown(member)] for name, member in value.items()])
        case Object(pairs):
            return Object([[name, grown(member)] for name, member in pairs])
        case list():
            return [grown(item) for item in value]
        case _:
            return value


def written(node: Any, gap: str = "") -> str:
    match node:
        case Raw():
            return str(node)
        case Object(pairs):
            inner = ",".join(f"{gap}{written(name)}{gap}:{gap}{written(value, gap)}{gap}" for name, value in pairs)
            return f"{{{inner}}}"
        case list():
            return f"[{','.join(f'{gap}{written(item, gap)}{gap}' for item in node)}]"
        case _:
            return json.dumps(node, ensure_ascii=False)


# The harmless ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`bases` are bodies that Ollama answers, `names` the fields that it reads; `weight` is its share."""

    weight: int
    names: tuple[str, ...]
    bases: tuple[dict[str, Any], ...]


def _bases(
    models: tuple[str, ...], name: str, prompts: tuple[Any, ...], *more: dict[str, Any]
) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"model": model, name: prompt} | rest for model, prompt, rest in itertools.product(models, prompts, more)
    )


def _schema(names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


_GREEDY = {"seed": 1, "temperature": 0}
EMBEDDER = "bge"
"""A second model that embeds, for the simulator to have."""

_WRITERS, _EMBEDDERS = ("tiny", "tiny2"), ("all-minilm", EMBEDDER)
_CHATS = tuple([{"role": "user", "content": text}] for text in ("why", "hi"))
_SAMPLING = ("format", "keep_alive", "options", "think", "truncate", "shift", "logprobs", "top_logprobs")
_OPENAI = ("stream_options", "max_tokens", "seed", "stop", "temperature", "top_p", "frequency_penalty")

_AGENTS = ("temperature", "top_p", "tool_choice", "text", "metadata", "thinking")
_STATE = ("store", "background", "previous_response_id", "conversation", "container")

ROUTES: dict[str, Route] = {
    "/api/generate": Route(
        weight=6,
        names=("model", "prompt", "suffix", "system", "template", "context", "stream", "raw", "images", *_SAMPLING),
        bases=_bases(
            _WRITERS,
            "prompt",
            ("why", "hi"),
            {"stream": False},
            {"stream": False, "options": _GREEDY},
            {"stream": False, "system": "be good"},
            {"stream": False, "format": "json"},
            {"stream": False, "format": _schema("ab")},
            {"stream": False, "format": _schema("ba")},
        ),
    ),
    "/api/embed": Route(
        weight=5,
        names=("model", "input", "keep_alive", "truncate", "dimensions", "options"),
        bases=_bases(
            _EMBEDDERS, "input", ("a", ["a", "be good"], ["a"], "be good", ["b", "c", "b"]), {}, {"dimensions": 8}
        ),
    ),
    "/api/embeddings": Route(
        weight=3,
        names=("model", "prompt", "keep_alive", "options"),
        bases=_bases(_EMBEDDERS, "prompt", ("a", "be good"), {}),
    ),
    "/v1/embeddings": Route(
        weight=4,
        names=("model", "input", "dimensions", "encoding_format", "user"),
        bases=_bases(_EMBEDDERS, "input", ("a", "c", ["be good", "a"]), {}, {"encoding_format": "base64"}),
    ),
    "/api/chat": Route(
        weight=1,
        names=("model", "messages", "stream", "tools", *_SAMPLING),
        bases=_bases(_WRITERS, "messages", _CHATS, {"stream": False}, {}, {"stream": False, "options": _GREEDY}),
    ),
    "/v1/chat/completions": Route(
        weight=1,
        names=("model", "messages", "stream", "tools", "response_format", "reasoning_effort", "logprobs", *_OPENAI),
        bases=_bases(_WRITERS, "messages", _CHATS, {}, {"stream": True}, {"stream": False, **_GREEDY}),
    ),
    "/v1/completions": Route(
        weight=1,
        names=("model", "prompt", "stream", "suffix", "logprobs", *_OPENAI),
        bases=_bases(_WRITERS, "prompt", ("why", "hi"), {}, {"stream": True}, {"stream": False, **_GREEDY}),
    ),
    "/v1/responses": Route(
        weight=1,
        names=("model", "input", "stream", "tools", "instructions", "max_output_tokens", *_AGENTS, *_STATE),
        bases=_bases(
            _WRITERS, "input", ("why", *_CHATS), {"max_output_tokens": 4}, {"stream": True}, {"temperature": 0}
        ),
    ),
    "/v1/messages": Route(
        weight=1,
        names=("model", "messages", "stream", "tools", "system", "max_tokens", "stop_sequences", *_AGENTS, *_STATE),
        bases=_bases(
            _WRITERS,
            "messages",
            _CHATS,
            {"max_tokens": 4},
            {"max_tokens": 4, "stream": True},
            {"max_tokens": 4, "system": "be good"},
        ),
    ),
}


# What spoils a tree


NUMBERS = tuple(
    Raw(text)
    for text in (
        *("9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993", "9223372036854775807"),
        *("9223372036854775808", "18446744073709551615", "18446744073709551616", "1e400", "-1e400", "1e-400", "1e308"),
        *("0", "-0", "0.0", "-0.0", "1", "1.0", "1e0", "10E-1", "8", "8.0", "-1", "0.5", "01", "-01", "+1", "-", ".5"),
        *("5.", "1e", "0x10", "1_0", "NaN", "-NaN", "nan", "Infinity", "-Infinity", "9" * 400),
    )
)
WRONG: tuple[Any, ...] = (None, True, False, 0, 1, 0.5, "", "x", "false", [], [None], ["a"], [1], [[]], {}, {"a": 1})
VALUES: dict[str, tuple[Any, ...]] = {
    "model": (
        *("tiny", "TINY", "tiny:latest", "Tiny:LATEST", "library/tiny", "registry.ollama.ai/library/tiny:latest"),
        *("https://registry.ollama.ai/library/tiny", "tiny2", "all-minilm", "tiny:cloud", "tiny-cloud", "TINY:Cloud"),
        *("nope", "", " ", "tiny ", "tiny:", "tiny:local", "../tiny", "tiny\u017f", "t\u0130ny", Raw(r'"t\u0069ny"')),
    ),
    "stream": (None, True, False, 0, 1, "false", "", "0", Raw("False"), []),
    "keep_alive": (
        *("5m", "0", "0s", "-0s", "", "banana", "1h1", "5", "1.5h", ".5s", "0.1ns", "-5m", "5\u00b5s", "2562048h"),
        *(0, 1, -1, 300, True, False, None, Raw("-0"), Raw("1e-12"), Raw("-1e-12"), Raw("1e10"), Raw(r'"5\u006d"'), []),
    ),
    "encoding_format": ("float", "base64", "FLOAT", "Base64", "", None, "banana", "float ", 0, Raw(r'"bas\u006564"')),
    "dimensions": (0, 8, -1, 1, 64, 100_000, None, "8", True, Raw("8.0"), Raw("0.0"), Raw("-0"), Raw("8e0")),
    "truncate": (True, False, None, 0, "true"),
    "prompt": ("", " ", "why", "Why", "hi", "a", "a ", "\0", "\ufffd", "\U0001f642", None, [], ["why"], 0),
    "input": (
        *("", " ", "a", "A", "b", "\ufffd", None, 0, [], [""], [None], [1], ["a"], ["a", "a"], ["b", "a"], ["a", ""]),
        *(["a", 1], ["a", None], [["a"]], [1, 2], [["a"], ["b"]], ["a", "b", "c", "a"], ["c"] * 9, {}),
    ),
    "options": (
        *(None, {}, [], "", "x", {"seed": 1}, {"seed": 2}, {"SEED": 1}, {"seed": "1"}, {"seed": Raw("1.0")}, {"x": 1}),
        *({"seed": Raw("9007199254740993")}, {"temperature": 0, "seed": 1}, {"temperature": Raw("0.0"), "seed": 1}),
        *(
            {"temperature": Raw("-0.0"), "seed": 1},
            {"temperature": Raw("-0"), "seed": 1},
            {"num_predict": 2},
            {"num_predict": Raw("2.0")},
            {"num_ctx": 9},
        ),
        *({"num_predict": True}, {"stop": ["a"]}, {"stop": ["e"]}, {"stop": "e"}, {"stop": [1]}, {"temperature": None}),
        *(
            {"num_ctx": None, "top_k": None, "mirostat": None},
            {"x": None, "num_ctx": 9},
            {"Seed": None},
            {"num_gpu": 0},
        ),
    ),
    "format": (
        *("json", "JSON", "", "x", None, {}, [], 0, True, Raw(r'"\u006ason"'), _schema("ab"), _schema("ba")),
        *({"properties": _schema("ab")["properties"], "type": "object"}, Raw('{"type":"object","type":"string"}')),
    ),
    "messages": (
        *(None, [], "why", [None], ["why"], [{}], [{"role": "user"}], [{"role": "user", "content": None}]),
        *([{"content": "why", "role": "user"}], [{"role": "USER", "content": "why"}], [{"role": 1, "content": "why"}]),
        *([{"role": "user", "content": [{"type": "text", "text": "why"}]}], [{"role": "system", "content": "why"}]),
    ),
    "system": ("be good", "", None, "Be good", [{"type": "text", "text": "be good"}], []),
    "instructions": ("be good", "", None, "Be good"),
    "tools": (
        *([], None, [{"type": "web_search"}], [{"Type": "web_search_1"}], [{"type": "function"}], [{}], ["x"]),
        *([{"type": "function", "TYPE": "web_search"}], [{"type": None, "name": "f"}]),
    ),
    "store": (True, False, None, "x"),
    "background": (True, False, None),
    "previous_response_id": ("resp_1", None, ""),
    "conversation": ({"id": "x"}, "x", None),
    "stop_sequences": (["e"], [], None, [1]),
    "max_output_tokens": (1, 2, 0, None, Raw("2.0")),
    "template": ("{{ .Prompt }}", "", None, "x"),
    "context": ([1], [1, 2], [2, 1], [], None, ["1"], [Raw("1.0")]),
    "images": ([], None, ["aGk="], ["aGk"], ["?"], [None]),
    "think": (True, False, None, "high", "banana", 1),
    "raw": (True, False, None),
    "logprobs": (True, False, None, 0, 1, 2),
    "top_logprobs": (0, 1, 20, 21, -1, None, Raw("1.0")),
    "stop": ("e", ["e"], [], None, [1], 1),
    "temperature": (0, 1, None, Raw("0.0"), Raw("-0.0"), "0"),
    "max_tokens": (1, 2, 0, -1, None, Raw("2.0")),
    "stream_options": ({"include_usage": True}, {"include_usage": False}, {}, None, True),
    "response_format": ({"type": "json_object"}, {"type": "text"}, {"type": "json_schema"}, "json", None),
}
STRANGE = ("x", "X", "Model_", "modeI", "custom", "Custom", "name", "verbose", "", "\u0131nput", "\0", "me\u00dfages")

Slot = tuple[list[Any], int]


def _slots(node: Any) -> Iterator[tuple[Slot, bool]]:
    """Every place in a tree, and whether a name stands there."""
    match node:
        case Object(pairs):
            for pair in pairs:
                yield (pair, 0), True
                yield (pair, 1), False
                yield from _slots(pair[1])
        case list():
            for index, item in enumerate(node):
                yield (node, index), False
                yield from _slots(item)


def _objects(node: Any) -> Iterator[Object]:
    if isinstance(node, Object):
        yield node
    for (holder, index), is_name in _slots(node):
        if not is_name and isinstance(holder[index], Object):
            yield holder[index]


def _texts(node: Any) -> list[Slot]:
    return [(holder, index) for (holder, index), _ in _slots(node) if type(holder[index]) is str]


def _escaped(text: str) -> Raw:
    units = text.encode("utf-16-be", "surrogatepass").hex()
    return Raw('"' + "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)) + '"')


def _respelled(random: Random, text: str) -> str:
    """The text in another spelling: another one to Python, to Go often the same name."""
    if isinstance(text, Raw) or not text:
        return text
    ways: tuple[Callable[[], str], ...] = (
        text.upper,
        text.title,
        text.swapcase,
        lambda: _escaped(text),
        lambda: _escaped(text.upper()),
        lambda: text.replace("s", "\u017f").replace("k", "\u212a"),
        lambda: Raw(_escaped(text[0])[:-1] + json.dumps(text[1:])[1:]),
    )
    return random.choice(ways)()


def _set(body: Object, name: str, value: Any) -> None:
    found = next((pair for pair in body.pairs if pair[0] == name), None)
    if found is None:
        body.pairs.append([name, grown(value)])
    else:
        found[1] = grown(value)


def repeat(random: Random, body: Object, _: Route) -> None:
    """A name comes twice, perhaps in two spellings, wherever an object is."""
    pairs = random.choice([found for found in _objects(body) if found.pairs] or [Object([["a", 1]])]).pairs
    name, value = random.choice(pairs)
    again = _respelled(random, name) if random.random() < 0.5 else name
    other = random.choice(random.choice(((value,), WRONG, VALUES.get(name, WRONG))))
    pairs.insert(random.randrange(len(pairs) + 1), [again, grown(other)])


def respell(random: Random, body: Object, _: Route) -> None:
    """A name or a text is spelled otherwise."""
    texts = _texts(body)
    if texts:
        holder, index = random.choice(texts)
        holder[index] = _respelled(random, holder[index])


def reorder(random: Random, body: Object, _: Route) -> None:
    for found in _objects(body):
        random.shuffle(found.pairs)


def retype(random: Random, body: Object, route: Route) -> None:
    """A field that Ollama reads gets a value of another type."""
    _set(body, random.choice(route.names), random.choice(WRONG))


def vary(random: Random, body: Object, route: Route) -> None:
    """A field gets a value of the kind that it is for, or nearly."""
    name = random.choice([name for name in route.names if name in VALUES])
    _set(body, name, random.choice(VALUES[name]))


def strange(random: Random, body: Object, _: Route) -> None:
    """A field that this route does not read."""
    name = random.choice((*STRANGE, *VALUES))
    _set(body, name, random.choice((*WRONG, *NUMBERS, *VALUES.get(name, ()))))


def number(random: Random, body: Object, _: Route) -> None:
    """A number at the edge, wherever a value is."""
    slots = [slot for slot, is_name in _slots(body) if not is_name]
    holder, index = random.choice(slots or [([None], 0)])
    holder[index] = random.choice(NUMBERS)


def drop(random: Random, body: Object, _: Route) -> None:
    if body.pairs:
        body.pairs.pop(random.randrange(len(body.pairs)))


def surrogate(random: Random, body: Object, _: Route) -> None:
    """Half a character, as an escape or as bytes, in a name or a text."""
    texts = _texts(body)
    if texts:
        holder, index = random.choice(texts)
        half = random.choice(("\ud83d", "\ude42", "\ude42\ud83d"))
        holder[index] = random.choice((_escaped(holder[index] + half), holder[index] + half))


def nest(random: Random, body: Object, _: Route) -> None:
    depth = random.choice((62, 63, 64, 65, 200))
    opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
    name = random.choice(("x", "options", "format", "input"))
    _set(body, name, Raw(opening * depth + "0" + closing * depth))


def lengthen(random: Random, body: Object, _: Route) -> None:
    texts = _texts(body)
    if texts:
        holder, index = random.choice(texts)
        holder[index] += random.choice(("x", "a b ", "\u00e9", "\\", '"')) * random.choice((100, 1000, 2500))


# What spoils bytes


TAILS = (
    b" ",
    b"\n",
    b"x",
    b"\0",
    b",",
    b"}",
    b"{}",
    b'{"model":"tiny2"}',
    b"null",
    b"\xef\xbb\xbf",
    b" // no",
    b"\x1a",
)
BAD = (
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe4\xb8",
    b"\x80",
    b"\0",
    b"\n",
    b"\\",
    b'"',
    b"\xa0",
)


def follow(random: Random, body: bytes) -> bytes:
    return body + random.choice((*TAILS, body))


def recode(random: Random, body: bytes) -> bytes:
    """Another encoding, or a mark that says so."""
    text = body.decode("latin-1")
    ways = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8")
    return text.encode(random.choice(ways))


def insert(random: Random, body: bytes) -> bytes:
    """Bytes that are no UTF-8, or not allowed where they stand."""
    at = random.randrange(len(body) + 1)
    return body[:at] + random.choice(BAD) + body[at:]


def cut(random: Random, body: bytes) -> bytes:
    return body[: random.randrange(len(body) + 1)]


def flip(random: Random, body: bytes) -> bytes:
    at = random.randrange(len(body) or 1)
    return body[:at] + bytes(byte ^ 1 << random.randrange(8) for byte in body[at : at + 1]) + body[at + 1 :]


def wrap(random: Random, body: bytes) -> bytes:
    """No object, or no JSON at all."""
    return random.choice((b"[" + body + b"]", b"", b" \n", b"null", b'"model"', b"model=tiny&prompt=why", b"1"))


TREE = (repeat, repeat, respell, reorder, reorder, retype, vary, vary, vary, strange, number, drop, surrogate, nest)
TREE_RARE = (lengthen,)
BYTES = (follow, recode, insert, cut, flip, wrap)


# The fields around a body


Choices = tuple[tuple[str, tuple[str, ...]], ...]

PARTING: Choices = (
    ("X-Cache-Namespace", ("a", "b", "A", "", "\xff", "\xc3\xa9", "\xe9", "a,b", "a\tb", "a b", "x" * 300, '"a"')),
    ("Origin", ("http://localhost", "http://localhost:3000", "http://evil.example", "null", "app://x", "")),
    ("Authorization", ("Bearer a", "Bearer b", "bearer a", "Bearer", "", "Bearer a, Bearer b")),
    ("X-API-Key", ("a", "b", "A", "", "a, b", "\xe9")),
)
"""What separates entries."""

WISHES: Choices = (
    (
        "Cache-Control",
        (
            *(
                "no-cache",
                "no-store",
                "NO-STORE",
                "only-if-cached",
                "only-if-cached, max-age=x",
                "max-age=0",
                "max-age",
            ),
            *("max-age=-1", "max-age=60", "max-age=99999999999999999999", "min-fresh=99999999", "max-stale", ",,,", ""),
            *('no-cache="x"', '"no-store"', "no-transform", "public, private", "max-age=\xb2", "only-if-cached=0"),
        ),
    ),
    ("Pragma", ("no-cache", "x")),
    ("X-Cache-TTL", ("60", "1", "0", "-1", "1e3", "+5", "", "5 5", "99999999999", "\xb2", "0x10", "060")),
    ("X-Cache-Category", ("a", "A", "\xff", "x" * 33, "")),
)
OTHERS: Choices = (
    ("Content-Encoding", ("gzip", "identity", "")),
    ("Range", ("bytes=0-1", "")),
    ("Cookie", ("a=b", "")),
    (
        "Content-Type",
        ("application/x-www-form-urlencoded", "text/plain; charset=utf-16", "", "application/json; x=\xff"),
    ),
)


def _fields(random: Random) -> tuple[tuple[str, str], ...]:
    fields = [("Content-Type", "application/json")]
    for _ in range(random.choice((0, 0, 0, 0, 1, 1, 2))):
        name, values = random.choice(random.choice((PARTING, PARTING, WISHES, WISHES, OTHERS)))
        if name == "Content-Type":
            fields = fields[1:]
        fields.append((name if random.random() < 0.8 else name.upper(), random.choice(values)))
    return tuple(fields)


# One request


def request(seed: int, index: int) -> Hostile:
    random = Random(f"{seed}/{index}")
    path = random.choices(list(ROUTES), [route.weight for route in ROUTES.values()])[0]
    route = ROUTES[path]
    body = grown(route.bases[int(len(route.bases) * random.random() ** 2)])  # the first ones often, so that keys meet
    spoiled = random.choice((0, 0, 1, 1, 1, 2, 2, 3))
    as_bytes = sum(random.random() < 0.12 for _ in range(spoiled))
    for _ in range(spoiled - as_bytes):
        random.choice(TREE if random.random() < 0.97 else TREE_RARE)(random, body, route)
    data = written(body, random.choice(("", "", "", " ", "\n\t"))).encode("utf-8", "surrogatepass")
    for _ in range(as_bytes):
        data = random.choice(BYTES)(random, data)
    if random.random() < 0.01:
        path = random.choice((f"{path}?x=1", f"{path[:-1]}%{ord(path[-1]):02x}", f"{path}?"))
    return Hostile(target=path, fields=_fields(random), body=data)


def harmless() -> Iterator[Hostile]:
    """Every base of every route, not spoiled."""
    for path, route in ROUTES.items():
        for base in route.bases:
            fields = (("Content-Type", "application/json"),)
            yield Hostile(target=path, fields=fields, body=json.dumps(base).encode())
