"""What is said of an event, from what clients saw."""

from __future__ import annotations

import math

from bench.load import Exchange, Outcome
from bench.scene import first_byte_ms, judge, routed_again_after_s


def make_exchange(
    sent_s: float,
    end_s: float,
    *,
    first_byte_s: float | None = None,
    outcome: Outcome = Outcome.OK,
    status: int = 200,
    replica: str = "sim-2",
    reason: str = "session-pin",
) -> Exchange:
    first = sent_s + 0.01 if first_byte_s is None else first_byte_s
    return Exchange(sent_s, first, end_s, outcome, status, replica, reason)


def test_streams_of_the_killed_replica_are_counted_apart() -> None:
    """They are necessarily cut; the same cut elsewhere is a failure."""
    cut = [make_exchange(8, 10.1, outcome=Outcome.CUT, replica=replica) for replica in ("sim-1", "sim-1", "sim-2")]
    result = judge("killed", cut, 10, "sim-1")
    assert (result.requests, result.cut_with_their_replica, result.failed) == (3, 2, {"cut": 1})


def test_without_a_killed_replica_every_cut_is_a_failure() -> None:
    """A reload has no excuse."""
    assert judge("reload", [make_exchange(8, 11, outcome=Outcome.CUT)], 10, "").failed == {"cut": 1}


def test_a_request_without_an_answer_is_a_failure_even_of_the_killed_replica() -> None:
    """It had not been answered, so it could have gone elsewhere."""
    lost = make_exchange(9.9, 10.1, first_byte_s=0.0, outcome=Outcome.UNANSWERED, replica="", reason="")
    refused = make_exchange(10.2, 10.3, outcome=Outcome.STATUS, status=503)
    result = judge("killed", [lost, refused], 10, "sim-1")
    assert result.failed == {"unanswered": 1, "status 503": 1}
    assert result.unanswered == 1


def test_what_ended_before_the_event_is_not_its_doing() -> None:
    """A failure in quiet time is not counted."""
    assert judge("any", [make_exchange(8, 9.9, outcome=Outcome.CUT)], 10, "").requests == 0


def test_fail_open_answers_count_from_the_event_on() -> None:
    """Those sent before belong to what was before."""
    seen = [make_exchange(sent_s, 11, reason="fail-open") for sent_s in (9.5, 10.0, 10.5)]
    assert judge("router killed", seen, 10, "").fail_open == 2


def test_deciding_again_is_the_first_placed_request_after_the_last_that_was_not() -> None:
    """A placed request between two that failed open does not count as recovery."""
    seen = [
        make_exchange(10.1, 11, reason="fail-open"),
        make_exchange(10.5, 11),
        make_exchange(12.0, 13, reason="fail-open"),
        make_exchange(12.5, 13),
        make_exchange(12.25, 14),
    ]
    assert routed_again_after_s(seen, 10) == 2.25
    assert routed_again_after_s(seen[1:2], 10) == 0.0
    assert math.isnan(routed_again_after_s(seen[2:3], 10))


def test_first_bytes_are_those_of_requests_sent_in_between() -> None:
    """In milliseconds; requests without a first byte have none."""
    seen = [
        make_exchange(1.0, 3, first_byte_s=1.002),
        make_exchange(2.0, 3, first_byte_s=2.004),
        make_exchange(2.5, 3, first_byte_s=0.0),
        make_exchange(9.0, 9.5),
    ]
    p50, p99 = first_byte_ms(seen, 1, 3)
    assert (round(p50, 6), round(p99, 6)) == (2.0, 4.0)
