"""Exchanges by bytes: answers now and later, pipelines, limits, clients that leave, read slowly or misbehave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest
from sim_replica import read_chunks, read_head, read_response

from pointsman.engine.sim import http
from pointsman.engine.sim.http import Exchange, Service


def echo(exchange: Exchange) -> None:
    """Answers with method, target and body."""
    line = f"{exchange.method} {exchange.path}?{exchange.query.decode()} "
    exchange.respond(200, line.encode() + exchange.body, "text/plain")


class Peer:
    """A service on a socket and one client of it."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.port = port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@asynccontextmanager
async def serving(handle: Callable[[Exchange], None] = echo) -> AsyncIterator[Peer]:
    service = Service(handle, asyncio.get_running_loop())
    port = await service.listen("127.0.0.1", 0)
    try:
        yield Peer(service, port)
    finally:
        await service.close(1.0)


async def bytes_for(request: bytes, *, cuts: list[int] | None = None) -> bytes:
    """Everything a service answers to `request`, sent in pieces, until it closes."""
    async with serving() as peer:
        reader, writer = await peer.connect()
        places = [0, *(cuts or []), len(request)]
        for start, end in pairwise(places):
            writer.write(request[start:end])
            await writer.drain()
            await asyncio.sleep(0)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


REQUEST = (
    b"POST /a%20b?q=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
)


async def test_a_response_has_uvicorns_headers_in_uvicorns_order() -> None:
    """date, server, content-length, content-type, connection."""
    head, _, body = (await bytes_for(REQUEST)).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert [line.partition(b":")[0] for line in lines[1:]] == [
        b"date",
        b"server",
        b"content-length",
        b"content-type",
        b"connection",
    ]
    assert body == b"POST /a%20b?q=1 hello, world"


async def test_a_request_may_come_byte_by_byte() -> None:
    """One byte a segment."""
    assert (await bytes_for(REQUEST, cuts=list(range(1, len(REQUEST))))).endswith(b"hello, world")


