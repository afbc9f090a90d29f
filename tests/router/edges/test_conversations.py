"""Conversations between edges: whatever each read, missed and repeated, in whatever order, states end alike."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from invariants import check
from sharing_edges import SharingEdge, StreamStore, repeat, settle

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.edges.peers import LEASE_S
from pointsman.router.kv.columns import KVColumns
from pointsman.router.kv.conversation import PAUSING, Conversation, Phase
from pointsman.router.kv.conversations import Conversations

REPLICAS = ("r1", "r2", "r3")
SESSIONS = ("x", "y")
TICK_S = 0.005


class Table:
    """A table of conversations whose slots are in an order of its own."""

    def __init__(self, *, reverse: bool = False) -> None:
        self.columns = KVColumns()
        self.table = Conversations(self.columns)
        self.slots: dict[str, int] = {}
        self._order = tuple(reversed(REPLICAS)) if reverse else REPLICAS

    def learn(self, fact: str | tuple[str, int] | Conversation) -> None:
        """A replica's name: it is registered; with a number: start time of its engine; else a published state."""
        if isinstance(fact, Conversation):
            self.table.learn(msgspec.structs.replace(fact), self.slots.get(fact.home, NO_SLOT))
        elif isinstance(fact, str):
            if fact not in self.slots:
                slot = self.slots[fact] = self._order.index(fact)
                self.columns.add_slot(slot)
                self.table.add_slot(slot, fact)
        elif fact[0] in self.slots:
            self.table.engine_started(self.slots[fact[0]], fact[1])
        check(self.table)

    def leave(self, replica: str) -> None:
        slot = self.slots.pop(replica)
        self.table.clear_slot(slot)
        self.columns.clear_slot(slot)

    def knows(self) -> dict[Any, Any]:
        return {known.name: known.rank[:-1] for known in self.table.by_name.values()}


def state(
    name: str, home: str, turn: int, *, tokens: int = 1000, prompt_tokens: int = 0, shared: int = 0, born_ms: int = 0,
    phase: Phase = PAUSING, seen_s: float = 0.0,
) -> Conversation:  # fmt: skip
    return Conversation(
        name, NO_SLOT, tokens, shared, 4000, prompt_tokens, -1, 0, seen_s, turn,
        phase=phase, home=home, born_ms=born_ms, writer="b",
    )  # fmt: skip


FEW = st.integers(0, 2)
STATE = st.builds(
    state, st.sampled_from(SESSIONS), st.sampled_from(REPLICAS), st.integers(1, 3), tokens=FEW, prompt_tokens=FEW,
    shared=FEW, born_ms=FEW, phase=st.sampled_from([Phase.ELSEWHERE, PAUSING]),
)  # fmt: skip
FACT = st.tuples(st.sampled_from(REPLICAS), st.integers(1, 2)) | STATE


