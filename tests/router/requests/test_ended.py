"""Requests that ended: how long each is remembered."""

from __future__ import annotations

from pointsman.router.requests.ended import LINGER_S, EndedRequests
from pointsman.router.requests.request import Request


def ended(*times_s: float, max_requests: int = 10) -> EndedRequests:
    found = EndedRequests(max_requests)
    for time_s in times_s:
        found.add(Request(f"r{time_s:g}", 0.0, 0, 1), time_s)
    return found


def test_the_first_to_end_are_overdue_first() -> None:
    """As many as asked for, and none whose time is not over."""
    requests = ended(0.0, 1.0, 2.0)
    assert requests.take_overdue(LINGER_S - 0.1, 9) == []
    assert [request.id for request in requests.take_overdue(LINGER_S + 1.0, 1)] == ["r0"]
    assert [request.id for request in requests.take_overdue(LINGER_S + 1.0, 9)] == ["r1"]
    assert len(requests) == 1


def test_more_than_the_limit_are_given_up_at_once() -> None:
    """The number remembered stays bounded however fast requests end."""
    requests = ended(0.0, 0.1, max_requests=2)
    assert [request.id for request in requests.add(Request("r0.2", 0.0, 0, 1), 0.2)] == ["r0"]
    assert len(requests) == 2


def test_each_that_ends_gives_up_two_whose_time_is_over() -> None:
    requests = ended(0.0, 0.1, 0.2)
    assert [request.id for request in requests.add(Request("new", 0.0, 0, 1), LINGER_S + 1.0)] == ["r0", "r0.1"]
    assert len(requests) == 2
