"""Health checks and connections of the replicas, as words of HAProxy's `server` lines.

The words are the same for servers in the file and for those added at run time. Intervals between health checks grow
with the fleet, so that the checks of a large fleet keep to a limit.
"""

from __future__ import annotations

import msgspec

from pointsman.haproxy.charset import PATH, check_range, check_text


class ServerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Health checks and connections of every replica; the same for servers in the file and for those added at run
    time."""

    health_path: str = "/health"
    """Path of the health checks of replicas that name none of their own."""
    inter_ms: int = 500
    """Interval between two health checks of a replica that is up, in milliseconds."""
    fastinter_ms: int = 100
    """Interval between two health checks while the replica's state is changing, in milliseconds."""
    downinter_ms: int = 250
    """Interval between two health checks of a replica that is down, in milliseconds: the longest delay until a
    recovered replica is used."""
    checks_per_s_max: int = 1000
    """Limit of health checks per second over all replicas that are up. The more replicas a fleet has when one is added,
    the longer are the intervals of the new one, so that the limit holds however the fleet grows. A check costs HAProxy
    0.05 to 0.1 ms."""
    check_timeout_ms: int = 2000
    """Time limit of one health check, in milliseconds; generous, so that a busy engine does not count as dead."""
    fall: int = 2
    """Failed health checks in a row that take a replica out."""
    rise: int = 1
    """Passed health checks in a row that bring a replica back."""
    maxconn: int = 0
    """Concurrent requests on one replica; more wait in HAProxy's queue. 0: no limit."""
    idle_purge_s: int = 2
    """Interval, in seconds, at which HAProxy closes half of its unused idle connections to a replica. Short enough that
    no connection is kept for the 5 s after which vLLM closes it (uvicorn's `timeout_keep_alive`)."""

    def __post_init__(self) -> None:
        check_text(PATH, "health_path", self.health_path, "a path without spaces or quotes")
        for key in ("inter_ms", "fastinter_ms", "downinter_ms", "check_timeout_ms"):
            check_range(key, getattr(self, key), 10, 3_600_000)
        for key in ("fall", "rise"):
            check_range(key, getattr(self, key), 1, 100)
        check_range("checks_per_s_max", self.checks_per_s_max, 1, 1_000_000)
        check_range("maxconn", self.maxconn, 0, 1_000_000)
        check_range("idle_purge_s", self.idle_purge_s, 1, 60)

    def keywords(self, fleet: int = 1, *, before: int | None = None) -> str:
        """Return the server keywords, the same for a `server` line and for `add server` (which ignores
        `default-server`).

        fleet: number of servers once those that get these keywords are added.
        before: number of servers already there; None: all but one.
        """
        factor = self._slowdown(fleet - 1 if before is None else before, fleet)
        words = (
            f"check inter {_longer(self.inter_ms, factor)}ms fastinter {self.fastinter_ms}ms "
            f"downinter {_longer(self.downinter_ms, factor)}ms "
            f"fall {self.fall} rise {self.rise} weight 16 pool-purge-delay {self.idle_purge_s}s "
            "observe layer4 error-limit 3 on-error mark-down"
        )
        return f"{words} maxconn {self.maxconn}" if self.maxconn else words

    def _slowdown(self, before: int, after: int) -> float:
        """Return how much longer the intervals of servers are that make a fleet of `before` one of `after`.

        HAProxy cannot change the interval of a server that it has. So a fleet of n servers has n·R / (n + k) checks a
        second, R being the limit and k the fleet that would reach R without it, and servers that are added share what
        they add to that.
        """
        k = max(1.0, self.checks_per_s_max * self.inter_ms / 1000)
        return (before + k) * (after + k) / (k * k)


def _longer(interval_ms: int, factor: float) -> int:
    """Return an interval in whole hundredths of a second; one that has hardly grown is as it was set."""
    return max(interval_ms, 10 * round(interval_ms * factor / 10))
