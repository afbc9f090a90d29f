"""What waits to be told, and what is remembered of others, while nobody listens: all of it has an end."""

from __future__ import annotations

import pytest
from members import SharingEdge, StreamStore, settle

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.edges import homeless, registrations
from pointsman.router.edges.member import MAX_NOTICES
from pointsman.router.edges.peers import MAX_PEERS
from pointsman.router.edges.records import EdgeInfo, decode
from pointsman.router.fleet import sessions
from pointsman.router.kv import conversations
from pointsman.router.kv.columns import KVColumns
from pointsman.router.kv.conversation import Conversation
from pointsman.router.kv.conversations import CONVERSATION_TTL_S, Conversations

STICKY = {"policy": "session_affinity", "fallback": {"policy": "least_load"}}


def test_sessions_that_wait_to_be_told_become_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit they are dropped, and the others know that something is missing."""
    monkeypatch.setattr(sessions, "MAX_CHANGED", 100)
    store, a, b = StreamStore(), SharingEdge("a", STICKY), SharingEdge("b", STICKY)
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    for number in range(350):
        a.ask(f"q{number}", now_s, session=f"s{number}")
        a.end(f"q{number}", now_s)
        assert a.sessions.changed is not None and len(a.sessions.changed) <= 100
    settle(store, (a, b), now_s)
    assert a.member.counters.overruns == 1
    assert len(b.sessions) == 350 and b.knows() == a.knows()


def test_a_replica_that_comes_and_goes_waits_as_one_record() -> None:
    """While the edge hears others and cannot tell them anything: the last word says all."""
    store, a, b = StreamStore(), SharingEdge("a"), SharingEdge("b")
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    for number in range(50):
        a.register("r2", url=f"http://h:{number + 1}")
        b.say(store, now_s := now_s + 1)
        a.follow(store, now_s)
        a.replicas.remove("r2")
        b.say(store, now_s := now_s + 1)
        a.follow(store, now_s)
    outgoing = a.member.next_batch(now_s)
    assert outgoing is not None and [record.id for record in decode(outgoing.payload).replicas] == ["r2"]


def test_one_question_waits_however_long_nobody_answers() -> None:
    """The latest: to whom it went before did not answer."""
    store, a, b = StreamStore(), SharingEdge("a"), SharingEdge("b")
    b.member.seq = 1  # so its stream begins with a gap
    b.say(store, 0.0)
    a.member.roster(store.roster(), 0.0)
    for second in range(0, 100, 2):
        b.say(store, float(second))
        a.follow(store, float(second))
        a.member.sweep(float(second))
    assert a.member.counters.asked > 3
    outgoing = a.member.next_batch(100.0)
    assert outgoing is not None and len(decode(outgoing.payload).asks) == 1


def test_answers_that_nobody_hears_end() -> None:
    """The oldest first."""
    a = SharingEdge("a")
    for _ in range(3 * MAX_NOTICES):
        a.member._askers.add("b")
        snapshot = a.member.snapshot_wanted(0.0)
        assert snapshot is not None
        a.member.announce(snapshot, 1)
    outgoing = a.member.next_batch(0.0)
    assert outgoing is not None
    assert [n.id for n in decode(outgoing.payload).notices] == [
        f"a-{n}" for n in range(2 * MAX_NOTICES + 1, 3 * MAX_NOTICES + 1)
    ]


def test_edges_that_are_known_end() -> None:
    """A roster of thousands is not followed to its end."""
    a = SharingEdge("a")
    a.member.roster([EdgeInfo(edge=f"e{number}") for number in range(3 * MAX_PEERS)], 0.0)
    assert len(a.member.peers) == MAX_PEERS


def test_replicas_that_left_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leases that ended of what is not known are not noted at all."""
    monkeypatch.setattr(registrations, "MAX_GONE", 10)
    a = SharingEdge("a")
    for number in range(50):
        a.register(f"r{number}")
        a.member.next_batch(float(number))
        a.replicas.remove(f"r{number}")
        a.member.next_batch(float(number))
        a.member.registrations.lease_ended([f"x{number}"])
    assert len(a.member.registrations.records()) == 10
    assert not a.member.registrations._lease_ended


def test_conversations_without_a_home_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit, and with the time a conversation lives; whether they lost it, or never had it here."""
    monkeypatch.setattr(homeless, "MAX_HOMELESS", 10)
    monkeypatch.setattr(conversations, "MAX_HOMELESS", 10)
    columns = KVColumns()
    columns.add_slot(0)
    table = Conversations(columns)
    for number in range(50):
        table.learn(Conversation(f"o{number}", NO_SLOT, 10, 0, 40, 10, -1, 0, 0.0, home="unknown"), NO_SLOT)
    table.validate()
    assert [word.name for word in table.words()] == [f"o{number}" for number in range(40, 50)]
    for number in range(50):
        table.place(None, f"s{number}", 0, (), tokens=10, resident=0, prompt_bytes=40, now_s=0.0, in_flight=False)
    table.engine_lives(0, 5, restarted=True)
    table.validate()
    assert [word.name for word in table.words()] == [f"s{number}" for number in range(40, 50)]
    known = table.place(None, "s49", 0, (), tokens=10, resident=0, prompt_bytes=40, now_s=1.0, in_flight=False)
    assert known is not None and known.turn == 2
    table.expire(CONVERSATION_TTL_S)
    assert [word.name for word in table.words()] == ["s49"]
