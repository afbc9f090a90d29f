"""A replica's actor as its keeper sees it: three calls and an end, with Ray's errors turned into ours."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from engine.vllm.config import Device, VllmConfig, replica_env, replica_spec
from engine.vllm.errors import ClusterError, ReplicaDiedError, VllmError
from engine.vllm.replica import Started, VllmReplica

CALLS_MAX = 64
"""Calls an actor takes at once; its keeper has two under way, the rest is for whoever reads signals."""


class Actor(Protocol):
    """One life of a replica. The calls raise ReplicaDiedError when the process is gone."""

    def start(self) -> Coroutine[Any, Any, Started]:
        """See `VllmReplica.start`."""

    def wait(self) -> Coroutine[Any, Any, None]:
        """See `VllmReplica.wait`."""

    def stop(self, drain_s: float) -> Coroutine[Any, Any, int]:
        """See `VllmReplica.stop`."""

    def kill(self) -> None:
        """End the process at once, whatever it does; harmless when it is gone."""


MakeActor = Callable[[], Actor]
"""Makes the actor of one more life; raises ClusterError when the cluster will not have it."""


class RayActor:
    """An actor on the connected Ray cluster, named after its replica."""

    def __init__(self, config: VllmConfig, number: int, device: Device, model_path: str) -> None:
        import ray

        self._replica = config.replica_id(number)
        options = {
            "name": self._replica,
            "max_concurrency": CALLS_MAX,
            "max_restarts": 0,
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus if device is Device.GPU else 0,
            "runtime_env": {"env_vars": replica_env(config, device, model_path)},
        }
        spec = replica_spec(config, number, device, model_path)
        try:
            self._actor = ray.remote(VllmReplica).options(**options).remote(spec)
        except ValueError as error:  # The name is taken.
            raise ClusterError(f"{self._replica}: {error}") from error

    async def start(self) -> Started:
        started: Started = await self._result(self._actor.start.remote())
        return started

    async def wait(self) -> None:
        await self._result(self._actor.wait.remote())

    async def stop(self, drain_s: float) -> int:
        left: int = await self._result(self._actor.stop.remote(drain_s))
        return left

    def kill(self) -> None:
        import ray

        ray.kill(self._actor)

    async def _result(self, reference: Any) -> Any:
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return await reference
        except RayTaskError as error:
            if isinstance(error.cause, VllmError):
                raise error.cause from None
            raise
        except RayActorError:
            raise ReplicaDiedError(f"{self._replica}: its process died") from None
