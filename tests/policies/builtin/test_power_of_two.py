"""The less loaded of two drawn at random. Shares are in test_distribution.py."""

from __future__ import annotations

from candidates import make_candidates, make_context, make_features, names

from pointsman.policies.decision import Reason
from pointsman.policies.policy import Needs
from pointsman.policies.registry import build_policy


def test_of_two_the_less_loaded_always_wins() -> None:
    """A fleet of two is fully seen by two draws; the other is second."""
    policy, fleet, context = build_policy({"policy": "power_of_two"}), make_candidates(busy=4, idle=3), make_context()
    for _ in range(50):
        ranked = policy.rank(make_features(), fleet, context)
        assert names(ranked, fleet) == ["idle", "busy"]
        assert {place.reason for place in ranked} == {Reason.POWER_OF_TWO}


def test_two_are_drawn_though_one_place_is_wanted() -> None:
    """A limit of one shortens the answer, not the comparison."""
    policy, fleet, context = build_policy({"policy": "power_of_two"}), make_candidates(busy=9, idle=0), make_context()
    for _ in range(50):
        ranked = policy.rank(make_features(), fleet, make_context(context.rng.randrange(1000), limit=1))
        assert names(ranked, fleet) == ["idle"]


def test_equals_stand_as_drawn() -> None:
    """Equal loads favour no slot."""
    policy, fleet, context = build_policy({"policy": "power_of_two"}), make_candidates(a=2, b=2), make_context()
    assert {names(policy.rank(make_features(), fleet, context), fleet)[0] for _ in range(50)} == {"a", "b"}


def test_by_tokens_compares_tokens() -> None:
    """The unit is configurable, and needed only then."""
    fleet = make_candidates(long=1, short=5, tokens={"long": 30_000, "short": 500})
    policy = build_policy({"policy": "power_of_two", "by": "tokens"})
    assert names(policy.rank(make_features(), fleet, make_context()), fleet) == ["short", "long"]
    assert policy.needs == Needs.TOKENS
    assert build_policy({"policy": "power_of_two"}).needs == Needs.NOTHING
