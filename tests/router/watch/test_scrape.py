"""The scraper: whom it asks when, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from router_fixture import client_of, running_router

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import Registration
from pointsman.router.app import Router
from pointsman.router.core import Core, CoreConfig
from pointsman.router.fleet.replica import Health, ServedNames
from pointsman.router.settings import ScrapeSettings
from pointsman.router.watch.scrape import ASK_AGAIN_S, MAX_PAGE_BYTES, METRICS, MODELS, Scraper

METRICS_PAGE = """vllm:num_requests_running{engine="0"} %d
vllm:num_requests_waiting{engine="0"} 0
vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1
process_start_time_seconds %d
"""
FAST = {"interval_s": 0.01, "idle_interval_s": 0.01, "timeout_s": 5.0, "max_per_s": 1000}


class World:
    """A scraper nobody runs: a test asks who is due, at times of its own."""

    def __init__(self, *replicas: str, model: str = "m", **settings: float) -> None:
        self.now_s = 100.0
        self.core = Core({"policy": "least_load"}, rng=random.Random(1), config=CoreConfig(lists_follow=True))
        self.load, self.kv, self.replicas = self.core.load, self.core.kv, self.core.replicas
        self.scraper = Scraper(self.core, settings=ScrapeSettings(**settings), clock=lambda: self.now_s)
        for number, name in enumerate(replicas, 1):
            self.replicas.put(name, Registration(url=f"http://h:{number}", model=model), ("10.0.0.1", number), 0.0)

    def due(self, after_s: float = 0.0, *, failed: bool = False) -> list[tuple[str, str]]:
        """Who is asked `after_s` later, and has answered at once."""
        self.now_s += after_s
        due = self.scraper.choose(self.scraper.wanting(self.replicas))
        for replica, what in due:
            self.scraper.answered(replica, what, "no answer" if failed else "")
        return [(replica.id, what) for replica, what in due]


def test_the_models_are_asked_for_first_then_the_load() -> None:
    """One thing at a time of each."""
    world = World("a", "b")
    assert world.due() == [("a", MODELS), ("b", MODELS)]
    assert world.due() == [("a", METRICS), ("b", METRICS)]
    assert world.due() == []


def test_the_pace_follows_the_work() -> None:
    """With requests every `interval_s`, idle every `idle_interval_s`."""
    world = World("a", "b", interval_s=0.5, idle_interval_s=5.0)
    world.due(), world.due()
    world.core.requests.reserve("r1", 0, 10, world.now_s)
    assert world.due(0.5) == [("a", METRICS)]
    assert world.due(0.5) == [("a", METRICS)]
    assert world.due(4.0) == [("b", METRICS), ("a", METRICS)], "the one not read for longest first"


def test_an_endpoint_that_does_not_tell_is_asked_seldom() -> None:
    """A server without metrics costs a look every `idle_interval_s`, busy or not."""
    world = World("a", interval_s=0.5, idle_interval_s=5.0)
    world.due()
    world.core.requests.reserve("r1", 0, 10, world.now_s)
    assert world.due(failed=True) == [("a", METRICS)]
    assert world.due(1.0) == []
    assert world.due(4.0) == [("a", METRICS)]


def test_an_engine_that_tells_is_not_asked_for_its_load() -> None:
    """Its models are, at their own pace."""
    world = World("a", models_interval_s=30.0)
    world.core.engine_events("a", EngineEvents(epoch="e", seq=0, snapshot=True), world.now_s)
    assert world.due() == [("a", MODELS)]
    assert world.due(29.0) == []
    assert world.due(1.0) == [("a", MODELS)]


def test_who_is_down_is_not_asked_and_is_at_once_when_back() -> None:
    """Coming back may mean another model: its list is read again."""
    world = World("a")
    world.due()
    world.replicas.set_health("a", Health.DOWN, 0.0)
    assert world.due(100.0) == []
    world.replicas.set_health("a", Health.UP, 0.0)
    assert world.due() == [("a", MODELS)]


def test_whom_nobody_named_is_asked_again_soon() -> None:
    """Until it answers, others with names are preferred to it."""
    world = World("a", model="")
    assert world.due(failed=True) == [("a", MODELS)]
    assert world.due(ASK_AGAIN_S) == [("a", MODELS)]
    world.replicas.set_listed("a", ServedNames({"m": "m"}))
    assert world.due(ASK_AGAIN_S) == [("a", METRICS)]


def test_a_large_fleet_waits_its_turn() -> None:
    """Ten looks a second among thirty: everybody is asked both things once within six seconds."""
    names = [f"r{n:02}" for n in range(30)]
    world = World(*names, max_per_s=10, idle_interval_s=60.0, models_interval_s=60.0)
    asked = world.due()
    assert asked == [(name, MODELS) for name in names[:10]]
    assert world.due() == []
    for _ in range(5):
        asked += world.due(1.0)
    assert sorted(asked) == sorted((name, what) for name in names for what in (METRICS, MODELS))


def test_a_replica_at_another_address_is_another_endpoint() -> None:
    """Nothing is remembered of the one before."""
    world = World("a")
    world.due(), world.due()
    world.replicas.put("a", Registration(url="http://h:9", model="m"), ("10.0.0.2", 9), 0.0)
    assert world.due() == [("a", MODELS)]


class StubEndpoint:
    """A server with the pages a test gives it, by path."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.status = 200
        self.asked: list[str] = []
        self.hangs = False
        self.url = ""

    def lists(self, *models: str) -> None:
        self.pages["/v1/models"] = json.dumps({"data": [{"id": model, "max_model_len": 7} for model in models]})

    def runs(self, requests: int, started_s: int = 1) -> None:
        self.pages["/metrics"] = METRICS_PAGE % (requests, started_s)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
                self.asked.append(path)
                while self.hangs:
                    await asyncio.sleep(0.01)
                body = self.pages.get(path)
                status = self.status if body is not None else 404
                data = (body or "none").encode()
                writer.write(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n" % (status, len(data)) + data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def endpoint() -> AsyncIterator[StubEndpoint]:
    stub = StubEndpoint()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield stub
    finally:
        stub.hangs = False
        server.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def join(router: Router, stub: StubEndpoint, name: str = "a", **registration: object) -> Awaitable[None] | None:
    async with client_of(router) as client:
        answer = await client.put(f"/v1/replicas/{name}", json={"url": stub.url, **registration})
        assert answer.status_code == 201, answer.text


async def test_what_an_endpoint_shows_reaches_the_tables() -> None:
    """Capacity, requests past this edge, names and cards."""
    async with endpoint() as stub, running_router(scrape=FAST) as router:
        stub.lists("tiny")
        stub.runs(3)
        await join(router, stub)
        await until(lambda: router.core.load.outside[0] == 3)
        assert router.core.kv.columns.signals.capacity[0] == 1600
        assert router.core.kv.cursors[0].load.running == 3
        assert router.core.replicas.get("a").names == {"tiny"}
        assert router.core.catalog.cards() == [{"id": "tiny", "max_model_len": 7, "owned_by": ""}]
        stub.pages.pop("/metrics")
        await until(lambda: router.core.load.outside[0] == 0)
        assert router.scraper.results[METRICS, "failed"]
        assert router.core.replicas.memberships.of("tiny").slots.tolist() == [0], "what does not tell still serves"


async def test_an_engine_with_another_start_time_has_forgotten_everything() -> None:
    """A restarted `vllm serve` has an empty cache, although nobody said so."""
    async with endpoint() as stub, running_router(scrape=FAST) as router:
        stub.runs(0, started_s=1)
        await join(router, stub, model="m")
        await until(lambda: router.scraper.results[METRICS, "ok"])
        router.core.kv.index.stored(0, 77)
        stub.runs(0, started_s=2)
        await until(lambda: router.core.kv.counters.restarts)
        assert router.core.kv.index.match((77,)) == []


async def test_an_endpoint_nobody_named_waits_while_others_have_names() -> None:
    """Requests for what others serve are not for it until it says so; alone it would serve anything."""
    async with endpoint() as known, endpoint() as unnamed, running_router(scrape=FAST) as router:
        known.lists("m")
        unnamed.hangs = True
        await join(router, unnamed, "u")
        assert router.core.replicas.memberships.of("m").slots.tolist() == [0]
        await join(router, known, "k", model="m")
        assert router.core.replicas.memberships.of("m").slots.tolist() == [1]
        assert router.core.replicas.memberships.of("").slots.tolist() == [1]
        unnamed.lists("m", "other")
        unnamed.hangs = False
        await until(lambda: router.core.replicas.memberships.of("m").slots.tolist() == [0, 1])
        assert router.core.replicas.memberships.of("other").slots.tolist() == [0]


@pytest.mark.parametrize("page", ["no list", "x" * (MAX_PAGE_BYTES + 1)])
async def test_an_endpoint_without_a_list_serves_anything(page: str) -> None:
    """It answered, but not with models: it is taken at its word. A page too long is not read to its end."""
    async with endpoint() as stub, running_router(scrape=FAST) as router:
        stub.pages["/v1/models"] = page
        await join(router, stub)
        await until(lambda: router.core.replicas.get("a").names == frozenset())
        assert router.scraper.results[MODELS, "failed"]


async def test_an_endpoint_that_is_not_ready_is_asked_again() -> None:
    """An error of its own is no answer: it is still to be named."""
    async with endpoint() as stub, running_router(scrape=FAST) as router:
        stub.lists("m")
        stub.status = 503
        await join(router, stub)
        await until(lambda: router.scraper.results[MODELS, "failed"])
        assert router.core.replicas.get("a").names is None
        stub.status = 200
        await until(lambda: router.core.replicas.get("a").names == {"m"})


async def test_a_scraper_that_is_off_asks_nobody() -> None:
    """Replicas without a name serve anything, as they say."""
    async with endpoint() as stub, running_router(scrape={"enabled": False}) as router:
        await join(router, stub)
        assert router.core.replicas.get("a").names == frozenset()
        assert stub.asked == []
