"""Lists of texts, items and whole responses for the tests of policy/embeddings.py and policy/listing/."""

from __future__ import annotations

import base64
import json
import random
import struct
from typing import Any

from ollama_cache_proxy.policy.classify import Candidate, by_body
from ollama_cache_proxy.policy.embeddings import TextList, text_list
from ollama_cache_proxy.policy.endpoints import Policy, find
from ollama_cache_proxy.policy.listing.cut import Cut
from ollama_cache_proxy.policy.listing.items import Item, sound
from ollama_cache_proxy.policy.listing.joining import Part
from ollama_cache_proxy.policy.listing.own_form import split
from ollama_cache_proxy.policy.listing.token_shares import ADDED, pieces
from tests.support.servers import data

EMBED, V1 = "/api/embed", "/v1/embeddings"
ROUTES = (EMBED, V1)
RECORDED: dict[str, Any] = json.loads(data("wire/ollama-0.24.json").read_text("utf-8"))
WHOLE = ("embed_string", "embed_list", "embed_list_one", "embed_dimensions", "v1_embeddings")


def candidate(path: str, body: str | bytes) -> Candidate:
    raw = body.encode() if isinstance(body, str) else body
    outcome = by_body(find("POST", path)[0], raw, policy_of=lambda _: Policy.ALWAYS, streams=False)
    assert isinstance(outcome, Candidate), outcome
    return outcome


def seen(path: str, body: str | bytes) -> TextList:
    found = text_list(candidate(path, body))
    assert found is not None
    return found


def asking(path: str, *texts: str, model: str = "m", **fields: object) -> TextList:
    return seen(path, json.dumps({"model": model, "input": texts, **fields}))


def recorded(name: str) -> tuple[TextList, bytes]:
    case = RECORDED[name]
    answer = case["response"]
    body = answer.get("body") or "".join(chunk["data"] for chunk in answer["chunks"])
    return seen(case["request"]["path"], case["request"]["body"]), body.encode()


def items_of(asked: TextList, texts: tuple[str, ...], body: bytes) -> tuple[Item, ...] | None:
    """Return one item for each of `texts`, from a response in Ollama's own form."""
    cut = split(asked, len(texts), body)
    if cut is None:
        return None
    items = Part(texts=texts, cut=cut).items()
    return tuple(items[text] for text in texts)


def keepable(asked: TextList, texts: tuple[str, ...], body: bytes) -> Cut | None:
    cut = split(asked, len(texts), body)
    return cut if cut is not None and sound(cut.vectors, cut.numbers) else None


def cut(asked: TextList, body: bytes, texts: tuple[str, ...] | None = None) -> dict[str, Item]:
    texts = asked.texts if texts is None else texts
    items = items_of(asked, texts, body)
    assert items is not None
    return dict(zip(texts, items, strict=True))


def some(vector: bytes = b"[0.5]", tokens: int = 3, *, exact: bool = True, total: int = 7, load: int = 5) -> Item:
    return Item(
        vector=vector,
        numbers=vector.count(b",") + 1,
        tokens=tokens,
        exact=exact,
        total_duration=total,
        load_duration=load,
    )


# A whole response, written by other means


def numbers(text: str) -> list[float]:
    rng = random.Random(text)
    return [round(rng.uniform(-1, 1), 8) for _ in range(4)]


def tokens_of(texts: tuple[str, ...]) -> int:
    """Tokens as they are shared out, so that each text gets its own again."""
    return sum(ADDED + count for count in pieces(texts))


def packed(floats: list[float]) -> str:
    return base64.b64encode(b"".join(struct.pack("<f", number) for number in floats)).decode()


def reference(path: str, texts: tuple[str, ...], *, coded: bool = False, total: int = 900, load: int = 300) -> bytes:
    vectors: list[Any] = [packed(numbers(text)) if coded else numbers(text) for text in texts]
    tokens = tokens_of(texts)
    if path == EMBED:
        times = {"total_duration": total, "load_duration": load}
        document = {"model": "m", "embeddings": vectors, **times, "prompt_eval_count": tokens}
    else:
        rows = [{"object": "embedding", "embedding": vector, "index": at} for at, vector in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        document = {"object": "list", "data": rows, "model": "m", "usage": usage}
    return json.dumps(document, separators=(",", ":")).encode() + (b"\n" if path == V1 else b"")
