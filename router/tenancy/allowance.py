"""What one tenant or key may use: buckets that refill, requests at one time, budgets. Plain arithmetic, no clock.

A limit of N a minute is a bucket that refills by N a minute and holds `BURST_S` of it, so any stretch of time gets at
most its share and one burst. A request is let in while the bucket is not empty, and takes what it is expected to use,
which may leave a debt; when it ends, the difference to what it used is given back or taken too. So an estimate decides
when a request goes, and what was really used decides what goes in the long run.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from math import ceil
from typing import NamedTuple

from pointsman.router.tenancy.records import Limits

BURST_S = 6.0
"""Seconds of a limit that may be used at once after a rest: a tenth of a minute's."""

REFILL_S = 0.05
"""Buckets are refilled so often at most, but for one that would refuse: it may let in the share of that time more."""

LATER_S = 1
"""Before another try where requests at one time are the limit: nobody knows when one of them ends."""

ALMOST_ONE = 0.999
"""Added before a number is rounded down, so that any part of a second counts as one."""

MAX_RETRY_S = 86_400
"""Longest `Retry-After`: a budget may have changed by then."""


class Use(NamedTuple):
    """Use of a share by one edge, since its process began."""

    requests: float = 0.0
    tokens: float = 0.0
    """Weighed; of requests under way their estimates."""
    in_flight: int = 0


NO_USE = Use()


class Bucket:
    """A limit of so many a minute."""

    __slots__ = ("capacity", "level", "limit", "per_s", "updated_s")

    def __init__(self, limit: int, now_s: float) -> None:
        self.limit = limit
        self.per_s = limit / 60
        # One request, or one token, is let in by any limit but zero.
        self.capacity = max(1.0, limit * BURST_S / 60) if limit else 0.0
        self.level = self.capacity
        self.updated_s = now_s

    def refill(self, now_s: float, share: float) -> float:
        """Fills the bucket up to a moment, and returns its level.

        share: part of the limit that counts here: all of it, unless other edges cannot be heard.
        """
        passed_s = now_s - self.updated_s
        if passed_s > 0:
            level = self.level + share * self.per_s * passed_s
            self.level = level if level < self.capacity else self.capacity
            self.updated_s = now_s
        return self.level

    def wait_s(self, share: float, wanted: float) -> float:
        """Seconds until the bucket holds so much."""
        rate = share * self.per_s
        return MAX_RETRY_S if rate <= 0 else max(0.0, (wanted - self.level) / rate)

    def left(self, share: float) -> tuple[int, float, float]:
        """The limit, what is left of it, and seconds until all of it is back, to be rounded down."""
        level = self.level
        missing, rate = self.capacity - level, share * self.per_s
        reset_s = 0.0 if missing <= 0 else missing / rate + ALMOST_ONE if rate > 0 else MAX_RETRY_S
        return self.limit, level if level > 0 else 0.0, reset_s


class Budget:
    """A limit of tokens for a calendar day or month, UTC."""

    __slots__ = ("begins_s", "ends_s", "limit", "monthly", "used")

    def __init__(self, limit: int, *, monthly: bool) -> None:
        self.limit = limit
        self.monthly = monthly
        self.used = 0.0
        self.begins_s = 0.0
        self.ends_s = 0.0
        """End of the period that `used` is of, in seconds since 1970."""

    def begin(self, wall_s: float) -> None:
        """Empties the budget where its period is over."""
        if wall_s >= self.ends_s:
            self.used = 0.0
            self.begins_s = period_begin_s(wall_s, monthly=self.monthly)
            self.ends_s = period_end_s(wall_s, monthly=self.monthly)


def period_begin_s(wall_s: float, *, monthly: bool) -> float:
    """Begin of the calendar day or month of a moment, in seconds since 1970."""
    day_s = wall_s - wall_s % 86_400
    return datetime.fromtimestamp(day_s, UTC).replace(day=1).timestamp() if monthly else day_s


