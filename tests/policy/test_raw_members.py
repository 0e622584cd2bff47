from __future__ import annotations

import json
import random

import pytest

from ollama_cache_proxy.policy import outline, raw_members
from ollama_cache_proxy.policy.raw_members import changed_in_steps
from ollama_cache_proxy.policy.steps import finish


def changed(body: bytes, name: str, value: bytes, *, without: str | None = None) -> bytes:
    """Change a body at once and in steps: the result has to be the same."""
    found = raw_members.changed(body, name, value, without=without)
    for size in (1, 5, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outline, "SLICE", size)
            assert finish(changed_in_steps(body, name, value, without=without)) == found, size
    return found


@pytest.mark.parametrize(
    ("body", "without", "expected"),
    [
        (b'{"input":"a"}', None, b'{"input":[1]}'),
        (b' { "input" : "a" } ', None, b' { "input" :[1]} '),
        (b'{"model":"m", "input":["a",{"input":2}],\n"x":8e0}', None, b'{"model":"m", "input":[1],\n"x":8e0}'),
        (b'{"model":"m","input":"}],","x":1}', None, b'{"model":"m","input":[1],"x":1}'),
        (b'{"a":{"input":1,"f":2},"input":{},"f":3}', "f", b'{"a":{"input":1,"f":2},"input":[1]}'),
        (b'{"f":"}","input":2}', "f", b'{"input":[1]}'),
        (b'{ "f" : {"a":[]} , "input":2 }', "f", b'{"input":[1]}'),
        (b'{"input":2,"f":"x"}', "f", b'{"input":[1]}'),
        (b'{"input":2 , "f":"x" , "z":-0.0}', "f", b'{"input":[1] , "z":-0.0}'),
        (b'{"model":"m","f":1,"input":2,"z":3}', "f", b'{"model":"m","input":[1],"z":3}'),
        (b'{"model":"m","input":2,"z":3}', "f", b'{"model":"m","input":[1],"z":3}'),
        (rb'{"\u0069nput":"a","\u0066":"\"f\":","z":"\\"}', "f", rb'{"\u0069nput":[1],"z":"\\"}'),
        (b'{"input":["\xff","\xe2\x82"],"z":"caf\xc3\xa9"}', None, b'{"input":[1],"z":"caf\xc3\xa9"}'),
    ],
)
def test_only_these_members_change(body: bytes, without: str | None, expected: bytes) -> None:
    blanks = b" \n"
    found = changed(body, "input", b"[1]", without=without)
    assert found.translate(None, blanks) == expected.translate(None, blanks)


def test_blanks_between_other_members_stay() -> None:
    assert changed(b'{ "a" : 1 , "input" : 2 , "b" : 3 }', "input", b"[]") == b'{ "a" : 1 , "input" :[] , "b" : 3 }'


def test_a_large_member_is_looked_at_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_members, "_A_STEP", 100)
    body = b'{"input":[%b]}' % b",".join([b"1"] * 1001)
    assert 10 <= sum(1 for _ in changed_in_steps(body, "input", b"[]")) < 20


@pytest.mark.parametrize("seed", range(50))
def test_any_object_keeps_its_other_members(seed: int) -> None:
    source = random.Random(seed)

    def tree(depth: int) -> object:
        match source.randrange(7 if depth else 4):
            case 0 | 1:
                return "".join(source.choices('"\\{}[]:,a é\n', k=source.randrange(6)))
            case 2:
                return source.choice([None, True, 0, -1.5])
            case 3:
                return source.choice([[], {}])
            case 4 | 5:
                return [tree(depth - 1) for _ in range(source.randrange(3))]
            case _:
                return {f"{place}{tree(0)}": tree(depth - 1) for place in range(source.randrange(3))}

    members = [(f"{place}:{tree(0)}", tree(3)) for place in range(source.randrange(5))]
    members += [("input", tree(2)), ("f", tree(2))]
    source.shuffle(members)
    body = json.dumps(dict(members), ensure_ascii=source.random() < 0.5, indent=source.choice([None, 1])).encode()
    expected = {name: ["new"] if name == "input" else value for name, value in members if name != "f"}
    assert json.loads(changed(body, "input", b'["new"]', without="f")) == expected
    assert list(json.loads(changed(body, "input", b'["new"]', without="f"))) == list(expected)
