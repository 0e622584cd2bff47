from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ollama_cache_proxy.core.errors import ClientLeft, ProxyError, unreachable
from ollama_cache_proxy.upstream.fleet_uploads import SharedUpload


async def pieces(*given: bytes | ClientLeft | ProxyError) -> AsyncIterator[bytes]:
    for one in given:
        if not isinstance(one, bytes):
            raise one
        yield one


async def test_each_reads_all_in_its_own_time() -> None:
    given = [b"%d" % number for number in range(100)]
    upload = SharedUpload(pieces(*given), 3)

    async def read(number: int) -> list[bytes]:
        found = []
        async for piece in upload.readings[number]:
            found.append(piece)
            if number == 1:
                await asyncio.sleep(0)
        return found

    _, *found = await asyncio.gather(upload.hand_out(), *(read(number) for number in range(3)))
    assert found == [given] * 3


async def test_nobody_gets_far_ahead_of_the_slowest_and_who_stops_holds_up_nobody() -> None:
    given = [b"%d" % number for number in range(100)]
    upload = SharedUpload(pieces(*given), 2)
    fast, slow = upload.readings
    task = asyncio.create_task(upload.hand_out())
    found: list[bytes] = []

    async def read() -> None:
        async for piece in fast:
            found.append(piece)  # noqa: PERF401 - seen as it grows

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    assert len(found) < 10
    assert await anext(slow) == b"0"
    slow.close()
    await asyncio.gather(task, reading)
    assert found == given


async def test_when_all_have_stopped_no_more_is_read() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x"

    upload = SharedUpload(endless(), 2)
    for reading in upload.readings:
        reading.close()
    await upload.hand_out()
    assert read == 1


@pytest.mark.parametrize("failure", [ClientLeft(), unreachable("x")], ids=["left", "too slow"])
async def test_what_breaks_off_breaks_off_for_all(failure: ClientLeft | ProxyError) -> None:
    upload = SharedUpload(pieces(b"a", failure), 2)
    await upload.hand_out()
    for reading in upload.readings:
        assert await anext(reading) == b"a"
        with pytest.raises(type(failure)):
            await anext(reading)
