"""What this edge itself has in flight, as the others are told it: found by comparing columns, not noted on the way.

A request changes its replica's counts twice, and a batch tells only where they stand; so a look at all columns, a few
microseconds whatever happened, costs requests nothing.
"""

from __future__ import annotations

import numpy as np

from pointsman.policies.candidates import Column
from pointsman.router.edges.records import Load, Names
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.columns import KVColumns


class OwnLoads:
    """Counts by slot: as they are, and as they were told."""

    def __init__(self, *, replicas: ReplicaRegistry, load: LoadTable, columns: KVColumns) -> None:
        self._replicas = replicas
        self._load = load
        self._columns = columns
        self._told: Column = np.zeros((3, 0), dtype=np.int64)

    def _now(self) -> Column:
        load, columns = self._load, self._columns
        now = np.zeros((3, len(load.reserved)), dtype=np.int64)
        np.add(load.reserved, load.foreign, out=now[0])
        np.subtract(load.in_flight_tokens, load.elsewhere_tokens, out=now[1])
        waiting = columns.signals.waiting - columns.waiting_elsewhere
        now[2, : len(waiting)] = waiting
        return now

    def changed(self) -> bool:
        """Whether anything is otherwise than it was told."""
        now = self._now()
        return now.shape != self._told.shape or not np.array_equal(now, self._told)

    def take(self, names: Names, *, complete: bool) -> list[Load]:
        """All that is not zero, or what changed; it is told then."""
        now, told = self._now(), self._told
        if now.shape != told.shape:
            told = np.zeros_like(now)
            told[:, : self._told.shape[1]] = self._told
        differs = now.any(axis=0) if complete else (now != told).any(axis=0)
        self._told = now
        ids = self._replicas.ids
        loads = []
        for slot in np.flatnonzero(differs).tolist():
            if slot < len(ids) and ids[slot]:
                requests, tokens, waiting = now[:, slot].tolist()
                loads.append(Load(names.at(ids[slot]), requests, tokens, waiting))
        return loads

    def clear_slot(self, slot: int) -> None:
        """Another replica may take the number; what was told of the one before ends with the next heartbeat."""
        if slot < self._told.shape[1]:
            self._told[:, slot] = 0
