"""Fleets that cannot be are refused, by name."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman.engine.sim.timing import DENSE_H100
from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.settings import FleetSettings, Restart


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param({"replicas": 0}, "replicas: got 0", id="no replica"),
        pytest.param({"routers": 65}, "routers: got 65, expected 1 to 64", id="routers"),
        pytest.param({"timing": "h200"}, "timing: got 'h200', expected one of", id="timing"),
        pytest.param({"speeds": (1.0, 0.0)}, "speeds", id="speed zero"),
        pytest.param({"replicas": 1, "speeds": (1.0, 2.0)}, "at most one for each replica", id="speeds"),
        pytest.param({"sync_s": -1.0}, "sync_s: got -1.0", id="sync"),
        pytest.param({"event_lag_s": -1.0}, "event_lag_s", id="lag"),
        pytest.param({"prefill_replicas": 4089}, "prefill_replicas: got 4089, expected 0 to 4088", id="prefill"),
        pytest.param({"handoff_ms": -1.0}, "handoff_ms", id="hand-off"),
        pytest.param({"restarts": (Restart(replica=8, at_s=0.0),)}, "got 8, expected 0 to 7", id="restart whom"),
        pytest.param({"restarts": (Restart(replica=0, at_s=0.0, down_s=0.5),)}, "noticed", id="restart when"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], says: str) -> None:
    """The error names the setting, its value and what was expected."""
    with pytest.raises(ExperimentError, match=says):
        FleetSettings(**given)


def test_speeds_repeat() -> None:
    """Two speeds for five replicas take turns."""
    settings = FleetSettings(replicas=5, speeds=(1.0, 0.5))
    assert [settings.speed(index) for index in range(5)] == [1.0, 0.5, 1.0, 0.5, 1.0]


def test_half_the_speed_takes_twice_as_long() -> None:
    """Every coefficient of the timing is a duration."""
    settings = FleetSettings(replicas=2, speeds=(1.0, 0.5))
    assert settings.timing_of(0) is DENSE_H100
    slow = settings.timing_of(1)
    assert slow.prefill_s(5_000) == pytest.approx(2 * DENSE_H100.prefill_s(5_000))
    assert slow.decode_s(0.6) == pytest.approx(2 * DENSE_H100.decode_s(0.6))
