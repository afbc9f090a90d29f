"""Streams that outlive reloads of HAProxy: their ends, their sessions, and the workers that carry them."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

import httpx
import psutil
import pytest
from edge import RunningEdge, running_up, until

from pointsman.haproxy.errors import HAProxyError
from pointsman.haproxy.runtime_api import MasterAPI

pytestmark = [pytest.mark.e2e, pytest.mark.system]

PACED = {"token_interval_ms": 10}
"""A token every 10 ms: streams last long enough to be there when something happens."""

PATIENT = {"timeouts": {"processing_ms": 5000, "router_check_ms": 1000}}
"""So that a machine that is busy with other things does not make the edge fail open: what HAProxy places alone is no
reservation."""

FOREVER = 100_000
"""Tokens of a stream that nobody reads to its end: a quarter of an hour."""

RELOADS = 5
SHORT_STREAMS = 8


class Streams:
    """Streams through an edge, and how many of them are open."""

    def __init__(self, edge: RunningEdge) -> None:
        self._edge = edge
        self._tasks: set[asyncio.Task[None]] = set()
        self.open = 0
        self.ended = 0

    async def start(self, tokens: int, count: int = 1) -> list[asyncio.Task[None]]:
        """Returns once the first token of each has come."""
        target = self.open + self.ended + count
        tasks = [asyncio.create_task(self._stream(tokens)) for _ in range(count)]
        self._tasks.update(tasks)

        async def all_begun() -> bool:
            for task in tasks:
                if task.done():
                    task.result()  # one that failed says why
            return self.open + self.ended == target

        await until(all_begun)
        return tasks

    async def _stream(self, tokens: int) -> None:
        body = {
            "model": "sim",
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
        # An idle connection would keep its worker too.
        once = {"connection": "close"}
        async with self._edge.client.stream("POST", "/v1/chat/completions", json=body, headers=once) as response:
            assert response.status_code == 200
            chunks = response.aiter_bytes()
            await anext(chunks)
            self.open += 1
            try:
                async for _ in chunks:
                    pass
            finally:
                self.open -= 1
                self.ended += 1

    async def abandon(self) -> None:
        """Clients of all that still run leave."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError, httpx.HTTPError):
                await task


async def in_flight(edge: RunningEdge) -> int:
    return int(sum(view["in_flight"] for view in (await edge.replicas()).values()))


async def reload(edge: RunningEdge) -> None:
    """SIGHUP to `up`; returns when the router has met the new worker and no old one takes connections: one that begins
    to stop resets those that it has just accepted."""
    before = (await edge.metrics())["pointsman_haproxy_restarts_total"]
    master = MasterAPI(str(edge.run_dir / "master.sock"))
    edge.process.send_signal(signal.SIGHUP)

    async def reloaded() -> bool:
        if (await edge.metrics())["pointsman_haproxy_restarts_total"] == before:
            return False
        with suppress(HAProxyError):
            _, *old = await master.workers()
            return all([(await master.worker_info(pid)).stopping for pid in old])
        return False

    await until(reloaded)
    assert (await edge.metrics())["pointsman_haproxy_restarts_total"] == before + 1


async def test_every_end_is_counted_while_old_workers_live_on() -> None:
    """One stream keeps each of five workers; of those beside it, none stays counted, and none ends without its line."""
    async with running_up(2, engine=PACED, haproxy=PATIENT) as edge:
        streams = Streams(edge)
        for number in range(RELOADS):
            await streams.start(FOREVER)
            short = await streams.start(100, SHORT_STREAMS)
            await reload(edge)
            await asyncio.gather(*short)

            assert streams.open == number + 1

            async def only_real_streams_count(old_workers: int = number + 1) -> bool:
                metrics = await edge.metrics()
                counted = {await in_flight(edge), metrics["pointsman_reservations"]}
                return counted == {streams.open} and metrics["pointsman_haproxy_old_workers"] == old_workers

            await until(only_real_streams_count)
        await streams.abandon()

        async def all_workers_ended() -> bool:
            return (await edge.metrics())["pointsman_haproxy_old_workers"] == 0

        await until(all_workers_ended)
        metrics = await edge.metrics()
        served = sum(value for name, value in metrics.items() if name.startswith("pointsman_requests_total{"))
        assert served == streams.ended == RELOADS * (SHORT_STREAMS + 1)
        assert metrics['pointsman_reservations_dropped_total{cause="leaked"}'] == 0
        assert metrics["pointsman_ring_malformed_lines_total"] == 0
        assert await edge.idle()


async def test_a_restarted_router_counts_the_streams_of_old_workers() -> None:
    """It reserved none of them, and the current worker knows nothing of them."""
    async with running_up(2, engine=PACED, haproxy=PATIENT) as edge:
        streams = Streams(edge)
        await streams.start(FOREVER, 3)
        await reload(edge)
        before = edge.router()
        before.kill()

        async def counted() -> bool:
            with suppress(httpx.HTTPError, AssertionError, psutil.NoSuchProcess):
                return edge.router().pid != before.pid and await in_flight(edge) == 3
            return False

        await until(counted)
        await streams.abandon()

        async def nothing_counts() -> bool:
            return await in_flight(edge) == 0

        await until(nothing_counts)


async def test_no_end_is_lost_when_the_router_restarts_while_nobody_asks() -> None:
    """HAProxy learns that the ring's connection is dead when it writes there: what is lost is no request's line."""
    async with running_up(1) as edge:
        assert (await edge.chat()).status_code == 200
        before = edge.router()
        before.kill()

        async def attached() -> bool:
            with suppress(httpx.HTTPError, AssertionError, psutil.NoSuchProcess):
                return edge.router().pid != before.pid and (await edge.admin.get("/readyz")).status_code == 200
            return False

        await until(attached)
        placed = {answer.headers["x-pointsman-request-id"] for answer in [await edge.chat() for _ in range(3)]}

        async def all_ended() -> bool:
            listed = (await edge.admin.get("/v1/decisions?ended=true")).json()["decisions"]
            return {decision["id"] for decision in listed} == placed

        await until(all_ended)
        assert (await edge.metrics())["pointsman_ring_malformed_lines_total"] == 0


async def test_haproxy_that_is_told_to_stop_ends_with_its_last_stream() -> None:
    """The router, which reads its ring to the end, does not hold it up."""
    async with running_up(2, engine=PACED, haproxy=PATIENT) as edge:
        streams = Streams(edge)
        await streams.start(FOREVER)
        master = edge.part("-W")
        master.send_signal(signal.SIGUSR1)

        async def admin_socket_is_gone() -> bool:
            return (await edge.metrics())["pointsman_haproxy_up"] == 0

        await until(admin_socket_is_gone)
        assert master.is_running()
        await streams.abandon()
        await asyncio.to_thread(psutil.wait_procs, [master], timeout=60)
        assert not master.is_running()

        async def nothing_counts() -> bool:
            return (await edge.metrics())["pointsman_reservations"] == 0

        await until(nothing_counts)
        metrics = await edge.metrics()
        assert metrics['pointsman_reservations_dropped_total{cause="leaked"}'] == 0
