"""Choosing among records."""

from __future__ import annotations

import pytest
from recorded_fleet import RecordedFleet

from pointsman.router.decide.decision_filter import DecisionFilter


@pytest.fixture
def fleet() -> RecordedFleet:
    """Two requests that ended and one in flight."""
    fleet = RecordedFleet("a", "b", "c", policy="round_robin")
    fleet.ask("r1", session="s1", tenant="acme", model="m")
    fleet.end("r1", "a", cid="mine")
    fleet.ask("r2", session="s2", tenant="other", model="n")
    fleet.end("r2", "b", st=503)
    fleet.ask("r3", session="s1")
    return fleet


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ["r3", "r2", "r1"]),
        ({"session": "s1"}, ["r3", "r1"]),
        ({"session": "hash of s1"}, ["r3", "r1"]),
        ({"tenant": "acme"}, ["r1"]),
        ({"model": "n"}, ["r2"]),
        ({"replica": "b"}, ["r2"]),
        ({"replica": "c"}, ["r3"]),
        ({"reason": "round-robin"}, ["r3", "r2", "r1"]),
        ({"reason": "random"}, []),
        ({"status": "503"}, ["r2"]),
        ({"status": "2xx"}, ["r1"]),
        ({"policy": "round_robin"}, ["r3", "r2", "r1"]),
        ({"client_id": "mine"}, ["r1"]),
        ({"session": "s1", "status": "200"}, ["r1"]),
    ],
)
def test_a_record_has_all_that_is_asked_for(fleet: RecordedFleet, chosen: dict, expected: list[str]) -> None:
    wanted = DecisionFilter(**chosen)
    wanted.check()
    found = [r.features.request_id for r in fleet.log if wanted.wants(r, lambda name: f"hash of {name}")]
    assert found == expected


@pytest.mark.parametrize("status", ["5x", "600", "20", "ok", "2xxx", "200\n"])
def test_a_status_that_is_none_is_refused(status: str) -> None:
    with pytest.raises(ValueError, match="a status such as 503"):
        DecisionFilter(status=status).check()
