"""Transport of bytes between an `EdgeProtocol` and a store, as long as the router runs, whatever becomes of the store.

Two loops. One appends what this edge publishes, a batch every `flush_s` while there is anything, each batch until it
arrived; the other reads the streams of all other edges. No lookup ever waits for either. A store that is away is tried
again with a growing pause; what changes here meanwhile waits, bounded, in the tables.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Coroutine
from typing import Any

import structlog
from msgspec.structs import replace

from pointsman.contract.backoff import Backoff
from pointsman.contract.events import MAX_EDGES
from pointsman.router.counts.histogram import Histogram
from pointsman.router.documents.document import Document
from pointsman.router.edges.protocol import EdgeProtocol, Outgoing
from pointsman.router.edges.records import EdgeInfo
from pointsman.router.edges.store import Cause, Roster, Store, StoreError
from pointsman.router.process.clock import Clock
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.store_url import is_loopback

FLUSH_S = 0.005
"""Time for which changes are gathered: a few requests of a busy edge, and less than an engine's step."""

IDLE_FLUSHES = 4
"""While nothing changes, changes are looked for so many times less often: the first of them goes out a little later."""

BLOCK_S = 0.25
"""Time that a read waits for a batch; an edge that starts is followed within it."""

GATHER_S = 0.004
"""Pause between two reads: batches of several edges come in one."""

MIN_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
"""Pause between tries while the store is away."""

STREAM_BYTES = 16 * 1024 * 1024
"""Size of one edge's stream: minutes of a busy edge. An edge that was away for longer waits for the next round."""

STREAM_ENTRIES = 65_536
BATCHES_AT_ONCE = 8
"""Batches applied before lookups get their turn."""

LEAVE_S = 1.0
"""Time for the last batch of an edge that stops."""

APPEND_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

CONDITION = "shared state"
JOINING = "joining"
CATCHING_UP = "catching up with other edges"
"""Reason why shared state is degraded for the first moments of an edge that joins well."""

log = structlog.get_logger(__name__)


