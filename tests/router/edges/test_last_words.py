"""What an edge said last before it was gone, and only one other heard: the store lost it, and nothing comes after."""

from __future__ import annotations

from typing import Any

from members import SharingEdge, StreamStore, settle

from pointsman.router.edges.peers import FORGET_S, LEASE_S, MAX_PEERS, REMEMBER_S
from pointsman.router.edges.records import EdgeInfo, decode

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


# What nobody heard whole


def lost(dead: SharingEdge, now_s: float) -> None:
    """One batch that nobody hears: from here on all others know that something is missing."""
    dead.sessions.pin("lost", "r1", now_s)
    assert dead.member.next_batch(now_s) is not None


def heard_by(store: StreamStore, dead: SharingEdge, listener: SharingEdge, session: str, now_s: float) -> None:
    """What one edge says of a session, which one other reads before the store loses it."""
    dead.sessions.pin(session, "r2", now_s)
    dead.say(store, now_s)
    listener.follow(store, now_s)
    del store.streams[dead.name]


def one_that_says(*others: str) -> tuple[StreamStore, SharingEdge, list[SharingEdge], float]:
    """An edge and others that agree; the session `s` lives at `r1`."""
    store = StreamStore()
    dead, *rest = edges = [SharingEdge(name, STICKY) for name in ("dead", *others)]
    dead.register("r1", "r2")
    dead.sessions.pin("s", "r1", 0.0)
    return store, dead, rest, settle(store, edges, 0.0)


def test_what_one_heard_after_a_gap_of_an_edge_that_is_gone_is_told_to_all() -> None:
    """The other heard more of what came before, and less of what came after: neither has the stream whole, both know
    something the other does not, and nobody says anything of these sessions again."""
    store, dead, (a, b), now_s = one_that_says("a", "b")
    heard_by(store, dead, b, "early", now_s)
    lost(dead, now_s)
    heard_by(store, dead, a, "s", now_s)
    heard_by(store, dead, b, "late", now_s)
    now_s = settle(store, (a, b), now_s, step_s=LEASE_S)
    assert dict.fromkeys(("s", "early", "late"), "r2") == a.knows()["sessions"]
    agree(a, b)
    assert a.member.in_step and b.member.in_step
    taken = [edge.member.counters.taken for edge in (a, b)]
    settle(store, (a, b), now_s, rounds=20)
    assert [edge.member.counters.taken for edge in (a, b)] == taken, "what is mended is not asked for again"


def test_a_newcomer_learns_what_was_heard_of_an_edge_that_it_never_met() -> None:
    """Its snapshot is of an edge that heard less than another; the roster has forgotten who said what."""
    store, dead, (a, b), now_s = one_that_says("a", "b")
    lost(dead, now_s)
    heard_by(store, dead, a, "s", now_s)
    now_s = settle(store, (b,), now_s, step_s=LEASE_S)
    newcomer = SharingEdge("n", STICKY)
    now_s = settle(store, (b, newcomer), now_s)
    assert newcomer.knows()["sessions"] == {"s": "r1"}
    settle(store, (a, b, newcomer), now_s)
    assert newcomer.knows()["sessions"] == {"s": "r2"}
    agree(a, b, newcomer)


def test_a_newcomer_passes_on_what_it_knows_by_a_snapshot_alone() -> None:
    """Who made it is gone too, and another has read all that was ever said by that one."""
    store, dead, (a, b), now_s = one_that_says("a", "b")
    lost(dead, now_s)
    heard_by(store, dead, a, "s", now_s)
    newcomer = SharingEdge("n", STICKY)
    now_s = settle(store, (a, newcomer), now_s)
    b.follow(store, now_s)
    settle(store, (b, newcomer), now_s, step_s=LEASE_S)
    assert b.knows()["sessions"] == {"s": "r2"}
    agree(b, newcomer)


def test_an_edge_that_came_and_went_while_another_was_cut_off_is_made_up_for() -> None:
    """Nothing of its stream is there when that one is back, and all others know it whole."""
    store, a, (cut_off,), now_s = one_that_says("c")
    guest = SharingEdge("g", STICKY)
    now_s = settle(store, (a, guest), now_s)
    guest.sessions.pin("s", "r2", now_s)
    guest.member.leaving = True
    guest.say(store, now_s)
    a.follow(store, now_s)
    del store.streams["g"]
    settle(store, (a, cut_off), now_s)
    assert cut_off.knows()["sessions"] == {"s": "r2"}
    agree(a, cut_off)


def test_edges_that_are_gone_are_forgotten_by_all() -> None:
    """Newcomers learn of them from others for as long as these know them, and no longer: none is told on for good."""
    store, dead, (a, _), now_s = one_that_says("a", "b")
    lost(dead, now_s)
    heard_by(store, dead, a, "s", now_s)
    store.empty()
    edges = [a]
    began_s = now_s
    for number in range(6):
        edges.append(SharingEdge(f"n{number}", STICKY))
        now_s = settle(store, edges, now_s, rounds=60, step_s=2.0)
        knows_it = [edge.member.peers.get("dead") is not None for edge in edges]
        if now_s - began_s < REMEMBER_S:
            assert all(knows_it)
    assert now_s - began_s > FORGET_S
    assert not any(knows_it)
    agree(*edges)


def test_edges_that_are_gone_leave_room_for_those_that_live() -> None:
    """However many another speaks of."""
    store = StreamStore()
    a, b = edges = [SharingEdge(name) for name in "ab"]
    a.member.roster([EdgeInfo(edge=f"gone {number}") for number in range(MAX_PEERS - 2)], 0.0)
    settle(store, edges, 0.0)
    assert len(a.member.peers) > len(b.member.peers) == MAX_PEERS // 2
    said = b.member.next_batch(10.0)
    assert said is not None and len(decode(said.payload).gone) < MAX_PEERS // 2
