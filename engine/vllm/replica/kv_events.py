"""vLLM's KV events: the messages, and a subscriber that misses none of them.

The engine's process publishes what enters and leaves its prefix cache over ZeroMQ (vllm/distributed/kv_events.py of
0.32): a PUB socket sends `[topic, sequence number as u64 big-endian, msgpack batch]`, numbered from 0, and a ROUTER
socket sends past batches again, from a number on. `KVEventStream` delivers every batch once and in order. It runs on
the event loop of its caller, which also runs the requests, so nothing is locked.

What is decoded is what is needed: the token ids of blocks, most of a message, are skipped.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

log = logging.getLogger("pointsman.vllm.kv_events")

MAX_WAITING_BATCHES = 100_000
"""Batches queued in the socket while the event loop is busy: the limit of vLLM's own side."""

MAX_HELD_BATCHES = 10_000
"""Batches that arrive while others are asked for again: as many as vLLM keeps to be asked for."""

DEVICE = "GPU"
"""The medium vLLM computes on is called so, on CPUs too; others are tiers below it."""

WHOLE_PREFIX = frozenset({"full_attention", "mla_attention", "sink_full_attention"})
"""Kinds of cache that keep all of a prefix; others (sliding windows, state spaces) keep its end, and go with it."""

_END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)

Block = int | bytes
"""A block's hash: 64 bits, or the whole digest where vLLM is told to publish that."""


class BlockStored(msgspec.Struct, tag=True, gc=False):
    """Full blocks entered the cache, one below the other, the first below `parent_block_hash`."""

    block_hashes: list[Block]
    parent_block_hash: Block | None
    block_size: int
    medium: str | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    session_id: str | None = None
    """The tag of the request, set when it was handed to the engine."""


class BlockRemoved(msgspec.Struct, tag=True, gc=False):
    """Copies of blocks left the cache."""

    block_hashes: list[Block]
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, gc=False):
    """The cache is empty. Reported by the next step that runs, not when it was asked for."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class Batch(msgspec.Struct, array_like=True, gc=False):
    """The events of one step."""

    ts: float
    events: list[Event]
    data_parallel_rank: int | None = None


class Source(msgspec.Struct, frozen=True):
    """The sockets of one engine's events."""

    endpoint: str
    replay_endpoint: str = ""
    """Address for repeated batches; empty: missed batches are lost."""


class PrefixCache(msgspec.Struct, frozen=True):
    """An engine's prefix cache, as its configuration says once it runs."""

    block_size: int
    """Tokens."""
    capacity_tokens: int
    sources: tuple[Source, ...] = ()
    """One for each data-parallel rank inside the engine; none where it keeps no prefixes."""


class KVEventStream:
    """One engine's events, from its first one on."""

    def __init__(self, source: Source, deliver: Callable[[list[Event]], None], lost: Callable[[], None]) -> None:
        """`lost` is called, between two deliveries, where batches are missing for good."""
        self._source = source
        self._deliver = deliver
        self._lost = lost
        self._decode = msgspec.msgpack.Decoder(Batch).decode
        self._next = 0
        self._replaying = False
        self._held: deque[tuple[int, bytes]] = deque(maxlen=MAX_HELD_BATCHES)
        self._watched: list[int] = []
        self.replays = 0
        """Times batches were asked for again."""
        self.losses = 0

    def open(self) -> None:
        """Subscribe. Called on the event loop that is to deliver."""
        zmq: Any = importlib.import_module("zmq")  # It comes with vLLM.
        # A context of our own: vLLM's shared one may belong to another process's past, before a fork.
        self._context = zmq.Context()
        self._again = zmq.Again
        self._no_block = zmq.NOBLOCK
        self._live: Any = self._context.socket(zmq.SUB)
        self._live.set(zmq.RCVHWM, MAX_WAITING_BATCHES)
        self._live.set(zmq.LINGER, 0)
        self._live.set(zmq.SUBSCRIBE, b"")
        self._live.connect(self._source.endpoint)
        self._past: Any = None
        loop = asyncio.get_running_loop()
        self._watch(loop, self._live.get(zmq.FD), self._read_live)
        if self._source.replay_endpoint:
            self._past = self._context.socket(zmq.DEALER)
            self._past.set(zmq.LINGER, 0)
            self._past.connect(self._source.replay_endpoint)
            self._watch(loop, self._past.get(zmq.FD), self._read_past)

    def close(self) -> None:
        """Unsubscribe; nothing is delivered afterwards."""
        loop = asyncio.get_running_loop()
        for descriptor in self._watched:
            loop.remove_reader(descriptor)
        self._watched = []
        self._context.destroy(linger=0)

    def _watch(self, loop: asyncio.AbstractEventLoop, descriptor: int, read: Callable[[], None]) -> None:
        loop.add_reader(descriptor, read)
        self._watched.append(descriptor)
        # ZeroMQ's descriptor tells of changes, not of states: what came in before it was watched is read here.
        read()

    def _read_live(self) -> None:
        while True:
            try:
                _, number, payload = self._live.recv_multipart(self._no_block)
            except self._again:
                break
            self.take(int.from_bytes(number, "big"), payload)
        self._read_past()

    def _read_past(self) -> None:
        # Any use of a socket may swallow the change its descriptor would have told of; so this is called after each.
        while self._past is not None:
            try:
                _, _, number, payload = self._past.recv_multipart(self._no_block)
            except self._again:
                return
            if number == _END_OF_REPLAY:
                self.replayed()
            else:
                self.take_past(int.from_bytes(number, "big"), payload)

    # Order: which batch is next. No sockets below this line, but for the one call that asks for the past.

    def take(self, number: int, payload: bytes) -> None:
        """A batch as it was published."""
        if self._replaying:
            self._held.append((number, payload))
        elif number > self._next:
            self._held.append((number, payload))
            self._ask_for_the_past()
        elif number == self._next:
            self._pass_on(number, payload)

    def take_past(self, number: int, payload: bytes) -> None:
        """A batch that was asked for."""
        if number >= self._next:
            if number > self._next:
                self._lose()
            self._pass_on(number, payload)

    def replayed(self) -> None:
        """Nothing earlier is kept: what is still missing is lost."""
        self._replaying = False
        held, self._held = self._held, deque(maxlen=MAX_HELD_BATCHES)
        for number, payload in held:
            if number >= self._next:
                if number > self._next:
                    self._lose()
                self._pass_on(number, payload)

    def _pass_on(self, number: int, payload: bytes) -> None:
        self._next = number + 1
        try:
            events = self._decode(payload).events
        except msgspec.MsgspecError as error:
            log.error("a batch of KV events cannot be read: %s", error)
            self._lose()
            return
        self._deliver(events)

    def _ask_for_the_past(self) -> None:
        self.replays += 1
        if self._past is None:
            self.replayed()
            return
        self._replaying = True
        self._past.send_multipart((b"", self._next.to_bytes(8, "big")))
        self._read_past()

    def _lose(self) -> None:
        self.losses += 1
        self._lost()
