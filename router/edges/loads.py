"""Work that this edge itself has in flight, as published: found by comparing columns, not noted on the way.

A request changes its replica's counts twice, and a batch says only where they stand. So all columns are compared once a
batch, in a few microseconds, and requests pay nothing.
"""

from __future__ import annotations

import numpy as np

from pointsman.policies.candidates import Column
from pointsman.router.edges.records import Load, Names
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.columns import KVColumns


class OwnLoads:
    """Counts of this edge's own work by slot: as they are, and as they were published last."""

    def __init__(self, *, replicas: ReplicaRegistry, load: LoadTable, columns: KVColumns) -> None:
        self._replicas = replicas
        self._load = load
        self._columns = columns
        self._published: Column = np.zeros((3, 0), dtype=np.int64)

    def _now(self) -> Column:
        load, columns = self._load, self._columns
        now = np.zeros((3, len(load.reserved)), dtype=np.int64)
        np.add(load.reserved, load.foreign, out=now[0])
        np.subtract(load.in_flight_tokens, load.elsewhere_tokens, out=now[1])
        waiting = columns.signals.waiting - columns.waiting_elsewhere
        now[2, : len(waiting)] = waiting
        return now

    def changed(self) -> bool:
        """Whether any count differs from the published one."""
        now = self._now()
        return now.shape != self._published.shape or not np.array_equal(now, self._published)

    def take(self, names: Names, *, complete: bool) -> list[Load]:
        """Load records to publish: of all slots not zero (`complete`), or of those changed since the last call."""
        now, published = self._now(), self._published
        if now.shape != published.shape:
            published = np.zeros_like(now)
            published[:, : self._published.shape[1]] = self._published
        differs = now.any(axis=0) if complete else (now != published).any(axis=0)
        self._published = now
        ids = self._replicas.ids
        loads = []
        for slot in np.flatnonzero(differs).tolist():
            if slot < len(ids) and ids[slot]:
                requests, tokens, waiting = now[:, slot].tolist()
                loads.append(Load(names.at(ids[slot]), requests, tokens, waiting))
        return loads

    def clear_slot(self, slot: int) -> None:
        """Forget a slot that another replica may take; what was published of it ends with the next heartbeat."""
        if slot < self._published.shape[1]:
            self._published[:, slot] = 0
