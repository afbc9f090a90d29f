"""Batch requests go where others of a batch are."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pointsman.contract.registration import Registration
from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import BATCH, RequestFeatures
from pointsman.router.core import Core

POLICY: dict[str, Any] = {"policy": "least_load"}


class Fleet:
    """A router in front of replicas of one model."""

    def __init__(self, replicas: int = 8, **batch: Any) -> None:
        lane = {"running": 1000, "delays": None, **batch}
        self.core = Core(POLICY | {"admission": {"batch": lane}}, rng=random.Random(1))
        for number in range(replicas):
            self.core.replicas.put(f"r{number}", Registration(url=f"http://h{number}:1"), (f"10.0.0.{number}", 1), 0.0)
        self.asked = 0

    def ask(self, **features: Any) -> Decision:
        self.asked += 1
        request = RequestFeatures(request_id=f"q{self.asked}", path="/v1/completions", body_bytes=400, **features)
        decision = self.core.decide(request, 0.0)
        if decision.first:
            self.core.requests.first_token(request.request_id, 0.0)
        return decision

    def batch(self, count: int = 1) -> list[Decision]:
        return [self.ask(priority=BATCH) for _ in range(count)]


def test_a_batch_gathers_on_one_replica_of_eight() -> None:
    """Others go to those without."""
    fleet = Fleet()
    decisions = fleet.batch(5)
    assert len({decision.first for decision in decisions}) == 1
    assert [decision.reason for decision in decisions] == [Reason.LEAST_LOAD, *[Reason.BATCH_GATHERED] * 4]
    assert {fleet.ask().first for _ in range(7)} == {f"r{n}" for n in range(8)} - {decisions[0].first}


def test_a_replica_takes_so_many_and_the_rest_wait() -> None:
    """Until one of them ends."""
    fleet = Fleet(gather=3)
    assert [bool(decision.hold_ms) for decision in fleet.batch(4)] == [False, False, False, True]
    fleet.core.requests.end("q1", 0.0)
    assert fleet.batch()[0].reason == Reason.BATCH_GATHERED


def test_a_fleet_has_a_batch_on_an_eighth_of_its_replicas() -> None:
    """Seventeen on three: the next one begins where the policy says once those before are full."""
    fleet = Fleet(17, gather=2)
    decisions = fleet.batch(7)
    assert len({decision.first for decision in decisions[:6]}) == 3
    assert decisions[6].hold_ms


def test_a_prompt_of_a_batch_is_computed_before_the_next_one_comes() -> None:
    """Two at once would take whoever comes longer."""
    fleet = Fleet()
    first = fleet.core.decide(RequestFeatures(request_id="a", path="/v1/completions", priority=BATCH), 0.0)
    assert first.first and fleet.batch()[0].hold_ms
    fleet.core.requests.first_token("a", 0.0)
    assert fleet.batch()[0].first == first.first


@pytest.mark.parametrize(("replicas", "gather"), [(3, 32), (8, None)], ids=["few replicas", "not wanted"])
def test_elsewhere_a_batch_goes_where_the_policy_says(replicas: int, gather: int | None) -> None:
    """To the least loaded replica, by turns."""
    fleet = Fleet(replicas, gather=gather)
    assert len({decision.first for decision in fleet.batch(replicas)}) == replicas