@settings(max_examples=200, derandomize=True)
@given(st.lists(FACT, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_in_which_states_are_learned_does_not_matter(facts: list[Any], dice: Any) -> None:
    """Nor how often."""
    first, second = Table(), Table(reverse=True)
    for table, order in ((first, facts), (second, dice.sample(facts, len(facts)) + dice.choices(facts, k=len(facts)))):
        for fact in (*REPLICAS, *order):
            table.learn(fact)
    for table in (first, second):  # each state is repeated while an edge has it
        for fact in facts:
            table.learn(fact)
    assert second.knows() == first.knows()


def test_a_state_whose_home_is_not_registered_counts_when_it_is_repeated() -> None:
    """Until the registration came the state before stays."""
    table = Table()
    table.learn("r1")
    table.learn(state("x", "r1", 1))
    table.learn(state("x", "r2", 2, tokens=900))
    assert table.knows()["x"][:2] == (1, "r1")
    table.learn("r2")
    table.learn(state("x", "r2", 2, tokens=900))
    known = table.table.by_name.get("x")
    assert known is not None and (known.slot, known.tokens) == (table.slots["r2"], 900)
    assert table.columns.signals.footprint[known.slot] == 900


def test_a_conversation_is_dropped_with_its_home() -> None:
    """Its replica leaves, or an engine that started later reports; a late state of before does not bring it back."""
    table = Table()
    table.learn("r1")
    table.learn(state("x", "r1", 1, born_ms=1))
    table.learn(("r1", 2))
    table.learn(state("x", "r1", 7, born_ms=1))
    assert table.table.by_name.get("x") is None
    table.learn(state("x", "r1", 2, born_ms=2))
    assert table.table.by_name.get("x") is not None
    table.leave("r1")
    assert table.table.by_name.get("x") is None


def test_a_conversation_that_was_dropped_by_its_writer_is_dropped() -> None:
    """What another edge wrote of it stays."""
    table = Table()
    table.learn("r1")
    for turn, writer, stays in ((3, "b", False), (4, "c", True)):
        table.learn(msgspec.structs.replace(state("x", "r1", turn), writer=writer))
        table.learn(state("x", "", 0))
        assert (table.table.by_name.get("x") is not None) is stays


def test_requests_that_were_placed_before_the_drop_change_nothing() -> None:
    """They end, and their engine reports their length, when the conversation has begun again."""
    table = Table()
    table.learn("r1")
    slot = table.slots["r1"]
    known = table.table.place(None, "x", slot, (), tokens=10, resident=0, prompt_bytes=40, now_s=0.0)
    assert known is not None and known.under_way
    table.leave("r1")
    for _ in range(2):
        table.table.told(known, slot, 40, 999, 1)
        table.table.served_by(known, known.stands, 2)
        table.table.ended(known, 1.0)
        check(table.table)
        table.learn("r1")
        table.learn(state("x", "r1", 1, tokens=20))
    again = table.table.by_name.get("x")
    assert again is not None and (again.tokens, again.in_flight) == (20, 0)


def test_of_two_requests_of_one_length_the_longer_counts() -> None:
    """As it does between edges: reports of both in one order leave what the other order leaves."""
    table = Table()
    table.learn("r1")
    slot = table.slots["r1"]
    for _ in range(2):
        known = table.table.place(
            table.table.by_name.get("x"), "x", slot, (), tokens=10, resident=0, prompt_bytes=40, now_s=0.0
        )
    assert known is not None
    table.table.told(known, slot, 40, 12, 30)
    table.table.told(known, slot, 40, 12, 0)
    assert known.tokens == 42
    table.table.told(known, slot, 40, 12, 31)
    assert known.tokens == 43


def test_a_conversation_that_takes_the_name_of_another_takes_its_turns() -> None:
    """Other edges, which have that other one, must take the next state for the greater."""
    table = Table()
    table.learn("r1")
    slot = table.slots["r1"]

    def place(*keys: int) -> Conversation:
        known = table.table.find("", keys, len(keys) - 3)
        placed = table.table.place(known, "", slot, keys, tokens=10, resident=0, prompt_bytes=40, now_s=0.0)
        assert placed is not None
        return placed

    for _ in range(3):
        alike = place(1, 7, 9)
    before = alike.turn
    place(2, 6, 8)
    known = place(2, 6, 7, 9)
    assert known is not alike and known.name == 7 and len(table.table.by_name) == 1
    assert known.turn == before + 1


class Fleet:
    """Edges and what happens to them, one deed at a time. Numbers choose whom it concerns, modulo theirs."""

    def __init__(self) -> None:
        self.store, self.edges = StreamStore(), [SharingEdge(name) for name in "abc"]
        self.edges[0].register(*REPLICAS)
        self.now_s = settle(self.store, self.edges, 0.0)
        self.lives = dict.fromkeys(REPLICAS, 1)
        for edge in self.edges:
            self.report_all(edge)

    def report_all(self, edge: SharingEdge) -> None:
        for replica, life in self.lives.items():
            edge.report(replica, epoch=f"{replica} {life}", born_ms=life, snapshot=True)

    def do(self, deed: str, edge: int, other: int, tokens: int) -> None:
        self.now_s += TICK_S
        here, there = self.edges[edge % len(self.edges)], self.edges[other % len(self.edges)]
        getattr(self, deed)(
            here, there, SESSIONS[tokens % len(SESSIONS)], REPLICAS[other % len(REPLICAS)], 100 * tokens
        )
        here.validate()

    def turn(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """The next request of a session, which goes to that replica."""
        table = here.kv.conversations
        known = table.place(
            table.find(session, (), -1), session, here.replicas.slot_of(replica), (), tokens=tokens,
            resident=len(here.name) * int(here is there), prompt_bytes=4 * tokens, now_s=self.now_s, in_flight=False,
        )  # fmt: skip
        here.kv.outbox.add_conversation(known)
        here.sessions.pin(session, replica, self.now_s)

    def measure(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """The engine reports how long prompt and answer are."""
        known = here.kv.conversations.by_name.get(session)
        if known is not None:
            here.kv.conversations.told(known, known.slot, known.prompt_bytes, tokens, 7)
            here.kv.outbox.add_conversation(known)

    def redispatch(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        known = here.kv.conversations.by_name.get(session)
        if known is not None:
            here.kv.conversations.served_by(known, known.stands, here.replicas.slot_of(replica))
            here.kv.outbox.add_conversation(known)

    def restart(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """The engine, of which one edge learns first."""
        self.lives[replica] += 1
        self.report_all(here)

    def report(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        self.report_all(here)

    def publish(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        here.publish(self.store, self.now_s)

    def lose(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """The store loses a batch before anybody reads it."""
        here.protocol.next_batch(self.now_s)

    def forget(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """The store loses a stream, whoever has read it."""
        self.store.streams.pop(there.name, None)

    def read(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """One batch of one stream."""
        here.protocol.peers.meet(self.store.roster(), self.now_s)
        position = here.protocol.following().get(there.name, 0)
        for seq, payload in self.store.after(there.name, position)[:1]:
            here.protocol.receive(there.name, seq, payload, self.now_s)

    def die(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        if len(self.edges) > 2:
            self.edges.remove(here)

    def calm(self) -> None:
        """Every batch is read, every engine reports to every edge, and the dead are known to be."""
        for edge in self.edges:
            self.report_all(edge)
        self.now_s = settle(self.store, self.edges, self.now_s) + LEASE_S
        self.now_s = repeat(self.store, self.edges, repeat(self.store, self.edges, self.now_s))


DEEDS = ("turn",) * 4 + (
    "publish",
    "read",
    "read",
    "measure",
    "redispatch",
    "restart",
    "report",
    "lose",
    "forget",
    "die",
)
DEED = st.tuples(st.sampled_from(DEEDS), st.integers(0, 5), st.integers(0, 5), st.integers(1, 6))


@settings(max_examples=50, derandomize=True)
@given(st.lists(DEED, min_size=20, max_size=60))
def test_every_state_that_an_edge_answers_for_is_known_to_all(deeds: list[tuple[str, int, int, int]]) -> None:
    """Whatever happened, in whatever order it was read, and whichever edge died before others read of it. A copy that
    no edge answers for any more may stay until it is forgotten."""
    happens = Fleet()
    for deed in deeds:
        happens.do(*deed)
    happens.calm()
    for edge in happens.edges:
        assert edge.knows()["sessions"] == happens.edges[0].knows()["sessions"]
        for known in edge.kv.conversations.by_name.values():
            for other in happens.edges if not known.writer else ():
                there = other.kv.conversations.by_name.get(known.name)
                assert there is not None and not known.outranks(there), f"{known} of {edge.name} at {other.name}"
