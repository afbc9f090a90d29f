"""Every replica in turn."""

from __future__ import annotations

from collections import Counter

from candidates import make_candidates, make_context, make_features, names

from pointsman.policies.builtin.round_robin import MAX_TURNS
from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Reason
from pointsman.policies.policy import Context, Policy
from pointsman.policies.registry import build_policy


def round_robin() -> Policy:
    return build_policy({"policy": "round_robin"})


def serve(policy: Policy, fleet: Candidates, times: int, context: Context, model: str = "") -> list[str]:
    """Who is first in each of some turns."""
    return [names(policy.rank(make_features(model=model), fleet, context), fleet)[0] for _ in range(times)]


def test_each_in_turn_in_the_order_of_slots() -> None:
    """Turns follow the slots and wrap."""
    order = "".join(serve(round_robin(), make_candidates(a=9, b=0, c=4, slots=[1, 5, 6]), 9, make_context()))
    assert order in "abcabcabcabc"


def test_second_is_next_in_turn() -> None:
    """The second choice is who would be first next time; it does not lose its own turn by that."""
    policy, fleet, context = round_robin(), make_candidates(a=0, b=0, c=0), make_context()
    ranked = policy.rank(make_features(), fleet, context)
    assert names(policy.rank(make_features(), fleet, context), fleet)[0] == names(ranked, fleet)[1]
    assert [place.reason for place in ranked] == [Reason.ROUND_ROBIN] * 2
    assert [place.score for place in ranked] == [0.0, 1.0]


def test_first_turn_is_drawn() -> None:
    """Edges that start together do not march in step: 400 first turns fall on all four replicas alike."""
    # 100 expected each, standard deviation sqrt(400 * 1/4 * 3/4) = 8.7; five of them is 43.
    fleet = make_candidates(a=0, b=0, c=0, d=0)
    first = Counter(serve(round_robin(), fleet, 1, make_context(seed))[0] for seed in range(400))
    assert set(first) == set("abcd")
    assert all(abs(count - 100) < 43 for count in first.values())


def test_a_leaver_moves_nobody_elses_turn() -> None:
    """Whoever was next stays next when the replica just used, or one not due, leaves."""
    policy, context = round_robin(), make_context()
    everyone = make_candidates(a=0, b=0, c=0, d=0)
    while serve(policy, everyone, 1, context) != ["b"]:
        pass
    assert serve(policy, make_candidates(a=0, c=0, d=0, slots=[0, 2, 3]), 2, context) == ["c", "d"]
    assert serve(policy, everyone, 4, context) == ["a", "b", "c", "d"]


def test_a_joiner_waits_for_its_turn() -> None:
    """A newcomer is served when the turn reaches its slot, not at once."""
    policy, context = round_robin(), make_context()
    while serve(policy, make_candidates(a=0, b=0, c=0), 1, context) != ["a"]:
        pass
    assert serve(policy, make_candidates(a=0, b=0, c=0, d=0), 5, context) == ["b", "c", "d", "a", "b"]


def test_a_spell_with_one_candidate_loses_no_turn() -> None:
    """With all others away the one left serves; when they are back the turn goes on behind it."""
    policy, context = round_robin(), make_context()
    assert serve(policy, make_candidates(b=0, slots=[1]), 3, context) == ["b", "b", "b"]
    assert serve(policy, make_candidates(a=0, b=0, c=0), 3, context) == ["c", "a", "b"]


def test_models_take_turns_of_their_own() -> None:
    """Alternating requests for two models on disjoint replicas still reach every replica alike."""
    policy, context = round_robin(), make_context()
    left, right = make_candidates(a=0, b=0, slots=[0, 1]), make_candidates(c=0, d=0, slots=[2, 3])
    served: Counter[str] = Counter()
    for _ in range(10):
        served.update(serve(policy, left, 1, context, model="l") + serve(policy, right, 1, context, model="r"))
    assert served == {"a": 5, "b": 5, "c": 5, "d": 5}


def test_turns_kept_are_bounded() -> None:
    """Names of models that keep changing do not grow the policy without end."""
    policy, fleet, context = round_robin(), make_candidates(a=0, b=0), make_context()
    for number in range(MAX_TURNS + 50):
        serve(policy, fleet, 1, context, model=f"m{number}")
    assert len(policy._last) == MAX_TURNS  # type: ignore[attr-defined]
