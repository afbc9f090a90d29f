"""The replica with the least work in flight."""

from __future__ import annotations

from collections import Counter

from candidates import make_candidates, make_context, make_features, names

from pointsman.policies.decision import Reason
from pointsman.policies.policy import Needs
from pointsman.policies.registry import build_policy


def test_fewest_requests_first_next_fewest_second() -> None:
    """The ranking is by requests in flight, and the score is their number."""
    fleet = make_candidates(a=3, b=0, c=1, d=9)
    ranked = build_policy({"policy": "least_load"}).rank(make_features(), fleet, make_context(limit=4))
    assert names(ranked, fleet) == ["b", "c", "a", "d"]
    assert [place.score for place in ranked] == [0.0, 1.0, 3.0, 9.0]
    assert {place.reason for place in ranked} == {Reason.LEAST_LOAD}


def test_by_tokens_one_long_prompt_outweighs_many_short_ones() -> None:
    """Counted in tokens, a replica with one request of 30,000 is busier than one with five of 100."""
    fleet = make_candidates(long=1, short=5, tokens={"long": 30_000, "short": 500})
    by_tokens = build_policy({"policy": "least_load", "by": "tokens"})
    by_requests = build_policy({"policy": "least_load", "by": "requests"})
    assert names(by_tokens.rank(make_features(), fleet, make_context()), fleet) == ["short", "long"]
    assert names(by_requests.rank(make_features(), fleet, make_context()), fleet) == ["long", "short"]


def test_tokens_are_needed_only_when_counted() -> None:
    """Counting requests asks nothing of the body."""
    assert build_policy({"policy": "least_load"}).needs == Needs.NOTHING
    assert build_policy({"policy": "least_load", "by": "tokens"}).needs == Needs.TOKENS


def test_equals_are_drawn_for_both_places() -> None:
    """Idle replicas share first and second place; the busy one gets neither."""
    policy, fleet, context = build_policy({"policy": "least_load"}), make_candidates(a=0, b=0, c=0, d=7), make_context()
    pairs = Counter(tuple(names(policy.rank(make_features(), fleet, context), fleet)) for _ in range(600))
    # Six ordered pairs of three idle replicas, 100 each, standard deviation 9.1; five of them is 46.
    assert len(pairs) == 6
    assert all("d" not in pair and abs(count - 100) < 46 for pair, count in pairs.items())
