"""Background tasks: an exception is logged, counted and survived; one that never ends ends the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from router_fixture import client_of, register, running_router

from pointsman.router.process import background
from pointsman.router.process.background import LOOP, MAX_FAILURES, BackgroundTasks
from pointsman.router.process.readiness import Readiness


class Tasks:
    """Background tasks, what they say, and whether they gave up."""

    def __init__(self) -> None:
        self.readiness = Readiness()
        self.gave_up = asyncio.Event()
        self.now_s = 0.0
        self.tasks = BackgroundTasks(readiness=self.readiness, clock=lambda: self.now_s, on_given_up=self.gave_up.set)


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Tasks, AsyncExitStack]]:
    """Tasks that wait a thousandth of the time between two starts."""
    monkeypatch.setattr(background, "MIN_BACKOFF_S", 0.0001)
    monkeypatch.setattr(background, "MAX_BACKOFF_S", 0.01)
    async with AsyncExitStack() as stack:
        yield Tasks(), stack


async def test_a_task_that_fails_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by its name and said in `/readyz`; the process goes on."""
    async with running(monkeypatch) as (all_of, stack):
        runs = 0
        works = asyncio.Event()

        async def work() -> None:
            nonlocal runs
            runs += 1
            if runs < 4:
                raise OverflowError("too large")
            works.set()
            await asyncio.Event().wait()

        all_of.tasks.start(stack, "edge sync", work)
        async with asyncio.timeout(20):
            await works.wait()
        assert all_of.tasks.errors == {"edge sync": 3}
        assert all_of.readiness.impaired() == ["edge sync: failed, starts again: OverflowError: too large"]
        assert not all_of.gave_up.is_set()


async def test_a_task_that_returns_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Background tasks run until they are cancelled: one that ends silently is as gone as one that raised."""
    async with running(monkeypatch) as (all_of, stack):
        again = asyncio.Event()

        async def work() -> None:
            if all_of.tasks.errors["sweep"]:
                again.set()
                await asyncio.Event().wait()

        all_of.tasks.start(stack, "sweep", work)
        async with asyncio.timeout(20):
            await again.wait()
        assert all_of.tasks.errors == {"sweep": 1}


async def test_a_task_that_only_fails_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a named number of failures in a row: only a fresh process may help then."""
    async with running(monkeypatch) as (all_of, stack):

        async def work() -> None:
            raise ValueError("always")

        all_of.tasks.start(stack, "scrape", work)
        async with asyncio.timeout(20):
            await all_of.gave_up.wait()
        assert all_of.tasks.errors == {"scrape": MAX_FAILURES}


async def test_failures_long_ago_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that ran steadily in between may fail as often as it likes, and is not degraded meanwhile."""
    monkeypatch.setattr(background, "STEADY_S", 0.001)
    async with running(monkeypatch) as (all_of, stack):
        steady = asyncio.Event()

        async def work() -> None:
            await asyncio.sleep(0.01)
            assert all_of.readiness.impaired() == [], "restored once it was steady"
            if all_of.tasks.errors["sweep"] > MAX_FAILURES:
                steady.set()
                await asyncio.Event().wait()
            all_of.now_s += 1
            raise ValueError("now and then")

        all_of.tasks.start(stack, "sweep", work)
        async with asyncio.timeout(20):
            await steady.wait()
        assert not all_of.gave_up.is_set()


async def test_what_nobody_waits_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a callback of the event loop shows in the same metric."""

    def fail() -> None:
        raise KeyError("gone")

    async with running(monkeypatch) as (all_of, stack):
        all_of.tasks.watch_loop(stack)
        asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert all_of.tasks.errors == {LOOP: 1}


@pytest.mark.sources
async def test_a_router_outlives_an_exception_in_its_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups and the admin API go on, the sweep too, and the metric says that it failed."""
    monkeypatch.setattr(background, "MIN_BACKOFF_S", 0.001)
    monkeypatch.setattr("pointsman.router.app.SWEEP_INTERVAL_S", 0.001)
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        swept = asyncio.Event()
        failed = False

        def expire(now_s: float) -> int:
            nonlocal failed
            if not failed:
                failed = True
                raise OverflowError("a poisonous reservation")
            swept.set()
            return 0

        monkeypatch.setattr(router.core.requests, "expire", expire)
        async with asyncio.timeout(20):
            await swept.wait()
        assert 'pointsman_background_errors_total{task="sweep"} 1.0' in (await client.get("/metrics")).text
        assert "degraded: sweep: failed" in (await client.get("/readyz")).text
        assert not router.stop.is_set()
