"""The feed bench measures what it says."""

from __future__ import annotations

import random

import pytest

from bench import feed
from bench.feed import one_request, request_us, run
from pointsman.contract.prefix_keys import BOUNDARIES, prefix_keys


def test_requests_have_the_keys_asked_for() -> None:
    """Four bytes a token, all blocks stored and removed again."""
    body, batches, tokens = one_request(16, random.Random(1))
    assert len(prefix_keys(body)) == 16
    assert tokens == BOUNDARIES[15] // 4
    assert len(batches) == 3


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round of a few requests."""
    monkeypatch.setattr(feed, "ROUNDS", 1)
    monkeypatch.setattr(feed, "REQUESTS", 2)


def test_every_step_takes_time() -> None:
    """No figure is an accident of nothing being done."""
    assert all(microseconds > 0 for microseconds in request_us(16).values())


def test_both_ways_are_measured() -> None:
    """A short run of the whole bench."""
    figures = run(5)
    assert set(figures["message"]) == {"http", "feed"}
    assert set(figures["request"]) == {16, 64, 128}
