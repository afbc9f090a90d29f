"""What the real HAProxy does with a request that the router wants held."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from h2.connection import H2Connection
from haproxy_fixture import REACH_S, Answer, Edge, Received, Response, running_edge

from pointsman.haproxy.config import Timeouts

pytestmark = pytest.mark.e2e

LONG_MS = 60_000
REFUSAL: Answer = {"status": 429, "retry_after": 7, "reason": "admission"}
GO: Answer = {"first": "r2", "second": "r1", "reason": "kv-cold"}

LOOKUPS = pytest.mark.parametrize("lookup", ["spoe", "lua"])


def hold(hold_ms: int = LONG_MS) -> Answer:
    return REFUSAL | {"hold": hold_ms}


def start(edge: Edge, **given: Any) -> asyncio.Task[Response]:
    """A request on its way."""
    return asyncio.create_task(edge.ask(**given))


def served(edge: Edge) -> int:
    """Requests that reached a replica."""
    return sum(len(replica.received) for replica in edge.replicas.values())


@LOOKUPS
async def test_a_held_request_goes_where_the_answer_says(tmp_path: Path, lookup: str) -> None:
    """It asks with all that a lookup says of it, and nothing of the wait is left in what the client reads."""
    async with running_edge(tmp_path, lookup=lookup, body_needs=3) as edge:
        edge.router.answer = lambda _: hold()
        body = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 2000 + b'"}]}'
        asking = start(edge, body=body, headers=[("x-session-id", "s 1&=%")])
        held = await edge.router.held.get()
        (asked,) = edge.router.asked
        text = {key: value.decode("latin-1") if isinstance(value, bytes) else value for key, value in asked.items()}
        text = {key: value for key, value in text.items() if value is not None}
        waits = {key: v.decode("latin-1") if isinstance(v, bytes) else v for key, v in held.arguments.items()}
        assert text.items() <= waits.items()  # the digest of the body says by itself how much of it was seen
        assert served(edge) == 0
        held.answer.set_result(dict(GO))
        answer = await asking
        assert (answer.status, answer.replica, answer.reason) == (200, "r2", "kv-cold")
        assert "retry-after" not in answer.headers
        line = await edge.router.line(answer.id)
        assert (line["srv"], line["reason"], line["st"]) == ("r2", "kv-cold", 200)


@LOOKUPS
async def test_a_wait_may_end_with_a_refusal(tmp_path: Path, lookup: str) -> None:
    """429, `Retry-After` and the reason, as without a wait; no replica meets the request."""
    async with running_edge(tmp_path, lookup=lookup) as edge:
        edge.router.answer = lambda _: hold()
        asking = start(edge)
        (await edge.router.held.get()).answer.set_result(dict(REFUSAL))
        answer = await asking
        assert (answer.status, answer.headers["retry-after"], answer.reason) == (429, "7", "admission")
        assert served(edge) == 0


async def test_a_request_is_held_for_longer_than_any_timeout_of_its_head(tmp_path: Path) -> None:
    """What HAProxy waits for a request's head and a lookup does not end a hold."""
    timeouts = Timeouts(processing_ms=500, http_request_s=1, body_s=1, connect_ms=500, queue_s=1, router_check_ms=1000)
    async with running_edge(tmp_path, timeouts=timeouts) as edge:
        edge.router.answer = lambda _: hold()
        asking = start(edge)
        held = await edge.router.held.get()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await held.left.wait()
        held.answer.set_result(dict(GO))
        assert (await asking).replica == "r2"


async def test_others_pass_while_requests_are_held(tmp_path: Path) -> None:
    """Holding takes no thread: one thread holds a hundred and serves the rest."""
    async with running_edge(tmp_path, threads=1) as edge:
        edge.router.answer = lambda _: hold()
        asking = [start(edge) for _ in range(100)]
        waiting = [await edge.router.held.get() for _ in asking]
        edge.router.answer = lambda _: dict(GO)
        assert [(await edge.ask()).replica for _ in range(20)] == ["r2"] * 20
        for held in waiting:
            held.answer.set_result(dict(GO))
        assert {(await one).replica for one in asking} == {"r2"}


