"""A fleet: its pools, started together; the orders it takes; the replicas another driver left.

`Fleet` owns the pools and is what the control API talks to. Where the Ray cluster is not its own, replicas outlive the
driver: `adopt` takes over those that live, so a driver that starts again disturbs no request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pointsman.contract.pools import PoolStatus
from pointsman.engine.vllm.errors import ClusterError, ReplicaDiedError, UnknownPoolError
from pointsman.engine.vllm.fleet.actor import RayActor, RayIncarnation
from pointsman.engine.vllm.fleet.cluster import Say
from pointsman.engine.vllm.fleet.config import FleetConfig, PoolConfig, decode_pool
from pointsman.engine.vllm.fleet.environment import PoolEnvironment
from pointsman.engine.vllm.fleet.pool import Pool
from pointsman.engine.vllm.fleet.spec import revision_of
from pointsman.engine.vllm.replica.replica import Found

ANSWER_S = 10.0
"""Seconds that an actor has to answer which replica it is; one that does not answer belongs to others, or hangs."""


class Fleet:
    """Owner of the pools. `run` returns once `stop` was called and all replicas are gone."""

    def __init__(
        self,
        config: FleetConfig,
        environment: PoolEnvironment,
        *,
        wanted: dict[str, PoolConfig] | None = None,
        check: Callable[[PoolConfig], None] = lambda pool: None,
        on_order: Callable[[dict[str, PoolConfig]], None] = lambda wanted: None,
        adopting: bool = False,
    ) -> None:
        """`check` raises VllmConfigError or ClusterError for a pool this cluster cannot have; `on_order` receives
        what is wanted after each order. With `adopting`, a refusal of vLLM does not end the fleet: others may depend on
        it.
        """
        self._config = config
        self._environment = environment
        self._check = check
        self._on_order = on_order
        wanted = wanted or {}
        self._pools = {
            pool.name: Pool(wanted.get(pool.name, pool), environment, must_start=not adopting) for pool in config.pools
        }
        self._stopping = False

    async def run(self) -> None:
        """Run the pools until they ended. Raises vLLM's refusal, where nothing had served before."""
        async with asyncio.TaskGroup() as running:
            for name, pool in self._pools.items():
                running.create_task(pool.run(), name=f"pool {name}")

    def stop(self) -> None:
        """Drain and end every replica; asked again, end them at once."""
        self._stopping = True
        for pool in self._pools.values():
            pool.stop()

    def leave_alone(self) -> None:
        """Let the replicas go on without this driver when `run` is cancelled."""
        for pool in self._pools.values():
            pool.leave_alone()

    def adopt(self, found: Sequence[tuple[RayActor, Found]]) -> int:
        """Take over the replicas another driver left; answers how many. Those of no pool, or not whole, end."""
        replicas: dict[tuple[str, int], list[tuple[RayActor, Found]]] = {}
        for actor, how in found:
            replicas.setdefault((how.place.pool, how.place.number), []).append((actor, how))
        adopted = 0
        for (name, number), ranks in sorted(replicas.items()):
            ranks.sort(key=lambda rank: rank[1].place.rank)
            pool = self._pools.get(name)
            revision = ranks[0][1].place.revision
            if pool is None or not self._is_whole(pool, ranks):
                RayIncarnation.of([actor for actor, _ in ranks]).kill()
                self._environment.say(f"{name}-{number} ended: {'not whole' if pool else 'of no pool'}")
                continue
            stopping = any(how.stopping for _, how in ranks)
            pool.adopt(number, revision, RayIncarnation.of([actor for actor, _ in ranks]), stopping=stopping)
            self._environment.say(f"{name}-{number} adopted")
            adopted += 1
        return adopted

    def _is_whole(self, pool: Pool, ranks: Sequence[tuple[RayActor, Found]]) -> bool:
        first = ranks[0][1].place
        if not all(how.begun and how.place.revision == first.revision for _, how in ranks):
            return False
        same = first.revision == revision_of(self._config, pool.config)
        return not same or len(ranks) == pool.config.data_parallel_size

    # Orders

    def statuses(self) -> list[PoolStatus]:
        return [pool.status() for pool in self._pools.values()]

    def scale(self, pool: str, replicas: int) -> PoolStatus:
        """Scale a pool.

        Raises UnknownPoolError, VllmConfigError beyond the pool's limits, ClusterError while the fleet stops.
        """
        known = self._known(pool)
        known.scale(replicas)
        self._ordered()
        return known.status()

    def put(self, pool: str, document: dict[str, Any]) -> PoolStatus:
        """Give a pool another configuration, as in the fleet's file; keys left out have their defaults, but the size.

        Raises UnknownPoolError, VllmConfigError for a wrong document, ClusterError while the fleet stops or when the
        cluster has no room for one replica.
        """
        known = self._known(pool)
        config = decode_pool({"name": pool, "replicas": known.config.replicas, **document}, f"pools.{pool}")
        self._check(config)
        known.put(config)
        self._ordered()
        return known.status()

    def _known(self, name: str) -> Pool:
        if self._stopping:
            raise ClusterError(f"fleet {self._config.name!r} is stopping")
        pool = self._pools.get(name)
        if pool is None:
            raise UnknownPoolError(f"pool {name!r} is not known (there are: {', '.join(self._pools)})")
        return pool

    def _ordered(self) -> None:
        self._on_order({name: pool.config for name, pool in self._pools.items()})


async def find_replicas(fleet: str, say: Say) -> list[tuple[RayActor, Found]]:
    """Living actors of this fleet on the connected cluster, in the namespace of this driver."""
    import ray

    async def ask(name: str) -> tuple[RayActor, Found] | None:
        try:
            actor = RayActor(name, ray.get_actor(name))
            async with asyncio.timeout(ANSWER_S):
                found = await actor.found()
        except (ValueError, ReplicaDiedError):
            return None  # It died meanwhile.
        except TimeoutError:
            say(f"{name} does not answer, and is left as it is")
            return None
        return (actor, found) if found.place.fleet == fleet else None

    names: list[str] = ray.util.list_named_actors()
    asked = await asyncio.gather(*(ask(name) for name in names))
    return [found for found in asked if found is not None]
