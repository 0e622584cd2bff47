from __future__ import annotations

import json
import random
from dataclasses import dataclass

import pytest

from ollama_cache_proxy.policy.document import read
from ollama_cache_proxy.policy.status import Detail

KNOWN = frozenset(
    {"model", "prompt", "stream", "system", "options", "keep_alive", "format", "think", "_debug_render_only"}
)
PLAIN = {"model": "m", "prompt": "p"}

LONG_S, KELVIN = "\u017f", "\u212a"


def body(text: str) -> bytes:
    return text.encode()


def nested(depth: int, *, inner: str = "0", kind: str = "list") -> bytes:
    """An object of exactly `depth` containers, itself included."""
    opening, closing = {"list": ("[", "]"), "dict": ('{"a":', "}")}[kind]
    below = depth - 1
    return body('{"x":' + opening * below + inner + closing * below + "}")


NOT_JSON = {
    "empty body": b"",
    "only white space": b" \n\t\r ",
    "BOM": b'\xef\xbb\xbf{"model":"m"}',
    "BOM within": b'{\xef\xbb\xbf"model":"m"}',
    "UTF-16 with a BOM": '{"model":"m"}'.encode("utf-16"),
    "UTF-16 without": '{"model":"m"}'.encode("utf-16-le"),
    "UTF-32": '{"model":"m"}'.encode("utf-32"),
    "invalid UTF-8 in a value": b'{"model":"m\xff"}',
    "invalid UTF-8 in a name": b'{"mod\xc3el":"m"}',
    "cut-off UTF-8": b'{"model":"m\xe2\x82"}',
    "overlong UTF-8": b'{"model":"m\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"model":"m\xed\xa0\x80"}',
    "beyond Unicode": b'{"model":"m\xf4\x90\x80\x80"}',
    "lone high surrogate": rb'{"model":"m","prompt":"\ud83d"}',
    "lone low surrogate": rb'{"model":"m","prompt":"\ude00"}',
    "surrogates the wrong way round": rb'{"model":"m","prompt":"\ude00\ud83d"}',
    "lone surrogate before a letter": rb'{"model":"m","prompt":"\ud83dx"}',
    "lone surrogate in a name": rb'{"model":"m","\ud800":1}',
    "lone surrogate deep down": rb'{"model":"m","options":{"stop":["\udfff"]}}',
    "bytes after the value": b'{"model":"m"}x',
    "a second value": b'{"model":"m"}{"model":"n"}',
    "a NUL after the value": b'{"model":"m"}\0',
    "a comma after the value": b'{"model":"m"},',
    "a brace after the value": b'{"model":"m"}}',
    "a NUL before the value": b'\0{"model":"m"}',
    "cut off": b'{"model":"m"',
    "cut off in a string": b'{"model":"m',
    "cut off in an escape": rb'{"model":"m\u00',
    "NaN": b'{"x":NaN}',
    "Infinity": b'{"x":Infinity}',
    "minus Infinity": b'{"x":-Infinity}',
    "nan in an array": b'{"x":[nan]}',
    "1e309": b'{"x":1e309}',
    "-1e309": b'{"x":-1e309}',
    "an exponent of a thousand digits": b'{"x":1e' + b"9" * 1000 + b"}",
    "leading zero": b'{"x":01}',
    "leading plus": b'{"x":+1}',
    "leading dot": b'{"x":.5}',
    "dot at the end": b'{"x":5.}',
    "hexadecimal": b'{"x":0x10}',
    "only a minus": b'{"x":-}',
    "an underscore in a number": b'{"x":1_0}',
    "comma before the brace": b'{"model":"m",}',
    "comma before the bracket": b'{"x":[1,]}',
    "comma first": b'{,"model":"m"}',
    "two commas": b'{"a":1,,"b":2}',
    "comment": b'{/* no */"model":"m"}',
    "line comment": b'{"model":"m"} // no',
    "single quotes": b"{'model':'m'}",
    "a name without quotes": b'{model:"m"}',
    "a number as a name": b'{1:"m"}',
    "True": b'{"x":True}',
    "undefined": b'{"x":undefined}',
    "raw line feed in a string": b'{"prompt":"a\nb"}',
    "raw NUL in a string": b'{"prompt":"a\0b"}',
    "raw tab in a name": b'{"a\tb":1}',
    "unknown escape": rb'{"prompt":"\x41"}',
    "escaped line feed": b'{"prompt":"a\\\nb"}',
    "escape of three digits": rb'{"prompt":"\u041"}',
    "an escape at the end of the text": b'{"prompt":"a\\',
    "vertical tab as white space": b'{\v"model":"m"}',
    "no-break space as white space": '{\u00a0"model":"m"}'.encode(),
    "2,000 brackets": nested(2000),
    "100,000 brackets, never closed": b"[" * 100_000,
    "a form": b"model=m&prompt=p",
}
NOT_AN_OBJECT = {
    "null": b"null",
    "true": b"true",
    "a number": b"42",
    "a string": b'"model"',
    "an empty string": b'""',
    "an array": b'[{"model":"m"}]',
    "an empty array": b"[]",
    "white space around an array": b" \n[] \t",
}
DUPLICATES = {
    "the same name twice": b'{"model":"a","model":"b"}',
    "with the same value": b'{"model":"a","model":"a"}',
    "with numbers": b'{"a":1,"a":2}',
    "with null": b'{"a":null,"a":null}',
    "three times": b'{"a":1,"a":2,"a":3}',
    "apart": b'{"a":1,"b":2,"c":{},"a":3}',
    "an empty name": b'{"":1,"":2}',
    "one of them escaped": rb'{"model":"a","\u006dodel":"b"}',
    "both of them escaped": rb'{"\u006dodel":"a","mode\u006c":"b"}',
    "escaped in upper and lower case": rb'{"\u006D":1,"\u006d":2}',
    "an escaped slash": rb'{"a/b":1,"a\/b":2}',
    "an escaped quote": rb'{"a\"b":1,"a\u0022b":2}',
    "an escaped backslash": rb'{"a\\b":1,"a\u005cb":2}',
    "a backslash and a quote": rb'{"\\\"":1,"\u005c\u0022":2}',
    "a pair of surrogates": '{"🙂":1,"\\ud83d\\ude42":2}'.encode(),
    "in the options": b'{"model":"m","options":{"seed":1,"seed":2}}',
    "in a schema": b'{"format":{"properties":{"a":{"type":"x","type":"y"}}}}',
    "in an array": b'{"x":[1,{"a":1,"a":2}]}',
    "in an array of arrays": b'{"x":[[[{"b":0},{"a":1,"a":2}]]]}',
    "the dropped one held texts": b'{"a":{"b":"c","d":["e","f"]},"a":1}',
    "the kept one holds texts": b'{"a":1,"a":{"b":"c","d":["e","f"]}}',
    "the texts balance by number of commas": b'{"a":"b","a":"b,c,d"}',
    "a value that is full of quotes": rb'{"a":"\"\"\"\"","a":"\"\"\"\""}',
    "a value that ends in backslashes": rb'{"a":"\\\\","a":"\\"}',
    "a value that looks like the missing name": rb'{"a":"\",\"a\":\"","a":1}',
    "at the deepest level": nested(64, inner="1", kind="dict").replace(b'{"a":1}', b'{"a":1,"a":2}'),
    "inside of a dropped one": b'{"a":{"b":1,"b":2},"a":3}',
}
AMBIGUOUS = {
    "upper case": b'{"MODEL":"m"}',
    "mixed case": b'{"Stream":false}',
    "one letter": b'{"strEam":false}',
    "beside the known one": b'{"model":"a","MODEL":"b"}',
    "long s": body(f'{{"{LONG_S}tream":false}}'),
    "long s, escaped": rb'{"\u017ftream":false}',
    "long s twice": body(f'{{"{LONG_S}y{LONG_S}tem":"x"}}'),
    "Kelvin sign": body(f'{{"{KELVIN}eep_alive":0}}'),
    "Kelvin sign, escaped": rb'{"thin\u212a":true}',
    "Kelvin sign and upper case": body(f'{{"{KELVIN}EEP_ALIVE":0}}'),
    "long s beside the known one": body(f'{{"stream":true,"{LONG_S}tream":false}}'),
    "a known name that begins with an underscore": b'{"_DEBUG_RENDER_ONLY":true}',
    "two spellings of an unknown name": b'{"custom":1,"Custom":2}',
    "two spellings of one that is not ASCII": '{"straße":1,"STRASSE":2}'.encode(),
    "Greek sigmas": '{"σ":1,"ς":2}'.encode(),
    "escaped upper case": rb'{"\u004dodel":"m"}',
}
NUMBERS = {
    "2^53 + 1": b'{"x":9007199254740993}',
    "-2^53 - 1": b'{"x":-9007199254740993}',
    "2^63": b'{"x":9223372036854775808}',
    "2^64 - 1": b'{"x":18446744073709551615}',
    "2^64": b'{"x":18446744073709551616}',
    "-2^63 - 1": b'{"x":-9223372036854775809}',
    "a hundred digits": b'{"x":' + b"9" * 100 + b"}",
    "in the options": b'{"options":{"seed":9007199254740993}}',
    "in an array": b'{"context":[1,2,9007199254740993]}',
    "at the deepest level": nested(64, inner="9007199254740993"),
    "a float beyond 2^53": b'{"x":9007199254740994.0}',
    "1e300": b'{"x":1e300}',
    "minus zero": b'{"x":-0}',
    "minus zero in an array": b'{"x":[1, -0 ,2]}',
    "minus zero at the end of an array": b'{"x":[-0]}',
    "minus zero between texts that hold it too": rb'{"a":"[-0,","x":[-0],"b":"\" -0,"}',
    "minus zero after a text that ends in a backslash": rb'{"a":"\\","x":-0,"b":"\\"}',
}
DEPTHS = {
    "65 arrays": nested(65),
    "65 objects": nested(65, kind="dict"),
    "66 levels": nested(66),
    "65 levels, empty": nested(65, inner=""),
    "500 levels": nested(500),
}
HOSTILE = [
    *((Detail.NOT_JSON, name, text) for name, text in NOT_JSON.items()),
    *((Detail.NOT_AN_OBJECT, name, text) for name, text in NOT_AN_OBJECT.items()),
    *((Detail.DUPLICATE_NAME, name, text) for name, text in DUPLICATES.items()),
    *((Detail.AMBIGUOUS_NAME, name, text) for name, text in AMBIGUOUS.items()),
    *((Detail.NUMBER, name, text) for name, text in NUMBERS.items()),
    *((Detail.DEPTH, name, text) for name, text in DEPTHS.items()),
]


