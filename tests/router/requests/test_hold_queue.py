"""The queue of requests held at the edge."""

from __future__ import annotations

import pytest
from invariants import check

from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.requests.hold_queue import HoldQueue, Outcome

REFUSAL = Decision(Reason.ADMISSION, status=429, retry_after_s=2)


def make_queue(*ids: str, max_held: int = 8, model: str = "m") -> HoldQueue:
    """A queue with these requests, which came a second apart and wait for ten."""
    queue = HoldQueue(max_held=max_held)
    for at_s, request_id in enumerate(ids):
        queue.join(RequestFeatures(request_id=request_id, model=model), float(at_s), 10.0, REFUSAL)
        check(queue)
    return queue


def names(queue: HoldQueue) -> list[str]:
    return [held.features.request_id for held in queue]


def test_who_came_first_stands_first() -> None:
    """And knows since when and until when it waits, and what it is told in the end."""
    queue = make_queue("a", "b", "c")
    assert names(queue) == ["a", "b", "c"]
    _, second, _ = queue
    assert (second.since_s, second.until_s, second.refusal) == (1.0, 11.0, REFUSAL)


def test_who_leaves_from_the_middle_holds_nobody_up() -> None:
    """The others keep their order; leaving twice, or without having waited, is nothing."""
    queue = make_queue("a", "b", "c")
    assert queue.leave("b", 5.0, Outcome.GONE)
    assert not queue.leave("b", 5.0, Outcome.GONE)
    assert not queue.leave("never seen", 5.0, Outcome.GONE)
    check(queue)
    assert names(queue) == ["a", "c"]
    assert queue.outcomes == {Outcome.GONE: 1}


def test_it_is_full_at_its_limit() -> None:
    """Joining beyond it is a programming error, so who asks must look."""
    queue = make_queue("a", "b", max_held=2)
    assert queue.full
    with pytest.raises(AssertionError):
        queue.join(RequestFeatures(request_id="c"), 2.0, 10.0, REFUSAL)
    queue.leave("a", 2.0, Outcome.ADMITTED)
    assert not queue.full


def test_waits_are_measured_whatever_becomes_of_them() -> None:
    """0.3 and 8.5 seconds, in the buckets up to 0.5 and 10."""
    queue = make_queue("a", "b")
    queue.leave("a", 0.3, Outcome.ADMITTED)
    queue.leave("b", 9.5, Outcome.TIMED_OUT)
    buckets = dict(queue.waited_s.cumulative())
    assert (buckets["0.25"], buckets["0.5"], buckets["5.0"], buckets["10.0"]) == (0, 1, 1, 2)
    assert queue.waited_s.total == pytest.approx(8.8)


def test_models_are_counted_while_somebody_waits_for_them() -> None:
    """Names come from clients: none is kept longer than the requests that brought it."""
    queue = make_queue("a", "b")
    queue.join(RequestFeatures(request_id="c", model="other"), 2.0, 10.0, REFUSAL)
    assert queue.models == {"m": 2, "other": 1}
    for request_id in ("c", "a", "b"):
        queue.leave(request_id, 3.0, Outcome.GONE)
        check(queue)
    assert not queue.models


def test_it_says_how_many_wait() -> None:
    """In a debugger or a log."""
    assert repr(make_queue("a", "b")) == "HoldQueue(2 of at most 8)"
