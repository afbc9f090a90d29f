"""Health checks of replicas: intervals by the size of the fleet."""

from __future__ import annotations

import re

import pytest

from pointsman.haproxy.server_options import ServerOptions


def intervals(keywords: str) -> tuple[int, int]:
    """The intervals between checks of a replica that is up and of one that is down, in milliseconds."""
    inter, downinter = (re.search(rf"\b{name} (\d+)ms", keywords) for name in ("inter", "downinter"))
    assert inter and downinter
    return int(inter[1]), int(downinter[1])


@pytest.mark.parametrize("at_once", [1, 7, 4000])
def test_health_checks_of_a_fleet_keep_to_their_limit_however_it_grows(at_once: int) -> None:
    options = ServerOptions(checks_per_s_max=1000)
    checks_per_s, before = 0.0, 0
    while before < 4000:
        fleet = min(4000, before + at_once)
        inter_ms, downinter_ms = intervals(options.keywords(fleet, before=before))
        assert abs(inter_ms - 2 * downinter_ms) <= 20
        checks_per_s, before = checks_per_s + (fleet - before) * 1000 / inter_ms, fleet
    assert 850 < checks_per_s < 1000


def test_a_small_fleet_is_checked_at_about_the_intervals_it_is_given() -> None:
    for fleet in range(1, 9):
        inter_ms, downinter_ms = intervals(ServerOptions(inter_ms=500, downinter_ms=250).keywords(fleet))
        assert 500 <= inter_ms <= 520
        assert 250 <= downinter_ms <= 260