@pytest.mark.parametrize(
    ("detail", "text"),
    [pytest.param(detail, text, id=f"{detail.value}: {name}") for detail, name, text in HOSTILE],
)
def test_a_body_that_ollama_could_read_otherwise_is_not_read(detail, text):
    assert read(text, KNOWN) is detail


READABLE = {
    "plain": b'{"model":"m","prompt":"p"}',
    "empty object": b"{}",
    "white space everywhere": b' \r\n\t{ "model" : "m" ,\n"x" : [ 1 , 2 ] } \n',
    "order does not matter": b'{"prompt":"p","model":"m"}',
    "an unknown name in upper case": b'{"model":"m","CUSTOM":1}',
    "a known name in upper case, deeper down": b'{"options":{"MODEL":1,"model":2,"Model":3}}',
    "long s deeper down": body(f'{{"options":{{"{LONG_S}eed":1,"seed":2}}}}'),
    "a name that only begins like a known one": b'{"Models":1,"STREAMS":2}',
    "the same name on different levels": b'{"a":{"a":{"a":[{"a":1},{"a":2}]}}}',
    "the same text as name and value": b'{"a":"a","b":"a","c":["a","a"]}',
    "escaped name": rb'{"\u006dodel":"m"}',
    "escapes of every kind": rb'{"p":"\"\\\/\b\f\n\r\t\u0000\u00e9\ud83d\ude42"}',
    "quotes in a name": rb'{"a\"b\"":1,"a\"b":2,"a":3}',
    "backslashes at the end of a name": rb'{"a\\":1,"a\\\\":2,"a\\\\\\":3}',
    "a backslash, then a quote, then the end": rb'{"a":"\\\"","b":"\\\\\"","c":"\"\\"}',
    "text that looks like names": rb'{"a":"{\"a\":1,\"a\":2}"}',
    "a quote spelled as an escape": rb'{"a":"\u0022","b":"\u0022\u0022\u0022"}',
    "a backslash spelled as an escape, before the end": rb'{"a":"\u005c","b":"\u005c\u005c"}',
    "a backslash, then letters of an escape": rb'{"a":"\\u0022","b":"\\\\u0022"}',
    "single quotes and braces": b"""{"a":"'}{","b":"][''"}""",
    "delete, no-break space, line separator": '{"a":"\u007f\u00a0\u2028\u2029\ufeff\uffff"}'.encode(),
    "normal forms are different names": '{"\u00e9":1,"e\u0301":2}'.encode(),
    "dotless i is no i": '{"\u0131nput":1,"input":2}'.encode(),
    "full-width letters are others": '{"ｍodel":1,"model":"m"}'.encode(),
    "2^53": b'{"x":9007199254740992,"y":-9007199254740992}',
    "the least of numbers": b'{"x":5e-324,"y":1e-400,"z":-0.0}',
    "minus zero in a text": b'{"prompt":"for x in [1, -0, 2]: -0 ","x":1}',
    "minus zero in a name": b'{" -0,":1}',
    "minus zero in a text with quotes": rb'{"prompt":"\"[-0]\" -0,\\","y":"-0"}',
    "numbers out of range in a text": b'{"prompt":"[7e999,-7e999, NaN, 18446744073709551616]"}',
    "a fraction of many digits": b'{"x":0.1000000000000000055511151231257827}',
    "exponents": b'{"x":1e3,"y":1E+3,"z":1e-3}',
    "64 arrays": nested(64),
    "64 objects": nested(64, kind="dict"),
    "64 levels, empty": nested(64, inner=""),
    "10,000 beside each other": b'{"x":[' + b",".join([b"{}"] * 10_000) + b"]}",
    "values of every kind": b'{"a":null,"b":true,"c":false,"d":1,"e":1.5,"f":"","g":[],"h":{}}',
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in READABLE.items()])
def test_a_body_that_can_only_be_read_one_way_is_read_so(text):
    seen = read(text, KNOWN)
    assert seen == json.loads(text)
    assert list(seen) == list(json.loads(text))


