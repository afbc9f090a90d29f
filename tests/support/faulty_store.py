"""A store in memory that fails like Redis does: late, out of order between streams, cut off, full, stopped, emptied.

`FaultyStore` is what lies in Redis and what goes wrong with it; `StoreClient` is one edge's way there, a real
`pointsman.router.edges.store.Store`. Each call is a request that takes its time or is lost, its effect, and an answer
that takes its time or is lost. So a call that failed may have had its effect, and one that timed out may have it later.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from pointsman.router.documents.document import Document
from pointsman.router.edges.keys import STREAM_TTL_S
from pointsman.router.edges.protocol import Outgoing
from pointsman.router.edges.records import EdgeInfo, ReplicaRecord
from pointsman.router.edges.store import Cause, Entry, Kept, Roster, StoreError

TIMEOUT_S = 1.0
"""As in `pointsman.router.edges.redis_store`."""

POLL_S = 0.05
"""How often a waiting read looks again."""

T = TypeVar("T")


class FaultyStore:
    """What lies in the store, and how it stands."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.life = "life 1"
        self._lives = 1
        self.streams: dict[str, dict[int, bytes]] = {}
        self._last: dict[str, int] = {}
        self._expiries: dict[str, float] = {}
        self.edges: dict[str, EdgeInfo] = {}
        self.replicas: dict[str, ReplicaRecord] = {}
        self.documents: dict[str, Document] = {}
        self._stalled: list[Callable[[], object]] = []
        self.down: Cause | None = None
        """Answers nobody, for this reason."""
        self.full = False
        self.paused = False
        """Stopped: takes requests in and does nothing with them until it goes on."""
        self.shuffles = False
        """A read gives of each stream as much as it likes."""
        self.met: Counter[str] = Counter()
        """Calls that met a fault, by what it was."""

    @property
    def serves(self) -> bool:
        return self.down is None and not self.paused

    # Faults

    def empty(self) -> None:
        """Restarted without what it kept."""
        self._lives += 1
        self.life = ""
        for kept in (self.streams, self._last, self.edges, self.replicas, self.documents):
            kept.clear()

    def fail_over(self, lost: int) -> None:
        """A replica takes over that missed the last batches of each stream."""
        for edge, entries in self.streams.items():
            for seq in sorted(entries)[-lost:]:
                del entries[seq]
            self._last[edge] = max(entries, default=0)

    def go_on(self) -> None:
        """After a pause: what clients sent and gave up on is done now."""
        self.paused = False
        stalled, self._stalled = self._stalled, []
        for effect in stalled:
            with contextlib.suppress(StoreError):
                effect()

    def heal(self) -> None:
        self.down, self.full, self.shuffles = None, False, False
        self.go_on()

    def expire(self, now_s: float) -> None:
        for key, end_s in list(self._expiries.items()):
            if end_s <= now_s:
                del self._expiries[key]
                self.streams.pop(key, None)
                self._last.pop(key, None)

    # What calls do

    def append(self, edge: str, outgoing: Outgoing, info: EdgeInfo, keep_from: int, now_s: float) -> Roster | None:
        if self.full:
            raise StoreError(Cause.FULL, "OOM command not allowed")
        entries = self.streams.setdefault(edge, {})
        if outgoing.seq > self._last.get(edge, 0):  # else XADD says that it is equal or smaller
            entries[outgoing.seq] = outgoing.payload
            self._last[edge] = outgoing.seq
            for seq in [seq for seq in entries if seq < keep_from]:
                del entries[seq]
        for record in outgoing.replicas:
            if record.replica is None:
                self.replicas.pop(record.id, None)
            else:
                self.replicas[record.id] = record
        for document in outgoing.documents:
            self.claim(document)
        if not outgoing.beat:
            return None
        self.life = self.life or f"life {self._lives}"
        self.edges[edge] = info
        self._expiries[edge] = now_s + STREAM_TTL_S
        return Roster(self.life, list(self.edges.values()))

    def drop_history(self, edge: str, before: int) -> None:
        entries = self.streams.get(edge, {})
        for seq in [seq for seq in entries if seq < before]:
            del entries[seq]

    def read(self, positions: Mapping[str, int]) -> list[Entry]:
        found: list[Entry] = []
        for edge, position in positions.items():
            entries = self.streams.get(edge, {})
            fresh = sorted(seq for seq in entries if seq > position)
            if fresh and self.shuffles:
                fresh = fresh[: self.rng.randint(0, len(fresh))]
            found += [(edge, seq, entries[seq]) for seq in fresh]
        return found

    def claim(self, document: Document) -> bool:
        if self.full:
            raise StoreError(Cause.FULL, "OOM command not allowed")
        kept = self.documents.get(document.name)
        if kept is not None and kept.version >= document.version:
            return False
        self.documents[document.name] = document
        return True

    def stall(self, effect: Callable[[], object]) -> None:
        self._stalled.append(effect)


