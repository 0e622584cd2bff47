"""What the commands ask of Ollama or of a proxy, over HTTP; every failure is a CommandError of one line."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import orjson

from proxy.cli.work import WRONG, CommandError
from proxy.settings import Settings, chosen_upstream, host_and_port, http_url, load
from proxy.toolbox.levels import same

_ERRORS: Final = 400
_LONGEST_LINE: Final = 1 << 20
_START_OLLAMA: Final = "start it (ollama serve), or name another with --upstream"
_START_PROXY: Final = "start it (ollama-cache-proxy serve), or name another with --url"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer; `seconds` to its last byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One server; `who` it is and what to do where it cannot be reached are for messages."""

    session: aiohttp.ClientSession
    url: str
    who: str
    remedy: str
    headers: Mapping[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Give an answer of any status; `body` is JSON to be, or bytes as they are."""
        data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        begun = time.perf_counter()
        try:
            async with self.session.request(
                method, self.url + path, data=data, headers={**self.headers, **(headers or {})}
            ) as response:
                whole = await response.read()
                seconds = time.perf_counter() - begun
                return Answer(status=response.status, headers=response.headers, body=whole, seconds=seconds)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from None

    async def json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Give a JSON object from an answer that is none of an error."""
        answer = await self.ask(method, path, body)
        if answer.status >= _ERRORS:
            raise CommandError(f"{self._named()} answers {path} with {_reason(answer.status, answer.body)}")
        try:
            document = orjson.loads(answer.body or b"{}")
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            raise CommandError(
                f"{self._named()} answers {path} with something that is no JSON object: is it the right URL?"
            )
        return document

    async def rows(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Give the lines of a stream as they come; an error, also one in its midst, is a CommandError."""
        try:
            async with self.session.post(
                self.url + path, data=orjson.dumps(body), headers={**self.headers, **(headers or {})}
            ) as response:
                if response.status >= _ERRORS:
                    reason = _reason(response.status, await response.read())
                    raise CommandError(f"{self._named()} answers {path} with {reason}")
                async for line in response.content:
                    row = orjson.loads(line)
                    if "error" in row:
                        raise CommandError(f"{self._named()} broke {path} off: {row['error']}")
                    yield row
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from None
        except (orjson.JSONDecodeError, ValueError):
            raise CommandError(f"{self._named()} answers {path} with lines that are no JSON") from None

    def _named(self) -> str:
        return f"{self.who} at {self.url}"

    def _unreachable(self, error: Exception) -> CommandError:
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ServerTimeoutError):
            return CommandError(f"{self._named()} cannot be reached: {self.remedy}")
        return CommandError(f"{self._named()} broke the connection off: see its log, then try again")


def _reason(status: int, body: bytes) -> str:
    """Give the reason of an error answer, as Ollama and the proxy write it."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    error = document.get("error") if isinstance(document, dict) else None
    return f"{status}: {error}" if isinstance(error, str) else f"status {status}"


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session that waits as long as a model takes."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, read_bufsize=_LONGEST_LINE, raise_for_status=False
    ) as opened:
        yield opened


def ollama(opened: aiohttp.ClientSession, url: str | None) -> Api:
    """Give the Ollama of `--upstream`, else that which `serve` would take; raises SettingsError."""
    settings = load(None, {"upstream": url})
    return Api(session=opened, url=chosen_upstream(settings, settings.listen)[0], who="Ollama", remedy=_START_OLLAMA)


def proxy(opened: aiohttp.ClientSession, url: str | None) -> Api:
    """Give the proxy of `--url`, else the one that `serve` would start; raises SettingsError and CommandError."""
    settings = load(None, {})
    try:
        chosen = http_url(url) if url is not None else _own(settings)
    except ValueError as error:
        raise CommandError(f"url: {url!r} is not allowed: {error}", WRONG) from None
    return Api(session=opened, url=chosen, who="The proxy", remedy=_START_PROXY)


def admin(settings: Settings) -> dict[str, str]:
    """Give the header that allows changes, where a token is set."""
    token = settings.admin_token
    return {"Authorization": f"Bearer {token.get_secret_value().strip()}"} if token is not None else {}


def _own(settings: Settings) -> str:
    host, port = host_and_port(settings.listen)
    host = "127.0.0.1" if host in ("", "0.0.0.0") else "::1" if host == "::" else host  # noqa: S104 - compared
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


async def installed(api: Api) -> list[dict[str, Any]]:
    """Give the rows of /api/tags."""
    models = (await api.json("GET", "/api/tags")).get("models")
    return models if isinstance(models, list) else []


async def row_of(api: Api, model: str) -> dict[str, Any]:
    """Give the row of a model in /api/tags."""
    rows = await installed(api)
    found = next((row for row in rows if same(str(row.get("name")), model)), None)
    if found is None:
        have = ", ".join(sorted(str(row.get("name")) for row in rows)) or "none at all"
        raise CommandError(f"{api.who} at {api.url} has no model {model!r}: ollama pull it, or take one it has: {have}")
    return found
