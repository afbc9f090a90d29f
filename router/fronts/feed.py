"""The feed front: engines tell what changes over connections that stay open.

The same messages and the same token as `POST /v1/replicas/{id}/events`, at a fraction of the cost (bench/feed.py):
frames of a length and one msgpack record (contract/registration.py), no request to parse and no headers to make. A peer
that breaks the framing, shows a wrong token or says nothing for long is disconnected; its engine goes on over HTTP and
comes back.
"""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec
import structlog

from pointsman.contract.events import MAX_EVENTS_BYTES, EngineEvents
from pointsman.contract.feed import FEED_HEAD, MAX_HELLO_BYTES, FeedHello, FeedReply
from pointsman.contract.tokens import TokenRole
from pointsman.router.core import Core
from pointsman.router.fronts.admin_token import DELAY_S, AdminTokens
from pointsman.router.process.clock import Clock

MAX_FEEDS = 8192
"""Connections at once: two for each of the replicas a router may have. Beyond, engines stay with HTTP."""

SILENCE_S = 60.0
"""An engine speaks every 5 s at least, and at once when it connects; one that is silent for so long is gone."""

log = structlog.get_logger(__name__)

_hello = msgspec.msgpack.Decoder(FeedHello)
_events = msgspec.msgpack.Decoder(EngineEvents)
_encoder = msgspec.msgpack.Encoder()


class FeedError(Exception):
    """The peer is refused; `status` as the admin API would have said it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WrongTokenError(FeedError):
    """The peer's token is wrong: it waits for its refusal, which is logged with others of its kind."""

    def __init__(self) -> None:
        super().__init__(401, "a valid token is expected")


class FeedProtocol(asyncio.Protocol):
    """One engine's connection."""

    def __init__(self, core: Core, connections: set[FeedProtocol], tokens: AdminTokens, clock: Clock) -> None:
        self._core = core
        self._clock = clock
        self._tokens = tokens
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._wanted = 0
        """Bytes of the frame under way; 0 before its length is known."""
        self._replica = ""
        """Empty until its hello."""
        self._shown = ""
        """The token of its hello."""
        self._watch: asyncio.TimerHandle | None = None
        self._heard = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if len(self._connections) >= MAX_FEEDS:
            self._refuse(FeedError(503, f"at most {MAX_FEEDS} feeds are expected"))
            return
        self._connections.add(self)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._watch is not None:
            self._watch.cancel()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._heard = True
        self._buffer += data
        try:
            while not self._transport.is_closing() and (frame := self._frame()) is not None:
                self._take(frame)
        except WrongTokenError as error:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(DELAY_S, self._refuse, error)
        except FeedError as error:
            self._refuse(error)

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def check_token(self) -> None:
        """Hangs up if the engine's token is valid no more; called when tokens changed."""
        if self._replica and not self._tokens.still_admit(self._shown, TokenRole.ENGINE):
            log.warning("feed closed, its token is valid no more", replica=self._replica)
            self.close()

    def close(self) -> None:
        """Hang up; the engine learns it at once."""
        assert self._transport is not None
        self._transport.close()

    def _frame(self) -> bytes | None:
        """The next whole frame, without its length. Raises FeedError for one longer than may be."""
        buffer = self._buffer
        if not self._wanted:
            if len(buffer) < FEED_HEAD.size:
                return None
            (wanted,) = FEED_HEAD.unpack_from(buffer)
            limit = MAX_EVENTS_BYTES if self._replica else MAX_HELLO_BYTES
            if not 0 < wanted <= limit:
                raise FeedError(413, f"frame: 1 to {limit} bytes are expected, {wanted} were announced")
            self._wanted = wanted
        end = FEED_HEAD.size + self._wanted
        if len(buffer) < end:
            return None
        frame = bytes(memoryview(buffer)[FEED_HEAD.size : end])
        del buffer[:end]
        self._wanted = 0
        return frame

    def _take(self, frame: bytes) -> None:
        try:
            if not self._replica:
                self._welcome(_hello.decode(frame))
                return
            events = _events.decode(frame)
        except msgspec.ValidationError as error:
            raise FeedError(422, str(error)) from error
        # Text that is not UTF-8 is Python's own ValueError.
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise FeedError(400, f"frame: not msgpack: {error}") from error
        answer = self._core.engine_events(self._replica, events, self._clock())
        if answer is None:
            self._reply(FeedReply(status=404, error=f"replica {self._replica!r} is not registered"))
        else:
            self._reply(FeedReply(answer))

    def _welcome(self, hello: FeedHello) -> None:
        assert self._transport is not None
        peer = self._transport.get_extra_info("peername") or ("",)
        caller = self._tokens.caller(hello.token, str(peer[0]))
        if caller is None:
            raise WrongTokenError
        if not caller.may((TokenRole.ENGINE,)):
            raise FeedError(403, f"the role engine is needed, which the token {caller.name!r} has not")
        if not hello.replica:
            raise FeedError(422, "replica: '': a replica's id is expected")
        self._replica, self._shown = hello.replica, hello.token
        self._reply(FeedReply())

    def _refuse(self, error: FeedError) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        if not isinstance(error, WrongTokenError):
            log.warning("feed refused", replica=self._replica, status=error.status, error=str(error))
        self._reply(FeedReply(status=error.status, error=str(error)))
        self._transport.close()

    def _reply(self, reply: FeedReply) -> None:
        assert self._transport is not None
        record = _encoder.encode(reply)
        self._transport.write(FEED_HEAD.pack(len(record)) + record)

    def _look(self) -> None:
        """Hangs up on a peer that was silent since the last look."""
        assert self._transport is not None
        if not self._heard:
            self._transport.close()
            return
        self._heard = False
        self._watch = asyncio.get_running_loop().call_later(SILENCE_S, self._look)
