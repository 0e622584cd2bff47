from __future__ import annotations

from hashlib import sha256

import pytest

from ollama_cache_proxy.policy.endpoints import find
from ollama_cache_proxy.policy.multipart import read, read_in_steps
from ollama_cache_proxy.policy.status import Detail
from tests.support.uploads import AUDIO, BOUNDARY, audio, body, content_type, part, upload, value

KNOWN = find("POST", "/v1/audio/transcriptions")[0].known
FILE = {"filename": "a.wav", "type": "audio/wav", "size": len(AUDIO), "sha256": sha256(AUDIO).hexdigest()}
TYPE = content_type()
MODEL = value("model", "tiny")


def of(*parts: bytes) -> object:
    return read((TYPE,), body(*parts), KNOWN)


def test_a_plain_upload_is_read_by_its_parts():
    assert read((TYPE,), upload("tiny", language="de", prompt="caf\u00e9", response_format="text"), KNOWN) == {
        "model": "tiny",
        "file": FILE,
        "language": "de",
        "prompt": "caf\u00e9",
        "response_format": "text",
    }


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        (b"multipart/form-data; boundary=x", "x"),
        (b"Multipart/Form-Data;Boundary=x", "x"),
        (b'multipart/form-data; boundary="x"', "x"),
        (b'multipart/form-data; boundary="=_1(2)?"', "=_1(2)?"),
        (b"multipart/form-data; boundary=----WebKitFormBoundaryQ7", "----WebKitFormBoundaryQ7"),
        (b"multipart/form-data; boundary=------------------------2f1e", "------------------------2f1e"),
        (b"multipart/form-data; boundary=----formdata-undici-0123", "----formdata-undici-0123"),
        (b"multipart/form-data; boundary=" + b"b" * 70, "b" * 70),
    ],
    ids=repr,
)
def test_the_boundary_is_the_clients_choice_and_in_no_key(kind, boundary):
    assert read(((b"content-type", kind),), upload("tiny", boundary), KNOWN) == {"file": FILE, "model": "tiny"}


@pytest.mark.parametrize(
    "types",
    [
        (),
        (b"application/json",),
        (b"multipart/form-data",),
        (b"multipart/mixed; boundary=x",),
        (b"multipart/form-data; boundary=",),
        (b"multipart/form-data; boundary=x; charset=utf-8",),
        (b"multipart/form-data; charset=utf-8; boundary=x",),
        (b"multipart/form-data; boundary=x; boundary=x",),
        (b"multipart/form-data; boundary*=utf-8''x",),
        (b"multipart/form-data; boundary=x y",),
        (b'multipart/form-data; boundary="x y"',),
        (b'multipart/form-data; boundary="x\\y"',),
        (b"multipart/form-data; boundary=x-",),
        (b"multipart/form-data; boundary=" + b"b" * 71,),
        (b"multipart/form-data; boundary=x", b"multipart/form-data; boundary=x"),
    ],
    ids=repr,
)
def test_a_content_type_that_is_in_doubt(types):
    lines = tuple((b"Content-Type", kind) for kind in types)
    for boundary in ("x", "x-", "x y", "x\\y", "b" * 71):
        assert read(lines, upload("tiny", boundary), KNOWN) is Detail.MULTIPART


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (part("name=model", b"tiny"), {"model": "tiny"}),
        (part('name="model"', b""), {"model": ""}),
        (part('name="prompt"', b"a\r\nb\n"), {"prompt": "a\r\nb\n"}),
        (part('name="prompt"', b"\r\n\r\n"), {"prompt": "\r\n\r\n"}),
        (part('name="prompt"', b"-- x --\r\n-"), {"prompt": "-- x --\r\n-"}),
        (
            part('name="language"', b"de", "Content-Type: text/plain; charset=utf-8"),
            {"language": "de", "language:type": "text/plain; charset=utf-8"},
        ),
        (
            b'content-type: a/b\r\ncontent-disposition: form-data; name="model"\r\n\r\nx\r\n',
            {"model": "x", "model:type": "a/b"},
        ),
        (
            part('name="file"; filename="caf\u00e9 1.wav"', AUDIO),
            {"file": FILE | {"filename": "caf\u00e9 1.wav", "type": None}},
        ),
        (part("name=file; filename=a.wav", AUDIO, "Content-Type: audio/wav"), {"file": FILE}),
        (
            part('name="model"; filename="x"', b"tiny"),
            {"model": {"filename": "x", "type": None, "size": 4, "sha256": sha256(b"tiny").hexdigest()}},
        ),
    ],
    ids=repr,
)
def test_a_part(one, expected):
    assert of(one) == expected


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(part('name="temperature"', b"0"), id="unknown"),
        pytest.param(part('name="stream"', b"true"), id="a stream, which Ollama does not know"),
        pytest.param(part('name="Model"', b"tiny"), id="in another case"),
        pytest.param(part('name=""', b"tiny"), id="without a name"),
        pytest.param(part('name="timestamp_granularities[]"', b"word"), id="a list"),
        pytest.param(part('name="prompt"', b"x", "Content-Transfer-Encoding: quoted-printable"), id="encoded"),
        pytest.param(part('name="prompt"', b"x", "Content-Transfer-Encoding: binary"), id="encoded as it is"),
        pytest.param(part('name="prompt"', b"x", "Content-Length: 1"), id="another field"),
        pytest.param(part('name="prompt"', b"x", "Content-Type: a/b", "Content-Type: a/b"), id="a field twice"),
        pytest.param(part('name="prompt"', b"x", 'Content-Disposition: form-data; name="language"'), id="two names"),
        pytest.param(part('name="prompt"; filename="a"; filename*=utf-8\'\'b', b"x"), id="two names of the file"),
        pytest.param(part('name="prompt"; filename="a\\"b"', b"x"), id="an escape in the file's name"),
        pytest.param(part('name="prompt"; filename=""', b"x"), id="an empty file's name"),
        pytest.param(part('filename="a"; name="prompt"', b"x"), id="another order"),
        pytest.param(part('name="prompt"; name="language"', b"x"), id="a parameter twice"),
        pytest.param(part('name="prompt"', b"x", "Content-Type: a/b\r\n folded"), id="a folded line"),
        pytest.param(part('name="prompt"', b"x", "Content-Type: a\tb"), id="a control character"),
        pytest.param(b'Content-Disposition : form-data; name="prompt"\r\n\r\nx\r\n', id="a blank before the colon"),
        pytest.param(b'Content-Disposition: form-data; name="prompt"\n\nx\r\n', id="bare line feeds"),
        pytest.param(b'Content-Disposition: attachment; name="prompt"\r\n\r\nx\r\n', id="no form-data"),
        pytest.param(b"Content-Type: a/b\r\n\r\nx\r\n", id="without a disposition"),
        pytest.param(b"\r\nx\r\n", id="without a head"),
        pytest.param(b"x\r\n", id="without a blank line"),
        pytest.param(part(f'name="prompt"; filename="{"a" * 1100}"', b"x"), id="a long head"),
        pytest.param(part('name="prompt"', b"\xff"), id="no UTF-8"),
        pytest.param(
            part('name="prompt"; filename="', b"x").replace(b'="\r', b'="\xff"\r'), id="a file's name in Latin-1"
        ),
        pytest.param(part('name="model"', b"other"), id="a part twice"),
        pytest.param(part('name="prompt"', f"--{BOUNDARY}".encode()), id="the boundary in the content"),
        pytest.param(part('name="prompt"', f"\n--{BOUNDARY}\n".encode()), id="the boundary after a line feed"),
        pytest.param(part('name="prompt"', f"\r\n--{BOUNDARY}x".encode()), id="the boundary with more"),
        pytest.param(part('name="prompt"; filename="--' + BOUNDARY + '"', b"x"), id="the boundary in a head"),
    ],
)
def test_a_part_that_is_in_doubt(one):
    assert of(MODEL) == {"model": "tiny"}
    assert of(MODEL, one) is Detail.MULTIPART
    assert of(one, MODEL) is Detail.MULTIPART


