"""How far the second best is behind the best, in words."""

from __future__ import annotations

import random

import pytest
from msgspec import UNSET

from pointsman.contract.registration import Registration
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.decide.candidate_view import would_change
from pointsman.router.decide.explain import Explanation


@pytest.mark.parametrize(
    ("margin", "unit", "sentence"),
    [
        pytest.param(930.4, "ms", "It leaves a for b when the queue of a is 930 ms longer.", id="milliseconds"),
        pytest.param(0.2, "ms", "b costs the same within 1 ms: equal costs are decided at random.", id="even"),
        pytest.param(9_345.0, "tokens", "It leaves a for b when a has over 9,345 more tokens in flight.", id="load"),
        pytest.param(0.0, "requests", "b has the same load: equal loads are decided at random.", id="equal loads"),
        pytest.param(1.0, "", UNSET, id="scores that only make an order"),
    ],
)
def test_what_would_change_the_choice(margin: float, unit: str, sentence: object) -> None:
    assert would_change("a", "b", margin, unit) == sentence


def explained(policy: str, *names: str, loads: tuple[int, ...] = ()) -> Explanation:
    core = Core({"policy": policy}, rng=random.Random(1))
    for name in names:
        core.replicas.put(name, Registration(url="http://10.0.0.1:1"), ("10.0.0.1", 1), 0.0)
    for slot, load in enumerate(loads):
        for _ in range(load):
            core.load.add(slot, 100)
    return core.pipeline.explain(RequestFeatures(request_id="x", body_bytes=4000), 0.0)


def test_the_margin_is_in_the_unit_of_the_policy() -> None:
    """Two replicas that differ by two requests."""
    told = explained("least_load", "a", "b", loads=(3, 1))
    assert (told.decision.first, told.margin, told.margin_unit) == ("b", 2.0, "requests")
    assert told.would_change == "It leaves b for a when b has over 2 more requests in flight."
    assert [(row.replica, row.rank, row.score) for row in told.candidates] == [("b", 1, 1.0), ("a", 2, 3.0)]
    assert told.resident_tokens is UNSET and told.candidates[0].resident_tokens is UNSET
    told = explained("kv_cost", "a", "b", loads=(3, 1))
    assert told.margin_unit == "ms" and told.resident_tokens == 0
    assert isinstance(told.margin, float) and told.margin > 1


def test_a_single_candidate_has_no_margin() -> None:
    told = explained("kv_cost", "only")
    assert told.margin is told.margin_unit is told.would_change is UNSET


def test_an_order_has_a_margin_without_a_unit() -> None:
    """Places of `power_of_two` say who comes first, not by how much."""
    told = explained("power_of_two", "a", "b")
    assert told.margin == 1.0 and told.margin_unit is told.would_change is UNSET
