"""One incarnation of a replica, from start to end: the actors of its ranks and the resources they reserve.

Most incarnations have one actor. A data-parallel group has one for each rank, each with its own server; the group is
placed, started, drained and ended whole, and when one rank dies the others stop serving at once: their engines wait for
it in the next collective operation. Ray's errors are turned into this package's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from pointsman.engine.vllm.errors import ClusterError, ReplicaDiedError, VllmError
from pointsman.engine.vllm.fleet.config import Placement
from pointsman.engine.vllm.fleet.spec import Bundle, Rank, group_argv
from pointsman.engine.vllm.replica.replica import Found, Started, VllmReplica

CALLS_MAX = 64
"""Calls an actor takes at once; its supervisor has two under way, and a driver that finds it asks once more."""

WITHDRAW_S = 1.5
"""Seconds that the remaining ranks of a group have to withdraw from the routers and close."""

NAME_TRIES = 50
NAME_PAUSE_S = 0.1
"""A name is free a moment after its actor was killed: how often, and how far apart, one is asked for."""

T = TypeVar("T")


class Incarnation(Protocol):
    """One incarnation of a replica. The calls raise ReplicaDiedError when a process is gone."""

    def start(self) -> Coroutine[Any, Any, tuple[Started, ...]]:
        """See `VllmReplica.start`; one answer a rank. Raises ClusterError when the cluster will not have it."""

    def wait(self) -> Coroutine[Any, Any, None]:
        """See `VllmReplica.wait`, for the first rank that ends."""

    def drain(self, drain_s: float) -> Coroutine[Any, Any, int]:
        """See `VllmReplica.drain`."""

    def end(self) -> Coroutine[Any, Any, None]:
        """See `VllmReplica.end`."""

    def withdraw_survivors(self) -> Coroutine[Any, Any, None]:
        """Take the ranks that outlive a dead one out of routing."""

    def kill(self) -> None:
        """End every process at once, whatever it does, and free what was reserved; harmless when all is gone."""


class RayActor:
    """The actor of one rank, named after it, on the connected Ray cluster."""

    def __init__(self, id: str, handle: Any) -> None:
        self.id = id
        self._handle = handle

    async def found(self) -> Found:
        found: Found = await self._result(self._handle.found.remote())
        return found

    async def reserve(self) -> tuple[str, int]:
        reserved: tuple[str, int] = await self._result(self._handle.reserve.remote())
        return reserved

    async def start(self, more: tuple[str, ...] = ()) -> Started:
        started: Started = await self._result(self._handle.start.remote(more))
        return started

    async def wait(self) -> None:
        await self._result(self._handle.wait.remote())

    async def drain(self, drain_s: float) -> int:
        left: int = await self._result(self._handle.drain.remote(drain_s))
        return left

    async def end(self) -> None:
        await self._result(self._handle.end.remote())

    async def leave(self) -> None:
        await self._result(self._handle.leave.remote())

    def kill(self) -> None:
        import ray

        ray.kill(self._handle)

    async def _result(self, reference: Any) -> Any:
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return await reference
        except RayTaskError as error:
            if isinstance(error.cause, VllmError):
                raise error.cause from None
            raise
        except RayActorError:
            raise ReplicaDiedError(f"{self.id}: its process died") from None


class RayIncarnation:
    """One incarnation on the connected Ray cluster. Made from ranks, or from actors that another driver left."""

    def __init__(self, ranks: Sequence[Rank], placement: Placement, *, detached: bool) -> None:
        self._ranks = ranks
        self._placement = placement
        self._detached = detached
        self._actors: list[RayActor] = []
        self._group: Any = None

    @classmethod
    def of(cls, actors: Sequence[RayActor]) -> RayIncarnation:
        """An incarnation that another driver began, by its actors in the order of their ranks."""
        incarnation = cls((), Placement.PACK, detached=True)
        incarnation._actors = list(actors)
        incarnation._group = _placement_group(_group_name(actors[0].id))
        return incarnation

    async def start(self) -> tuple[Started, ...]:
        more: list[tuple[str, ...]] = [()] * len(self._actors or self._ranks)
        if not self._actors:
            await self._place()
            for number, rank in enumerate(self._ranks):
                self._actors.append(await self._make(number, rank))
            if len(self._actors) > 1:
                address, port = await self._actors[0].reserve()
                more = [group_argv(rank, len(more), address, port) for rank in range(len(more))]
        return tuple(await asyncio.gather(*(a.start(m) for a, m in zip(self._actors, more, strict=True))))

    async def wait(self) -> None:
        waiting = [asyncio.create_task(actor.wait()) for actor in self._actors]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in waiting:
                task.cancel()

    async def drain(self, drain_s: float) -> int:
        return sum(await asyncio.gather(*(actor.drain(drain_s) for actor in self._actors)))

    async def end(self) -> None:
        await asyncio.gather(*(actor.end() for actor in self._actors))

    async def withdraw_survivors(self) -> None:
        async def leave(actor: RayActor) -> None:
            with contextlib.suppress(ReplicaDiedError, TimeoutError):
                async with asyncio.timeout(WITHDRAW_S):
                    await actor.leave()

        await asyncio.gather(*(leave(actor) for actor in self._actors))

    def kill(self) -> None:
        for actor in self._actors:
            actor.kill()
        if self._group is not None:
            from ray.util import remove_placement_group

            remove_placement_group(self._group)

    async def _place(self) -> None:
        """Reserve for all ranks and workers together: half a group would hold what another half waits for."""
        bundles = [_positive(bundle) for rank in self._ranks for bundle in rank.bundles]
        if len(bundles) == 1:
            return
        from ray.util import placement_group

        self._group = await _named(
            lambda: placement_group(
                bundles,
                strategy=str(self._placement),
                name=_group_name(self._ranks[0].spec.id),
                lifetime="detached" if self._detached else None,
            )
        )
        await self._group.ready()

    async def _make(self, number: int, rank: Rank) -> RayActor:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        own = dict(rank.bundles[0])
        options: dict[str, Any] = {
            "name": rank.spec.id,
            "lifetime": "detached" if self._detached else None,
            "max_concurrency": CALLS_MAX,
            "max_restarts": 0,
            "num_cpus": own.pop("CPU", 0),
            "num_gpus": own.pop("GPU", 0),
            "resources": own,
            "runtime_env": {"env_vars": rank.env},
        }
        if self._group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=number * len(rank.bundles)
            )
        remote = ray.remote(VllmReplica).options(**options)
        return RayActor(rank.spec.id, await _named(lambda: remote.remote(rank.spec, rank.place)))


async def _named(make: Callable[[], T]) -> T:
    """Return what `make` makes under a name, once the name is free. Raises ClusterError when it stays taken."""
    for left in reversed(range(NAME_TRIES)):
        try:
            return make()
        except ValueError as error:  # The name is taken.
            if not left:
                raise ClusterError(str(error)) from error
            await asyncio.sleep(NAME_PAUSE_S)
    raise AssertionError


def _positive(bundle: Bundle) -> Bundle:
    """A bundle as Ray takes it: none of its amounts is 0, and there is one."""
    return {key: amount for key, amount in bundle.items() if amount} or {"CPU": 0.001}


def _group_name(first_actor: str) -> str:
    return f"{first_actor}:bundles"


def _placement_group(name: str) -> Any:
    from ray.util import get_placement_group

    try:
        return get_placement_group(name)
    except ValueError:
        return None
