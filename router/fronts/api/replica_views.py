"""Replicas as the admin API shows them, gathered from the tables that know of them.

A view of one replica is synchronous and costs some 20 us, so lists are made in slices. Which sessions live where is
counted for all replicas at once, beforehand (`homes`): pins are kept by session.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pointsman.haproxy.server_options import ServerOptions
from pointsman.router.core import Core
from pointsman.router.fleet.health_checks import SeenCheck
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.fronts.api.replica_types import LastCheckView, ReplicaEngine, ReplicaKV
from pointsman.router.fronts.api.types import DemotionView, ReplicaView
from pointsman.router.fronts.api.why_out import why_out
from pointsman.router.process.clock import Clock
from pointsman.router.process.moments import moment

DEFAULT_HEALTH_PATH = ServerOptions().health_path

PINS_AT_ONCE = 16_384
"""Pins counted before other tasks run: half a millisecond."""


class ReplicaViews:
    """The one maker of `ReplicaView`."""

    def __init__(self, core: Core, clock: Clock, *, health_path: str = DEFAULT_HEALTH_PATH) -> None:
        """health_path: path of the health checks of replicas that name none of their own."""
        self._core = core
        self._clock = clock
        self._health_path = health_path

    def view(self, replica: Replica, pins: Mapping[str, int] | None = None) -> ReplicaView:
        """One replica at this moment.

        pins: number of pinned sessions by replica id (`homes`); None where nobody counted them.
        """
        core, slot, now_s = self._core, replica.slot, self._clock()
        lease, seen = replica.lease_until_s, self.last_check(replica)
        hit_rate = core.kv.hit_rates.of(slot)
        return ReplicaView(
            id=replica.id,
            url=replica.url,
            model=replica.model,
            names=sorted(replica.names or ()),
            adapters=sorted(replica.adapters),
            adapters_loaded=core.adapters.loaded(slot),
            role=replica.role,
            pool=replica.pool,
            state=replica.state,
            since=moment(replica.since_s, now_s),
            why=self._why(replica, seen, now_s),
            last_check=_view_check(seen, now_s),
            in_flight=int(core.load.in_flight[slot]),
            in_flight_tokens=int(core.load.in_flight_tokens[slot]),
            kv=self._kv(slot),
            engine=self._engine(slot),
            hit_rate=None if hit_rate is None else round(hit_rate.actual, 4),
            hit_rate_predicted=None if hit_rate is None else round(hit_rate.predicted, 4),
            keys=core.kv.index.held[slot],
            sessions=self._sessions(replica, pins),
            ttl_s=replica.ttl_s,
            lease_left_s=None if lease is None else round(max(0.0, lease - now_s), 3),
            **self._outlier(replica, now_s),
        )

    def why(self, replica: Replica) -> str | None:
        """Why a replica gets no requests, as a sentence; None for one that may get some."""
        return self._why(replica, self.last_check(replica), self._clock())

    def _why(self, replica: Replica, seen: SeenCheck | None, now_s: float) -> str | None:
        if replica.state == Health.UP:
            return None
        return why_out(
            replica,
            None if seen is None else seen.check,
            self._core.outliers.ejection(replica.slot),
            now_s,
            health_path=replica.registration.health_path or self._health_path,
        )

    def last_check(self, replica: Replica) -> SeenCheck | None:
        """The last health check of a replica; None before one of its present address ended."""
        return None if replica.health is Health.STARTING else self._core.replicas.checks.of(replica.slot)

    async def homes(self) -> Mapping[str, int] | None:
        """Number of pinned sessions by replica id; None while the live policy pins none, and sessions live where their
        conversations do."""
        if not self._core.pipeline.pins:
            return None
        counts: Counter[str] = Counter()
        pins = self._core.sessions.homes()
        for at in range(0, len(pins), PINS_AT_ONCE):
            counts.update(pin[0] for pin in pins[at : at + PINS_AT_ONCE])
            await asyncio.sleep(0)
        return counts

    def _sessions(self, replica: Replica, pins: Mapping[str, int] | None) -> int | None:
        if not self._core.pipeline.pins:
            return self._core.kv.conversations.of_slot.get(replica.slot, 0)
        return None if pins is None else pins.get(replica.id, 0)

    def _kv(self, slot: int) -> ReplicaKV:
        cells = self._core.kv.columns.cells
        capacity = cells.capacity[slot]
        known = capacity < math.inf
        return ReplicaKV(
            footprint_tokens=int(cells.footprint[slot]),
            capacity_tokens=int(capacity) if known else None,
            usage=round(cells.fill[slot], 4) if known else None,
            backlog_tokens=int(cells.waiting[slot]),
            backlog_ms=round(cells.prefill_ms[slot], 1),
        )

    def _engine(self, slot: int) -> ReplicaEngine | None:
        load = self._core.kv.cursors[slot].load
        if load is None:
            return None
        return ReplicaEngine(running=load.running, waiting=load.waiting, kv_usage=round(load.kv_usage, 4))

    def _outlier(self, replica: Replica, now_s: float) -> dict[str, Any]:
        """The fields that say what follows from a replica's answers; empty for one that is well."""
        outliers = self._core.outliers
        shown: dict[str, Any] = {}
        ejection = outliers.ejection(replica.slot)
        if ejection is not None and replica.ejected:
            shown |= {
                "cause": ejection.cause,
                "failures": ejection.failures,
                "until": moment(ejection.until_s, now_s),
            }
        demotion = outliers.demoted.get(replica.slot)
        if demotion is not None:
            shown["demotion"] = DemotionView(
                cause=demotion.cause, share=round(demotion.share, 3), ratio=round(demotion.ratio, 2)
            )
        return shown


def _view_check(seen: SeenCheck | None, now_s: float) -> LastCheckView | None:
    if seen is None:
        return None
    check = seen.check
    return LastCheckView(
        at=moment(seen.seen_s, now_s),
        status=check.status,
        code=check.code or None,
        detail=check.detail,
        duration_ms=check.duration_ms if check.duration_ms >= 0 else None,
    )
