"""A replica watches its engine and whether it is orphaned. The engine is played, sockets are real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from admin_stub import Admin, admin
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pointsman.engine.vllm.errors import ReplicaDiedError
from pointsman.engine.vllm.fleet.spec import Place, ReplicaSpec
from pointsman.engine.vllm.replica import openai_server, replica
from pointsman.engine.vllm.replica.kv_events import PrefixCache
from pointsman.engine.vllm.replica.replica import EX_ORPHANED, Started, VllmReplica

BORN_MS = 1_700_000_000_000
ENDS_S = 20.0


class PlayedServer:
    """What `openai_server.build` gives, without an engine: completions are answered once `answering` is set."""

    def __init__(self) -> None:
        self.alive = True
        self.by_priority = False
        self.shut = False
        self.queued_tokens = self.running = 0
        self.api_keys = ()
        self.prefix_cache = PrefixCache(16, 1024, ())
        self.answering = asyncio.Event()
        self.answering.set()
        routes = [
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/health", lambda request: Response()),
        ]
        self.app = Starlette(routes=routes)

    def watch_aborts(self, call: Any) -> None:
        """Nothing is aborted in it."""

    def watch(self, wrap: Any) -> None:
        pass

    def end_with(self, http: uvicorn.Server) -> None:
        pass

    def shutdown(self) -> None:
        self.shut = True

    async def _complete(self, request: Request) -> Response:
        self.running += 1
        await self.answering.wait()
        return JSONResponse({"choices": []})


class Kept:
    """A replica, the process that keeps it, and the exit status of its own."""

    def __init__(self, server: PlayedServer, *admins: Admin) -> None:
        self.server = server
        self.parent = 7
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        spec = ReplicaSpec(
            id="r-1", argv=(), model="m", host="127.0.0.1", admin=tuple(admin.url for admin in admins), admin_token="",
            ttl_s=10.0, heartbeat_s=0.05, drain_s=ENDS_S, born_ms=BORN_MS,
        )  # fmt: skip
        place = Place("fleet", "r", 1, 0, "revision")
        self.replica = VllmReplica(spec, place, parent=lambda: self.parent, exit=self.exited.set_result)
        self.started: Started

    async def start(self) -> None:
        self.started = await self.replica.start()

    async def is_healthy(self) -> bool:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{self.started.url}/health")).is_success

    def ask(self) -> asyncio.Task[httpx.Response]:
        """A request that runs until the server answers."""

        async def asking() -> httpx.Response:
            async with httpx.AsyncClient(timeout=ENDS_S) as client:
                return await client.post(f"{self.started.url}/v1/completions", json={})

        return asyncio.create_task(asking())


@asynccontextmanager
async def kept(monkeypatch: pytest.MonkeyPatch, *admins: Admin) -> AsyncIterator[Kept]:
    """A started replica; one that did not end by itself is ended."""
    server = PlayedServer()

    async def build(argv: Any, signals: Any, *, kv_events: bool) -> PlayedServer:
        return server

    monkeypatch.setattr(openai_server, "build", build)
    monkeypatch.setattr(replica, "EXIT_DELAY_S", 0.0)
    made = Kept(server, *admins)
    async with asyncio.timeout(ENDS_S):
        await made.start()
        yield made
        if not server.shut:
            await made.replica.end()


async def died(made: Kept) -> str:
    """What is told to whoever waits for the replica."""
    with pytest.raises(ReplicaDiedError) as error:
        await made.replica.wait()
    return str(error.value)


async def test_a_superseded_replica_finishes_its_work_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router has a later incarnation: checks fail, what runs is answered, then engine and process end."""
    async with admin() as router, kept(monkeypatch, router) as made:
        await router.wait_told("PUT", "r-1")
        made.server.answering.clear()
        running = made.ask()
        while made.server.running < 2:  # the first was the replica's own, for its first token
            await asyncio.sleep(0.01)
        router.status = 409
        while await made.is_healthy():
            await asyncio.sleep(0.01)
        assert not made.server.shut
        made.server.answering.set()
        assert (await running).status_code == 200
        assert await made.exited == EX_ORPHANED
        assert made.server.shut
        assert await died(made) == "r-1: a later incarnation of it is registered"
        assert ("DELETE", f"r-1?born_ms={BORN_MS}") in [said[:2] for said in router.said]


async def test_a_replica_without_its_raylet_leaves_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent is another process: routers are asked to send no more, then told that it left."""
    async with admin() as router, kept(monkeypatch, router) as made:
        await router.wait_told("PUT", "r-1")
        made.parent = 1
        assert await made.exited == EX_ORPHANED
        assert made.server.shut
        assert await died(made) == "r-1: the raylet that kept it died"
        said = [said[:2] for said in router.said]
        assert said.index(("POST", f"r-1/drain?born_ms={BORN_MS}")) < said.index(("DELETE", f"r-1?born_ms={BORN_MS}"))


async def test_a_dead_engine_takes_the_replica_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the routers and its driver hears of it; the process is the driver's to end."""
    async with admin() as router, kept(monkeypatch, router) as made:
        await router.wait_told("PUT", "r-1")
        made.server.alive = False
        assert await died(made) == "r-1: the engine died"
        await router.wait_told("DELETE", f"r-1?born_ms={BORN_MS}")
        assert not made.exited.done()
