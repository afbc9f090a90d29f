"""The load generator against a server that does what it is told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bench.http import Request
from bench.load import ClosedLoop, Exchange, Expected, OpenLoop, Outcome, Tally, quantile

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-pointsman-replica: r1\r\nx-pointsman-reason: hash\r\n\r\nok"
BODY = b'{"messages":[]}'
REACH_S = 10.0

Answer = Callable[[asyncio.StreamWriter], None]


@asynccontextmanager
async def answering(*answers: Answer) -> AsyncIterator[int]:
    """A server that gives one answer after another, then the last for ever; its port."""
    each = itertools.chain(answers, itertools.repeat(answers[-1]))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(BODY))
                next(each)(writer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def writes(data: bytes) -> Answer:
    return lambda writer: writer.write(data)


def writes_and_closes(data: bytes) -> Answer:
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    return answer


def requests() -> itertools.cycle[Request]:
    return itertools.cycle([Request.post("/v1/chat/completions", BODY)])


async def exchanges(count: int, make: Callable[[Callable[[Exchange], None]], ClosedLoop | OpenLoop]) -> list[Exchange]:
    """The first exchanges of a load."""
    seen: list[Exchange] = []
    enough = asyncio.Event()

    def record(exchange: Exchange) -> None:
        seen.append(exchange)
        if len(seen) >= count:
            enough.set()

    load = make(record)
    load.start()
    async with asyncio.timeout(REACH_S):
        await enough.wait()
    await load.stop()
    return seen


def closed(port: int, expected: Expected, connections: int = 1) -> Callable[[Callable[[Exchange], None]], ClosedLoop]:
    return lambda record: ClosedLoop(port, requests(), expected, record, connections=connections, read_names=True)


async def test_good_answers_are_counted_with_their_names() -> None:
    """Status 200 of the expected length is OK; replica and reason are read off the headers."""
    async with answering(writes(OK)) as port:
        seen = await exchanges(20, closed(port, Expected(2), connections=4))
    assert {x.outcome for x in seen} == {Outcome.OK}
    assert {(x.replica, x.reason, x.status) for x in seen} == {("r1", "hash", 200)}
    assert all(x.sent_s <= x.first_byte_s <= x.end_s for x in seen)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        pytest.param(writes(OK.replace(b"200", b"503")), Outcome.STATUS, id="status"),
        pytest.param(writes(OK.replace(b": 2", b": 3").replace(b"ok", b"oki")), Outcome.WRONG, id="length"),
        pytest.param(writes(b"SSH-2.0\r\n\r\n"), Outcome.WRONG, id="not HTTP"),
        pytest.param(writes_and_closes(b""), Outcome.UNANSWERED, id="closed without a byte"),
        pytest.param(writes_and_closes(OK[:-1]), Outcome.CUT, id="closed inside the answer"),
    ],
)
async def test_a_bad_answer_is_told_apart_and_the_load_goes_on(answer: Answer, outcome: Outcome) -> None:
    """Each kind of failure has its name, and the next request goes out, on a new connection where it must."""
    async with answering(answer, writes(OK)) as port:
        first, second, *_ = await exchanges(2, closed(port, Expected(2)))
    assert (first.outcome, second.outcome) == (outcome, Outcome.OK)


async def test_an_answer_that_closes_is_followed_on_a_new_connection() -> None:
    """`connection: close` costs no request."""
    closing = OK.replace(b"content-length", b"connection: close\r\ncontent-length")
    async with answering(writes_and_closes(closing)) as port:
        seen = await exchanges(5, closed(port, Expected(2)))
    assert {x.outcome for x in seen[:5]} == {Outcome.OK}


async def test_a_refused_connection_is_an_unanswered_request() -> None:
    """Nobody listens: each try is recorded, none raises."""
    async with answering(writes(OK)) as port:
        pass
    seen = await exchanges(2, closed(port, Expected()))
    assert {x.outcome for x in seen} == {Outcome.UNANSWERED}


async def test_stopping_cuts_what_does_not_end() -> None:
    """An answer that never completes is recorded as cut when the load stops."""
    seen: list[Exchange] = []
    async with answering(writes(OK[:-1])) as port:
        load = ClosedLoop(port, requests(), Expected(), seen.append, connections=1)
        load.start()
        async with asyncio.timeout(REACH_S):
            while not load._open:
                await asyncio.sleep(0)
        await load.stop(within_s=0.2)
    assert [x.outcome for x in seen] in ([Outcome.CUT], [Outcome.UNANSWERED])


async def test_events_of_answers_under_way_are_seen() -> None:
    """A stream's events count before it has ended."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with answering(writes(head + b"9\r\ndata: a\n\n\r\n")) as port:
        load = ClosedLoop(port, requests(), Expected(), Tally(), connections=2)
        load.start()
        async with asyncio.timeout(REACH_S):
            while load.answering < 2:
                await asyncio.sleep(0)
        assert load.events == 2
        await load.stop(within_s=0)


async def test_an_open_loop_reuses_its_connections_and_counts_from_when_due() -> None:
    """Requests keep coming; an exchange begins when it was due, which is never after it was sent."""
    async with answering(writes(OK)) as port:
        seen = await exchanges(
            10, lambda record: OpenLoop(port, requests(), Expected(2), record, per_s=500, read_names=True)
        )
    due = [x.sent_s for x in seen]
    assert {x.outcome for x in seen} == {Outcome.OK}
    assert all(pytest.approx(b - a) == 0.002 for a, b in itertools.pairwise(sorted(due)))


async def test_an_open_loop_records_refused_connections() -> None:
    """An edge that is away costs requests, not the load."""
    async with answering(writes(OK)) as port:
        pass
    seen = await exchanges(3, lambda record: OpenLoop(port, requests(), Expected(), record, per_s=500))
    assert {x.outcome for x in seen} == {Outcome.UNANSWERED}


def test_a_tally_counts_by_kind() -> None:
    """Statuses count by number, the rest by name; only good answers have a latency."""
    tally = Tally()
    for exchange in (
        Exchange(1.0, 1.5, 2.0, Outcome.OK, 200, events=3),
        Exchange(1.0, 1.5, 2.0, Outcome.STATUS, 503),
        Exchange(1.0, 0.0, 2.0, Outcome.UNANSWERED),
    ):
        tally(exchange)
    assert (tally.ok, tally.events, tally.latencies_s) == (1, 3, [1.0])
    assert tally.failed == {"unanswered": 1, "status 503": 1}


@pytest.mark.parametrize(
    ("share", "value"),
    [pytest.param(0.5, 50, id="p50"), pytest.param(0.99, 99, id="p99"), pytest.param(1.0, 100, id="greatest")],
)
def test_a_quantile_is_a_measured_value(share: float, value: float) -> None:
    """Of 1 to 100, the p-th is p: no value between two is made up."""
    assert quantile([float(n) for n in range(100, 0, -1)], share) == value


def test_nothing_has_no_quantile() -> None:
    """NaN, which no comparison takes for a good result."""
    assert quantile([], 0.5) != quantile([], 0.5)
