"""Budget of requests that may be sent again: a share of the traffic, so that a failing fleet is not hit twice.

HAProxy sends a request again when a replica dropped it without an answer or answered 503. `RetryBudget` counts requests
and those that were sent again, both decaying, and says when the share is used up; decisions then forbid it for their
request. Envoy's `retry_budget` and Finagle's are the precedents: 20 %, with a floor that lets a quiet edge retry.
"""

from __future__ import annotations

import math


class RetryBudget:
    """Counts what is sent again against all that is sent."""

    def __init__(self, *, share: float = 0.2, floor: float = 10.0, window_s: float = 10.0) -> None:
        """An empty budget.

        share: part of the requests that may be sent again, from 0 to 1.
        floor: requests within the window that may be sent again whatever the traffic.
        window_s: time constant of both counts, in seconds.
        """
        self._share = share
        self._floor = floor
        self._window_s = window_s
        self.requests = 0.0
        """Requests that ended, decaying; whoever counts one that was not sent again may add it here."""
        self._retries = 0.0
        self._at_s = math.inf
        """When time last passed; the first step only sets it."""
        self.exhausted = False
        """Whether no further request may be sent again."""
        self.refused = 0
        """Decisions that forbade to send their request again."""

    def __repr__(self) -> str:
        return f"RetryBudget({self._retries:.1f} of {self.requests:.1f} requests)"

    def count(self, *, retried: bool) -> None:
        """Counts one request that ended; `retried`: another replica had it before."""
        self.requests += 1.0
        if retried:
            self._retries += 1.0
            self._judge()

    def step(self, now_s: float) -> None:
        """Lets time pass; called a few times a second."""
        kept = math.exp(-max(0.0, now_s - self._at_s) / self._window_s)
        self._at_s = now_s
        self.requests *= kept
        self._retries *= kept
        self._judge()

    def _judge(self) -> None:
        self.exhausted = self._retries > self._floor + self._share * self.requests
