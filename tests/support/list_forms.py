"""Responses to lists in the forms of servers that speak Ollama's or OpenAI's API, and of proxies that write JSON anew.

A form makes the bytes of a response from a request, so that an upstream of a test answers any list, whole or in parts.
The vector of a text is the same each time, and its numbers are written in one way only, by the form.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
WIDTH = 4


@dataclass(frozen=True, slots=True)
class Form:
    """How an upstream writes a response. `whole_only`: it says what only a whole response can say."""

    name: str
    change: Callable[[Document], Document] = lambda document: document
    write: Callable[[Document], bytes] = lambda document: compact(document).encode()
    number: Callable[[float], str] = repr
    kind: str = "application/json"
    chunked: bool = False
    whole_only: bool = False


class Written(float):
    """A number with the text that stands for it."""

    text: str

    def __repr__(self) -> str:
        return self.text


def written(number: float, text: str) -> Written:
    made = Written(number)
    made.text = text
    return made


def compact(document: Any, *, comma: str = ",", colon: str = ":", **more: Any) -> str:
    """Return JSON with numbers as they are to be written."""
    marks: list[str] = []

    def marked(value: Any) -> Any:
        match value:
            case Written():
                marks.append(value.text)
                return f"\0{len(marks) - 1}\0"
            case dict():
                return {name: marked(member) for name, member in value.items()}
            case list():
                return [marked(member) for member in value]
            case _:
                return value

    text = json.dumps(marked(document), separators=(comma, colon), ensure_ascii=False, **more)
    return re.sub(r'"\\u0000([0-9]+)\\u0000"', lambda found: marks[int(found[1])], text)


def floats(text: str) -> list[float]:
    """Return the vector of a text: numbers that are exact in float32, and so as base64."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return [(digest[place] - 128 or 1) / 256 for place in range(WIDTH)]


def tokens(text: str) -> int:
    return 2 + len(text.split())


def document(path: str, request: Document, form: Form) -> Document:
    """Return what Ollama would answer, in its names and order, with the numbers of the form."""
    given = request["input"]
    texts = [given] if isinstance(given, str) else given
    count = sum(map(tokens, texts))
    if path == "/api/embed":
        vectors = [[written(number, form.number(number)) for number in floats(text)] for text in texts]
        times = {"total_duration": 900, "load_duration": 300}
        return {"model": request["model"], "embeddings": vectors, **times, "prompt_eval_count": count}
    rows = []
    for place, text in enumerate(texts):
        vector: Any = [written(number, form.number(number)) for number in floats(text)]
        if request.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{WIDTH}f", *floats(text))).decode()
        rows.append({"object": "embedding", "embedding": vector, "index": place})
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": rows, "model": request["model"], "usage": usage}


def answer(path: str, body: bytes, form: Form) -> bytes:
    """Return the body of the response to a request."""
    return form.write(form.change(document(path, json.loads(body), form)))


def head(form: Form, body: bytes) -> bytes:
    """Return a whole response, head and body."""
    length = b"Transfer-Encoding: chunked" if form.chunked else b"Content-Length: %d" % len(body)
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if form.chunked else body
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n%b" % (form.kind.encode(), length, framed)


# The forms


def _own(document: Document) -> bytes:
    return compact(document).encode() + b"\n" * ("data" in document)


OWN = Form("Ollama's own", write=_own)


def _without(*names: str) -> Callable[[Document], Document]:
    return lambda document: {name: value for name, value in document.items() if name not in names}


def _with(**more: Any) -> Callable[[Document], Document]:
    return lambda document: {**document, **more}


def _rows(change: Callable[[int, Document], Document]) -> Callable[[Document], Document]:
    """Change each row of /v1, nothing of /api/embed."""

    def changed(document: Document) -> Document:
        if "data" not in document:
            return document
        return {**document, "data": [change(place, row) for place, row in enumerate(document["data"])]}

    return changed


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(member) for member in value] if isinstance(value, list) else value


def _indented(document: Document) -> bytes:
    return compact(document, indent=2, colon=": ").encode()


def _escaped(document: Document) -> bytes:
    names = ("model", "embeddings", "data", "embedding", "usage")
    text = compact(document)
    for name in names:
        text = text.replace(f'"{name}":', f'"\\u{ord(name[0]):04x}{name[1:]}":')
    return text.encode()


def _reversed(document: Document) -> Document:
    return {**document, "data": document["data"][::-1]} if "data" in document else document


