"""Routers that share, for benches: wired as the service is, with conversations that never end before them."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from pointsman.contract.events import EngineEvents
from pointsman.contract.prefix_keys import BOUNDARIES
from pointsman.contract.registration import Registration
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router
from pointsman.router.settings import load_settings
from pointsman.up.valkey import valkey_argv, valkey_socket, valkey_url

REPLICAS = 8
CHAIN = 32
"""Keys of a prompt: 64 KB, as agents' are."""

YIELD_EVERY = 8
"""Requests decided before the routers' own loops get their turn."""


@asynccontextmanager
async def valkey() -> AsyncIterator[tuple[str, Redis]]:
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        process = await asyncio.create_subprocess_exec(*valkey_argv(Path(folder)), stdout=asyncio.subprocess.DEVNULL)
        client = Redis(unix_socket_path=str(valkey_socket(Path(folder))))
        try:
            while not valkey_socket(Path(folder)).exists():  # noqa: ASYNC110 -- processes start without telling
                await asyncio.sleep(0.02)
            yield valkey_url(Path(folder)), client
        finally:
            await client.aclose()
            process.kill()
            await process.wait()


@asynccontextmanager
async def router(url: str, **shared: Any) -> AsyncIterator[Router]:
    overrides = {
        **{listener: {"port": 0} for listener in ("spop", "ring", "lookup", "admin")},
        "policy": {"policy": "kv_cost"},
        "scrape": {"enabled": False},
    }
    settings = load_settings(environment={}, overrides={**overrides, "shared": {"url": url, **shared}})
    async with Router(settings).running() as made:
        yield made


def equip(made: Router) -> None:
    """Replicas that tell this router what they hold."""
    for number in range(REPLICAS):
        name, now_s = f"r{number}", made.clock()
        made.core.replicas.put(
            name, Registration(url=f"http://127.0.0.1:{number + 1}"), ("127.0.0.1", number + 1), now_s
        )
        made.core.engine_events(name, EngineEvents(epoch="e", seq=0, snapshot=True, capacity_tokens=500_000), now_s)


def in_step(made: Router, peers: int) -> bool:
    """Return whether a router has met so many others and misses none of their states."""
    if made.sharing is None:
        return not peers
    protocol = made.sharing.protocol
    return made.sharing.cause is None and protocol.in_step and len(protocol.peers.alive) == peers


class Talkers:
    """Conversations that grow by two keys a turn; each request ends `flight` requests later."""

    def __init__(self, made: Router, *, unique: bool = False, flight: int = 64) -> None:
        self._router = made
        self._rng = random.Random(1)
        self._unique = unique
        self._flight = flight
        self._chains: dict[int, list[int]] = {}
        self._open: list[tuple[str, str, tuple[int, ...]]] = []
        self._seqs: dict[str, int] = {}
        self.count = 0
        self.decide_s: list[float] = []

    def one(self) -> None:
        made, number = self._router, self.count
        self.count += 1
        talk = number if self._unique else self._rng.randrange(256)
        chain = self._chains.get(talk, [])
        if len(chain) >= CHAIN or not chain:
            chain = [self._rng.getrandbits(64) for _ in range(CHAIN if self._unique else 8)]
        else:
            chain = chain + [self._rng.getrandbits(64) for _ in range(2)]
        if not self._unique:
            self._chains[talk] = chain
        features = RequestFeatures(
            request_id=f"q{number}", session=f"s{talk}", body_bytes=BOUNDARIES[len(chain) - 1] + 100,
            prefix_keys=tuple(chain), max_tokens=64,
        )  # fmt: skip
        started_s = time.perf_counter()
        decision = made.core.pipeline.decide(features, made.clock())
        self.decide_s.append(time.perf_counter() - started_s)
        self._open.append((features.request_id, decision.first, features.prefix_keys))
        if len(self._open) > self._flight:
            self.end(*self._open.pop(0))

    def end(self, request_id: str, name: str, keys: tuple[int, ...]) -> None:
        made = self._router
        made.core.requests.end(request_id, made.clock())
        seq = self._seqs[name] = self._seqs.get(name, 0) + 1
        evicted = list(keys) if self._unique else []
        events = EngineEvents(epoch="e", seq=seq, stored=list(keys[-2:]), evicted=evicted)
        made.core.engine_events(name, events, made.clock())

    async def run(self, rate: float, seconds: float) -> None:
        started_s, before = time.perf_counter(), self.count
        while (passed_s := time.perf_counter() - started_s) < seconds:
            while self.count - before < rate * passed_s:
                self.one()
                if self.count % YIELD_EVERY == 0:
                    await asyncio.sleep(0)  # on a busy machine it is always late, and routers would do nothing else
            await asyncio.sleep(0.002)