GOOD = body(MODEL, audio())


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"preamble\r\n" + GOOD, id="a preamble"),
        pytest.param(b"\r\n" + GOOD, id="an empty preamble"),
        pytest.param(GOOD + b"epilogue", id="an epilogue"),
        pytest.param(GOOD + b"\r\n", id="an empty epilogue"),
        pytest.param(GOOD + GOOD, id="two bodies"),
        pytest.param(GOOD[:-4], id="no end"),
        pytest.param(GOOD[: len(GOOD) // 2], id="half of it"),
        pytest.param(GOOD.replace(b"\r\n", b"\n"), id="line feeds"),
        pytest.param(
            GOOD.replace(BOUNDARY.encode() + b"\r\n", BOUNDARY.encode() + b" \r\n"), id="blanks at the boundary"
        ),
        pytest.param(f"--{BOUNDARY}--\r\n".encode(), id="no part"),
        pytest.param(f"--{BOUNDARY}\r\n--{BOUNDARY}--\r\n".encode(), id="an empty part"),
        pytest.param(b'{"model":"tiny"}', id="JSON"),
    ],
)
def test_a_body_that_is_in_doubt(broken):
    assert read((TYPE,), GOOD, KNOWN) == {"model": "tiny", "file": FILE}
    assert read((TYPE,), GOOD[:-2], KNOWN) == {"model": "tiny", "file": FILE}
    assert read((TYPE,), broken, KNOWN) is Detail.MULTIPART


def test_more_parts_than_can_be_known_are_not_read_at_all():
    assert of(*([MODEL] * 100_000)) is Detail.MULTIPART


def test_cut_off_anywhere_it_is_in_doubt():
    assert all(read((TYPE,), GOOD[:length], KNOWN) is Detail.MULTIPART for length in range(len(GOOD) - 2))


def test_a_large_upload_is_hashed_in_steps():
    content = bytes(range(256)) * (12 << 10)
    whole = upload("tiny").replace(AUDIO, content)
    assert len(list(read_in_steps((TYPE,), whole, KNOWN))) >= 5
    file = FILE | {"size": len(content), "sha256": sha256(content).hexdigest()}
    assert read((TYPE,), whole, KNOWN) == {"model": "tiny", "file": file}
