"""Edges that tell each other: what becomes known where, whatever is lost on the way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from members import SharingEdge, StreamStore, settle

from pointsman.contract.events import Finished, FirstToken
from pointsman.router.edges.member import ASK_TIMEOUT_S
from pointsman.router.edges.peers import LEASE_S
from pointsman.router.edges.records import SHARED_SCHEMA, Batch, encode

CHAIN = tuple(range(1000, 1040))
STICKY: dict[str, Any] = {"policy": "session_affinity", "fallback": {"policy": "least_load"}}


def two(policy: dict[str, Any] | None = None) -> tuple[StreamStore, SharingEdge, SharingEdge]:
    return StreamStore(), SharingEdge("a", policy), SharingEdge("b", policy)


def agree(*edges: SharingEdge) -> None:
    first = edges[0].knows()
    for edge in edges[1:]:
        assert edge.knows() == first


def test_a_replica_registered_at_one_edge_is_known_at_all() -> None:
    """And drained and removed at all, at whichever edge that is asked for."""
    store, a, b = two()
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    assert {r.id for r in b.replicas} == {"r1", "r2"}
    b.replicas.drain("r1")
    a.replicas.remove("r2")
    settle(store, (a, b), now_s)
    assert [(r.id, r.draining) for r in a.replicas] == [(r.id, r.draining) for r in b.replicas] == [("r1", True)]


def test_work_in_flight_at_one_edge_is_load_at_the_other() -> None:
    """Until it ends; tokens and prefill backlog too."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    a.ask("q1", now_s, body_bytes=4000, max_tokens=10)
    now_s = settle(store, (a, b), now_s, rounds=1)
    slot = b.replicas.get("r1").slot
    assert b.load.in_flight[slot] == 1 and b.load.in_flight_tokens[slot] == 1010
    assert b.kv.signals.waiting[slot] == 1000
    agree(a, b)
    a.end("q1", now_s)
    settle(store, (a, b), now_s)
    assert not b.load.in_flight.any() and not b.kv.signals.waiting.any()


def test_an_edge_that_falls_silent_takes_its_counts_with_it() -> None:
    """And brings them back when it goes on, without anything asked."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    a.ask("q1", now_s)
    now_s = settle(store, (a, b), now_s)
    assert b.load.in_flight.sum() == 1
    now_s = settle(store, (b,), now_s, step_s=LEASE_S)
    assert b.load.in_flight.sum() == 0
    assert b.member.peers.died == 1
    now_s = settle(store, (a, b), now_s)
    assert b.load.in_flight.sum() == 1
    assert b.member.counters.gaps == 0


def test_a_session_has_one_home_whichever_edge_it_comes_to() -> None:
    """The pin is known at the other edge, and a move is too."""
    store, a, b = two(STICKY)
    a.register("r1", "r2", "r3")
    now_s = settle(store, (a, b), 0.0)
    homes = {f"s{n}": a.ask(f"q{n}", now_s, session=f"s{n}").first for n in range(12)}
    now_s = settle(store, (a, b), now_s)
    assert {session: b.ask(f"again {session}", now_s, session=session).first for session in homes} == homes
    b.sessions.pin("s0", next(r for r in ("r1", "r2", "r3") if r != homes["s0"]), now_s)
    now_s = settle(store, (a, b), now_s)
    agree(a, b)
    assert a.ask("once more", now_s, session="s0").first != homes["s0"]


def test_one_session_at_two_edges_at_once_ends_in_one_home() -> None:
    """Both pins moved as often; both edges take the same one."""
    store, a, b = two(STICKY)
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    a.sessions.pin("s", "r1", now_s)
    b.sessions.pin("s", "r2", now_s)
    settle(store, (a, b), now_s)
    agree(a, b)


def test_what_an_engine_tells_one_edge_is_resident_at_all() -> None:
    """Stored, evicted, restarted: by the edge it tells, from the others' own mirror."""
    store, a, b = two()
    a.register("r1", "r2")
    a.tell("r1", snapshot=True, stored=list(CHAIN[:4]), capacity_tokens=1000)
    now_s = settle(store, (a, b), 0.0)
    a.tell("r1", stored=list(CHAIN[4:6]), evicted=[CHAIN[0]])
    now_s = settle(store, (a, b), now_s)
    slot = b.replicas.get("r1").slot
    assert [key for key in CHAIN if b.kv.index.holds(slot, key)] == list(CHAIN[1:6])
    assert b.kv.signals.capacity[slot] == 1000
    agree(a, b)
    a.tell("r1", epoch="another life", snapshot=True, stored=[CHAIN[9]])
    settle(store, (a, b), now_s)
    assert [key for key in CHAIN if b.kv.index.holds(slot, key)] == [CHAIN[9]]
    agree(a, b)


