"""Two policies compared on what became of their requests."""

from __future__ import annotations

import random

import pytest

from pointsman.router.decide.arms import KEPT_TIMES, Arm, Bounds


def arm(requests: int, errors: int = 0, times_ms: list[float] | None = None) -> Arm:
    made = Arm()
    for number in range(requests):
        made.ended(503 if number < errors else 200, "--")
    for took_ms in times_ms or []:
        made.first_token(took_ms)
    return made


def drawn(count: int, typical_ms: float, seed: int = 0) -> list[float]:
    """Times that vary by a factor of about e."""
    rng = random.Random(seed)
    return [typical_ms * rng.lognormvariate(0.0, 1.0) for _ in range(count)]


def test_an_arm_counts_what_clients_got() -> None:
    """A stream that the replica cut is an error behind its status of 200; a client that left is none."""
    made = Arm()
    for status, termination in ((200, "--"), (200, "SD"), (503, "--"), (429, "LR"), (404, "LR"), (-1, "CD")):
        made.ended(status, termination)
    assert (made.requests, made.errors, made.refused) == (6, 2, 1)
    assert made.error_share == pytest.approx(2 / 6)
    assert Arm().error_share == 0.0


def test_percentiles_are_of_the_latest_times() -> None:
    """By nearest rank; None before any."""
    made = Arm()
    assert made.percentile_ms(0.5) is None
    for number in range(KEPT_TIMES + 100):
        made.first_token(float(number + 1))
    assert made.measured == KEPT_TIMES + 100
    assert made.percentile_ms(0.5) == KEPT_TIMES / 2 + 101
    assert made.ttft_s.total == pytest.approx(sum(range(1, KEPT_TIMES + 101)) / 1000)


def test_the_ratio_is_of_typical_times() -> None:
    """The geometric mean of 10 and 1,000 is 100: one long prompt does not outweigh the others."""
    ratio, error = arm(0, times_ms=[10.0, 1000.0]).slower_than(arm(0, times_ms=[50.0, 50.0]))
    assert ratio == pytest.approx(0.6931, abs=1e-4)
    assert error > 1


@pytest.mark.parametrize(
    ("candidate", "live", "why"),
    [
        pytest.param(arm(5, errors=5), arm(100), "100.0% of its requests failed", id="a policy that breaks all"),
        pytest.param(arm(4, errors=4), arm(100), "", id="fewer than five say nothing"),
        pytest.param(arm(100, errors=10), arm(1000, errors=100), "", id="the fleet fails, not the policy"),
        pytest.param(arm(30, errors=2), arm(300, errors=2), "", id="two in thirty may be chance"),
        pytest.param(arm(300, errors=30), arm(3000, errors=15), "10.0% of its requests failed", id="ten in a hundred"),
        pytest.param(
            arm(100, times_ms=drawn(100, 300)), arm(900, times_ms=drawn(900, 100, 1)), "3.3", id="three times as slow"
        ),
        pytest.param(arm(19, times_ms=[900.0] * 19), arm(99, times_ms=[100.0] * 99), "", id="nineteen times are few"),
        pytest.param(
            arm(100, times_ms=drawn(100, 110)), arm(900, times_ms=drawn(900, 100, 1)), "", id="a tenth is within bounds"
        ),
        pytest.param(arm(100), arm(900, times_ms=drawn(900, 100)), "", id="nobody measures the candidate"),
    ],
)
def test_what_is_worse_than_allowed_is_told_early_where_chance_is_ruled_out(
    candidate: Arm, live: Arm, why: str
) -> None:
    """2 % more errors and 1.2 times the time are allowed."""
    found = Bounds().exceeded(candidate, live, over=False)
    assert (why in found) if why else not found, found


def test_at_the_end_of_a_step_less_is_enough() -> None:
    """One look decides then."""
    candidate, live = arm(100, times_ms=drawn(100, 135)), arm(900, times_ms=drawn(900, 100, 1))
    assert not Bounds().exceeded(candidate, live, over=False)
    assert "typical time to first token" in Bounds().exceeded(candidate, live, over=True)


def test_equal_policies_are_rarely_told_apart() -> None:
    """Of a hundred rollouts of the same policy, few are given up by chance in a step of 200 requests to 1,800."""
    given_up = 0
    for seed in range(100):
        candidate, live = arm(200, times_ms=drawn(200, 100, seed)), arm(1800, times_ms=drawn(1800, 100, seed + 1000))
        given_up += bool(Bounds().exceeded(candidate, live, over=True))
    assert given_up <= 2