def _of_usage(usage: Any) -> Callable[[Document], Document]:
    return lambda document: (
        {**document, "usage": usage} if "usage" in document else {**document, "prompt_eval_count": None}
    )


FORMS = (
    Form("blanks after : and ,", write=lambda document: compact(document, comma=", ", colon=": ").encode()),
    Form("indented", write=_indented),
    Form("indented with CRLF", write=lambda document: _indented(document).replace(b"\n", b"\r\n") + b"\r\n"),
    Form("sorted names", change=_sorted),
    Form("a line feed at the end or not", write=lambda document: compact(document).encode() + b"\n" * ("data" not in document)),
    Form("two line feeds at the end", write=lambda document: compact(document).encode() + b"\n\n"),
    Form("a carriage return at the end", write=lambda document: compact(document).encode() + b"\r\n"),
    Form("blanks around", write=lambda document: b" \t\r\n" + compact(document).encode() + b" "),
    Form("no count", change=_without("prompt_eval_count", "usage")),
    Form("usage or count of null", change=_of_usage(None)),
    Form("prompt tokens only", change=lambda document: {**document, "usage": {"prompt_tokens": document["usage"]["prompt_tokens"]}} if "usage" in document else document, write=_indented),
    Form("an empty usage", change=lambda document: {**document, "usage": {}} if "usage" in document else document, write=_indented),
    Form("index first", change=_rows(lambda _, row: {"index": row["index"], **_without("index")(row)}), write=_indented),
    Form("no index", change=_rows(lambda _, row: _without("index")(row)), write=_indented),
    Form("rows in another order", change=_reversed, write=_indented),
    Form("no object", change=lambda document: _rows(lambda _, row: _without("object")(row))(_without("object")(document)), write=_indented),
    Form("an object of null", change=lambda document: {**document, "object": None} if "data" in document else document, write=_indented),
    Form("another spelling of the model", change=_with(model="library/all-minilm:latest")),
    Form("a model that reads like a vector", change=_with(model='[1,2] "x" {')),
    Form("no model", change=_without("model")),
    Form("no durations", change=_without("total_duration", "load_duration"), write=_indented),
    Form("one duration", change=_without("load_duration"), write=_indented),
    Form("model last", change=lambda document: {**_without("model")(document), "model": document["model"]}, write=_indented),
    Form("numbers with exponents", number="{:.6e}".format),
    Form("numbers with a capital E", number=lambda number: f"{number:.4E}"),
    Form("numbers with zeros at the end", number="{:.10f}".format),
    Form("many digits", number=lambda number: f"{number:.12f}1"),
    Form("minus zero", number=lambda number: "-0.0" if number < 0 else "1e-3"),
    Form("integers", number=lambda number: str(int(number * 256)), write=_indented),
    Form("escaped names", write=_escaped),
    Form("chunked", write=_indented, chunked=True),
    Form("another charset", write=_indented, kind="application/json;charset=UTF-8"),
    Form("a type in capitals", write=_indented, kind="Application/JSON"),
    Form("a member more", change=_with(id="x-1", created=1), whole_only=True),
    Form("an object more", change=_with(meta={"units": [1, {"a": "[2]"}]}), whole_only=True),
    Form("a count with a point", change=lambda document: {**document, ("usage" if "usage" in document else "prompt_eval_count"): written(6, "6.0")}, whole_only=True),
)  # fmt: skip
"""Each for both routes."""

ROW_FORMS = (
    Form("a member more in each row", change=_rows(lambda place, row: {**row, "id": place}), whole_only=True),
    Form("usage in each row", change=_rows(lambda _, row: {**row, "usage": {"prompt_tokens": 1}}), whole_only=True),
    Form("a member more in one row", change=_rows(lambda place, row: row if place else {**row, "x": None}), whole_only=True),
    Form("other totals", change=lambda document: {**document, "usage": {"prompt_tokens": 3, "total_tokens": 4}}, whole_only=True),
    Form("usage of more", change=lambda document: {**document, "usage": {**document["usage"], "completion_tokens": 0}}, whole_only=True),
)  # fmt: skip
"""Forms of /v1/embeddings alone."""


def forms() -> Iterator[tuple[str, Form]]:
    """Yield each route with each of its forms."""
    for path in ("/api/embed", "/v1/embeddings"):
        yield from ((path, form) for form in FORMS)
    yield from (("/v1/embeddings", form) for form in ROW_FORMS)
