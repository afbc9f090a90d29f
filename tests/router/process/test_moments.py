"""Moments in RFC 3339."""

import pytest

from pointsman.router.process import clock
from pointsman.router.process.moments import moment, rfc3339


def test_a_moment_is_in_utc_with_milliseconds() -> None:
    """As other tools read and sort it."""
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"


def test_a_moment_of_this_process_is_told_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds ago by one clock is ten seconds ago by the other."""
    monkeypatch.setattr(clock, "wall", lambda: 1_700_000_000.0)
    assert moment(90.0, now_s=100.0) == "2023-11-14T22:13:10.000Z"
