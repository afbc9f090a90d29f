"""The protocol by which an edge publishes its state for others, and takes over theirs.

`EdgeProtocol` is the whole protocol without a clock, a socket or a task: its driver moves bytes between it and a store.
Each edge has one stream of batches that it alone writes, numbered from 1 without a gap; every edge reads all streams.

- `next_batch` makes what this edge has to publish; the driver appends it to the edge's stream as number `seq`.
- `following` says how far each edge was read, `receive` takes one batch.
- `peers.meet` takes over which edges there are, `peers.sweep` ends those that are silent.

**Everything published is a state or a hint.** A state (registration, document, session pin, conversation) has a rank,
and the greater one is kept in whatever order they arrive; work in flight is absolute and complete with each heartbeat.
A hint (keys that a replica is expected to hold soon) ends by itself. Every edge repeats all states that it answers for
in rounds (`pointsman.router.edges.rounds`), so whatever a reader missed is made up for within two of them.

**Engines are no concern of this protocol.** They report to every edge themselves, and repeat all they hold where a
report was lost.

**Nothing here waits, and nothing grows** while the store is away: what is not published is bounded where it is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.core import Core
from pointsman.router.documents.document import Document
from pointsman.router.edges.documents import SharedDocument, SharedDocuments
from pointsman.router.edges.forgotten import SLACK_S, Forgotten
from pointsman.router.edges.loads import OwnLoads
from pointsman.router.edges.peers import HEARTBEAT_S, Peer, Peers
from pointsman.router.edges.records import (
    NO_HOME,
    Batch,
    ConversationState,
    ExpectedKeys,
    ForgottenSession,
    Names,
    Pin,
    ReplicaRecord,
    SchemaError,
    ScopeUse,
    decode,
    encode,
    pack_keys,
    unpack_keys,
)
from pointsman.router.edges.registrations import SharedReplicas
from pointsman.router.edges.rounds import NOTHING, Rounds
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.kv.conversation import ELSEWHERE, PAUSING, Conversation, Name
from pointsman.router.kv.outbox import KVOutbox
from pointsman.router.tenancy.allowance import Use


class Counters:
    """Counters of one edge's part among others."""

    def __init__(self) -> None:
        self.batches = 0
        """Batches of other edges that were applied."""
        self.gaps = 0
        """Times batches of another edge were missing."""
        self.malformed = 0
        """Batches that could not be read."""
        self.refused = 0
        """Batches of another schema."""


class Outgoing(msgspec.Struct, frozen=True):
    """A batch to append, and what the store keeps besides for edges that start."""

    seq: int
    payload: bytes
    replicas: list[ReplicaRecord]
    documents: list[Document]
    beat: bool


