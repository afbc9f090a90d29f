"""What is done with one message of an engine, whichever way it came: over HTTP or over a connection that stays open."""

from __future__ import annotations

from pointsman.contract.events import EngineEvents, EventsAnswer
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.edges.sharing import Sharing
from pointsman.router.edges.url import is_loopback
from pointsman.router.fleet.adapters import AdapterTable
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.state import KVState
from pointsman.router.outliers.table import OutlierTable
from pointsman.router.process.clock import Clock

EVENTS_INTERVAL_MS = 20
"""How long engines gather what changes while the policy goes by it."""

MAX_EVENTS_PER_S = 1000
"""Messages of all engines together, at most half a core: in a larger fleet each gathers for longer."""

IDLE_EVENTS_INTERVAL_MS = 1000
"""The same while no policy reads it: often enough to be in step when one does."""


class EngineFeed:
    """Takes messages. Plain and synchronous."""

    def __init__(
        self,
        *,
        replicas: ReplicaRegistry,
        kv: KVState,
        adapters: AdapterTable,
        outliers: OutlierTable,
        pipeline: Pipeline,
        clock: Clock,
        sharing: Sharing | None = None,
    ) -> None:
        """`sharing` knows the other edges; None on an edge that is alone."""
        self._replicas = replicas
        self._kv = kv
        self._adapters = adapters
        self._outliers = outliers
        self._pipeline = pipeline
        self._clock = clock
        self._sharing = sharing
        self.port = 0
        """Where connections stay open; 0 until somebody listens."""

    def take(self, replica_id: str, events: EngineEvents) -> EventsAnswer | None:
        """Applies a message and renews the replica's lease; None when no such replica is registered."""
        replica = self._replicas.get(replica_id)
        if replica is None:
            return None
        now_s = self._clock()
        resync = self._kv.apply(replica.slot, events, now_s)
        self._outliers.report(replica.slot, events, now_s)
        if events.adapters is not None:
            self._adapters.told(replica.slot, events.adapters, events.adapter_slots, now_s)
        interval_ms = EVENTS_INTERVAL_MS if self._pipeline.goes_by_kv else IDLE_EVENTS_INTERVAL_MS
        interval_ms = max(interval_ms, 1000 * len(self._replicas) // MAX_EVENTS_PER_S)
        renewed = self._replicas.renew(replica, events.born_ms, now_s)
        edge, edges = "", {}
        if self._sharing is not None:
            edge = self._sharing.info.edge
            edges = self._sharing.other_edges(here=is_loopback(f"//{replica.address}"))
        return EventsAnswer(
            resync=resync, interval_ms=interval_ms, feed_port=self.port, renewed=renewed, edge=edge, edges=edges
        )