@LOOKUPS
async def test_a_router_that_does_not_answer_is_waited_for_no_longer_than_it_said(tmp_path: Path, lookup: str) -> None:
    """Then HAProxy chooses by itself."""
    async with running_edge(tmp_path, lookup=lookup) as edge:
        edge.router.answer = lambda _: hold(50)
        answer = await edge.ask()
        assert (answer.status, answer.reason) == (200, "fail-open")
        assert (await edge.router.held.get()).left.is_set()


@LOOKUPS
async def test_a_router_that_dies_lets_all_go(tmp_path: Path, lookup: str) -> None:
    """No client gets an error: HAProxy chooses for those that were held."""
    async with running_edge(tmp_path, lookup=lookup) as edge:
        edge.router.answer = lambda _: hold()
        asking = [start(edge) for _ in range(5)]
        for _ in asking:
            await edge.router.held.get()
        await edge.router.stop()
        for one in asking:
            answer = await one
            assert (answer.status, answer.reason) == (200, "fail-open")


async def test_a_router_without_an_opinion_lets_go(tmp_path: Path) -> None:
    """An empty answer after the wait is as good as none to the lookup."""
    async with running_edge(tmp_path) as edge:
        edge.router.answer = lambda _: hold()
        asking = start(edge)
        (await edge.router.held.get()).answer.set_result({})
        assert (await asking).reason == "fail-open"


async def test_without_the_routers_address_a_request_is_refused(tmp_path: Path) -> None:
    """HAProxy does not take a word it was not told of: what refuses the request stands."""
    async with running_edge(tmp_path, lookup_address="") as edge:
        edge.router.answer = lambda _: hold()
        answer = await edge.ask()
        assert (answer.status, answer.headers["retry-after"], answer.reason) == (429, "7", "admission")


@LOOKUPS
@pytest.mark.parametrize("leaves", ["stream", "connection"])
async def test_a_client_that_leaves_takes_its_question_along(tmp_path: Path, lookup: str, leaves: str) -> None:
    """HTTP/2, where HAProxy reads on and sees the client go: it leaves the router at once, and no replica meets the
    request. What HAProxy's Lua has to say of it is one note of its own."""
    async with running_edge(tmp_path, lookup=lookup) as edge:
        edge.router.answer = lambda _: hold()
        http2 = H2Connection()
        http2.initiate_connection()
        target = {":method": "POST", ":scheme": "http", ":authority": "edge", ":path": "/v1/chat/completions"}
        http2.send_headers(1, list(target.items()))
        http2.send_data(1, b"{}", end_stream=True)
        _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(http2.data_to_send())
        held = await edge.router.held.get()
        if leaves == "stream":
            http2.reset_stream(1)
            writer.write(http2.data_to_send())
        else:
            writer.close()
        async with asyncio.timeout(REACH_S):
            await held.left.wait()
        line = await edge.router.line(held.arguments["id"])
        writer.close()
        assert (line["st"], line["srv"]) == (429, "<NOSRV>")
        assert served(edge) == 0
        assert len(edge.router.notes) == 1


async def test_a_client_whose_leaving_is_seen_late_is_not_served(tmp_path: Path) -> None:
    """HTTP/1.1: HAProxy may look at the connection only when the request goes on. Its line says then that nothing was
    answered, which is how the router learns that nobody will come back for it."""
    async with running_edge(tmp_path) as edge:
        for replica in edge.replicas.values():
            replica.on_request = never_answers
        edge.router.answer = lambda _: hold()
        for _ in range(4):
            _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: edge\r\nContent-Length: 2\r\n\r\n{}")
            held = await edge.router.held.get()
            writer.close()
            await writer.wait_closed()
            if not held.left.is_set():
                held.answer.set_result(dict(GO))
            line = await edge.router.line(held.arguments["id"])
            assert line["tr"] == -1
            assert line["ts"][0] == "C" or line["srv"] == "<NOSRV>"
        await edge.idle()


async def never_answers(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    await reader.read()
    return False
