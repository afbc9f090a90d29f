"""Edges that publish to each other: which state becomes known where, whatever is lost on the way."""

from __future__ import annotations

from typing import Any

import pytest
from residency import holds
from sharing_edges import SharingEdge, StreamStore, repeat, settle

from pointsman.contract.events import Finished, FirstToken
from pointsman.router.edges.peers import LEASE_S
from pointsman.router.edges.records import decode

CHAIN = tuple(range(1000, 1040))
STICKY: dict[str, Any] = {"policy": "session_affinity", "fallback": {"policy": "least_load"}}


def two(policy: dict[str, Any] | None = None) -> tuple[StreamStore, SharingEdge, SharingEdge]:
    return StreamStore(), SharingEdge("a", policy), SharingEdge("b", policy)


def turn(edge: SharingEdge, session: str, now_s: float) -> None:
    """A request of a session, which is pinned too, is answered at once."""
    chosen = edge.ask(f"q-{session}", now_s, session=session, body_bytes=4000, prefix_keys=CHAIN).first
    edge.sessions.pin(session, chosen, now_s)
    edge.end(f"q-{session}", now_s)


def agree(*edges: SharingEdge) -> None:
    first = edges[0].knows()
    for edge in edges[1:]:
        assert edge.knows() == first


# Registrations and documents


def test_a_replica_registered_at_one_edge_is_known_at_all() -> None:
    """And drained, undrained and removed at all, at whichever edge that is asked for."""
    store, a, b = two()
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    assert {r.id for r in b.replicas} == {"r1", "r2"}
    b.replicas.drain("r1", 0.0)
    a.replicas.remove("r2")
    now_s = settle(store, (a, b), now_s)
    assert [(r.id, r.draining) for r in a.replicas] == [(r.id, r.draining) for r in b.replicas] == [("r1", True)]
    a.replicas.undrain("r1", now_s)
    b.register("r1", now_s=now_s)
    settle(store, (a, b), now_s)
    assert [(r.id, r.draining) for r in a.replicas] == [(r.id, r.draining) for r in b.replicas] == [("r1", False)]


def test_the_document_put_last_is_live_everywhere() -> None:
    """And of two put at once the same one; one that an edge cannot use leaves its own in place and is counted."""
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
    a.protocol.documents._documents["policy"].write = lambda body: None  # a would accept what b does not
    a.put_document({"policy": "unknown"})
    settle(store, (a, b), now_s)
    assert b.document == agreed
    assert b.protocol.documents.refused == 1


def test_a_late_record_does_not_bring_a_replica_back() -> None:
    """An edge restarts from an old state file: the removal that it missed is newer."""
    store, a, b = two()
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    a.replicas.remove("r1")
    now_s = settle(store, (a, b), now_s)
    restarted = SharingEdge("a2")
    restarted.register("r1", "r2")
    repeat(store, (b, restarted), now_s)
    assert {r.id for r in restarted.replicas} == {r.id for r in b.replicas} == {"r2"}


def test_a_document_found_in_the_store_is_published() -> None:
    """A policy put into the store by an edge that died before others read of it: the next one to start publishes it."""
    store, a, b = two()
    settle(store, (a, b), 0.0)
    dead = SharingEdge("dead")
    dead.put_document({"policy": "random"})
    claimed = dead.protocol.documents.changes()
    newcomer = SharingEdge("newcomer")
    newcomer.protocol.restore([], claimed, 1.0)
    settle(store, (a, b, newcomer), 1.0)
    assert a.document == b.document == newcomer.document == {"policy": "random"}


# Leases


def test_a_replica_stays_while_its_heartbeats_reach_any_edge() -> None:
    """The lease ends at all edges when they cease at the last one."""
    store, a, b = two()
    a.register("r1", ttl_s=4.0)
    now_s = settle(store, (a, b), 0.0)
    for _ in range(10):
        a.register("r1", ttl_s=4.0, now_s=now_s)
        b.replicas.expire_leases(now_s, b.protocol.keeps)
        now_s = settle(store, (a, b), now_s, rounds=2)
    assert b.replicas.get("r1") is not None
    for _ in range(8):
        for edge in (a, b):
            edge.protocol.registrations.lease_ended(edge.replicas.expire_leases(now_s, edge.protocol.keeps))
        now_s = settle(store, (a, b), now_s, rounds=2)
    assert a.replicas.get("r1") is None and b.replicas.get("r1") is None


