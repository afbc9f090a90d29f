"""The cache is followed inside a load bound."""

from __future__ import annotations

from collections import Counter

from candidates import make_candidates, make_context, make_features, names

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Reason
from pointsman.policies.registry import build_policy


def first(fleet: Candidates, **config: object) -> tuple[str, Reason]:
    ranked = build_policy({"policy": "prefix_affinity", **config}).rank(make_features(), fleet, make_context())
    return names(ranked, fleet)[0], ranked[0].reason


def test_the_longest_prefix_wins() -> None:
    """Though it has more requests in flight; the others follow by the fallback."""
    fleet = make_candidates(a=5, b=0, c=1, prompt=4000, resident={"a": 3000, "c": 1000})
    ranked = build_policy({"policy": "prefix_affinity"}).rank(make_features(), fleet, make_context(limit=3))
    assert names(ranked, fleet) == ["a", "c", "b"]
    assert [place.reason for place in ranked] == [Reason.PREFIX_MATCH, Reason.PREFIX_MATCH, Reason.LEAST_LOAD]


def test_a_holder_that_is_full_loses_to_a_shorter_prefix() -> None:
    """30 requests against a bound of max(8, 1.5 * 12)."""
    load = {"a": 30, "b": 10, "c": 8, "d": 0}
    fleet = make_candidates(load, prompt=4000, resident={"a": 3000, "b": 1500})
    assert first(fleet) == ("b", Reason.PREFIX_MATCH)
    assert first(fleet, load_factor=3.0) == ("a", Reason.PREFIX_MATCH)


def test_a_short_prefix_is_no_match() -> None:
    """By tokens, and by share of the prompt: then the least loaded serves."""
    fleet = make_candidates(a=3, b=0, prompt=10_000, resident={"a": 300})
    assert first(fleet) == ("b", Reason.LEAST_LOAD)
    assert first(fleet, min_share=0.01) == ("a", Reason.PREFIX_MATCH)
    assert first(fleet, min_share=0.01, min_tokens=301) == ("b", Reason.LEAST_LOAD)


def test_equal_matches_go_by_load_then_by_dice() -> None:
    """A shared system prompt is spread over all that hold it."""
    held = {"a": 900, "b": 900, "c": 900}
    assert first(make_candidates(a=2, b=1, c=2, resident=held))[0] == "b"
    policy, context = build_policy({"policy": "prefix_affinity"}), make_context(1)
    fleet = make_candidates(a=1, b=1, c=1, d=0, resident=held)
    served = Counter(names(policy.rank(make_features(), fleet, context), fleet)[0] for _ in range(300))
    assert set(served) == {"a", "b", "c"}
    # 100 expected each, standard deviation 8.2: five of them.
    assert min(served.values()) > 59
