"""The share of requests that batches delay."""

from __future__ import annotations

import pytest

from pointsman.router.requests.batch_delays import MEMORY, QUIET_S, BatchDelays


def test_the_share_is_that_of_recent_requests() -> None:
    """Two of a hundred, over ten times as many requests as it remembers; an hour later nobody is there to wait."""
    delays = BatchDelays()
    assert delays.share(0.0) == 0.0
    for number in range(round(10 / MEMORY)):
        delays.placed(1.0, delayed=number % 50 == 0)
    assert delays.share(1.0) == pytest.approx(0.02, rel=0.05)
    assert delays.share(1.0 + QUIET_S) == 0.0


def test_one_delay_counts_little_and_is_forgotten() -> None:
    """By requests, not by time."""
    delays = BatchDelays()
    delays.placed(1.0, delayed=True)
    assert delays.share(1.0) == delays.share(QUIET_S) == MEMORY
    for _ in range(round(1 / MEMORY)):
        delays.placed(1.0, delayed=False)
    assert delays.share(1.0) == pytest.approx(MEMORY / 2.72, rel=0.01)
