"""One router of the simulation: the real pipeline, told of the world."""

from __future__ import annotations

import random

import pytest
from sim_trace import make_session, make_trace, make_turn

from pointsman.contract.events import EngineEvents, FirstToken
from pointsman.policies.errors import PolicyConfigError
from pointsman.policies.request import RequestFeatures
from pointsman.simulator.edge import Edge, Placed
from pointsman.simulator.replica import VirtualReplica
from pointsman.simulator.settings import FleetSettings

TRACE = make_trace(make_session("s", 0.0, make_turn(1_000, 24)))


def make_edge(policy: str = "kv_cost", replicas: int = 2) -> Edge:
    settings = FleetSettings(replicas=replicas, kv_tokens=100_000)
    fleet = [VirtualReplica(index, settings, TRACE) for index in range(replicas)]
    return Edge({"policy": policy}, fleet, rng=random.Random(1))


def make_features(request_id: str = "q1", session: str = "s") -> RequestFeatures:
    turn = TRACE.sessions[0].turns[0]
    return RequestFeatures(
        request_id=request_id,
        session=session,
        body_bytes=TRACE.body_bytes(turn),
        prefix_keys=TRACE.prefix_keys(turn),
    )


def test_it_knows_the_capacities_from_the_start() -> None:
    """Replicas say how much KV they have room for in their first message."""
    edge = make_edge()
    assert edge.kv.columns.signals.capacity[:2].tolist() == [100_000, 100_000]


def test_a_decision_is_reserved_until_its_end() -> None:
    """Load and backlog count it; HAProxy's line ends both."""
    edge = make_edge()
    decision = edge.decide(make_features(), 0.0)
    slot = int(decision.first[1:])
    assert (edge.load.in_flight[slot], edge.kv.columns.signals.waiting[slot]) == (1, 1_000)
    edge.ended("q1", 1.0)
    assert (edge.load.in_flight[slot], edge.kv.columns.signals.waiting[slot]) == (0, 0)


def test_a_first_token_ends_the_backlog() -> None:
    """The engine's message does, before the request is over."""
    edge = make_edge()
    slot = int(edge.decide(make_features(), 0.0).first[1:])
    edge.heard(slot, EngineEvents(epoch="1", seq=1, first=[FirstToken("q1", 1_000, 0, 35.0)]), 0.05)
    assert (edge.load.in_flight[slot], edge.kv.columns.signals.waiting[slot]) == (1, 0)


def test_anothers_decision_counts_like_its_own() -> None:
    """Load, backlog, conversation and expected keys: the next turn goes where the other edge sent the first."""
    edge = make_edge()
    edge.decided_elsewhere(Placed(make_features(), 1, "r1"), 0.0)
    assert (edge.load.in_flight[1], edge.kv.columns.signals.waiting[1]) == (1, 1_000)
    edge.ended("q1", 0.5)
    assert edge.load.in_flight[1] == 0
    assert edge.decide(make_features("q2"), 1.0).first == "r1"


def test_anothers_pin_is_a_pin() -> None:
    """Where the policy pins, a session another edge placed has its home there."""
    edge = make_edge("session_affinity")
    edge.decided_elsewhere(Placed(make_features(), 1, "r1"), 0.0)
    assert edge.decide(make_features("q2"), 1.0).first == "r1"


def test_a_replica_that_is_down_is_no_candidate() -> None:
    """Until it is back."""
    edge = make_edge()
    edge.down("r0", 0.0)
    assert {edge.decide(make_features(f"q{i}", f"s{i}"), 0.0).first for i in range(20)} == {"r1"}
    edge.down("r1", 0.0)
    assert edge.decide(make_features("x"), 0.0).first == ""
    edge.back("r0", 0.0)
    assert edge.decide(make_features("y"), 0.0).first == "r0"


def test_a_bad_policy_is_refused() -> None:
    """By the registry, as in the service."""
    with pytest.raises(PolicyConfigError, match="none_such"):
        make_edge("none_such")