class StoreClient:
    """One edge's way to the store: `pointsman.router.edges.store.Store`."""

    def __init__(self, store: FaultyStore) -> None:
        self._store = store
        self._rng = store.rng
        self.cut = False
        """Nothing comes through."""
        self.killed = False
        """Its edge is dead: what it sent before may still arrive."""
        self.latency_s = 0.001
        self.loss = 0.0
        """Share of calls whose connection breaks on the way."""
        self.calls = 0

    async def open(self) -> Kept:
        return await self._call(lambda: Kept(list(self._store.replicas.values()), list(self._store.documents.values())))

    async def append(self, edge: str, outgoing: Outgoing, info: EdgeInfo, *, keep_from: int) -> Roster | None:
        return await self._call(lambda: self._store.append(edge, outgoing, info, keep_from, self._now_s()))

    async def drop_history(self, edge: str, before: int) -> None:
        await self._call(lambda: self._store.drop_history(edge, before))

    async def read(self, following: Mapping[str, int], block_s: float) -> list[Entry]:
        await self._call(lambda: None)
        entries: list[Entry] = []
        waited_s = 0.0
        while not entries and waited_s < block_s:
            await asyncio.sleep(POLL_S)
            waited_s += POLL_S
            if self._store.serves and not self.cut and not self.killed:
                entries = self._store.read(following)
            else:
                entries = await self._call(lambda: self._store.read(following))
        return entries

    async def claim(self, document: Document) -> bool:
        return await self._call(lambda: self._store.claim(document))

    async def forget(self, edges: Sequence[str]) -> None:
        def effect() -> None:
            for edge in edges:
                self._store.edges.pop(edge, None)

        await self._call(effect)

    async def close(self) -> None:
        self.killed = True

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    async def _call(self, effect: Callable[[], T]) -> T:
        store, rng = self._store, self._rng
        self.calls += 1
        self._alive()
        if (cause := store.down) is not None:
            await asyncio.sleep(self.latency_s)
            raise self._failed(cause)
        if self.cut:
            await asyncio.sleep(TIMEOUT_S)
            raise self._failed(Cause.SLOW)
        await asyncio.sleep(self.latency_s * rng.random())
        if self.loss and rng.random() < self.loss:
            raise self._failed(Cause.UNREACHABLE)
        if store.paused:
            waited_s = 0.0
            while store.paused and waited_s < TIMEOUT_S:
                await asyncio.sleep(POLL_S)
                waited_s += POLL_S
            if store.paused:
                store.stall(effect)
                raise self._failed(Cause.SLOW)
        try:
            result = effect()
        except StoreError as error:
            raise self._failed(error.cause) from error
        if self.loss and rng.random() < self.loss:
            raise self._failed(Cause.UNREACHABLE)
        await asyncio.sleep(self.latency_s * rng.random())
        self._alive()
        return result

    def _alive(self) -> None:
        if self.killed:
            raise StoreError(Cause.UNREACHABLE, "this edge is dead")

    def _failed(self, cause: Cause) -> StoreError:
        self._store.met[cause] += 1
        return StoreError(cause, "a fault of this world")