def test_the_order_of_members_is_kept_at_every_level():
    text = b'{"z":{"b":1,"a":2},"a":[{"y":1,"x":2}]}'
    assert json.dumps(read(text, KNOWN), separators=(",", ":")).encode() == text


def test_the_known_names_depend_on_the_endpoint():
    text = b'{"Input":"x"}'
    assert read(text, KNOWN) == {"Input": "x"}
    assert read(text, frozenset({"input"})) is Detail.AMBIGUOUS_NAME


@pytest.mark.parametrize("count", range(13))
@pytest.mark.parametrize(
    "tail", [b"", rb"\"", rb"x\"", rb"\u0022", rb"\u005c"], ids=["", "quote", "x", "u0022", "u005c"]
)
def test_any_run_of_backslashes_leaves_the_count_of_texts_right(count, tail):
    text = rb"\\" * count + tail
    single = b'{"%b1":"%b","%b2":["%b"]}' % ((text,) * 4)
    double = b'{"%b1":"%b","%b1":["%b"]}' % ((text,) * 4)
    assert read(single, KNOWN) == json.loads(single)
    assert read(double, KNOWN) is Detail.DUPLICATE_NAME


NASTY = [
    *('"', "\\", '\\"', "\\\\", "/", "{", "}", "[", "]", ":", ",", "'", "\n", "\t", "\0", "\x7f", " "),
    *(
        "u0022",
        "\\u0022",
        "\\n",
        '","',
        '":"',
        '"}',
        "a",
        "b",
        "é",
        "🙂",
        LONG_S,
        KELVIN,
        "\u2028",
        "\ufeff",
        "\U0010ffff",
    ),
]
SHORT = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
MUST_ESCAPE = {'"', "\\"}


