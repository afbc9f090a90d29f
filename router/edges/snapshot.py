"""All that one edge knows, in parts, for another that missed some of it.

A part is a batch like any other, so whoever takes it merges it by the same rules. Parts are made one at a time while
the edge goes on deciding: what changes meanwhile is in the streams beyond `positions`, which its reader reads next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pointsman.router.edges.records import (
    Batch,
    Document,
    Engine,
    Held,
    Known,
    Mark,
    Names,
    Pin,
    ReplicaRecord,
    Talk,
    encode,
    load_of,
    pack_keys,
)
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.kv.conversation import Conversation, Name
from pointsman.router.kv.state import KVState

KEYS_PER_PART = 4096
"""A part is made, and taken, within 3 ms: lookups wait for no longer."""

RECORDS_PER_PART = 1024


def talk_of(known: Conversation, at: int, was: Name | None = None, age_ms: int = 0) -> Talk:
    """A conversation as it is told."""
    return Talk(
        known.name,
        at,
        known.turn,
        known.tokens,
        known.shared,
        known.prompt_bytes,
        known.prompt_tokens,
        known.tail_at,
        known.tail,
        age_ms,
        was,
        known.under_way,
        known.born_ms,
        known.lost,
    )


class Snapshot:
    """One snapshot in the making."""

    def __init__(
        self,
        snapshot_id: str,
        *,
        edges: list[str],
        positions: Mapping[str, int],
        known: Sequence[Known],
        replicas: ReplicaRegistry,
        records: Sequence[ReplicaRecord],
        documents: Sequence[Document],
        sessions: SessionTable,
        kv: KVState,
        now_s: float,
    ) -> None:
        self.id = snapshot_id
        self.edges = edges
        """Who asked for it."""
        self.positions = dict(positions)
        """By edge, the last batch that is in it for certain."""
        self.known = list(known)
        """By edge, all batches whose states are in it for certain."""
        self._replicas = replicas
        self._records = list(records)
        self._documents = list(documents)
        self._sessions = sessions
        self._kv = kv
        self._now_s = now_s

    def chunks(self) -> Iterator[bytes]:
        """Its parts as bytes, each made when it is asked for."""
        return map(encode, self.batches())

    def batches(self) -> Iterator[Batch]:
        """Its parts: registrations first, since all else speaks of them."""
        yield Batch(replicas=self._records, documents=self._documents)
        yield self._engines()
        yield from self._held()
        yield from self._marks()
        yield from self._pins()
        yield from self._talks()

    def _engines(self) -> Batch:
        """What is known of engines; a reader forgets the keys it had of them."""
        names, kv = Names(), self._kv
        engines = []
        for replica in self._replicas:
            feed = kv.feed(replica.slot)
            if feed.complete:
                capacity = kv.signals.capacity[replica.slot]
                engines.append(
                    Engine(
                        names.at(replica.id),
                        feed.epoch,
                        snapshot=True,
                        load=load_of(feed.load),
                        capacity_tokens=int(capacity) if capacity < float("inf") else 0,
                        changes=feed.at,
                        born_ms=feed.life[0],
                        past=list(feed.past),
                    )
                )
        return Batch(engines=engines, names=names.list)

    def _held(self) -> Iterator[Batch]:
        ids = self._replicas.ids
        for groups in self._kv.index.export(KEYS_PER_PART):
            names = Names()
            held = []
            for slots, keys in groups:
                at = names.all_at(ids[int(slot)] for slot in slots if ids[int(slot)])
                held.append(Held(at, pack_keys(keys)))
            yield Batch(held=held, names=names.list)

    def _marks(self) -> Iterator[Batch]:
        ids = self._replicas.ids
        expectations = self._kv.index.expectations()
        for start in range(0, len(expectations), RECORDS_PER_PART // 16):
            names = Names()
            marks = []
            for end_s, slot, keys in expectations[start : start + RECORDS_PER_PART // 16]:
                left_ms = int((end_s - self._now_s) * 1000)
                if left_ms > 0 and ids[slot]:
                    marks.append(Mark(names.at(ids[slot]), pack_keys(keys), left_ms))
            yield Batch(marks=marks, names=names.list)

    def _pins(self) -> Iterator[Batch]:
        pins = self._sessions.export()
        for start in range(0, len(pins), RECORDS_PER_PART):
            names = Names()
            told = [
                Pin(session, names.at(replica_id), moves, int((self._now_s - seen_s) * 1000))
                for session, replica_id, moves, seen_s in pins[start : start + RECORDS_PER_PART]
            ]
            yield Batch(pins=told, names=names.list)

    def _talks(self) -> Iterator[Batch]:
        """Also of those without a home: the reader must not believe an earlier word either."""
        words = self._kv.conversations.words()
        for start in range(0, len(words), RECORDS_PER_PART):
            names = Names()
            talks = [
                talk_of(word, names.at(word.home), age_ms=int((self._now_s - word.seen_s) * 1000))
                for word in words[start : start + RECORDS_PER_PART]
                if word.home  # else it ended since the first part
            ]
            yield Batch(talks=talks, names=names.list)
