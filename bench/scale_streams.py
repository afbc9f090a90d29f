"""Memory that many open streams cost an edge, beside vllm-router.

Streams are opened in steps until so many are open; each gets a token every `TOKEN_INTERVAL_S`. Then: resident memory of
the side's processes, and how long new requests take beside the streams. A side is started anew for each size of body,
because memory that was used once stays with the process.

A stream takes two file descriptors of a proxy, one of the client and one of the replicas, each of which is one process
here: `descriptors()` says what is allowed.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import stub
from bench.edge import OURS, PATH, PEER, SESSIONS, session_requests
from bench.http import Request, chat_body
from bench.load import ClosedLoop, Expected, Tally, quantile
from bench.peers import PeerError, Side, edge, say, stub_replicas, vllm_router
from bench.resident import resident_mb
from pointsman.haproxy.descriptors import connections_within

TOKEN_INTERVAL_S = 2.0
STREAM_TOKENS = 10_000
"""A stream outlives the bench."""
REPLICAS = 32
"""Each has steps of its own, as engines have. In one burst of 9,800 tokens HAProxy would need a buffer for each."""
STEP = 200
"""Streams opened at a time."""
SPARE_STREAMS = 8
"""Connections for the new requests that are timed beside open streams."""
OPEN_S = 60.0
SETTLE_S = 2.0
PROBES = 200
POLICY, PEER_POLICY = "kv_cost", "cache_aware"


@dataclass(frozen=True)
class StreamOptions:
    """Size of the measurement."""

    streams: tuple[int, ...] = (1000, 5000, 9800)
    body_kb: tuple[int, ...] = (2, 100)
    peer: bool = True

    @classmethod
    def quick(cls) -> StreamOptions:
        return cls(streams=(200, 1000), body_kb=(2,), peer=False)


@dataclass(frozen=True)
class StreamFigures:
    """One side with so many streams open."""

    side: str
    body_kb: int
    streams: int
    memory_mb: dict[str, float]
    """By part; that of a proxy that is one process is `all`."""
    idle_mb: dict[str, float]
    """Resident memory before the first stream, by part."""
    new_p50_ms: float
    new_p99_ms: float
    failed: int

    @property
    def proxy_mb(self) -> float:
        """Resident memory, in megabytes, of the part that the streams themselves go through."""
        return self.memory_mb.get("haproxy", self.memory_mb.get("all", 0.0))

    @property
    def kb_a_stream(self) -> float:
        """KiB that each stream added to the proxy."""
        before = self.idle_mb.get("haproxy", self.idle_mb.get("all", 0.0))
        return (self.proxy_mb - before) * 1024 / self.streams


def descriptors() -> int:
    """File descriptors a process may have here, and so may those it starts."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def within_limits(streams: tuple[int, ...], allowed: int) -> tuple[int, ...]:
    """The numbers of streams that the edge accepts with so many descriptors: it keeps some for servers and checks."""
    fitting = connections_within(allowed, REPLICAS) - SPARE_STREAMS
    return tuple(count for count in streams if count <= fitting)


class Streams:
    """Open streams through one side."""

    def __init__(self, side: Side, body: bytes) -> None:
        self._side = side
        self._requests = itertools.cycle(
            [Request.post(PATH, body, session=f"session-{number:04d}") for number in range(SESSIONS)]
        )
        self._tally = Tally()
        self._loops: list[ClosedLoop] = []

    @property
    def ended(self) -> dict[str, int]:
        """Streams that did not stay open, by what became of them."""
        return self._tally.failed | ({"ok": self._tally.ok} if self._tally.ok else {})

    async def open(self, count: int) -> None:
        """Until `count` are open and each has its first token. Raises PeerError when that takes too long."""
        already = sum(loop.answering for loop in self._loops)
        for at in range(already, count, STEP):
            loop = ClosedLoop(
                self._side.port, self._requests, Expected(), self._tally, connections=min(STEP, count - at)
            )
            self._loops.append(loop)
            loop.start()
            await self._until_answering(loop, min(STEP, count - at))

    async def _until_answering(self, loop: ClosedLoop, count: int) -> None:
        deadline_s = time.perf_counter() + OPEN_S
        while loop.answering < count:
            if time.perf_counter() > deadline_s or self._tally.outcomes:
                raise PeerError(f"{self._side.name}: {loop.answering} of {count} streams opened; ended: {self.ended}")
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Cuts them all."""
        await asyncio.gather(*(loop.stop(within_s=0.0) for loop in self._loops))


async def measure_new(side: Side) -> Tally:
    """Requests one after the other beside what is open."""
    tally = Tally()
    body = chat_body(2048, model=stub.MODEL)
    load = ClosedLoop(side.port, session_requests([body]), Expected(len(stub.ANSWER)), tally, connections=1)
    load.start()
    async with asyncio.timeout(OPEN_S):
        while tally.ok + sum(tally.failed.values()) < PROBES:  # noqa: ASYNC110 -- a tally has no event
            await asyncio.sleep(0.01)
    await load.stop()
    return tally


async def measure_side(side: Side, body_kb: int, options: StreamOptions, figures: list[StreamFigures]) -> None:
    """One side with one size of body, at growing numbers of streams; adds to `figures`. Raises PeerError."""
    body = chat_body(body_kb * 1024, max_tokens=STREAM_TOKENS, stream=True, model=stub.MODEL)
    idle_mb = resident_mb(side.processes)
    streams = Streams(side, body)
    try:
        for count in within_limits(options.streams, descriptors()):
            await streams.open(count)
            await asyncio.sleep(SETTLE_S)
            new = await measure_new(side)
            if streams.ended:
                raise PeerError(f"{side.name}: of {count} streams some ended: {streams.ended}")
            measured = StreamFigures(
                side=side.name,
                body_kb=body_kb,
                streams=count,
                memory_mb=resident_mb(side.processes),
                idle_mb=idle_mb,
                new_p50_ms=quantile(new.latencies_s, 0.5) * 1000,
                new_p99_ms=quantile(new.latencies_s, 0.99) * 1000,
                failed=sum(new.failed.values()),
            )
            say(f"scale: {side.name}, {body_kb} KB, {count:,} streams: {measured.proxy_mb:.0f} MB")
            figures.append(measured)
    finally:
        await streams.close()


async def measure_streams(options: StreamOptions, folder: Path) -> tuple[list[StreamFigures], list[str]]:
    """Everything, and what the peer did not do. Raises PeerError for our side."""
    figures: list[StreamFigures] = []
    failures: list[str] = []
    for body_kb in options.body_kb:
        logs = folder / f"{body_kb}kb"
        logs.mkdir()
        async with stub_replicas(REPLICAS, TOKEN_INTERVAL_S * 1000, logs, spread=True) as urls:
            async with edge(OURS, logs, policy=POLICY, replicas=urls) as side:
                await measure_side(side, body_kb, options, figures)
            if options.peer:
                async with vllm_router(PEER, logs, policy=PEER_POLICY, replicas=urls) as side:
                    try:
                        await measure_side(side, body_kb, options, figures)
                    except PeerError as error:  # its failure is a result too
                        failures.append(f"{body_kb} KB: {error}")
    return figures, failures


def as_figures(measured: list[StreamFigures]) -> list[dict[str, Any]]:
    return [asdict(one) | {"kb_a_stream": one.kb_a_stream} for one in measured]
