"""POST /v1/audio/transcriptions: a multipart form whose file a model hears, as in middleware/openai.go (0.24, 0.33).

The form's temperature is not read: it is always 0. `verbose_json` is as `json`. The head is that of a stream of lines,
since it is sent with the first token; the content comes at the end, and not at all if the model crashes.
"""

from __future__ import annotations

from email.message import Message
from email.parser import BytesParser

from ollama_cache_proxy.simulator import wire
from ollama_cache_proxy.simulator.call import Call
from ollama_cache_proxy.simulator.complete import Reply, Wanted, complete
from ollama_cache_proxy.simulator.openai_routes import error_row
from ollama_cache_proxy.simulator.rendering import Turn


class TranscriptionForm:
    """Replies as the text that was heard, alone or as a member."""

    stream_type = whole_type = wire.NDJSON
    error_type = wire.BARE_JSON

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain
        self._text = ""

    def whole(self, reply: Reply) -> bytes:
        """Return the text, or the object with it and a newline."""
        text = (self._text + reply.text).strip()
        return text.encode() if self._plain else wire.dumps({"text": text}).encode() + b"\n"

    def events(self, reply: Reply) -> list[bytes]:
        """Return the whole response at the end, and nothing before."""
        if reply.done:
            return [self.whole(reply)]
        self._text += reply.text
        return []

    def error(self, status: int, message: str) -> bytes:
        """Return the error and a newline."""
        return wire.dumps(error_row(status, message)).encode() + b"\n"


def _form(call: Call) -> dict[str, tuple[str | None, bytes]] | None:
    """Return the parts by name, each with its file name and content, of several the first; None for another body."""
    kind = call.header("Content-Type")
    parsed = BytesParser().parsebytes(b"Content-Type: " + kind.encode("latin-1", "replace") + b"\r\n\r\n" + call.body)
    if parsed.get_content_type() != "multipart/form-data" or not parsed.is_multipart() or parsed.defects:
        return None
    form: dict[str, tuple[str | None, bytes]] = {}
    for part in parsed.walk():
        name = part.get_param("name", header="Content-Disposition")
        if isinstance(name, str) and not part.is_multipart():
            form.setdefault(name, (part.get_filename(), _content(part)))
    return form


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


async def transcriptions(call: Call) -> None:
    """POST /v1/audio/transcriptions."""
    form = _form(call)
    texts = {name: content.decode("utf-8", "replace") for name, (file, content) in (form or {}).items() if file is None}
    file, audio = (form or {}).get("file", (None, b""))
    refusal = (
        "failed to parse multipart form: it is none" if form is None
        else "model is required" if not texts.get("model")
        else "file is required: http: no such file" if file is None
        else "audio file is empty" if not audio
        else ""
    )  # fmt: skip
    if refusal:
        call.json(400, error_row(400, refusal))
        return
    asked = " ".join(("Write down what is said.", texts.get("language", ""), texts.get("prompt", "")))
    wanted = Wanted(
        model=texts["model"],
        turns=(Turn(role="system", text=asked), Turn(role="user", text="What is said?", images=(audio,))),
        chat=True,
        stream=True,
        options={"temperature": 0},
    )
    await complete(call, wanted, TranscriptionForm(plain=texts.get("response_format") == "text"))