async def test_a_connection_serves_one_request_after_the_other() -> None:
    """Keep-alive: two requests, two answers, the connection stays."""
    async with serving() as peer:
        reader, writer = await peer.connect()
        for name in (b"/1", b"/2"):
            writer.write(b"GET %b HTTP/1.1\r\n\r\n" % name)
            assert (await read_response(reader))[1] == b"GET %b? " % name
        writer.close()
        await writer.wait_closed()


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    """50 requests in one segment; the handler finishes each one later, and never sees two at once."""
    busy = 0

    def later(exchange: Exchange) -> None:
        nonlocal busy
        busy += 1
        assert busy == 1

        def finish() -> None:
            nonlocal busy
            busy -= 1
            echo(exchange)

        asyncio.get_running_loop().call_soon(finish)

    async with serving(later) as peer:
        reader, writer = await peer.connect()
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % n for n in range(50)))
        for n in range(50):
            assert (await read_response(reader))[1] == b"GET /%d? " % n
        writer.close()
        await writer.wait_closed()


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    """The client waits for leave to send, gets it, sends, and gets its answer."""
    async with serving() as peer:
        reader, writer = await peer.connect()
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        assert await read_head(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert (await read_response(reader))[1] == b"POST /? hello"
        writer.close()
        await writer.wait_closed()


async def test_garbage_is_answered_400_and_ends_the_connection() -> None:
    """uvicorn's words."""
    answer = await bytes_for(b"\x16\x03\x01 not http\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert answer.endswith(b"Invalid HTTP request received.")


async def test_a_body_over_the_limit_is_refused_before_it_is_sent() -> None:
    """The announced length is enough."""
    answer = await bytes_for(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (http.BODY_BYTES_MAX + 1))
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_chunked_body_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing announced: counted as it comes."""
    monkeypatch.setattr(http, "BODY_BYTES_MAX", 8)
    answer = await bytes_for(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_an_upgrade_is_served_as_plain_http() -> None:
    """h2c is not spoken: the request gets its answer, then the connection ends."""
    answer = await bytes_for(b"GET /u HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nPRI * HTTP/2.0\r\n\r\n")
    assert answer.endswith(b"GET /u? ")


async def test_head_gets_no_body() -> None:
    """Length announced, nothing sent."""
    answer = await bytes_for(b"HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert b"content-length: 8\r\n" in answer and answer.endswith(b"\r\n\r\n")


async def test_a_client_that_leaves_is_told_to_the_handler() -> None:
    """`on_lost` is called once; later writes go nowhere."""
    lost = asyncio.Event()
    held: list[Exchange] = []

    def hold(exchange: Exchange) -> None:
        exchange.on_lost = lost.set
        exchange.start("text/plain")
        held.append(exchange)

    async with serving(hold) as peer:
        reader, writer = await peer.connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await read_head(reader)
        writer.close()
        await writer.wait_closed()
        await lost.wait()
        assert held[0].lost
        held[0].write(b"1\r\nx\r\n")
        held[0].finish()


async def test_a_reset_reaches_the_client_as_a_reset() -> None:
    """Not an orderly end: the client's read fails."""
    async with serving(Exchange.reset) as peer:
        reader, writer = await peer.connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()


async def test_a_slow_reader_pauses_the_exchange_and_resumes_it() -> None:
    """The handler writes until `paused`, waits for `on_writable`, and finishes; every byte arrives."""
    # 32 MB: more than the kernel buffers between two ends of a loopback connection.
    pieces, size = 320, 100_000
    piece = b"%x\r\n%b\r\n" % (size, b"x" * size)
    waited = 0

    def flood(exchange: Exchange) -> None:
        sent = 0

        def go_on() -> None:
            nonlocal sent, waited
            while sent < pieces and not exchange.paused:
                exchange.write(piece)
                sent += 1
            if sent == pieces:
                exchange.finish()
            else:
                waited += 1

        exchange.on_writable = go_on
        exchange.start("text/plain")

    async with serving(flood) as peer:
        reader, writer = await peer.connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await read_head(reader)
        chunks = await read_chunks(reader)
        assert sum(map(len, chunks)) == pieces * size
        assert waited > 0
        writer.close()
        await writer.wait_closed()


async def test_idle_connections_are_closed_and_busy_ones_are_not() -> None:
    """`close_idle` ends the one that waits for a request, not the one that waits for an answer."""
    held: list[Exchange] = []
    async with serving(held.append) as peer:
        idle_reader, idle_writer = await peer.connect()
        reader, writer = await peer.connect()
        writer.write(b"GET /busy HTTP/1.1\r\n\r\n")
        while not held or len(peer.service.connections) < 2:
            await asyncio.sleep(0)
        peer.service.close_idle()
        assert await idle_reader.read() == b""
        echo(held.pop())
        assert (await read_response(reader))[1] == b"GET /busy? "
        for each in (idle_writer, writer):
            each.close()
            await each.wait_closed()


async def test_broken_requests_harm_nobody_else() -> None:
    """300 requests with bytes changed, cut out or doubled, seeded: no error of ours, and the next client is served."""
    dice = random.Random(7)
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with serving() as peer:
        for _ in range(300):
            broken = bytearray(REQUEST)
            for _ in range(dice.randint(1, 4)):
                at = dice.randrange(len(broken))
                match dice.randrange(3):
                    case 0:
                        broken[at] = dice.randrange(256)
                    case 1:
                        del broken[at : at + dice.randint(1, 9)]
                    case _:
                        broken[at:at] = broken[at : at + dice.randint(1, 30)]
            reader, writer = await peer.connect()
            writer.write(broken)
            writer.write_eof()
            with suppress(ConnectionError):
                await reader.read()
                writer.close()
                await writer.wait_closed()
        reader, writer = await peer.connect()
        writer.write(b"GET /alive HTTP/1.1\r\n\r\n")
        assert (await read_response(reader))[1] == b"GET /alive? "
        writer.close()
        await writer.wait_closed()
    assert failures == []
