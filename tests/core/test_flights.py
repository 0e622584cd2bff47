from __future__ import annotations

import asyncio
import gc
import random
from contextlib import ExitStack

import pytest

from ollama_cache_proxy.core.errors import ProxyError, Source, unreachable
from ollama_cache_proxy.core.flights import Flight, Flights, Seat, Tail
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.buffers import Buffers
from ollama_cache_proxy.policy.tickets import Lane
from tests.support.tickets import chat, listed

ABOUT = {"group": "tiny", "hold": Buffers(1 << 40).hold()}


async def turns(count: int = 10) -> None:
    """Let every task run that is ready."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


@pytest.fixture
async def tasks():
    tasks = Tasks()
    yield tasks
    await tasks.close(0)


@pytest.fixture
def flights(tasks):
    return Flights(tasks)


@pytest.fixture
async def reports():
    """What reached the event loop's exception handler."""
    seen: list[dict] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(context))
    yield seen
    loop.set_exception_handler(None)


class Work:
    """Publishes when the test lets it, then goes on as if it stored the response, until the test ends it."""

    def __init__(self) -> None:
        self.calls = 0
        self.begun = asyncio.Event()
        self.may_publish = asyncio.Event()
        self.may_end = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, flight: Flight[str]) -> None:
        self.calls += 1
        self.begun.set()
        try:
            await self.may_publish.wait()
            if self.error is not None:
                raise self.error
            flight.publish("answer")
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def finish(self) -> None:
        self.may_publish.set()
        self.may_end.set()


def doomed(flight: Flight) -> bool:
    """Whether its work has been told to end."""
    return flight._task.cancelling() > 0


def in_flight(flights: Flights) -> int:
    return len(flights._current)


async def landed(flight: Flight) -> None:
    await asyncio.wait([flight._task])
    await turns(2)


async def take_part(flight: Flight[str]) -> str:
    with flight.seat():
        return await flight.response()


# one work for many


@pytest.mark.parametrize("count", [1, 2, 50])
async def test_n_equal_requests_make_one(flights, count):
    work = Work()

    async def client() -> str:
        flight = flights.join("key") or flights.launch("key", work, **ABOUT)
        return await take_part(flight)

    clients = [asyncio.ensure_future(client()) for _ in range(count)]
    await work.begun.wait()
    await turns()
    assert in_flight(flights) == 1
    work.finish()
    assert await asyncio.gather(*clients) == ["answer"] * count
    assert work.calls == 1


async def test_another_key_is_another_flight(flights):
    one, two = Work(), Work()
    first, second = flights.launch("a", one, **ABOUT), flights.launch("b", two, **ABOUT)
    assert flights.join("a") is first
    assert flights.join("b") is second
    assert flights.join("c") is None
    assert in_flight(flights) == 2
    two.finish()
    assert await take_part(second) == "answer"
    assert not one.may_publish.is_set()
    assert not doomed(first)


async def test_a_flight_is_gone_when_its_work_has_ended(flights):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    work.finish()
    assert await take_part(flight) == "answer"
    await landed(flight)
    assert flights.join("key") is None
    assert in_flight(flights) == 0
    assert not flight.joinable


async def test_it_can_be_joined_until_its_work_has_ended_the_store_included(flights):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    work.may_publish.set()
    assert await take_part(flight) == "answer"
    assert flights.join("key") is flight
    assert await take_part(flights.join("key")) == "answer"
    assert not doomed(flight)
    work.may_end.set()
    await landed(flight)
    assert not work.cancelled.is_set()
    assert flights.join("key") is None


async def test_the_clients_that_wait_are_counted(flights):
    shared, alone = Work(), Work()
    flight = flights.launch("key", shared, **ABOUT)
    apart = flights.launch("key", alone, alone=True, **ABOUT)
    assert flights.waiting == 0
    with flight.seat(), apart.seat():
        assert flights.waiting == 1
        with flights.join("key").seat():
            assert flights.waiting == 2
        assert flights.waiting == 1
        shared.finish()
        alone.finish()
        await landed(flight)
        assert flights.waiting == 0


# leaving


async def test_the_first_to_leave_does_not_end_it(flights):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    first, second = flight.seat(), flight.seat()
    with second:
        with first:
            await work.begun.wait()
        assert not doomed(flight)
        assert flights.join("key") is flight
        work.finish()
        assert await flight.response() == "answer"


async def test_the_last_to_leave_ends_it_at_once(flights):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    with ExitStack() as seats:
        for _ in range(3):
            seats.enter_context(flight.seat())
        await work.begun.wait()
        assert not doomed(flight)
    assert doomed(flight)
    assert flights.join("key") is None
    await landed(flight)
    assert work.cancelled.is_set()
    assert in_flight(flights) == 0