def test_a_decision_is_expected_to_come_true_at_all_edges() -> None:
    """A follower of the prompt at the other edge finds the replica that will hold it."""
    store, a, b = two()
    a.register("r1", "r2", "r3")
    for replica in ("r1", "r2", "r3"):
        a.tell(replica, snapshot=True, capacity_tokens=100_000)
    now_s = settle(store, (a, b), 0.0)
    chosen = a.ask("q1", now_s, prefix_keys=CHAIN, body_bytes=60_000).first
    now_s = settle(store, (a, b), now_s, rounds=1)
    slot = b.replicas.get(chosen).slot
    assert all(b.kv.index.holds(slot, key) for key in CHAIN)
    assert not any(b.kv.index.holds(other.slot, CHAIN[0]) for other in b.replicas if other.id != chosen)


def test_a_conversation_goes_on_at_the_other_edge() -> None:
    """Its home, and the exact length the engine told to the edge that had not asked."""
    store, a, b = two()
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    for replica in ("r1", "r2"):
        b.tell(replica, snapshot=True, capacity_tokens=100_000)  # engines tell b, requests come to a
    now_s = settle(store, (a, b), now_s)
    home = a.ask("q1", now_s, session="s", prefix_keys=CHAIN[:8], body_bytes=4200).first
    now_s = settle(store, (a, b), now_s)
    b.tell(home, stored=list(CHAIN[:8]), first=[FirstToken("q1", 900, 0, 30.0)])
    b.tell(home, finished=[Finished("q1", 900, 50)])
    now_s = settle(store, (a, b), now_s)
    assert a.kv.conversations.get("s").tokens == b.kv.conversations.get("s").tokens == 950
    a.end("q1", now_s)
    decision = b.ask("q2", now_s, session="s", prefix_keys=CHAIN[:10], body_bytes=5300)
    assert (decision.first, decision.reason) == (home, "kv-home")
    settle(store, (a, b), now_s)
    agree(a, b)


@pytest.mark.parametrize("session", ["s", ""], ids=["by session", "by prompt"])
@pytest.mark.parametrize("is_told", [True, False], ids=["pending at both", "taken back at once"])
def test_a_turn_that_nobody_answered_is_taken_back_at_all_edges(session: str, *, is_told: bool) -> None:
    """A later one leaves the conversation where it was answered, a first one leaves it nowhere, and edges agree."""
    store, a, b = two()
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    a.ask("q1", now_s, session=session, prefix_keys=CHAIN[:8], body_bytes=4200)
    a.end("q1", now_s)
    now_s = settle(store, (a, b), now_s)
    kept = b.kv.signals.footprint.sum()
    a.ask("q2", now_s, session=session, prefix_keys=CHAIN[:20], body_bytes=14_000)
    b.ask("q3", now_s, session="other", prefix_keys=tuple(range(5000, 5010)), body_bytes=6000)
    if is_told:
        now_s = settle(store, (a, b), now_s)
        assert b.kv.signals.footprint.sum() > kept
    a.end("q2", now_s, served=False)
    b.end("q3", now_s, served=False)
    settle(store, (a, b), now_s)
    agree(a, b)
    for edge in (a, b):
        edge.kv.validate()
        assert edge.kv.signals.footprint.sum() == kept
        assert len(edge.kv.conversations) == 1


