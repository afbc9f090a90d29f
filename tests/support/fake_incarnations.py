"""Incarnations of replicas without Ray or vLLM, for supervisors and pools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from pointsman.engine.vllm.errors import VllmError
from pointsman.engine.vllm.fleet.config import PoolConfig
from pointsman.engine.vllm.fleet.environment import PoolEnvironment
from pointsman.engine.vllm.replica.replica import Started


class FakeIncarnation:
    """Serves as soon as it is let, until it is drained or `die` is called."""

    def __init__(self, id: str, *, refuse: VllmError | None = None) -> None:
        self.id = id
        self.config: PoolConfig | None = None
        self._refuse = refuse
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.drained = self.survivors_withdrawn = self.killed = False

    def die(self, error: VllmError) -> None:
        self._end.set_exception(error)

    async def start(self) -> tuple[Started, ...]:
        await self.may_start.wait()
        if self._refuse is not None:
            raise self._refuse
        return (Started(self.id, f"http://127.0.0.1:1/{self.id}", (1,), 0.1),)

    async def wait(self) -> None:
        await asyncio.shield(self._end)

    async def drain(self, drain_s: float) -> int:
        self.drained = True
        return 0

    async def end(self) -> None:
        pass

    async def withdraw_survivors(self) -> None:
        self.survivors_withdrawn = True

    def kill(self) -> None:
        self.killed = True
        if not self._end.done():
            self._end.cancel()


class FakeCluster:
    """Where fake incarnations come from: `incarnations` in order of their making, `said` what the pools told."""

    def __init__(self, prepare: Callable[[FakeIncarnation], None] = lambda incarnation: None) -> None:
        self.incarnations: list[FakeIncarnation] = []
        self.said: list[str] = []
        self.refuse: dict[str, VllmError] = {}
        """What is refused, by model."""
        self.unrouted: set[str] = set()
        self.deregistered: list[str] = []
        """Replicas routers were told the death of."""
        self._prepare = prepare
        self._event = asyncio.Event()
        self.environment = PoolEnvironment(
            incarnation=self._incarnation,
            revision=lambda pool: pool.model,
            wait_routed=self._routed,
            drain_s=1.0,
            start_timeout_s=60.0,
            say=self.said.append,
            on_change=self._note,
            deregister=self._deregister,
        )

    def running(self) -> list[str]:
        """Id and model of each incarnation that is not over, by id."""
        return sorted(f"{one.id} {one.config.model}" for one in self.incarnations if one.config and not one.killed)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until something changed so that it holds."""
        async with asyncio.timeout(5):
            while not holds():
                self._event.clear()
                await self._event.wait()

    async def _deregister(self, replicas: Iterable[str]) -> None:
        self.deregistered += replicas

    def _note(self) -> None:
        self._event.set()

    def _incarnation(self, config: PoolConfig, number: int) -> FakeIncarnation:
        incarnation = FakeIncarnation(f"{config.name}-{number}", refuse=self.refuse.get(config.model))
        incarnation.config = config
        self._prepare(incarnation)
        self.incarnations.append(incarnation)
        return incarnation

    async def _routed(self, replicas: Iterable[str]) -> None:
        while self.unrouted & set(replicas):
            await asyncio.sleep(0.001)
