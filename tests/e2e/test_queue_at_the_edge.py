"""Requests that wait at the real HAProxy for room at replicas, under a policy without KV signals: their order, and what
becomes of them when clients leave, the queue is full, the router dies or HAProxy is reloaded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from edge import RunningEdge, running_up, until

from pointsman.haproxy.runtime_api import MasterAPI

pytestmark = [pytest.mark.e2e, pytest.mark.system]

LOOKUPS = pytest.mark.parametrize("lookup", ["spoe", "lua"])
PACED = {"token_interval_ms": 10}
PATIENT = {"priority_header": "x-priority", "timeouts": {"processing_ms": 5000, "router_check_ms": 1000}}
POLICY: dict[str, Any] = {"policy": "least_load", "admission": {"running": 1, "wait_s": 120, "retry_after_s": 7}}


class BusyEdge:
    """An edge whose only replica serves one endless stream, so that all others wait."""

    def __init__(self, edge: RunningEdge) -> None:
        self.edge = edge
        self.ended: list[str] = []
        """Labels of requests in the order in which they were answered."""
        self._busy: asyncio.Task[None] | None = None

    async def fill(self) -> None:
        """Starts the stream."""
        begun = asyncio.Event()

        async def read() -> None:
            body = chat("busy", 100_000) | {"stream": True}
            async with self.edge.client.stream("POST", "/v1/chat/completions", json=body) as response:
                async for _ in response.aiter_bytes():
                    begun.set()

        self._busy = asyncio.create_task(read())
        await begun.wait()

    async def make_room(self) -> None:
        """Ends the stream."""
        assert self._busy is not None
        self._busy.cancel()
        await asyncio.gather(self._busy, return_exceptions=True)

    async def wait(self, label: str, priority: str = "", **headers: str) -> asyncio.Task[httpx.Response]:
        """A request that waits."""
        before = await self.held()

        async def ask() -> httpx.Response:
            sent = headers | ({"x-priority": priority} if priority else {})
            answer = await self.edge.client.post("/v1/chat/completions", json=chat(label), headers=sent)
            self.ended.append(label)
            return answer

        asking = asyncio.create_task(ask())

        async def waits() -> bool:
            assert not asking.done(), asking.result().text
            return await self.held() == before + 1

        await until(waits)
        return asking

    async def held(self) -> int:
        return int((await self.edge.metrics())["pointsman_held"])

    async def outcomes(self, outcome: str) -> int:
        return int((await self.edge.metrics())[f'pointsman_holds_total{{outcome="{outcome}"}}'])


def chat(label: str, tokens: int = 2) -> dict[str, Any]:
    return {
        "model": "sim",
        "messages": [{"role": "user", "content": label}],
        "max_tokens": tokens,
        "ignore_eos": True,
    }


@asynccontextmanager
async def busy_edge(*arguments: str, haproxy: dict[str, Any] = PATIENT, **router: Any) -> AsyncIterator[BusyEdge]:
    sections = {"router": {"policy": POLICY, **router}, "haproxy": haproxy}
    async with running_up(1, *arguments, engine=PACED, **sections) as edge:
        busy = BusyEdge(edge)
        await busy.fill()
        yield busy


@LOOKUPS
async def test_a_replica_is_told_the_class_of_a_request(lookup: str) -> None:
    """But for the usual one, and by nobody but the edge."""
    haproxy = PATIENT | {"generation_paths": ["/echo"]}
    async with running_up(1, "--lookup", lookup, engine={"timing": "fast", "echo": True}, haproxy=haproxy) as edge:

        async def told(**headers: str) -> str | None:
            answer = await edge.client.post("/echo", json={"model": "sim"}, headers=headers)
            return dict(json.loads(answer.text)["headers"]).get("x-pointsman-priority")

        assert await told(**{"x-priority": "low"}) == "low"
        assert await told(**{"x-priority": "batch", "x-pointsman-priority": "critical"}) == "batch"
        assert await told(**{"x-pointsman-priority": "critical"}) is None
        assert await told(**{"x-priority": "normal"}) is None


@LOOKUPS
async def test_classes_go_before_arrivals(lookup: str) -> None:
    """Among those of a class the first goes first. Without a tenant nobody may name a class above the usual one."""
    async with busy_edge("--lookup", lookup) as busy:
        asked = [
            ("batch", "batch"),
            ("low-1", "low"),
            ("usual-1", ""),
            ("low-2", "LOW"),
            ("too high", "critical"),
            ("unknown", "first"),
            ("usual-2", "normal"),
        ]
        asking = [await busy.wait(label, priority) for label, priority in asked]
        metrics = await busy.edge.metrics()
        by_class = {of: metrics[f'pointsman_held_by_priority{{priority="{of}"}}'] for of in ("batch", "low", "normal")}
        assert by_class == {"batch": 1, "low": 2, "normal": 4}
        await busy.make_room()
        assert {(await one).status_code for one in asking} == {200}
        assert busy.ended == ["usual-1", "too high", "unknown", "usual-2", "low-1", "low-2", "batch"]
        await until(busy.edge.idle)


async def test_the_earlier_deadline_goes_first() -> None:
    async with busy_edge(haproxy=PATIENT | {"deadline_header": "x-deadline-ms"}) as busy:
        asking = [await busy.wait("whenever"), await busy.wait("soon", **{"x-deadline-ms": "60000"})]
        late = await busy.wait("missed", **{"x-deadline-ms": "300"})
        answer = await late
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        await busy.make_room()
        await asyncio.gather(*asking)
        assert busy.ended == ["missed", "soon", "whenever"]


@LOOKUPS
async def test_clients_that_leave_free_their_places_while_nothing_else_happens(lookup: str) -> None:
    """HTTP/1.1 clients, whose leaving HAProxy 2.8 does not see by itself: short requests and long ones, sent at once
    and in two parts."""
    async with busy_edge("--lookup", lookup) as busy:
        port = urlsplit(busy.edge.url).port
        writers = []
        for number in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            body = json.dumps(chat("x" * (60_000 if number % 3 else 10))).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n")
            if number % 2:
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.write(body)
            writers.append(writer)
        await until(lambda: has(busy, 20))
        stays = await busy.wait("stays")
        for writer in writers:
            writer.close()
        await until(lambda: has(busy, 1))
        assert await busy.outcomes("gone") == 20
        await busy.make_room()
        assert (await stays).status_code == 200
        assert (await busy.edge.metrics())["pointsman_ring_malformed_lines_total"] == 0
        await until(busy.edge.idle)


async def has(busy: BusyEdge, number: int) -> bool:
    return await busy.held() == number


async def test_a_full_queue_sheds_the_lowest() -> None:
    """At once, with 429 and when to come back; one that is no higher than those that wait is refused instead."""
    async with busy_edge(limits={"max_held": 2}) as busy:
        first, second = await busy.wait("low-1", "low"), await busy.wait("low-2", "low")
        refused = await busy.edge.client.post("/v1/chat/completions", json=chat("low-3"), headers={"x-priority": "low"})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
        usual = asyncio.create_task(busy.edge.client.post("/v1/chat/completions", json=chat("usual")))
        shed = await second
        assert (shed.status_code, shed.headers["retry-after"]) == (429, "7")
        metrics = await busy.edge.metrics()
        name = "pointsman_holds_by_priority_total"
        counted = {line.partition("{")[2]: n for line, n in metrics.items() if line.startswith(name)}
        assert counted == {'outcome="overflow",priority="low"}': 1, 'outcome="shed",priority="low"}': 1}
        await busy.make_room()
        assert {(await one).status_code for one in (first, usual)} == {200}


@LOOKUPS
async def test_a_killed_router_lets_all_go(lookup: str) -> None:
    """Nobody hangs and nobody gets an error: HAProxy chooses for those that wait."""
    async with busy_edge("--lookup", lookup) as busy:
        asking = [await busy.wait(f"r{number}") for number in range(6)]
        busy.edge.router().kill()
        answers = [await one for one in asking]
        assert {(answer.status_code, answer.headers["x-pointsman-reason"]) for answer in answers} == {
            (200, "fail-open")
        }


@LOOKUPS
async def test_those_that_wait_go_on_waiting_through_a_reload(lookup: str) -> None:
    """The old worker holds them on, and they go in their order with those that came to the new one."""
    async with busy_edge("--lookup", lookup) as busy:
        before = [await busy.wait("before-1", "low"), await busy.wait("before-2")]
        await MasterAPI(str(busy.edge.run_dir / "master.sock")).reload()
        after = [await busy.wait("after-1"), await busy.wait("after-2", "low")]
        assert await busy.held() == 4
        await busy.make_room()
        answers = [await one for one in before + after]
        assert {answer.status_code for answer in answers} == {200}
        assert busy.ended == ["before-2", "after-1", "before-1", "after-2"]


async def test_a_batch_request_waits_for_idleness_without_any_bound() -> None:
    """Under a policy without admission; the others go at once."""
    async with running_up(1, engine=PACED, router={"policy": {"policy": "least_load"}}, haproxy=PATIENT) as edge:
        busy = BusyEdge(edge)
        await busy.fill()
        batch = await busy.wait("batch", "batch")
        assert (await edge.client.post("/v1/chat/completions", json=chat("online"))).status_code == 200
        assert not batch.done()
        await busy.make_room()
        assert (await batch).status_code == 200
