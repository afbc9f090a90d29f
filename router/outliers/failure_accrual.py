"""The evidence on one replica, and how long it is ejected for what it proves: values and arithmetic, no fleet.

`Record` accrues answers until they prove that the replica fails. `Ejection` is one replica that fails, from then to its
next good answer: for a while it gets no requests, then one that probes it, and each probe that fails doubles the while.
Envoy's outlier detection (consecutive 5xx, failure percentage) and Finagle's failure accrual are the models; unlike
Envoy's, an ejection ends with a single probing request, so the first one can be short.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.router.outliers.answers import Verdict

MAX_PROBES = 16
"""Probing requests of one replica without an end; the oldest is forgotten beyond."""

FORGIVEN_S = 60.0
"""A replica back for so long without another ejection begins again with the shortest one."""

MAX_DOUBLINGS = 32
"""2 to this power times the shortest ejection is beyond any longest one, and still a finite number."""

Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class OutlierConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a replica is ejected or demoted because of its answers, and how many requests may be sent again."""

    enabled: bool = True
    """Whether answers affect routing. When off, health checks alone decide which replicas are eligible."""
    consecutive_failures: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Failed answers in a row that eject a replica; Envoy's `consecutive_5xx`."""
    failure_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.5
    """Share of failed answers within the window that ejects a replica. The default is far above the share that bad
    requests cause by themselves."""
    min_answers: Annotated[int, Meta(ge=1, le=100_000)] = 10
    """Fewest answers within the window for which `failure_share` is applied."""
    window_s: Seconds = 10.0
    """Time constant, in seconds, of the averages behind `failure_share` and `retry_share`."""
    ejection_s: Seconds = 1.0
    """Length of the first ejection, in seconds. A short value is safe, because a single request probes the replica at
    its end."""
    max_ejection_s: Seconds = 30.0
    """Longest ejection, in seconds; each failed probe doubles the length up to this value."""
    max_share: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.5
    """Largest share of a model's healthy replicas that may be ejected. When more of them fail, none is ejected."""
    unanswered_s: Seconds = 2.0
    """Wait, in seconds, after which a client that gives up counts as a failure of its replica, provided that the
    replica answered no other request in the meantime."""
    backpressure_s: Seconds = 1.0
    """Time, in seconds, for which a replica that answered 429 or 503 keeps only `demoted_share` of its requests."""
    demoted_share: Annotated[float, Meta(ge=0.02, le=1.0)] = 0.1
    """Share of its usual requests that a replica keeps after it answered 429 or 503, or while it fails and is not
    ejected. The minimum of 0.02 leaves enough requests to detect that the replica has recovered."""
    slow_ratio: Annotated[float, Meta(gt=1.0, le=1000.0)] = 4.0
    """Ratio to the median of the model from which a replica counts as slow, in time per decoded token or in prefill
    time; the replica then keeps 1 / ratio of its requests. Prefill times are compared under policies that use KV
    signals. Batch size alone explains a ratio of two to three."""
    slow_window_s: Seconds = 30.0
    """Time constant, in seconds, of the comparison of decoding speeds."""
    retry_share: Share = 0.2
    """Share of all requests that may be sent again to another replica; the default of Envoy and Finagle."""
    retry_floor: Annotated[float, Meta(ge=0.0, le=100_000.0)] = 10.0
    """Requests within `window_s` that may be sent again regardless of `retry_share`; lets a quiet edge retry."""

    def length_s(self, level: int) -> float:
        """Return the length of the `level`-th ejection in a row, in seconds; the first is 1."""
        return min(self.max_ejection_s, self.ejection_s * 2.0 ** min(level - 1, MAX_DOUBLINGS))


class Record(msgspec.Struct, gc=False):
    """The answers of one replica that is not ejected."""

    incarnation: tuple[str, int]
    """Address and start time: another one is another engine, which has no record."""
    consecutive: int = 0
    """Failures since the last good answer."""
    failed: float = 0.0
    answered: float = 0.0
    """Answers and those that failed, decaying."""
    at_s: float = 0.0
    """When both last decayed."""
    good_s: float = -math.inf
    """When the replica last answered somebody."""
    level: int = 0
    """Ejections in a row up to now."""
    back_s: float = -math.inf
    """When the last ejection ended."""
    backpressure_until_s: float = -math.inf

    def good(self, now_s: float, config: OutlierConfig) -> None:
        """Counts a good answer."""
        self.good_s = now_s
        self.consecutive = 0
        if now_s - self.at_s > config.window_s / 10:
            self._decay(now_s, config)
        self.answered += 1.0

    def failure(self, now_s: float, config: OutlierConfig) -> bool:
        """Counts a failed answer; True when the answers prove that the replica fails."""
        self.consecutive += 1
        self._decay(now_s, config)
        self.answered += 1.0
        self.failed += 1.0
        if self.consecutive >= config.consecutive_failures:
            return True
        return self.answered >= config.min_answers and self.failed >= config.failure_share * self.answered

    def eject(self, cause: Verdict, now_s: float, config: OutlierConfig) -> Ejection:
        """The ejection that follows; longer than the last one when that was not long ago."""
        if now_s - self.back_s > FORGIVEN_S:
            self.level = 0
        self.level += 1
        failures = max(self.consecutive, round(self.failed))
        return Ejection(cause, now_s, now_s + config.length_s(self.level), self.level, failures, probes={})

    def brought_back(self, ejection: Ejection, now_s: float) -> None:
        """Starts anew after an ejection, whose level is remembered."""
        self.consecutive, self.failed, self.answered = 0, 0.0, 1.0
        self.good_s = self.back_s = now_s
        self.level = ejection.level

    def _decay(self, now_s: float, config: OutlierConfig) -> None:
        passed_s = now_s - self.at_s
        if passed_s > 0.1 * config.window_s:
            kept = math.exp(-passed_s / config.window_s)
            self.failed *= kept
            self.answered *= kept
            self.at_s = now_s


class Ejection(msgspec.Struct, gc=False):
    """One replica that fails, from its first ejection to its next good answer."""

    cause: Verdict
    since_s: float
    until_s: float
    """When the next request may probe it."""
    level: int
    """Ejections in a row, this one included."""
    failures: int
    """Failed answers that led to it, failed probes included."""
    is_open: bool = False
    """Whether the next request that chooses this replica probes it."""
    probes: dict[str, bool] = msgspec.field(default_factory=dict)
    """Probing requests under way, by id; True for those that have a first token."""

    def probe(self, request_id: str, now_s: float, config: OutlierConfig) -> None:
        """One request goes to the replica; the next one may when this one's time is over."""
        self.is_open = False
        while len(self.probes) >= MAX_PROBES:
            del self.probes[next(iter(self.probes))]
        self.probes[request_id] = False
        self.until_s = now_s + config.length_s(self.level)

    def failed_again(self, cause: Verdict, now_s: float, config: OutlierConfig) -> None:
        """A probe failed: twice as long until the next one."""
        self.cause = cause
        self.level += 1
        self.failures += 1
        self.is_open = False
        self.until_s = now_s + config.length_s(self.level)

    def reopen(self) -> None:
        """The while is over. Where the last probe has shown no sign of life yet, the next while is longer."""
        if self.probes and not any(self.probes.values()):
            self.level += 1
        self.is_open = True