def test_keys_of_an_engine_that_reports_no_more_are_dropped() -> None:
    """Its reports reach another edge alone: the keys here would only grow stale. A snapshot brings them back."""
    store, a, b = two()
    a.register("r1", ttl_s=5.0)
    now_s = settle(store, (a, b), 0.0)
    for edge in (a, b):
        edge.register("r1", ttl_s=5.0, now_s=now_s)
        edge.report("r1", snapshot=True, stored=[1, 2])
    for _ in range(10):
        a.register("r1", ttl_s=5.0, now_s=now_s)
        b.replicas.expire_leases(now_s, b.protocol.keeps)
        now_s = settle(store, (a, b), now_s, rounds=2)
    slot = b.replicas.get("r1").slot
    assert not holds(b.kv.index, slot, 1) and not b.kv.reports(slot)
    assert b.report("r1", stored=[3]), "a snapshot is asked for"
    assert not b.report("r1", snapshot=True, stored=[1, 2, 3])
    assert holds(b.kv.index, slot, 1)


def test_an_edge_that_dies_takes_no_healthy_replica_with_it() -> None:
    """Its heartbeats reach no other edge, but HAProxy's checks pass: it serves on."""
    store, a, b = two()
    a.register("r1", ttl_s=5.0)
    now_s = settle(store, (a, b), 0.0)
    for _ in range(20):
        b.replicas.expire_leases(now_s, b.protocol.keeps)
        now_s = settle(store, (b,), now_s, rounds=2)
    assert b.replicas.get("r1") is not None
    b.replicas.set_health("r1", "down", 0.0)
    now_s += 5
    b.replicas.expire_leases(now_s, b.protocol.keeps)
    assert b.replicas.get("r1") is None


def test_leases_that_end_at_one_edge_are_upheld_by_the_other() -> None:
    """The heartbeats moved to b before a could know: one batch removes two replicas, and both removals are answered
    with the registration."""
    store, a, b = two()
    a.register("r1", "r2", ttl_s=2.0)
    now_s = settle(store, (a, b), 0.0)
    b.register("r1", "r2", ttl_s=20.0, now_s=now_s)
    a.protocol.registrations.lease_ended(a.replicas.expire_leases(now_s + 2))
    assert not list(a.replicas)
    settle(store, (a, b), now_s)
    assert {r.id for r in a.replicas} == {r.id for r in b.replicas} == {"r1", "r2"}


# Work in flight and hints


def test_work_in_flight_at_one_edge_is_load_at_the_other() -> None:
    """Until it ends; tokens and prefill backlog too."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    a.ask("q1", now_s, body_bytes=4000, max_tokens=10)
    now_s = settle(store, (a, b), now_s, rounds=1)
    slot = b.replicas.get("r1").slot
    assert b.load.in_flight[slot] == 1 and b.load.in_flight_tokens[slot] == 1010
    assert b.kv.columns.signals.waiting[slot] == 1000
    agree(a, b)
    a.end("q1", now_s)
    settle(store, (a, b), now_s)
    assert not b.load.in_flight.any() and not b.kv.columns.signals.waiting.any()


def test_an_edge_that_falls_silent_takes_its_counts_with_it() -> None:
    """And brings them back with its next heartbeat."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    a.ask("q1", now_s)
    now_s = settle(store, (a, b), now_s)
    assert b.load.in_flight.sum() == 1
    now_s = settle(store, (b,), now_s, step_s=LEASE_S)
    assert b.load.in_flight.sum() == 0
    assert b.protocol.peers.died == 1
    now_s = settle(store, (a, b), now_s)
    assert b.load.in_flight.sum() == 1
    assert b.protocol.counters.gaps == 0


