"""Moments as people and other tools read them: RFC 3339, in UTC, with milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from pointsman.router.process import clock


def moment(when_s: float, now_s: float) -> str:
    """A moment of the monotonic clock; `now_s` is its time at present."""
    return rfc3339(clock.wall() + when_s - now_s)


def rfc3339(wall_s: float) -> str:
    """A moment in seconds since 1970."""
    # Whole microseconds first: a float may lie just below the millisecond that it stands for.
    seconds, millis = divmod(round(wall_s * 1_000_000) // 1000, 1000)
    return f"{_to_the_second(seconds)}.{millis:03d}Z"


@lru_cache(maxsize=4096)  # Of a fleet that started at once, most moments fall into a few seconds.
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
