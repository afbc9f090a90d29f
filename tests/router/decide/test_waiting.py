"""Answers for requests that wait."""

from __future__ import annotations

from pointsman.policies.admission import Admission
from pointsman.policies.decision import Decision, Reason, Refusal
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.waiting import behind_others, refused
from pointsman.router.requests.hold_queue import HoldQueue

FEATURES = RequestFeatures(request_id="1", model="m")
REFUSAL = Decision(Reason.ADMISSION, status=429, retry_after_s=2)


def test_a_refusal_becomes_a_wait_where_there_is_a_place() -> None:
    """Of a millisecond at least."""
    refusal = Refusal(Reason.ADMISSION, 429, 2, 0.0001)
    assert refused(refusal, may_wait=True).hold_ms == 1
    assert refused(refusal, may_wait=False) == REFUSAL
    assert refused(Refusal(Reason.ADMISSION, 429, 2), may_wait=True) == REFUSAL


def test_others_are_joined_only_where_waiting_is_possible() -> None:
    holds = HoldQueue(max_held=1)
    assert behind_others(None, FEATURES, holds) is None
    assert behind_others(Admission(running=1), FEATURES, holds) is None
    joined = behind_others(Admission(running=1, wait_s=3.0), FEATURES, holds)
    assert joined is not None and joined.hold_ms == 3000
    holds.join(RequestFeatures(request_id="0", model="m"), 0.0, 9.0, REFUSAL)
    assert behind_others(Admission(running=1, wait_s=3.0), FEATURES, holds) is None