async def test_a_client_that_is_cancelled_leaves(flights):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    clients = [asyncio.ensure_future(take_part(flight)) for _ in range(2)]
    await work.begun.wait()
    await turns()
    clients[0].cancel()
    await asyncio.wait([clients[0]])
    assert clients[0].cancelled()
    assert not doomed(flight)
    clients[1].cancel()
    await asyncio.wait([clients[1]])
    assert doomed(flight)
    await work.cancelled.wait()


async def test_a_cancelled_client_takes_the_response_from_no_other(flights):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    clients = [asyncio.ensure_future(take_part(flight)) for _ in range(3)]
    await turns()
    clients[1].cancel()
    await turns()
    work.finish()
    done = await asyncio.gather(*clients, return_exceptions=True)
    assert [done[0], done[2]] == ["answer", "answer"]
    assert isinstance(done[1], asyncio.CancelledError)


async def test_a_client_that_leaves_after_the_response_ends_nothing(flights):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    with flight.seat():
        work.may_publish.set()
        await flight.response()
    assert not doomed(flight)
    assert flight._timer is None
    work.may_end.set()
    await landed(flight)
    assert not work.cancelled.is_set()


async def test_with_a_linger_the_last_to_leave_does_not_end_it_and_it_is_finished(flights):
    work = Work()
    flight = flights.launch("key", work, linger=600, **ABOUT)
    with flight.seat():
        await work.begun.wait()
    assert not doomed(flight)
    assert flights.join("key") is flight
    timer = flight._timer
    assert not timer.cancelled()
    work.finish()
    await landed(flight)
    assert timer.cancelled()
    assert not work.cancelled.is_set()
    assert await flight.response() == "answer"


async def test_after_the_linger_it_is_ended(flights):
    work = Work()
    flight = flights.launch("key", work, linger=0.001, **ABOUT)
    with flight.seat():
        await work.begun.wait()
    await work.cancelled.wait()
    assert flights.join("key") is None
    with pytest.raises(ProxyError):
        await flight.response()


async def test_a_client_that_joins_within_the_linger_keeps_the_flight_going(flights):
    work = Work()
    flight = flights.launch("key", work, linger=600, **ABOUT)
    with flight.seat():
        await work.begun.wait()
    timer = flight._timer
    with flights.join("key").seat():
        assert timer.cancelled()
        assert flight._timer is None
        work.finish()
        assert await flight.response() == "answer"


async def test_the_linger_begins_anew_with_each_last_one(flights):
    work = Work()
    flight = flights.launch("key", work, linger=600, **ABOUT)
    timers = []
    for _ in range(3):
        with flight.seat(), flight.seat():
            assert flight._timer is None
        timers.append(flight._timer)
    assert len(set(timers)) == 3
    assert [timer.cancelled() for timer in timers] == [True, True, False]
    assert not doomed(flight)


# failing


async def test_an_error_goes_to_all_who_wait(flights):
    work = Work()
    work.error = ProxyError(Source.UPSTREAM_DEADLINE, 504, "late")
    flight = flights.launch("key", work, **ABOUT)
    clients = [asyncio.ensure_future(take_part(flight)) for _ in range(5)]
    await turns()
    work.finish()
    outcomes = await asyncio.gather(*clients, return_exceptions=True)
    assert outcomes == [work.error] * 5
    await landed(flight)
    assert in_flight(flights) == 0


async def test_an_error_that_nobody_waits_for_is_no_report(flights, reports):
    work = Work()
    work.error = unreachable("gone")
    flight = flights.launch("key", work, linger=600, **ABOUT)
    with flight.seat():
        await work.begun.wait()
    work.finish()
    await landed(flight)
    del flight, work  # the error's traceback holds the flight
    gc.collect()
    assert reports == []


async def test_a_late_error_does_not_replace_the_response(flights):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    work.may_publish.set()
    assert await take_part(flight) == "answer"
    flight.fail(unreachable("late"))
    flight.end()
    assert await flight.response() == "answer"


async def test_work_that_ends_without_a_response_is_an_error_to_all(flights):
    async def nothing(_flight: Flight[str]) -> None:
        return

    flight = flights.launch("key", nothing, **ABOUT)
    clients = [asyncio.ensure_future(take_part(flight)) for _ in range(3)]
    for outcome in await asyncio.gather(*clients, return_exceptions=True):
        assert isinstance(outcome, ProxyError)
        assert (outcome.source, outcome.status) == (Source.UPSTREAM, 502)


