"""Comparing two policies: predictions, sums, moves."""

from __future__ import annotations

import pytest
from candidates import make_candidates

from pointsman.policies.candidates import RemotePrefill
from pointsman.policies.decision import Reason, Refusal
from pointsman.router.decide.comparison import MAX_PAIRS, Comparison, Prediction, predict, without_replica


def test_the_prediction_is_queue_and_what_is_not_resident() -> None:
    """T(x) = 20 ms + 0.02 ms x: a queues 500 tokens (30 ms) and has 600 of the 1,000 tokens (28 ms for the rest)."""
    fleet = make_candidates(a=0, b=0, prompt=1000, resident={"a": 600}, kv={"waiting": [500, 0]})
    assert predict(fleet, 0) == Prediction(pytest.approx(30 + 28), 600)  # type: ignore[arg-type]
    assert predict(fleet, 1) == Prediction(pytest.approx(40), 0)  # type: ignore[arg-type]


def test_a_prompt_that_is_resident_costs_one_token() -> None:
    """And no more of it is cached than there is."""
    fleet = make_candidates(a=0, prompt=1000, resident={"a": 1200}, kv={})
    assert predict(fleet, 0) == Prediction(pytest.approx(20.02), 1000)  # type: ignore[arg-type]


def test_nothing_is_predicted_without_kv() -> None:
    """As under a policy that goes by load."""
    fleet = make_candidates(a=0)
    fleet.kv = None
    assert predict(fleet, 0) is None


def test_a_prompt_that_is_computed_elsewhere_takes_as_long_as_there() -> None:
    """Where the pair is worthwhile; else as long as at the decode replica."""
    fleet = make_candidates(a=0, prompt=10_000, kv={})
    for queue_ms, expected in ((5.0, 5.0 + 60.0), (5000.0, 20 + 200)):
        fleet.remote_prefill = RemotePrefill(
            slot=9, queue_ms=queue_ms, miss_ms=60.0, uncached=2000, min_uncached=1024, patience=1.0
        )
        found = predict(fleet, 0)
        assert found is not None and found.ttft_ms == pytest.approx(expected)


def test_sums_are_about_requests_with_two_predictions() -> None:
    """One that is refused, or that nobody looked at, is judged and moved all the same."""
    comparison = Comparison()
    comparison.add("kv-home", "a", "b", made=Prediction(50.0, 600), other=Prediction(40.0, 700))
    comparison.add("kv-home", "a", "a", made=Prediction(10.0, 900), other=Prediction(10.0, 900))
    comparison.add("kv-cold", "a", without_replica(Refusal(Reason.ADMISSION)), made=Prediction(10.0, 0))
    comparison.add("kv-cold", "b", "a", tied=True)
    total, home = comparison.total, comparison.by_reason["kv-home"]
    assert (total.judged, total.moved, total.tied, total.predicted) == (4, 3, 1, 2)
    assert (home.judged, home.moved, home.made_ms, home.other_ms) == (2, 1, 60.0, 50.0)
    assert (home.made_cached, home.other_cached) == (1500, 1600)
    assert comparison.moves == {("a", "b"): 1, ("a", "(refused)"): 1, ("b", "a"): 1}


def test_a_choice_that_stays_is_no_tie() -> None:
    comparison = Comparison()
    comparison.add("least-load", "a", "a", tied=True)
    assert (comparison.total.moved, comparison.total.tied) == (0, 0)


def test_pairs_of_a_large_fleet_are_bounded() -> None:
    """The rest are counted together."""
    comparison = Comparison()
    for number in range(MAX_PAIRS + 3):
        comparison.add("random", "a", f"r{number}")
        comparison.add("random", "a", "r0")
    assert len(comparison.moves) == MAX_PAIRS
    assert comparison.moves_uncounted == 3
    assert comparison.moves["a", "r0"] == MAX_PAIRS + 3 + 1


def test_waiting_is_told_from_being_refused() -> None:
    assert without_replica(Refusal(Reason.ADMISSION, wait_s=3.0)) == "(held)"
    assert without_replica(Refusal(Reason.ADMISSION)) == "(refused)"
