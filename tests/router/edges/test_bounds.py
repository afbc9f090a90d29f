"""What an edge does with batches that it cannot read, and what has an end while the store is away."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sharing_edges import SharingEdge, StreamStore, repeat, settle

from pointsman.router.edges import registrations
from pointsman.router.edges.peers import MAX_PEERS
from pointsman.router.edges.records import SHARED_SCHEMA, Batch, EdgeInfo, encode
from pointsman.router.fleet import sessions

STICKY: dict[str, Any] = {"policy": "session_affinity", "fallback": {"policy": "least_load"}}


def two(policy: dict[str, Any] | None = None) -> tuple[StreamStore, SharingEdge, SharingEdge]:
    return StreamStore(), SharingEdge("a", policy), SharingEdge("b", policy)


# What cannot be read


def test_another_schema_is_passed_over_with_a_sentence() -> None:
    """The edge goes on with those it understands, and follows this one again when it understands it."""
    store, a, b = two()
    settle(store, (a, b), 0.0)
    store.append("a", a.protocol.seq + 1, encode(Batch(schema=SHARED_SCHEMA + 1)))
    b.follow(store, 4.0)
    assert b.protocol.counters.refused == 1
    assert f"schema {SHARED_SCHEMA + 1} is not {SHARED_SCHEMA}" in b.protocol.peers.get("a").refused
    a.protocol.seq += 1
    repeat(store, (a, b), 4.0)
    assert not b.protocol.peers.get("a").refused and b.protocol.in_step


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="no MessagePack"),
        pytest.param(msgspec.msgpack.encode({"v": SHARED_SCHEMA, "f": [[7, 1, 1]]}), id="a name that is not there"),
    ],
)
def test_bytes_that_are_no_batch_are_counted_and_made_up_for(payload: bytes) -> None:
    """They are a gap like any other."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    a.register("r2")
    a.publish(store, now_s + 1)
    store.append("a", a.protocol.seq, payload)
    repeat(store, (a, b), now_s + 1)
    assert b.protocol.counters.malformed == 1
    assert a.knows() == b.knows()


# What has an end


def test_sessions_that_wait_beyond_the_limit_are_known_after_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store is away they are dropped, and repeated later."""
    monkeypatch.setattr(sessions, "MAX_CHANGED", 100)
    store, a, b = two(STICKY)
    a.register("r1", "r2")
    now_s = settle(store, (a, b), 0.0)
    for number in range(350):
        a.ask(f"q{number}", now_s, session=f"s{number}")
        a.end(f"q{number}", now_s)
        assert a.sessions.changed is not None and len(a.sessions.changed) <= 100
    repeat(store, (a, b), now_s)
    assert len(b.sessions) == 350
    assert a.knows() == b.knows()


def test_a_replica_that_comes_and_goes_waits_as_one_record() -> None:
    """While the edge reads the streams of others and cannot append to its own: the latest replaces the others."""
    store, a, b = two()
    a.register("r1")
    now_s = settle(store, (a, b), 0.0)
    for number in range(50):
        a.register("r2", url=f"http://h:{number + 1}")
        b.publish(store, now_s := now_s + 1)
        a.follow(store, now_s)
        a.replicas.remove("r2")
        b.publish(store, now_s := now_s + 1)
        a.follow(store, now_s)
    outgoing = a.protocol.next_batch(now_s)
    assert outgoing is not None
    assert [record.id for record in outgoing.replicas] == ["r2"]


def test_the_edges_of_a_roster_are_followed_up_to_a_limit() -> None:
    """Whatever somebody writes into the store."""
    a = SharingEdge("a")
    a.protocol.peers.meet([EdgeInfo(edge=f"e{number}") for number in range(3 * MAX_PEERS)], 0.0)
    assert len(a.protocol.peers) == MAX_PEERS


def test_replicas_that_left_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leases that ended of replicas that are not known are not noted at all."""
    monkeypatch.setattr(registrations, "MAX_GONE", 10)
    a = SharingEdge("a")
    for number in range(50):
        a.register(f"r{number}")
        a.protocol.next_batch(float(number))
        a.replicas.remove(f"r{number}")
        a.protocol.next_batch(float(number))
        a.protocol.registrations.lease_ended([f"x{number}"])
    assert len(a.protocol.registrations.records()) == 10
    assert not a.protocol.registrations._lease_ended
