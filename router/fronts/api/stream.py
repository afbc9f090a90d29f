"""Answers that go on: whatever happens from now on, as server-sent events or as lines of JSON.

`Streams.follow` answers a request with what a `Followers` hands out. One who asks for `text/event-stream` gets
server-sent events, everybody else a JSON document a line. A stream begins with a backlog, says how much a slow reader
missed, shows that it lives when nothing happens, and ends when the reader leaves or the router stops.

What always holds: no stream makes anybody wait. Items wait in the bounded queue of their follower; bytes are written
at most every `GATHER_S`, all that came meanwhile together, so that a busy edge does not write once a decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from pointsman.router.fronts.api.problems import refusal
from pointsman.router.journal.followers import Follower, Followers

MAX_STREAMS = 64
"""Streams open at once: pages and terminals of the people on duty. One more is refused with 503."""

GATHER_S = 0.05
"""Between two writes to one reader, who cannot read faster than that."""

HEARTBEAT_S = 15.0
"""Between two signs of life of a stream on which nothing happens: proxies close connections that are idle for 30 s."""

STUCK_S = 60.0
"""A reader that took no byte for so long is gone, or means harm; its stream ends."""

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"

log = structlog.get_logger(__name__)

Item = TypeVar("Item")


class Frame(NamedTuple):
    """One item as it is written."""

    data: bytes
    """JSON, on one line."""
    id: str = ""
    """Position of the item, which a reader that comes back sends as `Last-Event-ID`; empty for none."""
    event: str = ""
    """Kind of the item for server-sent events; empty for `message`."""


class Streams:
    """All open streams of one admin address."""

    def __init__(self, *, max_streams: int = MAX_STREAMS) -> None:
        self._max_streams = max_streams
        self._open: set[_Stream[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        return f"Streams({len(self)} open)"

    def follow(
        self,
        request: Request,
        followers: Followers[Item],
        frame: Callable[[Item], Frame],
        *,
        backlog: Iterable[Item] = (),
        wants: Callable[[Item], bool] | None = None,
    ) -> Response:
        """The answer that goes on. Raises HTTPException (503) when as many streams are open as may be.

        followers: hands out the items. frame: how one is written.
        backlog: items before those, oldest first, of which `wants` is not asked.
        wants: whether the reader is to get an item; None for all.
        """
        if request.method == "HEAD":
            return Response(media_type=_media_type(request))
        if len(self._open) >= self._max_streams:
            raise refusal(
                "too-many-followers", f"at most {self._max_streams} streams may be open", {"retry-after": "5"}
            )
        follower: Follower[Item] = Follower(wants)
        stream = _Stream(follower, frame, list(backlog), _media_type(request), self._ended)
        followers.join(follower)
        stream.left = lambda: followers.leave(follower)
        self._open.add(stream)
        if self._closed:
            stream.end()
        return stream

    def end(self) -> None:
        """End all streams; whoever may follow connects again."""
        for stream in self._open:
            stream.end()

    def close(self) -> None:
        """End all streams, and each one that is asked for from now on after its backlog."""
        self._closed = True
        self.end()

    def _ended(self, stream: _Stream[Any]) -> None:
        self._open.discard(stream)


def _media_type(request: Request) -> str:
    return SSE if SSE in request.headers.get("accept", "") else NDJSON


class _Stream(Response, Generic[Item]):
    """One answer that goes on until its reader leaves or `end` is called."""

    def __init__(
        self,
        follower: Follower[Item],
        frame: Callable[[Item], Frame],
        backlog: list[Item],
        media_type: str,
        on_ended: Callable[[_Stream[Any]], None],
    ) -> None:
        super().__init__(media_type=media_type, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._follower = follower
        self._frame = frame
        self._backlog = backlog
        self._write = _as_event if media_type == SSE else _as_line
        self._heartbeat = b":\n\n" if media_type == SSE else b"\n"
        self._on_ended = on_ended
        self._woken = asyncio.Event()
        self._over = False
        self.left: Callable[[], None] = lambda: None
        """Called once the stream needs no more items."""
        follower.wake = self._woken.set

    def end(self) -> None:
        """End the stream once what waits is written."""
        self._over = True
        self._woken.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(self._watch(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            # Something at once: whoever asked sees that the stream is open.
            await self._send(send, b"".join(map(self._written, self._backlog)) or self._heartbeat)
            await self._pump(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.warning("stream ended: its reader takes nothing", after_s=STUCK_S)
        finally:
            gone.cancel()
            self.left()
            self._on_ended(self)

    async def _pump(self, send: Send) -> None:
        """Write what comes until the stream is over."""
        while True:
            missed, items = self._follower.take()
            chunks = [self._write(_missed(missed))] if missed else []
            chunks += map(self._written, items)
            if chunks:
                await self._send(send, b"".join(chunks))
            if self._over:
                return
            if chunks:
                await asyncio.sleep(GATHER_S)
            self._woken.clear()
            if self._over or len(self._follower):
                continue
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._woken.wait()
            except TimeoutError:
                await self._send(send, self._heartbeat)

    def _written(self, item: Item) -> bytes:
        return self._write(self._frame(item))

    async def _send(self, send: Send, chunk: bytes) -> None:
        """Write to the reader. Raises TimeoutError for one that takes nothing."""
        message: Message = {"type": "http.response.body", "body": chunk, "more_body": True}
        async with asyncio.timeout(STUCK_S):
            await send(message)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end()


def _missed(count: int) -> Frame:
    return Frame(msgspec.json.encode({"missed": count}), event="missed")


def _as_event(frame: Frame) -> bytes:
    head = b"".join(
        b"%b: %b\n" % (name, value.encode()) for name, value in ((b"id", frame.id), (b"event", frame.event)) if value
    )
    return head + b"data: " + frame.data + b"\n\n"


def _as_line(frame: Frame) -> bytes:
    return frame.data + b"\n"
