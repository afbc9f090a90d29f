"""What one record keeps of the candidates, and that a policy sees them again as it saw them."""

from __future__ import annotations

import numpy as np
import pytest
from candidates import make_context
from recorded_fleet import CHAIN, RecordedFleet

from pointsman.policies.decision import Ranked
from pointsman.router.requests.decision_record import MAX_PICKED, MAX_WHOLE


def kept(fleet: RecordedFleet, request_id: str):
    found = fleet.record(request_id).kept
    assert found is not None
    return found.candidates()


def test_a_record_holds_what_the_decision_saw() -> None:
    """Not what the decision or later requests made of it."""
    fleet = RecordedFleet("a", "b", "c")
    fleet.report("b", stored=list(CHAIN[:20]))
    fleet.ask("first", keys=20)
    before = kept(fleet, "first")
    for number in range(10):
        fleet.ask(f"later-{number}", keys=10)
    again = kept(fleet, "first")
    assert list(again.ids) == ["a", "b", "c"]
    assert again.in_flight.tolist() == before.in_flight.tolist() == [0, 0, 0]
    assert again.kv is not None and again.kv.waiting.tolist() == [0.0, 0.0, 0.0]
    assert [again.resident.tokens(at) > 0 for at in range(3)] == [False, True, False]


def test_ids_stay_those_of_the_time() -> None:
    """A slot is another replica's later."""
    fleet = RecordedFleet("a", "b")
    fleet.ask("r")
    fleet.core.replicas.remove("a")
    fleet.add("late")
    assert list(kept(fleet, "r").ids) == ["a", "b"]


def test_slots_that_are_no_candidates_do_not_shift_the_columns() -> None:
    """Positions are those of the candidates, whatever slots they have."""
    fleet = RecordedFleet("a", "b", "c", "d")
    fleet.core.replicas.drain("a", 0.0)
    fleet.core.replicas.drain("c", 0.0)
    for number in range(5):
        fleet.core.requests.reserve(f"busy-{number}", 3, 100, 0.0)
    fleet.report("d", stored=list(CHAIN[:8]))
    fleet.ask("r", keys=8, session="s")
    seen = kept(fleet, "r")
    assert list(seen.ids) == ["b", "d"] and seen.in_flight.tolist() == [0, 5]
    assert seen.resident.tokens(0) == 0 < seen.resident.tokens(1)
    assert fleet.record("r").excluded == {"a": "draining", "c": "draining"}


@pytest.mark.parametrize("policy", ["kv_cost", "least_load", "session_affinity", "prefix_affinity"])
def test_a_policy_ranks_the_copies_as_it_ranked_the_fleet(policy: str) -> None:
    """Scores included, for each request of a fleet at work."""
    fleet = RecordedFleet("a", "b", "c", "d", policy=policy)
    for number in range(30):
        fleet.ask(f"r{number}", keys=number % 20, session=f"s{number % 7}", now_s=number / 10)
        fleet.report("abcd"[number % 4], stored=list(CHAIN[: number % 20]))
    for number in range(30):
        record = fleet.record(f"r{number}")
        copies, built = kept(fleet, f"r{number}"), fleet.core.policy.policy_of(record.policy, record.revision)
        assert built is not None
        best: Ranked = built.rank(record.features, copies, make_context(limit=1))[0]
        assert best.score == pytest.approx(record.score)


def test_of_a_large_fleet_those_are_kept_that_matter() -> None:
    """The chosen, the home and holders of the prompt; their columns stand in the right order."""
    count = MAX_WHOLE + 40
    fleet = RecordedFleet(*(f"r{number:03}" for number in range(count)))
    holders = [f"r{number:03}" for number in range(70, 90, 7)]
    for name in holders:
        fleet.report(name, stored=list(CHAIN[:30]))
    for slot in range(count):
        for number in range(slot % 5):
            fleet.core.requests.reserve(f"busy-{slot}-{number}", slot, 100, 0.0)
    chosen = fleet.ask("r", keys=30, session="s")
    seen = kept(fleet, "r")
    assert len(seen) <= MAX_PICKED
    assert {chosen.first, *holders} <= set(seen.ids)
    assert seen.in_flight.tolist() == [int(name[1:]) % 5 for name in seen.ids]
    assert seen.kv is not None and np.all(seen.kv.capacity == 100_000)
