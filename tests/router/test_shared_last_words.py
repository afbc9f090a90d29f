"""What an edge said last before it was gone, and only one other heard: the store lost it, and nothing comes after."""

from __future__ import annotations

from typing import Any

from members import SharingEdge, StreamStore, settle

from router.state.shared.peers import LEASE_S

STICKY: dict[str, Any] = {"policy": "session_affinity", "fallback": {"policy": "least_load"}}


def agree(*edges: SharingEdge) -> None:
    first = edges[0].knows()
    for edge in edges[1:]:
        assert edge.knows() == first


def test_last_words_that_the_store_lost_are_mended_by_who_heard_them() -> None:
    """An edge leaves, and one of the others read less of it: no gap tells, since nothing comes after."""
    store = StreamStore()
    a, b, c = edges = [SharingEdge(name, STICKY) for name in "abc"]
    a.register("r1")
    now_s = settle(store, edges, 0.0)
    taken = [edge.member.counters.taken for edge in (a, b)]
    c.ask("q1", now_s, session="s1")
    c.end("q1", now_s)
    c.say(store, now_s)
    b.follow(store, now_s)
    del store.streams["c"]
    now_s = settle(store, (a, b), now_s, rounds=20)
    assert len(a.sessions) == 1
    agree(a, b)
    assert a.member.in_step and b.member.in_step
    assert [edge.member.counters.taken for edge in (a, b)] == [taken[0] + 1, taken[1]], "each what it lacks, once"


def test_last_words_that_only_a_newcomer_heard_are_mended_by_it() -> None:
    """It read them before it took the snapshot of an edge that had not, and the store lost them since."""
    store = StreamStore()
    a, dead = edges = [SharingEdge(name, STICKY) for name in ("a", "dead")]
    a.register("r1")
    now_s = settle(store, edges, 0.0)
    dead.ask("q1", now_s, session="s1")
    dead.end("q1", now_s)
    dead.say(store, now_s)
    newcomer = SharingEdge("n", STICKY)
    newcomer.follow(store, now_s)
    del store.streams["dead"]
    now_s = settle(store, (a, newcomer), now_s, step_s=LEASE_S)
    settle(store, (a, newcomer), now_s)
    assert len(a.sessions) == 1
    agree(a, newcomer)
    assert [edge.member.counters.taken for edge in (a, newcomer)] == [2, 1], "each what it lacks, once"


def test_who_says_less_than_is_agreed_of_a_replica_is_told() -> None:
    """What an edge said last before it was killed came to one other alone, with a gap before it, and the store lost it:
    nothing else shows that anything is missing. The lease that ends at the third does not part them."""
    store = StreamStore()
    a, b, dead = (SharingEdge(name) for name in ("a", "b", "dead"))
    dead.register("r1")
    now_s = settle(store, (a, b, dead), 0.0)
    dead.tell("r1", snapshot=True)
    dead.member.next_batch(now_s)  # lost on its way
    dead.replicas.drain("r1")
    dead.say(store, now_s)
    a.follow(store, now_s)
    del store.streams["dead"]
    b.replicas.remove("r1")
    b.member.registrations.lease_ended(["r1"])
    now_s = settle(store, (a, b), now_s, step_s=LEASE_S)
    assert [(r.id, r.draining) for r in b.replicas] == [("r1", True)]
    agree(a, b)
    told = a.member.next_batch(now_s + 1)
    assert told is not None and not told.replicas, "an answer is given once"


def test_who_says_less_than_is_agreed_of_the_policy_is_told() -> None:
    """The same of a document that one of two edges has from a third that is gone."""
    store = StreamStore()
    a, b, dead = (SharingEdge(name) for name in ("a", "b", "dead"))
    now_s = settle(store, (a, b, dead), 0.0)
    for policy in ("random", "round_robin"):
        dead.put_document({"policy": policy})
        outgoing = dead.member.next_batch(now_s)
    store.append("dead", outgoing.seq, outgoing.payload)
    a.follow(store, now_s)
    del store.streams["dead"]
    b.put_document({"policy": "least_load"})
    settle(store, (a, b), now_s, step_s=LEASE_S)
    assert a.document == b.document == {"policy": "round_robin"}