async def test_a_fault_of_the_work_is_an_error_to_all_and_is_reported(flights, reports):
    work = Work()
    work.error = ZeroDivisionError("oops")
    flight = flights.launch("key", work, **ABOUT)
    clients = [asyncio.ensure_future(take_part(flight)) for _ in range(2)]
    await turns()
    work.finish()
    outcomes = await asyncio.gather(*clients, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ProxyError, ProxyError]
    assert [report["exception"] for report in reports] == [work.error]
    assert in_flight(flights) == 0


async def test_when_all_tasks_are_closed_those_who_wait_get_an_error(flights, tasks):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    client = asyncio.ensure_future(take_part(flight))
    await work.begun.wait()
    await tasks.close(0)
    with pytest.raises(ProxyError) as caught:
        await client
    assert caught.value.status == 502
    assert in_flight(flights) == 0


async def test_work_that_is_cancelled_before_its_first_step_is_an_error_to_all(flights, reports):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    flight._task.cancel()
    with pytest.raises(ProxyError):
        await take_part(flight)
    assert work.calls == 0
    assert in_flight(flights) == 0
    assert not flight.joinable
    assert reports == []


async def test_a_seat_taken_and_left_before_the_first_step_ends_the_flight(flights):
    work = Work()
    flight = flights.launch("key", work, **ABOUT)
    with flight.seat():
        pass
    assert flights.join("key") is None
    await landed(flight)
    assert work.calls == 0
    assert in_flight(flights) == 0


# several flights of one key


async def test_a_later_flight_takes_the_place_of_an_earlier(flights):
    one, two = Work(), Work()
    first = flights.launch("key", one, **ABOUT)
    second = flights.launch("key", two, **ABOUT)
    assert flights.join("key") is second
    assert in_flight(flights) == 1
    one.finish()
    assert await take_part(first) == "answer"
    await landed(first)
    assert flights.join("key") is second
    two.finish()
    assert await take_part(second) == "answer"
    await landed(second)
    assert in_flight(flights) == 0


async def test_a_client_of_an_earlier_flight_still_gets_its_response(flights):
    one, two = Work(), Work()
    first = flights.launch("key", one, **ABOUT)
    with first.seat():
        second = flights.launch("key", two, **ABOUT)
        with second.seat():
            two.finish()
            assert await second.response() == "answer"
        assert not doomed(first)
        one.finish()
        assert await first.response() == "answer"


async def test_a_flight_alone_is_joined_by_nobody(flights):
    work = Work()
    flight = flights.launch("key", work, alone=True, **ABOUT)
    assert flights.join("key") is None
    assert in_flight(flights) == 0
    work.finish()
    assert await take_part(flight) == "answer"


async def test_a_flight_alone_takes_nobodys_place(flights):
    one, two = Work(), Work()
    shared = flights.launch("key", one, **ABOUT)
    alone = flights.launch("key", two, alone=True, **ABOUT)
    assert flights.join("key") is shared
    two.finish()
    assert await take_part(alone) == "answer"
    await landed(alone)
    assert flights.join("key") is shared
    assert not doomed(shared)


async def test_a_flight_alone_ends_when_its_client_leaves(flights):
    work = Work()
    flight = flights.launch("key", work, alone=True, **ABOUT)
    with flight.seat():
        await work.begun.wait()
    await work.cancelled.wait()


# a response that is still arriving


