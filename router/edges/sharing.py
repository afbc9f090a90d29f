"""Moves bytes between a `Member` and a store, for as long as the router runs, whatever becomes of the store.

Two loops. One appends what the member has to say, a batch every `flush_s` while there is anything, each batch until it
arrived; the other follows all other edges' streams. Neither is ever waited for by a lookup. Snapshots go through the
store beside them. A store that is away is tried again with a growing pause; what happens here meanwhile waits, bounded,
in the member.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Coroutine
from typing import Any

import structlog

from pointsman.contract.backoff import Backoff
from pointsman.router.edges.member import Member, Outgoing
from pointsman.router.edges.records import Document, EdgeInfo, Notice
from pointsman.router.edges.snapshot import Snapshot
from pointsman.router.edges.store import Cause, Roster, Store, StoreError
from pointsman.router.metrics.histogram import Histogram
from pointsman.router.process.clock import Clock
from pointsman.router.watch.readiness import Readiness

FLUSH_S = 0.005
"""How long what happens is gathered: a few requests of a busy edge, and less than an engine's step."""

IDLE_FLUSHES = 4
"""Where nothing happens it is looked for so many times less often: what ends the silence is told a little later."""

BLOCK_S = 0.25
"""How long a read waits for news; an edge that comes is followed within this time."""

GATHER_S = 0.004
"""Between two reads: batches of several edges come in one."""

MIN_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
"""Between tries while the store is away."""

STREAM_BYTES = 16 * 1024 * 1024
"""Of one edge's stream: minutes of a busy edge. Who was away for longer takes a snapshot."""

STREAM_ENTRIES = 65_536
BATCHES_AT_ONCE = 8
"""Applied before lookups get their turn."""

PARTS_AT_ONCE = 8
LEAVE_S = 1.0
"""For the last batch of an edge that stops."""

APPEND_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

CONDITION = "shared state"
JOINING = "joining"
CATCHING_UP = "catching up with other edges"
"""Why shared state is degraded for the first moments of an edge that joins well."""

log = structlog.get_logger(__name__)