class SharingMetrics:
    """Counters of the two loops."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        """Errors by cause."""
        self.append_s = Histogram(APPEND_BOUNDS_S)
        self.batches_sent = 0
        self.bytes_sent = 0
        self.bytes_read = 0
        self.losses = 0
        """Times the store was found to have lost what it kept."""


class Sharing:
    """One edge's connection to the others."""

    def __init__(
        self,
        protocol: EdgeProtocol,
        store: Store,
        *,
        info: EdgeInfo,
        readiness: Readiness,
        clock: Clock,
        flush_s: float = FLUSH_S,
        stream_bytes: int = STREAM_BYTES,
    ) -> None:
        self.protocol = protocol
        self._store = store
        self.info = info
        """Info on this edge for the others; may be completed until `run`."""
        self._readiness = readiness
        self._clock = clock
        self._flush_s = flush_s
        self._stream_bytes = stream_bytes
        self.metrics = SharingMetrics()
        self._causes: dict[str, StoreError] = {}
        """Reason why the store did not serve, by what this edge was doing."""
        self._life = ""
        """Life of the store that the last roster was of; empty until one was read.

        Before that it is not known whether a state of another edge is missing here.
        """
        self._sizes: deque[tuple[int, int]] = deque()
        self._kept_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._readiness.degraded(CONDITION, JOINING)

    @property
    def cause(self) -> Cause | None:
        """Reason why the store is of no use at this moment; None while it serves."""
        return next((error.cause for error in self._causes.values()), None)

    async def run(self) -> None:
        """Share until cancelled, and then publish that this edge stops. May be run again after an exception."""
        leaves = False
        try:
            await self._join()
            _heed_cancel()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(), name="share")
                group.create_task(self._read(), name="follow")
        except asyncio.CancelledError:
            leaves = True
            raise
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if leaves:
                await self._leave()

    def sweep(self, now_s: float) -> None:
        """End edges that are silent; called a few times a second."""
        for edge in self.protocol.peers.sweep(now_s):
            log.warning("edge is silent, its work in flight is not counted", edge=edge)
        if forgotten := self.protocol.peers.take_forgotten():
            self._spawn(self._forget(forgotten))
        self._report()

    def other_edges(self, address: str) -> dict[str, str]:
        """Return the admin URLs, by id, of the live edges that an engine at `address` is to report to besides this one.

        Loopback URLs are left out, unless the engine is on this host and they lead it to the edge that gave them.
        """
        here = is_loopback(f"//{address}")
        infos = [peer.info for peer in self.protocol.peers.alive][:MAX_EDGES]
        return {
            info.edge: info.admin_url for info in infos if info.admin_url and (here or not is_loopback(info.admin_url))
        }

    # The loops

    async def _join(self) -> None:
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            try:
                kept = await self._store.open()
            except StoreError as error:
                self._failed("join", error)
                await backoff.pause()
            else:
                self._worked("join")
                self.protocol.restore(kept.replicas, kept.documents, self._clock())
                log.info("joined", edge=self.info.edge, replicas=len(kept.replicas))
                return

    async def _write(self) -> None:
        pending: Outgoing | None = None
        pause_s = self._flush_s
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            _heed_cancel()
            if pending is None:
                pending = self.protocol.next_batch(self._clock())
            if pending is None:
                pause_s = min(2 * pause_s, IDLE_FLUSHES * self._flush_s)
            else:
                try:
                    await self._append(pending)
                except StoreError as error:
                    self._failed("write", error)
                    await backoff.pause()
                    continue
                pending, pause_s = None, self._flush_s
                backoff.reset()
                self._worked("write")
            await asyncio.sleep(pause_s)

    async def _append(self, outgoing: Outgoing) -> None:
        self._make_room(outgoing)
        keep_from = self._sizes[0][0]
        info = self.info if not outgoing.beat else replace(self.info, seq=outgoing.seq)
        started_s = self._clock()
        try:
            roster = await self._store.append(info.edge, outgoing, info, keep_from=keep_from)
        except StoreError as error:
            if error.cause is Cause.FULL:
                # Edges that had not read it learn its states from the next round, when there is room again.
                await self._store.drop_history(info.edge, outgoing.seq)
                while len(self._sizes) > 1:
                    self._kept_bytes -= self._sizes.popleft()[1]
            raise
        metrics = self.metrics
        metrics.append_s.observe(self._clock() - started_s)
        metrics.batches_sent += 1
        metrics.bytes_sent += len(outgoing.payload)
        if roster is not None:
            self._take_roster(roster)

    def _make_room(self, outgoing: Outgoing) -> None:
        sizes = self._sizes
        if not sizes or sizes[-1][0] != outgoing.seq:
            sizes.append((outgoing.seq, len(outgoing.payload)))
            self._kept_bytes += len(outgoing.payload)
        while len(sizes) > 1 and (self._kept_bytes > self._stream_bytes or len(sizes) > STREAM_ENTRIES):
            self._kept_bytes -= sizes.popleft()[1]

    def _take_roster(self, roster: Roster) -> None:
        if self._life and roster.life != self._life:
            self.metrics.losses += 1
            log.warning("the store lost what it kept; publishing it all again")
            self.protocol.store_emptied()
        self._life = roster.life
        self.protocol.peers.meet(roster.edges, self._clock())

    async def _read(self) -> None:
        protocol = self.protocol
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            _heed_cancel()
            following = protocol.following()
            if not following:
                await asyncio.sleep(BLOCK_S)
                continue
            try:
                entries = await self._store.read(following, BLOCK_S)
            except StoreError as error:
                self._failed("read", error)
                await backoff.pause()
                continue
            backoff.reset()
            self._worked("read")
            for count, (edge, seq, payload) in enumerate(entries, 1):
                self.metrics.bytes_read += len(payload)
                protocol.receive(edge, seq, payload, self._clock())
                if count % BATCHES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(GATHER_S)

    async def claim(self, name: str, body: dict[str, object], about: dict[str, str]) -> bool:
        """Reserve the next version of a document before it is put live here.

        False when another edge put a later one that is not known here yet. True while the store is away; the edges then
        agree on one when it is back.
        """
        version = self.protocol.documents.next_version(name)
        document = Document(name=name, version=version, body=body, about=about)
        try:
            return await self._store.claim(document)
        except StoreError as error:
            self._failed_once("claim", error)
            return True

    async def _forget(self, edges: list[str]) -> None:
        try:
            await self._store.forget(edges)
        except StoreError as error:
            self._failed_once("forget", error)

    async def _leave(self) -> None:
        self.protocol.leaving = True
        try:
            async with asyncio.timeout(LEAVE_S):
                last = self.protocol.next_batch(self._clock())
                if last is not None and not self._causes:
                    await self._store.append(self.info.edge, last, replace(self.info, seq=last.seq), keep_from=1)
                    await self._store.forget([self.info.edge])
        except (StoreError, TimeoutError):
            log.info("other edges cannot learn that this edge stops")
        await self._store.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "sharing failed", "exception": error})

    # How it stands

    def _failed(self, doing: str, error: StoreError) -> None:
        self.metrics.errors[error.cause] += 1
        before = self._causes.get(doing)
        self._causes[doing] = error
        if before is None or before.cause is not error.cause:
            log.warning("shared state: the store does not serve", doing=doing, cause=error.cause, error=str(error))
        self._report()

    def _failed_once(self, doing: str, error: StoreError) -> None:
        """Count and log a failure of an operation that may never be repeated; readiness is left to the loops."""
        self.metrics.errors[error.cause] += 1
        log.warning("shared state: the store did not serve", doing=doing, cause=error.cause, error=str(error))

    def _worked(self, doing: str) -> None:
        if self._causes.pop(doing, None) is not None:
            log.info("shared state: the store serves again", doing=doing)
            self._report()

    def _report(self) -> None:
        peers = self.protocol.peers
        self.protocol.cut_off(cut=bool(self._causes))
        refused = next((f"{peer.info.name or peer.info.edge}: {peer.refused}" for peer in peers if peer.refused), "")
        if self._causes:
            self._readiness.degraded(CONDITION, str(next(iter(self._causes.values()))))
        elif refused:
            self._readiness.degraded(CONDITION, refused)
        elif not self._life:
            self._readiness.degraded(CONDITION, JOINING)
        elif not self.protocol.in_step:
            self._readiness.degraded(CONDITION, CATCHING_UP)
        else:
            self._readiness.restored(CONDITION)


def _heed_cancel() -> None:
    """Raise CancelledError in a task that was cancelled and went on.

    `asyncio.wait_for`, through which redis-py sends, swallows a cancellation that comes together with its result on
    Python 3.11 (CPython issue 86296); a loop that misses it would never end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