def test_a_conversation_may_be_told_before_its_replica() -> None:
    """Its registration comes by another edge's stream, which is read later."""
    store = StreamStore()
    a, b, c = edges = [SharingEdge(name) for name in "abc"]
    now_s = settle(store, edges, 0.0)
    a.register("r1")
    a.say(store, now_s)
    b.follow(store, now_s)
    b.ask("q1", now_s, session="talk", body_bytes=4000)
    b.say(store, now_s)
    registered = store.streams["a"].pop(a.member.seq)
    c.follow(store, now_s)
    assert not c.kv.conversations
    store.streams["a"][a.member.seq] = registered
    settle(store, edges, now_s)
    assert c.knows()["conversations"]["talk"][0] == "r1"
    agree(*edges)


def test_a_gap_is_mended_by_a_snapshot() -> None:
    """A batch is lost: the reader sees it by the number, asks, and both agree again."""
    store, a, b = two()
    a.register("r1")
    a.tell("r1", snapshot=True, stored=[1, 2, 3])
    now_s = settle(store, (a, b), 0.0)
    before = b.member.counters.taken
    a.tell("r1", stored=[4], evicted=[1])
    a.say(store, now_s)
    del store.streams["a"][a.member.seq]
    settle(store, (a, b), now_s)
    assert b.member.counters.gaps == 1 and b.member.counters.taken == before + 1
    assert set(b.knows()["resident"]) == {2, 3, 4}
    agree(a, b)


def test_a_request_that_went_elsewhere_moves_its_conversation_at_all_edges() -> None:
    """Its placement was told before: whatever the two replicas are called, the later word counts."""
    store, a, b = two()
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    placed = a.ask("q1", now_s, session="s", body_bytes=4000).first
    now_s = settle(store, (a, b), now_s)
    for there in ("r1", "r2", "r1"):
        known = a.kv.conversations.get("s")
        a.kv.conversations.served_by(known, known.stands, a.replicas.get(there).slot)
        a.kv.outbox.converse("s")
        now_s = settle(store, (a, b), now_s)
        assert b.knows()["conversations"]["s"][0] == there
    assert placed in ("r1", "r2")
    agree(a, b)


def test_a_newcomer_learns_all_from_one_snapshot() -> None:
    """Of three edges, with the streams' beginnings long gone."""
    store = StreamStore()
    edges = [SharingEdge(name) for name in "abc"]
    edges[0].register("r1", "r2")
    now_s = settle(store, edges, 0.0)
    for replica in ("r1", "r2"):
        edges[1].tell(replica, snapshot=True, stored=list(CHAIN[:5]), capacity_tokens=100_000)
    for n, edge in enumerate(edges * 3):
        edge.ask(f"q{n}", now_s, session=f"s{n}", prefix_keys=CHAIN, body_bytes=60_000)
    edges[0].put_document({"policy": "least_load"})
    now_s = settle(store, edges, now_s)
    for entries in store.streams.values():
        for seq in list(entries)[:-1]:
            del entries[seq]
    newcomer = SharingEdge("d")
    settle(store, [*edges, newcomer], now_s)
    agree(*edges, newcomer)
    assert newcomer.member.counters.taken == 1
    assert newcomer.document == {"policy": "least_load"}


def test_a_newcomer_that_asked_a_dead_edge_asks_another_soon() -> None:
    """It reads the stream of one that was killed lately as it does that of one that lives; who is first in the alphabet
    is asked first, and is silent."""
    store, a, b = two(STICKY)
    b.register("r1")
    now_s = settle(store, (a, b), 0.0)
    b.ask("q1", now_s, session="s1")
    now_s = settle(store, (a, b), now_s)
    newcomer = SharingEdge("c", STICKY)
    began_s = now_s
    now_s = settle(store, (b, newcomer), now_s, rounds=7)
    assert newcomer.member.counters.asked == 2 and newcomer.member.counters.taken == 1
    assert now_s - began_s < ASK_TIMEOUT_S
    assert newcomer.knows()["sessions"] == {"s1": "r1"}


