"""Settings of a simulated fleet."""

from __future__ import annotations

import msgspec

from pointsman.engine.sim.config import SCHEDULING_POLICIES
from pointsman.engine.sim.timing import TIMINGS, Timing
from pointsman.simulator.errors import ExperimentError

MAX_REPLICAS = 4096
MAX_ROUTERS = 64


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that dies and comes back empty. What it was serving is asked for again."""

    replica: int
    at_s: float
    down_s: float = 30.0
    """Until it serves again."""
    noticed_s: float = 1.0
    """From its death until routers leave it out; what is sent there meanwhile goes to their second choice."""


class FleetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas, routers, and how late they hear of each other. Times are virtual seconds."""

    replicas: int = 8
    kv_tokens: int = 524_288
    """KV capacity of a replica."""
    prefill_replicas: int = 0
    """With any, the `replicas` only decode and these compute their prompts. They come behind: with 4 and 2, it is
    replicas 4 and 5 that prefill."""
    handoff_ms: float = 2.0
    """Fixed part of the time to transfer a prompt's KV to a decode replica, in milliseconds."""
    handoff_us_per_token: float = 2.5
    """Time to transfer the KV of one token, in microseconds; the default is 128 KiB a token at 50 GB/s."""
    speeds: tuple[float, ...] = ()
    """Speed of each replica against the timing, repeated until all have one; empty for 1."""
    timing: str = "dense-h100"
    scheduling_policy: str = "fcfs"
    """Order of requests in the engines: `fcfs`, by arrival, or `priority`, by priority class and then arrival."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8_192
    routers: int = 1
    """Each request reaches one of them by chance."""
    sync_s: float | None = 0.01
    """From a router's decision or notice until the other routers have it; None: they never do."""
    event_lag_s: float = 0.02
    """From a first token or a change in a replica's cache until routers know."""
    restarts: tuple[Restart, ...] = ()
    pools: tuple[str, ...] = ()
    """Pool of each replica, repeated until all have one; empty for none."""
    retry_limited: bool = False
    """Whether clients ask again, after `Retry-After`, when they were over a limit; else they give the request up."""

    def __post_init__(self) -> None:
        for key, low, high in (
            ("replicas", 1, MAX_REPLICAS),
            ("prefill_replicas", 0, MAX_REPLICAS - self.replicas),
            ("routers", 1, MAX_ROUTERS),
            ("kv_tokens", 1, 1 << 40),
        ):
            if not low <= getattr(self, key) <= high:
                raise ExperimentError(key, getattr(self, key), f"{low} to {high}")
        if self.timing not in TIMINGS:
            raise ExperimentError("timing", self.timing, f"one of {', '.join(TIMINGS)}")
        if self.scheduling_policy not in SCHEDULING_POLICIES:
            raise ExperimentError("scheduling_policy", self.scheduling_policy, "fcfs or priority")
        if any(speed <= 0 for speed in self.speeds) or len(self.speeds) > self.total:
            raise ExperimentError("speeds", self.speeds, "numbers above 0, at most one for each replica")
        if len(self.pools) > self.total:
            raise ExperimentError("pools", self.pools, "at most one name for each replica")
        for key in ("event_lag_s", "sync_s", "handoff_ms", "handoff_us_per_token"):
            value = getattr(self, key)
            if value is not None and value < 0:
                raise ExperimentError(key, value, "0 or more")
        for restart in self.restarts:
            if not 0 <= restart.replica < self.total:
                raise ExperimentError("restarts.replica", restart.replica, f"0 to {self.total - 1}")
            if not 0 <= restart.noticed_s <= restart.down_s:
                raise ExperimentError("restarts.noticed_s", restart.noticed_s, f"0 to down_s, {restart.down_s}")

    @property
    def total(self) -> int:
        """Replicas of either kind."""
        return self.replicas + self.prefill_replicas

    def handoff_s(self, tokens: int) -> float:
        """From a prompt of so many tokens being computed until the decode replica has its KV."""
        return (self.handoff_ms + self.handoff_us_per_token * tokens / 1000) / 1000

    def speed(self, replica: int) -> float:
        return self.speeds[replica % len(self.speeds)] if self.speeds else 1.0

    def pool(self, replica: int) -> str:
        """The pool of a replica; empty for none."""
        return self.pools[replica % len(self.pools)] if self.pools else ""

    def timing_of(self, replica: int) -> Timing:
        """The timing of one replica: every coefficient is a duration, so a speed divides them all."""
        speed = self.speed(replica)
        if speed == 1.0:
            return TIMINGS[self.timing]
        return Timing(**{key: value / speed for key, value in msgspec.structs.asdict(TIMINGS[self.timing]).items()})
