"""The bench of predictions: what is compared, in small."""

from __future__ import annotations

import pytest

from bench.shadow import KV, STICKY, agents, compare, play, table
from pointsman.simulator.settings import FleetSettings

FLEET = FleetSettings(replicas=3)


def test_a_run_says_how_often_sessions_leave_their_replica() -> None:
    """Never under a policy by sessions in a fleet at rest; two of three times under one that draws among three."""
    trace = agents(6, 0.3, FLEET, seed=1)
    sticky, drawn = (play(trace, FLEET, document, seed=1) for document in (STICKY, {"policy": "random"}))
    assert len(sticky.records) == len(drawn.records) == 120
    assert sticky.left == 0.0 and drawn.left == pytest.approx(2 / 3, abs=0.12)
    assert sticky.shadow is None and sticky.cached > drawn.cached


def test_predictions_point_where_things_then_go() -> None:
    """A policy that draws is predicted to cost cached tokens and time, and does; the table has both."""
    outcome = compare(agents(8, 0.3, FLEET, seed=2), FLEET, KV, {"policy": "random"}, seed=2)
    assert outcome.before.shadow is not None
    for tally in (outcome.dry_run, outcome.before.shadow):
        assert tally.judged == 160
        assert tally.other_ms > tally.made_ms and tally.other_cached < tally.made_cached
    assert outcome.after.ttft_ms > outcome.before.ttft_ms and outcome.after.cached < outcome.before.cached
    assert outcome.before.shadow_left == pytest.approx(outcome.after.left, abs=0.15)
    assert table([outcome]).splitlines()[-1].startswith("| kv_cost | random | ")
