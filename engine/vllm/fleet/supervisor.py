"""The supervisor of one replica: starts an incarnation, waits for its end, and starts the next one after a pause.

A start that vLLM refuses is final while no replica of the same configuration has served, since every one would be
refused alike. Once one has, the configuration is proven, and a replica that fails is started again without end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any, TypeVar

from pointsman.contract.backoff import Backoff
from pointsman.engine.vllm.errors import ClusterError, EngineStartError, ReplicaDiedError
from pointsman.engine.vllm.fleet.actor import Incarnation
from pointsman.engine.vllm.fleet.environment import PoolEnvironment
from pointsman.engine.vllm.replica.replica import Started

PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 30.0
"""Pause before a dead replica is started again: doubles from the least to the most."""

LONG_RUN_S = 60.0
"""An incarnation that lasted longer resets the pause."""

START_TRIES = 3
"""Deaths of the process, rather than refusals of vLLM, after which a first start is given up."""

T = TypeVar("T")


class Condition(StrEnum):
    """The state of a supervised replica."""

    STARTING = "starting"
    READY = "ready"
    DEAD = "dead"
    """Between two incarnations."""
    DRAINING = "draining"
    STOPPED = "stopped"


class ConfigProven:
    """Whether a replica of one configuration ever served; the supervisors of its replicas share it."""

    def __init__(self) -> None:
        self.served = False


class ReplicaSupervisor:
    """The supervisor of one replica. `run` returns once `stop` was called and the replica is gone."""

    def __init__(
        self,
        replica: str,
        make_incarnation: Callable[[], Incarnation],
        proven: ConfigProven,
        environment: PoolEnvironment,
        *,
        on_change: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make_incarnation` makes one more incarnation, which does nothing before its `start`. `on_change` is called
        whenever the condition of the replica differs. `clock` is in seconds."""
        self._replica = replica
        self._make_incarnation = make_incarnation
        self._proven = proven
        self._environment = environment
        self._on_change = on_change
        self._sleep = sleep
        self._clock = clock
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._left_alone = False
        self.condition = Condition.STARTING
        self.started: tuple[Started, ...] = ()
        """The ranks of the present incarnation; empty while none of them serves."""
        self.deaths = 0
        """Number of the replica's deaths."""

    def stop(self) -> None:
        """Drain and end the replica; a second call ends it at once."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    def leave_alone(self) -> None:
        """Let the replica go on without a supervisor when `run` is cancelled."""
        self._left_alone = True

    async def run(self) -> None:
        """Supervise until stopped.

        Raises EngineStartError, ReplicaDiedError or ClusterError when the replica cannot be started at all.
        """
        backoff = Backoff(PAUSE_MIN_S, PAUSE_MAX_S)
        tries = 0
        while not self._stopping.is_set():
            tries += 1
            began_s = self._clock()
            try:
                await self._run_incarnation()
            except (EngineStartError, ReplicaDiedError, ClusterError) as error:
                if self._stopping.is_set():
                    break
                self.deaths += 1
                if not self._proven.served and (tries == START_TRIES or not isinstance(error, ReplicaDiedError)):
                    raise
                if self._clock() - began_s > LONG_RUN_S:
                    backoff.reset()
                pause_s = backoff.take()
                self._environment.say(f"{self._replica} died: {error}; starts again in {pause_s:g} s")
                self._set_condition(Condition.DEAD)
                await _until(self._stopping, self._sleep(pause_s))
        self._environment.say(f"{self._replica} stopped")
        self._set_condition(Condition.STOPPED)

    async def _run_incarnation(self) -> None:
        """Start one incarnation and let it serve; drain it when the supervisor stops."""
        self._set_condition(Condition.STARTING)
        self._environment.say(f"{self._replica} starting")
        incarnation = self._make_incarnation()
        try:
            started = await self._start(incarnation)
            if started is None:
                return
            self._proven.served = True
            for rank in started:
                self._environment.say(f"ready: {rank.url} replica={rank.replica} start_s={rank.start_s:.1f}")
            self.started = started
            self._set_condition(Condition.READY)
            await self._serve(incarnation)
        finally:
            self.started = ()
            if not self._left_alone:
                incarnation.kill()

    async def _start(self, incarnation: Incarnation) -> tuple[Started, ...] | None:
        """Return the answers of the ranks; None when the supervisor was stopped before."""
        limit_s = self._environment.start_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await _until(self._stopping, incarnation.start())
        except TimeoutError:
            raise ClusterError(f"{self._replica}: no token within {limit_s:g} s (vllm.start_timeout_s)") from None

    async def _serve(self, incarnation: Incarnation) -> None:
        environment = self._environment
        try:
            await _until(self._stopping, incarnation.wait())
        except ReplicaDiedError:
            ids = [rank.replica for rank in self.started]
            self.started = ()
            self._set_condition(Condition.DEAD)
            await asyncio.gather(incarnation.withdraw_survivors(), environment.deregister(ids))
            raise
        if not self._stopping.is_set():
            return  # Ended by a driver before this one: it starts again at once.
        self._set_condition(Condition.DRAINING)
        environment.say(f"{self._replica} draining")
        left = await _until(self._hurrying, incarnation.drain(environment.drain_s))
        if left:
            environment.say(f"{self._replica} cut {left} requests that were not done in {environment.drain_s:g} s")
        await _until(self._hurrying, incarnation.end())

    def _set_condition(self, condition: Condition) -> None:
        self.condition = condition
        self._on_change()


async def _until(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when the event came first; the work is then cancelled."""
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        waiting.cancel()