@dataclass
class Object:
    """An object of a document that is to be written: its names may repeat."""

    pairs: list


class Writer:
    """Writes random documents in random spellings."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self, most: int = 6) -> str:
        return "".join(self.random.choices(NASTY, k=self.random.randrange(most)))

    def names(self, count: int) -> list[str]:
        names: dict[str, None] = {}
        while len(names) < count:
            names[self.text()] = None
        return list(names)

    def tree(self, depth: int):
        match self.random.randrange(8 if depth else 5):
            case 0 | 1 | 2:
                return self.text()
            case 3:
                return self.random.choice([None, True, False])
            case 4:
                return self.random.choice([0, -1, 2**53, 0.5, -1e-7])
            case 5:
                return [self.tree(depth - 1) for _ in range(self.random.randrange(4))]
            case _:
                return self.object(self.names(self.random.randrange(4)), depth)

    def object(self, names, depth: int):
        return Object([(name, self.tree(depth - 1)) for name in names])

    def document(self, depth: int = 5):
        """Top-level names cannot be taken for each other or for a known one, whatever the case."""
        names = [f"{number}:{self.text()}" for number in range(self.random.randrange(1, 5))]
        return self.object(names, depth)

    def letter(self, letter: str) -> str:
        choice = self.random.randrange(4)
        if letter in SHORT and choice < 2:
            return SHORT[letter]
        if letter in MUST_ESCAPE or letter < " " or choice == 3:
            units = letter.encode("utf-16-be")
            digits = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
            return "".join(f"\\u{pair.upper() if self.random.random() < 0.5 else pair}" for pair in digits)
        return letter

    def quoted(self, text: str) -> str:
        return '"' + "".join(map(self.letter, text)) + '"'

    def space(self) -> str:
        return self.random.choice(["", "", "", " ", "\n", "\t \r"])

    def spelled(self, node) -> str:
        space = self.space
        match node:
            case str():
                return self.quoted(node)
            case list():
                inner = ",".join(space() + self.spelled(item) + space() for item in node)
                return f"[{inner}]"
            case Object(pairs):
                inner = ",".join(
                    f"{space()}{self.quoted(name)}{space()}:{space()}{self.spelled(value)}{space()}"
                    for name, value in pairs
                )
                return f"{{{inner}}}"
            case _:
                return json.dumps(node)

    def body(self, document) -> bytes:
        return (self.space() + self.spelled(document) + self.space()).encode()


def plain(node):
    match node:
        case Object(pairs):
            return {name: plain(value) for name, value in pairs}
        case list():
            return [plain(item) for item in node]
        case _:
            return node


def objects(node):
    """Every list of pairs in the tree that has a name to repeat."""
    match node:
        case Object(pairs):
            if pairs:
                yield pairs
            for _, value in pairs:
                yield from objects(value)
        case list():
            for item in node:
                yield from objects(item)


@pytest.mark.parametrize("seed", range(20))
def test_no_document_without_a_repeated_name_is_taken_for_one_that_has(seed):
    writer = Writer(seed)
    for _ in range(250):
        document = writer.document()
        text = writer.body(document)
        assert read(text, KNOWN) == plain(document), text


@pytest.mark.parametrize("seed", range(20))
def test_a_repeated_name_is_seen_wherever_it_stands_and_however_it_is_spelled(seed):
    writer = Writer(1000 + seed)
    for _ in range(250):
        document = writer.document()
        pairs = writer.random.choice(list(objects(document)))
        name, _ = writer.random.choice(pairs)
        pairs.insert(writer.random.randrange(len(pairs) + 1), (name, writer.tree(2)))
        text = writer.body(document)
        assert read(text, KNOWN) is Detail.DUPLICATE_NAME, text


def test_the_writer_reaches_deep_and_repeats_at_every_depth():
    def deepest(node) -> int:
        match node:
            case Object(pairs):
                return 1 + max((deepest(value) for _, value in pairs), default=0)
            case list():
                return 1 + max(map(deepest, node), default=0)
            case _:
                return 0

    writer = Writer(0)
    depths = {deepest(writer.document()) for _ in range(500)}
    assert {1, 2, 3, 4, 5} <= depths


def test_every_single_byte_of_a_document_taken_out_is_read_as_json_would_or_not_at_all():
    text = rb'{"model":"m\\","p\"":{"a":[1,"\u0022"],"b":"\\\""},"q":"x\\\\"}'
    for at in range(len(text)):
        shorter = text[:at] + text[at + 1 :]
        seen = read(shorter, KNOWN)
        if isinstance(seen, dict):
            assert seen == json.loads(shorter, object_pairs_hook=without_repeats)


def without_repeats(pairs):
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)