def test_an_emptied_store_loses_nothing_that_edges_know() -> None:
    """What is said after it is followed; what was lost in it is asked for."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    a.tell("r1", snapshot=True, stored=[1, 2])
    a.say(store, now_s)
    store.empty()
    for edge in (a, b):
        edge.member.store_emptied()
    now_s = settle(store, (a, b), now_s)
    agree(a, b)
    assert set(b.knows()["resident"]) == {1, 2}


def test_too_much_to_tell_while_nobody_listens_becomes_a_snapshot() -> None:
    """What waits is bounded; beyond the bound the others see a gap."""
    store, a, b = two()
    a.register("r1")
    a.tell("r1", snapshot=True)
    now_s = settle(store, (a, b), 0.0)
    a.kv.outbox._max = 100
    for start in range(0, 500, 50):
        a.tell("r1", stored=list(range(start, start + 50)))
        assert len(a.kv.outbox) <= 100
    settle(store, (a, b), now_s)
    assert a.member.counters.overruns == 1
    assert len(b.knows()["resident"]) == 500
    agree(a, b)


def test_the_document_put_last_is_live_everywhere() -> None:
    """And of two put at once the same one; what an edge cannot use leaves its own in place and is counted."""
    store, a, b = two()
    now_s = settle(store, (a, b), 0.0)
    a.put_document({"policy": "random"})
    now_s = settle(store, (a, b), now_s)
    b.put_document({"policy": "least_load"})
    now_s = settle(store, (a, b), now_s)
    assert a.document == b.document == {"policy": "least_load"}
    a.put_document({"policy": "x"})
    b.put_document({"policy": "y"})
    now_s = settle(store, (a, b), now_s)
    assert a.document == b.document
    agreed = a.document
    a.member.documents._documents["policy"].write = lambda body: None  # what a would accept, b does not
    a.put_document({"policy": "unknown"})
    settle(store, (a, b), now_s)
    assert b.document == agreed
    assert b.member.documents.refused == 1


def test_a_replica_stays_while_its_heartbeats_reach_any_edge() -> None:
    """The lease ends at all edges when they end at the last one."""
    store, a, b = two()
    a.register("r1", ttl_s=4.0)
    now_s = settle(store, (a, b), 0.0)
    for _ in range(10):
        a.register("r1", ttl_s=4.0, now_s=now_s)
        b.replicas.expire_leases(now_s, b.member.keeps)
        now_s = settle(store, (a, b), now_s, rounds=2)
    assert b.replicas.get("r1") is not None
    for _ in range(8):
        for edge in (a, b):
            edge.member.registrations.lease_ended(edge.replicas.expire_leases(now_s, edge.member.keeps))
        now_s = settle(store, (a, b), now_s, rounds=2)
    assert a.replicas.get("r1") is None and b.replicas.get("r1") is None


def test_an_engine_that_turns_to_another_edge_is_followed_there() -> None:
    """While it told both, each went by its own ear; what was passed over meanwhile comes by a snapshot."""
    store, a, b = two()
    a.register("r1", ttl_s=5.0)
    now_s = settle(store, (a, b), 0.0)
    b.register("r1", ttl_s=5.0, now_s=now_s)
    for edge in (a, b):
        edge.tell("r1", snapshot=True, stored=[1, 2], now_s=now_s)
    now_s = settle(store, (a, b), now_s)
    agree(a, b)
    taken = b.member.counters.taken
    for key in range(3, 20):
        a.tell("r1", stored=[key], now_s=now_s)
        a.register("r1", ttl_s=5.0, now_s=now_s)
        b.replicas.expire_leases(now_s, b.member.keeps)
        now_s = settle(store, (a, b), now_s, rounds=1)
    now_s = settle(store, (a, b), now_s)
    assert set(b.knows()["resident"]) == set(range(1, 20))
    assert b.member.counters.taken == taken + 1


def test_an_edge_that_dies_takes_no_healthy_replica_with_it() -> None:
    """Nobody else hears its heartbeats, but HAProxy's checks pass: it serves on."""
    store, a, b = two()
    a.register("r1", ttl_s=5.0)
    now_s = settle(store, (a, b), 0.0)
    for _ in range(20):
        b.replicas.expire_leases(now_s, b.member.keeps)
        now_s = settle(store, (b,), now_s, rounds=2)
    assert b.replicas.get("r1") is not None
    b.replicas.set_health("r1", "down")
    now_s += 5
    b.replicas.expire_leases(now_s, b.member.keeps)
    assert b.replicas.get("r1") is None


