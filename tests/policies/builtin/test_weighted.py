"""Scorers from 0 to 1, weighed and added."""

from __future__ import annotations

import pytest
from candidates import make_candidates, make_context, make_features, names

from pointsman.policies.candidates import Candidates
from pointsman.policies.errors import PolicyConfigError
from pointsman.policies.registry import build_policy


def ranking(fleet: Candidates, **weights: float) -> list[tuple[str, float]]:
    policy = build_policy({"policy": "weighted", "weights": weights})
    ranked = policy.rank(make_features("s"), fleet, make_context(limit=len(fleet)))
    return list(zip(names(ranked, fleet), [pytest.approx(place.score) for place in ranked], strict=True))


def test_the_example_on_the_page() -> None:
    """Half of the prompt resident on one of two idle replicas: 0.25 against 0.5."""
    fleet = make_candidates(a=0, b=0, prompt=1000, resident={"b": 500})
    assert ranking(fleet, prefix=3, queue=2, load=1) == [("b", 0.25), ("a", 0.5)]


@pytest.mark.parametrize(
    ("scorer", "fleet", "best"),
    [
        pytest.param("load", make_candidates(a=3, b=1, c=9), "b", id="load"),
        pytest.param("tokens", make_candidates({"a": 1, "b": 2}, tokens={"a": 900, "b": 100}), "b", id="tokens"),
        pytest.param("session", make_candidates(a=0, b=0, pin="b"), "b", id="session"),
        pytest.param("queue", make_candidates(a=0, b=0, kv={"waiting": [500, 20]}), "b", id="queue"),
        pytest.param("kv_room", make_candidates(a=0, b=0, kv={"footprint": [50_000, 9]}), "b", id="kv_room"),
        pytest.param("prefix", make_candidates(a=0, b=0, resident={"b": 9999}), "b", id="prefix"),
    ],
)
def test_each_scorer_alone(scorer: str, fleet: Candidates, best: str) -> None:
    """Its best candidate comes first, with the least score."""
    order = ranking(fleet, **{scorer: 2.0})
    assert order[0][0] == best
    assert all(0 <= score.expected <= 1 for _, score in order)


def test_between_the_extremes_it_is_proportional() -> None:
    """Loads 0, 5 and 20 score 1, 0.75 and 0."""
    assert ranking(make_candidates(a=5, b=20, c=0), load=1) == [("c", 0.0), ("a", 0.25), ("b", 1.0)]


def test_only_scorers_that_count_are_needed() -> None:
    """A weight of 0 asks for nothing."""
    lean = build_policy({"policy": "weighted", "weights": {"load": 1, "prefix": 0}})
    assert not lean.needs
    assert build_policy({"policy": "weighted", "weights": {"session": 1}}).pin_ttl_s > 0


@pytest.mark.parametrize("weights", [{"prefix": -1}, {"prefixes": 1}, {}, {"load": 0}])
def test_weights_that_make_no_sense_are_refused(weights: dict[str, float]) -> None:
    """Negative, misspelt, none, or all zero."""
    with pytest.raises(PolicyConfigError, match=r"weights|values that go together"):
        build_policy({"policy": "weighted", "weights": weights})