def test_an_edge_that_stops_publishes_so() -> None:
    """Its work is not counted until its lease ends."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    a.ask("q1", now_s)
    now_s = settle(store, (a, b), now_s)
    a.protocol.leaving = True
    a.publish(store, now_s)
    b.follow(store, now_s)
    assert b.load.in_flight.sum() == 0 and not b.protocol.peers.alive


def test_a_decision_is_expected_to_come_true_at_all_edges() -> None:
    """A follower of the prompt at the other edge finds the replica that will hold it; the hint ends by itself."""
    store, a, b = two()
    a.register("r1", "r2", "r3")
    now_s = settle(store, (a, b), 0.0)
    for replica in ("r1", "r2", "r3"):
        for edge in (a, b):
            edge.report(replica, snapshot=True, capacity_tokens=100_000)
    chosen = a.ask("q1", now_s, prefix_keys=CHAIN, body_bytes=60_000).first
    now_s = settle(store, (a, b), now_s, rounds=1)
    slot = b.replicas.get(chosen).slot
    assert all(holds(b.kv.index, slot, key) for key in CHAIN)
    assert not any(holds(b.kv.index, other.slot, CHAIN[0]) for other in b.replicas if other.id != chosen)
    b.kv.expire(now_s + 31.0)
    assert not holds(b.kv.index, slot, CHAIN[0])


# Sessions and conversations


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


def test_a_conversation_goes_on_at_the_other_edge() -> None:
    """Its home, and the exact length that the engine reported to the edge which placed it."""
    store, a, b = two()
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    for replica in ("r1", "r2"):
        for edge in (a, b):
            edge.report(replica, snapshot=True, capacity_tokens=100_000)
    home = a.ask("q1", now_s, session="s", prefix_keys=CHAIN[:8], body_bytes=4200).first
    now_s = settle(store, (a, b), now_s)
    for edge in (a, b):
        edge.report(home, stored=list(CHAIN[:8]), first=[FirstToken("q1", 900, 0, 30.0)])
        edge.report(home, finished=[Finished("q1", 900, 50)])
    now_s = settle(store, (a, b), now_s)
    assert a.kv.conversations.by_name.get("s").tokens == b.kv.conversations.by_name.get("s").tokens == 950
    a.end("q1", now_s)
    decision = b.ask("q2", now_s, session="s", prefix_keys=CHAIN[:10], body_bytes=5300)
    assert (decision.first, decision.reason) == (home, "kv-home")
    settle(store, (a, b), now_s)
    agree(a, b)


@pytest.mark.parametrize("session", ["s", ""], ids=["by session", "by prompt"])
@pytest.mark.parametrize("is_published", [True, False], ids=["pending at both", "taken back at once"])
def test_a_turn_that_nobody_answered_is_taken_back_at_all_edges(session: str, *, is_published: bool) -> None:
    """A later one leaves the conversation where it was answered, a first one leaves it nowhere, and edges agree."""
    store, a, b = two()
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    a.ask("q1", now_s, session=session, prefix_keys=CHAIN[:8], body_bytes=4200)
    a.end("q1", now_s)
    now_s = settle(store, (a, b), now_s)
    kept = b.kv.columns.signals.footprint.sum()
    a.ask("q2", now_s, session=session, prefix_keys=CHAIN[:20], body_bytes=14_000)
    b.ask("q3", now_s, session="other", prefix_keys=tuple(range(5000, 5010)), body_bytes=6000)
    if is_published:
        now_s = settle(store, (a, b), now_s)
        assert b.kv.columns.signals.footprint.sum() > kept
    a.end("q2", now_s, served=False)
    b.end("q3", now_s, served=False)
    repeat(store, (a, b), now_s)
    agree(a, b)
    for edge in (a, b):
        assert edge.kv.columns.signals.footprint.sum() == kept
        assert len(edge.kv.conversations.by_name) == 1


def test_a_request_that_was_served_elsewhere_moves_its_conversation_at_all_edges() -> None:
    """Its placement was published before: whatever the two replicas are called, the later state counts."""
    store, a, b = two()
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    a.ask("q1", now_s, session="s", body_bytes=4000)
    now_s = settle(store, (a, b), now_s)
    for there in ("r1", "r2", "r1"):
        known = a.kv.conversations.by_name.get("s")
        a.kv.conversations.served_by(known, known.stands, a.replicas.get(there).slot)
        a.kv.outbox.add_conversation(known)
        now_s = settle(store, (a, b), now_s)
        assert b.knows()["conversations"]["s"][0] == there


def test_a_conversation_of_an_incarnation_that_is_over_does_not_come_back() -> None:
    """An edge that learns of a restart last repeats what it had, and is not believed."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    for edge in (a, b):
        edge.report("r1", born_ms=1, snapshot=True)
    b.ask("q1", now_s, session="s", body_bytes=4000)
    b.end("q1", now_s)
    now_s = settle(store, (a, b), now_s)
    a.report("r1", epoch="another", born_ms=2, snapshot=True)
    now_s = repeat(store, (a, b), now_s)
    assert not a.kv.conversations.by_name and b.kv.conversations.by_name
    b.report("r1", epoch="another", born_ms=2, snapshot=True)
    repeat(store, (a, b), now_s)
    agree(a, b)
    assert not a.kv.conversations.by_name


