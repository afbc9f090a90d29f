"""Records as the pipeline makes them: of which requests, and before anything is applied."""

from __future__ import annotations

import msgspec
from recorded_fleet import RecordedFleet

from pointsman.policies.decision import Reason


def test_the_answer_is_recorded_as_it_was_given() -> None:
    """With the score of the first choice, and what it was predicted to hold."""
    fleet = RecordedFleet()
    decision = fleet.ask("r", keys=10, session="s")
    record = fleet.record("r")
    assert record.decision is decision
    assert (record.policy, record.revision, record.predicted_cached) == ("kv_cost", 1, 0)
    assert record.score > 0


def test_a_request_that_nobody_can_serve_is_recorded_without_candidates() -> None:
    """Every replica stands among the excluded, with its state."""
    fleet = RecordedFleet()
    for name in ("a", "b"):
        fleet.core.replicas.drain(name, 0.0)
    fleet.ask("r")
    record = fleet.record("r")
    assert record.decision.reason is Reason.NO_CANDIDATES and record.kept is None
    assert record.excluded == {"a": "draining", "b": "draining"}


def test_what_generates_nothing_names_the_policy_that_placed_it() -> None:
    """Embeddings go by load, whatever policy is live; no revision of the live policy decided."""
    fleet = RecordedFleet()
    fleet.ask("r", generates=False)
    record = fleet.record("r")
    assert (record.policy, record.revision) == ("least_load", 0)
    view = msgspec.to_builtins(fleet.view("r"))
    assert {row["replica"] for row in view["candidates"]} == {"a", "b"}


def test_exclusions_are_found_again_when_a_replica_changes() -> None:
    """They are kept for as long as the same replicas may serve."""
    fleet = RecordedFleet("a", "b", "c")
    fleet.ask("before")
    fleet.core.replicas.drain("c", 0.0)
    fleet.ask("after")
    assert (fleet.record("before").excluded, fleet.record("after").excluded) == ({}, {"c": "draining"})
