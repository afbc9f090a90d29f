"""Edges of a simulated world: at each site an HAProxy that goes on, and before it one router's life after the other.

`WorldEdge` is the service's own `Core` with its part in sharing, without the sockets. `Site` is what outlives it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from faulty_store import FaultyStore, StoreClient
from invariants import check
from residency import residents

from pointsman.policies.decision import Decision
from pointsman.policies.errors import PolicyError
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import SWEEP_INTERVAL_S, Core, CoreConfig
from pointsman.router.edges.build import join
from pointsman.router.edges.documents import SharedDocument
from pointsman.router.edges.records import EdgeInfo
from pointsman.router.edges.sharing import Sharing
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.fleet.saved import SavedReplica
from pointsman.router.process.readiness import Readiness

if TYPE_CHECKING:
    from world_engines import WorldEngine

FLUSH_S = 0.05
LOOK_S = 0.5
"""HAProxy's checks and the router's look at its sessions."""


class WorldEdge:
    """One life of a router."""

    def __init__(
        self,
        name: str,
        *,
        store: FaultyStore,
        policy: dict[str, Any],
        clock: Callable[[], float],
        rng: random.Random,
        max_pending: int,
        stream_bytes: int,
    ) -> None:
        self.name = name
        self.clock = clock
        self.under_way: set[str] = set()
        """Requests that came here and of whose end this edge was not told: of no others may anything be reserved."""
        self.core = Core(policy, rng=rng, config=CoreConfig(initial_health=Health.STARTING))
        self.load = self.core.load
        self.sessions = self.core.sessions
        self.kv = self.core.kv
        self.replicas = self.core.replicas
        self.pipeline = self.core.pipeline
        self.policy = self.core.policy
        self.protocol = join(
            self.core,
            name,
            documents={"policy": SharedDocument(lambda: self.policy.put_live, self._take_policy)},
        )
        assert self.kv.outbox is not None
        self.kv.outbox._max = max_pending
        self.client = StoreClient(store)
        self.readiness = Readiness()
        self.sharing = Sharing(
            self.protocol,
            self.client,
            info=EdgeInfo(edge=name),
            readiness=self.readiness,
            clock=clock,
            flush_s=FLUSH_S,
            stream_bytes=stream_bytes,
        )

    def __repr__(self) -> str:
        return f"WorldEdge({self.name})"

    def _take_policy(self, document: dict[str, Any], about: Mapping[str, str]) -> None:
        try:
            self.policy.put(document)
        except PolicyError as error:
            raise ValueError(str(error)) from error

    def sweep(self) -> None:
        now_s = self.clock()
        self.protocol.registrations.lease_ended(self.core.sweep(now_s, self.protocol.keeps).leases)
        self.sharing.sweep(now_s)

    # Fronts

    def register(self, engine: WorldEngine) -> None:
        self.replicas.put(engine.id, engine.registration, ("127.0.0.1", engine.port), self.clock())

    async def put_policy(self, document: dict[str, Any]) -> bool:
        """As the admin front does: claimed first, then live."""
        if not await self.sharing.claim("policy", document, {}):
            return False
        self.policy.put(document)
        return True

    def decide(self, features: RequestFeatures) -> Decision:
        return self.core.decide(features, self.clock())

    # What it knows

    def reserved(self) -> set[str]:
        """Requests that count as in flight here."""
        return {request.id for request in self.core.requests if self.core.requests.is_reserved(request.id)}

    def resident(self, replica_id: str) -> list[int]:
        """Confirmed prefix keys of a replica."""
        slot = self.replicas.slot_of(replica_id)
        return sorted(key for key, slots in residents(self.kv.index).items() if slot in slots)

    def validate(self) -> None:
        check(self.core)
        check(self.protocol)


class Site:
    """One place with an HAProxy, and a router most of the time."""

    def __init__(self, name: str, *, world: Any, rng: random.Random) -> None:
        self.name = name
        self.edge: WorldEdge | None = None
        self.stalled = False
        """Its router does nothing: stopped, or collecting garbage."""
        self.lives = 0
        self.sessions: Counter[str] = Counter()
        """HAProxy's, by server."""
        self.saved: list[SavedReplica] = []
        """The router's state file."""
        self._world = world
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []
        self.offset_s = rng.uniform(0, 1e6)
        """No two clocks agree."""

    def __repr__(self) -> str:
        return f"{self.name}{'' if self.edge else ' (dead)'}"

    def clock(self) -> float:
        return asyncio.get_running_loop().time() + self.offset_s

    def start(self, edge: WorldEdge, saved: Sequence[SavedReplica] = ()) -> None:
        self.lives += 1
        self.edge = edge
        for replica in saved:
            edge.replicas.restore(replica, self.clock())
        self._tasks = [
            asyncio.create_task(edge.sharing.run(), name=f"{edge.name} shares"),
            asyncio.create_task(self._sweep(edge), name=f"{edge.name} sweeps"),
            asyncio.create_task(self._look(edge), name=f"{edge.name} looks"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._world.task_done)

    async def stop(self, *, killed: bool) -> None:
        """Killed, or asked to stop: it says goodbye then."""
        edge, self.edge = self.edge, None
        assert edge is not None
        self.saved = edge.replicas.saved()
        self.stalled = False
        if killed:
            edge.client.killed = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _sweep(self, edge: WorldEdge) -> None:
        while True:
            if not self.stalled:
                edge.sweep()
                self._world.check(edge)
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def _look(self, edge: WorldEdge) -> None:
        while True:
            if not self.stalled:
                for replica in list(edge.replicas):
                    self.look_at(edge, replica)
            await asyncio.sleep(LOOK_S)

    def look_at(self, edge: WorldEdge, replica: Replica) -> None:
        up = self._world.serves(replica.id, replica.port)
        edge.replicas.set_health(replica.id, Health.UP if up else Health.DOWN, self.clock())
        edge.core.requests.observe(replica.slot, self.sessions[replica.id], self.clock())
