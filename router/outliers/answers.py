"""Evidence about a replica in the end of one request.

`judge` reads an end-of-request line as HAProxy writes it (configuration.txt 8.5, "Session state at disconnection"): the
first letter of the termination state names the side that ended the request, the second the phase it was in. An engine's
answer is evidence; what a client did is not, unless no answer had begun when the client gave up.

Statuses 429 and 503 are backpressure: an engine that is full says so and is well. Every other 5xx is a failure of the
replica, but for 501 and 505, which depend on the request alone.
"""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """One answer as evidence about its replica. All but the first three are failures, and their cause."""

    __hash__ = str.__hash__

    GOOD = "good"
    """The replica answered, and the answer is whole."""
    NEUTRAL = "neutral"
    """Nothing is proved: the client left, or HAProxy or its configuration ended the request."""
    BACKPRESSURE = "backpressure"
    """The replica refused the request because it is full (429 or 503)."""
    ERROR = "error"
    """The replica answered with a 5xx status, or with something that is not HTTP."""
    CUT = "cut"
    """The replica closed or reset the connection in the middle of an answer."""
    DROPPED = "dropped"
    """The replica closed or reset the connection before it answered."""
    UNREACHABLE = "unreachable"
    """No connection to the replica could be made, though its health check passes."""
    TIMEOUT = "timeout"
    """The replica was silent for longer than its limit, before its answer or in the middle of it."""
    UNANSWERED = "unanswered"
    """The client gave up while it waited for the first byte of an answer."""


NORMAL = "--"
"""Termination state of a request that nobody cut short."""

_GOOD = Verdict.GOOD

FAILURES = frozenset(Verdict) - {Verdict.GOOD, Verdict.NEUTRAL, Verdict.BACKPRESSURE}

BACKPRESSURE_STATUSES = (429, 503)
UNPROVING_STATUSES = (501, 505)
"""Server errors that a healthy server gives to an unusual request; HAProxy's `observe layer7` leaves out the same."""

_BY_REPLICA = {
    "SC": Verdict.UNREACHABLE,
    "sC": Verdict.UNREACHABLE,
    "SH": Verdict.DROPPED,
    "sH": Verdict.TIMEOUT,
    "SD": Verdict.CUT,
    "sD": Verdict.TIMEOUT,
    "SL": Verdict.CUT,
    "sL": Verdict.TIMEOUT,
    "PH": Verdict.ERROR,
    "CH": Verdict.UNANSWERED,
}
"""Termination states with which the replica has, or may have, to do."""


def judge(status: int, termination: str, *, answered: bool) -> Verdict:
    """Evidence in one end-of-request line.

    status: HTTP status that reached the client; 0 or -1 for none.
    termination: HAProxy's termination state, `--` for a normal end.
    answered: whether response headers came from the replica.
    """
    if termination == NORMAL and answered and status < 429:
        return _GOOD
    found = _BY_REPLICA.get(termination[:2])
    if found is not None:
        return found
    if status in BACKPRESSURE_STATUSES and answered:
        return Verdict.BACKPRESSURE
    if status >= 500 and answered and status not in UNPROVING_STATUSES:
        return Verdict.ERROR
    return Verdict.GOOD if termination.startswith("-") and answered else Verdict.NEUTRAL
