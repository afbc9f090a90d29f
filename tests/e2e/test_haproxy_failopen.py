"""The edge without its router, gone, hung or undecided: requests are served, sessions stay together, and it is said."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from haproxy_fixture import Edge, Received, read_response, running_edge, until

from haproxy.config import Timeouts

pytestmark = pytest.mark.e2e

both_lookups = pytest.mark.parametrize("lookup", ["spoe", "lua"])


async def homes_of(edge: Edge, sessions: int, rounds: int = 3) -> dict[int, Counter[str]]:
    """Which replicas served each session."""
    homes: dict[int, Counter[str]] = defaultdict(Counter)
    for _ in range(rounds):
        for number in range(sessions):
            answer = await edge.ask(headers=[("x-session-id", f"session-{number}")])
            assert (answer.status, answer.reason) == (200, "fail-open")
            homes[number][answer.replica] += 1
    return homes


@both_lookups
async def test_a_dead_router(tmp_path: Path, lookup: str) -> None:
    """From the first request on: served, marked, and each session on one replica, all replicas used."""
    async with running_edge(tmp_path, replicas=3, lookup=lookup) as edge:
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash"}
        assert (await edge.ask()).reason == "hash"
        await edge.router.stop()
        homes = await homes_of(edge, 30)
        # With next to no load the bound is one request, and the one before may just be ending: a few spill.
        assert sum(max(replicas.values()) for replicas in homes.values()) >= 80
        # 30 sessions on 3 replicas: a ring of 256 points each leaves none out.
        assert set.union(*(set(replicas) for replicas in homes.values())) == {"r1", "r2", "r3"}


@both_lookups
async def test_a_router_that_comes_back_is_asked_again(tmp_path: Path, lookup: str) -> None:
    """The health check finds it; no reload, no command. The log ring finds it too, after two lines lost on the way."""
    async with running_edge(tmp_path, lookup=lookup) as edge:
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash"}
        await edge.router.stop()
        edge.router.ring_connected.clear()
        await edge.router_is("DOWN")
        await edge.router.start()
        await edge.router_is("UP")

        async def ring_is_back() -> bool:
            # HAProxy learns that a ring's peer has left by writing to it: two lines in 2.8, which are lost.
            await edge.ask()
            return edge.router.ring_connected.is_set()

        await until(ring_is_back)
        answer = await edge.ask()
        assert answer.reason == "hash"
        assert (await edge.router.line(answer.id))["srv"] == "r1"


@both_lookups
async def test_a_hung_router(tmp_path: Path, lookup: str) -> None:
    """It takes questions and answers none: each is given up after the processing time."""
    async with running_edge(tmp_path, replicas=3, lookup=lookup, timeouts=Timeouts()) as edge:
        edge.router.answer = lambda _: None
        await homes_of(edge, 5)
        assert edge.router.asked


async def test_prompts_without_a_session_keep_together(tmp_path: Path) -> None:
    """The head of the body stands for the session: the same prompt goes to the same replica, others elsewhere."""
    async with running_edge(tmp_path, replicas=3) as edge:
        await edge.router.stop()
        homes: dict[int, Counter[str]] = defaultdict(Counter)
        for turn in range(3):
            for number in range(30):
                head = b'{"messages":["prompt %d' % number + b"x" * 2048
                answer = await edge.ask(body=head + b"turn %d" % turn)
                assert answer.reason == "fail-open"
                homes[number][answer.replica] += 1
        assert sum(max(replicas.values()) for replicas in homes.values()) >= 80
        assert set.union(*(set(replicas) for replicas in homes.values())) == {"r1", "r2", "r3"}


async def test_a_body_that_is_still_coming_is_waited_for(tmp_path: Path) -> None:
    """The head decides, so it must be there."""
    async with running_edge(tmp_path, replicas=3) as edge:
        await edge.router.stop()
        body = b'{"messages":["' + b"x" * 3000
        whole = (await edge.ask(body=body)).replica
        await edge.idle()
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        await writer.drain()
        for at in range(0, len(body), 1000):
            writer.write(body[at : at + 1000])
            await writer.drain()
        assert (await read_response(reader)).replica == whole
        writer.close()


async def test_no_opinion_keeps_the_routers_reason(tmp_path: Path) -> None:
    """An answer without a choice is not a failure, so it is not called one."""
    async with running_edge(tmp_path) as edge:
        edge.router.answer = lambda _: {"reason": "no-candidates"}
        answers = [await edge.ask(headers=[("x-session-id", "s")]) for _ in range(3)]
        assert {(answer.status, answer.reason) for answer in answers} == {(200, "no-candidates")}


async def test_load_is_bounded(tmp_path: Path) -> None:
    """One busy session spills over instead of burying its replica."""
    release = asyncio.Event()
    busy: Counter[str] = Counter()

    async with running_edge(tmp_path, replicas=3, hash_balance_percent=150) as edge:
        await edge.router.stop()
        arrived = asyncio.Semaphore(0)

        def hold(name: str):
            async def held(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
                busy[name] += 1
                arrived.release()
                await release.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                return True

            return held

        for name, replica in edge.replicas.items():
            replica.on_request = hold(name)
        asks = []
        for _ in range(30):  # one after the other, so that each choice sees the load of those before it
            asks.append(asyncio.create_task(edge.ask(headers=[("x-session-id", "one")])))
            async with asyncio.timeout(10):
                await arrived.acquire()
        # 30 on 3 replicas, at most 1.5 times the average on one: 15, and one more for the request being placed.
        assert max(busy.values()) <= 16, busy
        assert len(busy) >= 2
        release.set()
        await asyncio.gather(*asks)


async def test_all_replicas_dead_is_said_at_once(tmp_path: Path) -> None:
    """Router or not: 503 in JSON, and a line."""
    async with running_edge(tmp_path) as edge:
        for replica in edge.replicas.values():
            await replica.stop()
        await edge.servers_are("down", "r1", "r2")
        answer = await edge.ask()
        assert (answer.status, answer.reason) == (503, "fail-open")
        assert (await edge.router.line(answer.id))["srv"] == "<NOSRV>"


@pytest.mark.parametrize("replay", [True, False])
async def test_a_request_dropped_without_an_answer(tmp_path: Path, replay: bool) -> None:
    """Sent again to another replica when replay is on, however it arrives; else the client learns of it."""
    async with running_edge(tmp_path, replay=replay) as edge:
        edge.router.answer = lambda _: {"first": "r2", "reason": "hash"}

        async def drop(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            writer.transport.abort()
            return False

        edge.replicas["r2"].on_request = drop
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n")
        await writer.drain()
        for _ in range(9):
            writer.write(b"x" * 1000)
            await writer.drain()
        answer = await read_response(reader)
        writer.close()
        assert (answer.status, answer.replica) == ((200, "r1") if replay else (502, ""))
        line = await edge.router.line(answer.id)
        assert (line["srv"], line["rc"][0]) == (("r1", "+") if replay else ("r2", "0"))
