"""Keeps one replica alive: makes its actor, waits for the actor's life to end, makes the next after a pause.

A start that vLLM itself refuses is final while no replica of the fleet has served, since every one would be refused
alike. Once one has, the configuration is proved, and a replica that fails is tried again for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from engine.vllm import cluster
from engine.vllm.cluster import Say
from engine.vllm.config import Device, VllmConfig, replica_env, replica_spec
from engine.vllm.errors import ClusterError, EngineStartError, ReplicaDiedError, VllmError
from engine.vllm.replica import Started, VllmReplica

BACKOFF_MIN_S = 1.0
BACKOFF_MAX_S = 30.0
"""Pause before a dead replica is started again: doubles from the least to the most, and resets after a long life."""

LONG_LIFE_S = 60.0

START_TRIES = 3
"""How often a first start may end by the death of its process, rather than by vLLM's refusal, before it is final."""

CALLS_MAX = 64
"""Calls an actor takes at once; its keeper has two under way, the rest is for whoever reads signals."""

T = TypeVar("T")


class Stop:
    """What the keepers of a fleet share: whether to stop, whether to hurry, whether a replica ever served."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()
        self.served = False


class Keeper:
    """Keeper of one replica. `run` returns once the fleet stops and the replica is gone."""

    def __init__(self, config: VllmConfig, number: int, device: Device, model_path: str, fleet: Stop, say: Say) -> None:
        self.replica = config.replica_id(number)
        self._config = config
        self._spec = replica_spec(config, number, device, model_path)
        self._env = replica_env(config, device, model_path)
        self._gpus = config.num_gpus if device is Device.GPU else 0
        self._fleet = fleet
        self._say = say

    async def run(self) -> None:
        """Raises EngineStartError, ReplicaDiedError or ClusterError when the replica cannot be started at all."""
        pause_s = BACKOFF_MIN_S
        tries = 0
        while not self._fleet.asked.is_set():
            tries += 1
            began_s = time.monotonic()
            try:
                await self._live()
            except (EngineStartError, ReplicaDiedError, ClusterError) as error:
                if self._fleet.asked.is_set():
                    break
                if not self._fleet.served and (tries == START_TRIES or not isinstance(error, ReplicaDiedError)):
                    raise
                if time.monotonic() - began_s > LONG_LIFE_S:
                    pause_s = BACKOFF_MIN_S
                self._say(f"{self.replica} died: {error}; starts again in {pause_s:g} s")
                await self._until(self._fleet.asked, asyncio.sleep(pause_s))
                pause_s = min(2 * pause_s, BACKOFF_MAX_S)
        self._say(f"{self.replica} stopped")

    async def _live(self) -> None:
        """One life of the replica: start, serve, and when the fleet stops, drain."""
        import ray

        self._say(f"{self.replica} starting")
        actor = self._create()
        try:
            started = await self._start(actor)
            if started is None:
                return
            self._fleet.served = True
            self._say(f"ready: {started.url} replica={self.replica} start_s={started.start_s:.1f}")
            await self._until(self._fleet.asked, _call(self.replica, actor.wait.remote()))
            self._say(f"{self.replica} draining")
            left = await self._until(self._fleet.hurry, _call(self.replica, actor.stop.remote(self._config.drain_s)))
            if left:
                self._say(f"{self.replica} cut {left} requests that were not done in {self._config.drain_s:g} s")
        finally:
            ray.kill(actor)

    def _create(self) -> Any:
        import ray

        options = {
            "name": self.replica,
            "max_concurrency": CALLS_MAX,
            "max_restarts": 0,
            "num_cpus": self._config.num_cpus,
            "num_gpus": self._gpus,
            "runtime_env": {"env_vars": self._env},
        }
        try:
            return ray.remote(VllmReplica).options(**options).remote(self._spec)
        except ValueError as error:  # Ray: the name is taken.
            raise ClusterError(f"{self.replica}: {error}") from error

    async def _start(self, actor: Any) -> Started | None:
        """What the replica says of itself after its first token; None when the fleet stops first."""
        try:
            async with asyncio.timeout(self._config.start_timeout_s):
                return await self._until(self._fleet.asked, _call(self.replica, actor.start.remote()))
        except TimeoutError:
            raise ClusterError(
                f"{self.replica}: no token within {self._config.start_timeout_s:g} s (vllm.start_timeout_s); "
                f"the Ray cluster has free: {cluster.free_resources()}"
            ) from None

    @staticmethod
    async def _until(event: asyncio.Event, work: Awaitable[T]) -> T | None:
        """The result of `work`, or None when the event came first; the work is then let go."""
        working = asyncio.ensure_future(work)
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()
            waiting.cancel()


async def _call(replica: str, reference: Any) -> Any:
    """Result of a call to an actor; Ray's wrapping of our errors taken off, the death of the process made ours."""
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return await reference
    except RayTaskError as error:
        if isinstance(error.cause, VllmError):
            raise error.cause from None
        raise
    except RayActorError:
        raise ReplicaDiedError(f"{replica}: its process died") from None
