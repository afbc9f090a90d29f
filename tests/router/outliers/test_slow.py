"""Which replicas are slow beside the others of their model."""

from __future__ import annotations

from pointsman.contract.registration import Registration
from pointsman.router.fleet.replica import Replica
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.outliers.pace import Pace, Unit
from pointsman.router.outliers.slow import PACE_INTERVAL_S, SlowReplicas


def fleet(count: int = 4) -> list[Replica]:
    registry = ReplicaRegistry()
    for number in range(count):
        registry.put(f"r{number}", Registration(url="http://h:1"), ("10.0.0.1", 1), 0.0)
    return list(registry)


def decoding(*ms_per_token: float) -> Pace:
    pace = Pace(window_s=1e9)
    for slot, ms in enumerate(ms_per_token):
        pace.observe(slot, 1000 * ms, 1000, Unit.TOKENS)
    return pace


def test_a_replica_that_decodes_far_below_the_median_is_slow() -> None:
    """Its ratio is what its share of requests is made of."""
    slow = SlowReplicas(decoding(10, 10, 30, 80), lambda slot: 0.0, slow_ratio=4.0)
    slow.compare([fleet()], 0.0)
    assert slow.ratios == {3: 4.0}


def test_the_worse_of_decoding_and_prefilling_counts() -> None:
    """A prefill that nobody measured says nothing."""
    prefill_ms = {0: 100.0, 1: 100.0, 2: 0.0, 3: 900.0}
    slow = SlowReplicas(decoding(10, 10, 10, 50), prefill_ms.__getitem__, slow_ratio=4.0)
    slow.compare([fleet()], 0.0)
    assert slow.ratios == {3: 9.0}


def test_replicas_of_different_models_do_not_compare() -> None:
    """A large model decodes slower than a small one, and is not slow."""
    replicas = fleet(6)
    slow = SlowReplicas(decoding(10, 10, 10, 90, 90, 90), lambda slot: 0.0, slow_ratio=4.0)
    slow.compare([replicas[:3], replicas[3:]], 0.0)
    assert slow.ratios == {}


def test_speeds_are_compared_now_and_then_and_forgotten_with_their_slot() -> None:
    """The result stands until the next comparison."""
    slow = SlowReplicas(decoding(10, 10, 10, 80), lambda slot: 0.0, slow_ratio=4.0)
    assert slow.is_due(0.0)
    slow.compare([fleet()], 0.0)
    assert not slow.is_due(PACE_INTERVAL_S - 0.1) and slow.is_due(PACE_INTERVAL_S)
    slow.clear_slot(3)
    assert slow.ratios == {}
    slow.compare([fleet()], PACE_INTERVAL_S)
    assert slow.ratios == {}, "its sums are gone"
