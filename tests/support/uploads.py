"""Multipart bodies as clients write them."""

from __future__ import annotations

AUDIO = b"RIFF\x24\x00\x00\x00WAVEfmt \xff\xfe\r\n--\x00\x01"
BOUNDARY = "0f3e-boundary"


def content_type(boundary: str = BOUNDARY) -> tuple[bytes, bytes]:
    return (b"Content-Type", f"multipart/form-data; boundary={boundary}".encode())


def part(disposition: str, content: bytes, *fields: str) -> bytes:
    lines = (f"Content-Disposition: form-data; {disposition}", *fields)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + content + b"\r\n"


def body(*parts: bytes, boundary: str = BOUNDARY) -> bytes:
    return b"".join(b"--%b\r\n%b" % (boundary.encode(), each) for each in parts) + f"--{boundary}--\r\n".encode()


def value(name: str, text: str) -> bytes:
    return part(f'name="{name}"', text.encode())


def audio(content: bytes = AUDIO, filename: str = "a.wav") -> bytes:
    return part(f'name="file"; filename="{filename}"', content, "Content-Type: audio/wav")


def upload(model: str = "m", boundary: str = BOUNDARY, **more: str) -> bytes:
    """The body of a request for a transcription."""
    texts = {"model": model, **more}
    return body(audio(), *(value(name, text) for name, text in texts.items()), boundary=boundary)