def test_a_lease_that_ends_at_one_edge_is_upheld_by_the_other() -> None:
    """Its heartbeats moved to b before a could know: the removal is answered with the registration."""
    store, a, b = two()
    a.register("r1", ttl_s=2.0)
    now_s = settle(store, (a, b), 0.0)
    b.register("r1", ttl_s=20.0, now_s=now_s)
    a.member.registrations.lease_ended(a.replicas.expire_leases(now_s + 2))
    assert a.replicas.get("r1") is None
    settle(store, (a, b), now_s)
    assert a.replicas.get("r1") is not None and b.replicas.get("r1") is not None


def test_several_leases_that_end_at_once_are_upheld_together() -> None:
    """One batch says that two are gone; each is answered, and neither answer stands in the way of the other."""
    store, a, b = two()
    a.register("r1", "r2", ttl_s=2.0)
    now_s = settle(store, (a, b), 0.0)
    b.register("r1", "r2", ttl_s=20.0, now_s=now_s)
    a.member.registrations.lease_ended(a.replicas.expire_leases(now_s + 2))
    settle(store, (a, b), now_s)
    assert {r.id for r in a.replicas} == {r.id for r in b.replicas} == {"r1", "r2"}


def test_what_a_newcomer_finds_in_the_store_is_told_to_all() -> None:
    """A policy put into the store by an edge that died before it told anybody: the next to come tells the others."""
    store, a, b = two()
    settle(store, (a, b), 0.0)
    dead = SharingEdge("dead")
    dead.put_document({"policy": "random"})
    claimed = dead.member.documents.changes()
    newcomer = SharingEdge("newcomer")
    newcomer.member.restore([], claimed, 1.0)
    settle(store, (a, b, newcomer), 1.0)
    assert a.document == b.document == newcomer.document == {"policy": "random"}


def test_late_word_does_not_bring_a_replica_back() -> None:
    """An edge restarts from an old state file: the removal it slept through is newer."""
    store, a, b = two()
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    a.replicas.remove("r1")
    now_s = settle(store, (a, b), now_s)
    restarted = SharingEdge("a2")
    restarted.register("r1", "r2")
    now_s = settle(store, (b, restarted), now_s, step_s=LEASE_S)
    assert {r.id for r in restarted.replicas} == {r.id for r in b.replicas} == {"r2"}


def test_a_later_schema_is_passed_over_with_a_sentence() -> None:
    """The edge goes on with those it understands."""
    store, a, b = two()
    settle(store, (a, b), 0.0)
    store.append("a", a.member.seq + 1, encode(Batch(schema=SHARED_SCHEMA + 1)))
    b.follow(store, 1.0)
    assert b.member.counters.refused == 1
    assert "later than" in b.member.peers.get("a").refused


@pytest.mark.parametrize("payload", [b"", b"\xc1", msgspec.msgpack.encode({"f": [[7, 1, 1]]})])
def test_what_is_no_batch_is_counted_and_asked_for(payload: bytes) -> None:
    """Bytes nobody can read are a gap like any other."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    a.say(store, now_s + 1)
    store.append("a", a.member.seq, payload)
    settle(store, (a, b), now_s + 1)
    assert b.member.counters.malformed == 1
    agree(a, b)


def test_an_edge_that_leaves_says_so() -> None:
    """Its work is not waited for until its lease ends."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    a.ask("q1", now_s)
    now_s = settle(store, (a, b), now_s)
    a.member.leaving = True
    a.say(store, now_s)
    b.follow(store, now_s)
    assert b.load.in_flight.sum() == 0 and not b.member.peers.alive
