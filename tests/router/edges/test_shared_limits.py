"""Limits that edges keep together."""

from __future__ import annotations

from typing import Any

from sharing_edges import SharingEdge, StreamStore, settle

from pointsman.router.edges.peers import LEASE_S


def two(policy: dict[str, Any] | None = None) -> tuple[StreamStore, SharingEdge, SharingEdge]:
    return StreamStore(), SharingEdge("a", policy), SharingEdge("b", policy)


def limited(edge: SharingEdge, request_id: str, now_s: float) -> str:
    """The limit that a request is over; empty where it is let in."""
    return edge.ask(request_id, now_s, tenant="acme", body_bytes=4000, max_tokens=1).limit


def test_edges_keep_one_limit_together() -> None:
    """What one of them let in is taken off the limit at the other, with the next batch."""
    store, a, b = two({"policy": "least_load"})
    a.register("r1")
    a.core.book.write("tenant/acme", {"name": "acme", "limits": {"tokens_per_minute": 15_000}})
    now_s = settle(store, (a, b), 0.0)
    assert limited(a, "q1", now_s) == limited(a, "q2", now_s) == ""
    a.publish(store, now_s)
    b.follow(store, now_s)
    assert limited(b, "q3", now_s) == "tokens_per_minute of tenant/acme"
    assert limited(b, "q3", now_s + 4.0) == ""
    a.validate()
    b.validate()


def test_an_edge_that_dies_leaves_nothing_under_way() -> None:
    """Its requests at one time are others' again."""
    store, a, b = two({"policy": "least_load"})
    a.register("r1")
    a.core.book.write("tenant/acme", {"name": "acme", "limits": {"concurrent_requests": 1}})
    now_s = settle(store, (a, b), 0.0)
    assert limited(a, "q1", now_s) == ""
    a.publish(store, now_s)
    b.follow(store, now_s)
    assert limited(b, "q2", now_s) == "concurrent_requests of tenant/acme"
    b.protocol.peers.sweep(now_s + LEASE_S + 1)
    assert limited(b, "q2", now_s + LEASE_S + 1) == ""


def test_edges_that_cannot_hear_each_other_keep_a_part_each() -> None:
    """Until they hear each other again."""
    store, a, b = two({"policy": "least_load"})
    settle(store, (a, b), 0.0)
    a.protocol.cut_off(cut=True)
    assert a.core.limits.share == 0.5
    a.protocol.cut_off(cut=True)
    assert a.core.limits.share == 0.5
    a.protocol.cut_off(cut=False)
    assert a.core.limits.share == 1.0
