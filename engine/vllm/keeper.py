"""Keeps one replica alive: makes its actor, waits for the actor's life to end, makes the next after a pause.

A start that vLLM itself refuses is final while no replica of the fleet has served, since every one would be refused
alike. Once one has, the configuration is proved, and a replica that fails is tried again for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from engine.vllm.actor import MakeActor
from engine.vllm.cluster import Say
from engine.vllm.errors import ClusterError, EngineStartError, ReplicaDiedError

PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 30.0
"""Pause before a dead replica is started again: doubles from the least to the most, and resets after a long life."""

LONG_LIFE_S = 60.0

START_TRIES = 3
"""How often a first start may end by the death of its process, rather than by vLLM's refusal, before it is final."""

T = TypeVar("T")


class FleetState:
    """What the keepers of a fleet share: whether to stop, whether to hurry, whether a replica ever served."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.hurrying = asyncio.Event()
        self.served = False

    def stop(self) -> None:
        """Drain and end every replica; asked again, end them at once."""
        if self.stopping.is_set():
            self.hurrying.set()
        self.stopping.set()


class Keeper:
    """Keeper of one replica. `run` returns once the fleet stops and the replica is gone."""

    def __init__(
        self,
        replica: str,
        make_actor: MakeActor,
        fleet: FleetState,
        say: Say,
        *,
        drain_s: float,
        start_timeout_s: float,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replica = replica
        self._make_actor = make_actor
        self._fleet = fleet
        self._say = say
        self._drain_s = drain_s
        self._start_timeout_s = start_timeout_s
        self._sleep = sleep
        self._clock = clock

    async def run(self) -> None:
        """Raises EngineStartError, ReplicaDiedError or ClusterError when the replica cannot be started at all."""
        pause_s = PAUSE_MIN_S
        tries = 0
        while not self._fleet.stopping.is_set():
            tries += 1
            began_s = self._clock()
            try:
                await self._live()
            except (EngineStartError, ReplicaDiedError, ClusterError) as error:
                if self._fleet.stopping.is_set():
                    break
                if not self._fleet.served and (tries == START_TRIES or not isinstance(error, ReplicaDiedError)):
                    raise
                if self._clock() - began_s > LONG_LIFE_S:
                    pause_s = PAUSE_MIN_S
                self._say(f"{self._replica} died: {error}; starts again in {pause_s:g} s")
                await _until(self._fleet.stopping, self._sleep(pause_s))
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
        self._say(f"{self._replica} stopped")

    async def _live(self) -> None:
        """One life of the replica: start, serve, and when the fleet stops, drain."""
        self._say(f"{self._replica} starting")
        actor = self._make_actor()
        try:
            try:
                async with asyncio.timeout(self._start_timeout_s):
                    started = await _until(self._fleet.stopping, actor.start())
            except TimeoutError:
                raise ClusterError(
                    f"{self._replica}: no token within {self._start_timeout_s:g} s (vllm.start_timeout_s)"
                ) from None
            if started is None:
                return
            self._fleet.served = True
            self._say(f"ready: {started.url} replica={self._replica} start_s={started.start_s:.1f}")
            await _until(self._fleet.stopping, actor.wait())
            self._say(f"{self._replica} draining")
            left = await _until(self._fleet.hurrying, actor.stop(self._drain_s))
            if left:
                self._say(f"{self._replica} cut {left} requests that were not done in {self._drain_s:g} s")
        finally:
            actor.kill()


async def _until(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when the event came first; the work is then let go."""
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        waiting.cancel()
