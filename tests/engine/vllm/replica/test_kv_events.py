"""KV events: what is decoded, and that none is missed, doubled or out of order."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.engine.vllm.replica.kv_events import (
    AllBlocksCleared,
    Batch,
    BlockRemoved,
    BlockStored,
    Event,
    KVEventStream,
    Source,
)

# As vLLM 0.32 sends them: batches are arrays, events maps, what is at its default is left out.
STORED: dict[str, Any] = {
    "type": "BlockStored", "block_hashes": [11, 2**64 - 1], "parent_block_hash": None, "token_ids": list(range(64)),
    "block_size": 32, "lora_id": None, "medium": "GPU", "lora_name": None, "extra_keys": [["salt"], None],
    "group_idx": 0, "kv_cache_spec_kind": "full_attention", "session_id": "7",
}  # fmt: skip
REMOVED = {"type": "BlockRemoved", "block_hashes": [11], "medium": "GPU", "group_idx": 0}


def batch(*events: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode([1.5, list(events), 0])


class Follower:
    """A stream without sockets, and what it delivered: block hashes, -1 where something was lost."""

    def __init__(self, replay: bool = True) -> None:
        self.seen: list[int] = []
        self.asked: list[int] = []
        self.stream = KVEventStream(Source("", "replay" if replay else ""), self._deliver, lambda: self.seen.append(-1))
        self.stream._past = self if replay else None

    def _deliver(self, events: list[Event]) -> None:
        self.seen += [int(event.block_hashes[0]) for event in events if isinstance(event, BlockRemoved)]

    def send_multipart(self, frames: tuple[bytes, bytes]) -> None:
        self.asked.append(int.from_bytes(frames[1], "big"))

    def recv_multipart(self, flags: object) -> list[bytes]:
        raise BlockingIOError

    def take(self, *numbers: int) -> None:
        for number in numbers:
            self.stream.take(number, one(number))

    def replay(self, *numbers: int) -> None:
        for number in numbers:
            self.stream.take_past(number, one(number))
        self.stream.replayed()


def one(number: int) -> bytes:
    return batch({**REMOVED, "block_hashes": [number]})


@pytest.fixture
def follower() -> Follower:
    made = Follower()
    made.stream._again = BlockingIOError
    made.stream._no_block = 0
    return made


def test_batches_of_vllm_are_read() -> None:
    """Hashes, parent, size, session; token ids and extra keys are not looked at, unknown fields do not hurt."""
    decoded = msgspec.msgpack.decode(batch(STORED, {**REMOVED, "later": 1}, {"type": "AllBlocksCleared"}), type=Batch)
    assert decoded.events == [
        BlockStored([11, 2**64 - 1], None, 32, "GPU", 0, "full_attention", "7"),
        BlockRemoved([11], "GPU", 0),
        AllBlocksCleared(),
    ]


def test_hashes_may_be_whole_digests() -> None:
    """`VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0`."""
    decoded = msgspec.msgpack.decode(batch({**REMOVED, "block_hashes": [b"\x00" * 32]}), type=Batch)
    assert decoded.events == [BlockRemoved([b"\x00" * 32], "GPU", 0)]


def test_what_comes_in_order_is_passed_on(follower: Follower) -> None:
    """Once each, whatever is sent twice."""
    follower.take(0, 1, 1, 0, 2)
    assert follower.seen == [0, 1, 2]


def test_a_gap_is_asked_for(follower: Follower) -> None:
    """What arrives meanwhile waits; then all is in order. The first batch of all may be missing too."""
    follower.take(2, 3)
    assert follower.asked == [0]
    assert follower.seen == []
    follower.replay(0, 1, 2)
    assert follower.seen == [0, 1, 2, 3]
    follower.take(4, 6)
    assert follower.asked == [0, 5]
    follower.replay(5, 6)
    follower.take(7)
    assert follower.seen == [0, 1, 2, 3, 4, 5, 6, 7]
    assert (follower.stream.replays, follower.stream.losses) == (2, 0)


def test_what_nobody_keeps_is_lost_and_said_so(follower: Follower) -> None:
    """vLLM keeps so many batches: the rest of what it sends counts from there."""
    follower.take(0, 9)
    follower.replay(5, 6, 7, 8, 9)
    assert follower.seen == [0, -1, 5, 6, 7, 8, 9]
    follower.take(12)
    follower.replay()
    assert follower.seen[-2:] == [-1, 12]
    assert follower.stream.losses == 2


def test_without_a_replay_endpoint_a_gap_is_a_loss() -> None:
    """Nobody can be asked."""
    follower = Follower(replay=False)
    follower.take(0, 3)
    assert follower.seen == [0, -1, 3]


def test_a_batch_that_cannot_be_read_is_a_loss(follower: Follower) -> None:
    """What stood in it is unknown; the next one counts again."""
    follower.stream.take(0, b"\xc1")
    follower.take(1)
    assert follower.seen == [-1, 1]


@given(kept=st.lists(st.booleans(), min_size=1, max_size=40), buffer=st.integers(1, 8))
def test_whatever_is_missed_order_holds(kept: list[bool], buffer: int) -> None:
    """Each batch at most once and in order, and a missing one is never passed over in silence."""
    follower = Follower()
    follower.stream._again, follower.stream._no_block = BlockingIOError, 0
    for number, arrives in enumerate(kept):
        if arrives:
            follower.take(number)
            if follower.stream._replaying:
                follower.replay(*range(max(follower.asked[-1], number + 1 - buffer), number + 1))
    expected = -1
    for number in follower.seen:
        if number == -1:
            expected = -2
        else:
            assert number == expected + 1 or expected == -2
            expected = number
    assert not any(kept) or follower.seen[-1] == max(n for n, arrives in enumerate(kept) if arrives)


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("zmq") is None, reason="pyzmq is not installed: make engine-cpu")
async def test_through_real_sockets(tmp_path: Path) -> None:
    """A publisher like vLLM's, whose first batches nobody heard: they are asked for, and nothing is missing."""
    import zmq

    source = Source(f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/replay")
    context = zmq.Context()
    publisher, past = context.socket(zmq.PUB), context.socket(zmq.ROUTER)
    publisher.bind(source.endpoint)
    past.bind(source.replay_endpoint)
    seen: list[int] = []
    arrived = asyncio.Event()

    def deliver(events: list[Event]) -> None:
        seen.extend(int(event.block_hashes[0]) for event in events if isinstance(event, BlockRemoved))
        arrived.set()

    stream = KVEventStream(source, deliver, lambda: seen.append(-1))
    stream.open()
    try:
        async with asyncio.timeout(20):
            number = 3
            while stream.replays == 0:  # Until the subscription has reached the publisher.
                publisher.send_multipart((b"", number.to_bytes(8, "big"), one(number)))
                number += 1
                await asyncio.sleep(0.01)
            while not past.poll(0):
                await asyncio.sleep(0.01)
            client, _, start = past.recv_multipart()
            for again in range(int.from_bytes(start, "big"), number):
                past.send_multipart((client, b"", b"", again.to_bytes(8, "big"), one(again)))
            past.send_multipart((client, b"", b"", (-1).to_bytes(8, "big", signed=True), b""))
            while len(seen) < number:
                arrived.clear()
                await arrived.wait()
        assert seen == list(range(number))
    finally:
        stream.close()
        context.destroy(linger=0)
