"""The feed front: frames however they are cut, who may speak, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from residency import holds
from router_fixture import register, running_router

from pointsman.contract.events import MAX_EVENTS_BYTES, EngineEvents, EventsAnswer
from pointsman.contract.feed import FEED_HEAD, MAX_HELLO_BYTES, FeedHello, FeedReply
from pointsman.router.core import Core
from pointsman.router.fronts import feed as feed_front
from pointsman.router.fronts.admin_token import AdminTokens
from pointsman.router.fronts.feed import FeedProtocol


def framed(record: object) -> bytes:
    body = msgspec.msgpack.encode(record)
    return FEED_HEAD.pack(len(body)) + body


def replies_in(data: bytes) -> list[FeedReply]:
    found = []
    while data:
        (length,) = FEED_HEAD.unpack_from(data)
        found.append(msgspec.msgpack.decode(data[FEED_HEAD.size : FEED_HEAD.size + length], type=FeedReply))
        data = data[FEED_HEAD.size + length :]
    return found


def events(seq: int, **given: Any) -> EngineEvents:
    return EngineEvents(epoch="e", seq=seq, **given)


class Taken(Core):
    """Takes what replica `a` says."""

    def __init__(self) -> None:
        self.messages: list[EngineEvents] = []

    def engine_events(self, replica_id: str, events: EngineEvents, now_s: float) -> EventsAnswer | None:
        if replica_id != "a":
            return None
        self.messages.append(events)
        return EventsAnswer(resync=False, interval_ms=events.seq)


class Peer:
    """A protocol and the transport it writes to."""

    def __init__(self, token: str = "", connections: set[FeedProtocol] | None = None) -> None:
        self.feed = Taken()
        self.paused = False
        self.written = b""
        self.closed = False
        self.protocol = FeedProtocol(
            self.feed, set() if connections is None else connections, AdminTokens(token), lambda: 0.0
        )
        self.protocol.connection_made(cast(asyncio.Transport, self))

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def pause_reading(self) -> None:
        self.paused = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
        self.protocol.connection_lost(None)

    @property
    def replies(self) -> list[FeedReply]:
        return replies_in(self.written)


HELLO = framed(FeedHello("a"))
TALK = [events(0, snapshot=True, stored=[1, 2**64 - 1], tokens=[32, 64]), events(1, evicted=[1]), events(2)]
SPOKEN = HELLO + b"".join(map(framed, TALK))


async def test_every_split_says_the_same() -> None:
    """Cut in two at every byte, and byte by byte."""
    for cut in range(len(SPOKEN) + 1):
        peer = Peer()
        peer.protocol.data_received(SPOKEN[:cut])
        peer.protocol.data_received(SPOKEN[cut:])
        assert peer.feed.messages == TALK
        assert peer.replies == [FeedReply(), *(FeedReply(EventsAnswer(resync=False, interval_ms=n)) for n in range(3))]
        peer.close()
    peer = Peer()
    for at in range(len(SPOKEN)):
        peer.protocol.data_received(SPOKEN[at : at + 1])
    assert peer.feed.messages == TALK
    assert not peer.closed
    peer.close()


@pytest.mark.parametrize(
    ("said", "status"),
    [
        pytest.param(framed(FeedHello("")), 422, id="no name"),
        pytest.param(framed(TALK[0]), 422, id="no hello"),
        pytest.param(FEED_HEAD.pack(MAX_HELLO_BYTES + 1), 413, id="a hello too long"),
        pytest.param(FEED_HEAD.pack(0), 413, id="an empty frame"),
        pytest.param(HELLO + FEED_HEAD.pack(MAX_EVENTS_BYTES + 1), 413, id="a message too long"),
        pytest.param(HELLO + framed({"epoch": "e"}), 422, id="no seq"),
        pytest.param(HELLO + framed({"epoch": "e", "seq": 0, "sored": []}), 422, id="misspelt"),
        pytest.param(HELLO + FEED_HEAD.pack(1) + b"\xc1", 400, id="not msgpack"),
        pytest.param(HELLO + FEED_HEAD.pack(9) + b"\x81\xa5epoch\xa1\xff", 400, id="not UTF-8"),
        pytest.param(HELLO + framed({"epoch": "e", "seq": 0, "capacity_tokens": 2**63}), 422, id="too many tokens"),
        pytest.param(HELLO + framed({"epoch": "e", "seq": 2**64 - 1}), 422, id="a number too large"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 413, id="somebody who expects a web page"),
    ],
)
async def test_what_is_wrong_is_said_and_ends_it(said: bytes, status: int) -> None:
    """As the admin API would have answered; nothing after it counts."""
    peer = Peer()
    peer.protocol.data_received(said + framed(TALK[0]))
    assert peer.replies[-1].status == status
    assert peer.replies[-1].error
    assert peer.closed
    assert peer.feed.messages == []


@pytest.mark.parametrize("hello", [FeedHello("a"), FeedHello("a", "wrong")], ids=["no token", "a wrong token"])
async def test_a_wrong_token_waits_for_its_refusal(monkeypatch: pytest.MonkeyPatch, hello: FeedHello) -> None:
    """Nothing more is read from it meanwhile; then it is told 401 and disconnected."""
    monkeypatch.setattr(feed_front, "DELAY_S", 0.01)
    peer = Peer("secret")
    peer.protocol.data_received(framed(hello) + framed(TALK[0]))
    assert (peer.written, peer.paused, peer.closed) == (b"", True, False)
    async with asyncio.timeout(5):
        while not peer.closed:
            await asyncio.sleep(0.005)
    assert [reply.status for reply in peer.replies] == [401]
    assert peer.feed.messages == []


async def test_the_right_token_is_welcome() -> None:
    """As often as it comes in one read with the first message."""
    peer = Peer("secret")
    peer.protocol.data_received(framed(FeedHello("a", "secret")) + framed(TALK[0]))
    assert peer.feed.messages == TALK[:1]
    peer.close()


async def test_who_is_not_registered_may_stay() -> None:
    """It may be a moment later."""
    peer = Peer()
    peer.protocol.data_received(framed(FeedHello("b")) + framed(TALK[0]) + framed(TALK[1]))
    assert [reply.status for reply in peer.replies] == [0, 404, 404]
    assert not peer.closed
    peer.close()


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told so; when one ends there is room again."""
    monkeypatch.setattr(feed_front, "MAX_FEEDS", 2)
    connections: set[FeedProtocol] = set()
    peers = [Peer(connections=connections) for _ in range(3)]
    assert [peer.closed for peer in peers] == [False, False, True]
    assert peers[2].replies[0].status == 503
    peers[0].close()
    again = Peer(connections=connections)
    assert not again.closed
    for peer in (peers[1], again):
        peer.close()


