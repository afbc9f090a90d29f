"""The arms of a rollout: counts of what became of requests under two policies, and whether one of them is worse.

`Arm` counts the requests of one policy that ended, by status and time to first token. `Bounds.exceeded` compares two.
Times are compared as geometric means, which one long prompt does not move and a slow policy does.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.router.counts.histogram import Histogram
from pointsman.router.counts.requests import SERVED_BOUNDS_S

KEPT_TIMES = 2000
"""Latest times to first token that percentiles are of."""

EARLY = 2.58
"""Standard errors by which a difference must exceed its bound while a step lasts: one in two hundred by chance."""

AT_THE_END = 1.0
"""Standard errors by which it must when a step is over, where one look decides."""

FEWEST_ERRORS = 5
FEWEST_TIMES = 20
"""Requests of an arm below which nothing is said."""

_CUT_BY_REPLICA = ("S", "s")
"""First letter of HAProxy's termination state where the replica ended a stream."""


def is_error(status: int, termination: str) -> bool:
    """Whether a replica failed a request. `termination` is HAProxy's termination state."""
    return status >= 500 or termination[:1] in _CUT_BY_REPLICA


class Arm:
    """Requests of one policy that ended."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        """Of those, answers with a status of 5xx, and streams that the replica cut."""
        self.refused = 0
        """Of those, refusals with 429."""
        self.measured = 0
        """Requests whose time to first token is known."""
        self.ttft_s = Histogram(SERVED_BOUNDS_S)
        self._times_ms: deque[float] = deque(maxlen=KEPT_TIMES)
        self._log_mean = 0.0
        self._log_squares = 0.0

    def __repr__(self) -> str:
        return f"Arm({self.requests} requests, {self.errors} errors, {self.measured} measured)"

    def ended(self, status: int, termination: str) -> None:
        """Count the end of a request. `termination` is HAProxy's termination state."""
        self.requests += 1
        self.errors += is_error(status, termination)
        self.refused += status == 429

    def first_token(self, took_ms: float) -> None:
        """Count a time to first token, more than 0."""
        self.measured += 1
        self.ttft_s.observe(took_ms / 1000)
        self._times_ms.append(took_ms)
        logarithm = math.log(max(took_ms, 0.1))
        before = logarithm - self._log_mean
        self._log_mean += before / self.measured
        self._log_squares += before * (logarithm - self._log_mean)

    @property
    def error_share(self) -> float:
        """Share of errors; 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0

    def percentile_ms(self, share: float) -> float | None:
        """A percentile of the latest times to first token, by nearest rank; None without any."""
        ordered = sorted(self._times_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def slower_than(self, other: Arm) -> tuple[float, float]:
        """The logarithm of the ratio of typical times to first token, and its standard error; both measured some."""
        own, its = (arm._log_squares / max(1, arm.measured - 1) / arm.measured for arm in (self, other))
        return self._log_mean - other._log_mean, math.sqrt(own + its)


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits to how much worse than the live policy another one may be."""

    error_share: Annotated[
        float,
        Meta(
            ge=0, le=1, description="Largest excess of the share of 5xx answers and cut streams over the live policy."
        ),
    ] = 0.02
    ttft_ratio: Annotated[
        float,
        Meta(ge=1, le=100, description="Largest ratio of the typical time to first token to that of the live policy."),
    ] = 1.2

    def exceeded(self, candidate: Arm, live: Arm, *, over: bool) -> str:
        """Why the candidate is worse than allowed, as the end of a sentence; empty where it is not.

        over: whether the step is over; before that, chance must be ruled out.
        """
        margin = AT_THE_END if over else EARLY
        return self._errors(candidate, live, margin) or self._times(candidate, live, margin)

    def _errors(self, candidate: Arm, live: Arm, margin: float) -> str:
        if candidate.requests < FEWEST_ERRORS:
            return ""
        # One error and one success more: of few requests, none that failed proves little.
        shares = [((arm.errors + 1) / (arm.requests + 2), arm.requests + 2) for arm in (candidate, live)]
        error = math.sqrt(sum(share * (1 - share) / count for share, count in shares))
        if shares[0][0] - shares[1][0] - margin * error <= self.error_share:
            return ""
        return (
            f"{candidate.error_share:.1%} of its requests failed, against {live.error_share:.1%} under the live policy"
        )

    def _times(self, candidate: Arm, live: Arm, margin: float) -> str:
        if min(candidate.measured, live.measured) < FEWEST_TIMES:
            return ""
        ratio, error = candidate.slower_than(live)
        if ratio - margin * error <= math.log(self.ttft_ratio):
            return ""
        return f"its typical time to first token is {math.exp(ratio):.2f} times that of the live policy"