# What gets lost


@pytest.mark.parametrize("kind", ["registration", "document", "session and conversation"])
def test_a_state_whose_batch_is_lost_is_known_after_the_next_round(kind: str) -> None:
    """The reader sees the gap by the number, says that it is behind, and needs nothing but patience."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    assert a.protocol.in_step and b.protocol.in_step
    if kind == "registration":
        a.register("r2")
    elif kind == "document":
        a.put_document({"policy": "random"})
    else:
        turn(a, "s", now_s)
    a.publish(store, now_s)
    del store.streams["a"][a.protocol.seq]
    now_s = settle(store, (a, b), now_s, rounds=1)
    assert b.protocol.counters.gaps == 1 and not b.protocol.in_step
    repeat(store, (a, b), now_s)
    assert b.protocol.in_step
    agree(a, b)


def test_the_last_states_of_a_dead_edge_are_repeated_by_those_that_read_them() -> None:
    """One of two others read them before the store lost them: it answers for them from there on."""
    store, a, b = two()
    dead = SharingEdge("dead")
    a.register("r1", "r2")
    now_s = settle(store, (a, b, dead), 0.0)
    turn(dead, "s", now_s)
    dead.publish(store, now_s)
    b.follow(store, now_s)
    del store.streams["dead"]
    now_s = settle(store, (a, b), now_s, rounds=2)
    assert len(b.sessions) == 1 and not len(a.sessions)
    repeat(store, (a, b), now_s + LEASE_S)
    assert len(a.sessions) == len(a.kv.conversations.by_name) == 1
    agree(a, b)


def test_an_edge_repeats_only_what_it_answers_for() -> None:
    """A conversation that another edge wrote is that edge's while it is alive: none is repeated by two."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    turn(a, "s", now_s)
    now_s = settle(store, (a, b), now_s)
    store.streams.clear()
    repeat(store, (a, b), now_s)
    repeated = {name: [decode(payload) for payload in entries.values()] for name, entries in store.streams.items()}
    assert any(batch.pins for batch in repeated["a"]) and any(batch.conversations for batch in repeated["a"])
    assert not any(batch.pins or batch.conversations for batch in repeated["b"])


def test_a_newcomer_learns_all_states_from_the_past_of_the_streams() -> None:
    """Of three edges, one of which is dead; old work in flight and old hints do not count."""
    store = StreamStore()
    edges = [SharingEdge(name) for name in "abc"]
    edges[0].register("r1", "r2")
    now_s = settle(store, edges, 0.0)
    for n, edge in enumerate(edges * 3):
        edge.ask(f"q{n}", now_s, prefix_keys=CHAIN, body_bytes=60_000)
        turn(edge, f"s{n}", now_s)
    edges[0].put_document({"policy": "least_load"})
    now_s = settle(store, edges, now_s)
    for n, edge in enumerate(edges * 3):
        edge.end(f"q{n}", now_s)
    now_s = repeat(store, edges, now_s)
    _, *living = edges  # the first one died
    newcomer = SharingEdge("d")
    newcomer.follow(store, now_s)
    assert not newcomer.load.in_flight.any() and not newcomer.protocol.peers.alive
    settle(store, [*living, newcomer], now_s, rounds=2)
    assert newcomer.protocol.in_step
    agree(*living, newcomer)
    assert newcomer.document == {"policy": "least_load"}


def test_an_emptied_store_loses_nothing_that_edges_know() -> None:
    """A round begins at once, and registrations and documents are kept in the store again."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    turn(a, "s", now_s)
    a.publish(store, now_s)
    store.empty()
    for edge in (a, b):
        edge.protocol.store_emptied()
    outgoing = a.protocol.next_batch(now_s)
    assert outgoing is not None and [record.id for record in outgoing.replicas] == ["r1"]
    store.append("a", outgoing.seq, outgoing.payload)
    settle(store, (a, b), now_s, rounds=1)
    agree(a, b)
    assert len(b.sessions) == 1
