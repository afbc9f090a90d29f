"""Replicas of a simulated world: a prefix cache that fills, evicts and dies, reported by the real `Publisher`.

A replica registers at some edges, and reports to all: that it learns of the others is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pointsman.contract.events import EngineEvents, EngineLoad, EventsAnswer, Finished, FirstToken
from pointsman.contract.registration import Registration
from pointsman.engine.publisher import EngineFacts, EngineReadings, Publisher
from pointsman.engine.transport import TransportError

if TYPE_CHECKING:
    from world_edges import Site

HEARTBEAT_S = 2.0
TTL_S = 6.0
INTERVAL_MS = 100
"""How often an engine is asked to tell."""

TOKENS_PER_KEY = 128


class Way:
    """From one engine to one site's router: an `pointsman.engine.transport.Transport`."""

    def __init__(self, engine: WorldEngine, site: Site, rng: random.Random) -> None:
        self._engine = engine
        self._site = site
        self._rng = rng
        self.loss = 0.0

    def __str__(self) -> str:
        return f"{self._engine.id} to {self._site.name}"

    async def send(self, message: EngineEvents) -> EventsAnswer:
        await asyncio.sleep(0.01 * self._rng.random())
        edge = self._site.edge
        if edge is None or self._site.stalled or (self.loss and self._rng.random() < self.loss):
            raise TransportError("away", expected=True)
        answer = edge.core.engine_events(self._engine.id, message, edge.clock())
        if answer is None:
            raise TransportError("not registered", expected=True)
        if self.loss and self._rng.random() < self.loss:
            raise TransportError("no answer", expected=True)
        return EventsAnswer(resync=answer.resync, interval_ms=INTERVAL_MS)

    def on_hang_up(self, call: Callable[[], None]) -> None:
        """An edge that dies is not seen to: the engine's heartbeat finds the next one."""

    async def close(self) -> None:
        pass


class WorldEngine:
    """One replica: where it serves, what it has cached, at which sites it registers."""

    def __init__(
        self, engine_id: str, *, port: int, capacity_keys: int, leased: bool, reports: bool, rng: random.Random
    ) -> None:
        self.id = engine_id
        self.port = port
        self.leased = leased
        """It registers itself, again and again; else a person did, for good."""
        self.reports = reports
        """It reports what it has cached."""
        self.alive = False
        self.life = 0
        self.cache: dict[int, None] = {}
        """Least recently used first."""
        self._capacity = capacity_keys
        self._rng = rng
        self._publisher: Publisher | None = None
        self.born_ms = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.ways: list[Way] = []
        self.running = 0

    def __repr__(self) -> str:
        return f"{self.id}, life {self.life}{'' if self.alive else ', dead'}"

    @property
    def epoch(self) -> str:
        return f"{self.id} life {self.life}"

    @property
    def registration(self) -> Registration:
        return Registration(url=f"http://127.0.0.1:{self.port}", ttl_s=TTL_S if self.leased else None)

    def start(self, sites: Sequence[Site], all_sites: Sequence[Site]) -> None:
        """Begins another life, with an empty cache, that registers at `sites` and reports to `all_sites`."""
        self.life += 1
        self.alive = True
        self.cache.clear()
        self.born_ms = 1 + int(asyncio.get_running_loop().time() * 1000)
        if self.reports:
            self.ways = [Way(self, site, self._rng) for site in all_sites]
            self._publisher = Publisher(
                self.ways,
                EngineFacts(epoch=self.epoch, born_ms=self.born_ms, capacity_tokens=self._capacity * TOKENS_PER_KEY),
                EngineReadings(resident=lambda: list(self.cache), load=lambda: EngineLoad(running=self.running)),
            )
            self._tasks.append(asyncio.create_task(self._publisher.run()))
        if self.leased:
            self._tasks += [asyncio.create_task(self._keep_registered(site)) for site in sites]

    async def _keep_registered(self, site: Site) -> None:
        while True:
            edge = site.edge
            if edge is not None and not site.stalled:
                edge.register(self)
            await asyncio.sleep(HEARTBEAT_S if edge is not None else 0.5)

    def die(self) -> None:
        """Ends at once: no edge is told."""
        self.alive = False
        for task in self._tasks:
            task.cancel()
        self._tasks, self._publisher, self.ways = [], None, []

    def compute(self, request_id: str, keys: Sequence[int]) -> int:
        """A prompt's prefill; how many of its keys were cached."""
        cached = 0
        for key in keys:
            if key not in self.cache:
                break
            cached += 1
        stored = [key for key in keys if key not in self.cache]
        for key in reversed(keys):  # so that a prompt's end is evicted before its beginning
            self.cache.pop(key, None)
            self.cache[key] = None
        evicted = []
        while len(self.cache) > self._capacity:
            key = next(iter(self.cache))
            del self.cache[key]
            evicted.append(key)
        if self._publisher is not None:
            gone = set(evicted)
            self._publisher.keys([key for key in stored if key not in gone], evicted)
            tokens = TOKENS_PER_KEY
            self._publisher.first_token(FirstToken(request_id, len(keys) * tokens, cached * tokens, 20.0))
        return cached

    def finish(self, request_id: str, keys: Sequence[int]) -> None:
        if self._publisher is not None:
            self._publisher.finished(Finished(request_id, len(keys) * TOKENS_PER_KEY, 100))