async def test_who_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at twice: once it was heard, then not."""
    monkeypatch.setattr(feed_front, "SILENCE_S", 0.01)
    peer = Peer()
    async with asyncio.timeout(5):
        while not peer.closed:
            await asyncio.sleep(0.005)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_answered_or_waited_for(said: bytes, after_hello: bool) -> None:
    """No exception, and no message out of nothing."""

    async def hear() -> None:
        peer = Peer()
        peer.protocol.data_received((HELLO if after_hello else b"") + said)
        if not peer.closed:
            peer.close()

    asyncio.run(hear())


async def test_the_router_listens_and_hangs_up_at_its_end() -> None:
    """Beside the admin API, whose answers name the port; the state is the same as over HTTP."""
    async with running_router() as router:
        await register(router, "a")
        address = router.addresses["feed"]
        assert router.core.feed_port == address.port
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(HELLO + framed(events(0, snapshot=True, stored=[7], block_tokens=16)))
        frames = [await reader.readexactly(FEED_HEAD.unpack(await reader.readexactly(4))[0]) for _ in range(2)]
        reply = msgspec.msgpack.decode(frames[1], type=FeedReply)
        assert reply.answer is not None and reply.answer.feed_port == address.port
        assert holds(router.core.kv.index, 0, 7)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
