"""Conversations between edges: whatever each heard, lost and passed on, in whatever order, all end with one table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from members import SharingEdge, StreamStore, settle

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.kv.columns import KVColumns
from pointsman.router.kv.conversation import PAUSING, Conversation, Phase
from pointsman.router.kv.conversations import Conversations

SAID, UNSAID = ("r1", "r2"), "r3"
"""Replicas whose engines say when their life began, and one whose does not."""

REPLICAS = (*SAID, UNSAID)
SESSIONS = ("x", "y")
FIRST = ("a", "b", "c")
TICK_S = 0.005


# One table


class Table:
    """A table of conversations whose slots are in an order of its own, and what it heard of replicas."""

    def __init__(self, *, reverse: bool = False) -> None:
        self.columns = KVColumns()
        self.table = Conversations(self.columns)
        self.slots: dict[str, int] = {}
        self._order = tuple(reversed(REPLICAS)) if reverse else REPLICAS

    def hear(self, fact: str | tuple[str, int] | Conversation) -> None:
        """A replica's name: it is registered; with a number: when its engine's life began; else what an edge says."""
        if isinstance(fact, Conversation):
            self.table.learn(msgspec.structs.replace(fact), self.slots.get(fact.home, NO_SLOT))
        elif isinstance(fact, str):
            if fact not in self.slots:
                slot = self.slots[fact] = self._order.index(fact)
                self.columns.add_slot(slot)
                self.table.add_slot(slot, fact)
        elif fact[0] in self.slots:
            assert not self.table.engine_lives(self.slots[fact[0]], fact[1]), "of lives that are said nothing is told"
        self.table.validate()

    def leave(self, replica: str) -> None:
        slot = self.slots.pop(replica)
        self.table.clear_slot(slot)
        self.columns.clear_slot(slot)

    def knows(self) -> dict[Any, Any]:
        """The last word on each conversation, and whether it has a home."""
        return {word.name: (word.rank[:-1], word.slot != NO_SLOT) for word in self.table.words()}


def word(
    name: str, home: str, turn: int, *, tokens: int = 1000, prompt_tokens: int = 0, shared: int = 0, born_ms: int = 0,
    phase: Phase = PAUSING, seen_s: float = 0.0,
) -> Conversation:  # fmt: skip
    return Conversation(
        name, NO_SLOT, tokens, shared, 4000, prompt_tokens, -1, 0, seen_s, turn,
        phase=phase, home=home, born_ms=born_ms,
    )  # fmt: skip


FEW = st.integers(0, 2)
WORD = st.builds(
    word, st.sampled_from(SESSIONS), st.sampled_from(REPLICAS), st.integers(1, 3), tokens=FEW, prompt_tokens=FEW,
    shared=FEW, born_ms=FEW, phase=st.sampled_from([Phase.ELSEWHERE, PAUSING]),
)  # fmt: skip
FACT = st.sampled_from(REPLICAS) | st.tuples(st.sampled_from(REPLICAS), st.integers(1, 2)) | WORD


@settings(max_examples=400, derandomize=True)
@given(st.lists(FACT, min_size=1, max_size=12), st.randoms(use_true_random=False), st.integers(0, 12))
def test_the_order_of_what_is_heard_is_of_no_account(facts: list[Any], dice: Any, told: int) -> None:
    """Nor how often, nor whether a part of it came by the snapshot of another; each engine tells its life again."""
    registered = [fact for fact in facts if isinstance(fact, str)]
    lives = [fact for fact in facts if isinstance(fact, tuple)]
    first, second, newcomer = Table(), Table(reverse=True), Table(reverse=True)
    for at, fact in enumerate(facts):
        first.hear(fact)
        if at < told:
            continue
        if at == told:
            for known in [*first.slots, *first.table.words()]:
                newcomer.hear(known)
        newcomer.hear(fact)
    for fact in dice.choices(facts, k=len(facts)) + dice.sample(facts, len(facts)):
        second.hear(fact)
    for table in (first, second, newcomer):
        for fact in registered + lives:
            table.hear(fact)
    assert second.knows() == first.knows()
    if told < len(facts):
        assert newcomer.knows() == first.knows()


def test_a_conversation_comes_home_with_its_replica() -> None:
    """Whether word of it came before its registration, or the replica left for a while; its length is known still."""
    table = Table()
    table.hear(word("x", "r1", 1, tokens=900))
    assert not len(table.table) and table.table.get("x") is None
    table.hear("r1")
    table.hear("r2")
    known = table.table.get("x")
    assert known is not None and (known.slot, known.tokens) == (table.slots["r1"], 900)
    assert table.columns.signals.footprint[known.slot] == 900
    table.leave("r1")
    assert table.table.find("x", (), -1) is None and table.columns.signals.footprint[:3].tolist() == [0, 0, 0]
    table.hear(word("x", "r2", 1))
    assert table.table.get("x") is not None, "of two alike the one to the greater replica id is right"
    table.leave("r2")
    table.hear("r1")
    assert table.table.get("x") is None
    table.hear("r2")
    assert table.table.get("x") is not None


def test_what_a_life_had_that_is_over_stays_lost() -> None:
    """Also when its replica leaves and comes back, and with it what is known of its lives was forgotten."""
    table = Table()
    table.hear("r1")
    table.hear(word("x", "r1", 4, born_ms=1))
    table.hear(("r1", 2))
    assert table.table.get("x") is None
    table.leave("r1")
    table.hear("r1")
    assert table.table.get("x") is None
    table.hear(word("x", "r1", 3, born_ms=2))
    assert table.table.get("x") is None, "an earlier turn"
    table.hear(word("x", "r1", 4, born_ms=2))
    assert table.table.get("x") is not None, "another request of that turn came to the later life"


def test_a_request_of_before_the_loss_changes_nothing() -> None:
    """It ends, and its engine tells its length, when its conversation has no home any more, or has come home again."""
    table = Table()
    table.hear("r1")
    slot = table.slots["r1"]
    known = table.table.place(None, "x", slot, (), tokens=10, resident=0, prompt_bytes=40, now_s=0.0)
    assert known is not None and known.under_way
    table.leave("r1")
    for _ in range(2):
        table.table.told(known, slot, 40, 999, 1)
        table.table.served_by(known, known.stands, 2)
        table.table.ended(known, 1.0)
        table.table.validate()
        table.hear("r1")
    again = table.table.get("x")
    assert again is not None and (again.tokens, again.in_flight, again.turn) == (10, 0, 1)


def test_of_two_requests_of_one_length_the_longer_counts() -> None:
    """As it does between edges: who was told of both in one order has what the others have."""
    table = Table()
    table.hear("r1")
    slot = table.slots["r1"]
    for _ in range(2):
        known = table.table.place(
            table.table.get("x"), "x", slot, (), tokens=10, resident=0, prompt_bytes=40, now_s=0.0
        )
    assert known is not None
    table.table.told(known, slot, 40, 12, 30)
    table.table.told(known, slot, 40, 12, 0)
    assert known.tokens == 42
    table.table.told(known, slot, 40, 12, 31)
    assert known.tokens == 43


def test_who_takes_the_name_of_another_takes_its_turns() -> None:
    """A prompt goes on under a name that was that of one that ended alike: other edges, which have that one, must
    believe the next word."""
    table = Table()
    table.hear("r1")
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
    assert known is not alike and known.name == 7 and len(table.table) == 1
    assert known.turn == before + 1
    table.table.validate()


# Edges


def turn(edge: SharingEdge, session: str, replica: str, now_s: float, *, tokens: int = 1000, resident: int = 0) -> None:
    """The next request of a session, which goes to that replica."""
    table, slot = edge.kv.conversations, edge.replicas.slot_of(replica)
    known = table.find(session, (), -1)
    table.place(
        known, session, slot, (),
        tokens=tokens, resident=resident, prompt_bytes=4 * tokens, now_s=now_s, in_flight=False,
    )  # fmt: skip
    edge.kv.outbox.converse(session)


def homes(edge: SharingEdge) -> dict[Any, Any]:
    """All that is known of conversations that have a home."""
    ids = edge.replicas.ids
    return {
        known.name: (ids[known.slot], known.turn, known.tokens, known.shared, known.prompt_tokens, known.prompt_bytes)
        for known in edge.kv.conversations
    }


def agree(*edges: SharingEdge) -> None:
    first = homes(edges[0])
    for edge in edges[1:]:
        assert homes(edge) == first, f"{edge.name} and {edges[0].name}"


def fleet(*names: str) -> tuple[StreamStore, list[SharingEdge], float]:
    """Edges that know the same replicas, in their first lives."""
    store, edges = StreamStore(), [SharingEdge(name) for name in names]
    edges[0].register(*REPLICAS)
    now_s = settle(store, edges, 0.0)
    for replica in REPLICAS:
        edges[0].tell(replica, epoch=f"{replica} 1", born_ms=1 if replica in SAID else 0, snapshot=True)
    return store, edges, settle(store, edges, now_s)


@pytest.mark.parametrize("replica", ["r1", UNSAID])
def test_a_turn_that_was_lost_before_it_was_told_is_lost_to_all(replica: str) -> None:
    """Its edge refuses what the others have of the turn before; they, and a newcomer that takes that edge's snapshot,
    must not go by it either."""
    store, (a, b), now_s = fleet("a", "b")
    turn(b, "x", "r2", now_s)
    now_s = settle(store, (a, b), now_s)
    turn(a, "x", replica, now_s)
    a.tell(replica, epoch="another life", born_ms=2 if replica in SAID else 0, snapshot=True)
    now_s = settle(store, (a, b), now_s)
    newcomer = SharingEdge("c")
    now_s = settle(store, (a, b, newcomer), now_s)
    assert newcomer.member.counters.taken == 1
    agree(a, b, newcomer)
    turn(newcomer, "x", "r2", now_s)
    settle(store, (a, b, newcomer), now_s)
    agree(a, b, newcomer)
    assert homes(b)["x"][:2] == ("r2", 3), "its turns go on"


def test_who_knows_of_a_loss_by_a_snapshot_alone_believes_no_earlier_turn() -> None:
    """An edge that was cut off tells what it had; those that heard of the later turn, lost since, refuse it."""
    store, (a, b, cut_off), now_s = fleet("a", "b", "c")
    turn(cut_off, "x", "r2", now_s)
    for _ in range(2):
        turn(a, "x", "r1", now_s)
    now_s = settle(store, (a, b), now_s)
    a.tell("r1", epoch="another life", born_ms=2, snapshot=True)
    now_s = settle(store, (a, b), now_s)
    for entries in store.streams.values():
        for seq in list(entries)[:-1]:
            del entries[seq]
    newcomer = SharingEdge("d")
    now_s = settle(store, (a, b, newcomer), now_s)
    assert newcomer.member.counters.taken == 1
    settle(store, (a, b, newcomer, cut_off), now_s)
    agree(a, b, newcomer, cut_off)
    assert homes(newcomer) == {}


def test_a_loss_that_no_engine_says_is_told() -> None:
    """An edge hears of the restart before it hears of the request: since lives have no dates it takes it for one of the
    life after, and is told."""
    store, (a, b, c), now_s = fleet("a", "b", "c")
    turn(a, "x", UNSAID, now_s)
    a.say(store, now_s)
    c.tell(UNSAID, epoch="another life", snapshot=True)
    c.say(store, now_s)
    request = store.streams["a"].pop(a.member.seq)
    b.follow(store, now_s)
    store.streams["a"][a.member.seq] = request
    b.follow(store, now_s)
    assert homes(b)["x"][0] == UNSAID
    settle(store, (a, b, c), now_s)
    agree(a, b, c)
    assert homes(b) == {}


def test_two_requests_at_once_that_look_alike_end_as_one() -> None:
    """The same turn on the same replica, as long; one edge knew more of what is there. Both count the same share."""
    store, (a, b), now_s = fleet("a", "b")
    turn(a, "x", "r1", now_s, resident=300)
    turn(b, "x", "r1", now_s, resident=200)
    settle(store, (a, b), now_s)
    agree(a, b)
    assert a.kv.signals.footprint.sum() == b.kv.signals.footprint.sum() == 700


class Fleet:
    """Edges, engines and what happens to them, one deed at a time. Numbers choose whom it concerns, modulo theirs."""

    def __init__(self) -> None:
        self.store, self.edges, self.now_s = fleet(*FIRST)
        self.lives = dict.fromkeys(REPLICAS, 1)
        self.came = 0

    def do(self, deed: str, edge: int, other: int, tokens: int) -> None:
        self.now_s += TICK_S
        here, there = self.edges[edge % len(self.edges)], self.edges[other % len(self.edges)]
        replica = REPLICAS[other % len(REPLICAS)]
        getattr(self, deed)(here, there, SESSIONS[tokens % len(SESSIONS)], replica, 100 * tokens)
        here.validate()

    # Requests

    def turn(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        if here.replicas.get(replica) is not None:
            turn(here, session, replica, self.now_s, tokens=tokens, resident=len(there.name) * int(here is there))
            here.sessions.pin(session, replica, self.now_s)

    def measure(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """The engine says how long prompt and answer are."""
        known = here.kv.conversations.get(session)
        if known is not None:
            here.kv.conversations.told(known, known.slot, known.prompt_bytes, tokens, 7)
            here.kv.outbox.converse(session)

    def redispatch(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        known = here.kv.conversations.get(session)
        if known is not None and here.replicas.get(replica) is not None:
            here.kv.conversations.served_by(known, known.stands, here.replicas.slot_of(replica))
            here.kv.outbox.converse(session)

    # Replicas

    def restart(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """The engine, which tells one edge."""
        self.lives[replica] += 1
        self.introduce(here, there, session, replica, tokens)

    def introduce(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """The engine, which lives, tells this edge too."""
        if here.replicas.get(replica) is not None:
            life = self.lives[replica]
            here.tell(replica, epoch=f"{replica} {life}", born_ms=life if replica in SAID else 0, snapshot=True)

    def leave(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        here.replicas.remove(replica)

    def come(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        here.register(replica)

    # What is told

    def say(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        here.say(self.store, self.now_s)

    def lose(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """The store loses what is said before anybody reads it."""
        here.member.next_batch(self.now_s)

    def forget(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """The store loses what one edge said, whoever has read it."""
        self.store.streams.pop(there.name, None)

    def hear(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """One batch of one stream."""
        here.member.roster(self.store.roster(), self.now_s)
        position = here.member.following().get(there.name)
        for seq, payload in self.store.after(there.name, position or 0)[:1]:
            here.member.hear(there.name, seq, payload, self.now_s)

    def meet(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """Two of them tell each other all, while the others hear nothing."""
        if here is not there:
            self.now_s = settle(self.store, (here, there), self.now_s, rounds=3, step_s=TICK_S)

    # Edges

    def join(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """One comes that takes its snapshot from that one."""
        self.came += 1
        self.edges.append(SharingEdge(f"n{self.came}"))
        self.meet(self.edges[-1], there, session, replica, tokens)

    def die(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        if len(self.edges) > 2:
            self.edges.remove(here)

    def bid_farewell(self, here: SharingEdge, there: SharingEdge, session: str, replica: str, tokens: int) -> None:
        """One stops, which one other hears, and the store forgets it."""
        if len(self.edges) > 2:
            here.member.leaving = True
            here.say(self.store, self.now_s)
            there.follow(self.store, self.now_s)
            del self.store.streams[here.name]
            self.edges.remove(here)

    def calm(self) -> None:
        """Everybody hears everything, and engines go on telling."""
        for rounds in (6, 12):
            self.now_s = settle(self.store, self.edges, self.now_s, rounds=rounds)
            for replica in REPLICAS:
                self.introduce(self.edges[0], self.edges[0], "", replica, 0)
        self.now_s = settle(self.store, self.edges, self.now_s)


DEEDS = ("turn",) * 4 + ("say", "hear", "hear", "meet", "restart", "measure", "redispatch") + (
    "introduce", "leave", "come", "lose", "forget", "join", "die", "bid_farewell",
)  # fmt: skip

DEED = st.tuples(st.sampled_from(DEEDS), st.integers(0, 5), st.integers(0, 5), st.integers(1, 6))


@settings(max_examples=150, derandomize=True)
@given(st.lists(DEED, min_size=20, max_size=60))
def test_edges_end_with_the_same_sessions_and_conversations(deeds: list[tuple[str, int, int, int]]) -> None:
    """Whatever happened, in whatever order it was heard, and whoever came to know of it by a snapshot alone."""
    happens = Fleet()
    for deed in deeds:
        happens.do(*deed)
    happens.calm()
    agree(*happens.edges)
    first, *others = (edge.knows()["sessions"] for edge in happens.edges)
    assert all(sessions == first for sessions in others)
