"""What is used of aiohttp beyond what it promises, so that a new minor version shows here what it changes."""

from __future__ import annotations

import ast
import asyncio
import inspect
import tomllib
from collections import deque
from pathlib import Path
from types import MemberDescriptorType, NoneType

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpRequestParser

from ollama_cache_proxy.downstream.client_connection import ClientConnection, Written
from ollama_cache_proxy.upstream.connections import Connection

PRIVATE: dict[str, tuple[type, str]] = {
    "_messages": (deque, "how many requests the parser began to give with what it was fed last, and the first of them: its public ways tell of a request when its turn comes, which is too late to know whether a connection is idle"),
    "_parser": (HttpRequestParser, "a head that it refuses, and Go's server takes, is read once more in its plain form"),
    "_waiter": (NoneType, "whether its loop waits for a request, so that only a connection that is idle is closed to make room"),
    "_next_keepalive_close_time": (float, "a hit that is answered before the parser counts as use of its connection: else that would be closed under a client that only hits"),
}  # fmt: skip
"""Private names of `web.RequestHandler`: of which kind each is, and what it is needed for."""


async def bases() -> dict[type, object]:
    """Give our classes that extend aiohttp's, and one object of what each extends."""
    loop = asyncio.get_running_loop()
    return {
        ClientConnection: web.RequestHandler(web.Server(web.Response), loop=loop),  # type: ignore[arg-type]
        Connection: ResponseHandler(loop),
        Written: web.StreamResponse(),
    }


def private(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def used(kind: type) -> set[str]:
    """Give the private names that a class uses of itself."""
    nodes = ast.walk(ast.parse(inspect.getsource(kind)))
    return private({node.attr for node in nodes if isinstance(node, ast.Attribute)})


async def test_the_private_names_are_there_and_of_their_kind() -> None:
    handler = (await bases())[ClientConnection]
    for name, (kind, _) in PRIVATE.items():
        assert isinstance(getattr(web.RequestHandler, name), MemberDescriptorType), name
        assert type(getattr(handler, name)) is kind, name


async def test_no_other_private_names_are_used_and_none_is_taken_for_another() -> None:
    found = {
        kind: used(kind) & private({*dir(base), *getattr(base, "__dict__", ())}) for kind, base in (await bases()).items()
    }  # fmt: skip
    assert found == {ClientConnection: set(PRIVATE), Connection: set(), Written: set()}
    ours = private(set(ClientConnection.__slots__))
    assert used(ClientConnection) >= ours
    assert not ours & PRIVATE.keys()


async def test_the_parser_gives_a_request_when_it_is_fed_the_end_of_its_head() -> None:
    """That is what `_messages` is read for, before and after."""
    handler = (await bases())[ClientConnection]
    assert isinstance(handler, web.RequestHandler)
    head = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
    for data, count, ended in (
        (head[:-1], 0, None),
        (head[-1:], 1, False),
        (b"hel", 1, False),
        (b"lo" + head, 2, True),
    ):
        handler.data_received(data)
        assert len(handler._messages) == count
        assert ended is None or handler._messages[0][1].is_eof() is ended


@pytest.mark.parametrize("kind", [web.RequestHandler, ResponseHandler])
def test_reading_and_writing_are_paused_by_methods_that_can_be_extended(kind: type) -> None:
    """So we know of it without the flags that these keep."""
    for name in ("pause_reading", "resume_reading", "pause_writing", "resume_writing"):
        assert inspect.isfunction(getattr(kind, name))


def test_the_version_is_held_to_the_minor_one_whose_names_these_are() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    major, minor = aiohttp.__version__.split(".")[:2]
    assert f"aiohttp>={major}.{minor},<{major}.{int(minor) + 1}" in project["dependencies"]
