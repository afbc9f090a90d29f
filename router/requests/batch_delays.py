"""Watch over what batches cost others: the share of other requests that had to wait because of a batch's prompt.

An engine's step cannot be taken back. While a replica computes a prompt of a batch, what comes goes to others; once
these compute prompts, too, the next request waits. How often that happens depends on the load, on the number of
replicas and on the length of prompts, so it is counted. Nothing here keeps time.
"""

from __future__ import annotations

MEMORY = 1 / 1000
"""Weight of the newest request in the share."""

QUIET_S = 60.0
"""Seconds without another request after which there is nobody to wait."""


class BatchDelays:
    """The share of one set of replicas."""

    __slots__ = ("_last_s", "_share")

    def __init__(self) -> None:
        self._share = 0.0
        self._last_s = -QUIET_S

    def __repr__(self) -> str:
        return f"BatchDelays({self._share:.2%})"

    def placed(self, now_s: float, *, delayed: bool) -> None:
        """Counts a request of another class that was placed.

        delayed: whether it waits for a prompt while one of a batch is computed.
        """
        self._share += MEMORY * (delayed - self._share)
        self._last_s = now_s

    def share(self, now_s: float) -> float:
        """Share of recent requests that were delayed, 0 to 1; 0 while none comes."""
        return self._share if now_s - self._last_s < QUIET_S else 0.0
