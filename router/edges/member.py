"""One edge among others: what it says to them, and what it makes of what they say.

`Member` is the whole protocol without a clock, a socket or a task: whoever drives it moves bytes between it and a
store. Each edge has one stream of batches that it alone writes, numbered from 1 without a gap; every edge follows all
streams. So an edge knows by itself when it missed something, and asks another for a snapshot:

- `next_batch` makes what this edge has to say; the driver appends it to the edge's stream, as number `seq`.
- `roster` says which edges there are, `following` how far each was read, `hear` takes one batch of another's stream.
- `sweep` ends who is silent, and asks for a snapshot where a gap is; `snapshot_wanted` gives one to upload when others
  asked, `announce` tells where it lies; `offer` is one to fetch, `take` applies a part, `took` ends it.

**Edges agree once quiet.** What is a state (registration, pin, conversation, document, count) has a rank, and the
greater is right whatever the order of arrival; a lesser registration or document, which last, is answered with the
greater. What is a sequence (an engine's keys) comes complete and in order, or the gap is seen and a snapshot mends it.
Of edges that say no more everybody tells which batches it knows: who knows fewer takes a snapshot, whether or not
anybody knows them all, so that nothing stays with the one that heard it.
A snapshot is taken while all goes on: it says how far each stream is in it, and its reader goes on from there, reading
some batches twice, which changes nothing.

**Nothing here waits, and nothing grows** while the store is away: see `pointsman.router.edges.outbox` for what is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import msgspec

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.core import Core
from pointsman.router.edges.counters import Counters
from pointsman.router.edges.documents import SharedDocument, SharedDocuments
from pointsman.router.edges.loads import OwnLoads
from pointsman.router.edges.outbox import KVOutbox
from pointsman.router.edges.peers import HEARTBEAT_S, Peer, Peers
from pointsman.router.edges.records import (
    Ask,
    Batch,
    Document,
    EdgeInfo,
    Engine,
    Mark,
    Names,
    Notice,
    Pin,
    ReplicaRecord,
    SchemaError,
    Talk,
    decode,
    encode,
    engine_events,
    load_of,
    pack_keys,
    unpack_keys,
)
from pointsman.router.edges.registrations import SharedReplicas
from pointsman.router.edges.snapshot import Snapshot, talk_of
from pointsman.router.fleet.replicas import Health, Replica
from pointsman.router.kv.conversation import ELSEWHERE, PAUSING, Conversation

ASK_TIMEOUT_S = 10.0
"""A snapshot that was asked for and did not come: another edge is asked. One of a million keys takes a few seconds."""

MUTE_S = 2 * HEARTBEAT_S
"""Who was asked and says nothing for so long is dead: a newcomer reads what an edge said that died lately like what one
says that lives."""

MAX_NOTICES = 16
"""Answers waiting to be told. Of an earlier one its reader gave up hope."""


class Outgoing(msgspec.Struct, frozen=True):
    """A batch to append, and what the store should keep for edges that come when nobody else is there."""

    seq: int
    payload: bytes
    replicas: list[ReplicaRecord]
    documents: list[Document]
    beat: bool


class Member:
    """This edge's side of it."""

    def __init__(self, edge: str, core: Core, documents: Mapping[str, SharedDocument] | None = None) -> None:
        """`edge` names this life of the process; no other has it."""
        self.edge = edge
        replicas, load, sessions, kv = core.replicas, core.load, core.sessions, core.kv
        self._replicas = replicas
        self._sessions = sessions
        self._kv = kv
        self._requests = core.requests
        self.documents = SharedDocuments(documents or {})
        self.peers = Peers(edge, replicas=replicas, load=load, columns=kv.columns)
        self.registrations = SharedReplicas(replicas)
        self.counters = Counters()
        self._loads = OwnLoads(replicas=replicas, load=load, columns=kv.columns)
        self._outbox = kv.outbox = KVOutbox()
        sessions.changed = {}
        self._knew_something = bool(len(sessions) or len(kv.index) or len(kv.conversations))
        self.seq = 0
        """Of the last batch made."""
        self._beat_s = float("-inf")
        self._records: dict[str, ReplicaRecord] = {}
        """To be told, by replica: the latest says all."""
        self._said_documents: dict[str, Document] = {}
        self._rewrite = False
        self._ask: Ask | None = None
        self._asked = ""
        self._asked_s = float("-inf")
        self._askers: set[str] = set()
        self._met = False
        """The roster was read."""
        self._whole = False
        """Nothing is missing of what edges said that left before this one came. Who is not the first takes a snapshot:
        the streams of those that are there do not tell it."""
        self._notices: list[Notice] = []
        self._offer: Notice | None = None
        self._snapshots = 0
        self.leaving = False
        """The next batch is the last."""

    def __repr__(self) -> str:
        return f"Member({self.edge} at {self.seq}, {list(self.peers)!r})"

    # What happens here

    def registry_changed(self) -> None:
        self.registrations.changed = True

    def document_changed(self) -> None:
        self.documents.changed = True

    def slot_added(self, slot: int) -> None:
        """After the tables have made room."""
        self.peers.slot_added(slot)

    def slot_removed(self, slot: int) -> None:
        self._loads.clear_slot(slot)

    def keeps(self, replica: Replica) -> bool:
        """Whether a replica whose lease ended here stays: its heartbeats go to another edge, or went to one that fell
        silent and HAProxy's checks still pass."""
        holders = self.peers.holders(replica.id)
        if holders:
            if self._kv.unheard(replica.slot):
                # What they told of its keys was passed over here while it told them itself.
                for peer in holders:
                    peer.based = False
            return True
        return replica.health is Health.UP and self.peers.orphaned(replica.id)

    # Saying

    def next_batch(self, now_s: float) -> Outgoing | None:
        """What there is to say; None when there is nothing and no heartbeat is due."""
        outbox, sessions = self._outbox, self._sessions
        pins = sessions.changed
        assert pins is not None
        beat = now_s - self._beat_s >= HEARTBEAT_S or self.leaving or self._rewrite
        self._gather()
        loads = self._loads.changed()
        if not (beat or loads or outbox or pins or self._records or self._said_documents or self._ask or self._notices):
            return None
        if outbox.overrun or sessions.overrun:
            self.counters.overruns += 1
            outbox.overrun = sessions.overrun = False
            self.seq += 1
        self.seq += 1
        records, documents = list(self._records.values()), list(self._said_documents.values())
        names = Names()
        batch = Batch(
            beat=beat,
            fresh=self.seq == 1 and not self._knew_something,
            warm=beat and self.in_step,
            bye=self.leaving,
            loads=self._loads.take(names, complete=beat),
            holds=names.all_at(r.id for r in self._replicas if (r.heard_until_s or 0.0) > now_s) if beat else [],
            silent=self.peers.silent() if beat else {},
            gone=self.peers.gone(now_s) if beat else [],
            replicas=records,
            documents=documents,
            pins=self._say_pins(pins, names, now_s),
            talks=self._say_talks(names, now_s),
            marks=[Mark(names.at(self._replicas.ids[slot]), pack_keys(keys)) for slot, keys in outbox.expected],
            engines=self._say_engines(names),
            asks=[] if self._ask is None else [self._ask],
            notices=self._notices,
        )
        batch.names = names.list
        kept, kept_documents = records, documents
        if self._rewrite:
            kept = self.registrations.records()
            kept_documents = self.documents.agreed()
            self._rewrite = False
        self._records, self._said_documents, self._ask, self._notices = {}, {}, None, []
        outbox.clear()
        sessions.changed = {}
        if beat:
            self._beat_s = now_s
        return Outgoing(self.seq, encode(batch), kept, kept_documents, beat)

    def store_emptied(self) -> None:
        """The store lost what it kept: it is told all of that again."""
        self._rewrite = True

    def _gather(self) -> None:
        """What changed here and is not agreed yet; before anything of others is taken, which might undo it unheard."""
        if self.registrations.changed:
            self._records.update((record.id, record) for record in self.registrations.changes())
        if self.documents.changed:
            self._said_documents.update((document.name, document) for document in self.documents.changes())

    def _say_pins(self, sessions: Iterable[str], names: Names, now_s: float) -> list[Pin]:
        pins = []
        for session in sessions:
            told = self._sessions.told(session)
            if told is not None:
                replica_id, moves, seen_s = told
                pins.append(Pin(session, names.at(replica_id), moves, int((now_s - seen_s) * 1000)))
        return pins

    def _say_talks(self, names: Names, now_s: float) -> list[Talk]:
        talks = []
        for name, was in self._outbox.conversations.items():
            word = self._kv.conversations.word(name)
            if word is not None:
                # What was lost may have been silent for long; of all others something was just seen.
                age_ms = int((now_s - word.seen_s) * 1000) if word.slot == NO_SLOT else 0
                talks.append(talk_of(word, names.at(word.home), was, age_ms))
        return talks

    def _say_engines(self, names: Names) -> list[Engine]:
        engines = []
        for slot, out in self._outbox.engines.items():
            changes = out.changes
            engines.append(
                Engine(
                    names.at(self._replicas.ids[slot]),
                    out.epoch,
                    out.snapshot,
                    pack_keys([key for key, is_in in changes.items() if is_in]),
                    pack_keys([key for key, is_in in changes.items() if not is_in]),
                    [(first.id, first.prompt_tokens, first.cached_tokens, first.ttft_ms) for first in out.first],
                    [(ended.id, ended.prompt_tokens, ended.completion_tokens) for ended in out.finished],
                    load_of(out.load),
                    out.capacity_tokens,
                    out.since,
                    out.at,
                    out.born_ms,
                )
            )
        return engines

    # Following

    def roster(self, infos: Iterable[EdgeInfo], now_s: float) -> None:
        """Which edges the store knows."""
        self.peers.roster(infos, now_s)
        if not self._met:
            self._met, self._whole = True, not self.peers

    def following(self) -> dict[str, int | None]:
        """By edge, the last batch that was read; None: start with whatever comes next."""
        return {peer.info.edge: peer.position for peer in self.peers}

    def hear(self, edge: str, seq: int, payload: bytes, now_s: float) -> None:
        """One batch of another edge's stream. What is no batch, or of a later schema, is counted and passed over."""
        peer = self.peers.get(edge)
        if peer is None or (peer.position is not None and seq <= peer.position):
            return
        in_step = peer.position is not None and seq == peer.position + 1
        try:
            batch = decode(payload)
        except SchemaError as error:
            self.counters.refused += 1
            peer.refused, peer.position = str(error), seq
            peer.unread(seq)
            return
        except msgspec.MsgspecError:
            self.counters.malformed += 1
            peer.position = seq
            peer.unread(seq)
            return
        if seq == 1 and in_step:
            peer.based = batch.fresh and self._whole
        elif not in_step and peer.based:
            self.counters.gaps += 1
            peer.based = False
        peer.position, peer.refused = seq, ""
        self.peers.heard(peer, now_s)
        self.counters.batches += 1
        try:
            if not self.merge(batch, now_s) and peer.based:
                self.counters.gaps += 1
                peer.based = False
            peer.read(seq)
            if seq > peer.newest:
                self._follow_present(peer, batch, now_s)
                peer.newest = seq
        except (IndexError, struct.error):
            self.counters.malformed += 1
            peer.unread(seq)

    def merge(self, batch: Batch, now_s: float, *, snapshot: bool = False) -> bool:
        """Takes over what of a batch is right. Reading one twice changes nothing. False when it goes on from something
        that is not known here."""
        for record in batch.replicas:
            self._gather()  # a record may be answered, which is a change
            self.registrations.merge(record, now_s)
            if (better := self.registrations.better(record)) is not None:
                self._records[better.id] = better
        self._gather()
        for document in batch.documents:
            self.documents.merge(document)
            if (known := self.documents.better(document)) is not None:
                self._said_documents[known.name] = known
        get = self._replicas.get
        found = [get(name) for name in batch.names]
        kv = self._kv
        complete = True
        for engine in batch.engines:
            replica = found[engine.at]
            if replica is None:
                continue
            events = engine_events(engine)
            if snapshot:
                kv.begin(replica.slot, events, engine.past)
                continue
            if not kv.relayed(replica.slot, events):
                complete = False
            self._requests.report(replica.slot, events, now_s)
        for held in batch.held:
            slots = [replica.slot for replica in map(found.__getitem__, held.at) if replica is not None]
            slots = [slot for slot in slots if kv.takes(slot)]
            if slots:
                kv.index.stored_by(slots, unpack_keys(held.keys))
        for mark in batch.marks:
            replica = found[mark.at]
            if replica is not None:
                kv.expected_elsewhere(replica.slot, unpack_keys(mark.keys), now_s, mark.left_ms / 1000)
        for pin in batch.pins:
            self._sessions.learn(pin.session, batch.names[pin.at], pin.moves, now_s - pin.age_ms / 1000, now_s)
        for talk in batch.talks:
            replica = found[talk.at]
            self._merge_talk(talk, batch.names[talk.at], NO_SLOT if replica is None else replica.slot, now_s)
        return complete

    def _merge_talk(self, talk: Talk, home: str, slot: int, now_s: float) -> None:
        word = Conversation(
            talk.name,
            NO_SLOT,
            talk.tokens,
            talk.shared,
            talk.prompt_bytes,
            talk.prompt_tokens,
            talk.tail_at,
            talk.tail,
            now_s - talk.age_ms / 1000,
            talk.turn,
            0,
            ELSEWHERE if talk.under_way else PAUSING,
            talk.born_ms,
            home,
            talk.lost,
        )
        self._kv.conversations.learn(word, slot, was=talk.was)

    def _follow_present(self, peer: Peer, batch: Batch, now_s: float) -> None:
        """What of a batch is true of its moment alone."""
        self.peers.tell_loads(peer, batch.loads, batch.names, complete=batch.beat)
        if batch.beat:
            peer.holds = frozenset(batch.names[at] for at in batch.holds)
            peer.warm, peer.silent, peer.gone = batch.warm, batch.silent, batch.gone
        for ask in batch.asks:
            if ask.edge == self.edge:
                self._askers.add(peer.info.edge)
        for notice in batch.notices:
            if self.edge in notice.edges:
                self._offer = notice
                self.peers.remember(notice.known, now_s)
        if batch.bye:
            self.peers.leave(peer)

    def restore(self, records: Iterable[ReplicaRecord], documents: Iterable[Document], now_s: float) -> None:
        """What the store kept, for an edge that comes when nobody is there to ask."""
        self.merge(Batch(replicas=list(records), documents=list(documents)), now_s)
        # Who put them may have died before it told anybody but the store.
        self._records.update((record.id, record) for record in self.registrations.records())
        self._said_documents.update((document.name, document) for document in self.documents.agreed())

    # Snapshots

    def sweep(self, now_s: float) -> list[str]:
        """Ends edges that are silent and asks for what is missing; who fell silent."""
        died = self.peers.sweep(now_s)
        behind = self.peers.behind()
        if not behind:
            self._asked = ""
        elif not self._asked or now_s - self._asked_s >= ASK_TIMEOUT_S or self._asked_a_dead_one(now_s):
            # An edge that is in step with all mends everything at once; whoever did not answer comes last.
            last = self._asked
            target = min(behind, key=lambda peer: (peer.info.edge == last, not peer.warm, peer.info.edge))
            self._asked, self._asked_s = target.info.edge, now_s
            self._ask = Ask(self._asked)
            self.counters.asked += 1
        return died

    def _asked_a_dead_one(self, now_s: float) -> bool:
        asked = self.peers.get(self._asked)
        return asked is None or (asked.heard_s <= self._asked_s and now_s - self._asked_s >= MUTE_S)

    @property
    def in_step(self) -> bool:
        """Whether nothing is missing that any living edge said, or knows of edges that say no more."""
        return not self.peers.behind()

    def snapshot_wanted(self, now_s: float) -> Snapshot | None:
        """A snapshot for those who asked since the last; None when nobody did."""
        if not self._askers:
            return None
        self._snapshots += 1
        self.counters.served += 1
        # Of one that lives the reader reads on, and what was passed over here while a snapshot was taken with it.
        positions = {
            peer.info.edge: position
            for peer in self.peers
            if peer.based and (position := peer.position if peer.alive else peer.whole_to) is not None
        }
        snapshot = Snapshot(
            f"{self.edge}-{self._snapshots}",
            edges=sorted(self._askers),
            positions={**positions, self.edge: self.seq},
            known=self.peers.known(now_s),
            replicas=self._replicas,
            records=self.registrations.records(),
            documents=self.documents.agreed(),
            sessions=self._sessions,
            kv=self._kv,
            now_s=now_s,
        )
        self._askers = set()
        return snapshot

    def announce(self, snapshot: Snapshot, chunks: int) -> None:
        """It lies in the store."""
        notice = Notice(snapshot.id, chunks, snapshot.edges, snapshot.positions, snapshot.known)
        self._notices = [*self._notices, notice][-MAX_NOTICES:]

    def offer(self) -> Notice | None:
        """A snapshot that lies there for this edge; given once."""
        offer, self._offer = self._offer, None
        return offer

    def take(self, chunk: bytes, now_s: float) -> bool:
        """Applies one part of a snapshot, in order; False for what is none."""
        try:
            self.merge(decode(chunk), now_s, snapshot=True)
        except (SchemaError, msgspec.MsgspecError, IndexError, struct.error):
            self.counters.malformed += 1
            return False
        return True

    def took(self, notice: Notice) -> None:
        """All parts are applied: what the streams say beyond it is read from there on."""
        self.counters.taken += 1
        self._whole = True
        self._kv.took()
        for known in notice.known:
            peer = self.peers.get(known.edge)
            if peer is not None:
                peer.known.add_all(known.spans)
        for edge, position in notice.positions.items():
            peer = self.peers.get(edge)
            if peer is not None:
                peer.known.add(0, position)
                if peer.alive and peer.position is not None:
                    peer.position = min(peer.position, position)
                else:
                    peer.position = position  # what it said before that may not lie in the store any more
                peer.based = True
        self._asked = ""

    def gave_up(self) -> None:
        """The snapshot was not to be had to its end. Another is asked for."""
        self._kv.gave_up()

    def validate(self) -> None:
        """Raises AssertionError when an owner contradicts itself."""
        self.peers.validate()
        self.registrations.validate()
