"""Documents of the book, shared by edges: keys, tenants, aliases."""

from __future__ import annotations

from typing import Any

from sharing_edges import SharingEdge, StreamStore, settle


def two(policy: dict[str, Any] | None = None) -> tuple[StreamStore, SharingEdge, SharingEdge]:
    return StreamStore(), SharingEdge("a", policy), SharingEdge("b", policy)


def test_what_is_written_at_one_edge_is_in_every_book() -> None:
    """With the next batch; of two written at once the same one is kept everywhere; what is removed is removed."""
    store, a, b = two()
    now_s = settle(store, (a, b), 0.0)
    a.core.book.write("tenant/acme", {"name": "acme", "weight": 2})
    a.publish(store, now_s)
    b.follow(store, now_s)
    assert b.core.tenants.of("acme").weight == 2
    a.core.book.write("tenant/acme", {"name": "acme", "weight": 3})
    b.core.book.write("tenant/acme", {"name": "acme", "weight": 4})
    now_s = settle(store, (a, b), now_s)
    assert a.core.tenants.of("acme") == b.core.tenants.of("acme")
    b.core.book.write("tenant/acme", {})
    settle(store, (a, b), now_s)
    assert len(a.core.tenants) == len(b.core.tenants) == 0
    assert a.knows() == b.knows()


def test_a_batch_with_a_document_that_is_lost_is_made_up_for() -> None:
    """By the round that repeats the book, once a minute."""
    store, a, b = two()
    now_s = settle(store, (a, b), 0.0)
    a.core.book.write("tenant/acme", {"name": "acme", "weight": 2})
    a.publish(store, now_s)
    del store.streams["a"][max(store.streams["a"])]
    now_s = settle(store, (a, b), now_s)
    assert b.core.tenants.get("acme") is None
    settle(store, (a, b), now_s, rounds=2 * 70)
    assert b.core.tenants.of("acme").weight == 2


def test_the_store_is_given_what_was_written_while_it_was_away() -> None:
    """And no document that it has already: a book may be large."""
    a = SharingEdge("a")
    first = a.core.book.write("tenant/first", {"name": "first"})
    a.core.book.write("tenant/second", {"name": "second"})
    a.protocol.next_batch(0.0)
    a.protocol.restore([], [first], 1.0)
    outgoing = a.protocol.next_batch(1.0)
    assert outgoing is not None
    assert [document.name for document in outgoing.documents] == ["tenant/second"]
    a.protocol.store_emptied()
    rewritten = a.protocol.next_batch(2.0)
    assert rewritten is not None
    assert {document.name for document in rewritten.documents} == {"tenant/first", "tenant/second"}