class Chunks:
    """Chunks that arrive when the test lets them; `given` counts those that were taken."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self.given = 0
        self._chunks = chunks
        self._error = error

    async def __aiter__(self):
        for chunk in self._chunks:
            self.given += 1
            yield chunk
        if self._error is not None:
            raise self._error


def overflowing(limit: int, source):
    """Work whose response is the tail of `source`."""

    async def work(flight: Flight[Tail]) -> None:
        await turns()  # all who take part do so before
        tail = flight.overflow(limit)
        flight.publish(tail)
        await tail.feed(aiter(source))

    return work


async def read_all(tail: Tail, seat: Seat) -> bytes:
    return b"".join([chunk async for chunk in tail.read(seat)])


# a response that is too large to store


async def test_nobody_may_join_a_response_that_is_not_stored(flights):
    flight = flights.launch("key", overflowing(100, Chunks(b"a" * 10, b"b" * 200, b"c")), **ABOUT)
    with flight.seat() as seat:
        tail = await flight.response()
        assert flights.join("key") is None
        assert await read_all(tail, seat) == b"a" * 10 + b"b" * 200 + b"c"


async def test_every_reader_gets_every_byte_at_its_own_pace(flights):
    chunks = [bytes([number]) * 7 for number in range(60)]
    flight = flights.launch("key", overflowing(20, Chunks(*chunks)), **ABOUT)

    async def client(pause: int) -> bytes:
        with flight.seat() as seat:
            tail = await flight.response()
            got = []
            async for chunk in tail.read(seat):
                got.append(chunk)
                await turns(pause)
            return b"".join(got)

    assert await asyncio.gather(*(client(pause) for pause in (0, 0, 1, 3, 9))) == [b"".join(chunks)] * 5


async def test_the_slowest_reader_bounds_what_is_held(flights):
    limit, size = 100, 10
    source = Chunks(*[bytes([number]) * size for number in range(250)])
    flight = flights.launch("key", overflowing(limit, source), **ABOUT)
    with flight.seat() as fast, flight.seat() as slow:
        tail = await flight.response()
        slow_reader = aiter(tail.read(slow))
        first = await anext(slow_reader)
        assert first == b"\0" * size
        reader = asyncio.ensure_future(read_all(tail, fast))
        await turns(50)
        most = limit // size + 3
        assert source.given <= most
        for step in range(1, 50):
            assert await anext(slow_reader) == bytes([step]) * size
            await turns()
            assert source.given <= step + most
            assert tail._held <= limit + size
        assert not reader.done()
        await slow_reader.aclose()


async def test_a_reader_that_leaves_frees_what_was_held_for_it(flights):
    source = Chunks(*[b"x" * 10] * 100)
    flight = flights.launch("key", overflowing(50, source), **ABOUT)
    with flight.seat() as fast:
        with flight.seat():
            tail = await flight.response()
            reader = asyncio.ensure_future(read_all(tail, fast))
            await turns(50)
            stuck_at = source.given
            await turns(50)
            assert source.given == stuck_at < 100
            assert not reader.done()
        assert await reader == b"x" * 1000
    assert tail._held == 0
    assert not tail._chunks


async def test_when_all_readers_have_left_it_is_ended_even_with_a_linger(flights):
    never = asyncio.Event()

    async def chunks():
        yield b"first"
        await never.wait()

    async def work(flight: Flight[Tail]) -> None:
        tail = flight.overflow(10)
        flight.publish(tail)
        await tail.feed(chunks())

    flight = flights.launch("key", work, linger=600, **ABOUT)
    with flight.seat() as seat:
        tail = await flight.response()
        reader = aiter(tail.read(seat))
        assert await anext(reader) == b"first"
        await reader.aclose()
        assert not doomed(flight)
    assert doomed(flight)
    await landed(flight)
    assert in_flight(flights) == 0


async def test_a_reader_that_waits_wakes_when_a_chunk_comes(flights):
    arriving: asyncio.Queue[bytes] = asyncio.Queue()

    async def chunks():
        while chunk := await arriving.get():
            yield chunk

    async def work(flight: Flight[Tail]) -> None:
        tail = flight.overflow(10)
        flight.publish(tail)
        await tail.feed(chunks())

    flight = flights.launch("key", work, **ABOUT)
    with flight.seat() as seat:
        tail = await flight.response()
        reader = aiter(tail.read(seat))
        for expected in (b"one", b"two", b"three"):
            waiting = asyncio.ensure_future(anext(reader))
            await turns()
            assert not waiting.done()
            arriving.put_nowait(expected)
            assert await waiting == expected
        arriving.put_nowait(b"")
        with pytest.raises(StopAsyncIteration):
            await anext(reader)


async def test_a_reader_that_begins_after_the_end_gets_everything(flights):
    flight = flights.launch("key", overflowing(100, Chunks(b"a", b"b", b"c")), **ABOUT)
    with flight.seat() as seat:
        tail = await flight.response()
        await landed(flight)
        assert tail.ended
        assert await read_all(tail, seat) == b"abc"


async def test_an_error_reaches_every_reader_after_what_was_sent(flights):
    error = unreachable("broke off")
    flight = flights.launch("key", overflowing(100, Chunks(b"a", b"b", error=error)), **ABOUT)

    async def client() -> list:
        got: list = []
        with flight.seat() as seat:
            tail = await flight.response()
            reader = aiter(tail.read(seat))
            try:
                while True:
                    got.append(await anext(reader))
            except ProxyError as seen:
                got.append(seen)
        return got

    assert await asyncio.gather(*(client() for _ in range(3))) == [[b"a", b"b", error]] * 3


async def test_a_fault_within_the_response_is_an_error_to_its_readers_and_is_reported(flights, reports):
    fault = ZeroDivisionError("oops")
    flight = flights.launch("key", overflowing(100, Chunks(b"a", error=fault)), **ABOUT)
    with flight.seat() as seat:
        tail = await flight.response()
        reader = aiter(tail.read(seat))
        assert await anext(reader) == b"a"
        with pytest.raises(ProxyError):
            await anext(reader)
    await landed(flight)
    assert [report["exception"] for report in reports] == [fault]


async def test_readers_of_a_response_whose_request_is_cancelled_get_an_error(flights, tasks):
    never = asyncio.Event()

    async def chunks():
        yield b"a"
        await never.wait()

    async def work(flight: Flight[Tail]) -> None:
        tail = flight.overflow(100)
        flight.publish(tail)
        await tail.feed(chunks())

    flight = flights.launch("key", work, **ABOUT)
    with flight.seat() as seat:
        tail = await flight.response()
        reader = aiter(tail.read(seat))
        assert await anext(reader) == b"a"
        await tasks.close(0)
        with pytest.raises(ProxyError) as caught:
            await anext(reader)
        assert caught.value.status == 502


async def test_an_empty_rest_ends_at_once(flights):
    flight = flights.launch("key", overflowing(100, Chunks()), **ABOUT)
    with flight.seat() as seat:
        assert await read_all(await flight.response(), seat) == b""


@pytest.mark.parametrize("seed", range(20))
async def test_readers_that_come_go_and_tarry_never_lose_a_byte(flights, seed):
    rng = random.Random(seed)
    chunks = [rng.randbytes(rng.randrange(1, 40)) for _ in range(80)]
    limit = rng.choice([1, 30, 200, 10_000])
    largest = max(map(len, chunks))
    flight = flights.launch("key", overflowing(limit, Chunks(*chunks)), **ABOUT)

    async def client(stay: int, paces: list[int]) -> tuple[int, bytes]:
        got = b""
        with flight.seat() as seat:
            tail = await flight.response()
            reader = aiter(tail.read(seat))
            taken = 0
            async for chunk in reader:
                got += chunk
                taken += 1
                assert tail._held <= limit + largest
                if taken == stay:
                    break
                await turns(rng.choice(paces))
            await reader.aclose()
        return stay, got

    plans = [(len(chunks) + 1, [0]), *((rng.randrange(1, 100), [0, 1, 2, 5]) for _ in range(6))]
    for stay, got in await asyncio.gather(*(client(*plan) for plan in plans)):
        assert got == b"".join(chunks[:stay])
    assert (await flight.response())._held == 0


@pytest.mark.parametrize("begin", [Flight.overflow, Flight.stream], ids=["over-large", "stream"])
async def test_a_response_that_begins_when_nobody_is_left_is_ended_even_with_a_linger(flights, begin):
    left = asyncio.Event()
    reached = asyncio.Event()

    async def work(flight: Flight[Tail]) -> None:
        await left.wait()
        flight.publish(begin(flight, 10))
        await turns(1)  # the first chance to be cancelled
        reached.set()

    flight = flights.launch("key", work, linger=600, **ABOUT)
    with flight.seat():
        pass
    left.set()
    await landed(flight)
    assert flight._task.cancelled()
    assert not reached.is_set()


@pytest.mark.parametrize("whole", [False, True], ids=["over-large", "stream"])
@pytest.mark.parametrize(
    ("error", "complete"), [(None, True), (unreachable("broke off"), False)], ids=["to the end", "broken off"]
)
async def test_feed_returns_whether_the_response_was_complete(whole, error, complete):
    tail = Tail(100, set(), retain=whole)
    assert await tail.feed(aiter(Chunks(b"a", b"b", error=error))) is complete
    assert tail.ended


# a stream, which others may join


class Stream:
    """Work whose response is a stream of what the test lets arrive; it then stores it, until the test ends it."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.taken = 0
        self.complete: bool | None = None
        self.tail: Tail | None = None
        self.fed = asyncio.Event()
        self.may_end = asyncio.Event()
        self._arriving: asyncio.Queue[bytes | ProxyError | None] = asyncio.Queue()

    def arrive(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self._arriving.put_nowait(chunk)

    def end(self, error: ProxyError | None = None) -> None:
        self._arriving.put_nowait(error)

    async def _chunks(self):
        while isinstance(item := await self._arriving.get(), bytes):
            self.taken += 1
            yield item
        if item is not None:
            raise item

    async def __call__(self, flight: Flight[Tail]) -> None:
        self.tail = flight.stream(self.limit)
        flight.publish(self.tail)
        self.complete = await self.tail.feed(self._chunks())
        self.fed.set()
        await self.may_end.wait()


def watch(flight: Flight[Tail]) -> asyncio.Task[list]:
    """Take a seat without delay, then everything, chunk by chunk; an error is the last."""
    place = ExitStack()
    seat = place.enter_context(flight.seat())

    async def take() -> list:
        got: list = []
        with place:
            try:
                async for chunk in (await flight.response()).read(seat):
                    got.append(chunk)  # noqa: PERF401 - what came before an error is looked at too
            except ProxyError as error:
                got.append(error)
        return got

    return asyncio.ensure_future(take())


async def test_a_client_that_joins_in_the_middle_of_a_stream_gets_it_from_the_beginning(flights):
    work = Stream()
    flight = flights.launch("key", work, **ABOUT)
    early = watch(flight)
    work.arrive(b"a", b"b")
    await turns()
    assert work.taken == 2
    late = watch(flights.join("key"))
    work.arrive(b"c")
    await turns()
    latest = watch(flights.join("key"))
    work.end()
    assert await asyncio.gather(early, late, latest) == [[b"a", b"b", b"c"]] * 3
    assert work.complete is True


async def test_a_client_that_joins_between_the_end_of_a_stream_and_its_storing_gets_all_of_it(flights):
    work = Stream()
    flight = flights.launch("key", work, **ABOUT)
    early = watch(flight)
    work.arrive(b"a", b"b")
    work.end()
    await work.fed.wait()
    assert await early == [b"a", b"b"]
    assert flight.seats == 0
    assert flights.join("key") is flight
    assert await watch(flights.join("key")) == [b"a", b"b"]
    work.may_end.set()
    await landed(flight)
    assert flights.join("key") is None


async def test_a_client_that_leaves_after_the_end_of_a_stream_does_not_end_its_storing(flights):
    work = Stream()
    flight = flights.launch("key", work, **ABOUT)
    with flight.seat():
        work.end()
        await work.fed.wait()
    assert not doomed(flight)
    work.may_end.set()
    await landed(flight)
    assert not flight._task.cancelled()


async def test_a_client_that_leaves_a_stream_takes_nothing_from_others(flights):
    work = Stream()
    flight = flights.launch("key", work, **ABOUT)
    staying = watch(flight)
    leaving = watch(flight)
    work.arrive(b"a", b"b")
    await turns()
    leaving.cancel()
    await turns()
    assert leaving.cancelled()
    joining = watch(flights.join("key"))
    await turns()
    work.end()
    assert await asyncio.gather(staying, joining) == [[b"a", b"b"]] * 2


async def test_the_last_to_leave_a_stream_ends_it_even_with_a_linger(flights):
    work = Stream()
    flight = flights.launch("key", work, linger=600, **ABOUT)
    first, last = flight.seat(), flight.seat()
    with last as seat:
        with first:
            reader = aiter((await flight.response()).read(seat))
            work.arrive(b"a")
            assert await anext(reader) == b"a"
        assert not doomed(flight)
        assert flights.join("key") is flight
        await reader.aclose()
    assert doomed(flight)
    assert flights.join("key") is None
    await landed(flight)
    assert not work.fed.is_set()
    assert in_flight(flights) == 0


async def test_the_last_to_leave_a_stream_that_is_about_to_end_does_not_end_it(flights):
    work = Stream()
    flight = flights.launch("key", work, **ABOUT)
    reader = watch(flight)
    work.arrive(b"a", b"last")
    await turns()
    flight.linger(600)
    reader.cancel()
    await asyncio.wait([reader])
    assert flight.seats == 0
    assert not doomed(flight)
    late = watch(flights.join("key"))
    assert flight._timer is None
    work.end()
    assert await late == [b"a", b"last"]
    await work.fed.wait()
    assert work.complete is True
    assert not doomed(flight)


async def test_a_stream_that_does_not_end_after_all_is_ended_after_its_linger(flights):
    work = Stream()
    flight = flights.launch("key", work, **ABOUT)
    with flight.seat():
        await flight.response()
        flight.linger(0.001)
    assert flights.join("key") is flight
    await landed(flight)
    assert flight._task.cancelled()
    assert flights.join("key") is None


async def test_an_error_in_the_middle_of_a_stream_reaches_all_after_what_was_sent(flights):
    work = Stream()
    error = unreachable("broke off")
    flight = flights.launch("key", work, **ABOUT)
    early = [watch(flight) for _ in range(2)]
    work.arrive(b"a", b"b")
    await turns()
    late = watch(flights.join("key"))
    work.end(error)
    assert await asyncio.gather(*early, late) == [[b"a", b"b", error]] * 3
    assert work.complete is False


async def test_readers_of_a_stream_whose_request_is_cancelled_get_an_error(flights, tasks):
    work = Stream()
    flight = flights.launch("key", work, **ABOUT)
    reader = watch(flight)
    work.arrive(b"a")
    await turns()
    await tasks.close(0)
    [first, error] = await reader
    assert first == b"a"
    assert (type(error), error.status) == (ProxyError, 502)


async def test_nobody_may_join_a_stream_that_has_outgrown_its_limit(flights):
    work = Stream(limit=10)
    flight = flights.launch("key", work, **ABOUT)
    reader = watch(flight)
    work.arrive(b"a" * 8)
    await turns()
    assert flights.join("key") is flight
    work.arrive(b"b" * 8)
    flight.close(work.tail)
    assert flights.join("key") is None
    assert not doomed(flight)
    work.end()
    assert await reader == [b"a" * 8, b"b" * 8]


async def test_a_stream_that_has_outgrown_its_limit_holds_only_what_someone_still_needs(flights):
    work = Stream(limit=1000)
    flight = flights.launch("key", work, **ABOUT)
    with flight.seat() as fast, flight.seat() as slow:
        tail = await flight.response()
        readers = [aiter(tail.read(seat)) for seat in (fast, slow)]
        work.arrive(*[b"x" * 10] * 5)
        for reader, count in zip(readers, (5, 2), strict=True):
            assert [await anext(reader) for _ in range(count)] == [b"x" * 10] * count
        assert (tail._held, len(tail._chunks)) == (50, 5)
        flight.close(tail)
        assert (tail._held, len(tail._chunks)) == (30, 3)
        assert await anext(readers[1]) == b"x" * 10
        assert (tail._held, len(tail._chunks)) == (20, 2)
        for reader in readers:
            await reader.aclose()


async def test_a_client_that_has_read_nothing_when_a_stream_outgrows_its_limit_gets_all_of_it(flights):
    work = Stream(limit=10)
    flight = flights.launch("key", work, **ABOUT)
    with flight.seat() as seat, flights.join("key").seat() as idle:
        tail = await flight.response()
        work.arrive(b"a" * 8, b"b" * 8)
        reader = aiter(tail.read(seat))
        assert [await anext(reader), await anext(reader)] == [b"a" * 8, b"b" * 8]
        flight.close(tail)
        work.arrive(b"c")
        work.end()
        assert await read_all(tail, idle) == b"a" * 8 + b"b" * 8 + b"c"
        await reader.aclose()


async def test_a_slow_reader_bounds_what_is_taken_after_a_stream_has_outgrown_its_limit_and_not_before(flights):
    work = Stream(limit=50)
    flight = flights.launch("key", work, **ABOUT)
    with flight.seat() as seat:
        tail = await flight.response()
        work.arrive(*[b"x" * 10] * 20)
        await turns(50)
        assert (work.taken, tail._held) == (20, 200)
        flight.close(tail)
        work.arrive(*[b"y" * 10] * 20)
        await turns(50)
        assert (work.taken, tail._held) == (21, 200)
        reader = aiter(tail.read(seat))
        for _ in range(15):
            await anext(reader)
            await turns()
        assert (work.taken, tail._held) == (22, 60)
        work.end()
        assert [chunk async for chunk in reader] == [b"x" * 10] * 5 + [b"y" * 10] * 20
    assert work.taken == 40


async def test_a_stream_that_outgrows_its_limit_when_nobody_is_behind_goes_on_at_once(flights):
    work = Stream(limit=10)
    flight = flights.launch("key", work, **ABOUT)
    reader = watch(flight)
    work.arrive(*[b"x" * 10] * 5)
    await turns()
    flight.close(work.tail)
    assert work.tail._held == 0
    work.arrive(*[b"x" * 10] * 5)
    work.end()
    assert await reader == [b"x" * 10] * 10
    assert work.complete is True


@pytest.mark.parametrize("seed", range(20))
async def test_readers_that_join_and_leave_a_stream_at_any_time_never_lose_a_byte(flights, seed):
    rng = random.Random(seed)
    chunks = [rng.randbytes(rng.randrange(1, 40)) for _ in range(80)]
    outgrown_at = rng.choice([0, 10, 40, 70, 200])
    work = Stream(limit=rng.choice([1, 30, 200]))
    flight = flights.launch("key", work, **ABOUT)

    def client(stay: int, paces: list[int]) -> asyncio.Task[tuple[int, bytes]]:
        place = ExitStack()
        return asyncio.ensure_future(read(place, place.enter_context(flight.seat()), stay, paces))

    async def read(place: ExitStack, seat: Seat, stay: int, paces: list[int]) -> tuple[int, bytes]:
        got, taken = b"", 0
        with place:
            reader = aiter((await flight.response()).read(seat))
            async for chunk in reader:
                got += chunk
                taken += 1
                if taken == stay:
                    break
                await turns(rng.choice(paces))
            await reader.aclose()
        return stay, got

    clients = [client(len(chunks) + 1, [0, 1])]
    await flight.response()
    for number, chunk in enumerate(chunks):
        if number == outgrown_at:
            flight.close(work.tail)
        joined = flights.join("key")
        assert (joined is flight) is (number < outgrown_at)
        if joined is not None and rng.random() < 0.2:
            clients.append(client(rng.randrange(1, 100), [0, 1, 2, 5]))
        work.arrive(chunk)
        await turns(rng.choice([0, 1, 2]))
    work.end()
    for stay, got in await asyncio.gather(*clients):
        assert got == b"".join(chunks[:stay])
    await work.fed.wait()
    assert work.tail._held == (0 if outgrown_at < len(chunks) else sum(map(len, chunks)))


async def test_a_linger_that_runs_out_while_the_response_is_stored_ends_nothing(flights):
    """What would be left half done is deleting an entry that was withdrawn meanwhile."""
    work = Stream()
    flight = flights.launch("key", work, **ABOUT)
    reader = watch(flight)
    work.arrive(b"last")
    await turns()
    flight.linger(600)
    reader.cancel()
    await asyncio.wait([reader])
    assert not doomed(flight)
    work.end()
    await work.fed.wait()
    flight._expire()  # as its timer does, at a moment that no slow machine can shift
    assert not doomed(flight)
    work.may_end.set()
    await landed(flight)
    assert not flight._task.cancelled()


async def test_a_reader_that_holds_up_others_is_left_behind(flights, monkeypatch):
    monkeypatch.setattr("ollama_cache_proxy.core.flights.PATIENCE", 0.01)
    work = Stream(limit=10)
    flight = flights.launch("key", work, **ABOUT)
    reader = watch(flight)
    with flight.seat() as stalled:
        work.arrive(b"a" * 8)
        await turns()
        flight.close(work.tail)
        work.arrive(*[b"b" * 8] * 20)
        work.end()
        assert await reader == [b"a" * 8, *[b"b" * 8] * 20]
        assert stalled.late
        with pytest.raises(ProxyError, match="too slowly"):
            await anext(work.tail.read(stalled))
    assert work.complete is True


async def test_a_slow_reader_that_holds_up_nobody_has_all_the_time(flights, monkeypatch):
    monkeypatch.setattr("ollama_cache_proxy.core.flights.PATIENCE", 0.001)
    work = Stream(limit=10)
    flight = flights.launch("key", work, **ABOUT)
    with flight.seat() as alone:
        await flight.response()
        flight.close(work.tail)
        work.arrive(*[b"a" * 8] * 20)
        work.end()
        await asyncio.sleep(0.01)
        assert work.taken < 5
        assert not work.fed.is_set()
        assert [chunk async for chunk in work.tail.read(alone)] == [b"a" * 8] * 20


@pytest.mark.parametrize(
    ("waiting", "begun", "goes_on"), [(True, False, False), (True, True, True), (False, True, True)]
)
async def test_a_flight_lingers_only_if_something_was_done_for_it(flights, waiting, begun, goes_on):
    work, ticket = Work(), listed()
    ticket.waiting, ticket.begun = waiting, begun
    with flights.launch("key", work, linger=60.0, ticket=ticket, **ABOUT).seat():
        await work.begun.wait()
    await turns()
    assert work.cancelled.is_set() is not goes_on
    assert (flights.join("key") is not None) is goes_on


async def test_a_flight_waits_as_the_most_urgent_of_those_who_join_it(flights):
    ticket = listed()
    ticket.waited_in_all = 2.5
    flight = flights.launch("key", Work(), ticket=ticket, **ABOUT)
    flight.raise_for(None)
    flight.raise_for(listed())
    assert ticket.lane is Lane.BATCH
    flight.raise_for(chat())
    assert ticket.lane is Lane.INTERACTIVE
    assert flight.waited == 2.5
    plain = flights.launch("other", Work(), **ABOUT)
    plain.raise_for(chat())
    assert plain.waited == 0
