"""A folder of logged requests as Ollama writes it (`server/inference_request_log.go`, the same from 0.18.3 to 0.34.3).

The folder has mode 0700. Of each request it gets two files of mode 0600 when the response has ended: the body byte for
byte, and a script that sends it again with curl. Both names begin with the time in UTC to nanoseconds, a Z, a hyphen, a
count of six digits or more, and the route with an underscore for whatever is neither a letter nor a digit.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROUTES = (*("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),)
"""The routes of which Ollama logs requests; those of embeddings are not among them."""


class OllamaLog:
    """Writes what Ollama would."""

    def __init__(self, parent: Path) -> None:
        self.folder = parent / "ollama-request-logs-2718281828"
        self.folder.mkdir(mode=0o700)
        self._count = 0

    def log(self, route: str, body: bytes | dict[str, Any]) -> Path:
        """Log one request; return where its body is."""
        self._count += 1
        beginning = f"20261129T120000.{self._count:09}Z-{self._count:06}_{re.sub('[^a-zA-Z0-9]', '_', route[1:])}"
        logged = self.folder / f"{beginning}_body.json"
        logged.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
        logged.chmod(0o600)
        script = self.folder / f"{beginning}_request.sh"
        script.write_text(
            '#!/bin/sh\nSCRIPT_DIR="$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)"\n'
            f'curl --request POST --url "http://127.0.0.1:11434{route}" --header "Content-Type: application/json"'
            f' --data-binary @"${{SCRIPT_DIR}}/{logged.name}"\n',
            "utf-8",
        )
        script.chmod(0o600)
        return logged
