"""Whether a request carries the admin token; wrong ones are answered late, counted, and logged once a minute.

The right token is compared before anything else, so nobody's guesses delay it. What is told of a wrong one is how many
there were.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from hashlib import sha256
from http import HTTPStatus
from typing import Final, assert_never

from ollama_cache_proxy.core.facts import Observer, OwnRefusal
from ollama_cache_proxy.core.ports import Client, Clock
from ollama_cache_proxy.policy.guesses import WAITS, Guesses, Treatment
from ollama_cache_proxy.policy.messages import Request, first
from ollama_cache_proxy.policy.replies import Reply, error
from ollama_cache_proxy.policy.status import Detail

LINE_EVERY: Final = 60.0
"""Seconds between two log lines."""
_MISSING_OR_WRONG: Final = "the admin token is missing or wrong"
_CHALLENGE: Final = ((b"WWW-Authenticate", b'Bearer realm="ollama-cache-proxy"'),)
_LATER: Final = ((b"Retry-After", b"1"),)


class TokenGuard:
    """Answers requests that lack the token. `say` writes a log line."""

    def __init__(self, *, clock: Clock, observe: Observer, say: Callable[[str], None]) -> None:
        self._guesses = Guesses()
        self._clock = clock
        self._observe = observe
        self._say = say
        self._unsaid = 0
        self._timer: asyncio.TimerHandle | None = None

    async def denial(self, request: Request, client: Client, token: str) -> Reply | None:
        """Return None for a request with the token, else the error: a 401, late after too many, or a 429."""
        given = first(request.fields, b"authorization") or b""
        if _is_right(given, token):
            return None
        if not given:
            return error(HTTPStatus.UNAUTHORIZED, _MISSING_OR_WRONG, _CHALLENGE)
        address = client.address
        treatment = self._guesses.wrong(address, self._clock.monotonic())
        self._count(Detail.TOKEN_GUESSES if treatment is Treatment.REFUSED else Detail.WRONG_TOKEN)
        match treatment:
            case Treatment.AT_ONCE:
                pass
            case Treatment.LATE:
                try:
                    await self._clock.sleep(WAITS)
                finally:
                    self._guesses.waited(address)
            case Treatment.REFUSED:
                client.close_after_response()
                return error(HTTPStatus.TOO_MANY_REQUESTS, "there were too many wrong admin tokens", _LATER)
            case never:
                assert_never(never)
        return error(HTTPStatus.UNAUTHORIZED, _MISSING_OR_WRONG, _CHALLENGE)

    def close(self) -> None:
        """Write the last line, if there is something to tell."""
        if self._timer is not None:
            self._timer.cancel()
            self._tell(more="")

    def _count(self, detail: Detail) -> None:
        self._observe(OwnRefusal(detail=detail))
        self._unsaid += 1
        if self._timer is None:
            self._tell()

    def _tell(self, *, more: str = f"; more are told of in {LINE_EVERY:g} s") -> None:
        """Write a line about those that none was written about, and none for a while; nothing if there are none."""
        count, self._unsaid, self._timer = self._unsaid, 0, None
        if count:
            self._say(f"{'1 request' if count == 1 else f'{count} requests'} with a wrong admin token{more}")
            self._timer = asyncio.get_running_loop().call_later(LINE_EVERY, self._tell) if more else None


def _is_right(given: bytes, token: str) -> bool:
    """Return whether an Authorization field has the token; how long it takes tells nothing of either."""
    scheme, _, credentials = given.partition(b" ")
    same = hmac.compare_digest(sha256(credentials).digest(), sha256(token.encode()).digest())
    return same and scheme.lower() == b"bearer"
