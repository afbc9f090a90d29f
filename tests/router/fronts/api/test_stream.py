"""Answers that go on: what is written, who is slow, how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.router.fronts.api import stream
from pointsman.router.fronts.api.stream import Frame, Streams
from pointsman.router.journal.followers import QUEUE_MAX, Followers


def frame(number: int) -> Frame:
    return Frame(b"%d" % number, id=str(number), event="number")


class Reader:
    """A reader of one stream, as uvicorn stands before it: it takes what is written until it leaves."""

    def __init__(self, followers: Followers[int], streams: Streams, accept: str = "*/*", **options: Any) -> None:
        scope = {"type": "http", "method": options.pop("method", "GET"), "headers": [(b"accept", accept.encode())]}
        self.response: Response = streams.follow(Request(scope), followers, frame, **options)
        self.written: list[bytes] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self._wrote = asyncio.Event()
        self._gone = asyncio.Event()
        self.task = asyncio.create_task(self.response({"type": "http"}, self._receive, self._send))

    async def _receive(self) -> dict[str, str]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.takes.wait()
        if message["type"] == "http.response.body":
            self.written.append(message["body"])
            self._wrote.set()

    async def text(self, ends: str) -> str:
        """All that was written, once it ends like this."""
        while not (said := b"".join(self.written).decode()).endswith(ends):
            self._wrote.clear()
            await self._wrote.wait()
        return said

    async def leave(self) -> None:
        self._gone.set()
        await self.task


@asynccontextmanager
async def reading(accept: str = "*/*", **options: Any) -> AsyncIterator[tuple[Reader, Followers[int], Streams]]:
    followers: Followers[int] = Followers()
    streams = Streams()
    reader = Reader(followers, streams, accept, **options)
    yield reader, followers, streams
    await reader.leave()
    assert not len(streams) and not len(followers)


async def test_lines_are_json_documents() -> None:
    """First those that are there, then those that come."""
    async with reading(backlog=[1, 2]) as (reader, followers, _):
        assert reader.response.media_type == "application/x-ndjson"
        assert await reader.text("2\n") == "1\n2\n"
        followers.offer(3)
        assert await reader.text("3\n") == "1\n2\n3\n"


async def test_who_asks_for_server_sent_events_gets_them() -> None:
    """With id and kind, so that a browser that connects again says where it was."""
    async with reading("text/event-stream, */*") as (reader, followers, _):
        assert reader.response.media_type == "text/event-stream"
        followers.offer(7)
        assert await reader.text("7\n\n") == ":\n\nid: 7\nevent: number\ndata: 7\n\n"


async def test_only_what_is_wanted_comes() -> None:
    """The backlog is the caller's own choice."""
    async with reading(wants=lambda number: number > 5) as (reader, followers, _):
        for number in (1, 9, 2, 8):
            followers.offer(number)
        assert await reader.text("8\n") == "\n9\n8\n"


async def test_a_slow_reader_is_told_how_much_it_missed() -> None:
    """It gets the newest, and nobody waited for it."""
    async with reading() as (reader, followers, _):
        await reader.text("\n")
        reader.takes.clear()
        followers.offer(0)
        await asyncio.sleep(2 * stream.GATHER_S)  # the write of 0 is stuck
        for number in range(1, QUEUE_MAX + 11):
            followers.offer(number)
        reader.takes.set()
        said = await reader.text(f"\n{QUEUE_MAX + 10}\n")
        assert said.startswith('\n0\n{"missed":10}\n11\n12\n')


async def test_a_quiet_stream_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment, or an empty line, which readers of either form pass over."""
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.01)
    async with reading("text/event-stream") as (reader, _, _):
        await reader.text(":\n\n:\n\n:\n\n")
    async with reading() as (reader, _, _):
        await reader.text("\n\n\n")


async def test_what_comes_together_is_written_together() -> None:
    """A busy edge does not write once an item."""
    async with reading() as (reader, followers, _):
        await reader.text("\n")
        for number in range(100):
            followers.offer(number)
        await reader.text("\n99\n")
        assert len(reader.written) == 2


async def test_streams_are_bounded() -> None:
    """503 with a time to wait; one that leaves makes room."""
    followers: Followers[int] = Followers()
    streams = Streams(max_streams=1)
    first = Reader(followers, streams)
    with pytest.raises(HTTPException) as refused:
        Reader(followers, streams)
    assert refused.value.status_code == 503 and refused.value.headers == {"retry-after": "5"}
    await first.leave()
    await Reader(followers, streams).leave()


async def test_streams_end_when_the_router_stops() -> None:
    """What waits is written first; one that is asked for later ends after its backlog."""
    followers: Followers[int] = Followers()
    streams = Streams()
    reader = Reader(followers, streams)
    await reader.text("\n")
    followers.offer(1)
    streams.close()
    await reader.task
    assert b"".join(reader.written) == b"\n1\n" and not len(streams)
    late = Reader(followers, streams, backlog=[5])
    await late.task
    assert b"".join(late.written) == b"5\n"


async def test_a_reader_that_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is for another."""
    monkeypatch.setattr(stream, "STUCK_S", 0.01)
    async with reading() as (reader, followers, streams):
        await reader.text("\n")
        reader.takes.clear()
        followers.offer(1)
        await reader.task
        assert not len(streams)


async def test_a_head_request_is_answered_at_once() -> None:
    """There is no body to follow."""
    async with reading(method="HEAD") as (reader, _, streams):
        await reader.task
        assert not len(streams)