def period_end_s(wall_s: float, *, monthly: bool) -> float:
    """End of the calendar day or month of a moment, in seconds since 1970."""
    day_s = wall_s - wall_s % 86_400
    if not monthly:
        return day_s + 86_400
    moment = datetime.fromtimestamp(day_s, UTC)
    following = moment.replace(year=moment.year + moment.month // 12, month=moment.month % 12 + 1, day=1)
    return following.timestamp()


class Verdict(NamedTuple):
    """Limit that a request is over."""

    limit: str
    """Name of the limit, as in `Limits`."""
    retry_after_s: int


class Allowance:
    """Limits of one scope, and what is used of them on all edges."""

    __slots__ = (
        *("_made_s", "_own_in_flight", "_own_requests", "_own_tokens", "_peers"),
        *("budgets", "cached_weight", "concurrent", "requests", "scope", "tokens"),
    )

    def __init__(self, scope: str, limits: Limits, now_s: float) -> None:
        """scope: name of whose limits these are, the same on all edges."""
        self.scope = scope
        self._made_s = now_s
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.budgets: tuple[Budget, ...] = ()
        self.rebind(limits)
        self._own_requests = self._own_tokens = 0.0
        self._own_in_flight = 0
        self._peers: dict[str, Use] = {}

    def rebind(self, limits: Limits) -> None:
        """Takes other limits; what is used of those that there were before counts against them."""
        self.cached_weight = limits.cached_weight
        self.concurrent = limits.concurrent_requests
        self.requests = _bucket(limits.requests_per_minute, self.requests, self._made_s)
        self.tokens = _bucket(limits.tokens_per_minute, self.tokens, self._made_s)
        before = {budget.monthly: budget for budget in self.budgets}
        self.budgets = tuple(
            _budget(limit, monthly, before.get(monthly))
            for limit, monthly in ((limits.tokens_per_day, False), (limits.tokens_per_month, True))
            if limit is not None
        )

    def __repr__(self) -> str:
        return f"Allowance({self.scope!r}, own {self.own})"

    @property
    def own(self) -> Use:
        """Use by this edge."""
        return Use(self._own_requests, self._own_tokens, self._own_in_flight)

    @property
    def in_flight(self) -> int:
        """Requests under way, on all edges."""
        elsewhere = sum(use.in_flight for use in self._peers.values()) if self._peers else 0
        return self._own_in_flight + elsewhere

    def refuses(self, now_s: float, wall: Callable[[], float], share: float) -> Verdict | None:
        """The limit that one more request would be over; None where it may go. wall: asked where there are budgets."""
        requests, tokens = self.requests, self.tokens
        if (
            requests is not None
            and (requests.level < 1.0 or now_s - requests.updated_s > REFILL_S)
            and requests.refill(now_s, share) < 1.0
        ):
            return Verdict("requests_per_minute", retry_after(requests.wait_s(share, 1.0)))
        if (
            tokens is not None
            and (tokens.level <= 0.0 or now_s - tokens.updated_s > REFILL_S)
            and tokens.refill(now_s, share) <= 0.0
        ):
            return Verdict("tokens_per_minute", retry_after(tokens.wait_s(share, 0.0)))
        if self.concurrent is not None and self.in_flight >= self.concurrent:
            return Verdict("concurrent_requests", LATER_S)
        for budget in self.budgets:
            wall_s = wall()
            budget.begin(wall_s)
            if budget.used >= budget.limit:
                name = "tokens_per_month" if budget.monthly else "tokens_per_day"
                return Verdict(name, retry_after(budget.ends_s - wall_s))
        return None

    def take(self, tokens: float) -> None:
        """A request goes, and is expected to use so many tokens."""
        self._own_requests += 1.0
        self._own_tokens += tokens
        self._own_in_flight += 1
        if self.requests is not None:
            self.requests.level -= 1.0
        if self.tokens is not None:
            self.tokens.level -= tokens
        for budget in self.budgets:
            budget.used += tokens

    def settle(self, difference: float) -> None:
        """A request used so many tokens more, or less, than was taken for it."""
        self._own_tokens += difference
        self._draw(0.0, difference)

    def leave(self) -> None:
        """A request is not under way any more."""
        self._own_in_flight -= 1

    def hear(self, edge: str, use: Use, *, from_zero: bool) -> None:
        """Takes over the use by another edge, in all since its process began.

        from_zero: this edge has followed that one since before it used anything of this scope.
        """
        before = self._peers.get(edge)
        self._peers[edge] = use
        if before is None:
            if not from_zero:
                return
            before = NO_USE
        self._draw(use.requests - before.requests, use.tokens - before.tokens)

    def lose(self, edge: str) -> None:
        """Another edge is gone, and what it had under way with it."""
        self._peers.pop(edge, None)

    def _draw(self, requests: float, tokens: float) -> None:
        if self.requests is not None:
            self.requests.level = min(self.requests.capacity, self.requests.level - requests)
        if self.tokens is not None:
            self.tokens.level = min(self.tokens.capacity, self.tokens.level - tokens)
        for budget in self.budgets:
            budget.used += tokens


def _bucket(limit: int | None, before: Bucket | None, now_s: float) -> Bucket | None:
    if limit is None:
        return None
    bucket = Bucket(limit, now_s if before is None else before.updated_s)
    if before is not None:
        bucket.level = min(bucket.capacity, before.level)
    return bucket


def _budget(limit: int, monthly: bool, before: Budget | None) -> Budget:
    budget = Budget(limit, monthly=monthly)
    if before is not None:
        budget.used, budget.begins_s, budget.ends_s = before.used, before.begins_s, before.ends_s
    return budget


def retry_after(wait_s: float) -> int:
    """Seconds for `Retry-After`: whole ones, one at least."""
    return max(1, min(MAX_RETRY_S, ceil(wait_s)))
