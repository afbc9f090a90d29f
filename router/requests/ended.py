"""Requests that ended just now: HAProxy's line may overtake what the engine reports of them.

`EndedRequests` owns the order in which they ended. Each is kept for `LINGER_S`, fewer where there are too many; what
becomes of a request after that is the caller's to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pointsman.router.requests.request import Request

LINGER_S = 5.0
"""A request that ended is remembered for so long, in seconds: HAProxy's line may overtake the engine's message."""


class EndedRequests:
    """Requests that ended, in that order."""

    def __init__(self, max_requests: int) -> None:
        self._max = max_requests
        self._ended: deque[tuple[float, Request]] = deque()

    def __len__(self) -> int:
        return len(self._ended)

    def add(self, request: Request, now_s: float) -> Sequence[Request]:
        """Remember a request that ended now; return up to two that are remembered no longer.

        Two for each that comes: under load the sweep has few to forget, and holds nobody up.
        """
        ended = self._ended
        ended.append((now_s, request))
        if ended[0][0] > now_s - LINGER_S and len(ended) <= self._max:
            return ()
        return self.take_overdue(now_s, 2)

    def take_overdue(self, now_s: float, count: int) -> list[Request]:
        """Takes out up to `count` requests that ended too long ago, or that are too many."""
        ended = self._ended
        overdue: list[Request] = []
        while len(overdue) < count and ended and (ended[0][0] <= now_s - LINGER_S or len(ended) > self._max):
            overdue.append(ended.popleft()[1])
        return overdue
