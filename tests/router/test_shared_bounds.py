"""What waits to be told, and what is remembered of others, while nobody listens: all of it has an end."""

from __future__ import annotations

import pytest
from members import SharingEdge, StreamStore, settle

from router.state import conversations, sessions
from router.state.conversations import Conversations
from router.state.kv_columns import KVColumns
from router.state.shared import ahead, registrations
from router.state.shared.ahead import TalksAhead
from router.state.shared.member import MAX_NOTICES
from router.state.shared.peers import MAX_PEERS
from router.state.shared.records import EdgeInfo, Talk, decode

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


def test_conversations_told_before_their_replica_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit, and with the time a conversation lives; the later turn is kept."""
    monkeypatch.setattr(ahead, "MAX_AHEAD", 10)
    talks = TalksAhead()
    for number in range(50):
        talks.keep(Talk(f"s{number}", 0, 2, 10, 0, 40, 10, -1, 0), f"r{number % 2}", float(number))
    talks.keep(Talk("s49", 0, 1, 10, 0, 40, 10, -1, 0), "r7", 50.0)
    assert len(talks) == 10
    assert [(talk.name, told_s) for talk, told_s in talks.take("r1")][-1] == ("s49", 50.0)
    assert len(talks) == 5
    talks.expire(46.0 + conversations.CONVERSATION_TTL_S)
    assert [talk.name for talk, _ in talks.take("r0")] == ["s48"]


def test_turns_of_conversations_without_a_home_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit, and with the time a conversation lives."""
    monkeypatch.setattr(conversations, "MAX_UPROOTED", 10)
    columns = KVColumns()
    columns.add_slot(0)
    table = Conversations(columns)
    for number in range(50):
        table.place(None, f"s{number}", 0, (), tokens=10, resident=0, prompt_bytes=40, now_s=0.0, in_flight=False)
    table.engine_lives(0, 5, restarted=True)
    table.validate()
    assert len(table) == 0 and len(table._uprooted) == 10
    known = table.place(None, "s49", 0, (), tokens=10, resident=0, prompt_bytes=40, now_s=1.0, in_flight=False)
    assert known is not None and known.turn == 2
    table.expire(conversations.CONVERSATION_TTL_S)
    assert not table._uprooted
