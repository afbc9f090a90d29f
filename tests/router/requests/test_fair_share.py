"""Virtual token counters: who was served the least of its share."""

from __future__ import annotations

import numpy as np
import pytest

from pointsman.contract.events import Finished
from pointsman.router.fleet.memberships import Membership
from pointsman.router.requests.fair_share import (
    MAX_CHARGES,
    MAX_OWNERS,
    MAX_SHARES,
    FairShare,
    FairShares,
)

A, B, C = (2, "a"), (2, "b"), (2, "c")


def members(token: int, *slots: int) -> Membership:
    return Membership(token, np.array(slots, dtype=np.intp))


def test_a_request_is_charged_by_its_prompt_and_an_expected_output() -> None:
    """What requests of its tenant usually generate, else those of others; a bound of its own that is lower counts
    instead, and of nobody nothing is known."""
    shares, share = FairShares(), FairShare()
    shares.charge("1", share, A, 100, 0)
    assert share.counter(A) == 100
    shares.report([Finished("1", prompt_tokens=100, completion_tokens=40)])
    shares.charge("2", share, B, 100, 0)
    assert share.counter(B) == 140
    shares.charge("3", share, C, 100, 10)
    assert share.counter(C) == 110


def test_the_engine_corrects_the_estimate() -> None:
    """In the end a counter has what was really served, and the next estimate follows what requests generate."""
    shares, share = FairShares(), FairShare()
    shares.charge("1", share, A, 100, 0)
    shares.report([Finished("1", prompt_tokens=120, completion_tokens=40)])
    assert share.counter(A) == 160
    shares.charge("2", share, A, 100, 0)
    assert share.counter(A) == 160 + 100 + 40
    shares.report([Finished("2", prompt_tokens=100, completion_tokens=140), Finished("never seen", prompt_tokens=9)])
    assert share.counter(A) == 400
    assert share.expected_output(A, 0) == pytest.approx(50)
    assert not shares.charges


def test_weights_divide() -> None:
    shares, share = FairShares({"a": 4.0, "b": 1.0}.__getitem__), FairShare()
    for owner in (A, B):
        shares.charge(f"of {owner[1]}", share, owner, 100, 100)
    assert (share.counter(A), share.counter(B)) == (25.0, 100.0)
    shares.report([Finished("of a", prompt_tokens=100, completion_tokens=300)])
    assert share.counter(A) == 100.0


def test_an_aborted_request_counts_what_was_generated() -> None:
    """The engine does not repeat the prompt then."""
    shares, share = FairShares(), FairShare()
    shares.charge("1", share, A, 100, 0)
    shares.report([Finished("1", completion_tokens=7, reason="abort")])
    assert share.counter(A) == pytest.approx(107)


def test_what_was_not_served_is_given_back() -> None:
    """Once; a request that is placed again is charged once."""
    shares, share = FairShares(), FairShare()
    shares.charge("1", share, A, 100, 100)
    shares.charge("1", share, A, 100, 100)
    assert share.counter(A) == 100
    shares.give_back("1")
    shares.give_back("1")
    assert share.counter(A) == 0


def test_who_was_idle_gathers_no_credit() -> None:
    """It starts from the least of those that wait; and from the greatest that was placed while nobody waits."""
    share = FairShare()
    share.add(A, 1000.0)
    share.add(B, 700.0)
    share.came(C, [A, B])
    assert share.counter(C) == 700.0
    share.came(A, [B, C])
    assert share.counter(A) == 1000.0, "nobody is lowered"
    share.went(A)
    share.came((2, "d"), [])
    assert share.counter((2, "d")) == 1000.0
    share.came((3, "d"), [])
    assert share.counter((3, "d")) == 0.0, "classes have counters of their own"


def test_models_with_the_same_replicas_have_one_share() -> None:
    shares = FairShares()
    assert shares.of("model", members(1, 0, 1)) is shares.of("adapter", members(2, 0, 1))
    assert shares.of("other", members(3, 2)) is not shares.of("model", members(1, 0, 1))


def test_a_share_outlives_a_change_of_replicas() -> None:
    shares = FairShares()
    before = shares.of("model", members(1, 0, 1))
    assert shares.of("model", members(9, 0, 1, 2)) is before


def test_memory_is_bounded() -> None:
    """The least of the counters go first, and the oldest of the rest."""
    shares, share = FairShares(), FairShare()
    for number in range(MAX_OWNERS + 1):
        share.add((2, f"tenant-{number}"), float(number))
    assert share.counter((2, f"tenant-{MAX_OWNERS}")) == MAX_OWNERS
    assert share.counter((2, "tenant-1")) == 0.0
    for number in range(MAX_CHARGES + 1):
        shares.charge(str(number), share, A, 1, 1)
    assert len(shares.charges) == MAX_CHARGES and "0" not in shares.charges
    for number in range(MAX_SHARES + 2):
        shares.of(f"model-{number}", members(number, number))
    assert repr(shares).startswith(f"FairShares({MAX_SHARES} shares")