class SharingMetrics:
    """What the loops count."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        """By cause."""
        self.append_s = Histogram(APPEND_BOUNDS_S)
        self.batches_sent = 0
        self.bytes_sent = 0
        self.bytes_read = 0
        self.losses = 0
        """Times the store was found empty."""


class Sharing:
    """One edge's connection to the others."""

    def __init__(
        self,
        member: Member,
        store: Store,
        *,
        info: EdgeInfo,
        readiness: Readiness,
        clock: Clock,
        flush_s: float = FLUSH_S,
        stream_bytes: int = STREAM_BYTES,
        parts_at_once: int = PARTS_AT_ONCE,
    ) -> None:
        self.member = member
        self._store = store
        self.info = info
        """As the others find it; its owner may complete it until `run`."""
        self._readiness = readiness
        self._clock = clock
        self._flush_s = flush_s
        self._stream_bytes = stream_bytes
        self._parts_at_once = parts_at_once
        self.metrics = SharingMetrics()
        self._causes: dict[str, StoreError] = {}
        """By what was being done: why it cannot be."""
        self._life = ""
        self._sizes: deque[tuple[int, int]] = deque()
        self._kept_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetching = False
        self._serving = False
        """One snapshot at a time, each way: who asks meanwhile gets the next."""
        self._readiness.degraded(CONDITION, JOINING)

    @property
    def cause(self) -> Cause | None:
        """Why the store is of no use at this moment; None while it is."""
        return next((error.cause for error in self._causes.values()), None)

    async def run(self) -> None:
        """Until cancelled; says goodbye then. After an exception it may be run again."""
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
            self._fetching = self._serving = False
            if leaves:
                await self._leave()

    def sweep(self, now_s: float) -> None:
        """A few times a second: ends edges that are silent, asks for what is missing."""
        for edge in self.member.sweep(now_s):
            log.warning("edge is silent, its work in flight is not counted", edge=edge)
        if forgotten := self.member.peers.take_forgotten():
            self._spawn(self._forget(forgotten))
        self._report()

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
                self.member.restore(kept.replicas, kept.documents, self._clock())
                log.info("joined", edge=self.info.edge, replicas=len(kept.replicas))
                return

    async def _write(self) -> None:
        member = self.member
        pending: Outgoing | None = None
        pause_s = self._flush_s
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            _heed_cancel()
            if pending is None:
                pending = member.next_batch(self._clock())
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
            if not self._serving and (snapshot := member.snapshot_wanted(self._clock())) is not None:
                self._serving = True
                self._spawn(self._serve(snapshot))
            await asyncio.sleep(pause_s)

    async def _append(self, outgoing: Outgoing) -> None:
        self._make_room(outgoing)
        keep_from = self._sizes[0][0]
        info = self.info if not outgoing.beat else _at(self.info, outgoing.seq)
        started_s = self._clock()
        try:
            roster = await self._store.append(info.edge, outgoing, info, keep_from=keep_from)
        except StoreError as error:
            if error.cause is Cause.FULL:
                # What others missed of it they will be told by a snapshot, when there is room again.
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
            log.warning("the store lost what it kept; telling it all again")
            self.member.store_emptied()
        self._life = roster.life
        self.member.roster(roster.edges, self._clock())

    async def _read(self) -> None:
        member = self.member
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            _heed_cancel()
            following, taken = member.following(), member.counters.taken
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
                if member.counters.taken != taken:
                    break  # a snapshot set positions back: what follows them is read again
                member.hear(edge, seq, payload, self._clock())
                if count % BATCHES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            if not self._fetching and (offer := member.offer()) is not None:
                self._fetching = True
                self._spawn(self._fetch(offer))
            await asyncio.sleep(GATHER_S)

    # Snapshots

    async def _serve(self, snapshot: Snapshot) -> None:
        count = 0
        try:
            for part in snapshot.chunks():
                await self._store.add_part(snapshot.id, part)
                count += 1
        except StoreError as error:
            self._failed_once("snapshot", error)
            return
        finally:
            self._serving = False
        self.member.announce(snapshot, count)
        log.info("snapshot for others", snapshot=snapshot.id, edges=snapshot.edges, parts=count)

    async def _fetch(self, notice: Notice) -> None:
        member = self.member
        try:
            complete = await self._take_parts(notice)
        except StoreError as error:
            self._failed_once("snapshot", error)
            complete = False
        finally:
            self._fetching = False
        if complete:
            member.took(notice)
            log.info("snapshot taken", snapshot=notice.id, parts=notice.chunks, in_step=member.in_step)
        else:
            member.gave_up()

    async def _take_parts(self, notice: Notice) -> bool:
        """False when a part is gone, or is none."""
        for start in range(0, notice.chunks, self._parts_at_once):
            wanted = min(self._parts_at_once, notice.chunks - start)
            parts = await self._store.parts(notice.id, start, wanted)
            if len(parts) < wanted:
                return False
            for part in parts:
                if not self.member.take(part, self._clock()):
                    return False
                await asyncio.sleep(0)
        return True

    async def claim(self, name: str, body: dict[str, object]) -> bool:
        """Before a document is put live here: False when another edge put a later one that is not known here yet. True
        without asking anybody while the store is away; the edges then agree on one when it is back."""
        document = Document(name=name, version=self.member.documents.next_version(name), body=body)
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
        self.member.leaving = True
        try:
            async with asyncio.timeout(LEAVE_S):
                last = self.member.next_batch(self._clock())
                if last is not None and not self._causes:
                    await self._store.append(self.info.edge, last, _at(self.info, last.seq), keep_from=1)
                    await self._store.forget([self.info.edge])
        except (StoreError, TimeoutError):
            log.info("the others are not told that this edge leaves")
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
        """What may never be done again: the loops say whether the store serves."""
        self.metrics.errors[error.cause] += 1
        log.warning("shared state: the store did not serve", doing=doing, cause=error.cause, error=str(error))

    def _worked(self, doing: str) -> None:
        if self._causes.pop(doing, None) is not None:
            log.info("shared state: the store serves again", doing=doing)
            self._report()

    def _report(self) -> None:
        peers = self.member.peers
        refused = next((f"{peer.info.name or peer.info.edge}: {peer.refused}" for peer in peers if peer.refused), "")
        if self._causes:
            self._readiness.degraded(CONDITION, str(next(iter(self._causes.values()))))
        elif refused:
            self._readiness.degraded(CONDITION, refused)
        elif not self.member.in_step:
            self._readiness.degraded(CONDITION, CATCHING_UP)
        else:
            self._readiness.restored(CONDITION)


def _at(info: EdgeInfo, seq: int) -> EdgeInfo:
    """How far its stream is."""
    return EdgeInfo(
        edge=info.edge, name=info.name, admin_url=info.admin_url, schema=info.schema, seq=seq, since_s=info.since_s
    )


def _heed_cancel() -> None:
    """Raises CancelledError in a task that was cancelled and went on.

    `asyncio.wait_for`, through which redis-py sends, swallows a cancellation that comes together with its result on
    Python 3.11 (CPython issue 86296); a loop that misses it would never end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
