"""Keeps one replica alive: gives it a life, waits for that life's end, gives it the next after a pause.

A start that vLLM itself refuses is final while no replica of the same configuration has served, since every one would
be refused alike. Once one has, the configuration is proved, and a replica that fails is tried again for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from enum import StrEnum
from typing import Any, TypeVar

from pointsman.engine.vllm.errors import ClusterError, EngineStartError, ReplicaDiedError
from pointsman.engine.vllm.fleet.actor import Life, MakeLife
from pointsman.engine.vllm.fleet.cluster import Say
from pointsman.engine.vllm.replica.replica import Started

PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 30.0
"""Pause before a dead replica is started again: doubles from the least to the most, and resets after a long life."""

LONG_LIFE_S = 60.0

START_TRIES = 3
"""How often a first start may end by the death of its process, rather than by vLLM's refusal, before it is final."""

T = TypeVar("T")


class Condition(StrEnum):
    """How a kept replica stands."""

    STARTING = "starting"
    READY = "ready"
    DEAD = "dead"
    """Between two lives."""
    DRAINING = "draining"
    STOPPED = "stopped"


class Proof:
    """Whether a replica of one configuration ever served; its keepers share it."""

    def __init__(self) -> None:
        self.served = False


class Keeper:
    """Keeper of one replica. `run` returns once it was told to stop and the replica is gone."""

    def __init__(
        self,
        replica: str,
        make_life: MakeLife,
        proof: Proof,
        say: Say,
        *,
        drain_s: float,
        start_timeout_s: float,
        on_change: Callable[[], None] = lambda: None,
        forget: Callable[[Iterable[str]], Coroutine[Any, Any, None]] | None = None,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`forget` is called with the ids of a life that ended unasked: routers are told, whoever of it cannot."""
        self._replica = replica
        self._make_life = make_life
        self._proof = proof
        self._say = say
        self._drain_s = drain_s
        self._start_timeout_s = start_timeout_s
        self._on_change = on_change
        self._forget = forget
        self._sleep = sleep
        self._clock = clock
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._left_alone = False
        self.condition = Condition.STARTING
        self.started: tuple[Started, ...] = ()
        """Of its present life, a rank each; empty while it has none that serves."""
        self.deaths = 0

    def stop(self) -> None:
        """Drain and end the replica; asked again, end it at once."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    def leave_alone(self) -> None:
        """When `run` is cancelled, the replica goes on without a keeper."""
        self._left_alone = True

    async def run(self) -> None:
        """Raises EngineStartError, ReplicaDiedError or ClusterError when the replica cannot be started at all."""
        pause_s = PAUSE_MIN_S
        tries = 0
        while not self._stopping.is_set():
            tries += 1
            began_s = self._clock()
            try:
                await self._live()
            except (EngineStartError, ReplicaDiedError, ClusterError) as error:
                if self._stopping.is_set():
                    break
                self.deaths += 1
                if not self._proof.served and (tries == START_TRIES or not isinstance(error, ReplicaDiedError)):
                    raise
                if self._clock() - began_s > LONG_LIFE_S:
                    pause_s = PAUSE_MIN_S
                self._say(f"{self._replica} died: {error}; starts again in {pause_s:g} s")
                self._turn(Condition.DEAD)
                await _until(self._stopping, self._sleep(pause_s))
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
        self._say(f"{self._replica} stopped")
        self._turn(Condition.STOPPED)

    async def _live(self) -> None:
        """One life of the replica: start, serve, and when told to stop, drain."""
        self._turn(Condition.STARTING)
        self._say(f"{self._replica} starting")
        life = self._make_life()
        try:
            started = await self._start(life)
            if started is None:
                return
            self._proof.served = True
            for rank in started:
                self._say(f"ready: {rank.url} replica={rank.replica} start_s={rank.start_s:.1f}")
            self.started = started
            self._turn(Condition.READY)
            await self._serve(life)
        finally:
            self.started = ()
            if not self._left_alone:
                life.kill()

    async def _start(self, life: Life) -> tuple[Started, ...] | None:
        """What its ranks answered; None when told to stop before."""
        try:
            async with asyncio.timeout(self._start_timeout_s):
                return await _until(self._stopping, life.start())
        except TimeoutError:
            raise ClusterError(
                f"{self._replica}: no token within {self._start_timeout_s:g} s (vllm.start_timeout_s)"
            ) from None

    async def _serve(self, life: Life) -> None:
        try:
            await _until(self._stopping, life.wait())
        except ReplicaDiedError:
            ids = [rank.replica for rank in self.started]
            self.started = ()
            self._turn(Condition.DEAD)
            await asyncio.gather(life.bury(), *([self._forget(ids)] if self._forget is not None else []))
            raise
        if not self._stopping.is_set():
            return  # Ended by a driver before this one: it starts again at once.
        self._turn(Condition.DRAINING)
        self._say(f"{self._replica} draining")
        left = await _until(self._hurrying, life.drain(self._drain_s))
        if left:
            self._say(f"{self._replica} cut {left} requests that were not done in {self._drain_s:g} s")
        await _until(self._hurrying, life.end())

    def _turn(self, condition: Condition) -> None:
        self.condition = condition
        self._on_change()


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
