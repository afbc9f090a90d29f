"""Sessions that were forgotten, and sessions that were moved, on edges that share them."""

from __future__ import annotations

from typing import Any

import pytest
from sharing_edges import SharingEdge, StreamStore, repeat, settle

from pointsman.policies.decision import Reason
from pointsman.router.edges.forgotten import FORGOTTEN_S, MAX_FORGOTTEN, SLACK_S, Forgotten

STICKY: dict[str, Any] = {"policy": "session_affinity", "fallback": {"policy": "least_load"}}
CHAIN = tuple(range(1000, 1040))


def edges(policy: dict[str, Any] | None = None) -> tuple[StreamStore, SharingEdge, SharingEdge]:
    store, a, b = StreamStore(), SharingEdge("a", policy), SharingEdge("b", policy)
    a.register("r1", "r2")
    return store, a, b


def turn(edge: SharingEdge, session: str, now_s: float) -> str:
    """A request of a session is answered at once; the replica that it went to."""
    decision = edge.ask(f"q-{session}", now_s, session=session, body_bytes=20_000, prefix_keys=CHAIN)
    edge.end(f"q-{session}", now_s)
    return decision.first


def known(edge: SharingEdge) -> set[Any]:
    return {session for session, *_ in edge.sessions} | set(edge.kv.conversations.by_name)


@pytest.mark.parametrize("policy", [None, STICKY], ids=["conversations", "pins"])
@pytest.mark.parametrize("by", ["writer", "reader"])
def test_a_session_that_is_forgotten_at_one_edge_is_forgotten_at_all(policy: dict[str, Any] | None, by: str) -> None:
    """Whichever edge had its last request, and for good: rounds, which repeat all states, bring it back nowhere."""
    store, a, b = edges(policy)
    now_s = settle(store, (a, b), 0.0)
    turn(a, "s", now_s)
    turn(a, "other", now_s)
    now_s = settle(store, (a, b), now_s)
    assert known(a) == known(b) == {"s", "other"}
    assert (a if by == "writer" else b).core.forget_session("s", now_s)
    now_s = repeat(store, (a, b), now_s)
    assert known(a) == known(b) == {"other"}
    assert not a.core.forget_session("s", now_s)


@pytest.mark.parametrize("policy", [None, STICKY], ids=["conversations", "pins"])
def test_a_session_that_goes_on_after_it_was_forgotten_is_a_new_one(policy: dict[str, Any] | None) -> None:
    """At whichever edge; once nothing changes both know it, with the turns since."""
    store, a, b = edges(policy)
    now_s = settle(store, (a, b), 0.0)
    for _ in range(5):
        turn(a, "s", now_s)
    now_s = settle(store, (a, b), now_s)
    a.core.forget_session("s", now_s)
    now_s = settle(store, (a, b), now_s)
    home = turn(b, "s", now_s)
    now_s = repeat(store, (a, b), now_s + FORGOTTEN_S)
    assert known(a) == known(b) == {"s"}
    if policy is None:
        assert [edge.kv.conversations.by_name["s"].turn for edge in (a, b)] == [1, 1]
        assert {edge.kv.conversations.by_name["s"].home for edge in (a, b)} == {home}
    else:
        assert a.sessions.state("s") is not None
        assert {edge.sessions.state("s")[0] for edge in (a, b)} == {home}  # type: ignore[index]


def test_an_edge_that_missed_it_hears_of_it_again() -> None:
    """With each heartbeat for a while, so that one lost batch brings no session back."""
    store, a, b = edges()
    now_s = settle(store, (a, b), 0.0)
    turn(b, "s", now_s)
    now_s = settle(store, (a, b), now_s)
    a.core.forget_session("s", now_s)
    a.publish(store, now_s)
    lost = max(store.streams["a"])
    store.streams["a"][lost] = b"no batch"
    now_s = repeat(store, (a, b), now_s)
    assert known(a) == known(b) == set()


@pytest.mark.parametrize("policy", [None, STICKY], ids=["conversations", "pins"])
def test_a_session_that_is_moved_at_one_edge_moves_at_the_other(policy: dict[str, Any] | None) -> None:
    """Its next request comes to another edge than the one that was asked; after it neither edge holds to the order."""
    store, a, b = edges(policy)
    now_s = settle(store, (a, b), 0.0)
    home = turn(a, "s", now_s)
    target = "r2" if home == "r1" else "r1"
    now_s = settle(store, (a, b), now_s)
    a.sessions.move("s", target, now_s)
    now_s = settle(store, (a, b), now_s)
    decision = b.ask("q", now_s, session="s", body_bytes=20_000, prefix_keys=CHAIN)
    assert (decision.first, decision.reason) == (target, Reason.SESSION_MOVED_ORDER)
    b.end("q", now_s)
    now_s = settle(store, (a, b), now_s)
    assert not a.sessions.ordered and not b.sessions.ordered
    assert turn(a, "s", now_s) == target


def test_what_was_in_use_later_is_another_session() -> None:
    """The boundary has some slack, since batches of two edges do not take the same time."""
    forgotten = Forgotten()
    assert not forgotten.voids("s", 0.0)
    assert forgotten.add("s", 10.0, here=True)
    assert forgotten.voids("s", 9.0) and forgotten.voids("s", 10.0 + SLACK_S / 2)
    assert not forgotten.voids("s", 10.0 + SLACK_S) and not forgotten.voids("t", 9.0)


def test_a_forgotten_session_is_remembered_for_a_while() -> None:
    """Said again it changes nothing; forgotten again it does; only what was forgotten here is published from here."""
    forgotten = Forgotten()
    forgotten.add("here", 10.0, here=True)
    forgotten.add("there", 11.0, here=False)
    assert not forgotten.add("there", 11.1, here=False)
    assert dict(forgotten.to_publish()) == {"here": 10.0}
    assert forgotten.add("here", 20.0, here=True)
    forgotten.expire(11.0 + FORGOTTEN_S)
    assert not forgotten.voids("there", 9.0) and forgotten.voids("here", 9.0)
    forgotten.expire(20.0 + FORGOTTEN_S)
    assert len(forgotten) == 0 and not list(forgotten.to_publish())


def test_no_more_forgotten_sessions_are_remembered_than_the_limit() -> None:
    """The first one goes."""
    forgotten = Forgotten()
    for number in range(MAX_FORGOTTEN + 1):
        forgotten.add(f"s{number}", float(number), here=True)
    assert len(forgotten) == len(list(forgotten.to_publish())) == MAX_FORGOTTEN
    assert not forgotten.voids("s0", 0.0) and forgotten.voids("s1", 0.0)
