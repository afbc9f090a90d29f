"""Metrics of pools, from what drivers of fleets reported with their last heartbeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pointsman.router.fleet.fleets import FleetTable
from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter, gauge
from pointsman.router.process.clock import Clock

MEMBER_STATES = ("starting", "ready", "dead", "draining", "stopped")


class PoolCollector(FamilyCollector):
    """Reads the table of fleets; a pool whose driver is silent has no series."""

    def __init__(self, fleets: FleetTable, clock: Clock) -> None:
        self._fleets = fleets
        self._clock = clock

    def collect(self) -> Iterator[Family]:
        pools = [pool for _, pool in self._fleets.pools(self._clock())]
        states = {pool.name: Counter(member.state for member in pool.members) for pool in pools}
        yield from gauge(
            "pointsman_pool_replicas",
            "Replicas of a pool by state, as the driver of its fleet reported.",
            (((pool, state), counts[state]) for pool, counts in states.items() for state in MEMBER_STATES),
            *("pool", "state"),
        )
        yield from gauge(
            "pointsman_pool_replicas_wanted",
            "Replicas that a pool should have, as the driver of its fleet reported.",
            ((pool.name, pool.replicas) for pool in pools),
            "pool",
        )
        yield from counter(
            "pointsman_pool_deaths",
            "Replicas of a pool that were started again after a death, as the driver of its fleet reported.",
            ((pool.name, sum(member.deaths for member in pool.members)) for pool in pools),
            "pool",
        )
