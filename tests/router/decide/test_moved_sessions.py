"""Sessions that an operator moved: where their next request goes, and what becomes of the order."""

import random

import pytest
from invariants import check

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import Registration, Role
from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.fleet.replica import Health

CHAIN = tuple(range(100, 200))


class Edge:
    """Replicas a, b and c, and a prefill replica, under one policy."""

    def __init__(self, policy: str) -> None:
        self.core = Core({"policy": policy}, rng=random.Random(3))
        for number, name in enumerate(("a", "b", "c", "p"), 1):
            role = Role.PREFILL if name == "p" else Role.BOTH
            registration = Registration(url=f"http://127.0.0.1:{number}", role=role)
            self.core.replicas.put(name, registration, ("127.0.0.1", number), 0.0)
            self.core.engine_events(name, EngineEvents(epoch="e", seq=0, snapshot=True, capacity_tokens=10**6), 0.0)
        self.asked = 0

    def ask(self, session: str = "s", now_s: float = 1.0, *, generates: bool = True) -> Decision:
        """One request of a session, longer than the one before and answered at once."""
        self.asked += 1
        keys = CHAIN[: 40 + self.asked]
        features = RequestFeatures(
            request_id=f"q{self.asked}",
            session=session,
            body_bytes=512 * len(keys),
            prefix_keys=keys,
            generates=generates,
        )
        decision = self.core.decide(features, now_s)
        self.core.requests.end(f"q{self.asked}", now_s, served=True)
        check(self.core)
        return decision

    def elsewhere(self, decision: Decision) -> str:
        """A replica that the decision did not choose."""
        return next(name for name in "abc" if name != decision.first)


@pytest.mark.parametrize("policy", ["kv_cost", "session_affinity", "least_load", "consistent_hash", "prefix_affinity"])
def test_the_next_request_goes_where_the_session_was_moved_to(policy: str) -> None:
    """Under any policy, with a second choice and a reason of its own; it is explained before, and over after it."""
    edge = Edge(policy)
    target = edge.elsewhere(edge.ask())
    edge.core.sessions.move("s", target, 2.0)
    features = RequestFeatures(request_id="", session="s", body_bytes=20_000, prefix_keys=CHAIN[:42])
    explained = edge.core.pipeline.explain(features, 2.0)
    assert (explained.decision.first, explained.decision.reason) == (target, Reason.SESSION_MOVED_ORDER)
    moved = edge.ask(now_s=2.0)
    assert (moved.first, moved.reason) == (target, Reason.SESSION_MOVED_ORDER)
    assert moved.second not in ("", target)
    assert not edge.core.sessions.ordered
    assert edge.ask(now_s=3.0).reason is not Reason.SESSION_MOVED_ORDER


@pytest.mark.parametrize("policy", ["kv_cost", "session_affinity"])
def test_a_session_stays_where_it_was_moved_to(policy: str) -> None:
    """Its KV is there from its first request on, or its pin."""
    edge = Edge(policy)
    target = edge.elsewhere(edge.ask())
    edge.core.sessions.move("s", target, 2.0)
    edge.ask(now_s=2.0)
    assert [edge.ask(now_s=3.0 + turn).first for turn in range(3)] == [target] * 3


def test_other_sessions_are_placed_as_ever() -> None:
    """And requests without a session."""
    edge, twin = Edge("kv_cost"), Edge("kv_cost")
    edge.core.sessions.move("s", "c", 0.0)
    for session in ("t", "u", ""):
        assert edge.ask(session) == twin.ask(session)


def test_a_replica_that_gets_no_requests_gets_none_by_order() -> None:
    """Nor does one that computes prompts for others, or that has left; the order ends with that request, too."""
    for unfit in ("down", "prefill", "gone"):
        edge = Edge("kv_cost")
        first = edge.ask().first
        target = {"down": edge.elsewhere(edge.ask()), "prefill": "p", "gone": "x"}[unfit]
        edge.core.sessions.move("s", target, 2.0)
        if unfit == "down":
            edge.core.replicas.set_health(target, Health.DOWN, 2.0)
        assert edge.ask(now_s=2.0).first == first
        assert not edge.core.sessions.ordered


def test_an_order_waits_for_a_request_that_generates() -> None:
    """Embeddings of the same session are placed by load, and move nothing."""
    edge = Edge("kv_cost")
    edge.core.sessions.move("s", "c", 0.0)
    assert edge.ask(generates=False).reason is Reason.LEAST_LOAD
    assert list(edge.core.sessions.ordered) == ["s"]