class EdgeProtocol:
    """One edge's side of the protocol."""

    def __init__(self, edge: str, core: Core, documents: Mapping[str, SharedDocument] | None = None) -> None:
        """`edge` is the id of this edge, another one after each start of the process; `core` has the shared state."""
        replicas, load, sessions, kv = core.replicas, core.load, core.sessions, core.kv
        self.edge = edge
        self._replicas = replicas
        self._sessions = sessions
        self._kv = kv
        self.documents = SharedDocuments(documents or {})
        self._book = core.book
        self._limits = core.limits
        core.book.on_written.append(self._note_written)
        self.peers = Peers(edge, replicas=replicas, load=load, columns=kv.columns)
        self.peers.on_gone.append(core.limits.lose)
        self.registrations = SharedReplicas(replicas)
        self.rounds = Rounds(
            registrations=self.registrations,
            documents=self.documents,
            book=core.book,
            sessions=sessions,
            conversations=kv.conversations,
            is_alive=self.peers.is_alive,
        )
        self.counters = Counters()
        self.forgotten = Forgotten()
        self._drop_session = core.drop_session
        self.loads = OwnLoads(replicas=replicas, load=load, columns=kv.columns)
        self.outbox = kv.outbox = KVOutbox()
        sessions.changed = {}
        self.seq = 0
        """Number of the last batch made."""
        self._beat_s = float("-inf")
        self._records: dict[str, ReplicaRecord] = {}
        """To be published, by replica: the latest replaces those before."""
        self._changed_documents: dict[str, Document] = {}
        self._rewrite = False
        self._forgets = False
        """A session was forgotten here since the last batch."""
        self.leaving = False
        """The next batch is the last."""

    def __repr__(self) -> str:
        return f"EdgeProtocol({self.edge} at {self.seq}, {list(self.peers)!r})"

    @property
    def in_step(self) -> bool:
        """Whether no state is missing here that an edge which is alive answers for."""
        return not self.peers.behind

    # Changes at this edge

    def registry_changed(self) -> None:
        """The registry may differ from the agreed registrations."""
        self.registrations.changed = True

    def document_changed(self) -> None:
        """A document may differ from the agreed one."""
        self.documents.changed = True

    def _note_written(self, document: Document) -> None:
        """A document of the book was written at this edge."""
        self._changed_documents[document.name] = document

    def session_forgotten(self, name: Name, now_s: float) -> None:
        """Somebody had a session forgotten at this edge."""
        self._forgets = self.forgotten.add(name, now_s, here=True) or self._forgets

    def cut_off(self, *, cut: bool) -> None:
        """Other edges cannot be heard (`cut`), or can again: limits are kept by an equal part at each until then."""
        if not cut:
            self._limits.share = 1.0
        elif self._limits.share == 1.0:
            self._limits.share = 1.0 / (1 + len(self.peers.alive))

    def keeps(self, replica: Replica) -> bool:
        """Whether a replica whose lease ended here stays: its heartbeats reach another edge, or reached one that died
        and HAProxy's checks still pass."""
        if self.peers.hold(replica.id):
            self._kv.stop_reports(replica.slot)
            return True
        return replica.health is Health.UP and self.peers.held(replica.id)

    # Publishing

    def next_batch(self, now_s: float) -> Outgoing | None:
        """Return what there is to publish; None when there is nothing and no heartbeat is due."""
        outbox, pins = self.outbox, self._sessions.changed
        assert pins is not None
        beat = now_s - self._beat_s >= HEARTBEAT_S or self.leaving or self._rewrite
        self._gather()
        self.forgotten.expire(now_s)
        limits = self._limits
        if not (
            beat or self.loads.changed() or outbox or pins or self._records or self._changed_documents or self._forgets
        ):
            # Limits change with requests alone, which change the loads too, and with reports, which a heartbeat tells.
            return None
        self.seq += 1
        uses = [ScopeUse(scope, *use) for scope, use in limits.uses(complete=beat)] if limits.active else []
        records, documents = list(self._records.values()), list(self._changed_documents.values())
        part = self.rounds.next_part(now_s) if beat else NOTHING
        names = Names()
        batch = Batch(
            beat=beat,
            bye=self.leaving,
            loads=self.loads.take(names, complete=beat),
            holds=[names.at(r.id) for r in self._replicas if (r.heard_until_s or 0.0) > now_s] if beat else [],
            replicas=records + part.replicas,
            documents=documents + part.documents,
            pins=self._pins([*pins, *part.sessions], names, now_s),
            conversations=[
                *(ConversationState(name, NO_HOME) for name in outbox.dropped),
                *(_state(known, names, now_s, was) for known, was in outbox.conversations.values() if known.home),
                *(_state(known, names, now_s) for known in part.conversations),
            ],
            expected=[
                ExpectedKeys(names.at(self._replicas.ids[slot]), pack_keys(keys)) for slot, keys in outbox.expected
            ],
            forgotten=self._forgotten(now_s) if beat or self._forgets else [],
            uses=uses,
            round_starts=part.starts,
            round_ends=part.ends,
        )
        batch.names = names.list
        if self._rewrite:
            records, documents = self.registrations.records(), [*self.documents.agreed(), *self._book]
            self._rewrite = False
        self._records, self._changed_documents, self._sessions.changed = {}, {}, {}
        self._forgets = False
        outbox.clear()
        if beat:
            self._beat_s = now_s
        return Outgoing(self.seq, encode(batch), records, documents, beat)

    def store_emptied(self) -> None:
        """The store lost what it kept: registrations, documents and all states are published again."""
        self._rewrite = True
        self.rounds.begin_anew()

    def _gather(self) -> None:
        """Take up changes made here, before anything of other edges is taken over that might undo them unseen."""
        if self.registrations.changed:
            self._records.update((record.id, record) for record in self.registrations.changes())
        if self.documents.changed:
            self._changed_documents.update((document.name, document) for document in self.documents.changes())

    def _pins(self, sessions: Sequence[str], names: Names, now_s: float) -> list[Pin]:
        pins = []
        for session in sessions:
            state = self._sessions.state(session)
            if state is not None:
                replica_id, moves, seen_s = state
                ordered = session in self._sessions.ordered
                pins.append(Pin(session, names.at(replica_id), moves, int((now_s - seen_s) * 1000), ordered))
        return pins

    def _forgotten(self, now_s: float) -> list[ForgottenSession]:
        return [ForgottenSession(name, int((now_s - at_s) * 1000)) for name, at_s in self.forgotten.to_publish()]

    # Following

    def following(self) -> dict[str, int]:
        """Return the number of the last batch that was read, by edge."""
        return {peer.info.edge: peer.position for peer in self.peers}

    def receive(self, edge: str, seq: int, payload: bytes, now_s: float) -> None:
        """Take over batch `seq` of another edge's stream.

        Bytes that are no batch, or a batch of another schema, are counted and passed over.
        """
        peer = self.peers.get(edge)
        if peer is None or seq <= peer.position:
            return
        counters = self.counters
        counters.gaps += not peer.advance(seq)
        peer.read_s = now_s
        try:
            batch = decode(payload)
            peer.refused = ""
            self._merge(batch, edge, now_s)
            if seq > peer.past_to:
                peer.heard_s, peer.alive, peer.met = now_s, True, True
                self._follow_present(peer, batch, now_s)
        except SchemaError as error:
            counters.refused += 1
            peer.refused = str(error)
            peer.missed()
        except (msgspec.MsgspecError, IndexError, struct.error):
            counters.malformed += 1
            peer.missed()
        else:
            counters.batches += 1
            peer.follow_round(starts=batch.round_starts, ends=batch.round_ends)

    def restore(self, records: Iterable[ReplicaRecord], documents: Iterable[Document], now_s: float) -> None:
        """Take over what the store kept, and publish it: its writer may have died before others read of it."""
        kept = {document.name: document for document in documents}
        self._merge(Batch(replicas=list(records), documents=list(kept.values())), "", now_s)
        self._records.update((record.id, record) for record in self.registrations.records())
        self._changed_documents.update((document.name, document) for document in self.documents.agreed())
        # Of the book, which may be large, what the store does not have: written while it was away.
        self._changed_documents.update(
            (document.name, document) for document in self._book if kept.get(document.name) != document
        )

    def _merge(self, batch: Batch, writer: str, now_s: float) -> None:
        """Take over the states of a batch. Reading one twice changes nothing."""
        self._gather()
        for record in batch.replicas:
            if self.registrations.merge(record, now_s):
                self._gather()  # it may have been answered with a greater one
        for document in batch.documents:
            if "/" in document.name:
                self._book.merge(document)
            else:
                self.documents.merge(document)
        for one in batch.forgotten:
            at_s = now_s - one.age_ms / 1000
            if self.forgotten.add(one.name, at_s, here=False):
                self._drop_session(one.name, at_s + SLACK_S)
        for pin in batch.pins:
            seen_s = now_s - pin.age_ms / 1000
            if not self.forgotten.voids(pin.session, seen_s):
                self._sessions.learn(
                    pin.session, batch.names[pin.at], pin.moves, seen_s, now_s, writer=writer, ordered=pin.ordered
                )
        for state in batch.conversations:
            if state.at != NO_HOME and self.forgotten.voids(state.name, now_s - state.age_ms / 1000):
                continue
            home = "" if state.at == NO_HOME else batch.names[state.at]
            replica = self._replicas.get(home)
            self._kv.conversations.learn(
                _conversation(state, home, writer, now_s), NO_SLOT if replica is None else replica.slot, was=state.was
            )

    def _follow_present(self, peer: Peer, batch: Batch, now_s: float) -> None:
        """Take over what of a batch is true at its moment alone."""
        for expected in batch.expected:
            replica = self._replicas.get(batch.names[expected.at])
            if replica is not None:
                self._kv.expect(replica.slot, unpack_keys(expected.keys), now_s)
        self.peers.update_loads(peer, batch.loads, batch.names, complete=batch.beat)
        if batch.uses or batch.beat:
            used = {one.scope: Use(one.requests, one.tokens, one.in_flight) for one in batch.uses}
            self._limits.hear(peer.info.edge, used, now_s, complete=batch.beat)
        if batch.beat:
            peer.holds = frozenset(batch.names[at] for at in batch.holds)
        if batch.bye:
            self.peers.end(peer)


def _state(known: Conversation, names: Names, now_s: float, was: Name | None = None) -> ConversationState:
    """A conversation as it is published."""
    return ConversationState(
        known.name,
        names.at(known.home),
        known.turn,
        known.tokens,
        known.shared,
        known.prompt_bytes,
        known.prompt_tokens,
        known.tail_at,
        known.tail,
        int((now_s - known.seen_s) * 1000),
        was,
        known.under_way,
        known.born_ms,
    )


def _conversation(state: ConversationState, home: str, writer: str, now_s: float) -> Conversation:
    """A published state as the table of conversations takes it over."""
    return Conversation(
        state.name,
        NO_SLOT,
        state.tokens,
        state.shared,
        state.prompt_bytes,
        state.prompt_tokens,
        state.tail_at,
        state.tail,
        now_s - state.age_ms / 1000,
        turn=state.turn,
        phase=ELSEWHERE if state.under_way else PAUSING,
        born_ms=state.born_ms,
        home=home,
        writer=writer,
    )
